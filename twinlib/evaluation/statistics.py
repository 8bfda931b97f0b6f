"""Small-sample statistics for a handful of seeds: robust means, intervals, paired differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinlib.checks import finite_arrays, require_number

Array = NDArray[np.float64]
Interval = tuple[float, float]


def _runs(**values: ArrayLike) -> list[Array]:
    """Return arrays of one number a run [R], or of runs x tasks [R, tasks], as tables with the same tasks."""
    columns = {name: np.asarray(value) for name, value in values.items()}
    tables = {name: (a[:, None] if a.ndim == 1 else a, f"R_{name} tasks") for name, a in columns.items()}
    return finite_arrays(**tables)


def iqm(values: ArrayLike) -> float:
    """Return the interquartile mean: the mean of the middle half of all values (Agarwal 2021).

    A quarter of the values, rounded down, is dropped at each end, whatever the array's shape.

    >>> iqm([0.0, 1.0, 2.0, 99.0])
    1.5
    """
    (finite,) = finite_arrays(values=(values, "..."))
    return float(iqms(finite.reshape(1, -1))[0])


def iqms(samples: Array) -> Array:
    """Return the interquartile mean of each sample: [B, n] to [B]."""
    ordered = np.sort(samples, axis=1)
    cut = ordered.shape[1] // 4
    means: Array = ordered[:, cut : ordered.shape[1] - cut].mean(axis=1)
    return means


def _means(samples: Array) -> Array:
    means: Array = samples.mean(axis=1)
    return means


def bootstrap_interval(
    values: ArrayLike,
    rng: np.random.Generator,
    statistic: Callable[[Array], Array] = _means,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic of runs [R] or of runs x tasks [R, tasks].

    `statistic` maps samples [B, n] to values [B], as `iqms` does; the mean where none is given. With tasks
    the bootstrap is stratified: runs are drawn anew inside each task (Agarwal 2021). All draws come from
    `rng`. One run has no spread to draw from, so that the interval is a point.
    """
    (table,) = _runs(values=values)
    require_number("level", level, 0, 1)
    require_number("resamples", resamples, 1, whole=True)
    rows = rng.integers(len(table), size=(resamples, *table.shape))
    draws = np.take_along_axis(table[None], rows, axis=1).reshape(resamples, -1)
    low, high = np.quantile(statistic(draws), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two methods that ran on the same seeds."""

    #: Mean of a - b over the seeds.
    mean: float
    #: Lower end of the t interval of that mean.
    low: float
    #: Upper end of the t interval of that mean.
    high: float
    #: Two-sided p value of the sign-flip permutation test; at n seeds it is never below 2 / 2**n.
    p_value: float
    #: Number of seeds.
    n: int


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95, seed: int = 0) -> PairedDifference:
    """Return the mean of a - b over seeds [R] with its t interval and a sign-flip permutation p value.

    Entry i of both must come from the same seed. Up to 13 seeds all sign patterns are tried; beyond, 9,999
    random ones from `seed`. With fewer than two seeds the interval is infinite and p is 1.

    >>> paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]).mean
    1.0
    """
    a, b = finite_arrays(a=(a, "R"), b=(b, "R"))
    require_number("level", level, 0, 1)
    difference = a - b
    if len(difference) < 2:
        return PairedDifference(float(difference.mean()), -np.inf, np.inf, 1.0, len(difference))
    low, high = _t_interval(difference, level)
    return PairedDifference(
        float(difference.mean()), low, high, _sign_flip(difference, seed), len(difference)
    )


def _t_interval(values: Array, level: float) -> Interval:
    """Return Student's interval of the mean of values [R]."""
    from scipy.stats import t

    half = t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _sign_flip(difference: Array, seed: int) -> float:
    """Return the two-sided sign-flip p value of mean(difference) = 0."""
    n = len(difference)
    if n <= 13:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        extra = 0
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(9999, n))
        extra = 1  # the observed pattern itself
    observed = abs(difference.mean())
    extreme = np.abs(signs @ difference / n) >= observed * (1 - 1e-12)
    return float((extreme.sum() + extra) / (len(signs) + extra))


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Return the chance that a run of a beats one of b, ties counted half, averaged over tasks.

    `a` and `b` are runs [R] or runs x tasks [R, tasks]; larger is better; the two need not share seeds
    (Agarwal 2021).

    >>> probability_of_improvement([1, 2], [0, 2])
    0.625
    """
    a, b = _runs(a=a, b=b)
    gap = a[:, None, :] - b[None, :, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return Wilson's score interval for a rate of `successes` in `n` trials (Wilson 1927)."""
    from scipy.stats import norm

    require_number("n", n, 1, whole=True)
    require_number("successes", successes, 0, n, whole=True)
    require_number("level", level, 0, 1)
    z, rate = norm.ppf((1 + level) / 2), successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
