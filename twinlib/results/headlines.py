"""What the introduction says was found: claims of the paper told on one place each, then all by place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from posixpath import join, normpath

import numpy as np

from twinlib.results.claims import Judged, all_claims, claim_number
from twinlib.results.claims_page import slug
from twinlib.results.escape_curves import Escapes
from twinlib.results.judged import judged_splits
from twinlib.results.policy_claims import OURS, RIVAL
from twinlib.results.policy_tables import policy_table
from twinlib.results.verdicts import ALONE, FAILS, HOLDS, OPEN, alone


@dataclass(frozen=True)
class Headline:
    """A claim of the paper on one place, in words of every day."""

    #: How the claim's statement begins.
    statement: str
    #: The place whose number is told.
    place: str
    #: What the paper says.
    says: str
    #: What was found, with {} for what the verdict says; links are written as pages of the book.
    sentence: str
    #: What stands for {} where the claim holds, where it does not, and where it cannot be told.
    holds: str
    fails: str
    open: str
    #: What the number counts.
    unit: str
    #: Its row in the tables of all places; "" for none.
    row: str = ""
    #: One more sentence, from all judged claims, where the number alone would mislead.
    beside: Callable[[Sequence[Judged]], str] = lambda rows: ""


def hardly_seen(rows: Sequence[Judged]) -> str:
    """Say what the primary metric does not see of the two algorithms, and where it sees no policy at all."""
    own = [row.place for row in rows if row.claim == claim_number("Starting PPO from")]
    splits = {name: judged_splits("policies", name).get("cells") for name in own}
    if not splits.get(PRIMARY_PLACE):
        return ""
    runs = policy_table(PRIMARY_PLACE, "runs")
    cells = runs[(runs["split_kind"] == "cells") & (runs["setting"].fillna("") == "")]
    earned = cells.groupby("model")["validation_return"].mean()
    blind = [name for name, split in splits.items() if split and split.blind]
    return (
        f" In the [return](../notebooks/05_environment.ipynb) that both are trained for it earns "
        f"{earned[OURS]:.2f} and {RIVAL} {earned[RIVAL]:.2f}: the correlation hardly sees it"
        + f", and on {' and '.join(blind)} it tells no policies apart at all" * bool(blind)
        + "."
    )


def across(rows: Sequence[Judged]) -> str:
    """Say where nothing can be told of a crossing, and what both bring across at one and the same setting."""
    number = claim_number("The trust-region start lets")
    places = [row.place for row in rows if row.claim == number]
    return (_at_one_setting(BARRIER) if BARRIER in places else "") + _mute(places)


def _mute(places: Sequence[str]) -> str:
    """Name the landscapes where both arms bring all cells across, or no more than doing nothing does."""
    full, empty = [], []
    for place in places:
        shares = Escapes.of(place).arrivals().set_index("model")["cells in the target"]
        if shares[[OURS, RIVAL]].min() > ALL:
            full.append(place)
        elif shares[[OURS, RIVAL]].max() <= shares["do_nothing"]:
            empty.append(place)
    told = [f"both bring all cells across ({', '.join(full)})"] * bool(full)
    told += [f"no more than when nothing is done ({', '.join(empty)})"] * bool(empty)
    return f" Nothing can be told where {' or '.join(told)}." if told else ""


def _at_one_setting(place: str) -> str:
    """Say what both arms bring across at the setting of either."""
    told = []
    for owner in (RIVAL, OURS):
        shares = Escapes.of(place).at_setting_of(owner)
        if shares is not None:
            whose = "its own" if owner == OURS else f"{owner}'s"
            told.append(f"{shares[OURS]:.1%} and {shares[RIVAL]:.1%} at {whose}")
    return f" With the same setting for both it and {RIVAL} bring across {', '.join(told)}." if told else ""


#: Where claims on datasets are told, the simulated cells, and the landscape of the claims on escape.
PRIMARY_PLACE, SIMULATED, BARRIER = "papalexi2021", "waddington", "toggle_high"
#: From this share on all cells count as across.
ALL = 0.99
#: Numbers below this are told with three digits behind the point.
SMALL = 10.0

_COUNTED = {HOLDS: "in favour", FAILS: "against", OPEN: "undecided"}
_PREDICTS = ("better than", "worse than", "not measurably better or worse than")
_BEATS = ("does better than", "does worse than", "is not told apart from")
_EARNS = ("earns more than", "earns less than", "is not told apart from")
_TAKES = ("takes fewer optimizer steps than", "takes more optimizer steps than", "is not told apart from")
_BRINGS = ("brings more cells across than", "brings fewer cells across than", "is not told apart from")
_ENDS = ("ends above", "ends below", "is not told apart from")
_SCORES = ("is better than", "is worse than", "is not told apart from")
#: The findings in their order; one whose experiment is not packaged is left out.
HEADLINES = (
    Headline(
        "Starting PPO from",
        PRIMARY_PLACE,
        "TRPO before PPO predicts unseen cells better than PPO alone.",
        "With genes switched off one by one, each at the best of ten settings, it {} PPO alone",
        *_BEATS,
        "in correlation",
        "TRPO before PPO less PPO alone: correlation on unseen cells",
        hardly_seen,
    ),
    Headline(
        "The warm start leads",
        PRIMARY_PLACE,
        "It converges faster.",
        "With genes switched off, at the same settings, over the first quarter of the training, it {} PPO "
        "alone",
        *_EARNS,
        "of what the best constant actions earn",
        "The same: return over the first quarter of the training",
    ),
    Headline(
        "The warm start needs fewer",
        "norman2019",
        "It needs fewer updates.",
        "With genes switched on, at the same settings, to nine tenths of what both end at, it {} PPO alone",
        *_TAKES,
        "of PPO's steps saved, a TRPO step counted as one, whatever it costs",
        "The same: share of PPO's optimizer steps that is saved",
    ),
    Headline(
        "The gain comes from",
        PRIMARY_PLACE,
        "The [natural gradient](../notebooks/07_natural_gradient.ipynb) is why.",
        "With genes switched off, a first stage along it {} one along the plain gradient, with steps as long",
        *_ENDS,
        "in correlation",
        "Natural less plain first stage: correlation on unseen cells",
    ),
    Headline(
        "The same with the ratio",
        SIMULATED,
        "Algorithm 1, a TRPO step before the PPO epochs of every iteration, improves on PPO.",
        "On simulated cells, each at its best setting, it {} PPO alone",
        *_BEATS,
        "in correlation",
        "Algorithm 1 less PPO alone: correlation on unseen cells",
    ),
    Headline(
        "Escaping local optima lets",
        PRIMARY_PLACE,
        "Escaping local optima lets a deep model outperform simple baselines.",
        "With genes switched off, the in-silico twin predicts unseen cells {} the mean change that the same "
        "gene's loss made in the training cells, which needs no model",
        *_PREDICTS,
        "in correlation",
        "In-silico twin less the mean of the same perturbation: correlation on unseen cells",
    ),
    Headline(
        "The trust-region start lets",
        BARRIER,
        "It escapes local optima, as the title says.",
        "Over the highest of three simulated barriers, each at the one setting that its tuning chose, it {} "
        "PPO alone",
        *_BRINGS,
        "of all cells",
        "TRPO before PPO less PPO alone",
        across,
    ),
    Headline(
        "It is the first stage",
        BARRIER,
        "The TRPO stage is what lets cells escape.",
        "Over the same barrier it {} the same second stage with no TRPO before it",
        *_BRINGS,
        "of all cells",
        "TRPO before PPO less the same second stage alone",
    ),
    Headline(
        "Initialising well",
        BARRIER,
        "A good start is what is needed.",
        "Over the same barrier it {} PPO that starts again three times",
        *_BRINGS,
        "of all cells",
        "TRPO before PPO less PPO that starts again",
    ),
    Headline(
        "The embedding model",
        "kang2018, contexts",
        "The experimental twin predicts the perturbed state.",
        "Of cell types that it never saw, it predicts the answer to interferon-beta, an alarm signal, {} the "
        "mean of the other types",
        *_PREDICTS,
        "in correlation",
    ),
    Headline(
        "The embedding model",
        "papalexi2021, cells",
        "The same, on genes switched off.",
        "It predicts unseen cells {} the mean change that the same gene's loss made in the training cells",
        *_PREDICTS,
        "in correlation",
    ),
    Headline(
        "Trajectories of the experimental",
        "waddington, measured",
        "Its path through time resembles the real one.",
        "For simulated cells it lies {} the best of a straight line, doing nothing and the same twin with "
        "shuffled labels",
        "nearer to the true path than",
        "farther from the true path than",
        "no nearer to the true path, as far as can be told, than",
        "of [distance](../notebooks/11_twin_evaluation.ipynb) saved",
    ),
    Headline(
        "TRPO_PPO greatly outperforms",
        PRIMARY_PLACE,
        "TRPO before PPO greatly outperforms PPO in the tables.",
        "With genes switched off, in the paper's public code, rebuilt from a written description, it {} PPO "
        "by the tables' own error, which compares the start of a rollout with its end, so that doing nothing "
        "is best of all",
        *_SCORES,
        "of squared error saved",
        "Public code, TRPO before PPO less PPO: squared error between start and end that is saved",
    ),
    Headline(
        "TRPO_PPO outperforms PPO in the reward",
        "kang2018",
        "And in the reward that both are trained for.",
        "In the same code, with blood cells that met interferon, it {} PPO",
        *_EARNS,
        "in reward",
        "The same: reward",
    ),
)


def findings(rows: Sequence[Judged], pages: str = "") -> list[str]:
    """Return the findings that stand among `judged` claims, a few lines of Markdown each.

    `pages` leads from the page that shows them to the folder of the book's pages.
    """
    told = []
    for finding in HEADLINES:
        of_claim = [row for row in rows if row.claim == claim_number(finding.statement)]
        told += [_told(finding, row, of_claim, rows) for row in of_claim if row.place == finding.place]
    return [_from(pages, text) for text in told]


def by_place(rows: Sequence[Judged], pages: str = "") -> str:
    """Return the findings' differences on every place, as Markdown tables: on datasets, on landscapes."""
    known = [finding for finding in HEADLINES if finding.row]
    on_barriers = [finding for finding in known if finding.place == BARRIER]
    on_datasets = [finding for finding in known if finding.place != BARRIER]
    tables = [
        _table("On datasets", on_datasets, rows),
        _table("On landscapes, in shares of all cells that come across", on_barriers, rows),
    ]
    return _from(pages, "\n\n".join(filter(None, tables)))


