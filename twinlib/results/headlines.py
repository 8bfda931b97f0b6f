"""What the introduction says was found: a claim on one place, worded by its verdict, with its number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from posixpath import join, normpath

import numpy as np

from twinlib.errors import ResultsError
from twinlib.results.claims import Judged, all_claims, claim_number
from twinlib.results.claims_page import slug
from twinlib.results.escape_curves import Escapes
from twinlib.results.policy_claims import BARRIERS, OURS, RIVAL
from twinlib.results.verdicts import FAILS, HOLDS, OPEN


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
    #: More on the numbers, where they alone would mislead.
    beside: Callable[[], str] = lambda: ""
    #: Say on how many places the verdict is the same?
    counted: bool = False


def at_one_setting() -> str:
    """Say what both bring across at one setting, the one that was chosen for the two stages."""
    told = []
    for landscape in BARRIERS:
        try:
            shares = Escapes.of(landscape).at_setting_of(OURS)
        except ResultsError:
            continue
        if shares is not None:
            told.append(f"{shares[OURS]:.1%} beside {shares[RIVAL]:.1%} ({landscape})")
    return f"; at one setting, that of the two stages, {', '.join(told)} come across" if told else ""


#: In the place of a place: all of them.
EVERYWHERE = ""
#: Numbers below this are told with three digits behind the point.
SMALL = 10.0

_COUNTED = {HOLDS: "holds", FAILS: "fails", OPEN: "open"}
_PREDICTS = ("better than", "worse than", "no better, as far as these cells can tell, than")
_BEATS = ("does better than", "does worse than", "cannot be told from")
#: The findings in their order; one whose experiment is not packaged is left out.
HEADLINES = (
    Headline(
        "Starting PPO from",
        "papalexi2021",
        "The paper's claim: on unseen cells with a gene switched off, TRPO before PPO {} PPO alone",
        *_BEATS,
        "in correlation, best of ten settings each, one fold of cells",
        counted=True,
    ),
    Headline(
        "The warm start leads",
        EVERYWHERE,
        "Over the first quarter of the training TRPO before PPO earns more than PPO alone at the same "
        "settings on {holds} of {places} datasets, less on {fails}, and on {open} it cannot be told",
        *("",) * 3,
        "of what the best constant actions earn",
    ),
    Headline(
        "The warm start needs fewer",
        EVERYWHERE,
        "To nine tenths of what both end at it takes fewer optimizer steps than PPO at the same settings on "
        "{holds} of {places} datasets, more on {fails}, and on {open} it cannot be told",
        *("",) * 3,
        "of PPO's steps saved",
    ),
    Headline(
        "The gain comes from",
        EVERYWHERE,
        "A first stage along the [natural gradient](../notebooks/07_natural_gradient.ipynb) ends above one "
        "along the plain gradient with steps as long on {holds} of {places} datasets, below it on {fails}, "
        "and on {open} it cannot be told",
        *("",) * 3,
        "in correlation (on chi11, in the share of the change that is predicted)",
    ),
    Headline(
        "The same with the ratio",
        "waddington",
        "On simulated cells Algorithm 1, a TRPO step before the PPO epochs of every iteration, with the "
        "ratio to the policy that collected the data, {} PPO alone, each at its best setting",
        *_BEATS,
        "in correlation",
    ),
    Headline(
        "Escaping local optima lets",
        "papalexi2021",
        "For genes switched off one by one, the in-silico twin predicts unseen cells {} the mean change that "
        "the same gene's loss made in the training cells, which needs no model",
        *_PREDICTS,
        "in correlation",
    ),
    Headline(
        "The trust-region start lets",
        EVERYWHERE,
        "The title's claim: where a barrier stands between two valleys, TRPO before PPO brings more cells "
        "across than PPO alone, each at the one setting that its tuning chose, on {holds} of {places} "
        "barriers, fewer on {fails}, and on {open} it cannot be told",
        *("",) * 3,
        "of all cells",
        at_one_setting,
    ),
    Headline(
        "It is the first stage",
        EVERYWHERE,
        "Through what? Against the same second stage with no TRPO before it, more come across on {holds} of "
        "{places} barriers, fewer on {fails}, and on {open} it cannot be told",
        *("",) * 3,
        "of all cells",
    ),
    Headline(
        "Initialising well",
        EVERYWHERE,
        "Against PPO that starts again three times, more come across on {holds} of {places} barriers, fewer "
        "on {fails}, and on {open} it cannot be told",
        *("",) * 3,
        "of all cells",
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
        "The paper's public code, rebuilt from its description: TRPO before PPO earns more reward than PPO "
        "alone on {holds} of {places} datasets, less on {fails}, and on {open} it cannot be told",
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
                _counted(finding, own) if finding.place == EVERYWHERE else _told(finding, own[0], rows)
            )
    return [re.sub(r"(?<=\]\()[^)]+", lambda link: normpath(join(pages, link[0])), text) for text in told]


def _told(finding: Headline, row: Judged, rows: Sequence[Judged]) -> str:
    """Return one finding as a sentence with its number and its interval; `rows` are all judged claims."""
    words = {HOLDS: finding.holds, FAILS: finding.fails, OPEN: finding.open}
    text, gap = finding.sentence.format(words[row.verdict]), row.told.gap
    if gap is None or not np.isfinite(gap.low):
        return f"{text} ({_link(row.claim)})."
    mean, low, high = _in_digits(gap.mean, gap.low, gap.high)
    number = f"**{mean}** {finding.unit} (95 % interval {low} to {high})"
    if row.verdict == OPEN and (gap.low > 0 or gap.high < 0):
        number += ", an interval that excludes zero by itself and not among all claims"
    same = [other.verdict == row.verdict for other in rows if other.claim == row.claim]
    count = f"; the verdict is the same on {sum(same)} of {len(same)} datasets" if finding.counted else ""
    return f"{text}: {number}{count}, {_link(row.claim)}."


def _counted(finding: Headline, rows: Sequence[Judged]) -> str:
    """Return one finding with the number of places of each verdict and their differences in order."""
    counts = Counter(row.verdict for row in rows)
    words = {name: counts[verdict] or "none" for verdict, name in _COUNTED.items()}
    gaps = [row.told.gap.mean for row in rows if row.told.gap is not None]
    numbers = ", ".join(f"**{number}**" for number in _in_digits(*sorted(gaps)))
    text = finding.sentence.format(places=len(rows), **words)
    return f"{text}: {numbers} {finding.unit}{finding.beside()}, {_link(rows[0].claim)}."


def _link(claim: int) -> str:
    """Return a link to a claim's section."""
    heading = f"{claim}. {all_claims()[claim - 1].statement}"
    return f"[claim {claim}](claims.md#{slug(heading)})"


def _in_digits(first: float, *others: float) -> list[str]:
    """Return numbers with their signs, with as many digits as the first one asks for."""
    digits = 3 if abs(first) < SMALL else 1
    told = [f"{value:+.{digits}f}" for value in (first, *others)]
    return [text[1:] if float(text) == 0 else text for text in told]
