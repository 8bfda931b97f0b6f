"""The first screen of a report: five sentences with numbers and intervals, in a biologist's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from twinlib.evaluation.calibration import Estimate
from twinlib.evaluation.summaries import CEILING, MIN_TOTAL
from twinlib.verdict.judged_file import ENOUGH
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
    "pathwise": "the exact gradient of the return",
    "greedy": "the best constant action of the linear model",
}
#: What is said of intervals.
BRACKETS = "in brackets 95 % intervals"
#: What is said where a number has no interval, and how its place is marked until then.
TOO_FEW, NO_INTERVAL = " (No intervals: they need six or more.)", " [n/a]"
#: What the primary metrics measure.
MEASURED = {
    "pearson_delta": "correlation of the predicted with the observed change of the genes",
    "skill_pseudobulk_mse": "share of the squared change of the genes that is predicted",
}
#: A panel that keeps less than this share of the change is told.
KEPT = 0.5
#: Names that a sentence lists at most.
LISTED = 8


def five_sentences(judged: JudgedFile) -> list[str]:
    """Return the five sentences on a file and the row that is judged."""
    parts = (effects_sentence, scores_sentence, gap_sentence, contexts_sentence, untold_sentence)
    told = [part(judged) for part in parts]
    return [_without_empty_brackets(text) for text in told]


def _without_empty_brackets(text: str) -> str:
    """Say once where numbers have no interval."""
    if NO_INTERVAL not in text:
        return text
    return text.replace(NO_INTERVAL, "").replace(f"; {BRACKETS}", "") + TOO_FEW


def effects_sentence(judged: JudgedFile) -> str:
    """Say which perturbations have an effect at this number of cells."""
    table = judged.units
    many = f"{len(table)} {unit_word(judged, len(table))} (about {table['cells'].median():.0f} cells each)"
    single = [int(n) for n in judged.tests.groupby("split")["called"].sum()]
    tested = f"by all genes together, in each of five tests on most of the cells, {_span(single)} differ"
    if judged.shows == "nothing":
        return f"**These cells show nothing:** none of {many} can be told from the control cells; {tested}."
    if judged.shows == "together":
        rows, plain = judged.rows(), judged.plain_row("cells")
        score = f"{called(plain)} {of_row(rows, plain)}, {called(judged.own)} {of_row(rows, judged.own)}"
        return (
            f"**No single one of {many} can be told from the control cells**; {tested}. **Taken "
            f"together they do**: other cells are predicted ({score}; {MEASURED[judged.metric]})."
        )
    have = "has" if len(judged.acting) == 1 else "have"
    told = f"**{len(judged.acting)} of {many} {have} an effect**: {acting_units(judged)}; {tested}."
    return told + _beside(judged)


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low} to {high}" if low < high else f"{low}"


def acting_units(judged: JudgedFile) -> str:
    """Return the units with an effect, the farthest from the controls first."""
    named = judged.tests.assign(unit=judged.unit_names(judged.tests))
    distances = named.groupby("unit")["distance"].mean().reindex(judged.acting)
    return listed(list(distances.sort_values(ascending=False).index))


def _beside(judged: JudgedFile) -> str:
    """Say of which units it cannot be told what they do, or whether they do anything."""
    table, told = judged.units, ""
    vague = list(table.index[table["has_effect"] & ~table["resolvable"] & table["halved"]])
    small = list(table.index[table["has_effect"] & ~table["halved"]])
    rest = list(table.index[~table["has_effect"]])
    if vague:
        told += f" Of {listed(vague)} it can be told that it acts, but not on which genes."
    if small:
        told += f" {len(small)} of these have too few cells to ask whether two halves agree (n/a)."
    if rest:
        told += f" Of the other {len(rest)} nothing can be told: {listed(rest)}."
    return told


def unit_word(judged: JudgedFile, number: int) -> str:
    """Return what a unit is called: a perturbation, or a perturbation in a cell type."""
    plural = "s" if number != 1 else ""
    return f"pair{plural} of a perturbation and a cell type" if judged.pairs else f"perturbation{plural}"


def listed(names: Sequence[str]) -> str:
    """Return names in a row, the first `LISTED` of them."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(plain_unit, names[:LISTED])) + more


def plain_unit(unit: str) -> str:
    """Return how a page calls a unit.

    >>> plain_unit("IFN-beta | CD4 T")
    'IFN-beta in CD4 T'
    """
    return unit.replace(" | ", " in ")


def scores_sentence(judged: JudgedFile) -> str:
    """Say how well a perfect model could do, and what the plain mean and the twin do."""
    rows, own = judged.rows(), judged.own
    if rows.empty or own not in rows.index:
        return "No perturbation has enough cells in every fold for a score (n/a)."
    plain = judged.plain_row("cells")
    told = (
        f"{called(plain)} reaches {of_row(rows, plain)} and **{called(own)} {of_row(rows, own)}** "
        f"({MEASURED[judged.metric]}; 1 is perfect, 0 is no skill; {BRACKETS})."
    )
    if judged.shows != "effects":
        return f"Over all of them, {told} How well a perfect model could do cannot be told (n/a)."
    return f"Averaged over the {_units(rows)}, **{_top(judged, rows)}**; {told}"


