"""Distances between trajectories: dynamic time warping (Eq. 10-11), Eq. 12, true Wasserstein distances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinlib.checks import finite_arrays, require_number
from twinlib.evaluation.calibration import MIN_UNITS, Estimate, estimate

Array = NDArray[np.float64]

#: Pairs of series aligned in one pass: few enough that three diagonals of 200 steps stay in the cache.
_CHUNK = 128


def dtw_matrix(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the table D [T, S] of Eq. 10 with the absolute cost of Eq. 11, in the plainest form.

    `a` is [T], `b` is [S]; D[i, j] is the least cumulative cost of aligning a[:i+1] with b[:j+1].
    """
    a, b = finite_arrays(a=(a, "T"), b=(b, "S"))
    table = np.full((len(a) + 1, len(b) + 1), np.inf)
    table[0, 0] = 0.0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost = abs(a[i - 1] - b[j - 1])
            table[i, j] = cost + min(table[i - 1, j], table[i, j - 1], table[i - 1, j - 1])
    return table[1:, 1:]


def dtw(a: ArrayLike, b: ArrayLike) -> tuple[float, NDArray[np.int64]]:
    """Return the DTW distance of two series (Eq. 10-11) and their best alignment (Figures 4-6).

    `a` is [T], `b` is [S]. The path is [L, 2]: index pairs from (0, 0) to (T-1, S-1), each step moving one
    series or both by one; among equal costs the diagonal is taken. The distance is the sum of |a_i - b_j|
    along the path: no square root, no division by its length.

    >>> dtw([0, 0, 1, 3], [0, 1, 3, 3])[0]
    0.0
    """
    table = dtw_matrix(a, b)
    return float(table[-1, -1]), _backtrack(table)


def _backtrack(table: Array) -> NDArray[np.int64]:
    """Walk from the last corner of D [T, S] to the first along the cheapest predecessors."""
    i, j = table.shape[0] - 1, table.shape[1] - 1
    path = [(i, j)]
    while i or j:
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min((s for s in steps if min(s) >= 0), key=lambda s: table[s])
        path.append((i, j))
    return np.array(path[::-1], dtype=np.int64)


