"""What a score is worth: observed change, ceiling of a perfect predictor, intervals over folds and units.

A unit is a perturbation, or a perturbation in a context where contexts are held out. Scores stand in a matrix
folds x units [F, U]; a leave-one-out split has one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinlib.evaluation.metrics import pearson

Array = NDArray[np.float64]

#: Contexts with fewer cells than this in an arm leave both sides of a change.
MIN_CELLS = 5
#: Each half of a halving holds at least this many cells of each arm.
MIN_HALF = 4
#: Below this number of units an interval says nothing.
MIN_UNITS = 6
#: Power of the smallest difference that is named: 2.8 standard errors are seen in 80 of 100 repetitions.
POWER_FACTOR = 2.8
#: Below this value a ceiling is biased upward.
BIASED_BELOW = 0.25


@dataclass(frozen=True, eq=False)
class Arms:
    """Perturbed cells and controls of one perturbation, context by context.

    Contexts with under `MIN_CELLS` cells in an arm are left out and counted.
    """

    #: Perturbed cells of each context that counts, [n, G] each.
    perturbed: tuple[Array, ...]
    #: Controls of the same contexts, [m, G] each.
    controls: tuple[Array, ...]
    #: Names of the contexts that count.
    contexts: tuple[str, ...]
    #: Names of the contexts that were too small.
    dropped: tuple[str, ...]

    @property
    def weights(self) -> Array:
        """Share of the perturbed cells in each context."""
        sizes = np.array([len(cells) for cells in self.perturbed], dtype=np.float64)
        return sizes / sizes.sum()


def arms(
    x: ArrayLike, perturbed: NDArray[np.bool_], controls: NDArray[np.bool_], contexts: ArrayLike
) -> Arms | None:
    """Sort cells x [n, G] into the two arms of each context; None where no context is large enough."""
    cells, names = np.asarray(x, dtype=np.float64), np.asarray(contexts).astype(str)
    pairs = {
        str(c): (cells[perturbed & (names == c)], cells[controls & (names == c)])
        for c in np.unique(names[perturbed])
    }
    kept = tuple(c for c, pair in pairs.items() if min(map(len, pair)) >= MIN_CELLS)
    if not kept:
        return None
    dropped = tuple(c for c in pairs if c not in kept)
    return Arms(tuple(pairs[c][0] for c in kept), tuple(pairs[c][1] for c in kept), kept, dropped)


def changes(cells: Arms) -> Array:
    """Return mean(perturbed) - mean(controls) of each context [C, G]."""
    pairs = zip(cells.perturbed, cells.controls, strict=True)
    return np.stack([a.mean(0) - b.mean(0) for a, b in pairs])


def observed_change(cells: Arms) -> Array:
    """Return mean(perturbed) - mean(controls) within contexts [G], contexts weighted by perturbed cells."""
    return np.asarray(cells.weights @ changes(cells))


def half_correlation(cells: Arms, rng: np.random.Generator, halvings: int = 50) -> float:
    """Return the correlation of the changes of two halves that share no cell, mean over halvings.

    NaN where no context is large enough for `halves`.
    """
    pairs = [halves(cells, rng) for _ in range(halvings)]
    return float(np.mean([np.nan if p is None else pearson(*map(observed_change, p)) for p in pairs]))


def halves(
    cells: Arms, rng: np.random.Generator, order: Mapping[str, NDArray[np.int64]] | None = None
) -> tuple[Arms, Arms] | None:
    """Return two halves of both arms that share no cell; an odd cell goes to the second.

    Contexts in which a half would hold under `MIN_HALF` cells of an arm leave; None where none is left.
    `order` holds an order of the controls of each context: with one order the perturbations of a table
    share their halves of controls, as they share their controls.
    """
    groups = zip(cells.contexts, cells.perturbed, cells.controls, strict=True)
    large = [group for group in groups if min(len(group[1]), len(group[2])) >= 2 * MIN_HALF]
    if not large:
        return None
    names = tuple(name for name, _, _ in large)
    perturbed = [_halved(a, rng.permutation(len(a))) for _, a, _ in large]
    controls = [_halved(b, rng.permutation(len(b)) if order is None else order[c]) for c, _, b in large]
    sides = zip(zip(*perturbed, strict=True), zip(*controls, strict=True), strict=True)
    first, second = (Arms(a, b, names, ()) for a, b in sides)
    return first, second


def _halved(cells: Array, order: NDArray[np.int64]) -> tuple[Array, Array]:
    return cells[order[: len(cells) // 2]], cells[order[len(cells) // 2 :]]


@dataclass(frozen=True)
class Ceiling:
    """What a perfect, noise-free predictor would score on one unit."""

    #: sqrt(max(2 r / (1 + r), 0)).
    value: float
    #: Correlation of two halves, averaged over halvings and folds.
    replicate: float
    #: 2 r / (1 + r): a second experiment of full depth.
    duplicate: float
    #: Lower end of the interval of r over folds; NaN with one fold, which has no interval.
    low: float

    @property
    def resolvable(self) -> bool | None:
        """Whether the interval of r over folds leaves out 0; None without an interval."""
        return None if np.isnan(self.low) else self.low > 0

    @property
    def biased(self) -> bool:
        """Whether the value is so low that it is biased upward."""
        return self.value < BIASED_BELOW


def ceiling(correlations: ArrayLike, level: float = 0.95) -> Ceiling:
    """Return the ceiling of a unit from its half correlations, one a fold [F]; NaN folds are left out.

    >>> ceiling([0.5, 0.5, 0.5]).value.__round__(3)
    0.816
    """
    from scipy.stats import t

    values = np.asarray(correlations, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Ceiling(*[float("nan")] * 4)
    r = float(values.mean())
    duplicate = 2.0 * r / (1.0 + r)
    value = float(np.sqrt(max(duplicate, 0.0)))
    if len(values) < 2:
        return Ceiling(value, r, duplicate, float("nan"))
    half = t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return Ceiling(value, r, duplicate, float(r - half))


def reliability(half: float, share: float, fold: float = 1.0) -> float:
    """Return S / (S + N / m): how two experiments with m = `fold` times the cells would correlate.

    `half` > 0 is the correlation of two halves that each hold a `share` of the cells, so that their noise is
    N / share.

    >>> reliability(0.5, 0.5, 1), reliability(0.5, 0.5, 3)
    (0.6666666666666666, 0.8571428571428571)
    """
    noise = (1.0 - half) / half * share
    return 1.0 / (1.0 + noise / fold)


def fold_for(half: float, share: float, wanted: float) -> float:
    """Return how many times the cells `reliability` is `wanted` at: that function turned round.

    >>> fold_for(0.5, 0.5, 6 / 7).__round__(9)
    3.0
    """
    return (1.0 - half) / half * share * wanted / (1.0 - wanted)


@dataclass(frozen=True)
class Estimate:
    """A mean over folds and units with its t interval."""

    mean: float
    low: float
    high: float
    #: Degrees of freedom of the interval.
    dof: float
    #: Number of units U.
    units: int
    #: Standard deviation of the units' means.
    sd: float
    #: Share of repetitions whose interval holds the true mean.
    level: float = 0.95

    @property
    def error(self) -> float:
        """Standard error of the mean under the interval: sd / sqrt(U), or more where folds decide."""
        from scipy.stats import t

        return float((self.high - self.mean) / t.ppf((1 + self.level) / 2, self.dof))

    @property
    def smallest(self) -> float:
        """The smallest true difference that 80 of 100 repetitions would see."""
        return POWER_FACTOR * self.error

    def p_value(self) -> float:
        """Return the two-sided p value of mean = 0 from the same t."""
        from scipy.stats import t

        if not np.isfinite(self.low):
            return 1.0
        error = self.error
        return float(2.0 * t.sf(abs(self.mean) / error, self.dof)) if error > 0 else float(self.mean == 0)


def estimate(scores: ArrayLike, level: float = 0.95, seeds: float = 0.0) -> Estimate:
    """Return the mean of scores folds x units [F, U] with an interval that both kinds of chance widen.

    v = var(unit means) / U + var(fold means) / F - var(residual) / (U F), not below the first of these nor
    below `_overlapping` folds, with Satterthwaite's degrees of freedom (F - 1 where the folds decide, min(U,
    F) - 1 below 12 units); one fold: v = var(units) / U.
    Under `MIN_UNITS` units the interval is NaN. For a comparison of two rows, give their differences. `seeds`
    is the variance of the mean that comes from training seeds, over which the scores are averaged.
    """
    from scipy.stats import t

    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"scores has shape {table.shape} or holds NaN; give finite folds x units.")
    mean, units = float(table.mean()), table.shape[1]
    sd = float(table.mean(0).std(ddof=1)) if units > 1 else float("nan")
    if units < MIN_UNITS:
        return Estimate(mean, float("nan"), float("nan"), float("nan"), units, sd, level)
    variance, dof = _variance(table)
    half = float(t.ppf((1 + level) / 2, dof) * (variance + seeds) ** 0.5)
    return Estimate(mean, mean - half, mean + half, dof, units, sd, level)


def _variance(table: Array) -> tuple[float, float]:
    """Return the variance of the mean of folds x units [F, U] and its degrees of freedom."""
    folds, units = table.shape
    by_unit = float(table.mean(0).var(ddof=1)) / units
    if folds == 1:
        return by_unit, units - 1.0
    by_fold = float(table.mean(1).var(ddof=1)) / folds
    residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    shared = float((residual**2).sum()) / ((folds - 1) * (units - 1)) / (units * folds)
    sums = max(by_unit + by_fold - shared, by_unit)
    variance = max(sums, _overlapping(by_fold, folds))
    if units < 12:
        return variance, min(units, folds) - 1.0
    if variance > sums:
        return variance, folds - 1.0
    spread = by_unit**2 / (units - 1) + by_fold**2 / (folds - 1) + shared**2 / ((folds - 1) * (units - 1))
    return variance, variance**2 / spread if spread > 0 else units - 1.0


def _overlapping(by_fold: float, folds: int) -> float:
    """Return the variance of the mean of F folds, given var(fold means) / F, whose training cells overlap.

    Where all labels share an error (the controls, the one vector of the row `mean`) fold k scores E_k . sum
    of the other E_l: two folds share the term E_k . E_l, and their scores correlate by 1 / (F - 1). The
    variance of their mean is then 1 + F / (F - 2) times what folds with nothing in common would give.
    """
    return by_fold * (1.0 + folds / max(folds - 2.0, 1.0))


def scaled(score: ArrayLike, mean_row: ArrayLike, replicate_row: ArrayLike) -> float:
    """Return (u - b) / (r - b), cell-eval2's scale: 0 the mean of the context, 1 a replicate; all [F, U].

    NaN where the interval of r - b holds 0.
    """
    own, low, high = (np.asarray(row, dtype=np.float64) for row in (score, mean_row, replicate_row))
    gap = estimate(high - low)
    if not gap.low > 0 and not gap.high < 0:
        return float("nan")
    return float((own.mean() - low.mean()) / gap.mean)


def holm(p_values: ArrayLike) -> Array:
    """Return p values [m] adjusted by Holm's step-down rule.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
