"""The answer to the title's claim, read from the results of the escape experiment: rates, pairs, cause."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from twinlib.errors import ResultsError
from twinlib.evaluation.statistics import PairedDifference, paired_difference, wilson_interval
from twinlib.results import tables
from twinlib.results.escape_design import Barrier, Design, Setting, unpacked

#: Landscapes that can be escaped from, from the lowest barrier to the highest.
BARRIERS = ("low", "middle", "high")
#: What a warm start brings along, and the pair of rows (without, with) that adds it alone to PPO; a row is a
#: contestant and its setting.
PARTS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "restart (fresh optimizer)": (("PPO", ""), ("PPO_restart", "")),
    "KL target (step-size control)": (("PPO", ""), ("PPO", "KL target delta")),
    "exploration noise of the hand-over": (("PPO", ""), ("PPO", "noise of the hand-over")),
    "critic trained first": (("PPO", ""), ("two_stage", "critic warmed up alone")),
    "policy of the natural gradient": (("PPO", ""), ("two_stage", "no KL target, no penalty")),
    "policy, penalty, no KL target": (("PPO", ""), ("two_stage", "no KL target")),
}


def escape_results(table: str = "runs") -> Any:
    """Return `runs`, `curves` or `density` as a DataFrame; `manifest`, `settings` or `paths` as a dict.

    Raises ResultsError with one sentence where they are not there.
    """
    kind = "json" if table in ("manifest", "settings", "paths") else "csv"
    path = tables.results_folder() / "escape" / f"{table}.{kind}"
    if not path.is_file():
        raise ResultsError(
            f"No packaged {path.name} of the escape experiment; make it with "
            "'python -m experiments escape --out DIR'."
        )
    if kind == "json":
        return json.loads(path.read_text())
    return pd.read_csv(path, dtype={"setting": str}, keep_default_na=True).fillna({"setting": ""})


def recorded_design() -> Design:
    """Return the design that the results were made with."""
    fields = escape_results("manifest")["design"]
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    barriers = tuple(Barrier(**barrier) for barrier in fields["barriers"])
    return Design(**fields | lists | {"barriers": barriers})


def recorded_settings() -> dict[str, Setting]:
    """Return every setting that was run, by its name."""
    settings = [Setting(**fields) for fields in escape_results("settings")["settings"]]
    return {setting.name: setting for setting in settings}


def recorded_paths() -> dict[str, np.ndarray]:
    """Return the paths [T + 1, n, 2] of cells under each final policy of the main experiment, by name."""
    form = escape_results("settings")["paths"]
    return {name: unpacked(text, **form) for name, text in escape_results("paths").items()}


def chosen_runs(
    runs: pd.DataFrame, contestant: str, barrier: str, setting: str = "", experiment: str | None = None
) -> pd.DataFrame:
    """Rows of one setting, indexed by seed; without an experiment named, the tuning is left out."""
    rows = runs[
        (runs["contestant"] == contestant)
        & (runs["barrier"] == barrier)
        & (runs["setting"] == setting)
        & (runs["experiment"] != "tuning" if experiment is None else runs["experiment"] == experiment)
    ]
    if rows.empty:
        raise KeyError(f"no runs of {contestant} ({setting or 'main setting'}) on the {barrier} barrier")
    return rows.set_index("seed").sort_index()


def rate(rows: pd.DataFrame, column: str = "reached") -> dict[str, float]:
    """Share of the runs that escaped or arrived, with Wilson's interval: keys n, rate, low, high."""
    count, n = int(rows[column].sum()), len(rows)
    low, high = wilson_interval(count, n)
    return {"n": n, "rate": count / n, "low": low, "high": high}