def dtw_distances(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the DTW distances (Eq. 10-11) of many pairs of series at once; leading axes broadcast.

    `a` is [..., T], `b` is [..., S]; the answer is [...]. Equal to `dtw(a, b)[0]` pair by pair: D is filled
    one anti-diagonal at a time, since the cells of an anti-diagonal do not depend on one another.
    """
    a, b = finite_arrays(a=(a, "... T"), b=(b, "... S"))
    lead = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    # Time first, so that every slice below is contiguous.
    first = np.broadcast_to(a, (*lead, a.shape[-1])).reshape(-1, a.shape[-1]).T
    second = np.broadcast_to(b, (*lead, b.shape[-1])).reshape(-1, b.shape[-1]).T[::-1]
    distances = np.empty(first.shape[1])
    for start in range(0, len(distances), _CHUNK):
        part = slice(start, start + _CHUNK)
        distances[part] = _sweep(np.ascontiguousarray(first[:, part]), np.ascontiguousarray(second[:, part]))
    return np.asarray(distances.reshape(lead))


def _sweep(a: Array, b_reversed: Array) -> Array:
    """Fill D of Eq. 10 by anti-diagonals: a [T, B], time-reversed b [S, B]; return its last corner [B]."""
    t, s = len(a), len(b_reversed)
    # Row i + 1 of a buffer holds D[i, d - i]; rows outside the table stay infinite.
    two_back, one_back, now = (np.full((t + 2, a.shape[1]), np.inf) for _ in range(3))
    two_back[0] = 0.0  # the empty alignment before (0, 0)
    for d in range(t + s - 1):
        low, high = max(0, d - s + 1), min(t - 1, d) + 1
        best = now[low + 1 : high + 1]
        np.minimum(one_back[low:high], one_back[low + 1 : high + 1], out=best)
        np.minimum(best, two_back[low:high], out=best)
        best += np.abs(a[low:high] - b_reversed[low + s - 1 - d : high + s - 1 - d])
        now[low] = now[high + 1] = np.inf  # left from three diagonals ago
        two_back, one_back, now = one_back, now, two_back
    return one_back[t]


def mean_absolute_difference(a: ArrayLike, b: ArrayLike) -> Array:
    """Return Eq. 12, called Wasserstein in the paper: the mean over time of |a_t - b_t|, [..., T] to [...].

    It compares the series point by point; it is never below their W1, and equals it when both are sorted
    alike.

    >>> float(mean_absolute_difference([0, 1, 2], [2, 1, 0]))
    1.3333333333333333
    """
    a, b = finite_arrays(a=(a, "... T"), b=(b, "... T"))
    return np.asarray(np.abs(a - b).mean(axis=-1))


def _one_dimensional(a: ArrayLike, b: ArrayLike, p: int) -> Array:
    """Return POT's p-th power of W_p for samples on the last axis; leading axes broadcast."""
    import ot  # takes seconds to import

    a, b = finite_arrays(a=(a, "... T"), b=(b, "... S"))
    lead = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    first, second = (np.broadcast_to(x, (*lead, x.shape[-1])).reshape(-1, x.shape[-1]).T for x in (a, b))
    return np.asarray(ot.wasserstein_1d(first.copy(), second.copy(), p=p)).reshape(lead)


def wasserstein_1(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the true Wasserstein-1 distance of two series' values, time forgotten; [..., T] gives [...].

    A trajectory and its reversal have distance 0. Computed by POT.
    """
    return _one_dimensional(a, b, 1)


def wasserstein_2(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the Wasserstein-2 distance of two series' values; [..., T] gives [...]. Computed by POT."""
    return np.sqrt(np.maximum(_one_dimensional(a, b, 2), 0.0))  # POT returns the square


def sliced_wasserstein(
    x: ArrayLike, y: ArrayLike, rng: np.random.Generator, n_projections: int = 128, p: int = 2
) -> float:
    """Return the sliced Wasserstein distance of two clouds of cells x [n, D] and y [m, D]. Computed by POT.

    The p-mean of one-dimensional W_p over `n_projections` random directions drawn from `rng` (Bonneel 2015).
    """
    import ot

    x, y = finite_arrays(x=(x, "n D"), y=(y, "m D"))
    require_number("n_projections", n_projections, 1, whole=True)
    directions = rng.normal(size=(x.shape[-1], n_projections))
    directions /= np.linalg.norm(directions, axis=0)
    return float(ot.sliced_wasserstein_distance(x, y, projections=directions, p=p))


@dataclass(frozen=True)
class SimilarityVerdict:
    """Whether a twin is nearer to the real trajectory than everything that knows less."""

    #: For each reference its distance minus the twin's: above 0 where the twin is nearer.
    margins: dict[str, Estimate]

    @property
    def fails_against(self) -> tuple[str, ...]:
        """References whose margin has an interval that is not above 0, or too few units for one."""
        shown = {name for name, m in self.margins.items() if m.low > 0 and m.units >= MIN_UNITS}
        return tuple(name for name in self.margins if name not in shown)

    @property
    def holds(self) -> bool:
        """Whether the twin is nearer than every reference."""
        return not self.fails_against

    def __str__(self) -> str:
        if self.holds:
            return "similar: nearer than " + ", ".join(self.margins)
        words = []
        for name in self.fails_against:
            margin = self.margins[name]
            nearer = "nearer" if margin.high < 0 else "cannot be told"
            words.append(f"{name} ({nearer if margin.units >= MIN_UNITS else 'too few units'})")
        return "not shown: fails against " + ", ".join(words)


def similarity_verdict(twin: ArrayLike, references: Mapping[str, ArrayLike]) -> SimilarityVerdict:
    """Judge a twin's distances from the real trajectories beside those of its references, all folds x units.

    Each is [F, U]: lower is nearer, entries of one place belong to one fold and unit, and differences are
    paired. The references of a verdict are the same twin with shuffled labels, the straight line and
    do-nothing; a twin is similar when it is nearer than each of them, not when it is near.
    """
    (own,) = finite_arrays(twin=(twin, "F U"))
    margins = {}
    for name, values in references.items():
        _, other = finite_arrays(twin=(own, "F U"), **{name: (values, "F U")})
        margins[name] = mean_over_folds(other - own)
    return SimilarityVerdict(margins)


def mean_over_folds(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Return the mean of scores or paired differences folds x units [F, U] with its interval.

    With under `MIN_UNITS` units the interval covers the folds alone (t, F - 1), and says nothing of further
    perturbations; the number of units stands beside it.
    """
    from scipy.stats import ttest_1samp

    (table,) = finite_arrays(values=(values, "F U"))
    mean = estimate(table, level)
    if table.shape[1] >= MIN_UNITS or len(table) < 2:
        return mean
    folds = table.mean(axis=1)
    if np.ptp(folds) == 0:
        return replace(mean, low=mean.mean, high=mean.mean, dof=len(folds) - 1.0)
    interval = ttest_1samp(folds, 0.0).confidence_interval(level)
    return replace(mean, low=float(interval.low), high=float(interval.high), dof=len(folds) - 1.0)