def _top(judged: JudgedFile, rows: pd.DataFrame) -> str:
    """Return what a perfect model could reach, or why that is not known."""
    if CEILING in rows.index and judged.shown:
        return f"{CALLED[CEILING]} could reach {of_row(rows, CEILING)}"
    why = "too few cells for halves" if not judged.units["halved"].any() else "two halves agree on no change"
    return f"what {CALLED[CEILING]} could reach cannot be told (n/a: {why})"


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
        return f"{rounded(mean)}{NO_INTERVAL}"
    return f"{rounded(mean)} [{rounded(low)}, {rounded(high)}]"


def rounded(value: float) -> str:
    """Return a number with two digits, never -0.00."""
    return f"{round(value, 2) + 0.0:.2f}" if np.isfinite(value) else "n/a"


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
        + (f"; one below {gap.smallest:.2f} could not have been seen." if np.isfinite(gap.low) else ".")
    )


def opponent_sentence(judged: JudgedFile) -> str:
    """Say what the plain mean of a score page has seen, and how the row does against what has seen less."""
    own, rows = judged.own, judged.rows()
    if not {own, "mean"} <= set(rows.index):
        return ""
    gap = judged.gap(own, "mean")
    verdict = {True: "is better", False: "is worse", None: "cannot be told apart"}[_side(gap)]
    than = "from" if _side(gap) is None else "than"
    return (
        f"**What is fair:** {CALLED['matching_mean']} knows other cells of the same perturbations, those of "
        f"the truth. A model that never saw these perturbations is to be held against {CALLED['mean']}: "
        f"{called(own)} {verdict} {than} it, by {with_interval(gap.mean, gap.low, gap.high)}."
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
            "All cells count as **one cell type**, so nothing is said about another one (n/a): name a column "
            "of cell types with --context-key to learn more."
        )
    own = judged.own
    within = {name: judged.rows("cells", name) for name in judged.contexts}
    known = [f"{name} {of_row(rows, own)}" for name, rows in within.items() if own in rows.index]
    missing = [name for name, rows in within.items() if own not in rows.index]
    silent = [name for name in missing if judged.silent(name)]
    small = [name for name in missing if name not in silent]
    told = f"**By cell type**, {called(own)} reaches " + "; ".join(known[:LISTED]) if known else ""
    told += f"; no effect is seen in {listed(silent)} (n/a)" if silent else ""
    told += f"; too few cells in {listed(small)} (n/a)" if small else ""
    left_out = judged.rows("contexts") if "contexts" in judged.splits else None
    if left_out is None or left_out.empty or own not in left_out.index:
        return told.lstrip("; ") + "."
    plain = judged.plain_row("contexts")
    told += (
        f". In a cell type that was **left out of the training** it reaches {of_row(left_out, own)}, "
        f"{CALLED[plain]} {of_row(left_out, plain)}"
    )
    # all cells of a left-out cell type are test cells, so that its ceiling is another one
    perfect = f"; {CALLED[CEILING]} could reach {of_row(left_out, CEILING)} there"
    return told + (perfect if CEILING in left_out.index else "") + "."


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
    sure = judged.sureness().dropna()
    beside, small = null_sentence(judged), judged.small()
    if len(small):
        names = listed(list(small["perturbation"].unique()))
        beside += f" Left out of every average, with under {MIN_TOTAL} cells: {names}."
    if sure.empty:
        why = "two halves of the cells agree on no change, so that its size is unknown"
        if not judged.units["halved"].any():
            why = "a fifth of the cells is too few to be halved"
        return f"**How many more cells it would take** cannot be told (n/a): {why}." + beside
    return cells_sentence(judged, sure) + beside


def cells_sentence(judged: JudgedFile, sure: pd.DataFrame) -> str:
    """Say how surely the changes are known, and what number of cells would make the least sure one known."""
    least = str(sure["1 x"].idxmin())
    now, enough = sure.loc[least], int((sure["1 x"] >= ENOUGH).sum())
    told = (
        f"**How many cells it takes:** done again with as many cells, the experiment would show the same "
        f"change (correlation {ENOUGH} or more) for {enough} of the {len(sure)} whose change is seen; "
        f"least so for {plain_unit(least)}, {now['1 x']:.2f} [at least {max(now['low'], 0):.2f}]"
    )
    if now["1 x"] < ENOUGH:
        cells = float(sure["times"].loc[least]) * float(judged.units["cells"].loc[least])
        most = f"at most {now['at most']:.1f}" if np.isfinite(now["at most"]) else "n/a"
        told += (
            f", where {now['times']:.1f} [{most}] times its cells (about {cells:.0f}) and controls would do"
        )
    unknown = len(judged.units) - len(sure)
    if unknown:
        told += f"; for the other {unknown} not even that number can be told (n/a)"
    return told + "."


def kept_sentence(kept: pd.DataFrame, acting: Sequence[str]) -> str:
    """Say how much of the change of all measured genes the panel keeps, and under permuted labels."""
    names = {unit.partition(" | ")[0].partition(" at dose ")[0] for unit in acting}
    some = kept[kept["perturbation"].isin(names)] if names else kept
    share, permuted = some["share"].mean(), some["permuted"].mean()
    told = (
        f"The genes that are compared keep {share:.2f} of the squared change of all measured genes "
        f"({permuted:.2f} under permuted labels)"
    )
    few = ", which is less than half: what happens in other genes is not judged."
    return told + (few if share < KEPT else ".")


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
