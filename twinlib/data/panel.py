"""Which genes enter the panel, and how much of the response to the perturbations they keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from twinlib.errors import DataError

Array = NDArray[np.float64]
#: Cells [n, G], dense or CSR; scipy ships no types.
Matrix: TypeAlias = Any

#: A gene is a candidate if at least this share of the training cells detect it.
DETECTED = 0.01
#: Permutations of the labels over which the share of noise is averaged.
DRAWS = 10


def mean_and_variance(x: Matrix) -> tuple[Array, Array]:
    """Return the mean and the variance of each gene [G] over cells [n, G]."""
    mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()
    squares = x.multiply(x) if sparse.issparse(x) else np.square(np.asarray(x, dtype=np.float64))
    second = np.asarray(squares.mean(axis=0), dtype=np.float64).ravel()
    return mean, np.maximum(second - mean**2, 0.0)


def variance_within(x: Matrix, groups: Sequence[object]) -> Array:
    """Return the variance of each gene [G] within groups of cells (context and batch), pooled over cells.

    Perturbed and control cells stand in one group, so that a response counts and a cell type does not.
    """
    names = np.asarray([str(name) for name in groups])
    pooled = np.zeros(x.shape[1])
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        pooled += len(rows) * mean_and_variance(x[rows])[1]
    return pooled / len(names)


def detected_share(x: Matrix) -> Array:
    """Return the share of cells [n, G] in which each gene [G] is not zero."""
    if sparse.issparse(x):
        return np.asarray((x != 0).mean(axis=0), dtype=np.float64).ravel()
    return np.asarray(np.count_nonzero(x, axis=0) / len(x))


def top_genes(
    x: Matrix, groups: Sequence[object], n_top: int, detected: float = DETECTED
) -> NDArray[np.intp]:
    """Return the columns of the genes that vary most within groups, at most `n_top`, sorted.

    x [n, G] are training cells in log1p units; genes that fewer than a share `detected` of them show are no
    candidates, so that a file with few detected genes gives a smaller panel. Raises DataError where none is.
    """
    score = np.where(detected_share(x) >= detected, variance_within(x, groups), 0.0)
    order = np.argsort(-score, kind="stable")[:n_top]
    chosen = np.sort(order[score[order] > 0])
    if not len(chosen):
        raise DataError(
            f"No gene is detected in {detected:.0%} of the training cells and varies: look at the matrix."
        )
    return chosen


@dataclass(frozen=True)
class KeptResponse:
    """How much of the squared change of all measured genes a panel keeps, mean over perturbations."""

    #: Share under the true labels.
    share: float
    #: The same share under labels permuted within groups, mean over `DRAWS`: what a panel keeps of noise.
    permuted: float


def kept_response(
    x: Matrix,
    labels: Sequence[str],
    groups: Sequence[object],
    panel: NDArray[np.intp],
    control: str,
    over: Sequence[str],
    rng: np.random.Generator,
) -> KeptResponse:
    """Return the share of the squared training change of all genes that the panel keeps.

    x [n, G] are training cells in log1p units with labels [n] and groups [n] (context and batch); `panel` are
    columns, `over` the perturbations that are averaged (those with an effect).
    """
    names, strata = np.asarray(labels).astype(str), np.asarray([str(name) for name in groups])
    share = _mean_share(x, names, strata, panel, control, over)
    shuffled = (_shuffled(names, strata, rng) for _ in range(DRAWS))
    noise = [_mean_share(x, labels, strata, panel, control, over) for labels in shuffled]
    return KeptResponse(share, float(np.mean(noise)))


def _shuffled(
    labels: NDArray[np.str_], groups: NDArray[np.str_], rng: np.random.Generator
) -> NDArray[np.str_]:
    """Return labels [n] permuted within groups [n]."""
    shuffled = labels.copy()
    for name in np.unique(groups):
        rows = np.flatnonzero(groups == name)
        shuffled[rows] = labels[rng.permutation(rows)]
    return shuffled


def _mean_share(
    x: Matrix,
    labels: NDArray[np.str_],
    groups: NDArray[np.str_],
    panel: NDArray[np.intp],
    control: str,
    over: Sequence[str],
) -> float:
    shares = []
    for label in over:
        change = within_group_change(
            lambda rows: mean_and_variance(x[rows])[0], labels == label, labels == control, groups, least=1
        )
        if change is not None and (change**2).sum() > 0:
            shares.append((change[panel] ** 2).sum() / (change**2).sum())
    return float(np.mean(shares)) if shares else float("nan")


def within_group_change(
    mean_of: Callable[[NDArray[np.intp]], Array],
    perturbed: NDArray[np.bool_],
    controls: NDArray[np.bool_],
    groups: NDArray[np.str_],
    least: int,
) -> Array | None:
    """Return mean(perturbed) - mean(controls) within groups, weighted by their perturbed cells [G].

    `mean_of` gives the mean profile of rows. Groups with under `least` cells in an arm leave both sides; None
    where none is left.
    """
    total, weight = None, 0
    for name in np.unique(groups[perturbed]):
        here, there = (
            np.flatnonzero(perturbed & (groups == name)),
            np.flatnonzero(controls & (groups == name)),
        )
        if min(len(here), len(there)) < least:
            continue
        part = len(here) * (mean_of(here) - mean_of(there))
        total, weight = part if total is None else total + part, weight + len(here)
    return None if total is None else total / weight
