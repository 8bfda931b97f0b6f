"""The one judge: any predictor, any split, any part, to tidy rows.

Truth is the mean of test cells less the mean of test controls, within each context; predictions start from
the same test controls, and what the two changes owe to these alone is taken off (`scoring.shared_error`).
Contexts are weighted by their test cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinlib.checks import finite_arrays
from twinlib.errors import DataError
from twinlib.evaluation.calibration import changes, halves
from twinlib.evaluation.cases import Case, cases_of, groups_of, split_name
from twinlib.evaluation.scoring import (
    Values,
    by_context,
    cell_values,
    departures,
    mean_values,
    nothing,
    ranks,
    scored,
    shared_error,
    with_values,
)

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.data.preparation import Prepared

Array = NDArray[np.float64]

#: Halvings of the test cells over which the row `replicate` is averaged.
HALVINGS = 50
#: Halvings for the metrics of whole cells, which cost more.
CLOUD_HALVINGS = 5
#: Columns of the table of scores.
SCORES = (
    "experiment", "dataset", "split_kind", "split", "part", "model", "setting", "seed", "against",
    "perturbation", "dose", "cell_context", "space", "metric", "value",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """What one prediction is about."""

    #: Label of the perturbation.
    perturbation: str
    #: Its dose.
    dose: float
    #: Context of the controls that are moved.
    cell_context: str
    #: Batch of the perturbed cells; "" where they come from several.
    batch: str


class Predictor(Protocol):
    """Anything that moves controls: a baseline, a twin, a policy after t steps, a stranger's predictions."""

    @property
    def name(self) -> str:
        """Name of the row."""
        ...

    @property
    def replicas(self) -> int:
        """Number of trained replicas R."""
        ...

    @property
    def answers(self) -> bool:
        """Whether row i answers control i; if not, a prediction is a population."""
        ...

    def reaches(self, group: Group) -> bool:
        """Whether this group can be predicted at all."""
        ...

    def predict(self, group: Group, cells: Array) -> Array:
        """Move controls [n, G] to predictions [R, n, G], in the data's scale."""
        ...


