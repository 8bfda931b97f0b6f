"""Plain predictors that a perturbation model has to beat, and the technical duplicate that nothing should
beat.

Every baseline predicts the change and adds it to the observed control, `y_hat = x + shift`, so that all
rows of a table differ in the shift alone. A shift is a difference of training means within cell context, so
that a composition of cell types that differs between the arms is no response; for a dose it is the
least-squares slope through the origin, which for doses of 1 is the difference of means.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from twinlib.data.effect_tests import MIN_ARM
from twinlib.data.schema import CONTROL, names, parts
from twinlib.errors import DataError, Extrapolation

if TYPE_CHECKING:
    from torch import Tensor

    from twinlib.data.preparation import Prepared
    from twinlib.embedding.perturbations import Coder

Array = NDArray[np.floating]
Integers = NDArray[np.intp]

#: Ridge of the linear baseline on both sides (Ahlmann-Eltze 2025).
LINEAR_RIDGE = 0.1
#: Principal components of the linear baseline (Ahlmann-Eltze 2025).
LINEAR_COMPONENTS = 10


class Baseline(Protocol):
    """Anything that predicts cells [n, G] from control cells [n, G] and labels."""

    @property
    def trained(self) -> Trained:
        """What it was trained on."""
        ...

    def predict(self, x_log1p: Array, labels: Sequence[str], dose: npt.ArrayLike | None = None) -> Array:
        """Return the predicted cells [n, G] in log1p units."""


@dataclass(frozen=True)
class TrainingCells:
    """The training cells as plain arrays: values [n, G], labels [n], contexts [n], doses [n]."""

    values: Array
    labels: NDArray[np.str_]
    contexts: NDArray[np.str_]
    doses: Array

    def of(self, label: str) -> NDArray[np.bool_]:
        """Return the mask [n] of cells with one label."""
        return np.asarray(self.labels == label)

    @cached_property
    def context(self) -> Integers:
        """Number of each cell's context [n]: texts are slow to compare."""
        return np.unique(self.contexts, return_inverse=True)[1]


def training_cells(prepared: Prepared) -> TrainingCells:
    """Collect the training cells of a prepared dataset, in log1p units."""
    rows = prepared.rows("train")
    obs = prepared.cells.obs.iloc[rows]
    values = np.asarray(prepared.cells.X)[rows]
    labels, contexts, doses = (obs[name].to_numpy() for name in ("perturbation", "cell_context", "dose"))
    return TrainingCells(values, labels.astype(str), contexts.astype(str), np.asarray(doses, dtype=float))


def changes_within(cells: TrainingCells, chosen: NDArray[np.bool_], values: Array) -> tuple[Array, Integers]:
    """Return how far chosen cells [n] are from the mean control of their own context [m, K], and their rows
    [m].

    `values` [n, K] are the expression, a latent space or both. Cells of a context without a control are left
    out; where no context has one, all controls are the reference.
    """
    control = cells.of(CONTROL)
    rows = np.flatnonzero(chosen & np.isin(cells.context, cells.context[control]))
    if not len(rows):
        rows = np.flatnonzero(chosen)
        return values[rows] - values[control].mean(axis=0, dtype=np.float64), rows
    contexts, index = np.unique(cells.context[rows], return_inverse=True)
    centres = [values[control & (cells.context == c)].mean(axis=0, dtype=np.float64) for c in contexts]
    return values[rows] - np.stack(centres)[index], rows


def shift_of(cells: TrainingCells, label: str, values: Array | None = None) -> Array:
    """Return the mean change [G] of one label per unit dose within context, contexts weighted by its cells.

    `values` [n, K] stands in for the expression, for instance a latent space; see `changes_within`.
    """
    changes, rows = changes_within(cells, cells.of(label), cells.values if values is None else values)
    return _slope(changes, cells.doses[rows])


def _slope(changes: Array, doses: Array) -> Array:
    """Return the least-squares slope [K] of changes [m, K] over doses [m], through the origin."""
    slope: Array = doses @ changes / max(float(doses @ doses), 1e-12)
    return slope


def shift_by_context(cells: TrainingCells, label: str) -> Array:
    """Return the mean change [G] of one label, its contexts counted once each however many cells they hold.

    Contexts with under `MIN_ARM` cells in an arm are left out; where none is larger, all cells are pooled.
    """
    changes, rows = changes_within(cells, cells.of(label), cells.values)
    contexts, sizes = np.unique(cells.context[rows], return_counts=True)
    controls = [(cells.of(CONTROL) & (cells.context == c)).sum() for c in contexts]
    large = contexts[np.minimum(sizes, controls) >= MIN_ARM]
    own = [cells.context[rows] == context for context in large] or [np.ones(len(rows), dtype=bool)]
    return np.mean([_slope(changes[mine], cells.doses[rows[mine]]) for mine in own], axis=0)


