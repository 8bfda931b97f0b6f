"""What the introduction says was found: claims of the paper told on one place each, then all by place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from posixpath import join, normpath

import numpy as np

from twinlib.evaluation.calibration import Estimate
from twinlib.results.claims import Judged, all_claims, claim_number, released_gain
from twinlib.results.claims_page import slug
from twinlib.results.escape_curves import Escapes
from twinlib.results.judged import judged_splits
from twinlib.results.policy_claims import OURS, RESTARTS, RIVAL, SAVINGS
from twinlib.results.policy_tables import policy_table, saved_updates
from twinlib.results.verdicts import ALONE, FAILS, HOLDS, OPEN, alone


@dataclass(frozen=True)
class Headline:
    """A claim of the paper on one place, in words of every day."""

    #: How the claim's statement begins.
    statement: str
    #: The place whose number is told.
    place: str
    #: Its row in the tables of all places.
    row: str
    #: What the paper says, after "that"; "" for a row without a line.
    says: str = ""
    #: What was found, with {} for what the verdict says; links are written as pages of the book.
    sentence: str = ""
    #: What stands for {} where the claim holds, where it does not, and where it cannot be told.
    words: tuple[str, str, str] = ("", "", "")
    #: What the number counts.
    unit: str = ""
    #: More from all judged claims, where the number alone would mislead.
    beside: Callable[[Sequence[Judged]], str] = lambda rows: ""


def hardly_seen(rows: Sequence[Judged]) -> str:
    """Say what the primary metric does not see of the arms, and where it sees no policy at all."""
    own = [row.place for row in rows if row.claim == claim_number("Starting PPO from")]
    splits = {name: judged_splits("policies", name).get("cells") for name in own}
    if not splits.get(PRIMARY_PLACE):
        return ""
    runs = policy_table(PRIMARY_PLACE, "runs")
    cells = runs[(runs["split_kind"] == "cells") & (runs["setting"].fillna("") == "")]
    earned = cells.groupby("model")["validation_return"].mean()
    blind = [name for name, split in splits.items() if split and split.blind]
    return (
        " In the [return](../notebooks/05_environment.ipynb), for which all are trained and of which the "
        f"best constant actions earn 1, it has {earned[OURS]:.2f}, {RIVAL} {earned[RIVAL]:.2f}, TRPO alone "
        f"{earned['TRPO']:.2f} and its second stage alone {earned['second_stage_alone']:.2f}: the "
        "correlation, by which settings are chosen, hardly sees the return"
        + f", and on {' and '.join(blind)} it tells no policies apart at all" * bool(blind)
        + "."
    )


def as_fast(rows: Sequence[Judged]) -> str:
    """Say how much of the saved updates is due to cheaper iterations, and what is saved in simulation."""
    curves = policy_table(UPDATES_PLACE, "curves", "tuning")
    equal, simulated = (saved_updates(curves, OURS, RIVAL, **how) for how in SAVINGS[1:])
    (share,) = _in_digits(equal.mean)
    return (
        f" As its iterations have fewer of these steps, it would save {share} if it learned no faster than "
        f"{RIVAL}; of simulated steps it saves {_with_interval(simulated)}."
    )


def other_ratio(rows: Sequence[Judged]) -> str:
    """Say what Algorithm 1 gains with the ratio to the policy that collected the data."""
    number = claim_number("The same with the ratio")
    own = [row.told.gap for row in rows if (row.claim, row.place) == (number, PRIMARY_PLACE)]
    if not own or own[0] is None:
        return ""
    return (
        f" With the ratio to the policy that collected the data: {_with_interval(own[0])}, {_link(number)}."
    )


def once_logged(rows: Sequence[Judged]) -> str:
    """Say what the released reward does where the cells are logged once."""
    gap = released_gain(PRIMARY_PLACE, "reward", logs=1)
    return (
        f" Without the second logarithm of that code: {_with_interval(gap)}; a verdict needs both to agree."
    )


def across(rows: Sequence[Judged]) -> str:
    """Say what the share of cells that cross does not say, and where nothing can be told of it."""
    number = claim_number("The trust-region start lets")
    places = [row.place for row in rows if row.claim == number]
    return (_crossing() + _at_one_setting() if BARRIER in places else "") + _mute(places)


def in_return(rival: str, ours: str = OURS) -> Callable[[Sequence[Judged]], str]:
    """Return what says by how much the return differs from a rival's, on the barrier."""

    def beside(rows: Sequence[Judged]) -> str:
        gap = Escapes.of(BARRIER).gap(ours, rival, "return")
        return f" In the return, by which settings are chosen, they differ by {_with_interval(gap)}."

    return beside


