"""What the runs of all arms say: shares of the pathwise optimum, learning, hits on a hidden label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from twinlib.errors import InputError, ResultsError
from twinlib.evaluation.calibration import Estimate, estimate
from twinlib.results import tables, trajectory_tables

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.evaluation.similarity import SimilarityVerdict
    from twinlib.results.judged import JudgedSplit

#: The yardstick of the same network, trained by the exact gradient.
PATHWISE = "pathwise"
#: Share of the environment steps over which speed is read.
EARLY = 0.25
#: Share of the level that all runs end above, to which updates are counted.
LEVEL = 0.9
#: Share of a curve's points, at its end, whose mean is what it ends at.
LAST = 0.1


def share(split: JudgedSplit, model: str, of: str = PATHWISE, metric: str = "") -> Estimate:
    """Return a row's score, the primary one or another, as a share of another row's, with its interval.

    The interval is that of the differences model - ratio x other, in units of the other's mean.
    """
    table = split.table(metric)
    units = table.units(model) & table.units(of)
    if not units:
        raise InputError(f"{model} and {of} share no unit of {table.metric}; choose other rows.")
    ours, theirs = table.matrix(model, units), table.matrix(of, units)
    ratio, scale = float(ours.mean() / theirs.mean()), float(theirs.mean())
    seeds = table.seed_variance(model, units) + ratio**2 * table.seed_variance(of, units)
    spread = estimate((ours - ratio * theirs) / scale, seeds=seeds / scale**2)
    return replace(spread, mean=ratio, low=ratio + spread.low, high=ratio + spread.high)


def shares(split: JudgedSplit, models: Sequence[str], of: str = PATHWISE, metric: str = "") -> pd.DataFrame:
    """Return one row a model: its share with interval, columns model, share, low, high, units."""
    import pandas as pd

    known = {name: share(split, name, of, metric) for name in models}
    return pd.DataFrame(
        {"model": name, "share": value.mean, "low": value.low, "high": value.high, "units": value.units}
        for name, value in known.items()
    )


def below_nothing(runs: pd.DataFrame) -> pd.DataFrame:
    """Return by model the number of runs, of those lost, and of those with a return below 0."""
    named = runs.assign(
        lost=runs["lost"].fillna(False).astype(bool), below=runs["validation_return"].fillna(0.0) < 0
    )
    table = named.groupby("model", sort=False).agg(
        runs=("seed", "size"), lost=("lost", "sum"), below=("below", "sum")
    )
    return table.reset_index()


# -- learning --------------------------------------------------------------------------------------------
def early_return(curves: pd.DataFrame, first: str, second: str, by: Sequence[str] = ("setting",)) -> Estimate:
    """Return the gain in mean return over the first quarter of the steps, in units of the attainable gain.

    Paired over the settings of a tuning, or over other columns, the last of which is the unit. What a setting
    does to a curve, the noise that it starts with above all, is more than what a seed does.
    """
    early = curves[curves["environment_steps"] <= EARLY * curves["environment_steps"].max()]
    means = early.groupby(["model", *by])["episode_return"].mean().unstack("model")
    for name in (first, second):
        if name not in means:
            raise ResultsError(f"There is no learning curve of {name}; add it to the run.")
    gaps = (means[first] - means[second]).dropna()
    table = gaps if len(by) == 1 else gaps.unstack().dropna(axis=1)
    return estimate(table.to_numpy(dtype=np.float64))


def saved_updates(
    curves: pd.DataFrame, first: str, second: str, count: str = "optimizer_steps", until: str = ""
) -> Estimate:
    """Return the share of the second's optimizer steps that the first saves, paired over shared settings.

    Counted until nine tenths of what both end above; a setting at which either ends at nothing is left out.
    `count` may be another column that grows. With `until` (environment_steps) the first is read where the
    second arrives in that column: what it would save if it learned no faster. Raises ResultsError where no
    setting is left.
    """
    known = {name: _by_setting(curves, name) for name in (first, second)}
    saved = []
    for setting in sorted(known[first].keys() & known[second].keys()):
        ours, theirs = (known[name][setting] for name in (first, second))
        level = LEVEL * min(_end(rows["episode_return"]) for rows in (ours, theirs))
        if level > 0:
            arrived = _arrival(theirs, level)
            reached = ours[ours[until] <= arrived[until]].iloc[-1] if until else _arrival(ours, level)
            saved.append(1.0 - float(reached[count]) / float(arrived[count]))
    if not saved:
        raise ResultsError("At no setting both end above nothing, so that no level is shared.")
    return estimate(np.array(saved))


def _by_setting(curves: pd.DataFrame, model: str) -> dict[str, pd.DataFrame]:
    """Return the curves of an algorithm by setting, in the order of the steps."""
    own = curves[curves["model"] == model].sort_values("environment_steps")
    if own.empty:
        raise ResultsError(f"There is no learning curve of {model}; add it to the tuning.")
    return {str(setting): rows for setting, rows in own.groupby("setting")}


def _end(values: pd.Series) -> float:
    """Return what a curve ends at."""
    return float(values.tail(max(1, int(LAST * len(values)))).mean())


def _arrival(rows: pd.DataFrame, level: float) -> pd.Series:
    """Return the first row of a curve whose return is at `level`, or its last."""
    there = (rows["episode_return"] >= level).to_numpy()
    return rows.iloc[int(there.argmax()) if there.any() else -1]


def mean_curves(curves: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Return the mean curve of each arm over folds and seeds, with the quartiles of the return."""
    own = curves[(curves["split_kind"] == "cells") & (curves["setting"] == "")]
    own = own[own["model"].isin(list(models))]
    by = own.groupby(["model", "environment_steps"], sort=False)
    table = by[["episode_return", "optimizer_steps", "kl", "clip_fraction"]].mean()
    low, high = (by["episode_return"].quantile(share) for share in (0.25, 0.75))
    return table.assign(low=low, high=high).reset_index()