class Knowledge(Protocol):
    """What a supervised model was trained on."""

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the panel [G]."""
        ...


class OneModel(Protocol):
    """A supervised model of one replica, as `twinlib.experimental` fits them."""

    @property
    def trained(self) -> Knowledge:
        """What it was trained on."""
        ...

    def predict(
        self, x_log1p: Array, labels: Sequence[str], dose: ArrayLike | None = None
    ) -> NDArray[np.floating]:
        """Move controls [n, G] to predictions [n, G]."""
        ...


@dataclass(frozen=True)
class Supervised:
    """Supervised models, one replica each, as a predictor."""

    #: Name of the row.
    name: str
    #: The fitted models [R].
    models: tuple[OneModel, ...]
    #: Row i answers control i.
    answers: bool = True

    @property
    def replicas(self) -> int:
        """Number of models R."""
        return len(self.models)

    def reaches(self, group: Group) -> bool:
        """Whether every model answers; one that cannot raises a DataError."""
        try:
            self.predict(group, np.zeros((1, len(self.models[0].trained.genes))))
        except DataError:
            return False
        return True

    def predict(self, group: Group, cells: Array) -> Array:
        """Move controls [n, G] to [R, n, G]."""
        labels = [group.perturbation] * len(cells)
        answers = [model.predict(cells, labels, group.dose) for model in self.models]
        return np.stack(answers).astype(np.float64, copy=False)


def supervised(name: str, models: Sequence[OneModel]) -> Supervised:
    """Turn supervised models, one replica each, into a predictor."""
    return Supervised(name, tuple(models))


@dataclass(frozen=True)
class NoChange:
    """Doing nothing: the controls themselves."""

    #: Name of the row.
    name: str = "no_change"
    #: One replica.
    replicas: int = 1
    #: Row i answers control i.
    answers: bool = True

    def reaches(self, group: Group) -> bool:
        """Return that every group is reached."""
        return True

    def predict(self, group: Group, cells: Array) -> Array:
        """Return the controls [1, n, G]."""
        return cells[None]


@dataclass(frozen=True, eq=False)
class Tables:
    """What `evaluate` returns, in the tidy form that results/ keeps."""

    #: One value a row, columns `SCORES`; NaN where a group is too small for its metric.
    scores: pd.DataFrame
    #: One group a row, columns `cases.GROUPS`.
    groups: pd.DataFrame


def evaluate(
    prepared: Prepared,
    predictors: Sequence[Predictor],
    *,
    experiment: str,
    part: str = "test",
    seed: int = 0,
    setting: str = "",
    single_cells: bool = True,
) -> Tables:
    """Score predictors on one part of a split, beside the rows `no_change` and `replicate`.

    Parameters
    ----------
    prepared
        One fold of one split.
    predictors
        What is scored; a perturbation that one cannot reach has no row of it.
    experiment, setting
        Written into the table.
    part
        train, validation or test.
    seed
        Number of the first replica; halves and random partners are the same in every call.
    single_cells
        Whether cells are matched and the metrics of single cells computed, which takes half of the time.
    """
    import pandas as pd

    judge = Judge.of(prepared, part, single_cells)
    place = {"dataset": prepared.dataset, "split_kind": prepared.split, "split": split_name(prepared)}
    head: dict[str, object] = {"experiment": experiment, **place, "part": part, "setting": setting}
    records = judge.records(judge.replicate(), head | {"model": "replicate", "seed": 0})
    for predictor in (NoChange(), *predictors):
        first = 0 if isinstance(predictor, NoChange) else seed
        for number, rows in enumerate(judge.replicas(predictor), start=first):
            records += judge.records(rows, head | {"model": predictor.name, "seed": number})
    return Tables(pd.DataFrame(records, columns=list(SCORES)), groups_of(prepared, part))


@dataclass(frozen=True, eq=False)
class Row:
    """One replica's answer to one case."""

    #: Metrics of populations by context; "" is the weighted whole.
    values: Values
    #: Metrics of single cells by pairing and space.
    cells: Mapping[tuple[str, str], Values]
    #: Predicted change [G] by context, where there is one.
    guess: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Judge:
    """The cases of one part of a split, and how answers to them are scored."""

    #: One a perturbation and dose.
    cases: tuple[Case, ...]
    #: `log1p` or `arcsinh`.
    space: str
    #: Mean and s.d. of the training cells [G].
    scaler: tuple[Array, Array]
    #: Genes [G] that nobody perturbed: PDS reads these.
    untouched: NDArray[np.bool_]
    #: Whether the data hold several contexts; with one, the whole is the context.
    several: bool
    #: Mean of the centroids of the training perturbations [G] by context: Systema's reference.
    centroids: Mapping[str, Array]

    @staticmethod
    def of(prepared: Prepared, part: str, single_cells: bool = True) -> Judge:
        """Collect what one part of a split asks, with or without partners of single cells."""
        return Judge(
            cases_of(prepared, part, single_cells),
            prepared.scale_of_data,
            (prepared.mean.astype(np.float64), prepared.std.astype(np.float64)),
            ~np.isin(prepared.genes, prepared.measured),
            prepared.cells.obs["cell_context"].astype(str).nunique() > 1,
            mean_centroids(prepared),
        )

    def replicas(self, predictor: Predictor) -> list[dict[int, Row]]:
        """Return the answers of each replica [R] by number of the case, those out of reach left out."""
        rows: list[dict[int, Row]] = [{} for _ in range(predictor.replicas)]
        for number, case in enumerate(self.cases):
            groups = _groups(case)
            if not all(predictor.reaches(group) for group in groups):
                continue
            predictions = _predict(predictor, case, groups)
            for replica, row in enumerate(rows):
                row[number] = self._row(case, [p[replica] for p in predictions], predictor.answers)
        truth = {
            n: by_context(case.arms, changes(case.arms)) for n, case in enumerate(self.cases) if case.arms
        }
        return [_with_ranks(row, truth, self.untouched) for row in rows]

    def _row(self, case: Case, predicted: Sequence[Array], answers: bool) -> Row:
        """Score predictions [n, G] for the controls of each context."""
        if case.arms is None:
            return Row({"": nothing()}, {}, {})
        pairs = zip(predicted, case.arms.controls, strict=True)
        shift = np.stack([(guess - start).mean(0) for guess, start in pairs])
        pairs = zip(case.arms.controls, predicted, strict=True)
        shared = [shared_error(start, guess) for start, guess in pairs] if answers else []
        values = scored(case.arms, shift, predicted, shared)
        values = with_values(values, departures(case.arms, predicted, self.centroids))
        values |= dict.fromkeys(case.arms.dropped, nothing())
        cells = self._cells(case, predicted) if answers else {}
        return Row(values, cells, by_context(case.arms, shift))

    def _cells(self, case: Case, predicted: Sequence[Array]) -> dict[tuple[str, str], Values]:
        """Return the metrics of single cells against the OT match and against a random cell."""
        scalers = {self.space: (np.zeros(1), np.ones(1)), "z": self.scaler}
        return {
            (pairing, space): cell_values(case.arms, predicted, partners, scaler)
            for pairing, partners in case.partners.items()
            for space, scaler in scalers.items()
            if case.arms is not None
        }

    def replicate(self) -> dict[int, Row]:
        """Score one half of the cells of both arms against the other, mean over halvings."""
        rng = np.random.default_rng(0)
        halvings = [self._halving(rng, clouds=number < CLOUD_HALVINGS) for number in range(HALVINGS)]
        return {
            number: Row(mean_values([rows[number].values for rows in halvings]), {}, {})
            for number in range(len(self.cases))
        }

    def _halving(self, rng: np.random.Generator, clouds: bool) -> dict[int, Row]:
        """Score one half against the other; all cases halve the controls of a context alike."""
        order = {name: rng.permutation(size) for name, size in self._controls().items()}
        rows, truth = {}, {}
        for number, case in enumerate(self.cases):
            pair = halves(case.arms, rng, order) if case.arms else None
            rows[number] = Row({"": nothing()}, {}, {})
            if pair is not None:
                shift, truth[number] = changes(pair[0]), by_context(pair[1], changes(pair[1]))
                values = scored(pair[1], shift, pair[0].perturbed if clouds else None)
                values = with_values(values, departures(pair[1], pair[0].perturbed, self.centroids))
                rows[number] = Row(values, {}, by_context(pair[0], shift))
        return _with_ranks(rows, truth, self.untouched)

    def _controls(self) -> dict[str, int]:
        """Return how many controls each context holds."""
        pairs = (zip(c.arms.contexts, c.arms.controls, strict=True) for c in self.cases if c.arms)
        return {name: len(cells) for case in pairs for name, cells in case}

    def records(self, rows: Mapping[int, Row], head: Mapping[str, object]) -> list[dict[str, object]]:
        """Return the values of the answers as rows of the table of scores."""
        records = []
        for number, row in rows.items():
            case = self.cases[number]
            about = {**head, "perturbation": case.perturbation, "dose": case.dose}
            for (pairing, space), values in {("", self.space): row.values, **row.cells}.items():
                records += _flat(values, {**about, "against": pairing, "space": space}, self.several)
        return records