def training_shifts(prepared: Prepared) -> dict[str, Array]:
    """Return the mean change [G] of each training perturbation."""
    cells = training_cells(prepared)
    return {label: shift_of(cells, label) for label in prepared.train_perturbations}


@dataclass(frozen=True)
class Trained:
    """What a predictor was trained on; every question is held against it."""

    #: Names of the panel [G].
    genes: tuple[str, ...]
    #: The doses of each training perturbation, rising.
    doses: Mapping[str, tuple[float, ...]]

    @staticmethod
    def on(prepared: Prepared) -> Trained:
        """Collect genes and doses of prepared training cells."""
        cells = training_cells(prepared)
        doses = {
            label: tuple(np.unique(cells.doses[cells.of(label)]).tolist())
            for label in prepared.train_perturbations
        }
        return Trained(tuple(prepared.genes), doses)

    def question(self, x_log1p: npt.ArrayLike, labels: Sequence[str]) -> tuple[Array, list[str]]:
        """Return cells [n, G] and n labels as they are computed with; other shapes and values are refused."""
        x = np.asarray(x_log1p)
        if x.ndim != 2 or x.shape[1] != len(self.genes) or x.dtype.kind not in "fiub":
            raise DataError(
                f"The cells have shape {x.shape} and type {x.dtype}: give numbers [n, {len(self.genes)}]."
            )
        if not np.isfinite(x).all():
            raise DataError("The cells hold NaN or infinite values: leave those cells out.")
        asked = list(map(str, names(labels, "labels")))
        if len(asked) != len(x):
            raise DataError(f"There are {len(asked)} labels for {len(x)} cells: give one label a cell.")
        return (x if x.dtype.kind == "f" else x.astype(np.float32)), asked

    def doses_of(self, labels: Sequence[str], dose: npt.ArrayLike | None = None) -> Array:
        """Return one dose a cell [n], 0 for controls; when none is told, the one that was trained.

        Without a dose a label is refused where several were trained, its own or, of an unseen one, any.
        """
        given = [self._only(label) for label in labels] if dose is None else dose
        try:
            doses = np.broadcast_to(np.asarray(given, dtype=float), (len(labels),))
        except (TypeError, ValueError):
            raise DataError(f"dose={dose!r} is neither one number nor one a cell ({len(labels)}).") from None
        if not np.isfinite(doses).all() or (doses < 0).any():
            raise DataError(
                f"dose={dose!r} holds a dose that is not finite or below 0: give doses from 0 on."
            )
        return np.where(np.asarray(labels, dtype=str) == CONTROL, 0.0, doses)

    def levels(self, label: str) -> tuple[float, ...]:
        """Return the doses of a label, of an unseen one those of all."""
        return self.doses.get(label) or tuple(sorted(set(itertools.chain(*self.doses.values()))))

    def _only(self, label: str) -> float:
        doses = (0.0,) if label == CONTROL else self.levels(label) or (1.0,)
        if len(doses) > 1:
            shown = ", ".join(f"{dose:g}" for dose in doses)
            raise DataError(f"{label} needs a dose, since several were trained ({shown}): give dose=.")
        return doses[0]

    def extrapolates(self, labels: Sequence[str], doses: Array) -> NDArray[np.bool_]:
        """Return whether each of n doses is above every one that its label was trained at."""
        largest = {label: max(self.levels(label), default=np.inf) for label in set(labels) - {CONTROL}}
        return np.array([dose > largest.get(label, 0.0) for label, dose in zip(labels, doses, strict=True)])

    def warn(self, labels: Sequence[str], doses: Array) -> None:
        """Mark doses outside the trained range with a warning."""
        beyond = np.flatnonzero(self.extrapolates(labels, doses))
        if len(beyond):
            label, dose = labels[beyond[0]], doses[beyond[0]]
            range_ = f"trained from 0 to {max(self.levels(label)):g}"
            warnings.warn(f"The dose {dose:g} of {label} is an extrapolation ({range_}).", Extrapolation, 3)


def moves(rule: Callable[[str], Array], labels: Sequence[str], doses: Array, width: int) -> Array:
    """Return dose x shift of n labels [n, width]; zeros for the control."""
    kinds, index = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    table = [np.zeros(width) if kind == CONTROL else rule(str(kind)) for kind in kinds]
    return doses[:, None] * np.reshape(table, (len(kinds), width))[index]


