"""The natural gradient step: Fisher-vector products, conjugate gradients, step length and line search (Eq.
4-6).

Everything works on the actors' parameters as one matrix [R, P]: row r belongs to replica r and never mixes
with another row, so that every stop and every guard is taken per replica.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twinlib.errors import InputError
from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.contracts import Distribution
from twinlib.policy.gaussian_mlp import (
    Array,
    Network,
    array,
    clipped_gradient,
    mean_over_blocks,
    with_ones,
)
from twinlib.policy.rollout import Buffer


@dataclass(frozen=True)
class TrustRegionConfig:
    """Settings of one TRPO update; the defaults are those of sb3-contrib, except for Eq. 4's KL."""

    #: largest mean KL of one update (delta of Eq. 6)
    delta: float = 0.01
    #: damping added to the Fisher matrix (lambda_damp of Eq. 5)
    damping: float = 0.1
    #: most conjugate gradient iterations
    cg_iterations: int = 15
    #: conjugate gradients stop when the squared residual falls below this
    cg_tolerance: float = 1e-10
    #: epsilon of Eq. 6
    epsilon: float = 1e-8
    #: how the Fisher-vector product is computed: "analytic", "jvp", "double_backward" (Eq. 5 as printed), or
    #: "auto": the first where derivatives are written out (`ActorCritic.by_hand`), else the second
    product: str = "auto"
    #: "sum" over action dimensions is Eq. 4; "mean_over_actions" is what sb3-contrib computes
    kl_reduction: str = "sum"
    #: "old_new" is Eq. 4; "new_old" is what sb3-contrib computes
    kl_direction: str = "old_new"
    #: most halvings of the line search
    line_search_steps: int = 10
    #: factor between two tries of the line search
    shrink: float = 0.8

    def __post_init__(self) -> None:
        _one_of("product", self.product, ("auto", *PRODUCTS))
        _one_of("kl_reduction", self.kl_reduction, ("sum", "mean_over_actions"))
        _one_of("kl_direction", self.kl_direction, ("old_new", "new_old"))
        if self.delta <= 0 or self.damping < 0:
            raise InputError("TrustRegionConfig: delta must be positive and damping at least 0; change them.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"TrustRegionConfig: {name} is {value!r}; use one of {', '.join(allowed)}.")


def mean_kl(old: Distribution, new: Distribution, config: TrustRegionConfig | None = None) -> Tensor:
    """Mean KL over states [R] (Eq. 4), or with a config in the direction and reduction it names."""
    if config is None:
        return old.kl(new).mean(-1)
    kl = old.kl(new) if config.kl_direction == "old_new" else new.kl(old)
    return kl.mean(-1) / (old.events if config.kl_reduction == "mean_over_actions" else 1)


def surrogate(policy: Distribution, buffer: Buffer, advantage: Tensor) -> Tensor:
    """The surrogate objective [R]: mean of ratio times advantage (Eq. 1-2)."""
    ratio = torch.exp(policy.log_prob(buffer.action) - buffer.log_prob)
    return (ratio * advantage).mean(-1)


Product = Callable[[Tensor], Tensor]


def fisher_vector_product(
    policy: ActorCritic, obs: Tensor, damping: float = 0.0, product: str = "auto", scale: float = 1.0
) -> Product:
    """Return v -> H v + damping v, H the Hessian of the mean KL at the present parameters (Eq. 5).

    obs [R, B, O]; the returned function maps [R, P_actor] to [R, P_actor]. `product="double_backward"` is Eq.
    5 as printed: the gradient of (gradient of the KL, times v). `product="jvp"` uses that the Hessian at zero
    KL is J' M J, J the Jacobian of the policy's mean and log_std and M their own Fisher matrix (Martens
    2020): one forward sweep of tangents, one backward sweep. `product="analytic"` is the same for a Gaussian
    policy, multiplied out by hand. `scale` multiplies H (1 / A for a KL averaged over actions).
    """
    name = ("analytic" if policy.by_hand else "jvp") if product == "auto" else product
    _one_of("product", name, tuple(PRODUCTS))
    curvature = PRODUCTS[name](policy, obs)
    return lambda v: torch.add(curvature(v) * scale, v, alpha=damping)


def _by_double_backward(policy: ActorCritic, obs: Tensor) -> Product:
    actor = policy.actor.detach().requires_grad_()
    new = policy.distribution(obs, actor)
    kl = mean_kl(new.detach(), new).sum()
    (gradient,) = torch.autograd.grad(kl, actor, create_graph=True)

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad((gradient * v).sum(), actor, retain_graph=True)[0]

    return product


def _by_tangents(policy: ActorCritic, obs: Tensor) -> Product:
    actor = policy.actor.detach().requires_grad_()
    outputs = policy.distribution(obs, actor)
    here = outputs.detach()

    def product(v: Tensor) -> Tensor:
        moved = torch.func.jvp(lambda a: policy.distribution(obs, a), (actor.detach(),), (v,))
        cotangent = here.fisher(moved[1])
        return torch.autograd.grad(tuple(outputs), actor, tuple(cotangent), retain_graph=True)[0]

    return product


def _by_structure(policy: ActorCritic, obs: Tensor) -> Product:
    if policy.discrete:
        raise InputError("product='analytic' is for Gaussian policies; use 'jvp' with discrete actions.")
    rows = zip(policy.actor.detach(), obs, strict=True)
    replicas = [_gauss_newton(vector, policy.actor_widths, states) for vector, states in rows]
    return lambda v: torch.stack([product(x) for product, x in zip(replicas, v, strict=True)])


def _gauss_newton(vector: Tensor, widths: Sequence[int], states: Tensor) -> Product:
    """v -> J' M J v of one replica (vectors [P_actor], states [B, O]), without a row of actions a state.

    The last layer is linear and M is the same in every state. So the tangent of the mean, T W + H V (T that
    of the last hidden layer H, V that of the last layer's weights W), need not be formed: its way back is T W
    M W' + H V M W' for the hidden layers and H'T W M + H'H V M for the last one, with W M W' and H'H known.
    """
    weights, log_std = _layers(vector, widths)
    inputs = [_with_ones(states)]
    for weight in weights[:-1]:
        inputs.append(_with_ones(torch.tanh(inputs[-1] @ weight)))
    slopes = [1.0 - h[:, :-1].square() for h in inputs[1:]]
    precision, h = torch.exp(-2.0 * log_std) / len(states), inputs[-1]
    last = weights[-1][:-1]
    back = (last * precision).T
    inner, gram = last @ back, h.T @ h

    def product(v: Tensor) -> Tensor:
        moved, moved_log_std = _layers(v, widths)
        tangent = torch.zeros_like(states)  # of the first layer's input; the states stand still
        for k, slope in enumerate(slopes):
            z = inputs[k] @ moved[k]
            tangent = (z.addmm_(tangent, weights[k][:-1]) if k else z).mul_(slope)
        hidden = h.T @ tangent
        gradients = [torch.addmm(gram @ (moved[-1] * precision), hidden, back.T)]
        delta = torch.addmm(h @ (moved[-1] @ back), tangent, inner)
        for k in reversed(range(len(slopes))):
            delta.mul_(slopes[k])
            gradients.insert(0, inputs[k].T @ delta)
            delta = delta @ weights[k][:-1].T if k else delta
        return torch.cat([*(g.reshape(-1) for g in gradients), 2.0 * moved_log_std])

    return product


def _layers(vector: Tensor, widths: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """The layers' matrices [in + 1, out] (weight, then bias) inside a vector [P], and what follows them."""
    shapes = [(i + 1, o) for i, o in zip(widths[:-1], widths[1:], strict=True)]
    sizes = [i * o for i, o in shapes]
    *layers, rest = torch.split(vector, [*sizes, len(vector) - sum(sizes)])
    return [layer.view(shape) for layer, shape in zip(layers, shapes, strict=True)], rest


def _with_ones(x: Tensor) -> Tensor:
    """x [B, in] with a last column of ones [B, in + 1]."""
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


#: Every way to a product by its name.
PRODUCTS = {"analytic": _by_structure, "jvp": _by_tangents, "double_backward": _by_double_backward}


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row: [R, P], [R, P] -> [R, 1]."""
    return (a * b).sum(-1, keepdim=True)


def conjugate_gradient(
    product: Product,
    target: Tensor,
    iterations: int = 10,
    tolerance: float = 1e-10,
    start: Tensor | None = None,
) -> Tensor:
    """Solve H d = target (Eq. 5) for every replica, never forming H (Hestenes & Stiefel 1952).

    `product` maps [R, P] to [R, P], target [R, P] -> d [R, P]. A replica stops when its squared residual is
    below `tolerance`, or when a direction shows no positive curvature (H is positive definite on paper;
    rounding may say otherwise), and keeps its d while the others go on.

    >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> conjugate_gradient(lambda v: v @ matrix, torch.tensor([[5.0, 4.0]]))
    tensor([[1.0000, 1.0000]])
    """
    d = torch.zeros_like(target) if start is None else start.clone()
    residual = target - product(d) if start is not None else target.clone()
    direction, square = residual.clone(), _dot(residual, residual)
    active = square > tolerance
    for _ in range(iterations):
        if not bool(active.any()):
            break
        image = product(direction)
        curvature = _dot(direction, image)
        active = active & (curvature > 0)
        step = torch.where(active, square / curvature, 0.0)
        d = d + step * direction
        residual = residual - step * image
        fresh = _dot(residual, residual)
        direction = torch.where(active, residual + fresh / square * direction, direction)
        square = torch.where(active, fresh, square)
        active = active & (square > tolerance)
    return d


def step_length(gradient: Tensor, direction: Tensor, delta: float | Tensor, epsilon: float = 1e-8) -> Tensor:
    """alpha = sqrt(2 delta / (g'd + epsilon)) of each replica [R] (Eq. 6); 0 where d does not go uphill.

    delta is one number, or one a replica [R].

    >>> g = torch.tensor([[3.0, 4.0]])
    >>> step_length(g, g, delta=0.5)
    tensor([0.2000])
    """
    ascent = _dot(gradient, direction).squeeze(-1)
    alpha = torch.sqrt(2.0 * delta / (ascent.clamp(min=0.0) + epsilon))
    return torch.where(ascent > 0, alpha, torch.zeros_like(alpha))


class LineSearch(NamedTuple):
    """Outcome of a line search, one entry a replica [R]."""

    #: False where no try was accepted; those parameters are the old ones
    accepted: Tensor
    #: mean KL of the accepted step, 0 where none was
    kl: Tensor
    #: surrogate after the step minus before
    improvement: Tensor
    #: factor of the full step that was taken, 0 where none was
    fraction: Tensor


def backtracking_line_search(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    step: Tensor,
    delta: float | Tensor,
    shrink: float = 0.8,
    tries: int = 10,
) -> tuple[Tensor, LineSearch]:
    """Shorten each replica's step (Eq. 6) until its surrogate rises and its KL is at most delta.

    Source: Schulman 2015, Appendix C.

    `evaluate` maps parameters [R, P] to (surrogate [R], KL [R]); start, step [R, P]; delta one, or [R].
    Returns the parameters [R, P], where a replica without an acceptable try stands exactly at `start`, and
    the outcome.
    """
    before, _ = evaluate(start)
    result, zero = start.clone(), torch.zeros_like(before)
    outcome = LineSearch(zero.bool(), zero, zero, zero)
    for k in range(tries):
        fraction = shrink**k
        trial = start + fraction * step
        value, kl = evaluate(trial)
        # `<= delta` and `> before` are both False for nan: a step that breaks the policy is never taken.
        good = (kl <= delta) & (value > before) & ~outcome.accepted
        result = torch.where(good.unsqueeze(-1), trial, result)
        outcome = LineSearch(
            outcome.accepted | good,
            torch.where(good, kl, outcome.kl),
            torch.where(good, value - before, outcome.improvement),
            torch.where(good, fraction, outcome.fraction),
        )
        if bool(outcome.accepted.all()):
            break
    return result, outcome


def normalized(advantage: Tensor) -> Tensor:
    """Advantages [R, B] with mean 0 and standard deviation 1 (ddof 1) in each replica; a single row stays."""
    if advantage.shape[-1] < 2:
        return advantage
    centred = advantage - advantage.mean(-1, keepdim=True)
    return centred / (advantage.std(-1, keepdim=True) + 1e-8)


def policy_gradient(policy: ActorCritic, buffer: Buffer, advantage: Tensor) -> Tensor:
    """Gradient [R, P_actor] of the surrogate at the present parameters (Eq. 3)."""
    if policy.by_hand:
        columns = (buffer.obs, buffer.action, buffer.log_prob, advantage)
        replicas = zip(policy.actor.numpy(), *columns, strict=True)
        return torch.stack([_gradient_by_hand(policy, *replica) for replica in replicas])
    actor = policy.actor.detach().requires_grad_()
    objective = surrogate(policy.distribution(buffer.obs, actor), buffer, advantage).sum()
    return torch.autograd.grad(objective, actor)[0]


def _gradient_by_hand(policy: ActorCritic, vector: Array, *columns: Tensor) -> Tensor:
    """One replica's policy gradient at its vector [P_actor]; columns: obs, action, log_prob, advantage."""
    obs, action, log_prob, advantage = (array(x, vector) for x in columns)
    states, rows, loss = with_ones(obs), np.arange(len(obs)), np.zeros_like(vector)
    network, spread = Network(vector, loss, policy.actor_widths), slice(len(vector) - policy.action_dim, None)
    free = vector.dtype.type(np.inf)

    def block(at: slice) -> Array:
        mean, data = network.forward(states[at]), (action, log_prob, rows[at], advantage[at])
        slopes = network.deltas[-1], loss[spread]
        terms = np.array(clipped_gradient(mean, vector[spread], *data, free, *slopes))
        network.backward()
        return terms

    mean_over_blocks(block, len(rows), loss)
    return torch.from_numpy(-loss)


def natural_gradient(
    policy: ActorCritic,
    buffer: Buffer,
    gradient: Tensor,
    config: TrustRegionConfig,
    start: Tensor | None = None,
) -> Tensor:
    """Direction d [R, P_actor] with (H + damping) d = gradient, up to the tolerance of the solver."""
    scale = 1.0 / buffer.behaviour.events if config.kl_reduction == "mean_over_actions" else 1.0
    product = fisher_vector_product(policy, buffer.obs, config.damping, config.product, scale)
    return conjugate_gradient(product, gradient, config.cg_iterations, config.cg_tolerance, start)


class TrustRegionUpdate(NamedTuple):
    """What one TRPO update did, one entry a replica [R]."""

    search: LineSearch
    #: Eq. 4's KL of the step, whatever KL bounded it
    kl: Tensor
    #: norm of the policy gradient
    gradient_norm: Tensor


class _Local:
    """Surrogate, KL and gradient of every actor around its present parameters, on one buffer."""

    def __init__(self, policy: ActorCritic, buffer: Buffer, config: TrustRegionConfig) -> None:
        self.policy, self.buffer, self.config = policy, buffer, config
        self.advantage = normalized(buffer.advantage)
        self.old = policy.distribution(buffer.obs).detach()
        self.gradient = policy_gradient(policy, buffer, self.advantage)

    @torch.no_grad()
    def evaluate(self, actor: Tensor) -> tuple[Tensor, Tensor]:
        """Surrogate [R] and the config's KL [R] at the parameters [R, P_actor]."""
        new = self.policy.distribution(self.buffer.obs, actor)
        return surrogate(new, self.buffer, self.advantage), mean_kl(self.old, new, self.config)

    def search(self, step: Tensor, delta: float | Tensor) -> tuple[Tensor, LineSearch]:
        """Parameters [R, P_actor] after the longest acceptable part of the step, and the outcome."""
        tries = (self.config.shrink, self.config.line_search_steps)
        return backtracking_line_search(self.evaluate, self.policy.actor, step, delta, *tries)

    def natural(self, delta: float | Tensor, cg_start: Tensor | None = None) -> tuple[Tensor, LineSearch]:
        """`search` along the natural gradient (Eq. 5-6)."""
        direction = natural_gradient(self.policy, self.buffer, self.gradient, self.config, cg_start)
        alpha = step_length(self.gradient, direction, delta, self.config.epsilon)
        return self.search(alpha.unsqueeze(-1) * direction, delta)

    def taken(self, actor: Tensor, search: LineSearch) -> TrustRegionUpdate:
        """Write the actors' part of `policy.theta`."""
        self.policy.actor.copy_(actor)
        with torch.no_grad():
            kl = mean_kl(self.old, self.policy.distribution(self.buffer.obs))
        return TrustRegionUpdate(search, kl, torch.linalg.vector_norm(self.gradient, dim=-1))


def trust_region_update(
    policy: ActorCritic,
    buffer: Buffer,
    config: TrustRegionConfig = TrustRegionConfig(),
    cg_start: Tensor | None = None,
    delta: Tensor | None = None,
) -> TrustRegionUpdate:
    """One TRPO update of every actor: Eq. 3, Eq. 5, Eq. 6, line search; writes the actors' part of
    `policy.theta`.

    `cg_start` [R, P_actor] is where conjugate gradients begin (default 0); delta [R] is the config's if not
    given.
    """
    local = _Local(policy, buffer, config)
    return local.taken(*local.natural(config.delta if delta is None else delta, cg_start))


def plain_gradient_update(
    policy: ActorCritic,
    buffer: Buffer,
    config: TrustRegionConfig = TrustRegionConfig(),
    delta: Tensor | None = None,
) -> TrustRegionUpdate:
    """One step of every actor along the plain gradient (Eq. 3), as far in KL as the natural step on its data.

    What tells the two directions apart is then the direction alone. Where the natural step is refused, or no
    part of the plain one raises the surrogate, the actor stays.
    """
    local = _Local(policy, buffer, config)
    kl = local.natural(config.delta if delta is None else delta)[1].kl
    curvature = fisher_vector_product(policy, buffer.obs)(local.gradient)
    model = torch.sqrt(2.0 * kl / (_dot(local.gradient, curvature).squeeze(-1) + config.epsilon))
    length = _length_of_kl(local, kl, upper=16.0 * model)
    return local.taken(*local.search(length.unsqueeze(-1) * local.gradient, kl))


def _length_of_kl(local: _Local, kl: Tensor, upper: Tensor, halvings: int = 40) -> Tensor:
    """The greatest length [R] up to `upper` at which a step along the gradient stays within kl [R]."""
    lower = torch.zeros_like(upper)
    for _ in range(halvings):
        middle = 0.5 * (lower + upper)
        inside = local.evaluate(local.policy.actor + middle.unsqueeze(-1) * local.gradient)[1] <= kl
        lower, upper = torch.where(inside, middle, lower), torch.where(inside, upper, middle)
    return lower