def mean_centroids(prepared: Prepared) -> dict[str, Array]:
    """Return the mean over training perturbations of their mean cell [G], by context.

    A context in which one perturbation alone was trained has none: that perturbation would be its own
    reference.
    """
    from twinlib.data.schema import CONTROL

    obs, values = prepared.cells.obs, np.asarray(prepared.cells.X, dtype=np.float64)
    trained = ((obs["split"] == "train") & (obs["perturbation"] != CONTROL)).to_numpy()
    label, context = (obs[name].to_numpy(dtype=str) for name in ("perturbation", "cell_context"))
    means: dict[str, list[Array]] = {}
    for name, place in sorted(set(zip(label[trained], context[trained], strict=True))):
        chosen = trained & (label == name) & (context == place)
        means.setdefault(place, []).append(values[chosen].mean(axis=0))
    return {place: np.mean(rows, axis=0) for place, rows in means.items() if len(rows) > 1}


def _groups(case: Case) -> list[Group]:
    """Return what is asked about a case: one group for each context that counts."""
    contexts = case.arms.contexts if case.arms else ()
    return [Group(case.perturbation, case.dose, name, case.batch) for name in contexts]


def _predict(predictor: Predictor, case: Case, groups: Sequence[Group]) -> list[Array]:
    """Return predictions [R, n, G] for the controls of each context; another shape is refused."""
    predictions = []
    for group, cells in zip(groups, case.arms.controls if case.arms else (), strict=True):
        axes = f"R={predictor.replicas} n={len(cells)} G={cells.shape[1]}"
        predictions += finite_arrays(predictions=(predictor.predict(group, cells), axes))
    return predictions


def _with_ranks(
    rows: Mapping[int, Row], truth: Mapping[int, Mapping[str, Array]], genes: NDArray[np.bool_]
) -> dict[int, Row]:
    """Add the perturbation discrimination score to the values of each answer."""
    ranked = ranks({number: row.guess for number, row in rows.items()}, truth, genes)
    return {
        number: Row(
            {name: v | {"pds": ranked[number].get(name, np.nan)} for name, v in row.values.items()},
            row.cells,
            row.guess,
        )
        for number, row in rows.items()
    }


def _flat(values: Values, about: dict[str, object], several: bool) -> list[dict[str, object]]:
    """Return one record a value; where there is one context, it stands as the whole."""
    return [
        {**about, "cell_context": name, "metric": metric, "value": value}
        for name, metrics in values.items()
        if several or name == ""
        for metric, value in metrics.items()
    ]