@dataclass(frozen=True)
class ShiftBaseline:
    """A baseline that adds one vector a label to the control cell."""

    #: The shift [G] of one label, at dose 1.
    rule: Callable[[str], Array]
    #: What it was trained on.
    trained: Trained

    def shift(self, label: str) -> Array:
        """Return the shift [G] of a label; zeros for the control."""
        return self.rule(label)

    def predict(self, x_log1p: Array, labels: Sequence[str], dose: npt.ArrayLike | None = None) -> Array:
        """Return x + dose * shift, [n, G] in log1p units; dose 0 and `control` give x exactly."""
        x, labels = self.trained.question(x_log1p, labels)
        doses = self.trained.doses_of(labels, dose)
        self.trained.warn(labels, doses)
        return (x + moves(self.rule, labels, doses, x.shape[1])).astype(x.dtype)


def mean_shift(shifts: Mapping[str, Array]) -> Array:
    """Return the mean [G] over training perturbations, each perturbation counted once."""
    return np.mean(list(shifts.values()), axis=0)


def no_change(prepared: Prepared, embedding: Coder | None = None) -> ShiftBaseline:
    """Predict the control cell itself."""
    zero = np.zeros(len(prepared.genes))
    return ShiftBaseline(lambda label: zero, Trained.on(prepared))


def mean(prepared: Prepared, embedding: Coder | None = None) -> ShiftBaseline:
    """Predict the mean change over training perturbations, whatever the label."""
    common = mean_shift(training_shifts(prepared))
    return ShiftBaseline(lambda label: common, Trained.on(prepared))


def matching_mean(prepared: Prepared, embedding: Coder | None = None) -> ShiftBaseline:
    """Predict the mean change of each perturbation; of an unseen combination the mean over its parts
    (Systema).

    A part that was not seen counts as the mean over training perturbations.
    """
    return _matching(training_shifts(prepared), Trained.on(prepared))


def context_mean(prepared: Prepared, embedding: Coder | None = None) -> ShiftBaseline:
    """Predict the mean change of each perturbation over the training contexts, every context counted once.

    For a held-out context: what the label does in the other contexts. Elsewhere as `matching_mean`.
    """
    cells = training_cells(prepared)
    shifts = {label: shift_by_context(cells, label) for label in prepared.train_perturbations}
    return _matching(shifts, Trained.on(prepared))


def _matching(shifts: Mapping[str, Array], trained: Trained) -> ShiftBaseline:
    """Give each label its own shift, and an unseen one the mean over the shifts of its parts."""
    common = mean_shift(shifts)

    def rule(label: str) -> Array:
        if label in shifts:
            return shifts[label]
        return np.mean([shifts.get(part, common) for part in parts(label)], axis=0)

    return ShiftBaseline(rule, trained)


def additive(prepared: Prepared, embedding: Coder | None = None) -> ShiftBaseline:
    """Predict the sum of the single changes of the parts: ctrl + (A - ctrl) + (B - ctrl).

    A combination whose singles were not all seen takes its own training mean, and an unseen part the mean
    change.
    """
    shifts = training_shifts(prepared)
    common = mean_shift(shifts)

    def rule(label: str) -> Array:
        names = parts(label)
        if not all(name in shifts for name in names) and label in shifts:
            return shifts[label]
        return np.sum([shifts.get(name, common) for name in names], axis=0)

    return ShiftBaseline(rule, Trained.on(prepared))


def gene_scores(profiles: Array, components: int) -> Array:
    """Return the gene scores [G, K] of a PCA on pseudobulks [P, G] (genes as rows, samples as columns)."""
    table = profiles.T - profiles.T.mean(axis=0)
    left, scale, _ = np.linalg.svd(table, full_matrices=False)
    keep = min(components, int((scale > 1e-9 * scale[0]).sum()))
    return left[:, :keep] * scale[:keep]


def _ridge_solve(left: Array, target: Array, right: Array, ridge: float) -> Array:
    """Solve target [G, P] = left [G, K] W right [P, K]^T with a ridge on both sides; W [K, K]."""
    eye = np.eye(left.shape[1])
    inner = np.linalg.solve(left.T @ left + ridge * eye, left.T @ target @ right)
    return np.linalg.solve(right.T @ right + ridge * eye, inner.T).T


