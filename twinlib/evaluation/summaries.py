"""Tables from tidy scores: one row a model, with interval, ceiling and scale, over the same units.

A unit is a perturbation (and dose); where contexts are held out, and on data with fewer than `MIN_UNITS`
perturbations, it is a perturbation in a context. Units that are not scored in every fold leave a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twinlib.checks import name_list
from twinlib.errors import InputError
from twinlib.evaluation.calibration import MIN_UNITS, Ceiling, Estimate, ceiling, estimate, scaled

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

#: A perturbation needs this many cells in the whole dataset to enter an average.
MIN_TOTAL = 50
#: Halves hold half the cells on both sides, so that their error in means is this many times that of a perfect
#: prediction of the full truth.
HALVES = {"pseudobulk_mse": 4.0, "mae": 2.0}
#: Metrics in which every perturbation has a skill; an E-distance averages to 0 where nothing happened.
SKILLED = ("pseudobulk_mse", "w1", "pds")
#: The row that is derived here: a perfect, noise-free predictor.
CEILING = "ceiling"
#: Rows that skill and ceiling are made of, and the ceiling.
REFERENCES = ("no_change", "replicate", CEILING)
#: The row that knows most without any training, by the kind of split; else `matching_mean`.
PLAIN_ROW = {"contexts": "context_mean", "doubles": "additive", "cytokine_doubles": "additive"}
#: The same of unseen perturbations: the better of the two.
PLAIN_UNSEEN = ("matching_mean", "linear")
#: Splits that leave one level after the other out: each is a unit of its own.
LEFT_OUT_LEVELS = ("batches", "time")
#: What two sets of rows of one table have in common.
SCOPE = ("dataset", "split_kind", "part")


def with_effects(groups: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """Fill `has_effect` of a table of groups from `effect_table`; groups that were not tested stay empty."""
    where = ["perturbation", "cell_context"]
    called = effects.drop_duplicates(where).set_index(where)["has_effect"].astype("boolean")
    rows = groups.set_index(where).index
    return groups.assign(has_effect=called.reindex(rows).to_numpy())


def summary(
    scores: pd.DataFrame, groups: pd.DataFrame, metric: str, over: str | Sequence[str] = "has_effect"
) -> pd.DataFrame:
    """Return one row a model for one metric of one dataset, kind of split and part.

    Parameters
    ----------
    scores, groups
        Tables of `evaluate`, of any number of folds.
    metric
        A metric of populations, or `skill_` before one of `SKILLED`.
    over
        Which units are averaged: `has_effect`, `undetected`, `all`, or names of perturbations.

    Returns
    -------
    Columns on (`all`, or the model on whose own units the rows stand, because it reaches fewer), model, mean,
    low, high, units, sd, smallest, folds, seeds, left_out (units not scored in every fold), ceiling,
    resolvable (units whose ceiling is), scaled (0 the row `mean`, 1 the row `replicate`).
    """
    return Scores.of(scores, groups, metric, over).rows()


def plain_row(kind: str, rows: Callable[[], pd.DataFrame]) -> str:
    """Return the row that knows most without any training on a kind of split: what a model has to beat.

    Of unseen perturbations that is the better of `PLAIN_UNSEEN`; `rows` gives their `summary`, by model.
    """
    if kind != "perturbations":
        return PLAIN_ROW.get(kind, "matching_mean")
    table = rows()
    known = [name for name in PLAIN_UNSEEN if name in table.index]
    return str(table.loc[known, "mean"].idxmax()) if known else "matching_mean"


def difference(
    scores: pd.DataFrame,
    groups: pd.DataFrame,
    metric: str,
    first: str,
    second: str,
    over: str | Sequence[str] = "has_effect",
) -> Estimate:
    """Return first - second, paired over the units that both rows reach; `ceiling` is a row, too."""
    return Scores.of(scores, groups, metric, over).gap(first, second)


def differences(
    scores: pd.DataFrame,
    groups: pd.DataFrame,
    metric: str,
    first: str,
    others: Sequence[str],
    over: str | Sequence[str] = "has_effect",
) -> dict[str, Estimate]:
    """Return first less each of the others, as `difference`, each on the seeds that both have."""
    return Scores.of(scores, groups, metric, over).gaps(first, others) if others else {}


def per_unit(
    scores: pd.DataFrame, groups: pd.DataFrame, metric: str, over: str | Sequence[str] = "all"
) -> pd.DataFrame:
    """Return the mean over folds and seeds of each unit (rows) and model, with what its ceiling is worth."""
    return Scores.of(scores, groups, metric, over).per_unit()


def small_groups(groups: pd.DataFrame) -> pd.DataFrame:
    """Return the perturbations that no average holds: under `MIN_TOTAL` cells in the whole dataset."""
    small = groups[(groups["n_total"] < MIN_TOTAL) & (groups["cell_context"] == "")]
    return small.drop_duplicates(["dataset", "perturbation", "dose"])[["dataset", "perturbation", "n_total"]]


@dataclass(frozen=True, eq=False)
class Scores:
    """The values of one metric, by model, fold and unit."""

    #: Every seed's values, (fold, seed) x units, by model; `ceiling` is among them where it can be known.
    models: Mapping[str, pd.DataFrame]
    #: Ceiling of each unit (pearson_delta).
    tops: Mapping[str, Ceiling]
    #: Units that may enter an average.
    eligible: frozenset[str]
    #: The metric, for messages.
    metric: str

    @staticmethod
    def of(scores: pd.DataFrame, groups: pd.DataFrame, metric: str, over: str | Sequence[str]) -> Scores:
        """Select the values of a metric and the units that are averaged."""
        _require_one_scope(scores)
        by_context = units_are_contexts(groups)
        base = _base_of(metric)
        values = _tables(scores, base, by_context)
        models = values if metric == base else _skills(values, base)
        tops = _unit_ceilings(models) if metric == "pearson_delta" else {}
        if metric == "skill":
            values = _tables(scores, "pseudobulk_mse", by_context)
        perfect = {unit: top.value for unit, top in tops.items()} or _perfect(values, metric)
        constant = 0.0 * models["no_change"].reindex(columns=sorted(perfect))
        with_ceiling = {**models, CEILING: constant.fillna(0.0) + [perfect[u] for u in sorted(perfect)]}
        return Scores(with_ceiling, tops, _eligible(groups, over, by_context), metric)

    def units(self, name: str) -> frozenset[str]:
        """Return the units that a model was scored on in every fold."""
        if name not in self.models:
            raise InputError(f"The scores hold no row {name!r}: choose one of {', '.join(self.models)}.")
        table = self.models[name]
        return self.eligible & set(table.columns[table.notna().all()])

    def common(self) -> frozenset[str]:
        """Return the units of the table: those of no_change, which reaches all."""
        units = self.units("no_change")
        if not units:
            raise InputError(f"No unit has {self.metric} in every fold: take another metric or other units.")
        return units

    def matrix(self, name: str, units: frozenset[str]) -> Array:
        """Return the values of a model [F, U], averaged over seeds."""
        return self.models[name][sorted(units)].groupby(level="fold").mean().to_numpy(dtype=np.float64)

    def seed_variance(self, name: str, units: frozenset[str]) -> float:
        """Return the variance of a model's mean that comes from its seeds; 0 where there is one."""
        means = self.models[name][sorted(units)].groupby(level="seed").mean().mean(axis=1)
        return float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0

    def on_shared_seeds(self, *names: str) -> Scores:
        """Return the same with the named rows on the seeds that all of them have; a ceiling has none."""
        known = {name: self.models[name] for name in names if name in self.models and name != CEILING}
        seeds = {name: table.index.get_level_values("seed") for name, table in known.items()}
        shared = set.intersection(*map(set, seeds.values())) if seeds else set()
        cut = {name: table[seeds[name].isin(shared)] for name, table in known.items()}
        return replace(self, models={**self.models, **cut})

    def gap(self, first: str, second: str) -> Estimate:
        """Return first - second, paired over the units that both rows reach."""
        units = self.units(first) & self.units(second)
        if not units:
            raise InputError(f"{first} and {second} share no unit of {self.metric}; choose other rows.")
        values = self.matrix(first, units) - self.matrix(second, units)
        return estimate(values, seeds=self.seed_variance(first, units) + self.seed_variance(second, units))

    def gaps(self, first: str, others: Sequence[str]) -> dict[str, Estimate]:
        """Return first less each of the others, each on the seeds that both have."""
        return {other: self.on_shared_seeds(first, other).gap(first, other) for other in others}

    def rows(self, models: Sequence[str] = ()) -> pd.DataFrame:
        """Return one row a model, as `summary` does; `models` chooses some beside the `REFERENCES`."""
        import pandas as pd

        names = [name for name in self.models if not models or name in (*models, *REFERENCES)]
        whole = self.common()
        blocks = {whole: "all"}
        for name in names:
            blocks.setdefault(self.units(name) & whole, name)
        return pd.DataFrame(
            self.row(name, units, on)
            for units, on in blocks.items()
            for name in names
            if units and units <= self.units(name)
        )

    def per_unit(self) -> pd.DataFrame:
        """Return the mean over folds and seeds by unit (rows) and model, with what its ceiling is worth."""
        import pandas as pd

        columns = {name: values.mean() for name, values in self.models.items()}
        frame = pd.DataFrame(columns).reindex(sorted(self.eligible))
        for name in ("resolvable", "biased"):
            if self.tops:
                frame[name] = pd.Series({unit: getattr(top, name) for unit, top in self.tops.items()})
        return frame.rename_axis("unit")

    def row(self, name: str, units: frozenset[str], on: str) -> dict[str, object]:
        """Return the row of a model over these units."""
        values = self.matrix(name, units)
        result = estimate(values, seeds=self.seed_variance(name, units))
        frame = self.models[name]
        tops = [self.tops[unit].resolvable for unit in units if unit in self.tops]
        known = [top for top in tops if top is not None]
        return {
            "on": on,
            "model": name,
            **{key: getattr(result, key) for key in ("mean", "low", "high", "units", "sd", "smallest")},
            "folds": len(values),
            "seeds": frame.index.get_level_values("seed").nunique(),
            "left_out": len((self.eligible & set(frame.columns)) - self.units(name)),
            "ceiling": self._mean_of(CEILING, units),
            "resolvable": sum(known) if known else None,
            "scaled": self._scaled(values, units),
        }

    def _mean_of(self, name: str, units: frozenset[str]) -> float:
        return float(self.matrix(name, units).mean()) if units <= self.units(name) else float("nan")

    def _scaled(self, values: Array, units: frozenset[str]) -> float:
        """Return cell-eval2's scale; NaN without the rows `mean` and `replicate` on the same units."""
        if not {"mean", "replicate"} <= set(self.models):
            return float("nan")
        if not units <= self.units("mean") & self.units("replicate"):
            return float("nan")
        return scaled(values, self.matrix("mean", units), self.matrix("replicate", units))


