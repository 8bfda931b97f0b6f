"""How far a prediction is from the real cells, and how much of that is skill over doing nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinlib.checks import finite_arrays, require_number
from twinlib.errors import InputError

Array = NDArray[np.float64]

#: The paper's metrics of single cells (Section 3.3.1).
PER_CELL = ("MSE", "RMSE", "MAE", "R2", "Pearson")
#: How skill is read: 0 is best of an error, 1 of a score; own: the value is its skill.
BEST = {
    **dict.fromkeys(("MSE", "RMSE", "MAE", "dtw", "mean_absolute_difference"), "error"),
    **dict.fromkeys(("pseudobulk_mse", "e_distance", "w1"), "error"),
    **dict.fromkeys(("R2", "Pearson", "pds", "overlap_at_n"), "score"),
    "pearson_delta": "own",
}


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Return the Pearson correlation of two vectors [G], 0 where either is constant.

    A correlation with a constant is undefined; 0 says that it carries no information about the other. One
    number has no correlation at all and is refused.

    >>> pearson([1, 2, 3], [2, 4, 6])
    1.0
    >>> pearson([1, 2, 3], [5, 5, 5])
    0.0
    """
    first, second = finite_arrays(a=(a, "G"), b=(b, "G"))
    _require_genes(len(first))
    return float(_pearson_columns(first[:, None], second[:, None])[0])


def _require_genes(number: int) -> None:
    if number < 2:
        raise InputError("A correlation over genes needs at least two genes; choose a larger panel.")


def _pearson_columns(a: Array, b: Array) -> Array:
    """Return the correlation of each column pair [G], 0 where a column is constant."""
    moving = (np.ptp(a, axis=0) > 0) & (np.ptp(b, axis=0) > 0)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    spread = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    moving &= spread > 0  # differences so small that their squares underflow count as constant
    together = (a * b).sum(axis=0)
    return np.divide(together, spread, out=np.zeros_like(together), where=moving).clip(-1.0, 1.0)


def _r2_columns(y_true: Array, y_pred: Array) -> Array:
    """Return R2 of each column [G]; a constant truth gives 1 if met exactly, else 0 (as scikit-learn)."""
    residual = ((y_true - y_pred) ** 2).sum(axis=0)
    total = ((y_true - y_true.mean(axis=0)) ** 2).sum(axis=0)
    varies = (np.ptp(y_true, axis=0) > 0) & (total > 0)  # tiny differences have no square
    left = np.divide(residual, total, out=(residual != 0).astype(float), where=varies)
    return np.asarray(1.0 - left, dtype=np.float64)


def regression_metrics(y_true: ArrayLike, y_pred: ArrayLike) -> dict[str, float]:
    """Return MSE, RMSE, MAE, R2 and Pearson per dimension, averaged over dimensions (Section 3.3.1).

    Both arrays are [n, G] in the same units; row i of one answers row i of the other. RMSE is the mean of the
    per-dimension roots, so it is not the root of MSE. Pearson is 0 where a dimension is constant.
    """
    y_true, y_pred = finite_arrays(y_true=(y_true, "n G"), y_pred=(y_pred, "n G"))
    error = y_pred - y_true
    mse = (error**2).mean(axis=0)
    return {
        "MSE": float(mse.mean()),
        "RMSE": float(np.sqrt(mse).mean()),
        "MAE": float(np.abs(error).mean()),
        "R2": float(_r2_columns(y_true, y_pred).mean()),
        "Pearson": float(_pearson_columns(y_true, y_pred).mean()),
    }


def pearson_delta(true_mean: ArrayLike, pred_mean: ArrayLike, reference_mean: ArrayLike) -> float:
    """Return the correlation of the true and the predicted change from one reference profile.

    All three are [G] in log1p units. With the control mean as reference this is the usual 'Pearson delta';
    with the mean of the perturbed centroids it is Systema's. A prediction that equals the reference up to a
    constant has no direction of change and scores 0.

    >>> round(pearson_delta([1, 3, 2], [1, 2, 2], [1, 1, 2]), 3)
    1.0
    >>> pearson_delta([1, 3, 2], [1, 1, 2], [1, 1, 2])
    0.0
    """
    truth, predicted, reference = finite_arrays(
        true_mean=(true_mean, "G"), pred_mean=(pred_mean, "G"), reference_mean=(reference_mean, "G")
    )
    _require_genes(len(truth))
    predicted = predicted - reference
    if np.ptp(predicted) <= 1e-12 * max(1.0, float(np.abs(reference).max())):
        return 0.0  # rounding left by adding and subtracting the reference is not a prediction
    return pearson(truth - reference, predicted)


def pseudobulk_mse(true_mean: ArrayLike, pred_mean: ArrayLike) -> float:
    """Return the mean squared difference of two mean profiles [G], in squared log1p units.

    >>> pseudobulk_mse([1.0, 2.0], [1.0, 4.0])
    2.0
    """
    truth, predicted = finite_arrays(true_mean=(true_mean, "G"), pred_mean=(pred_mean, "G"))
    return float(((truth - predicted) ** 2).mean())