def linear(prepared: Prepared, embedding: Coder | None = None) -> ShiftBaseline:
    """Predict by `Y = G W P^T + b` (Ahlmann-Eltze 2025), which reaches unseen genes through their gene
    scores.

    G [G, K] are gene scores of a PCA on training pseudobulks, a row of P is the row of G of the target gene
    (summed over the parts of a combination), b the row means over training perturbations. It is fitted on
    perturbations whose targets are measured; another label raises a DataError.
    """
    cells, measured = training_cells(prepared), set(prepared.measured)
    known = [name for name in prepared.train_perturbations if set(parts(name)) <= measured]
    if len(known) < 2:
        raise DataError(
            f"The linear baseline needs two training perturbations with a measured target, and "
            f"{prepared.dataset} has {len(known)}: choose another dataset or leave the row out."
        )
    changes = np.stack([shift_of(cells, name) for name in known])
    control = cells.values[cells.of(CONTROL)].mean(axis=0)
    scores = gene_scores(np.vstack([control, control + changes]), LINEAR_COMPONENTS)
    row = {gene: i for i, gene in enumerate(prepared.genes)}

    def target(label: str) -> Array:
        missing = [name for name in parts(label) if name not in measured]
        if missing:
            never = "was never perturbed" if missing[0] in row else "is not among the genes"
            raise DataError(
                f"The linear baseline cannot reach {missing[0]} in {label}, which {never} of "
                f"{prepared.dataset}: choose one of {', '.join(sorted(measured))}."
            )
        return np.sum([scores[row[name]] for name in parts(label)], axis=0)

    centre = changes.mean(axis=0)
    weights = _ridge_solve(
        scores, (changes - centre).T, np.stack([target(name) for name in known]), LINEAR_RIDGE
    )
    trained = Trained.on(prepared)
    return ShiftBaseline(lambda label: scores @ (weights @ target(label)) + centre, trained)


@dataclass(frozen=True)
class LatentShift:
    """scGen's arithmetic: add the latent mean difference of a label, decode the change, add it to the
    control.
    """

    #: The dataset, for its scaler.
    prepared: Prepared
    #: Encoder and decoder.
    embedding: Coder
    #: The latent shift [D] of one label at dose 1.
    rule: Callable[[str], Array]
    #: What it was trained on.
    trained: Trained

    def predict(self, x_log1p: Array, labels: Sequence[str], dose: npt.ArrayLike | None = None) -> Array:
        """Return x + std * (decode(z + dose * shift) - decode(z)), [n, G] in log1p units."""
        import torch

        x, labels = self.trained.question(x_log1p, labels)
        doses = self.trained.doses_of(labels, dose)
        self.trained.warn(labels, doses)
        move = moves(self.rule, labels, doses, self.embedding.latent_dim).astype(np.float32)
        with torch.no_grad():
            z = encode_rows(self.prepared, self.embedding, x)
            change = self.embedding.decode(z + torch.from_numpy(move)) - self.embedding.decode(z)
        return (x + change.numpy() * np.asarray(self.prepared.std)).astype(x.dtype)


def encode_rows(prepared: Prepared, embedding: Coder, x_log1p: Array, batch: int = 2048) -> Tensor:
    """Return the latent cells [n, D] (torch, no gradient) of log1p cells [n, G], encoded in batches."""
    import torch

    scaled = torch.as_tensor(np.asarray(prepared.scale(x_log1p), dtype=np.float32))
    with torch.no_grad():
        return torch.cat([embedding.encode(block) for block in scaled.split(batch)])


def latent_shift(prepared: Prepared, embedding: Coder | None = None) -> LatentShift:
    """Fit scGen's latent mean difference of each label; unseen combinations add up, unseen parts take the
    mean.
    """
    if embedding is None:
        raise DataError("latent_shift needs an embedding: pass twinlib.embedding.train.pretrained(dataset).")
    cells = training_cells(prepared)
    latent = encode_rows(prepared, embedding, cells.values).numpy()
    shifts = {label: shift_of(cells, label, latent) for label in prepared.train_perturbations}
    common = mean_shift(shifts)

    def rule(label: str) -> Array:
        if label in shifts:
            return shifts[label]
        return np.sum([shifts.get(part, common) for part in parts(label)], axis=0)

    return LatentShift(prepared, embedding, rule, Trained.on(prepared))


#: Name of a baseline -> its fit(prepared, embedding=None).
BASELINES: dict[str, Callable[..., Baseline]] = {
    "no_change": no_change,
    "mean": mean,
    "matching_mean": matching_mean,
    "additive": additive,
    "linear": linear,
    "latent_shift": latent_shift,
    "context_mean": context_mean,
}


def ceiling(
    prepared: Prepared, perturbation: str, seed: int = 0, context: str | None = None
) -> tuple[Array, Array]:
    """Split the real test cells of a perturbation at random into two halves [n/2, G], in log1p units.

    The first half plays the prediction, the second the truth: the technical duplicate. A group of two or
    three cells gives halves of one; under two test cells raise a DataError.
    """
    cells = prepared.expression("test", perturbation=perturbation, context=context)
    if len(cells) < 2:
        raise DataError(
            f"{perturbation} has {len(cells)} test cells, too few for two halves: choose one with 2 or more."
        )
    order = np.random.default_rng(seed).permutation(len(cells))
    half = len(cells) // 2
    return cells[order[:half]], cells[order[half:]]