def _require_one_scope(scores: pd.DataFrame) -> None:
    for column in SCOPE:
        held = scores[column].unique()
        if len(held) != 1:
            raise InputError(f"The scores hold {len(held)} of {column} ({held[:3]}): select one first.")


def units_are_contexts(groups: pd.DataFrame) -> bool:
    """Whether a unit is a perturbation in a context."""
    few = len(groups[["perturbation", "dose"]].drop_duplicates()) < MIN_UNITS
    held_out = (groups["split_kind"] == "contexts").all()
    return bool((few or held_out) and (groups["cell_context"].fillna("") != "").any())


def dose_labels(perturbation: pd.Series, dose: pd.Series) -> pd.Series:
    """Return labels [n] that name their dose, where their perturbation has several or another than 1."""
    names, doses = perturbation.astype(str), dose.astype(float)
    several = doses.groupby(names).transform("nunique") > 1
    return names.mask(several | (doses != 1), names + doses.map(" at dose {:g}".format))


def of_units(table: pd.DataFrame, by_context: bool) -> pd.DataFrame:
    """Return the rows that are units, with their names."""
    table = table.reset_index(drop=True)
    context = table["cell_context"].fillna("").astype(str)
    rows = table[(context != "") == by_context]
    names = dose_labels(rows["perturbation"], rows["dose"])
    held_out = rows["split_kind"].isin(LEFT_OUT_LEVELS)  # the same perturbation, once in each of them
    names = names.where(~held_out, names + " | " + rows["split"].astype(str))
    return rows.assign(unit=names + " | " + context[rows.index] if by_context else names)