def _crossing() -> str:
    """Say what both arms and the best policy bring across, and by how much the returns differ."""
    runs = Escapes.of(BARRIER)
    arms = runs.arrivals().set_index("model")["cells in the target"]
    text = f" It brings {arms[OURS]:.1%} across and {RIVAL} {arms[RIVAL]:.1%}; in the return, by which "
    text += f"settings are chosen, they differ by {_with_interval(runs.gap(OURS, RIVAL, 'return'))}"
    if BEST in arms:
        text += f", and the policy that is best by it brings {arms[BEST]:.1%}"
    return text + "."


def _at_one_setting() -> str:
    """Say what both arms bring across at the setting of either, in the seeds of the tuning."""
    told = []
    for owner in (RIVAL, OURS):
        shares = Escapes.of(BARRIER).at_setting_of(owner)
        if shares is not None:
            whose = "its own" if owner == OURS else f"{owner}'s"
            told.append(f"{shares[OURS]:.1%} and {shares[RIVAL]:.1%} at {whose}")
    return f" In the tuning, at one setting for both: {'; '.join(told)}." if told else ""


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


def unseen_types(rows: Sequence[Judged]) -> str:
    """Say how the experimental twin predicts cell types that it never saw, on every dataset asked."""
    number = claim_number("The embedding model")
    gaps = {row.place: row for row in rows if row.claim == number and row.place.endswith(", contexts")}
    real = {place.partition(",")[0]: row for place, row in gaps.items() if not place.startswith("waddington")}
    told = [f"{name} {_with_interval(row.told.gap, row)}" for name, row in real.items() if row.told.gap]
    return f" Of cell types that it never saw, less the mean of the other types: {', '.join(told)}." * bool(
        told
    )


#: Where claims on datasets are told, the first place with an interval for saved updates, and the landscape.
PRIMARY_PLACE, UPDATES_PLACE, BARRIER = "papalexi2021", "norman2019", "toggle_high"
#: The row of the best policy of all.
BEST = "value_iteration"
#: How a row of a table names the kind of a split or a clock.
KINDS = {
    "cells": ", unseen cells",
    "perturbations": ", unseen perturbations",
    "doubles": ", unseen pairs",
    "contexts": ", unseen cell types or batches",
    "time": ", an unseen time",
    "pseudotime": ", in pseudotime",
    "measured": ", in measured time",
}
#: From this share on all cells count as across.
ALL = 0.99
#: Numbers below this are told with three digits behind the point.
SMALL = 10.0

