"""Trajectories in measured time beside pseudotime, similarity verdicts and the alarm, over five folds.

The twin is the experimental one, in the space of the principal components of the training cells of each
fold: five embeddings a dataset would take an hour. A unit is a perturbation in a context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.experiment import Experiment, Scratch, at_least_one, one_of, option
from experiments.part import Part, Row
from twinlib.data.folds import FOLDS
from twinlib.data.schema import CONTROL
from twinlib.evaluation import alarm
from twinlib.evaluation import trajectories as tracks

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from experiments.folder import Parts
    from twinlib.data.preparation import Prepared
    from twinlib.experimental.perturbation_model import PerturbationModel

Array = NDArray[np.float64]

#: Datasets of the run.
KNOWN = ("papalexi2021", "kang2018", "a549_dex", "waddington")
#: Those whose cells were harvested at several times.
TIMED = ("a549_dex", "waddington")
#: H: a path has H + 1 steps.
HORIZON = 15
#: A trajectory needs two cells a bin, so that it can be halved, and some of either kind.
MIN_CELLS, MIN_ARM = 2 * (HORIZON + 1), 5
#: Shares of the perturbed cells that are replaced.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: The waddington cells of this run, harvested at seven times after the treatment.
HARVESTED: Row = {
    "n_cells": 10_000,
    "snapshots": (1, 2, 4, 8, 16, 28, 40),
    "onset": 20.0,
    "control_weight": 2.0,
}
#: Agreement with the twin by the name of its setting.
AGREEMENTS: dict[str, alarm.Agreement] = {"shift": alarm.realised, "dtw_gain": alarm.gain}
#: Setting and model of each alarm; the last one needs pseudotime.
ALARMS = (("shift", "experimental"), ("shift", "straight_line"), ("dtw_gain", "experimental"))
#: Draws of each alarm.
ROUNDS = {"shift": 50, "dtw_gain": 20}
#: Halvings of the real cells.
HALVINGS = 20
#: What each setting of the tables means.
SETTINGS = {
    "pseudotime": "trajectory of sixteen equal-count bins of diffusion pseudotime",
    "measured": "trajectory of the means at the measured times, a twin's path taken at the same times",
    "shift": "alarm on the share of the predicted shift that the perturbed cells show",
    "dtw_gain": "alarm on what the trajectory gains on doing nothing in DTW, in pseudotime",
}


class Unit(NamedTuple):
    """What one trajectory is about."""

    perturbation: str
    context: str


def relabelled(prepared: Prepared, rng: np.random.Generator) -> Prepared:
    """Return the cells with the labels of training cells permuted within context and batch."""
    columns = ["perturbation", "perturbation_type", "dose", "target_measured"]
    cells = prepared.cells.copy()
    obs = cells.obs
    train = obs[(obs["split"] == "train").to_numpy()]
    order = np.arange(len(obs))
    place = dict(zip(obs.index, order, strict=True))
    for _, group in train.groupby(["cell_context", "batch"], observed=True):
        rows = np.array([place[name] for name in group.index])
        order[rows] = rng.permutation(rows)
    for name in columns:
        obs[name] = obs[name].array[order]
    return replace(prepared, cells=cells)


class Fold:
    """One fold: its cells, its space, its twin, and the paths that are asked of it."""

    def __init__(self, prepared: Prepared) -> None:
        from twinlib.embedding.components import Components

        self.prepared, self.space = prepared, Components(prepared)
        self._cells: dict[tuple[Unit, str, bool], tracks.RealCells] = {}
        self._asked: dict[tuple[PerturbationModel, str, str, str], Array] = {}
        self.latent = tracks.encode(prepared, self.space, np.asarray(prepared.cells.X)).astype(np.float32)

    @cached_property
    def twin(self) -> PerturbationModel:
        """The experimental twin of the fold."""
        return self.fitted(self.prepared)

    def fitted(self, prepared: Prepared, seed: int = 0) -> PerturbationModel:
        """Fit an experimental twin without its cell network, which hardly ever earns its place."""
        from twinlib.experimental.perturbation_model import PerturbationModelConfig, fit_perturbation_model

        config = PerturbationModelConfig(cell_network=False)
        return fit_perturbation_model(prepared, self.space, config=config, seed=seed, latent=self.latent)

    def units(self, part: str = "test", least: int = 0) -> list[Unit]:
        """Return the units with enough cells of either kind in a part of the split."""
        kept = []
        for name in self.prepared.train_perturbations:
            for context in sorted(self.prepared.cells.obs["cell_context"].astype(str).unique()):
                sizes = [len(self.prepared.rows(part, kind, context)) for kind in (name, CONTROL)]
                if min(sizes) >= MIN_ARM and sum(sizes) >= least:
                    kept.append(Unit(name, context))
        return kept

    def judged(self) -> list[Unit]:
        """Return the units that an alarm can judge: with validation cells for its threshold, too."""
        known = self.units("validation")
        return [unit for unit in self.units() if unit in known]

    def cells(self, unit: Unit, part: str = "test", measured: bool = False) -> tracks.RealCells:
        """Return the real cells of a unit."""
        key = unit, part, measured
        if key not in self._cells:
            name, context = unit
            self._cells[key] = tracks.real_cells(
                self.prepared, self.space, name, HORIZON, part, measured, context
            )
        return self._cells[key]

    def path(self, model: PerturbationModel, unit: Unit, name: str = "", part: str = "test") -> Array:
        """Return a twin's mean path [H + 1, D] over the controls of a unit, asked for `name` if given."""
        label = name or unit.perturbation
        key = model, label, unit.context, part
        if key not in self._asked:
            controls = self.prepared.expression(part, CONTROL, unit.context)
            steps = model.trajectory(controls, [label] * len(controls), HORIZON)
            self._asked[key] = np.asarray(steps.mean(axis=0), dtype=np.float64)
        return self._asked[key]

    def training_mean(self, unit: Unit) -> Array:
        """Return the mean of the training cells of a unit [D]."""
        rows = self.prepared.rows("train", unit.perturbation, unit.context)
        return np.asarray(self.latent[rows].mean(axis=0), dtype=np.float64)

    def line(self, unit: Unit, start: Array) -> Array:
        """Return the straight line [H + 1, D] of a unit."""
        return tracks.straight_line(start, self.training_mean(unit), HORIZON)

    def shift_line(self, unit: Unit, start: Array) -> Array:
        """Return a line [H + 1, D] along the training change, which shares no control with the start."""
        controls = self.latent[self.prepared.rows("train", CONTROL, unit.context)].mean(axis=0)
        return tracks.straight_line(start, start + self.training_mean(unit) - controls, HORIZON)

    def shuffled(self, seeds: int) -> Callable[[Unit], list[Array]]:
        """Return what gives the paths of the same twin with shuffled labels, one a seed.

        Where there are several perturbations the twin is asked for another one; where there is one, it is
        fitted to training labels permuted within context and batch.
        """
        names = list(self.prepared.train_perturbations)
        rngs = [np.random.default_rng([1, seed]) for seed in range(seeds)]
        if len(names) == 1:
            models = [self.fitted(relabelled(self.prepared, rng), seed) for seed, rng in enumerate(rngs)]
            return lambda unit: [self.path(model, unit) for model in models]
        rounds = [list(rng.permutation(names)) for rng in rngs]
        turned = [dict(zip(order, [*order[1:], order[0]], strict=True)) for order in rounds]
        return lambda unit: [self.path(self.twin, unit, str(other[unit.perturbation])) for other in turned]


