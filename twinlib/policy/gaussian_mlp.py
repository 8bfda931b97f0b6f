"""What autograd computes for a Gaussian policy on a CPU, by hand: the same numbers, several times faster.

Everything here works on numpy arrays of **one** replica. A layer's weight and bias lie side by side in theta,
so that they are one matrix [in + 1, out], and every layer's input ends in a column of ones. Matrix products
and tanh are numpy's; the loops that numpy would run in many passes are compiled. They may reorder sums, but
nan and infinity keep their meaning, as in autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]
Rows = NDArray[np.int64]
P = ParamSpec("P")
T = TypeVar("T")


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile loops that may sum in another order; nan and infinity keep their meaning."""
    return numba.njit(fastmath={"reassoc", "contract", "nsz"}, cache=True, error_model="numpy")(function)


#: states that go through a network together, so that what lies between its layers stays in the cache
BLOCK = 256


def array(x: Tensor, like: Array) -> Array:
    """x as an array of like's type, rows in order, in the tensor's own memory where that holds already."""
    return np.ascontiguousarray(x.numpy(), like.dtype)


def with_ones(x: Array) -> Array:
    """x [B, in] with a last column of ones [B, in + 1]."""
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], 1)


def matrices(vector: Array, widths: Sequence[int]) -> list[Array]:
    """A network's layers [in + 1, out] as views of its vector [P]; what follows them in it is left out."""
    layers, at = [], 0
    for i, o in zip(widths[:-1], widths[1:], strict=True):
        layers.append(vector[at : at + (i + 1) * o].reshape(i + 1, o))
        at += (i + 1) * o
    return layers


class Network:
    """A tanh network with room for a block of states; its parameters and their gradient, vectors [P]."""

    def __init__(self, vector: Array, gradient: Array, widths: Sequence[int]) -> None:
        self.weights, self.gradients = matrices(vector, widths), matrices(gradient, widths)
        hidden, dtype = widths[1:-1], vector.dtype
        self._hidden = [np.ones((BLOCK, width + 1), dtype) for width in hidden]
        self._deltas = [np.empty((BLOCK, width), dtype) for width in widths[1:]]
        self._output = np.empty((BLOCK, widths[-1]), dtype)
        self._rows: int | None = None

    def _fit(self, rows: int) -> None:
        """Take as many rows of the buffers as the minibatch has."""
        if rows != self._rows:
            self._rows, self.hidden = rows, [x[:rows] for x in self._hidden]
            self.deltas, self.output = [x[:rows] for x in self._deltas], self._output[:rows]

    def forward(self, x: Array) -> Array:
        """Output [B, out] of the states x [B, in + 1]; it is overwritten by the next call."""
        self._fit(len(x))
        self.inputs = [x, *self.hidden]
        for inputs, weight, z, h in zip(self.inputs, self.weights, self.deltas, self.hidden, strict=False):
            np.tanh(np.matmul(inputs, weight, out=z), out=h[:, :-1])
        return np.matmul(self.inputs[-1], self.weights[-1], out=self.output)

    def backward(self) -> None:
        """Fill the gradient from `deltas[-1]` [B, out], the loss's gradient in the output."""
        for k in reversed(range(len(self.weights))):
            delta = self.deltas[k]
            np.matmul(self.inputs[k].T, delta, out=self.gradients[k])
            if k:
                np.matmul(delta, self.weights[k][:-1].T, out=self.deltas[k - 1])
                through_tanh(self.deltas[k - 1], self.inputs[k])


@compiled
def through_tanh(delta: Array, hidden: Array) -> None:
    """Multiply delta [B, width] by tanh's slope 1 - hidden^2; hidden [B, width + 1] ends in ones."""
    one = delta.dtype.type(1)
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            delta[i, j] *= one - hidden[i, j] * hidden[i, j]


@compiled
def standardised(advantage: Array, rows: Rows) -> Array:
    """Advantages of the rows with mean 0 and standard deviation 1 (ddof 1); a single row stays as it is."""
    f = advantage.dtype.type
    chosen = advantage[rows]
    n = f(len(rows))
    if len(rows) < 2:
        return chosen
    mean, square = f(0), f(0)
    for x in chosen:
        mean += x / n
    for x in chosen:
        square += (x - mean) * (x - mean)
    spread = np.sqrt(square / (n - f(1))) + f(1e-8)
    for i in range(len(chosen)):
        chosen[i] = (chosen[i] - mean) / spread
    return chosen


