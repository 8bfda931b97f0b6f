"""The experimental twin and its baselines under the judge, on every split that a dataset can give.

Every part is one fold of a split (or one held-out group), with a panel, scaler, embedding and models of its
own. `held_out` finds out what each split holds out, `effects` tests which perturbations have an effect, and
`null` repeats the cheap rows and the twin on sham labels, where nothing is to be found. The seed moves the
twin's training alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from experiments.experiment import Experiment, Scratch, at_least_one, one_of, option
from experiments.experimental_rows import Fold, ablated
from experiments.part import Part, Row
from twinlib.data.effect_tests import effect_table, sham_labels
from twinlib.data.folds import FOLDS
from twinlib.data.held_out import held_out_groups
from twinlib.data.preparation import Prepared, WeakPanel, prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.data.sources import dataset as entry
from twinlib.data.sources import load
from twinlib.evaluation.gene_changes import gene_rows
from twinlib.evaluation.judge import Supervised, evaluate
from twinlib.evaluation.summaries import with_effects
from twinlib.experimental.fold_rows import embedding_of
from twinlib.landscapes.myeloid import GENES

if TYPE_CHECKING:
    from anndata import AnnData

    from experiments.folder import Parts

#: The splits of each dataset.
SPLITS: dict[str, tuple[str, ...]] = {
    "papalexi2021": ("cells", "perturbations"),
    "norman2019": ("cells", "doubles"),
    "kang2018": ("cells", "contexts"),
    "chi11": ("cells", "contexts"),
    "vcc_h1": ("cells",),
    "a549_dex": ("cells", "time"),
    "cross_study": ("cells",),
    "waddington": ("cells", "doubles", "perturbations", "contexts", "doses", "cytokine_doubles"),
}
#: Datasets whose controls come from another study: no effect test, no null panel and no verdict.
UNTESTED = ("cross_study",)
#: How the truth of a table is made.
TRUTH = "test cells less test controls, within context, contexts weighted by the perturbed test cells"
#: Knock-downs of the smaller simulated designs.
SOME = ("Gata1", "Gata2", "Pu1", "Cebpa", "Fli1", "EKLF", "Gfi1", "cJun", "EgrNab", "Gata1+Pu1", "Cebpa+Gfi1")
#: Cytokines of the simulated design that holds combinations of them out.
MIXED = ("EPO", "TPO", "M-CSF", "G-CSF", "EPO+TPO", "G-CSF+M-CSF", "EPO+M-CSF", "G-CSF+TPO", "EPO+G-CSF")
#: Simulated designs of their own, by split.
DESIGNS: dict[str, Row] = {
    "perturbations": {"perturbations": GENES},
    "contexts": {"contexts": ("reference", "slow"), "perturbations": SOME, "n_cells": 4000},
    "doses": {"doses": (0.25, 0.5, 1.0), "perturbations": SOME, "n_cells": 4000},
    "cytokine_doubles": {"cytokines": MIXED, "perturbations": SOME, "n_cells": 3500},
}
#: How perturbations with an effect are told.
EFFECT = "energy test within context and batch, Benjamini-Hochberg 5 % in each fold, called in 3 of 5 folds"
#: Rows of the table of genes.
SHOWN = ("matching_mean", "experimental")
#: Columns that hold text, in any table.
TEXTS = ("split", "setting", "against", "perturbation", "cell_context", "gene")
#: Levels that are held out where a number is.
LEVELS: dict[str, tuple[float, ...]] = {"doses": (0.5,), "time": (1.0,)}


def question(kind: str) -> str:
    """Return the split of `prepare` that a split of a dataset asks for."""
    return "doubles" if kind == "cytokine_doubles" else kind


def held_out_of(kind: str, cells: AnnData) -> list[list[str | float]]:
    """Return what each part of a split of the experiment holds out; empty lists for folds of cells."""
    return held_out_groups(question(kind), cells, LEVELS)


def in_hours(cells: AnnData) -> AnnData:
    """Return cells whose dose is the time since their treatment: an effect is then a rate."""
    timed = cells.copy()
    timed.obs["dose"] = timed.obs["time"].to_numpy(dtype=float)
    return timed


@dataclass(frozen=True)
class ExperimentalSplits(Experiment):
    """The experimental twin, its parts and its baselines on every split that a dataset can give."""

    name = "experimental"
    packed: ClassVar[tuple[str, ...]] = ("scores", "groups")

    dataset: str = option("waddington", f"one of {', '.join(SPLITS)}; several: DIR/NAME each")
    splits: tuple[str, ...] = option((), "splits of the dataset; default: all it has")
    seeds: int = option(3, "training seeds of the twin")
    ablations: int = option(1, "training seeds of the rows that need a fit of their own: ablations, shuffled")
    epochs: int = option(1, "passes of an embedding that is trained for a part")

    def __post_init__(self) -> None:
        one_of("split table of", [self.dataset], tuple(SPLITS))
        one_of(f"split of {self.dataset}", self.splits, SPLITS[self.dataset])
        at_least_one(self, "seeds", "ablations", "epochs")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The splits that are run."""
        return self.splits or SPLITS[self.dataset]

    @cached_property
    def loaded(self) -> AnnData:
        """The cells of the dataset."""
        cells = load(self.dataset)
        return in_hours(cells) if "time" in SPLITS[self.dataset] else cells

    def cells(self, kind: str) -> AnnData:
        """Return the cells of a split: those of the dataset, or simulated ones of another design."""
        if self.dataset == "waddington" and kind in DESIGNS:
            return simulate_waddington(seed=0, **DESIGNS[kind])
        return self.loaded

    def parts(self, finished: Parts) -> Sequence[str]:
        """What each split can hold out first; then one part a fold."""
        names = ["held_out"]
        if "held_out" in finished:
            groups = finished.facts("held_out")["groups"]
            tested = self.dataset not in UNTESTED
            names += ["effects"] if tested else []
            names += [f"{kind}~{i + 1}" for kind in groups for i in range(len(groups[kind]))]
            names += [f"null~{fold}" for fold in range(1, FOLDS + 1) if tested and "cells" in self.chosen]
        return names

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Score all rows on one fold, or the cheap ones on sham labels, or test for effects."""
        warnings.filterwarnings("ignore", category=FutureWarning)
        kind, _, number = part.partition("~")
        if kind == "held_out":
            groups = {name: held_out_of(name, self.cells(name)) for name in self.chosen}
            return Part({}, {"groups": groups})
        if kind == "effects":
            return self._effects()
        if kind == "null":
            return self._null(int(number))
        return self._split(kind, int(number))

    def fold_of(self, kind: str, cells: AnnData, number: int) -> Prepared:
        """Prepare part `number` of a split, from 1 on."""
        held_out = held_out_of(kind, cells)[number - 1]
        fold = number if kind == "cells" else 1
        size = entry(self.dataset).panel
        return prepare(cells, size, question(kind), fold=fold, held_out=held_out)

    def _effects(self) -> Part:
        """Test every perturbation in every fold of cells, and in every context where there are several."""
        folds = [self.fold_of("cells", self.loaded, fold) for fold in range(1, FOLDS + 1)]
        return Part({"effects": effects_of(folds)})

    def _split(self, kind: str, number: int) -> Part:
        """Score every row on one part of a split."""
        prepared = self.fold_of(kind, self.cells(kind), number)
        coder, origin = embedding_of(prepared, self.epochs)
        fold = Fold(prepared, coder)
        rows = [*fold.plain(), *fold.twins(self.seeds)]
        shown = [row for row in rows if row.name in SHOWN]
        rows += [fold.twin(name, self.ablations, config) for name, config in ablated(prepared)]
        if len(prepared.train_perturbations) > 1:
            rows.append(fold.shuffled(self.ablations))
        tables = self._scored(prepared, rows, kind)
        if kind == "cells":
            tables["kept"] = prepared.kept.rename_axis("perturbation").reset_index().assign(fold=number)
            if number == 1:
                tables["genes"] = pd.DataFrame(gene_rows(prepared, shown))
        facts = {"embedding": origin, "genes": len(prepared.genes), "fingerprint": prepared.fingerprint}
        about = {"data_hash": prepared.data_hash, "panel_rule": prepared.panel_rule}
        whole = kind == "cells"  # other splits may be of another simulated design
        return Part({**tables}, facts | about, about if whole else {})

    def _null(self, number: int) -> Part:
        """Score the cheap rows, the twin, and the twin with and without its cell network on sham labels."""
        sham = sham_labels(self.loaded, np.random.default_rng(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeakPanel)  # there is no response to keep
            prepared = prepare(sham, entry(self.dataset).panel, fold=number)
        coder, origin = embedding_of(prepared, self.epochs)
        fold = Fold(prepared, coder)
        rows = [*fold.plain(), *fold.twins(self.ablations)]
        return Part({**self._scored(prepared, rows, "cells")}, {"embedding": origin})

    def _scored(self, prepared: Prepared, rows: list[Supervised], kind: str) -> dict[str, pd.DataFrame]:
        """Return the judge's tables, under the name of the split."""
        made = evaluate(prepared, rows, experiment=self.name)
        tables = {"scores": made.scores, "groups": made.groups}
        return {name: table.assign(split_kind=kind) for name, table in tables.items()}

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return the tables; groups say which perturbations have an effect, and genes are of two of them."""
        tables = {name: texts(table) for name, table in finished.tables(self.parts(finished)).items()}
        if "effects" in tables:
            tested = were_tested(tables["groups"], self.dataset)
            told = with_effects(tables["groups"][tested], tables["effects"])
            tables["groups"] = pd.concat([told, tables["groups"][~tested]])
        if "genes" in tables:
            mine = tables["scores"][tables["scores"]["dataset"] == self.dataset]
            tables["genes"] = best_and_worst(tables["genes"], mine, tables["groups"])
        return tables

    def facts(self, finished: Parts) -> Row:
        """Return the rules of the tables, and what each split holds out."""
        held_out = finished.facts("held_out")["groups"]
        rules: Row = {"truth_rule": TRUTH, "effect_rule": EFFECT, "folds": FOLDS}
        return rules | {"held_out": {kind: groups for kind, groups in held_out.items() if kind != "cells"}}


def effects_of(folds: Sequence[Prepared]) -> pd.DataFrame:
    """Return the energy test of every perturbation in every fold, and of every context where several are."""
    several = folds[0].cells.obs["cell_context"].nunique() > 1
    ways = (False, True) if several else (False,)
    return pd.concat(effect_table(folds, np.random.default_rng(0), by_context=way) for way in ways)


def were_tested(groups: pd.DataFrame, dataset: str) -> pd.Series:
    """Tell which groups are of the cells that were tested for effects: no sham, no other design."""
    other = set(DESIGNS) if dataset == "waddington" else set()
    return groups["dataset"].eq(dataset) & ~groups["split_kind"].isin(other)


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts are texts again, the empty ones too."""
    names = [name for name in TEXTS if name in table]
    return table.assign(**{name: table[name].fillna("").astype(str) for name in names})


def best_and_worst(genes: pd.DataFrame, scores: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Return the genes of the perturbations that the twin predicts best and worst, of those with an effect.

    Where no effect was tested, or none was found, all perturbations count.
    """
    asked = {"model": "experimental", "split_kind": "cells", "metric": "pearson_delta", "cell_context": ""}
    mine = scores[(scores[list(asked)] == list(asked.values())).all(axis=1)]
    values = mine.groupby("perturbation")["value"].mean().dropna()
    strong = groups.loc[groups["has_effect"].eq(True), "perturbation"]
    chosen = values[values.index.isin(strong)] if values.index.isin(strong).any() else values
    rank = {chosen.idxmin(): "worst", chosen.idxmax(): "best"}
    return genes[genes["perturbation"].isin(rank)].assign(rank=lambda rows: rows["perturbation"].map(rank))