def paths(fold: Fold, unit: Unit, start: Array, shuffled: list[Array]) -> Iterator[tuple[str, int, Array]]:
    """Yield model, seed and path [H + 1, D] of the twin and of every reference that has sixteen steps."""
    yield "do_nothing", 0, tracks.do_nothing(start, HORIZON)
    line = fold.line(unit, start)
    yield "straight_line", 0, line
    length = float(np.linalg.norm(line[-1] - line[0]))
    for seed in range(len(shuffled)):
        rng = np.random.default_rng([2, seed])
        yield "random", seed, tracks.random_line(start, length, HORIZON, rng)
    yield "experimental", 0, fold.path(fold.twin, unit)
    for seed, path in enumerate(shuffled):
        yield "experimental_shuffled", seed, path


def trajectory_rows(fold: Fold, unit: Unit, cells: tracks.RealCells, shuffled: list[Array]) -> Iterator[Row]:
    """Yield every distance from the real trajectory of one unit and one clock."""
    rng, real = np.random.default_rng(3), cells.trajectory
    asked = [
        (m, s, tracks.at_positions(p, cells.positions))
        for m, s, p in paths(fold, unit, cells.start, shuffled)
    ]
    asked.append(("reversed", 0, tracks.reversed_time(real)))
    if cells.measured:
        asked.append(("training_times", 0, training_times(fold, unit, cells)))
    halves = [cells.halves(rng) for _ in range(HALVINGS)]
    head = unit._asdict() | {"setting": "measured" if cells.measured else "pseudotime"}
    for distance in tracks.DISTANCES:
        floor = np.mean([tracks.trajectory_distance(a, b, distance) for a, b in halves])
        yield head | {"model": "real_halves", "seed": 0, "metric": distance, "value": float(floor)}
        for model, seed, path in asked:
            value = tracks.trajectory_distance(path, real, distance)
            yield head | {"model": model, "seed": seed, "metric": distance, "value": value}
    yield head | {"model": "real", "seed": 0, "metric": "path_length", "value": tracks.path_length(real)}


