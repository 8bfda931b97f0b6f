"""What the judge says of one file: which perturbations have an effect, what rows score, how surely."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data.effect_tests import with_has_effect
from twinlib.data.folds import FOLDS, VALIDATION
from twinlib.errors import InputError
from twinlib.evaluation.calibration import (
    MIN_HALF,
    Ceiling,
    Estimate,
    ceiling,
    estimate,
    fold_for,
    reliability,
)
from twinlib.evaluation.summaries import (
    MIN_TOTAL,
    Scores,
    dose_labels,
    of_units,
    per_unit,
    plain_row,
    summary,
    units_are_contexts,
    with_effects,
)
from twinlib.verdict.parts import SHAM
from twinlib.verdict.policies import NAMES

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.verdict.parts import Parts

#: With fewer genes than this a correlation over genes is too noisy, and skill takes its place.
FEWEST_GENES = 20
#: The row of a file's own model: the twin, or predictions from elsewhere.
TWIN = "experimental"
#: Share of a file's cells of a perturbation that a half of a test fold holds, if no context is too small.
HALF = (1 - VALIDATION) / FOLDS / 2
#: The row of the mean change of each perturbation.
PLAIN = "matching_mean"
#: One of so many units is called by chance.
CHANCE = 20
#: The units act together if chance would give the score of one of two rows less often than 1 in 20.
TOGETHER = 0.05 / 2
#: Two experiments that agree like this are enough to believe a change.
ENOUGH = 0.8


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
        named = groups.assign(perturbation=dose_labels(groups["perturbation"], groups["dose"]))
        known = with_effects(named, effects)["has_effect"].astype("boolean")
        told = groups.assign(has_effect=known.mask(groups["split_kind"] == SHAM))  # nothing acts there
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

    def silent(self, context: str) -> bool:
        """Whether no perturbation has an effect in a context, where headlines stand on those with one."""
        effects = self.tables("cells", context)[1]["has_effect"].astype("boolean").fillna(False)
        return self.over == "has_effect" and not effects.any()

    def unit_names(self, tests: pd.DataFrame) -> pd.Series:
        """Return the unit of each energy test."""
        return tests["perturbation"] + (" | " + tests["cell_context"] if self.pairs else "")

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row a unit of the cells: values by row, ceiling, resolvable, has_effect, called folds."""
        scores, groups = self.tables("cells")
        table = per_unit(scores, groups, self.metric)
        halves, called = self.halves, self._called()
        return table.assign(
            has_effect=[unit in called for unit in table.index],
            resolvable=[unit in halves and halves[unit].resolvable is True for unit in table.index],
            halved=[
                unit in self._replicate and np.isfinite(self._replicate[unit]).all() for unit in table.index
            ],
            cells=self._sizes().reindex(table.index).to_numpy(),
        )

    def _sizes(self) -> pd.Series:
        """Return the cells of each unit in the whole file, from those of its test folds."""
        groups = self.tables("cells")[1]
        tested = of_units(groups, units_are_contexts(groups)).groupby("unit")["n_cells"].sum()
        return (tested / (1 - VALIDATION)).round()

    def _called(self) -> frozenset[str]:
        scores, groups = self.tables("cells")
        if groups["has_effect"].isna().all():  # no group was large enough to be tested
            return frozenset()
        return Scores.of(scores, groups, "pearson_delta", "has_effect").eligible

    @cached_property
    def halves(self) -> dict[str, Ceiling]:
        """How well two halves of the test cells of each unit agree, over folds."""
        return {unit: ceiling(values) for unit, values in self._replicate.items()}

    @cached_property
    def _replicate(self) -> dict[str, np.ndarray]:
        """Correlations [F] of two halves of each unit; NaN where a fold has too few cells for halves."""
        table = Scores.of(*self.tables("cells"), "pearson_delta", "all").models["replicate"]
        return {str(unit): table[unit].to_numpy(dtype=np.float64) for unit in table}

    def _shares(self) -> pd.Series:
        """Return the share of each unit's cells that a half holds; contexts too small for halves leave."""
        groups = self.tables("cells")[1]
        within = groups[(groups["cell_context"] != "") == bool(self.contexts)]
        unit = dose_labels(within["perturbation"], within["dose"])
        named = within.assign(unit=unit + " | " + within["cell_context"] if self.pairs else unit)
        large = named[["n_cells", "n_controls"]].min(axis=1) >= 2 * MIN_HALF
        kept = named["n_cells"].where(large, 0).groupby([named["unit"], named["split"]]).sum()
        return kept[kept > 0].groupby("unit").mean() / 2 / self._sizes()

    @property
    def acting(self) -> list[str]:
        """The units with an effect."""
        return list(self.units.index[self.units["has_effect"]])

    @property
    def shown(self) -> list[str]:
        """The units with an effect that both the test and the agreement of halves show."""
        return list(self.units.index[self.units["has_effect"] & self.units["resolvable"]])

    @cached_property
    def shows(self) -> str:
        """What these cells show: `effects` of single units, of all `together` only, or `nothing`."""
        by_chance = len(self.units) // CHANCE
        if self.shown or len(self.acting) > by_chance:
            return "effects"
        sure = min(self._chance(row) for row in dict.fromkeys((PLAIN, self.own)))
        return "together" if sure < TOGETHER else "nothing"

    def _chance(self, row: str) -> float:
        """Return how often chance would give a row its score over all units; 1 where it is not above 0."""
        scores = Scores.of(*self.tables("cells"), self.metric, "all")
        units = scores.units(row) if row in scores.models else frozenset()
        whole = estimate(scores.matrix(row, units)) if units else None
        return whole.p_value() if whole is not None and whole.mean > 0 else 1.0

    @property
    def over(self) -> str:
        """The units of headlines: those with an effect, all where no single one has any."""
        return "has_effect" if self.shows == "effects" else "all"

    def rows(self, kind: str = "cells", context: str = "", metric: str = "") -> pd.DataFrame:
        """Return one row a model (`summaries.summary`) over the headline's units that the own row reaches.

        Empty where no unit is scored in every fold. Sentences and figures ask for the same rows: each table
        is made once.
        """
        asked = (kind, context, metric)
        if asked not in self._made:
            self._made[asked] = self._rows(kind, context, metric)
        return self._made[asked]

    @cached_property
    def _made(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """The tables of `rows` that were asked for, by split, context and metric."""
        return {}

    def _rows(self, kind: str, context: str, metric: str) -> pd.DataFrame:
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
        """Return for each unit the reliability of its change at 1, 2, 4 times its cells; NaN: n/a.

        Beside it the lower end of the first, and how many times the cells make it `ENOUGH`, at best guess and
        at most.
        """
        import pandas as pd

        shares = self._shares()
        rows = {unit: _sureness(self.halves[unit], float(shares[unit]), folds) for unit in self.shown}
        columns = ["low", *(f"{m:g} x" for m in folds), "times", "at most"]
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


def _sureness(top: Ceiling, share: float, folds: tuple[float, ...]) -> dict[str, float]:
    """Return the reliability of a change by the agreement of its halves, which hold a share of its cells."""
    times = {"times": fold_for(top.replicate, share, ENOUGH), "at most": fold_for(top.low, share, ENOUGH)}
    sure = {f"{m:g} x": reliability(top.replicate, share, m) for m in folds}
    return {"low": reliability(top.low, share, 1), **sure, **times}


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