def _eligible(groups: pd.DataFrame, over: str | Sequence[str], by_context: bool) -> frozenset[str]:
    """Return the units that `over` names, but for perturbations with under `MIN_TOTAL` cells."""
    table = of_units(groups, by_context)
    table = table[table["n_total"] >= MIN_TOTAL]
    if over in ("has_effect", "undetected"):
        effect = table["has_effect"].astype("boolean")
        if effect.isna().all():
            raise InputError("The groups do not say which perturbations have an effect: use with_effects.")
        keep = effect.fillna(False) if over == "has_effect" else ~effect.fillna(True)
        return frozenset(table[keep]["unit"])
    if over == "all":
        return frozenset(table["unit"])
    return frozenset(table[table["perturbation"].isin(name_list("over", over))]["unit"])


def _tables(scores: pd.DataFrame, metric: str, by_context: bool) -> dict[str, pd.DataFrame]:
    """Return the values of a metric of populations by model, (fold, seed) x units."""
    rows = scores[(scores["metric"] == metric) & (scores["against"].fillna("") == "")]
    if rows.empty:
        raise InputError(
            f"The scores hold no {metric!r}: choose one of {', '.join(scores['metric'].unique())}."
        )
    rows = of_units(rows, by_context)
    setting = rows["setting"].fillna("").astype(str)
    rows = rows.assign(
        row=(rows["model"].astype(str) + " " + setting).str.strip(),
        fold=rows["split"].astype(str).str.extract(r"fold (\d+)\)?$", expand=False).fillna("1").astype(int),
    )
    keys = ["row", "fold", "seed", "unit"]
    rows = rows.drop_duplicates([*keys, "value"])
    if rows.duplicated(keys).any():
        twice = rows[rows.duplicated(keys)].iloc[0]
        raise InputError(f"The scores hold two values of {metric} for {twice['row']} on {twice['unit']}.")
    tables = {}
    for name, part in rows.groupby("row", sort=False):
        missing = sorted(set(rows["fold"]) - set(part["fold"]))
        if missing:
            raise InputError(f"{name} was not scored in the folds {missing}: run them, or select folds.")
        tables[str(name)] = part.pivot(index=["fold", "seed"], columns="unit", values="value")
    return tables


