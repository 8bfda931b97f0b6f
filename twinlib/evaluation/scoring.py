"""What a prediction is worth on the cells of one perturbation: metrics of changes, of clouds and of cells.

The observed and the predicted change both subtract the mean of the same m test controls. A prediction that
carries its control along one to one adds the error of that mean again; any other one (a decoded cell, a
network that draws cells together) shares the error with the truth and would agree with it where nothing
happened. The expected product of the two errors, -cov(x, y_hat - x) / m summed over genes, is known from the
cells and is taken off (`shared_error`), which leaves the mean over pairs of different controls. That needs to
know which control a row answers. A population whose rows answer none is taken to carry its controls along;
one that forgets them scores above 0 on sham or shuffled labels, and there it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinlib.evaluation import metrics
from twinlib.evaluation.calibration import Arms, changes

Array = NDArray[np.float64]
#: Metrics by context; "" is the whole, in which contexts are weighted by their perturbed cells.
Values = dict[str, dict[str, float]]

#: Genes whose overlap is counted.
TOP = 20


@dataclass(frozen=True)
class Shared:
    """Expected product of the errors that observed and predicted change share, summed over genes."""

    #: Of the changes as they are.
    plain: float = 0.0
    #: Of the changes less their mean over genes.
    centred: float = 0.0

    def times(self, factor: float) -> Shared:
        """Return the product where both changes count by the root of a factor."""
        return Shared(factor * self.plain, factor * self.centred)


def shared_error(controls: Array, predicted: Array) -> Shared:
    """Return what the changes from m controls [m, G] to their predictions [m, G] owe to the controls."""
    number = len(controls)
    x, change = (cells - cells.mean(axis=0) for cells in (controls, predicted - controls))
    plain = float((x * change).sum())
    over_genes = float((x.mean(axis=1) * change.mean(axis=1)).sum()) * x.shape[1]
    return Shared(-plain, over_genes - plain).times(1.0 / (number * (number - 1)))


def _direction(truth: Array, guess: Array, shared: Shared) -> float:
    """Correlation of the changes without what they share; 0 where the guess is constant but for rounding."""
    lengths = float(truth.std() * guess.std() * len(truth))
    if np.ptp(guess) <= 1e-12 or lengths == 0:
        return 0.0
    product = (truth - truth.mean()) @ (guess - guess.mean())  # the arrays are checked: no second time
    return float(np.clip((product - shared.centred) / lengths, -1.0, 1.0))


def _squared(truth: Array, guess: Array, shared: Shared) -> float:
    return float(np.square(truth - guess).mean()) + 2 * shared.plain / len(truth)


def _skill(truth: Array, guess: Array, shared: Shared) -> float:
    """Skill in pseudobulk MSE; doing nothing predicts no change."""
    nothing_done = _squared(truth, np.zeros_like(truth), Shared())
    return metrics.skill("pseudobulk_mse", _squared(truth, guess, shared), nothing_done)


def _mae(truth: Array, guess: Array, _: Shared) -> float:
    return float(np.abs(truth - guess).mean())


def _overlap(truth: Array, guess: Array, _: Shared) -> float:
    """Overlap of the `TOP` genes; it has no skill, since genes that vary most lead without any effect."""
    return metrics.overlap_at_n(truth, guess, TOP) if len(truth) > TOP else float("nan")


#: Metrics of the observed and the predicted change [G], in the order of tables; a new one is one more entry.
CHANGES: dict[str, Callable[[Array, Array, Shared], float]] = {
    "pearson_delta": _direction,
    "skill": _skill,
    "pseudobulk_mse": _squared,
    "mae": _mae,
    "overlap_at_20": _overlap,
}
#: Metrics of the observed and the predicted cells of one context, [n, G] and [m, G].
CLOUDS: dict[str, Callable[[Array, Array], float]] = {"e_distance": metrics.e_distance, "w1": metrics.w1}


#: The correlation of departures from the mean of the perturbed centroids, Systema's reference.
CENTROID = "pearson_centroid"


def nothing() -> dict[str, float]:
    """Return the values of a group that is too small: n/a."""
    return dict.fromkeys((*CHANGES, *CLOUDS, "pds"), float("nan"))


def by_context(cells: Arms, change: Array) -> dict[str, Array]:
    """Return the change [G] of the whole ("") and of each context, given [C, G]."""
    return {"": cells.weights @ change, **dict(zip(cells.contexts, change, strict=True))}


def scored(
    truth: Arms, shift: Array, predicted: Sequence[Array] | None, shared: Sequence[Shared] = ()
) -> Values:
    """Return the metrics of predicted changes [C, G] and predicted cells [n, G] of each context.

    Clouds are compared within contexts; without predicted cells their metrics are left out. `shared` holds
    the `shared_error` of each context; nothing, where the changes share no control.
    """
    observed, guesses = by_context(truth, changes(truth)), by_context(truth, shift)
    owed = _shared_by_context(truth, shared)
    values = {
        name: {metric: of(observed[name], guesses[name], owed[name]) for metric, of in CHANGES.items()}
        for name in observed
        if name == "" or len(truth.contexts) > 1
    }
    if len(truth.contexts) == 1:
        values[truth.contexts[0]] = dict(values[""])
    if predicted is not None:
        pairs = zip(truth.perturbed, predicted, strict=True)
        clouds = [{metric: of(real, guess) for metric, of in CLOUDS.items()} for real, guess in pairs]
        for name, more in _with_whole(truth, clouds).items():
            values[name] |= more
    return values


def _shared_by_context(cells: Arms, shared: Sequence[Shared]) -> dict[str, Shared]:
    """Return what the changes of the whole ("") and of each context share; controls differ by context."""
    each = dict(zip(cells.contexts, shared or [Shared()] * len(cells.contexts), strict=True))
    weighted = [one.times(w**2) for one, w in zip(each.values(), cells.weights, strict=True)]
    whole = Shared(sum(one.plain for one in weighted), sum(one.centred for one in weighted))
    return {"": whole, **each}


def departures(truth: Arms, predicted: Sequence[Array], centroids: Mapping[str, Array]) -> Values:
    """Return the correlation of departures of the mean cells from given centroids [G], by context.

    What all perturbations of a context share, the difference of two studies among it, counts on neither side
    (Vinas Torne et al. 2025). Nothing is returned unless every context has a centroid.
    """
    if not set(truth.contexts) <= set(centroids):
        return {}
    centre = np.stack([centroids[name] for name in truth.contexts])
    means = [np.stack([cells.mean(axis=0) for cells in arm]) - centre for arm in (truth.perturbed, predicted)]
    observed, guesses = (by_context(truth, change) for change in means)
    return {name: {CENTROID: _direction(observed[name], guesses[name], Shared())} for name in observed}


def with_values(values: Values, more: Values) -> Values:
    """Return values with more metrics of the contexts that they hold."""
    return {name: known | more.get(name, {}) for name, known in values.items()}


def cell_values(
    truth: Arms,
    predicted: Sequence[Array],
    partners: Sequence[NDArray[np.int64]],
    scaler: tuple[Array, Array],
) -> Values:
    """Return the per-cell metrics of Section 3.3.1 against partners, in units of a scaler ([G], [G])."""
    mean, std = scaler
    triples = zip(truth.perturbed, predicted, partners, strict=True)
    each = [
        metrics.regression_metrics((real - mean) / std, (guess[places] - mean) / std)
        for real, guess, places in triples
    ]
    return _with_whole(truth, each)


def _with_whole(cells: Arms, each: Sequence[dict[str, float]]) -> Values:
    """Put the mean over contexts [C] beside their values."""
    whole = {
        metric: float(cells.weights @ np.array([values[metric] for values in each])) for metric in each[0]
    }
    return {"": whole, **dict(zip(cells.contexts, each, strict=True))}


def mean_values(tables: Sequence[Values]) -> Values:
    """Return the mean of each value over tables; a metric counts where it was computed."""
    names = {name: None for table in tables for name in table}
    columns = {name: [table[name] for table in tables if name in table] for name in names}
    return {
        name: {
            metric: float(np.mean([values[metric] for values in column if metric in values]))
            for metric in column[0]
        }
        for name, column in columns.items()
    }


def ranks(
    guess: Mapping[int, Mapping[str, Array]],
    truth: Mapping[int, Mapping[str, Array]],
    genes: NDArray[np.bool_],
) -> dict[int, dict[str, float]]:
    """Return the perturbation discrimination score of each case by context: 1 where its own truth is nearest.

    1 - (truths of others nearer than its own) / (P - 1), distances L1, ties counted half, so that chance is
    .5. Only `genes` [G] are read, those that nobody perturbed: a knocked-down target, left out for its own
    label alone, would tell the other labels away. NaN where a context holds one case.
    """
    scores: dict[int, dict[str, float]] = {}
    for number, predicted in guess.items():
        scores[number] = {}
        for name, change in predicted.items():
            others = [other[name][genes] for i, other in truth.items() if i != number and name in other]
            scores[number][name] = _rank(change[genes], truth[number][name][genes], others)
    return scores


def _rank(guess: Array, own: Array, others: Sequence[Array]) -> float:
    """Return the share of others [G] that lie farther from the guess than its own truth; ties count half."""
    if not others or not guess.size:
        return float("nan")
    distances = np.abs(np.stack(others) - guess).sum(axis=1)
    gap = distances - np.abs(own - guess).sum()
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())
