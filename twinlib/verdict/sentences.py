"""The first screen of a report: five sentences with numbers and intervals, in a biologist's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from twinlib.evaluation.calibration import Estimate
from twinlib.evaluation.summaries import MIN_TOTAL
from twinlib.verdict.parts import SHAM
from twinlib.verdict.policies import NAMES

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.verdict.judged_file import JudgedFile

#: What each row of a table is called on a page.
CALLED = {
    "experimental": "the twin",
    "matching_mean": "the plain mean of each perturbation",
    "mean": "the mean of all perturbations",
    "context_mean": "the plain mean in the other cell types",
    "additive": "the sum of the single changes",
    "linear": "the linear baseline",
    "latent_shift": "the mean shift in the latent space",
    "no_change": "no change",
    "replicate": "half of the cells, repeated",
    "ceiling": "a perfect model",
    "predictions": "the given prediction",
    "predictions_shuffled": "the given prediction, labels dealt anew",
    "two_stage": "policies trained in two stages (TRPO, then PPO)",
    "PPO": "policies trained by PPO",
    "greedy": "the best constant action of the linear model",
}
#: What the primary metrics measure.
MEASURED = {
    "pearson_delta": "correlation of the predicted with the observed change of the genes",
    "skill_pseudobulk_mse": "share of the squared change of the genes that is predicted",
}
#: Names that a sentence lists at most.
LISTED = 8


def five_sentences(judged: JudgedFile) -> list[str]:
    """Return the five sentences on a file and the row that is judged."""
    return [
        effects_sentence(judged),
        scores_sentence(judged),
        gap_sentence(judged),
        contexts_sentence(judged),
        untold_sentence(judged),
    ]


def effects_sentence(judged: JudgedFile) -> str:
    """Say which perturbations have an effect at this number of cells."""
    table, shown = judged.units, judged.shown
    many = f"{len(table)} {unit_word(judged, len(table))}"
    size = f"median {_median_cells(judged):.0f} cells each"
    if not shown:
        called = int(table["has_effect"].sum())
        return (
            f"**These cells show nothing:** of {many} ({size}) none can be told from the control cells "
            f"({called} called by the energy test in most folds; in none of these do two halves of the cells "
            "agree on a change)."
        )
    acting = list(table.index[table["has_effect"]])
    single = [int(n) for n in judged.tests.groupby("split")["called"].sum()]
    rest = sorted(set(table.index) - set(acting))
    vague = sorted(set(acting) - set(shown))
    return (
        f"**{len(acting)} of {many} have an effect at this number of cells** ({size}): {listed(acting)}; in "
        f"single folds {min(single)} to {max(single)} are called. "
        + (f"Of {listed(vague)} it can be told that it acts, but not on which genes. " if vague else "")
        + (f"Nothing can be told of the other {len(rest)}: {listed(rest)}." if rest else "None is left over.")
    )


def unit_word(judged: JudgedFile, number: int) -> str:
    """Return what a unit is called: a perturbation, or a perturbation in a cell type."""
    plural = "s" if number != 1 else ""
    return f"pair{plural} of a perturbation and a cell type" if judged.pairs else f"perturbation{plural}"


def _median_cells(judged: JudgedFile) -> float:
    groups = judged.tables("cells")[1]
    return float(groups[groups["cell_context"] == ""].groupby("perturbation")["n_total"].first().median())


def listed(names: Sequence[str]) -> str:
    """Return names in a row, the first `LISTED` of them."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def scores_sentence(judged: JudgedFile) -> str:
    """Say how well a perfect model could do, and what the plain mean and the twin do."""
    rows, own = judged.rows(), judged.own
    if rows.empty or own not in rows.index:
        return "No perturbation has enough cells in every fold for a score (n/a)."
    plain = judged.plain_row("cells")
    told = (
        f"{called(plain)} reaches {of_row(rows, plain)} and **{called(own)} {of_row(rows, own)}** "
        f"({MEASURED[judged.metric]}; 1 is perfect, 0 is no skill; 95 % intervals)."
    )
    if not judged.shown:
        return f"Over all of them, where nothing is to be found and no ceiling can be told (n/a), {told}"
    top = _number(float(rows["ceiling"].loc[own]))
    return f"Averaged over the {_units(rows)}, **{CALLED['ceiling']} could reach {top}**; {told}"


def _units(rows: pd.DataFrame) -> str:
    number = int(rows["units"].iloc[0])
    return f"{number} with an effect" if number > 1 else "one with an effect"


def called(row: str) -> str:
    """Return what a row is called on a page."""
    return CALLED.get(row, f"the row '{row}'")


def of_row(rows: pd.DataFrame, name: str) -> str:
    """Return the mean of a row with its interval."""
    if name not in rows.index:
        return "n/a"
    mean, low, high = (float(rows[column].loc[name]) for column in ("mean", "low", "high"))
    return with_interval(mean, low, high)


