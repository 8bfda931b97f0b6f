"""Anybody's predicted cells, read under the names of their own tool and held against the cells of a file.

The controls of a prediction file are not read: what a prediction changes is told from the real controls. A
row that names its control (obs["control"]), or is one, is held against that cell; where all test controls are
answered, what such answers owe to them is taken off as for any model of the book. Every other row is held
against the mean of real controls of its context that the truth does not hold: with shared controls the same
sampling error would stand on both sides of a correlation. A row that is itself a perturbed cell of the file
shares more than that with the truth; it is held against the truth's controls, and told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twinlib.checks import LARGEST_LOG1P
from twinlib.data import blocks, scale
from twinlib.data.labels import is_control
from twinlib.data.schema import CONTROL, parts
from twinlib.errors import DataError
from twinlib.evaluation.judge import Group
from twinlib.evaluation.saved import Key, resized
from twinlib.verdict.guesses import columns_named

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from twinlib.data.preparation import Prepared
    from twinlib.verdict.keys import Keys

Array = NDArray[np.float64]

#: From this share of rows on, predictions are told to share cells with the truth.
SHARED = 0.01
#: How that is told.
SHARE = "**These predictions share cells with the truth**"
#: A row is taken for a cell of the file if so many of its genes are not zero, and all are equal.
NONZERO = 5
#: Digits to which equal cells agree.
DIGITS = 3
#: What separates the parts of a combination in any tool.
JOINED = re.compile(r"[+|;&]")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted cells in the labels, genes and scale of a file."""

    #: Predicted cells [m, G], in the scale of the file.
    values: Array
    #: Perturbation, dose and context of each [m], as the file writes them.
    keys: tuple[Key, ...]
    #: Cell of the file that a row answers or is, "" for none [m].
    cells: NDArray[np.str_]
    #: Row of the file of predictions of each [m].
    rows: NDArray[np.int64]
    #: Names of the genes [G].
    genes: tuple[str, ...]
    #: What was found and assumed.
    told: tuple[str, ...]
    #: Share of the rows that are cells of the file.
    shared: float


def read_predictions(given: AnnData, truth: AnnData, keys: Keys) -> Predictions:
    """Read predicted cells of any tool against the canonical cells [n, G] of the truth.

    Raises
    ------
    DataError
        One sentence: no column of perturbations, no known label, context or gene, or another scale.
    """
    genes = [gene for gene in truth.var_names if gene in given.var_names]
    if len(genes) < 2:
        raise DataError(
            f"The predictions share {len(genes)} genes with the truth (first: {given.var_names[0]!r} and "
            f"{truth.var_names[0]!r}): give both the same names."
        )
    labels, column = _labels(given.obs, truth, keys)
    known = np.flatnonzero(labels != "")
    chosen = given[known]
    groups = _keys(chosen.obs, labels[known], truth, keys)
    values, in_scale = _values(chosen[:, genes], truth[:, genes])
    copies = _copies(values, truth[:, genes])
    named = _named(chosen.obs, truth)
    shared = float((copies != "").mean())
    told = [f"the labels of the predictions are taken from {column!r}", in_scale]
    told += [f"{truth.n_vars - len(genes)} of {truth.n_vars} genes are not predicted and left out"] * (
        len(genes) < truth.n_vars
    )
    unasked = {key[:2] for key in _asked(truth)} - {key[:2] for key in groups}
    told += [f"{len(unasked)} perturbations of the truth are not predicted"] * bool(unasked)
    told += ["every prediction names the control that it answers"] * bool((named != "").all())
    return Predictions(
        values, groups, np.where(named != "", named, copies), known, tuple(genes), tuple(told), shared
    )


def _asked(truth: AnnData) -> set[tuple[str, float]]:
    """Return the perturbations and doses of the truth."""
    pairs = zip(truth.obs["perturbation"].astype(str), truth.obs["dose"].astype(float), strict=True)
    return {pair for pair in pairs if pair[0] != CONTROL}