def _from(pages: str, text: str) -> str:
    """Return Markdown whose links lead from another folder."""
    return re.sub(r"(?<=\]\()[^)]+", lambda link: normpath(join(pages, link[0])), text)


def _table(title: str, chosen: Sequence[Headline], rows: Sequence[Judged]) -> str:
    """Return one table, a finding a row and a place a column."""
    cells = {(row.claim, row.place): _number(row) for row in rows}
    numbers = [claim_number(finding.statement) for finding in chosen]
    places = list(dict.fromkeys(row.place for row in rows if row.claim in numbers))
    lines = [
        f"| {finding.row} ({_link(number)}) | "
        + " | ".join(cells.get((number, place), "") for place in places)
        + " |"
        for finding, number in zip(chosen, numbers, strict=True)
        if any((number, place) in cells for place in places)
    ]
    if not lines:
        return ""
    head = f"| {title} | " + " | ".join(places) + " |"
    return "\n".join([head, "|" + " --- |" * (len(places) + 1), *lines])


def _told(finding: Headline, row: Judged, of_claim: Sequence[Judged], rows: Sequence[Judged]) -> str:
    """Return what the paper says, what was found, its number and interval, and the verdicts elsewhere."""
    words, gap = {HOLDS: finding.holds, FAILS: finding.fails, OPEN: finding.open}, row.told.gap
    text = f"**{finding.says}** {finding.sentence.format(words[row.verdict])}"
    if gap is not None and alone(row.verdict, row.told):
        own = finding.sentence.format(words[HOLDS if gap.low > 0 else FAILS])
        text = f"**{finding.says}** {own}, taken by itself"
    if gap is None or not np.isfinite(gap.low):
        return f"{text} ({_link(row.claim)})."
    _, low, high = _in_digits(gap.mean, gap.low, gap.high)
    elsewhere = _verdicts(of_claim) if finding.row else ""
    return (
        f"{text}: {_number(row)} {finding.unit} (95 % interval {low} to {high}){elsewhere}, "
        f"{_link(row.claim)}.{finding.beside(rows)}"
    )