_COUNTED = {HOLDS: "holds on", FAILS: "does not hold on", OPEN: "undecided on"}
_SAME = "is not told apart from"
_PREDICTS = ("better than", "worse than", "not measurably better or worse than")
_BEATS = ("does better than", "does worse than", _SAME)
_EARNS = ("earns more than", "earns less than", _SAME)
_TAKES = ("takes fewer optimizer steps than", "takes more optimizer steps than", _SAME)
_BRINGS = ("brings more cells across than", "brings fewer cells across than", _SAME)
_ENDS = ("ends above", "ends below", _SAME)
_SCORES = ("is better than", "is worse than", _SAME)
_SHARE = "of all cells"
#: The findings in their order; one whose experiment is not packaged is left out.
HEADLINES = (
    Headline(
        "Starting PPO from",
        PRIMARY_PLACE,
        "TRPO before PPO less PPO alone: correlation on unseen cells",
        "TRPO before PPO predicts unseen cells better than PPO alone",
        "With genes switched off one by one, each at the best of ten settings, it {} PPO alone",
        _BEATS,
        "in correlation",
        hardly_seen,
    ),
    Headline(
        "The warm start leads",
        PRIMARY_PLACE,
        "The same: return over the first quarter of the training",
        "it converges faster",
        "With genes switched off, at the same settings, over the first quarter of the training, it {} PPO "
        "alone",
        _EARNS,
        "of what the best constant actions earn",
    ),
    Headline(
        "The warm start needs fewer",
        UPDATES_PLACE,
        "The same: share of PPO's optimizer steps that is saved",
        "it needs fewer updates",
        "With genes switched on, at the same settings, it {} PPO alone until it reaches nine tenths of what "
        "both end at",
        _TAKES,
        "of PPO's steps, a TRPO step counted as one, whatever it costs",
        as_fast,
    ),
    Headline(
        "The two stages together",
        PRIMARY_PLACE,
        "TRPO before PPO less TRPO alone: correlation on unseen cells",
        "both stages together do better than the first one alone",
        "With genes switched off, TRPO before PPO {} TRPO alone",
        _BEATS,
        "in correlation",
    ),
    Headline(
        "The second stage needs",
        PRIMARY_PLACE,
        "TRPO before PPO less the same second stage alone: correlation on unseen cells",
    ),
    Headline(
        "The gain comes from",
        PRIMARY_PLACE,
        "Natural less plain first stage: correlation on unseen cells",
        "the [natural gradient](../notebooks/07_natural_gradient.ipynb) is why",
        "With genes switched off, a first stage along it {} one along the plain gradient, with steps as long",
        _ENDS,
        "in correlation",
    ),
    Headline(
        "One TRPO step before",
        PRIMARY_PLACE,
        "Algorithm 1 as printed less PPO alone: correlation on unseen cells",
        "Algorithm 1, a TRPO step before the PPO epochs of every iteration, improves on PPO",
        "With genes switched off, as printed, each at its best setting, it {} PPO alone",
        _BEATS,
        "in correlation",
        other_ratio,
    ),
    Headline(
        "Escaping local optima lets",
        PRIMARY_PLACE,
        "In-silico twin less the mean of the same perturbation: correlation on unseen cells",
        "escaping local optima lets a deep model outperform simple baselines",
        "With genes switched off, the in-silico twin predicts unseen cells {} the mean change that the same "
        "gene's loss made in the training cells, which needs no model",
        _PREDICTS,
        "in correlation",
    ),
    Headline(
        "A poor initialisation traps",
        BARRIER,
        "Share of PPO's seeds that arrive; the claim needs under half",
        "a poor start traps PPO in a local optimum",
        "Over the highest of three simulated barriers, at the one setting that its tuning chose, {} of PPO's "
        "seeds arrive",
        ("under half", "over half", "neither surely under nor over half"),
    ),
    Headline(
        "The trust-region start lets",
        BARRIER,
        "TRPO before PPO less PPO alone",
        "TRPO before PPO escapes local optima, as the title has it",
        "Over the same barrier, each at the one setting that its tuning chose, it {} PPO alone",
        _BRINGS,
        _SHARE,
        across,
    ),
    Headline(
        "For the escape the two stages",
        BARRIER,
        "TRPO before PPO less TRPO alone",
        "for the escape both stages do better than the first one alone",
        "Over the same barrier TRPO before PPO {} TRPO alone",
        _BRINGS,
        _SHARE,
        in_return("TRPO"),
    ),
    Headline(
        "Initialising well",
        BARRIER,
        "TRPO before PPO less PPO that starts again",
        "a good start is what is needed",
        "Over the same barrier TRPO before PPO {} PPO that starts again three times",
        _BRINGS,
        _SHARE,
        in_return(RESTARTS),
    ),
    Headline(
        "It is the first stage",
        BARRIER,
        "TRPO before PPO less the same second stage alone",
        "the TRPO stage is what lets cells escape",
        "Over the same barrier TRPO before PPO {} the same second stage with no TRPO before it",
        _BRINGS,
        _SHARE,
    ),
    Headline(
        "A TRPO step before the PPO epochs",
        BARRIER,
        "Algorithm 1 less PPO alone",
        "Algorithm 1 lets cells escape",
        "Over the same barrier it {} PPO alone, each at the one setting that its tuning chose",
        _BRINGS,
        _SHARE,
        in_return(RIVAL, "alternating"),
    ),
    Headline(
        "The embedding model",
        "papalexi2021, cells",
        "Correlation",
        "the experimental twin predicts the perturbed state",
        "With genes switched off, it predicts unseen cells {} the mean change that the same gene's loss made "
        "in the training cells",
        _PREDICTS,
        "in correlation",
        unseen_types,
    ),
    Headline(
        "Trajectories of the experimental",
        "papalexi2021, pseudotime",
        "Distance of a path saved",
        "its path through time resembles the real one",
        "With genes switched off, in time that is guessed from the cells, it lies {} the best of a straight "
        "line, doing nothing and the same twin with shuffled labels",
        (
            "nearer to the true path than",
            "farther from the true path than",
            "no nearer to the true path, as far as can be told, than",
        ),
        "of [distance](../notebooks/11_twin_evaluation.ipynb) saved",
    ),
    Headline(
        "TRPO_PPO greatly outperforms",
        PRIMARY_PLACE,
        "Public code, TRPO before PPO less PPO: squared error between start and end that is saved",
        "TRPO before PPO greatly outperforms PPO in the tables",
        "With genes switched off, in the paper's public code, rebuilt from a written description, it {} PPO "
        "by the tables' own error, which compares the start of a rollout with its end, so that doing nothing "
        "is best of all",
        _SCORES,
        "of squared error saved",
    ),
    Headline(
        "TRPO_PPO outperforms PPO in the reward",
        PRIMARY_PLACE,
        "The same: reward",
        "it outperforms PPO in the reward that both are trained for",
        "In the same code, with the same cells, it {} PPO",
        ("earns more than", "earns less than", "gets no verdict against"),
        "in reward",
        once_logged,
    ),
)