def _labels(obs: pd.DataFrame, truth: AnnData, keys: Keys) -> tuple[NDArray[np.str_], str]:
    """Return the label of each row [m] as the truth writes it, "" for controls and unknown ones."""
    own = {frozenset(parts(label)): label for label in truth.obs["perturbation"].astype(str).unique()}
    asked = [keys.column("perturbation")] if keys.perturbation else []
    for column in [*asked, "perturbation", *columns_named(obs, "perturbation")]:
        if column is None or column not in obs:
            continue
        labels = obs[column].astype(str).str.strip()
        table = {label: own.get(_parts(label), "") for label in labels.unique()}
        if any(table.values()):
            return labels.map(table).to_numpy(dtype=str), column
    raise DataError(
        f"No column of the predictions names a perturbation of the truth (there are {list(obs.columns)}; the "
        f"truth has {', '.join(sorted(filter(None, own.values()))[:3])}, ...): name it with "
        f"--perturbation-key."
    )


def _parts(label: str) -> frozenset[str]:
    """Return the parts of a label of any tool; controls drop out, and nothing is left of one."""
    pieces = [piece.strip() for piece in JOINED.split(label)]
    return frozenset(piece for piece in pieces if piece and not is_control(piece)) or frozenset([""])


def _keys(obs: pd.DataFrame, labels: NDArray[np.str_], truth: AnnData, keys: Keys) -> tuple[Key, ...]:
    """Return perturbation, dose and context of each row [m]."""
    contexts = _column(obs, truth, "cell_context", keys.column("context"), "context")
    doses = _doses(obs, labels, truth, keys)
    return tuple(zip(labels.tolist(), doses.tolist(), contexts.tolist(), strict=True))


def _column(obs: pd.DataFrame, truth: AnnData, ours: str, asked: str | None, key: str) -> NDArray[np.str_]:
    """Return a column [m] of names that the truth knows; it may be left out where there is one name."""
    known = set(truth.obs[ours].astype(str))
    if len(known) == 1:
        return np.full(len(obs), known.pop())
    for column in filter(None, [asked, ours, *columns_named(obs, key)]):
        if column in obs and set(obs[column].astype(str)) & known:
            return obs[column].astype(str).to_numpy(dtype=str)
    raise DataError(
        f"The truth holds {len(known)} contexts ({', '.join(sorted(known)[:3])}, ...), and no column of the "
        f"predictions names them: add obs[{ours!r}]."
    )


def _doses(obs: pd.DataFrame, labels: NDArray[np.str_], truth: AnnData, keys: Keys) -> Array:
    """Return doses [m]: the only one of each label in the truth, or those given where it has several."""
    table = truth.obs.groupby(truth.obs["perturbation"].astype(str))["dose"].unique()
    several = [label for label in set(labels.tolist()) if len(table[label]) > 1]
    names = [name for name in (keys.column("dose"), "dose", *columns_named(obs, "dose")) if name in obs]
    if several and names:
        given = obs[names[0]].to_numpy(dtype=np.float64)
        only = {label: float(doses[0]) for label, doses in table.items() if len(doses) == 1}
        return np.array([only.get(label, dose) for label, dose in zip(labels, given, strict=True)])
    if several:
        raise DataError(
            f"The truth holds several doses of {several[0]}, and the predictions name none: add obs['dose']."
        )
    return np.array([float(table[label][0]) for label in labels])