@compiled
def clipped_gradient(
    mean: Array,
    log_std: Array,
    action: Array,
    log_prob: Array,
    rows: Rows,
    advantage: Array,
    clip: np.floating,
    delta: Array,
    to_log_std: Array,
) -> tuple[np.floating, np.floating, np.floating]:
    """Minus Eq. 7's gradient in mean (delta [B, A]) and log_std (to_log_std [A]).

    mean [B, A] and advantage [B] belong to the minibatch, action [n, A] and log_prob [n] to the buffer, of
    which it holds the rows [B]. Returns the objective, the share of ratios outside the clip, and the k3 KL.
    """
    f = mean.dtype.type
    n = f(len(rows))
    inverse = np.exp(-log_std)
    constant = log_std.sum() + f(0.5 * math.log(2 * math.pi) * len(log_std))
    objective, outside, k3 = f(0), f(0), f(0)
    to_log_std[:] = f(0)
    for i in range(len(rows)):
        square = f(0)
        for j in range(len(log_std)):
            z = (action[rows[i], j] - mean[i, j]) * inverse[j]
            delta[i, j] = z
            square += z * z
        log_ratio = f(-0.5) * square - constant - log_prob[rows[i]]
        ratio = np.exp(log_ratio)
        plain = ratio * advantage[i]
        bounded = f(1) - clip if ratio < f(1) - clip else (f(1) + clip if ratio > f(1) + clip else ratio)
        cut = bounded * advantage[i]
        # no branch: zero times infinity is nan, as in autograd
        weight = (f(0) if plain > cut else f(-1)) * plain / n
        objective += (cut if plain > cut else plain) / n
        outside += (f(1) if abs(ratio - f(1)) > clip else f(0)) / n
        k3 += (ratio - f(1) - log_ratio) / n
        for j in range(len(log_std)):
            z = delta[i, j]
            to_log_std[j] += weight * (z * z - f(1))
            delta[i, j] = weight * z * inverse[j]
    return objective, outside, k3


@compiled
def penalty_gradient(
    mean: Array,
    log_std: Array,
    old_mean: Array,
    old_log_std: Array,
    rows: Rows,
    beta: np.floating,
    delta: Array,
    to_log_std: Array,
) -> np.floating:
    """Add beta times the gradient of the minibatch's KL(theta' || theta) (Eq. 4); returns that KL."""
    f = mean.dtype.type
    precision = np.exp(f(-2) * log_std)
    shift, pull = f(0), beta / f(len(rows))
    for i in range(len(rows)):
        for j in range(len(log_std)):
            gap = mean[i, j] - old_mean[rows[i], j]
            scaled = gap * precision[j]
            shift += gap * scaled
            delta[i, j] += pull * scaled
            to_log_std[j] -= pull * gap * scaled
    kl = f(0.5) * shift / f(len(rows))
    for j in range(len(log_std)):
        spread = np.exp(f(2) * old_log_std[j]) * precision[j]
        kl += log_std[j] - old_log_std[j] + f(0.5) * spread - f(0.5)
        to_log_std[j] += beta * (f(1) - spread)
    return kl


@compiled
def squared_norm(x: Array) -> np.floating:
    """Sum of squares of x [P]."""
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    return total


@compiled
def adam(
    theta: Array,
    first: Array,
    second: Array,
    gradient: Array,
    scale: np.floating,
    weights: tuple[np.floating, np.floating],
    size: np.floating,
    eps: np.floating,
) -> None:
    """One step of Adam in place on [P]; scale multiplies the gradient, weights are 1 - betas."""
    for i in range(len(theta)):
        x = gradient[i] * scale
        first[i] += weights[0] * (x - first[i])
        second[i] += weights[1] * (x * x - second[i])
        theta[i] -= size * first[i] / (np.sqrt(second[i]) + eps)


@dataclass(frozen=True, eq=False)
class AdamRow:
    """One replica's row of `actor_critic.Adam`: the same numbers in the same memory."""

    #: parameters, running mean of the gradient and running mean of its square, each [P]
    theta: Array
    first: Array
    second: Array
    #: steps taken [1]
    steps: Array
    learning_rate: float
    eps: float
    betas: tuple[float, float]

    def step(self, gradient: Array, limit: float | None = None) -> None:
        """Move against the gradient [P], scaled down to a norm of at most `limit`."""
        self.steps[0] += 1
        (b1, b2), taken, f = self.betas, float(self.steps[0]), self.theta.dtype.type
        scale = f(1) if limit is None else f(limit) / (np.sqrt(squared_norm(gradient)) + f(1e-6))
        scale = f(1) if scale > 1 else scale  # nan stays nan
        correction = math.sqrt(1.0 - b2**taken)
        size = self.learning_rate * correction / (1.0 - b1**taken)
        weights = (f(1.0 - b1), f(1.0 - b2))
        adam(self.theta, self.first, self.second, gradient, scale, weights, f(size), f(self.eps * correction))


def perceptron(x: Tensor, vector: Tensor, widths: Sequence[int]) -> Tensor:
    """`actor_critic.perceptron` without a graph: x [R, B, in], vector [R, P] -> [R, B, out]."""
    outputs = x.new_empty(*x.shape[:2], widths[-1])
    for states, row, out in zip(x.numpy(), vector.numpy(), outputs.numpy(), strict=True):
        *hidden, last = matrices(row, widths)
        for at in range(0, len(states), BLOCK):
            h = states[at : at + BLOCK]
            for layer in hidden:
                z = h @ layer[:-1]
                z += layer[-1]
                h = np.tanh(z, out=z)
            np.add(h @ last[:-1], last[-1], out=out[at : at + BLOCK])
    return outputs


def mean_over_blocks(block: Callable[[slice], Array], rows: int, gradient: Array) -> Array:
    """Mean over `rows` states, taken a block at a time, of the terms that `block` returns.

    `block` gets a range of states and writes the gradient of its mean into `gradient` [P], where in the end
    that of the whole mean stands.
    """
    if rows <= BLOCK:
        return block(slice(0, rows))
    total, terms = np.zeros_like(gradient), np.zeros(())
    for at in range(0, rows, BLOCK):
        states = slice(at, min(at + BLOCK, rows))
        share = (states.stop - at) / rows
        terms = terms + share * block(states)
        total += gradient.dtype.type(share) * gradient
    gradient[:] = total
    return terms