def findings(rows: Sequence[Judged], pages: str = "") -> list[str]:
    """Return the findings that stand among `judged` claims, a few lines of Markdown each.

    `pages` leads from the page that shows them to the folder of the book's pages.
    """
    told = []
    for finding in HEADLINES:
        of_claim = [row for row in rows if row.claim == claim_number(finding.statement)]
        own = [row for row in of_claim if row.place == finding.place and finding.says]
        told += [_told(finding, row, of_claim, rows) for row in own]
    return [_from(pages, text) for text in told]


def by_place(rows: Sequence[Judged], pages: str = "") -> str:
    """Return the findings' differences on every place, as Markdown tables."""
    known = {claim_number(finding.statement): finding for finding in HEADLINES}
    parted = {n: finding for n, finding in known.items() if ", " in finding.place}
    on_barriers = {n: finding for n, finding in known.items() if finding.place == BARRIER}
    on_datasets = {n: finding for n, finding in known.items() if n not in parted | on_barriers}
    tables = [
        _table("The in-silico twin", on_datasets, rows),
        _table("Cells that come across, in shares of all", on_barriers, rows),
        _table("The experimental twin less the best that needs no training", parted, rows),
    ]
    return _from(pages, "\n\n".join(filter(None, tables)))


def _from(pages: str, text: str) -> str:
    """Return Markdown whose links lead from another folder."""
    return re.sub(r"(?<=\]\()[^)]+", lambda link: normpath(join(pages, link[0])), text)


def _table(title: str, chosen: Mapping[int, Headline], rows: Sequence[Judged]) -> str:
    """Return one table: a finding, and each kind of split or clock that it has, a row; a place a column."""
    cells: dict[tuple[int, str], dict[str, str]] = {}
    for number, row in ((row.claim, row) for row in rows if row.claim in chosen):
        place, _, kind = row.place.partition(", ")
        cells.setdefault((number, kind), {})[place] = _number(row)
    places = list(dict.fromkeys(place for known in cells.values() for place in known))
    lines = [
        f"| {chosen[number].row}{KINDS.get(kind, '')} ({_link(number)}) | "
        + " | ".join(known.get(place, "") for place in places)
        + " |"
        for number in chosen
        for kind, known in ((key[1], cells[key]) for key in cells if key[0] == number)
    ]
    head = f"| {title} | " + " | ".join(places) + " |"
    return "\n".join([head, "|" + " --- |" * (len(places) + 1), *lines]) if lines else ""