# -- hits ------------------------------------------------------------------------------------------------
def reciprocal_ranks(hits: pd.DataFrame, among: str = "targets") -> pd.DataFrame:
    """Return the mean reciprocal rank of the hidden label's target, one row a way of ranking.

    Columns model, mrr, first (share of labels whose target comes first), low, high (interval over labels),
    labels, candidates, chance (of a ranking at random), stability (share of the top that seeds have in
    common).
    """
    import pandas as pd

    rows = hits[hits["among"] == among].assign(reciprocal=lambda table: 1.0 / table["rank"])
    rows = rows.assign(first=rows["rank"] == 1)
    return pd.DataFrame(_ranked(model, own) for model, own in rows.groupby("model", sort=False))


def _ranked(model: object, own: pd.DataFrame) -> dict[str, object]:
    """Return the row of one way of ranking."""
    by_label = own.groupby("perturbation")[["reciprocal", "first"]].mean()
    value, size = estimate(by_label["reciprocal"].to_numpy(dtype=np.float64)), int(own["candidates"].iloc[0])
    return {
        "model": model,
        "mrr": value.mean,
        "low": value.low,
        "high": value.high,
        "first": float(by_label["first"].mean()),
        "labels": len(by_label),
        "candidates": size,
        "chance": float((1.0 / np.arange(1, size + 1)).mean()),
        "stability": own["stability"].mean() if "stability" in own else np.nan,
    }


def hit_gap(hits: pd.DataFrame, first: str, second: str, among: str = "targets") -> Estimate:
    """Return the difference of two ways' mean reciprocal ranks, paired over labels."""
    rows = hits[hits["among"] == among].assign(reciprocal=lambda table: 1.0 / table["rank"])
    wide = rows.groupby(["model", "perturbation"])["reciprocal"].mean().unstack("model")
    for name in (first, second):
        if name not in wide:
            raise ResultsError(f"The hits hold no {name}; choose one of {', '.join(map(str, wide))}.")
    return estimate((wide[first] - wide[second]).dropna().to_numpy(dtype=np.float64))


def path_verdict(paths: pd.DataFrame, groups: pd.DataFrame, model: str) -> SimilarityVerdict | None:
    """Judge a policy's paths beside its shuffled labels, the straight line and doing nothing, in DTW.

    Units are perturbations with an effect in the contexts that have trajectories; None where there is none.
    """
    strong = set(groups.loc[groups["has_effect"].eq(True), "perturbation"])
    units = {
        (name, context)
        for name, context in zip(paths["perturbation"], paths["cell_context"], strict=True)
        if name in strong
    }
    marked = paths.assign(part="test", setting="pseudotime")
    return trajectory_tables.verdict(marked, units, "pseudotime", model=model)


def policy_table(dataset: str, table: str, experiment: str = "policies") -> pd.DataFrame:
    """Return `runs`, `curves`, `hits` or `settings` of the packaged run of all arms, or of the tuning."""
    rows: pd.DataFrame = tables.read_table(experiment, dataset, table)
    return rows
