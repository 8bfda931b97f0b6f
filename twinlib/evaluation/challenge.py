"""The six metrics of the Virtual Cell Challenge 2026, from counts (cell-eval2 0.20.0, preset vcc2026).

Real controls stand on both sides. All metrics leave out a perturbation's own target gene, PDS those of the
whole panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinlib.checks import finite_arrays
from twinlib.data.schema import CONTROL
from twinlib.errors import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Counts to which a pseudobulk is normalised.
BULK = 5e4
#: Counts to which a cell is normalised for differential expression.
CELL = 1e6
#: A gene is tested if the controls hold more counts per million than this.
EXPRESSED = 5.0
#: False discovery rate of a call.
LEVEL = 0.05
#: Added to both means of a fold change.
EPSILON = 1e-9
#: Share of right directions down to which `reach` goes.
PURITY = 0.9
#: Fold changes are compared where at least this many genes respond.
MIN_GENES = 10


@dataclass(frozen=True, eq=False)
class Screen:
    """Counts of a screen, measured or predicted."""

    #: Counts [n, G].
    counts: Array
    #: Label of each cell [n].
    labels: NDArray[np.str_]
    #: Names of the genes [G].
    genes: tuple[str, ...]

    @staticmethod
    def of(counts: ArrayLike, labels: Sequence[str], genes: Sequence[str]) -> Screen:
        """Check counts [n, G], labels [n] and genes [G]; anything but counts is refused."""
        (x,) = finite_arrays(counts=(counts, f"n={len(labels)} G={len(genes)}"))
        if (x < 0).any() or (x != np.rint(x)).any():
            raise InputError(
                "The challenge's metrics need raw counts, and these are none: give whole numbers."
            )
        return Screen(x, np.asarray(labels).astype(str), tuple(genes))

    def cells(self, label: str) -> Array:
        """Return the counts [n, G] of the cells with one label."""
        return self.counts[self.labels == label]


def challenge_metrics(real: Screen, guess: Screen, control: str = CONTROL) -> dict[str, float]:
    """Return the six metrics of a predicted screen against a real one, means over perturbations."""
    labels = sorted(set(real.labels) - {control})
    missing = sorted(set(labels) - set(guess.labels))
    if real.genes != guess.genes or missing or control not in real.labels:
        raise InputError("The screens need the same genes, and a prediction for every real perturbation.")
    if len(labels) < 2:
        raise InputError(f"A rank among perturbations needs two of them, and the screen has {len(labels)}.")
    own = np.array([[gene == label for gene in real.genes] for label in labels])
    pairs = [(real.cells(label), guess.cells(label)) for label in labels]
    controls = real.cells(control)
    return {
        "pds_cosine": _pds(pairs, controls, np.asarray(own.any(axis=0))),
        "expr_mse_unbiased_capped_norm": _expression_error(pairs, controls, own),
    } | _responses(pairs, controls, own, real.genes)


def _bulk(cells: Array) -> Array:
    """Return log1p of the summed counts [G], normalised to `BULK`."""
    total = cells.sum(axis=0)
    if not total.sum() > 0:
        raise InputError("The cells of one label hold no count at all: leave that label out.")
    return np.log1p(BULK * total / total.sum())


def _pds(pairs: Sequence[tuple[Array, Array]], controls: Array, targets: Mask) -> float:
    """Return the mean discrimination score by cosine distance: 1 where the own truth is nearest."""
    start = _bulk(controls)
    truth, predicted = (
        np.stack([_bulk(pair[side]) - start for pair in pairs])[:, ~targets] for side in (0, 1)
    )
    norms = np.linalg.norm(predicted, axis=1)[:, None] * np.linalg.norm(truth, axis=1)
    distance = 1.0 - np.divide(predicted @ truth.T, norms, out=np.zeros_like(norms), where=norms > 0)
    mine = np.diag(distance)[:, None]
    nearer = (distance < mine).sum(axis=1) + 0.5 * ((distance == mine).sum(axis=1) - 1)
    return float(np.mean(1.0 - nearer / (len(pairs) - 1)))


def _sampling_error(cells: Array) -> float:
    """Return the delete-one jackknife of the squared sampling error of a pseudobulk, summed over genes."""
    n, total = len(cells), cells.sum(axis=0)
    if n < 2:
        return 0.0
    left = np.log1p(BULK * (total - cells) / (total.sum() - cells.sum(axis=1, keepdims=True)))
    return float((n - 1) / n * ((left - left.mean(axis=0)) ** 2).sum())


def _expression_error(pairs: Sequence[tuple[Array, Array]], controls: Array, own: Mask) -> float:
    """Return the squared distance of predicted to real profiles over that of controls, both less their noise.

    The noise that a prediction is credited with is bounded by that of the real cells and, in total, by how
    far its profiles differ between perturbations. NaN where the real profiles lie no farther from the
    controls than their own noise, as in very sparse cells.
    """
    truth, predicted = (np.stack([_bulk(pair[side]) for pair in pairs]) for side in (0, 1))
    noise, claimed = (np.array([_sampling_error(pair[side]) for pair in pairs]) for side in (0, 1))
    weight = 1.0 / (~own).sum(axis=1)
    claimed = np.minimum(claimed, noise)
    budget, claim = _spread(predicted, weight[:, None] * ~own), float(weight @ claimed)
    credited = claimed * min(1.0, budget / claim) if claim > 0 else claimed
    error = (((predicted - truth) ** 2) * ~own).sum(axis=1) - credited - noise
    start = (((truth - _bulk(controls)) ** 2) * ~own).sum(axis=1) - noise - _sampling_error(controls)
    return float((weight @ error) / (weight @ start)) if weight @ start > 0 else float("nan")


def _spread(profiles: Array, weights: Array) -> float:
    """Return the weighted squared spread of profiles [P, G] around their mean; weights [P, G]."""
    centred = profiles - profiles.mean(axis=0)
    total = weights.sum(axis=0)
    mean = (weights * centred).sum(axis=0) / np.where(total > 0, total, 1.0)
    spread = (weights * (centred - mean) ** 2).sum(axis=0)
    return float(spread[(weights > 0).sum(axis=0) >= 2].sum())


@dataclass(frozen=True, eq=False)
class Response:
    """Differential expression of one perturbation over the genes that were tested."""

    #: log2 fold changes [G].
    lfc: Array
    #: p values of the rank-sum test [G].
    p: Array
    #: p values adjusted by Benjamini and Hochberg [G].
    adjusted: Array

    @property
    def called(self) -> Mask:
        """Which genes respond [G]."""
        return np.asarray(self.adjusted < LEVEL)


def _per_cell(cells: Array) -> Array:
    """Normalise the counts of each cell [n, G] to `CELL`."""
    total = cells.sum(axis=1, keepdims=True)
    return cells * (CELL / np.where(total > 0, total, 1.0))


def _response(cells: Array, controls: Array) -> Response:
    """Test normalised cells [n, G] against normalised controls [m, G]."""
    from scipy.stats import false_discovery_control, mannwhitneyu

    p = np.clip(mannwhitneyu(cells, controls, method="asymptotic").pvalue, 0.0, 1.0)
    lfc = np.log2((cells.mean(axis=0) + EPSILON) / (controls.mean(axis=0) + EPSILON))
    return Response(lfc, p, false_discovery_control(p))


def _responses(
    pairs: Sequence[tuple[Array, Array]], controls: Array, own: Mask, genes: Sequence[str]
) -> dict[str, float]:
    """Return the four metrics of differential expression, each the mean where it is defined."""
    start = _per_cell(controls)
    tested = start.mean(axis=0) > EXPRESSED
    names = np.asarray(genes)[tested]
    values = []
    for (truth, predicted), target in zip(pairs, own, strict=True):
        both = [_response(_per_cell(cells)[:, tested], start[:, tested]) for cells in (truth, predicted)]
        values.append(_compared(both[0], both[1], ~target[tested], names))
    return {name: float(np.nanmean([value[name] for value in values])) for name in values[0]}


def _compared(real: Response, guess: Response, kept: Mask, names: NDArray[np.str_]) -> dict[str, float]:
    """Compare the predicted with the real response over the genes kept [G]; NaN where it is not defined."""
    responding, calls = real.called & kept, guess.called & kept
    told, right = real.lfc != 0, np.sign(real.lfc) == np.sign(guess.lfc)
    number = int(responding.sum())
    fidelity = _ratio((calls & told & right).sum(), max((calls & told).sum(), number))
    order = np.lexsort((names, -np.abs(guess.lfc), guess.p, guess.adjusted, ~guess.called))
    walked = right[[g for g in order if responding[g] and told[g]]]
    purity = np.cumsum(walked) / np.arange(1, len(walked) + 1)
    deepest = np.flatnonzero(purity >= PURITY)
    union = (responding | calls).sum()
    gap, size = (np.abs(change[responding]).sum() for change in (guess.lfc - real.lfc, real.lfc))
    return {
        "de_wilcoxon_direction_fidelity_yield_raw": fidelity,
        "de_wilcoxon_direction_reach_raw": _ratio(deepest[-1] + 1 if len(deepest) else 0, number),
        "de_wilcoxon_sig_jaccard": float((responding & calls).sum() / union) if union else 1.0,
        "de_wilcoxon_lfc_nmae": _ratio(gap, size) if number >= MIN_GENES else float("nan"),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