def training_times(fold: Fold, unit: Unit, cells: tracks.RealCells) -> Array:
    """Return the means [T, D] of the training cells at the measured times: what knowing the time tells."""
    rows = np.concatenate(
        [fold.prepared.rows("train", name, unit.context) for name in (CONTROL, unit.perturbation)]
    )
    time = fold.prepared.cells.obs["time"].to_numpy(dtype=np.float64)[rows]
    kept = np.isin(time, np.unique(cells.time))
    return tracks.means_at_times(fold.latent[rows[kept]], time[kept])


def clock_rows(unit: Unit, guessed: tracks.RealCells, known: tracks.RealCells) -> Iterator[Row]:
    """Yield the rank correlation of pseudotime with measured time, over all and over treated cells."""
    from scipy.stats import spearmanr

    for metric, rows in (
        ("spearman_all", np.ones(len(known.time), dtype=bool)),
        ("spearman_treated", known.perturbed),
    ):
        order = guessed.time[rows]  # one value for all cells orders nothing: 0
        value = float(spearmanr(order, known.time[rows]).statistic) if np.ptp(order) > 0 else 0.0
        yield (
            {"model": "pseudotime", "seed": 0, "metric": metric, "value": value}
            | unit._asdict()
            | {"setting": "measured"}
        )


def alarm_rows(fold: Fold, unit: Unit, timed: bool) -> Iterator[Row]:
    """Yield how often a unit is flagged, by the twin's and the straight line's agreement."""
    sound, asked = (alarm_cells(fold, unit, part, timed) for part in ("validation", "test"))
    models = {
        "experimental": fold.path(fold.twin, unit, part="validation"),
        "straight_line": fold.shift_line(unit, sound.start),
    }
    for setting, model in ALARMS if timed else ALARMS[:2]:
        rates = alarm.alarm_rates(
            models[model],
            sound,
            asked,
            np.random.default_rng(4),
            AGREEMENTS[setting],
            SHARES,
            ROUNDS[setting],
        )
        head = unit._asdict() | {"setting": setting, "model": model, "seed": 0, "metric": "flagged"}
        for share, flagged in zip(rates["share"], rates["flagged"], strict=True):
            yield head | {"against": f"{share:g}", "value": flagged}


def alarm_cells(fold: Fold, unit: Unit, part: str, timed: bool) -> tracks.RealCells:
    """Return the cells that an alarm judges; without pseudotime all stand at time 0."""
    if timed:
        return fold.cells(unit, part)
    rows = [fold.prepared.rows(part, name, unit.context) for name in (CONTROL, unit.perturbation)]
    latent = fold.latent[np.concatenate(rows)].astype(np.float64)
    perturbed = np.repeat([False, True], [len(kind) for kind in rows])
    return tracks.RealCells(latent, np.zeros(len(latent)), perturbed, HORIZON)


def group_rows(fold: Fold) -> Iterator[Row]:
    """Yield sizes, p value and kept response of every unit; the p value is empty where nothing was tested."""
    from twinlib.data.effect_tests import effect_table

    prepared = fold.prepared
    tests = effect_table([prepared], np.random.default_rng(6), by_context=True)
    p_values = tests.set_index(["perturbation", "cell_context"])["p"].to_dict()
    kept = prepared.kept_response().share
    for unit in fold.units():
        name, context = unit
        sizes = [len(prepared.rows("test", kind, context)) for kind in (name, CONTROL)]
        row = {"perturbation": name, "dose": 1.0, "cell_context": context}
        row |= dict(zip(("n_cells", "n_controls"), sizes, strict=True))
        yield row | {"p_value": p_values[unit], "kept_response": kept}


def with_effect(groups: pd.DataFrame) -> pd.DataFrame:
    """Return the groups with the columns called (in the fold) and has_effect (in three folds or more)."""
    from twinlib.data.effect_tests import called, has_effect

    keys = ["part", "perturbation", "cell_context"]
    tested = groups[groups["p_value"].notna()].copy()
    tested["called"] = tested.groupby(["part", "split"])["p_value"].transform(lambda p: called(p.to_numpy()))
    calls = tested.pivot_table(index="split", columns=keys, values="called", fill_value=0)
    effect = dict(zip(map(tuple, calls.columns), has_effect(calls.to_numpy() > 0).tolist(), strict=True))
    names = groups[keys].itertuples(index=False, name=None)
    return groups.assign(called=tested["called"], has_effect=[bool(effect.get(key, False)) for key in names])