def _verdicts(of_claim: Sequence[Judged]) -> str:
    """Return on how many places of a claim each verdict was reached, among all claims."""
    counts = Counter(row.verdict for row in of_claim)
    where = "landscapes" if any(row.place == BARRIER for row in of_claim) else "datasets"
    told = [f"{counts[verdict]} {word}" for verdict, word in _COUNTED.items() if counts[verdict]]
    first, *others = told
    number, word = first.split(maxsplit=1)
    return f"; {', '.join([f'{number} of {len(of_claim)} {where} {word}', *others])}"


def _number(row: Judged) -> str:
    """Return a difference, bold where it is told apart among all claims, marked where only by itself.

    In brackets where it has no interval or gets no verdict.
    """
    mean = row.told.value if row.told.gap is None else row.told.gap.mean
    if mean is None:
        return ""
    (number,) = _in_digits(mean)
    if row.told.gap is None or not np.isfinite(row.told.gap.low):
        return f"({number})"
    if row.verdict in (HOLDS, FAILS):
        return f"**{number}**"
    return number + ALONE * alone(row.verdict, row.told)


def _link(claim: int) -> str:
    """Return a link to a claim's section."""
    heading = f"{claim}. {all_claims()[claim - 1].statement}"
    return f"[claim {claim}](claims.md#{slug(heading)})"


def _in_digits(first: float, *others: float) -> list[str]:
    """Return numbers with their signs, with as many digits as the first one asks for."""
    digits = 3 if abs(first) < SMALL else 1
    told = [f"{value:+.{digits}f}" for value in (first, *others)]
    return [text[1:] if float(text) == 0 else text for text in told]
