"""What the judge says of one file: which perturbations have an effect, what rows score, how surely."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data.effect_tests import with_has_effect
from twinlib.data.folds import FOLDS, VALIDATION
from twinlib.errors import InputError
from twinlib.evaluation.calibration import Ceiling, Estimate, ceiling, reliability
from twinlib.evaluation.summaries import MIN_TOTAL, Scores, per_unit, plain_row, summary, with_effects
from twinlib.verdict.parts import SHAM
from twinlib.verdict.policies import NAMES

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.verdict.parts import Parts

#: With fewer genes than this a correlation over genes is too noisy, and skill takes its place.
FEWEST_GENES = 20
#: The row of a file's own model: the twin, or predictions from elsewhere.
TWIN = "experimental"
#: Share of a file's cells of a perturbation that one half of a test fold holds.
HALF = (1 - VALIDATION) / FOLDS / 2


@dataclass(frozen=True, eq=False)
class JudgedFile:
    """The tables of all parts of a file."""

    #: Values in the form of `evaluate`, all splits, sham labels among them.
    scores: pd.DataFrame
    #: Groups in the form of `evaluate`, with `has_effect`.
    groups: pd.DataFrame
    #: The energy tests of each fold, whole and by context.
    effects: pd.DataFrame
    #: Number of genes of the panel.
    genes: int
    #: The row that is judged: headlines stand on the units that it reaches.
    own: str = TWIN

    @staticmethod
    def of(parts: Parts, own: str = TWIN) -> JudgedFile:
        """Read the finished parts of a file."""
        groups, effects = parts.table("groups"), with_has_effect(parts.table("effects"))
        told = with_effects(groups, effects)  # sham labels are in no table of effects
        genes = parts.table("genes")["gene"].nunique()
        scores = only_whole(parts.table("scores"), parts.table("policies"))
        return JudgedFile(scores, told, effects, genes, own)

    @property
    def metric(self) -> str:
        """The primary metric: the correlation of changes, or skill where the genes are few."""
        return "pearson_delta" if self.genes >= FEWEST_GENES else "skill_pseudobulk_mse"

    @property
    def splits(self) -> list[str]:
        """The splits of the file, without sham labels."""
        return [kind for kind in self.scores["split_kind"].unique() if kind != SHAM]

    @property
    def contexts(self) -> list[str]:
        """The contexts of the file, where there are several."""
        return sorted(set(self.scores.loc[self.scores["split_kind"] == "cells", "cell_context"]) - {""})

    def tables(self, kind: str, context: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return scores and groups of a split; of one context, which then counts as the whole."""
        chosen = [table[table["split_kind"] == kind] for table in (self.scores, self.groups)]
        if context:
            chosen = [t[t["cell_context"] == context].assign(cell_context="") for t in chosen]
            chosen[0] = _complete(chosen[0])
        return chosen[0], chosen[1]

    @property
    def pairs(self) -> bool:
        """Whether a unit is a perturbation in a context, since there are too few perturbations."""
        return any(" | " in unit for unit in self.units.index)

    @property
    def tests(self) -> pd.DataFrame:
        """The energy tests of the units."""
        return self.effects[(self.effects["cell_context"] != "") == self.pairs]

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row a unit of the cells: values by row, ceiling, resolvable, has_effect, called folds."""
        scores, groups = self.tables("cells")
        table = per_unit(scores, groups, self.metric)
        halves = self.halves
        called = self._eligible("has_effect")
        return table.assign(
            has_effect=[unit in called for unit in table.index],
            resolvable=[unit in halves and halves[unit].resolvable is True for unit in table.index],
        )

    def _eligible(self, over: str) -> frozenset[str]:
        return Scores.of(*self.tables("cells"), "pearson_delta", over).eligible

    @cached_property
    def halves(self) -> dict[str, Ceiling]:
        """How well two halves of the test cells of each unit agree, over folds."""
        replicate = Scores.of(*self.tables("cells"), "pearson_delta", "all").models["replicate"]
        return {str(unit): ceiling(replicate[unit].to_numpy(dtype=np.float64)) for unit in replicate}

    @property
    def shown(self) -> list[str]:
        """The units with an effect that both the test and the agreement of halves show."""
        table = self.units
        return list(table.index[table["has_effect"] & table["resolvable"]])

    @property
    def over(self) -> str:
        """The units of headlines: those with an effect, all where these cells show nothing."""
        return "has_effect" if self.shown else "all"

    def rows(self, kind: str = "cells", context: str = "", metric: str = "") -> pd.DataFrame:
        """Return one row a model (`summaries.summary`) over the headline's units that the own row reaches.

        Empty where no unit is scored in every fold.
        """
        import pandas as pd

        over = "all" if kind == SHAM else self.over
        try:
            table = summary(*self.tables(kind, context), metric or self.metric, over)
        except InputError:
            return pd.DataFrame()
        mine = table.loc[table["model"] == self.own, "on"]
        block = "all" if mine.empty else mine.iloc[0]
        return table[table["on"] == block].set_index("model")

    def gap(self, first: str, second: str, kind: str = "cells") -> Estimate:
        """Return first - second, paired over the headline's units."""
        return Scores.of(*self.tables(kind), self.metric, self.over).gap(first, second)

    def plain_row(self, kind: str) -> str:
        """Return the row that knows most without any training (`summaries.plain_row`)."""
        return plain_row(kind, lambda: self.rows(kind))

    def sureness(self, folds: tuple[float, ...] = (1, 2, 4)) -> pd.DataFrame:
        """Return for each unit the reliability of its change at 1, 2, 4 times its cells; NaN: n/a."""
        import pandas as pd

        sure = {unit: top for unit, top in self.halves.items() if top.resolvable}
        rows = {
            unit: {"low": reliability(top.low, HALF, 1)}
            | {f"{m:g} x": reliability(top.replicate, HALF, m) for m in folds}
            for unit, top in sure.items()
        }
        columns = ["low", *(f"{m:g} x" for m in folds)]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).reindex(self.units.index)

    def small(self) -> pd.DataFrame:
        """Return the perturbations that no average holds, with their cells."""
        groups = self.tables("cells")[1]
        whole = groups[(groups["cell_context"] == "") & (groups["n_total"] < MIN_TOTAL)]
        return whole.drop_duplicates(["perturbation", "dose"])[["perturbation", "dose", "n_total"]]

    def flat(self) -> pd.DataFrame:
        """Return the table that users keep: a value for each split, row, perturbation, context and metric."""
        kept = self.scores[(self.scores["against"] == "") & (self.scores["space"] != "z")]
        keys = ["split_kind", "model", "perturbation", "dose", "cell_context", "metric"]
        means = kept.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
        where = ["split_kind", "perturbation", "dose", "cell_context"]
        known = self.groups.groupby(where)[["n_total"]].first()
        effect = self.groups.groupby(where)["has_effect"].first()
        return means.join(known.assign(has_effect=effect), on=where)


def _complete(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores with NaN where a row has no value in a fold: too few cells there, which is no error."""
    keys = [name for name in scores.columns if name != "value"]
    wide = scores.set_index(keys)["value"].unstack("split")
    return wide.melt(value_name="value", ignore_index=False).reset_index()


def only_whole(scores: pd.DataFrame, policies: pd.DataFrame) -> pd.DataFrame:
    """Return scores without policies where `policies` says why a part has none: rows stand on all folds."""
    if policies.empty:
        return scores
    return scores[~scores["model"].isin(NAMES)]