def with_interval(mean: float, low: float, high: float) -> str:
    """Return a number with its interval, or with n/a where fewer than six units give none."""
    if not np.isfinite(low):
        return f"{_number(mean)} [interval n/a: fewer than six]"
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "n/a"


def gap_sentence(judged: JudgedFile) -> str:
    """Say whether the twin is told apart from the plain mean, and what could not have been seen."""
    plain, own = judged.plain_row("cells"), judged.own
    rows = judged.rows()
    if rows.empty or not {own, plain} <= set(rows.index):
        return f"{called(own).capitalize()} cannot be compared with {CALLED[plain]} here (n/a)."
    gap = judged.gap(own, plain)
    verdict = {True: "is better than", False: "is worse than", None: "cannot be told apart from"}[_side(gap)]
    return (
        f"{called(own).capitalize()} **{verdict} {CALLED[plain]}**: the difference is "
        f"{with_interval(gap.mean, gap.low, gap.high)}"
        + (f", and one below {gap.smallest:.2f} could not have been seen." if np.isfinite(gap.low) else ".")
    )


def _side(gap: Estimate) -> bool | None:
    """Return whether a difference lies above 0 (True), below it (False), or cannot be told (None)."""
    if not np.isfinite(gap.low) or gap.low <= 0 <= gap.high:
        return None
    return gap.low > 0


def contexts_sentence(judged: JudgedFile) -> str:
    """Say in which contexts the twin does well, seen in training or left out of it."""
    if not judged.contexts:
        return (
            "All cells count as **one cell type**, so nothing is said about another one: name a column of "
            "cell "
            "types with --context-key to learn more."
        )
    own = judged.own
    within = {name: judged.rows("cells", name) for name in judged.contexts}
    known = [f"{name} {of_row(rows, own)}" for name, rows in within.items() if own in rows.index]
    missing = [name for name, rows in within.items() if own not in rows.index]
    told = f"**By cell type**, {called(own)} reaches " + "; ".join(known[:LISTED]) if known else ""
    told += f"; n/a in {listed(missing)} (too few cells)" if missing else ""
    left_out = judged.rows("contexts") if "contexts" in judged.splits else None
    if left_out is None or left_out.empty or own not in left_out.index:
        return told.lstrip("; ") + "."
    plain = judged.plain_row("contexts")
    return (
        f"{told}. In a cell type that was **left out of the training** it reaches {of_row(left_out, own)}, "
        f"{CALLED[plain]} {of_row(left_out, plain)}."
    )


def null_sentence(judged: JudgedFile) -> str:
    """Say what the row scores where nothing is to be found: on sham labels, or under labels dealt anew."""
    own, shuffled = judged.own, f"{judged.own}_shuffled"
    null, real = judged.rows(SHAM), judged.rows()
    if own in null.index:
        return f" On labels that mean nothing {called(own)} scores {of_row(null, own)}."
    if shuffled in real.index:
        return f" With its labels dealt anew {called(own)} scores {of_row(real, shuffled)}."
    return ""


def untold_sentence(judged: JudgedFile) -> str:
    """Say what cannot be told, how many more cells it would take, and what labels without a meaning score."""
    sure = judged.sureness()
    unknown = [unit for unit in sure.index if not np.isfinite(sure.loc[unit, "1 x"])]
    beside = null_sentence(judged)
    small = judged.small()
    beside += (
        f" Left out of every average, with under {MIN_TOTAL} cells: {listed(list(small['perturbation']))}."
        if len(small)
        else ""
    )
    if len(unknown) == len(sure) or not judged.shown:
        return (
            "**What cannot be told:** how many more cells it would take (n/a): two halves of the cells "
            "agree on no "
            "change, so that its size is unknown." + beside
        )
    least = str(sure["1 x"].idxmin())
    now = sure.loc[least]
    told = (
        f"**Least sure** is the change of {least}: two such experiments would agree with a correlation of "
        f"{now['1 x']:.2f} [at least {max(now['low'], 0):.2f}], with twice the cells {now['2 x']:.2f}, "
        "with four "
        f"times {now['4 x']:.2f}."
    )
    if unknown:
        told += (
            f" For {len(unknown)} of {len(sure)} the halves agree on no change, so that not even the "
            "number of "
            "cells it would take can be told (n/a)."
        )
    return told + beside


def policies_sentence(judged: JudgedFile, policies: pd.DataFrame, steps: int) -> str:
    """Say what the policies of the in-silico twin score, or why there are none; "" where none were asked."""
    if not steps:
        return ""
    if len(policies):
        return f"**No in-silico twin** was made of this file (n/a): {policies['reason'].iloc[0]}"
    table = judged.rows()
    scores = "; ".join(f"{called(name)} {of_row(table, name)}" for name in NAMES if name in table.index)
    if not scores:
        return "**The in-silico twin** reaches none of the perturbations that are scored here (n/a)."
    return (
        f"**The in-silico twin** learns by trial on the same cells ({steps:,} steps, nothing tuned): "
        f"{scores}; beside {called(judged.own)} with {of_row(table, judged.own)}."
    )