def summary(runs: pd.DataFrame, barrier: str) -> pd.DataFrame:
    """One row a contestant of the main experiment on one landscape.

    `reached` and `left A` are shares of runs with Wilson's interval as text, `success` is the mean share of
    cells, `steps to first arrival` the median over the runs that arrived while training.
    """
    part = runs[(runs["experiment"] == "main") & (runs["barrier"] == barrier)]
    rows = {}
    for name in dict.fromkeys(part["contestant"]):
        own = part[part["contestant"] == name]
        arrived = own["first_reach"].dropna()
        rows[name] = {
            "reached B": interval_text(rate(own)),
            "left A": interval_text(rate(own, "escaped")),
            "cells in B": own["success"].mean(),
            "share of the best return": own["return_share"].mean(),
            "runs that arrived while training": len(arrived),
            "steps to first arrival": arrived.median() if len(arrived) else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("contestant")


def interval_text(known: dict[str, float]) -> str:
    """A rate with its interval as text."""
    return f"{known['rate']:.2f} [{known['low']:.2f}, {known['high']:.2f}]"


def compare(
    runs: pd.DataFrame,
    with_it: tuple[str, str],
    without: tuple[str, str],
    barrier: str,
    column: str = "success",
) -> PairedDifference:
    """Difference of two settings (contestant, setting), paired by seed, in the share of cells in B."""
    a, b = (chosen_runs(runs, name, barrier, setting)[column] for name, setting in (with_it, without))
    shared = a.index.intersection(b.index)
    return paired_difference(a[shared], b[shared])


def one_at_a_time(runs: pd.DataFrame, barrier: str) -> pd.DataFrame:
    """Rates of two_stage over warm start, delta and beta, the main setting of each among them."""
    manifest = escape_results("manifest")
    size = manifest["tuning"]["chosen_step"]["two_stage"]
    design = manifest["design"]
    main = {
        "warm_start": design["warm_start"],
        "delta": design["deltas"][size],
        "beta": design["beta"],
    }
    rows = []
    for name, value in main.items():
        varied = runs[runs["experiment"] == name]
        for setting in dict.fromkeys(varied["setting"]):
            own = varied[varied["setting"] == setting]
            rows.append({"varied": name, "value": float(setting), "main": False} | _rates(own))
        own = chosen_runs(runs, "two_stage", barrier)
        rows.append({"varied": name, "value": float(value), "main": True} | _rates(own))
    return pd.DataFrame(rows).sort_values(["varied", "value"], ignore_index=True)


def _rates(rows: pd.DataFrame) -> dict[str, float]:
    return rate(rows) | {"cells in B": float(rows["success"].mean())}


def causes(runs: pd.DataFrame, barrier: str) -> pd.DataFrame:
    """What each part of the warm start does alone: cells in B with it minus without it, paired by seed."""
    rows = {}
    for name, (without, with_it) in PARTS.items():
        difference = compare(runs, with_it, without, barrier)
        rows[name] = {
            "runs that reached B": rate(chosen_runs(runs, with_it[0], barrier, with_it[1]))["rate"],
            "cells in B, minus PPO": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "p": difference.p_value,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what is added to PPO")


def changes(runs: pd.DataFrame, barrier: str) -> pd.DataFrame:
    """What one change does to two_stage at its own step sizes: cells in B after minus before, by seed."""
    rows = {}
    main = chosen_runs(runs, "two_stage", barrier)
    varied = runs[(runs["contestant"] == "two_stage") & (runs["barrier"] == barrier)]
    for experiment in ("warm_start", "delta", "beta", "cause"):
        part = varied[varied["experiment"] == experiment]
        for setting in dict.fromkeys(part["setting"]):
            own = part[part["setting"] == setting].set_index("seed").sort_index()
            difference = paired_difference(own["success"], main["success"])
            name = setting if experiment == "cause" else f"{experiment.replace('_', ' ')} {setting}"
            rows[name] = {
                "runs that reached B": rate(own)["rate"],
                "cells in B, minus two_stage": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p_value,
                "last log s.d.": own["final_log_std"].mean(),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("changed in two_stage")


def named_cause(runs: pd.DataFrame, barrier: str) -> str:
    """Which single changes move the share of cells in B, by intervals that leave out zero, as text."""
    added, changed = causes(runs, barrier), changes(runs, barrier)
    return (
        f"Added alone to PPO: {_moved(added, 'cells in B, minus PPO')}. "
        f"Changed alone in two_stage: {_moved(changed, 'cells in B, minus two_stage')}."
    )


def _moved(table: pd.DataFrame, column: str) -> str:
    """Rows whose interval leaves out zero, the largest first, as text."""
    told = table[(table["low"] > 0) | (table["high"] < 0)].sort_values(column, key=abs, ascending=False)
    if told.empty:
        return "nothing whose interval leaves out zero"
    return "; ".join(
        f"{name} ({row[column]:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}])"
        for name, row in told.iterrows()
    )


def escape_claims(
    runs: pd.DataFrame, contestant: str = "two_stage", rival: str = "PPO"
) -> list[dict[str, Any]]:
    """The title's claim, one row a landscape: text of the evidence, and the interval that gives its verdict.

    Keys: `dataset` (the landscape), `number` (text), `low`, `high` (of the paired difference in cells in B).
    """
    rows = []
    for barrier in BARRIERS:
        difference = compare(runs, (contestant, ""), (rival, ""), barrier)
        ours, theirs = (rate(chosen_runs(runs, name, barrier)) for name in (contestant, rival))
        text = (
            f"runs that reach B: {contestant} {interval_text(ours)}, {rival} {interval_text(theirs)}; "
            f"cells in B {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}], "
            f"p {difference.p_value:.3f}, {difference.n} seeds"
        )
        rows.append({"dataset": barrier, "number": text, "low": difference.low, "high": difference.high})
    return rows