def _told(finding: Headline, row: Judged, of_claim: Sequence[Judged], rows: Sequence[Judged]) -> str:
    """Return the verdicts on all places, what the paper says, and what was found on one with its number."""
    words, gap = dict(zip((HOLDS, FAILS, OPEN), finding.words, strict=True)), row.told.gap
    text = f"**{_verdicts(of_claim)}**: that {finding.says}. {finding.sentence.format(words[row.verdict])}"
    if gap is None:
        return f"{text}: {_number(row)}, {_link(row.claim)}.{finding.beside(rows)}"
    if alone(row.verdict, row.told):
        own = finding.sentence.format(words[HOLDS if gap.low > 0 else FAILS])
        text = f"**{_verdicts(of_claim)}**: that {finding.says}. {own}, taken by itself"
    if not np.isfinite(gap.low):
        return f"{text} ({_link(row.claim)})."
    _, low, high = _in_digits(gap.mean, gap.low, gap.high)
    interval = f"95 % interval {low} to {high}" if low != high else f"the same in all {gap.units} seeds"
    return f"{text}: {_number(row)} {finding.unit} ({interval}), {_link(row.claim)}.{finding.beside(rows)}"


def _verdicts(of_claim: Sequence[Judged]) -> str:
    """Return on how many places of a claim each verdict was reached, among all claims."""
    judged = [row for row in of_claim if row.told.gap is None or np.isfinite(row.told.gap.low)]
    counts = Counter(row.verdict for row in judged)
    told = [f"{word} {counts[verdict]}" for verdict, word in _COUNTED.items() if counts[verdict]]
    places = {row.place for row in judged}
    kinds = {place.partition(", ")[2] for place in places}
    where = "landscapes" if BARRIER in places else "splits" if "cells" in kinds else "datasets"
    where = "paths" if "measured" in kinds else where
    told[0] = f"{told[0][0].upper()}{told[0][1:]} of {len(judged)} {where}"
    return ", ".join(told) + _by_themselves(judged)


def _by_themselves(judged: Sequence[Judged]) -> str:
    """Say on how many undecided places an interval excludes zero before all claims are corrected for."""
    gaps = [row.told.gap for row in judged if row.told.gap and alone(row.verdict, row.told)]
    above = sum(gap.low > 0 for gap in gaps)
    told = [f"{above} above"] * (above > 0) + [f"{len(gaps) - above} below"] * (len(gaps) > above)
    return f" ({', '.join(told)} zero by {'itself' if len(gaps) == 1 else 'themselves'})" if told else ""


def _number(row: Judged) -> str:
    """Return a difference, bold where it is told apart, marked where only by itself; a share in percent.

    In brackets where it has no interval or gets no verdict.
    """
    gap = row.told.gap
    if gap is None:
        number = f"{row.told.value:.0%}"
    else:
        (number,) = _in_digits(gap.mean)
    if gap is not None and not np.isfinite(gap.low):
        return f"({number})"
    if row.verdict in (HOLDS, FAILS):
        return f"**{number}**"
    return number + ALONE * alone(row.verdict, row.told)


def _with_interval(gap: Estimate, row: Judged | None = None) -> str:
    """Return a difference with its interval in brackets, marked as `row` is."""
    mean, low, high = _in_digits(gap.mean, gap.low, gap.high)
    return f"{_number(row) if row else mean} ({low} to {high})"


def _link(claim: int) -> str:
    """Return a link to a claim's section."""
    heading = f"{claim}. {all_claims()[claim - 1].statement}"
    return f"[claim {claim}](claims.md#{slug(heading)})"


def _in_digits(first: float, *others: float) -> list[str]:
    """Return numbers with their signs, with as many digits as the first one asks for."""
    digits = 3 if abs(first) < SMALL else 1
    told = [f"{value:+.{digits}f}" for value in (first, *others)]
    return [text[1:] if float(text) == 0 else text for text in told]
