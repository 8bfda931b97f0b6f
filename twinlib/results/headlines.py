"""What the introduction says was found: a claim on one place, worded by its verdict, with its number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from posixpath import join, normpath

import numpy as np

from twinlib.evaluation.calibration import Estimate
from twinlib.results.claims import Judged, all_claims, claim_number
from twinlib.results.claims_page import slug
from twinlib.results.escape_curves import Escapes
from twinlib.results.judged import LENGTH, judged_splits
from twinlib.results.policy_claims import OURS, RIVAL
from twinlib.results.policy_tables import policy_table
from twinlib.results.tuning_curves import Tuned
from twinlib.results.verdicts import ALONE, FAILS, HOLDS, OPEN, TOLD_AT, alone


@dataclass(frozen=True)
class Headline:
    """A claim on one place, in words of every day."""

    #: How the claim's statement begins.
    statement: str
    #: The place that is told; `EVERYWHERE` counts the verdicts of all that the claim is judged on.
    place: str
    #: The sentence, with {} for what the verdict says, or {holds}, {fails}, {open} and {places} for how many
    #: say so; links are written as pages of the book.
    sentence: str
    #: What stands for {} where the claim holds, where it does not, and where it cannot be told.
    holds: str
    fails: str
    open: str
    #: What the number counts.
    unit: str
    #: More on the numbers, from all judged claims, where they alone would mislead.
    beside: Callable[[Sequence[Judged]], str] = lambda rows: ""
    #: Say on how many places the verdict is the same?
    counted: bool = False


def hardly_seen(rows: Sequence[Judged]) -> str:
    """Say what the primary metric does not see of the two algorithms, and where it sees no policy at all."""
    own = [row.place for row in rows if row.claim == claim_number("Starting PPO from")]
    told = ""
    if PRIMARY_PLACE in own:
        far = Tuned.of(PRIMARY_PLACE).by(LENGTH).gap(OURS, RIVAL, TOLD_AT[-1])
        told = f"; by squared error, looked at afterwards, {_with_interval(far)}"
    splits = {name: judged_splits("policies", name).get("cells") for name in own}
    if splits.get(PRIMARY_PLACE):
        runs = policy_table(PRIMARY_PLACE, "runs")
        cells = runs[(runs["split_kind"] == "cells") & (runs["setting"].fillna("") == "")]
        earned = cells.groupby("model")["validation_return"].mean()
        told += (
            f"; in the [return](../notebooks/05_environment.ipynb) that both are trained for it earns "
            f"{earned[OURS]:.2f} and {RIVAL} {earned[RIVAL]:.2f}, which the correlation hardly sees"
        )
    blind = [name for name, split in splits.items() if split and split.blind]
    return told + (f"; on {', '.join(blind)} it tells no policies apart at all" if blind else "")


def other_readings(rows: Sequence[Judged]) -> str:
    """Say what squared error and the ratio as printed give for Algorithm 1 on the simulated cells."""
    printed = claim_number("One TRPO step before")
    own = [row for row in rows if (row.claim, row.place) == (printed, SIMULATED) and row.told.gap]
    split = judged_splits("policies", SIMULATED).get("cells")
    if not own or split is None or own[0].told.gap is None:
        return ""
    far, gap = split.gap("alternating", RIVAL, LENGTH), own[0].told.gap
    return (
        f"; by squared error, looked at afterwards, {_with_interval(far)}; with the ratio as printed "
        f"{_with_interval(gap)}{ALONE * alone(own[0].verdict, own[0].told)}, {_link(printed)}"
    )


def across(rows: Sequence[Judged]) -> str:
    """Say what the arms are trained for, and what both bring across at one and the same setting."""
    number = claim_number("The trust-region start lets")
    apart = (row for row in rows if row.verdict in (HOLDS, FAILS) or alone(row.verdict, row.told))
    places = [row.place for row in apart if row.claim == number]
    return _mute([row.place for row in rows if row.claim == number]) + "".join(map(_crossing, places))


def _mute(places: Sequence[str]) -> str:
    """Name the landscapes where both arms bring all cells across, or no more than doing nothing does."""
    full, empty = [], []
    for place in places:
        shares = Escapes.of(place).arrivals().set_index("model")["cells in the target"]
        if shares[[OURS, RIVAL]].min() > ALL:
            full.append(place)
        elif shares[[OURS, RIVAL]].max() <= shares["do_nothing"]:
            empty.append(place)
    told = [f"all cells come across either way on {', '.join(full)}"] * bool(full)
    told += [f"no more than when nothing is done on {', '.join(empty)}"] * bool(empty)
    return f"; {', and '.join(told)}, so that nothing can be told apart there" if told else ""


def _crossing(place: str) -> str:
    """Say of one landscape what the share of cells that cross does not say."""
    runs = Escapes.of(place)
    arms = runs.arrivals().set_index("model")["cells in the target"]
    text = f". On {place} the return, for which both are trained, differs by "
    text += _with_interval(runs.gap(OURS, RIVAL, "return"))
    if BEST in arms:
        text += f", and the best policy of all by that return brings {arms[BEST]:.1%} across"
    for owner in (RIVAL, OURS):
        shares = runs.at_setting_of(owner)
        if shares is not None:
            text += (
                f"; at the setting of {owner} {OURS} brings {shares[OURS]:.1%}, {RIVAL} {shares[RIVAL]:.1%}"
            )
    return text


#: In the place of a place: all of them.
EVERYWHERE = ""
#: Where the primary claim is told in full, and the simulated cells.
PRIMARY_PLACE, SIMULATED = "papalexi2021", "waddington"
#: The row of the best policy of all.
BEST = "value_iteration"
#: From this share on all cells count as across.
ALL = 0.99
#: Numbers below this are told with three digits behind the point.
SMALL = 10.0

_COUNTED = {HOLDS: "holds", FAILS: "fails", OPEN: "open"}
_PREDICTS = ("better than", "worse than", "not measurably better or worse than")
_BEATS = ("does better than", "does worse than", "is not told apart from")
#: The findings in their order; one whose experiment is not packaged is left out.
HEADLINES = (
    Headline(
        "Starting PPO from",
        PRIMARY_PLACE,
        "The paper says that TRPO before PPO predicts unseen cells better than PPO alone. With genes "
        "switched off one by one it {} PPO alone",
        *_BEATS,
        "in correlation, best of ten settings each, one fold of cells",
        hardly_seen,
        counted=True,
    ),
    Headline(
        "The warm start leads",
        EVERYWHERE,
        "It says that this converges faster. Over the first quarter of the training, at the same settings, "
        "TRPO before PPO earns more than PPO alone on {holds} of {places} datasets, less on {fails}, "
        "undecided on {open}",
        *("",) * 3,
        "in shares of what the best constant actions earn",
    ),
    Headline(
        "The warm start needs fewer",
        EVERYWHERE,
        "And with fewer updates. To nine tenths of what both end at, at the same settings, it takes fewer "
        "optimizer steps than PPO on {holds} of {places} datasets, more on {fails}, undecided on {open}",
        *("",) * 3,
        "in shares of PPO's steps that are saved, where a TRPO step counts as one, whatever it costs",
    ),
    Headline(
        "The gain comes from",
        EVERYWHERE,
        "It puts this down to the [natural gradient](../notebooks/07_natural_gradient.ipynb). A first stage "
        "along it ends above one along the plain gradient, with steps as long, on {holds} of {places} "
        "datasets, below it on {fails}, undecided on {open}",
        *("",) * 3,
        "in correlation, on chi11 in the share of the change that is predicted",
    ),
    Headline(
        "The same with the ratio",
        SIMULATED,
        "Its Algorithm 1 is another method: a TRPO step before the PPO epochs of every iteration. On "
        "simulated cells, with the ratio to the policy that collected the data, it {} PPO alone, each at its "
        "best setting",
        *_BEATS,
        "in correlation",
        other_readings,
    ),
    Headline(
        "Escaping local optima lets",
        PRIMARY_PLACE,
        "For genes switched off one by one, the in-silico twin predicts unseen cells {} the mean change that "
        "the same gene's loss made in the training cells, which needs no model",
        *_PREDICTS,
        "in correlation",
    ),
    Headline(
        "The trust-region start lets",
        EVERYWHERE,
        "The title says that it escapes local optima. Where a barrier stands between two valleys, TRPO "
        "before PPO brings more cells across than PPO alone, each at the one setting that its tuning chose, "
        "on {holds} of {places} landscapes, fewer on {fails}, undecided on {open}",
        *("",) * 3,
        "in shares of all cells",
        across,
    ),
    Headline(
        "It is the first stage",
        EVERYWHERE,
        "Through what? Against the same second stage with no TRPO before it, more come across on {holds} of "
        "{places} landscapes, fewer on {fails}, undecided on {open}",
        *("",) * 3,
        "in shares of all cells",
    ),
    Headline(
        "Initialising well",
        EVERYWHERE,
        "Against PPO that starts again three times, more come across on {holds} of {places} landscapes, "
        "fewer on {fails}, undecided on {open}",
        *("",) * 3,
        "in shares of all cells",
    ),
    Headline(
        "The embedding model",
        "kang2018, contexts",
        "Of cell types that it never saw, the experimental twin predicts the answer to interferon-beta, "
        "an alarm signal, {} the mean of the other types",
        *_PREDICTS,
        "in correlation",
    ),
    Headline(
        "The embedding model",
        "papalexi2021, cells",
        "For genes switched off one by one, it predicts unseen cells {} the mean change that the same gene's "
        "loss made in the training cells",
        *_PREDICTS,
        "in correlation",
    ),
    Headline(
        "Trajectories of the experimental",
        "waddington, measured",
        "Its path through time, for simulated cells, lies {} the best of a straight line, doing nothing and "
        "the same twin with shuffled labels",
        "nearer to the true path than",
        "farther from the true path than",
        "no nearer to the true path, as far as can be told, than",
        "of [distance](../notebooks/11_twin_evaluation.ipynb) saved",
    ),
    Headline(
        "TRPO_PPO outperforms PPO in the reward",
        EVERYWHERE,
        "The paper's public code, rebuilt from a written description of it: TRPO before PPO earns more "
        "reward than PPO alone on {holds} of {places} datasets, less on {fails}, undecided on {open}, where "
        "a verdict needs the preprocessing of that code and a mended one to agree",
        *("",) * 3,
        "in reward, with the preprocessing of that code",
    ),
)


def findings(rows: Sequence[Judged], pages: str = "") -> list[str]:
    """Return the findings that stand among `judged` claims, one sentence each, as Markdown.

    `pages` leads from the page that shows them to the folder of the book's pages.
    """
    told = []
    for finding in HEADLINES:
        number = claim_number(finding.statement)
        own = [row for row in rows if row.claim == number and finding.place in (row.place, EVERYWHERE)]
        if own:
            told.append(
                _counted(finding, own, rows) if finding.place == EVERYWHERE else _told(finding, own[0], rows)
            )
    return [re.sub(r"(?<=\]\()[^)]+", lambda link: normpath(join(pages, link[0])), text) for text in told]


def _told(finding: Headline, row: Judged, rows: Sequence[Judged]) -> str:
    """Return one finding as a sentence with its number and its interval; `rows` are all judged claims."""
    words, gap = {HOLDS: finding.holds, FAILS: finding.fails, OPEN: finding.open}, row.told.gap
    text = finding.sentence.format(words[row.verdict])
    if gap is not None and alone(row.verdict, row.told):
        own = finding.sentence.format(words[HOLDS if gap.low > 0 else FAILS])
        text = f"{own}, taken by itself and not among all claims"
    if gap is None or not np.isfinite(gap.low):
        return f"{text} ({_link(row.claim)})."
    mean, low, high = _interval(gap)
    mark = ALONE * alone(row.verdict, row.told)
    number = f"{_bold(mean, row)}{mark} {finding.unit} (95 % interval {low} to {high})"
    same = [other.verdict == row.verdict for other in rows if other.claim == row.claim]
    count = f"; the verdict is the same on {sum(same)} of {len(same)} datasets" if finding.counted else ""
    return f"{text}: {number}{count}{finding.beside(rows)}, {_link(row.claim)}."


def _counted(finding: Headline, own: Sequence[Judged], rows: Sequence[Judged]) -> str:
    """Return one finding with the number of places of each verdict, and the difference on each of them."""
    counts = Counter(row.verdict for row in own)
    words = {name: counts[verdict] or "none" for verdict, name in _COUNTED.items()}
    numbers = ", ".join(map(_placed, own))
    text = finding.sentence.format(places=len(own), **words)
    return f"{text}: {numbers} ({finding.unit}){finding.beside(rows)}, {_link(own[0].claim)}."


def _placed(row: Judged) -> str:
    """Return a place and the difference there, marked."""
    if row.told.gap is None:
        return f"{row.place} without a verdict"
    (number,) = _in_digits(row.told.gap.mean)
    few = "" if np.isfinite(row.told.gap.low) else " on too few settings for an interval"
    return f"{row.place} {_bold(number, row)}{ALONE * alone(row.verdict, row.told)}{few}"


def _bold(number: str, row: Judged) -> str:
    """Return a number, bold where it is told apart among all claims."""
    return f"**{number}**" if row.verdict in (HOLDS, FAILS) else number


def _interval(gap: Estimate) -> list[str]:
    """Return a difference and the ends of its interval."""
    return _in_digits(gap.mean, gap.low, gap.high)


def _with_interval(gap: Estimate) -> str:
    """Return a difference with its interval in brackets."""
    mean, low, high = _interval(gap)
    return f"{mean} ({low} to {high})"


def _link(claim: int) -> str:
    """Return a link to a claim's section."""
    heading = f"{claim}. {all_claims()[claim - 1].statement}"
    return f"[claim {claim}](claims.md#{slug(heading)})"


def _in_digits(first: float, *others: float) -> list[str]:
    """Return numbers with their signs, with as many digits as the first one asks for."""
    digits = 3 if abs(first) < SMALL else 1
    told = [f"{value:+.{digits}f}" for value in (first, *others)]
    return [text[1:] if float(text) == 0 else text for text in told]
