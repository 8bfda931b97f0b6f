"""GATv2's scores, its weighted sum and the backward pass of both as fused loops, compiled by numba.

The loops read and write arrays with the cells innermost, so that every inner loop becomes vector
instructions: source and target [G, h, c, n] (genes, heads, channels, cells), score [h, c], neighbours
[G, k + 1], scores and weights [G, k + 1, h, n]. They keep nothing of size [G, k + 1, h, c, n], which would
not fit the processor's cache, run on the calling thread alone, and let other threads run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numba
import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]
Loops = Callable[..., None]
#: Sums may be reordered and a product fused into its sum; NaN and infinity stay what they are.
FASTMATH = {"contract", "reassoc"}


def compiled(loops: Loops) -> Loops:
    """Return loops as machine code, made at the first call and kept on disk where a folder is writable."""
    try:
        fast: Loops = numba.njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")(loops)
    except RuntimeError:  # no folder to keep it in, neither beside this file nor in the user's own
        fast = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(loops)
    return fast


@compiled
def _add_scores(
    source: Floats, target: Floats, score: Floats, neighbours: Indices, slope: float, scores: Floats
) -> None:
    n_genes, heads, channels, n = source.shape
    small = source.dtype.type(slope)  # a Python float would make every product one of float64
    for i in range(n_genes):
        for k, j in enumerate(neighbours[i]):
            for h in range(heads):
                total = scores[i, k, h]
                for c in range(channels):
                    a, s, t = score[h, c], source[j, h, c], target[i, h, c]
                    for e in range(n):
                        x = s[e] + t[e]
                        total[e] += a * (x if x > 0 else small * x)


@compiled
def _add_weighted(source: Floats, weights: Floats, neighbours: Indices, out: Floats) -> None:
    n_genes, heads, channels, n = source.shape
    for i in range(n_genes):
        for k, j in enumerate(neighbours[i]):
            for h in range(heads):
                w = weights[i, k, h]
                for c in range(channels):
                    s, o = source[j, h, c], out[i, h, c]
                    for e in range(n):
                        o[e] += w[e] * s[e]


@compiled
def _add_by_weight(source: Floats, out: Floats, neighbours: Indices, by_weight: Floats) -> None:
    n_genes, heads, channels, n = source.shape
    for i in range(n_genes):
        for k, j in enumerate(neighbours[i]):
            for h in range(heads):
                total = by_weight[i, k, h]
                for c in range(channels):
                    s, o = source[j, h, c], out[i, h, c]
                    for e in range(n):
                        total[e] += s[e] * o[e]


@compiled
def _add_gradients(
    source: Floats,
    target: Floats,
    score: Floats,
    neighbours: Indices,
    slope: float,
    weights: Floats,
    by_score: Floats,
    out: Floats,
    to_source: Floats,
    to_target: Floats,
    to_score: Floats,
) -> None:
    n_genes, heads, channels, n = source.shape
    small = source.dtype.type(slope)
    for i in range(n_genes):
        for k, j in enumerate(neighbours[i]):
            for h in range(heads):
                w, b = weights[i, k, h], by_score[i, k, h]
                for c in range(channels):
                    a, s, t, o = score[h, c], source[j, h, c], target[i, h, c], out[i, h, c]
                    by_source, by_target, total = to_source[j, h, c], to_target[i, h, c], to_score[h, c]
                    for e in range(n):
                        x = s[e] + t[e]
                        leak = b[e] if x > 0 else small * b[e]
                        total += x * leak
                        by_target[e] += a * leak
                        by_source[e] += a * leak + w[e] * o[e]
                    to_score[h, c] = total


def scores(source: Tensor, target: Tensor, score: Tensor, neighbours: Tensor, slope: float) -> Tensor:
    """Return score . LeakyReLU(source of a neighbour + target) as [G, k + 1, h, n]."""
    total = source.new_zeros(*neighbours.shape, len(score), source.shape[-1])
    _add_scores(*_arrays(source, target, score, neighbours), slope, total.numpy())
    return total


def weighted_sum(source: Tensor, weights: Tensor, neighbours: Tensor) -> Tensor:
    """Return the sum over k of weights times the neighbours' source as [G, h, c, n]."""
    out = source.new_zeros(source.shape)
    _add_weighted(*_arrays(source, weights, neighbours, out))
    return out


def gradients(
    source: Tensor,
    target: Tensor,
    score: Tensor,
    neighbours: Tensor,
    slope: float,
    weights: Tensor,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by source, target and score, given the one by the output, out [G, h, c, n]."""
    by_weight = weights.new_zeros(weights.shape)
    _add_by_weight(*_arrays(source, out, neighbours, by_weight))
    by_score = weights * (by_weight - (weights * by_weight).sum(1, keepdim=True))
    to_source, to_target, to_score = (x.new_zeros(x.shape) for x in (source, target, score))
    inputs, rest = _arrays(source, target, score, neighbours), _arrays(weights, by_score, out)
    _add_gradients(*inputs, slope, *rest, *_arrays(to_source, to_target, to_score))
    return to_source, to_target, to_score


def _arrays(*tensors: Tensor) -> Iterator[npt.NDArray]:
    return (tensor.detach().contiguous().numpy() for tensor in tensors)