def e_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Return the energy distance of two clouds of cells x [n, G] and y [m, G]: plain Euclidean, U-statistic.

    2 E|X - Y| - E|X - X'| - E|Y - Y'| with distinct cells inside each cloud, so that two samples of one cloud
    average to 0 (and may come out slightly negative). Needs two cells on each side. Source: Szekely & Rizzo
    2013.
    """
    first, second = finite_arrays(x=(x, "n G"), y=(y, "m G"))
    if min(len(first), len(second)) < 2:
        raise InputError("The E-distance compares pairs of cells: give at least two cells on each side.")
    centre = first.mean(axis=0)  # distances do not change, and their squares lose fewer digits
    first, second = first - centre, second - centre
    return 2 * _mean_distance(first, second) - _mean_distance(first) - _mean_distance(second)


def _mean_distance(x: Array, y: Array | None = None) -> float:
    """Return the mean Euclidean distance of x [n, G] to y [m, G], or of distinct cells of x."""
    other = x if y is None else y
    distance = x @ other.T
    distance *= -2.0
    distance += (x**2).sum(axis=1)[:, None]
    distance += (other**2).sum(axis=1)
    np.sqrt(np.maximum(distance, 0.0, out=distance), out=distance)  # in place: no copy of n x m numbers
    if y is not None:
        return float(distance.mean())
    np.fill_diagonal(distance, 0.0)
    return float(distance.sum() / (len(x) * (len(x) - 1)))


def w1_per_gene(x: ArrayLike, y: ArrayLike) -> Array:
    """Return the exact Wasserstein-1 distance of each gene's two samples [G]; x is [n, G], y is [m, G].

    The area between the two quantile functions, for any two sample sizes.
    """
    x, y = (np.sort(cells, axis=0) for cells in finite_arrays(x=(x, "n G"), y=(y, "m G")))
    n, m = len(x), len(y)
    # Integers i*m and j*n in place of i/n and j/m: shared breakpoints meet exactly.
    breaks = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m) * n)
    width = np.diff(breaks, prepend=0) / (n * m)
    return width @ np.abs(x[(breaks - 1) // m] - y[(breaks - 1) // n])


def w1(x: ArrayLike, y: ArrayLike) -> float:
    """Return the mean over genes of `w1_per_gene`, in log1p units.

    >>> w1([[0.0], [2.0]], [[1.0], [3.0]])
    1.0
    """
    return float(w1_per_gene(x, y).mean())


def pds(true_delta: ArrayLike, pred_delta: ArrayLike, target: ArrayLike | None = None) -> Array:
    """Return each perturbation's discrimination score [P]: 1 if its own truth is the nearest.

    Both arrays are [P, G] changes from control; distances are L1. `target` [P] holds the column of each
    perturbation's own target gene, which is left out (-1: none). Score = 1 - (truths nearer than one's own)
    / P, ties counted half, so that chance is about 0.5. Source: Virtual Cell Challenge 2025.
    """
    truth, guess = finite_arrays(true_delta=(true_delta, "P G"), pred_delta=(pred_delta, "P G"))
    left_out = _columns(target, *truth.shape)
    scores = np.empty(len(truth))
    for p, own in enumerate(left_out):
        kept = np.arange(truth.shape[1]) != own
        distance = np.abs(truth[:, kept] - guess[p, kept]).sum(axis=1)
        nearer = (distance < distance[p]).sum() + 0.5 * ((distance == distance[p]).sum() - 1)
        scores[p] = 1.0 - nearer / len(truth)
    return scores


def _columns(target: ArrayLike | None, n_perturbations: int, n_genes: int) -> NDArray[np.int64]:
    """Return the column [P] that each perturbation leaves out, -1 for none."""
    if target is None:
        return _columns(np.full(n_perturbations, -1), n_perturbations, n_genes)
    (columns,) = finite_arrays(target=(target, f"P={n_perturbations}"))
    if (columns != np.floor(columns)).any() or columns.min() < -1 or columns.max() >= n_genes:
        raise InputError(f"target holds {columns}; give a column from 0 to {n_genes - 1}, or -1 for none.")
    return columns.astype(np.int64)


def overlap_at_n(true_delta: ArrayLike, pred_delta: ArrayLike, n: int) -> float:
    """Return the share of the n genes that truly change most which are among the n predicted to change most.

    Both arrays are changes [G]; genes are ranked by absolute change. A constant prediction ranks nothing: 0.

    >>> overlap_at_n([3.0, 0.1, -2.0], [1.0, 0.0, -1.0], n=2)
    1.0
    """
    truth, guess = finite_arrays(true_delta=(true_delta, "G"), pred_delta=(pred_delta, "G"))
    require_number("n", n, 1, len(truth), whole=True)
    if np.ptp(guess) == 0:
        return 0.0
    top = [set(np.argsort(-np.abs(change), kind="stable")[:n].tolist()) for change in (truth, guess)]
    return len(top[0] & top[1]) / n


def skill(name: str, value: float, no_change_value: float) -> float:
    """Return what a metric's value is worth against no_change: 0 for doing nothing, 1 for perfect.

    Errors: 1 - value / no_change_value. Scores (R2, Pearson, pds, overlap): the share of the way from
    no_change_value to 1. pearson_delta: the value itself. NaN where no_change is already perfect but the
    value is not (the ratio has no meaning).

    >>> skill("pseudobulk_mse", value=1.0, no_change_value=4.0)
    0.75
    """
    if name not in BEST:
        raise InputError(f"No skill is defined for {name!r}; use one of {', '.join(BEST)}.")
    best = BEST[name]
    if best == "own":
        return float(value)
    gap = no_change_value if best == "error" else 1.0 - no_change_value
    left = value if best == "error" else 1.0 - value
    if value == no_change_value:
        return 0.0
    return 1.0 - left / gap if gap > 0 else float("nan")