def cells_of(dataset: str) -> tuple[AnnData, int]:
    """Return the canonical cells of a dataset and the size of its panel; waddington is harvested in time."""
    from twinlib.data import sources
    from twinlib.data.simulated import simulate_waddington
    from twinlib.landscapes.myeloid import GENES

    panel = sources.dataset(dataset).panel
    if dataset == "waddington":
        return simulate_waddington(perturbations=GENES, **HARVESTED), panel
    return sources.load(dataset), panel


def tidy(head: Row, row: Row) -> Row:
    """Return a row in the one form of table (architecture)."""
    unit = {"perturbation": row["perturbation"], "dose": 1.0, "cell_context": row["context"]}
    middle = {"model": row["model"], "setting": row["setting"], "seed": row["seed"]}
    middle["against"] = row.get("against", "real")
    return head | middle | unit | {"space": "latent", "metric": row["metric"], "value": row["value"]}


@dataclass(frozen=True)
class Trajectories(Experiment):
    """Real trajectories in pseudotime and measured time, every reference, and the alarm, fold by fold."""

    name = "trajectories"
    packed = ("scores", "groups")

    dataset: str = option("a549_dex", f"one of {', '.join(KNOWN)}; several: DIR/NAME each")
    seeds: int = option(10, "draws of shuffled labels and random lines")
    shams: int = option(2, "draws of sham labels a fold")

    def __post_init__(self) -> None:
        at_least_one(self, "seeds", "shams")
        one_of("dataset", (self.dataset,), KNOWN)

    def parts(self, finished: Parts) -> Sequence[str]:
        """One part a fold, and one a fold and draw of sham labels."""
        draws = ["test", *(f"sham{draw}" for draw in range(1, self.shams + 1))]
        return [f"{draw}~{fold}" for draw in draws for fold in range(1, FOLDS + 1)]

    @cached_property
    def source(self) -> tuple[AnnData, int]:
        """The cells and the size of the panel."""
        return cells_of(self.dataset)

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Score one fold of the cells, or of controls with sham labels."""
        from twinlib.data.effect_tests import sham_labels
        from twinlib.data.preparation import prepare

        draw, _, number = part.partition("~")
        cells, panel = self.source
        if draw != "test":
            cells = sham_labels(cells, np.random.default_rng([5, int(draw.removeprefix("sham"))]))
        fold = Fold(prepare(cells, panel, fold=int(number)))
        head = {"experiment": self.name, "dataset": self.dataset, "split_kind": "cells"}
        head |= {"split": f"fold {number}", "part": draw}
        rows = self._rows(fold, self.dataset in TIMED) if draw == "test" else sham_rows(fold)
        groups = [head | row for row in group_rows(fold)]
        facts = self._facts(fold) if draw == "test" else {}
        return Part({"scores": [tidy(head, row) for row in rows], "groups": groups}, run=facts)

    def _rows(self, fold: Fold, timed: bool) -> Iterator[Row]:
        """Yield the rows of every unit: both clocks where time was measured, and the alarm."""
        shuffled = fold.shuffled(self.seeds)
        long = fold.units(least=MIN_CELLS)
        for unit in fold.judged():
            yield from alarm_rows(fold, unit, unit in long)
        for unit in long:
            guessed = fold.cells(unit)
            yield from trajectory_rows(fold, unit, guessed, shuffled(unit))
            if timed:
                known = fold.cells(unit, measured=True)
                yield from trajectory_rows(fold, unit, known, shuffled(unit))
                yield from clock_rows(unit, guessed, known)

    def _facts(self, fold: Fold) -> Row:
        """Return what the manifest says of the cells."""
        prepared = fold.prepared
        facts = {f"fingerprint_fold_{prepared.fold}": prepared.fingerprint, "data_hash": prepared.data_hash}
        facts["panel_rule"] = prepared.panel_rule
        facts["truth_rule"] = (
            "test cells and test controls of one context, which no threshold or twin has seen"
        )
        facts["space"] = f"{fold.space.latent_dim} principal components of the training cells of each fold"
        return facts

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return scores, groups with the calls of all folds, and what the settings mean."""
        import pandas as pd

        made = super().tables(finished)
        settings = pd.DataFrame(SETTINGS.items(), columns=["setting", "meaning"])
        return made | {"groups": with_effect(made["groups"]), "settings": settings}


def sham_rows(fold: Fold) -> Iterator[Row]:
    """Yield the rows of the alarm for labels that mean nothing."""
    for unit in fold.judged():
        yield from alarm_rows(fold, unit, timed=False)