def _base_of(metric: str) -> str:
    """Return the metric that a skill is made of, or the metric itself."""
    name = metric.removeprefix("skill_")
    if metric != name and name not in SKILLED:
        raise InputError(
            f"A perturbation's {metric} has no meaning, since {name} of no_change may be 0: choose skill_"
            f"{', skill_'.join(SKILLED)}, or compare {name} by difference."
        )
    return name


def _skills(tables: Mapping[str, pd.DataFrame], name: str) -> dict[str, pd.DataFrame]:
    """Return the skills in a metric over no_change in the same fold, from its tables."""
    if name == "pds":
        return {model: 2.0 * table - 1.0 for model, table in tables.items()}
    nothing = tables["no_change"].groupby(level="fold").mean()
    return {
        model: 1.0 - table.div(nothing.reindex(columns=table.columns), level="fold")
        for model, table in tables.items()
    }


def _unit_ceilings(models: Mapping[str, pd.DataFrame]) -> dict[str, Ceiling]:
    """Return the ceiling of each unit from the correlation of halves in each fold."""
    replicate = models["replicate"]
    tops = {str(unit): ceiling(replicate[unit].to_numpy(dtype=np.float64)) for unit in replicate}
    return {unit: top for unit, top in tops.items() if np.isfinite(top.value)}


def _perfect(tables: Mapping[str, pd.DataFrame], metric: str) -> dict[str, float]:
    """Return what a perfect prediction of each unit scores; the replicate's value where no more is known."""
    skilled = metric == "skill" or metric.startswith("skill_")
    name = "pseudobulk_mse" if metric == "skill" else metric.removeprefix("skill_")
    best = tables["replicate"].mean() / HALVES.get(name, 1.0)
    if skilled:
        nothing = tables["no_change"].mean().reindex(best.index)
        best = 2.0 * best - 1.0 if name == "pds" else 1.0 - best / nothing
    return {str(unit): float(value) for unit, value in best.items() if np.isfinite(value)}
