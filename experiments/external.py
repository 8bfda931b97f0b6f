"""STATE and scGen on the folds of the experimental twin, each in an environment of its own.

A model sees the training cells of a fold on its panel, and test controls as questions; what it answers is
read back as a stranger's saved predictions and judged beside the baselines. STATE's licence (arc-state) is
non-commercial: it is no dependency of the project.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from experiments.experiment import Experiment, Scratch, at_least_one, one_of, option
from experiments.experimental import (
    EFFECT,
    SPLITS,
    TRUTH,
    ExperimentalSplits,
    effects_of,
    texts,
)
from experiments.outside.environments import OUTSIDERS, installed, predict
from experiments.outside.exchange import export
from experiments.part import Part, Row
from twinlib.data.effect_tests import sham_labels
from twinlib.data.folds import FOLDS
from twinlib.data.held_out import held_out_groups
from twinlib.data.preparation import PARTS, Prepared, prepare
from twinlib.data.sources import dataset as entry
from twinlib.errors import InputError
from twinlib.evaluation.judge import Predictor, evaluate, supervised
from twinlib.evaluation.saved import Saved, saved_predictions
from twinlib.evaluation.summaries import with_effects
from twinlib.experimental.baselines import BASELINES

if TYPE_CHECKING:
    from anndata import AnnData

    from experiments.folder import Parts

#: Splits whose labels were all seen in training: these models have a code for no other.
KINDS = ("cells", "contexts")
#: Rows beside them; `no_change` and `replicate` are the judge's own.
BESIDE = ("mean", "matching_mean", "context_mean")


@dataclass(frozen=True)
class External(Experiment):
    """Models of other groups beside the baselines, on the same units."""

    name = "external"
    packed: ClassVar[tuple[str, ...]] = ("scores", "groups")

    dataset: str = option("kang2018", f"one of {', '.join(SPLITS)}; several: DIR/NAME each")
    split: str = option("contexts", f"one of {', '.join(KINDS)}")
    model: tuple[str, ...] = option(("state", "scgen"), f"any of {', '.join(OUTSIDERS)}")
    seeds: int = option(1, "training seeds of each model")
    part: str = option("test", "test, or validation to choose settings by")
    steps: int = option(0, "steps (state) or passes (scgen) of a training; 0: each model's own")
    null: int = option(0, f"folds with sham labels, up to {FOLDS}, where nothing is to be found")

    def __post_init__(self) -> None:
        one_of("split table of", [self.dataset], tuple(SPLITS))
        one_of(f"split of {self.dataset} for these models", [self.split], self._kinds)
        known = [name for name in OUTSIDERS if self.split == "contexts" or not OUTSIDERS[name].controls]
        one_of(f"model for {self.split}", self.model, known)
        one_of("part", [self.part], PARTS[1:])
        at_least_one(self, "seeds")
        if not 0 <= self.null <= FOLDS or self.steps < 0:
            raise InputError(
                f"null is {self.null} and steps is {self.steps}; give 0 to {FOLDS} folds and 0 or more steps."
            )

    @property
    def _kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if kind in SPLITS[self.dataset])

    @cached_property
    def cells(self) -> AnnData:
        """The cells of the dataset, as the experimental twin's tables take them."""
        return ExperimentalSplits(self.dataset).loaded

    def parts(self, finished: Parts) -> Sequence[str]:
        """The effect test, then one part a fold or context, then the null panel."""
        folds = len(held_out_groups(self.split, self.cells))
        parts = ["effects", *(f"{self.split}~{i + 1}" for i in range(folds))]
        return parts + [f"null~{i + 1}" for i in range(self.null)]

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Test for effects, or train every model on one fold and score it."""
        kind, _, number = part.partition("~")
        if kind == "effects":
            size = entry(self.dataset).panel
            folds = [prepare(self.cells, size, fold=fold) for fold in range(1, FOLDS + 1)]
            return Part({"effects": effects_of(folds)})
        return self._scored(self._prepared(kind, int(number)), scratch.folder / part)

    def _prepared(self, kind: str, number: int) -> Prepared:
        """Prepare one fold as the experimental twin's tables do."""
        size = entry(self.dataset).panel
        if kind == "null":
            return prepare(sham_labels(self.cells, np.random.default_rng(0)), size, fold=number)
        held_out = held_out_groups(kind, self.cells)[number - 1]
        fold = number if kind == "cells" else 1
        return prepare(self.cells, size, kind, fold=fold, held_out=held_out)

    def _scored(self, prepared: Prepared, folder: pathlib.Path) -> Part:
        """Train every model on one fold in a folder, and judge what they answer beside the baselines."""
        rows: list[Predictor] = [supervised(name, [BASELINES[name](prepared)]) for name in BESIDE]
        seconds = {}
        for name in self.model:
            row, seconds[OUTSIDERS[name].row] = self._answers(name, prepared, folder)
            rows.append(row)
        made = evaluate(prepared, rows, experiment=self.name, part=self.part)
        facts = {"seconds": seconds, "fingerprint": prepared.fingerprint}
        about = {"data_hash": prepared.data_hash, "panel_rule": prepared.panel_rule}
        return Part({"scores": made.scores, "groups": made.groups}, facts | about, about)

    def _answers(self, name: str, prepared: Prepared, folder: pathlib.Path) -> tuple[Saved, list[float]]:
        """Train a model with every seed and read its answers back; return the seconds of each training."""
        from anndata import read_h5ad

        outsider = OUTSIDERS[name]
        steps = self.steps or outsider.steps
        place = folder / "controls" if outsider.controls else folder
        export(prepared, place, self.part, outsider.controls)
        paths, seconds = zip(*(predict(name, place, seed, steps) for seed in range(self.seeds)), strict=True)
        answers = [read_h5ad(path) for path in paths]
        return saved_predictions(outsider.row, prepared, answers, self.part), list(seconds)

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return the judge's tables; groups say which perturbations have an effect."""
        tables = {name: texts(table) for name, table in finished.tables(self.parts(finished)).items()}
        groups, effects = tables["groups"], tables["effects"]
        real = groups["dataset"] == self.dataset
        tables["groups"] = pd.concat([with_effects(groups[real], effects), groups[~real]])
        return tables

    def facts(self, finished: Parts) -> Row:
        """Return rules, versions and licences."""
        models = {
            OUTSIDERS[name].row: {
                "versions": installed(name),
                "licence": OUTSIDERS[name].licence,
                "steps": self.steps or OUTSIDERS[name].steps,
            }
            for name in self.model
        }
        held_out = held_out_groups(self.split, self.cells)
        rules = {"truth_rule": TRUTH, "effect_rule": EFFECT, "folds": FOLDS, "held_out": held_out}
        return {**rules, "models": models}