def _values(given: AnnData, truth: AnnData) -> tuple[Array, str]:
    """Return predicted cells [m, G] in the scale of the truth, and what they were taken for."""
    x = given.X
    in_scale = str(truth.uns["twinlib"]["scale"])
    if in_scale == "log1p" and scale.kind_of_values(x) == "counts":
        # genes that one side lacks: both come to one sum over the genes that they share
        sums = np.expm1(np.asarray(blocks.dense(truth.X), dtype=np.float64)).sum(axis=1)
        totals = blocks.row_sums(x) * 1e4 / sums[sums > 0].mean()
        logged = np.asarray(blocks.dense(scale.log_normalise(x, totals)), dtype=np.float64)
        return logged, "the predictions are taken for counts and normalised as the truth is"
    values = np.asarray(blocks.dense(x), dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("The predictions hold NaN or infinite values: give finite numbers.")
    largest = scale.LARGEST_LOG + 0.5 if in_scale == "log1p" else LARGEST_LOG1P
    if np.abs(values).max() > largest:
        raise DataError(
            f"The predictions reach {np.abs(values).max():.4g}, which {in_scale} of expression does not: "
            f"give "
            "log1p(counts per 10,000), or whole counts."
        )
    return values, f"the predictions are taken for {in_scale} values"


def _named(obs: pd.DataFrame, truth: AnnData) -> NDArray[np.str_]:
    """Return the control that each row names [m], "" where it names none of the truth's."""
    if "control" not in obs:
        return np.full(len(obs), "", dtype=object).astype(str)
    is_one = (truth.obs["perturbation"].astype(str) == CONTROL).to_numpy()
    known = set(truth.obs_names[is_one].astype(str))
    return obs["control"].astype(str).map(lambda name: name if name in known else "").to_numpy(dtype=str)


def _copies(values: Array, truth: AnnData) -> NDArray[np.str_]:
    """Return the name of the cell of the truth that each row [m] is, "" where it is none."""
    real, rows = _rounded(blocks.in_memory(truth.X)), _rounded(values)
    place = {row.tobytes(): str(name) for row, name in zip(real, truth.obs_names, strict=True)}
    enough = np.count_nonzero(rows, axis=1) >= NONZERO
    names = [place.get(row.tobytes(), "") if told else "" for row, told in zip(rows, enough, strict=True)]
    return np.array(names, dtype=object).astype(str)


def _rounded(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return values to which equal cells are equal to the bit."""
    return np.round(np.asarray(x, dtype=np.float32), DIGITS) + np.float32(0.0)  # without -0


@dataclass(frozen=True, eq=False)
class Moved:
    """Predicted cells of one group, and what they change."""

    #: Predicted cells [m, G].
    rows: Array
    #: Mean change [G].
    change: Array
    #: Whether row i answers the i-th test control of the context.
    answers: bool = False


@dataclass(frozen=True, eq=False)
class Foreign:
    """Predictions from elsewhere on one fold, as the judge asks for them."""

    #: Name of the row.
    name: str
    #: What is predicted of each group; one mapping a replica [R].
    groups: tuple[Mapping[Key, Moved], ...]

    @property
    def answers(self) -> bool:
        """Whether row i answers control i, in every group; else predictions are populations."""
        return all(moved.answers for groups in self.groups for moved in groups.values())

    @property
    def replicas(self) -> int:
        """Number of replicas R."""
        return len(self.groups)

    def reaches(self, group: Group) -> bool:
        """Whether every replica holds this group."""
        return all((group.perturbation, group.dose, group.cell_context) in groups for groups in self.groups)

    def predict(self, group: Group, cells: Array) -> Array:
        """Return the predicted population for controls [n, G], whose mean is moved by its change."""
        key = (group.perturbation, group.dose, group.cell_context)
        return np.stack([_placed(groups[key], cells) for groups in self.groups])


def _placed(moved: Moved, cells: Array) -> Array:
    drawn = resized(moved.rows, len(cells))
    return np.asarray(drawn + (cells.mean(axis=0) + moved.change - drawn.mean(axis=0)))


def on_fold(name: str, predictions: Predictions, prepared: Prepared) -> Foreign:
    """Return predictions as the judge asks for them on the test cells of one fold."""
    return Foreign(name, (_on_fold(predictions, prepared),))


def shuffled_on_fold(name: str, predictions: Predictions, prepared: Prepared, shuffles: int) -> Foreign:
    """Return the same predictions under labels dealt anew among perturbations, within contexts."""
    rng = np.random.default_rng(0)
    return Foreign(name, tuple(_on_fold(_dealt(predictions, rng), prepared) for _ in range(shuffles)))


def _dealt(predictions: Predictions, rng: np.random.Generator) -> Predictions:
    """Deal the groups of each context to one another, so that none keeps its own where there are others."""
    kinds = sorted({key[:2] for key in predictions.keys})
    order = rng.permutation(len(kinds))
    turned = {kinds[i]: kinds[j] for i, j in zip(order, np.roll(order, 1), strict=True)}
    return replace(predictions, keys=tuple((*turned[key[:2]], key[2]) for key in predictions.keys))


def _on_fold(predictions: Predictions, prepared: Prepared) -> dict[Key, Moved]:
    """Return what is predicted of each group on the panel of one fold."""
    column = {gene: i for i, gene in enumerate(predictions.genes)}
    values = predictions.values[:, [column[gene] for gene in prepared.genes]]
    held = _Held.of(prepared)
    groups: dict[Key, list[int]] = {}
    for row, key in enumerate(predictions.keys):
        groups.setdefault(key, []).append(row)
    made = {}
    for key, members in groups.items():
        moved = held.moved(values[members], predictions.cells[members], key[2])
        if moved is not None:
            made[key] = moved
    return made


@dataclass(frozen=True, eq=False)
class _Held:
    """The cells of one fold, by name, and the mean controls of each context on both sides of its split."""

    #: Cells [n, G] of the fold.
    x: Array
    #: Row of each cell.
    place: Mapping[str, int]
    #: Whether a cell [n] is a control, and whether it is a test cell.
    control: NDArray[np.bool_]
    test: NDArray[np.bool_]
    #: Context of each cell [n].
    context: NDArray[np.str_]
    #: Mean of the test controls, and of the others, of each context.
    truth: Mapping[str, Array]
    others: Mapping[str, Array]

    @staticmethod
    def of(prepared: Prepared) -> _Held:
        obs = prepared.cells.obs
        x = np.asarray(prepared.cells.X, dtype=np.float64)
        control = (obs["perturbation"].astype(str) == CONTROL).to_numpy()
        test = (obs["split"] == "test").to_numpy()
        context = obs["cell_context"].to_numpy(dtype=str)
        names = sorted(set(context[control & test]) & set(context[control & ~test]))
        truth = {name: x[control & test & (context == name)].mean(axis=0) for name in names}
        others = {name: x[control & ~test & (context == name)].mean(axis=0) for name in names}
        place = {str(name): i for i, name in enumerate(prepared.cells.obs_names)}
        return _Held(x, place, control, test, context, truth, others)

    def moved(self, rows: Array, cells: NDArray[np.str_], context: str) -> Moved | None:
        """Return what rows [m, G] predict in a context; None in an unknown one."""
        if context not in self.truth:
            return None
        places = np.array([self.place.get(name, -1) for name in cells.tolist()])
        known = places >= 0
        wanted = np.flatnonzero(self.control & self.test & (self.context == context))
        answers = {place: row for row, place in enumerate(places.tolist())}
        if set(wanted.tolist()) <= set(answers) and np.isin(places, wanted).sum() == len(wanted):
            rows = rows[[answers[place] for place in wanted.tolist()]]
            return Moved(rows, np.asarray((rows - self.x[wanted]).mean(axis=0)), answers=True)
        mine = known & self.test[places]
        if mine.any():  # of cells of the file only those that are judged here
            rows, places, known = rows[mine], places[mine], known[mine]
        start = np.tile(self.others[context], (len(rows), 1))
        copied = known & ~self.control[places]
        start[copied] = self.truth[context]
        answered = known & self.control[places]
        start[answered] = self.x[places[answered]]
        return Moved(rows, np.asarray((rows - start).mean(axis=0)))


def told_of_sharing(predictions: Predictions) -> Sequence[str]:
    """Return one sentence where predictions are cells of the truth."""
    if predictions.shared < SHARED:
        return ()
    return (
        f"{SHARE} ({predictions.shared:.0%} of the rows are cells of that file), so that "
        "their score is not that of a prediction and may exceed the ceiling.",
    )
