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
from twinlib.results.judged import LENGTH, judged_splits
from twinlib.results.policy_claims import ESCAPES, OURS, RESTARTS, RIVAL, SAVINGS
from twinlib.results.policy_tables import policy_table, saved_updates
from twinlib.results.verdicts import ALONE, FAILS, HOLDS, OPEN, alone, by_interval, corrected


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
    lengths = {n: s.gap(OURS, RIVAL, LENGTH) for n, s in splits.items() if s and s.metric != LENGTH}
    above, below = _apart(lengths)
    blind = [name for name, split in splits.items() if split and split.blind]
    return (
        f"By squared error, looked at afterwards, with fresh seeds it ends above {RIVAL} on {above}, below "
        f"on {below}. In the [return](../notebooks/05_environment.ipynb), for which all are trained and of "
        f"which the best constant actions earn 1 and doing nothing 0, these runs have {earned[OURS]:.2f}, "
        f"{RIVAL} {earned[RIVAL]:.2f}, TRPO alone {earned['TRPO']:.2f} and the second stage alone "
        f"{earned['second_stage_alone']:.2f}: the correlation, by which settings are chosen, hardly sees it"
        + f", and on {_list(blind)} it tells no policies apart at all" * bool(blind)
        + "."
    )


def _apart(gaps: Mapping[str, Estimate]) -> tuple[str, str]:
    """Return where a difference lies above zero by its own interval, and where below."""
    verdicts = {name: by_interval(gap.low, gap.high) for name, gap in gaps.items()}
    above, below = (_list([n for n, told in verdicts.items() if told == v]) for v in (HOLDS, FAILS))
    return above, below


def as_fast(rows: Sequence[Judged]) -> str:
    """Say how much of the saved updates is due to cheaper iterations, and what is saved in simulation."""
    number = claim_number("The warm start needs fewer")
    places = [row.place for row in rows if row.claim == number]
    curves = {place: policy_table(place, "curves", "tuning") for place in places}
    equal = saved_updates(curves[UPDATES_PLACE], OURS, RIVAL, **SAVINGS[1])
    simulated = {place: saved_updates(known, OURS, RIVAL, **SAVINGS[2]) for place, known in curves.items()}
    above, below = _apart(simulated)
    (share,) = _in_digits(equal.mean)
    return (
        f"Its iterations have fewer of these steps, so that as fast a learner as {RIVAL} would already save "
        f"{share}. Of simulated steps it saves {_with_interval(simulated[UPDATES_PLACE])} there; more than "
        f"none on {above}, less than none on {below}."
    )


def _list(names: Sequence[str]) -> str:
    """Return names in words."""
    return " and ".join(names) or "none"


def other_ratio(rows: Sequence[Judged]) -> str:
    """Say what Algorithm 1 gains with the ratio to the policy that collected the data."""
    number = claim_number("The same with the ratio")
    own = [row.told.gap for row in rows if (row.claim, row.place) == (number, PRIMARY_PLACE)]
    if not own or own[0] is None:
        return ""
    return f"With the ratio to the policy that collected the data: {_with_interval(own[0])}, {_link(number)}."


def once_logged(rows: Sequence[Judged]) -> str:
    """Say what the released reward does where the cells are logged once."""
    gap = released_gain(PRIMARY_PLACE, "reward", logs=1)
    return f"Without the second logarithm of that code: {_with_interval(gap)}; a verdict needs both to agree."


def across(rows: Sequence[Judged]) -> str:
    """Say what the share of cells that cross does not say, and where nothing can be told of it."""
    number = claim_number("The trust-region start lets")
    own = {row.place: row for row in rows if row.claim == number}
    if BARRIER not in own:
        return ""
    runs = Escapes.of(BARRIER)
    arms = runs.arrivals().set_index("model")["cells in the target"]
    text = f"It brings {arms[OURS]:.1%} across and {RIVAL} {arms[RIVAL]:.1%}"
    if BEST in arms:
        text += f", the best policy of all by the return {arms[BEST]:.1%}"
    return f"{text}. {at_one_setting(RIVAL)(rows)}{_escape_alone(own[BARRIER], rows)}{_mute(list(own))}"


def _escape_alone(row: Judged, rows: Sequence[Judged]) -> str:
    """Say what the verdict would be if the claims on escape were corrected for by themselves."""
    numbers = [n for n, claim in enumerate(all_claims(), start=1) if claim in ESCAPES]
    family = [other for other in rows if other.claim in numbers and other.told.gap and other.told.corrected]
    verdicts = corrected([other.told.gap for other in family if other.told.gap])
    verdict = verdicts[family.index(row)]
    if verdict == row.verdict:
        return ""
    would = {HOLDS: "hold", FAILS: "not hold", OPEN: "be undecided"}[verdict]
    return f" Corrected for the {len(family)} differences on escape alone and not for all, it would {would}."


def in_return(rival: str, ours: str = OURS) -> Callable[[Sequence[Judged]], str]:
    """Return what says by how much the return differs from a rival's, on the barrier."""

    def beside(rows: Sequence[Judged]) -> str:
        gap = Escapes.of(BARRIER).gap(ours, rival, "return")
        return f"In the return, by which settings are chosen, they differ by {_with_interval(gap)}."

    return beside


def at_one_setting(rival: str) -> Callable[[Sequence[Judged]], str]:
    """Return what says how many cells two arms bring across at the setting of either, and the return."""

    def beside(rows: Sequence[Judged]) -> str:
        told = []
        for owner in (rival, OURS):
            shares = Escapes.of(BARRIER).at_setting_of(owner)
            if shares is not None:
                whose = "its own" if owner == OURS else f"{owner}'s"
                told.append(f"{shares[OURS]:.1%} and {shares[rival]:.1%} at {whose}")
        same = f"At one setting for both, in the seeds of the tuning: {'; '.join(told)}. " if told else ""
        return same + in_return(rival)(rows)

    return beside


def untuned(rows: Sequence[Judged]) -> str:
    """Say how many of PPO's seeds arrive, with the interval, and what settings that nobody chose do."""
    runs = Escapes.of(BARRIER)
    row = runs.arrivals().set_index("model").loc[RIVAL]
    ends = f"{row['low']:.0%} to {row['high']:.0%}"
    told = f"These are {row['arrived']:.0f} of {row['seeds']:.0f} (95 % interval {ends})."
    shares = runs.untuned().get(RIVAL)
    if shares is None:
        return told
    few, of = int((shares.dropna() < HALF).sum()), len(shares.dropna())
    return f"{told} Untuned, fewer than half of the cells cross at {few} of {of} settings."


def nothing_to_escape(rows: Sequence[Judged]) -> str:
    """Say what the claim's test leaves out."""
    there = "[little to escape from](../notebooks/05_environment.ipynb)"
    return f"In this environment there is {there}, so that only the prediction is tested."


def _mute(places: Sequence[str]) -> str:
    """Name the landscapes where arrivals tell nothing, and where the return does."""
    full, empty, less = [], [], []
    for place in places:
        runs = Escapes.of(place)
        shares = runs.arrivals().set_index("model")["cells in the target"]
        if shares[[OURS, RIVAL]].min() > ALL:
            full.append(place)
        elif shares[[OURS, RIVAL]].max() <= shares["do_nothing"]:
            empty.append(place)
        less += [place] * (runs.gap(OURS, RIVAL, "return").high < 0)
    told = [f"both bring all cells across ({', '.join(full)})"] * bool(full)
    told += [f"no more than when nothing is done ({', '.join(empty)})"] * bool(empty)
    text = f" Arrivals tell nothing where {' or '.join(told)}" if told else ""
    earns = f"; in the return {RIVAL} ends above it on {', '.join(less)}" if less else ""
    return f"{text}{earns}." if text else ""


def unseen_types(rows: Sequence[Judged]) -> str:
    """Say how the experimental twin predicts cell types that it never saw, on every dataset asked."""
    number = claim_number("The embedding model")
    gaps = {row.place: row for row in rows if row.claim == number and row.place.endswith(", contexts")}
    real = {place.partition(",")[0]: row for place, row in gaps.items() if not place.startswith("waddington")}
    told = [f"{name} {_with_interval(row.told.gap, row)}" for name, row in real.items() if row.told.gap]
    return f"Of cell types that it never saw, less the mean of the other types: {', '.join(told)}." * bool(
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
#: From this share on all cells count as across, and below this one they do not cross.
ALL, HALF = 0.99, 0.5
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
_NEAR = (
    "nearer to the true path than",
    "farther from the true path than",
    "not measurably nearer to the true path than",
)
_SCORES = ("is better than", "is worse than", _SAME)
_SHARE = "of all cells"
#: The findings in their order; one whose experiment is not packaged is left out.
HEADLINES = (
    Headline(
        "Starting PPO from",
        PRIMARY_PLACE,
        "TRPO before PPO less PPO alone",
        "TRPO before PPO predicts unseen cells better than PPO alone",
        "With genes switched off one by one, each at the expected best of ten settings, it {} PPO alone",
        _BEATS,
        "in correlation",
        hardly_seen,
    ),
    Headline(
        "The warm start leads",
        PRIMARY_PLACE,
        "The same: early return",
        "it converges faster",
        "With genes switched off, at the same settings, over the first quarter of the training, it {} PPO "
        "alone",
        _EARNS,
        "of what the best constant actions earn",
    ),
    Headline(
        "The warm start needs fewer",
        UPDATES_PLACE,
        "The same: share of optimizer steps saved",
        "it needs fewer updates",
        "With genes switched on, at the same settings, until it reaches nine tenths of a return that both "
        "end above, it {} PPO alone",
        _TAKES,
        "of PPO's steps, a TRPO step counted as one, whatever it costs",
        as_fast,
    ),
    Headline(
        "The two stages together",
        PRIMARY_PLACE,
        "TRPO before PPO less TRPO alone",
        "both stages together do better than the first one alone",
        "With genes switched off, TRPO before PPO {} TRPO alone",
        _BEATS,
        "in correlation",
    ),
    Headline(
        "The second stage needs",
        PRIMARY_PLACE,
        "TRPO before PPO less its second stage",
        "the second stage needs a first one",
        "With genes switched off, TRPO before PPO {} the same second stage without it",
        _BEATS,
        "in correlation",
    ),
    Headline(
        "The gain comes from",
        PRIMARY_PLACE,
        "Natural less plain first stage",
        "the [natural gradient](../notebooks/07_natural_gradient.ipynb) is why",
        "With genes switched off, a first stage along it {} one along the plain gradient, with steps as long",
        _ENDS,
        "in correlation",
    ),
    Headline(
        "One TRPO step before",
        PRIMARY_PLACE,
        "Algorithm 1 less PPO alone",
        "Algorithm 1, a TRPO step before the PPO epochs of every iteration, improves on PPO",
        "With genes switched off, as printed, each at its best setting, it {} PPO alone",
        _BEATS,
        "in correlation",
        other_ratio,
    ),
    Headline(
        "Escaping local optima lets",
        PRIMARY_PLACE,
        "TRPO before PPO less a plain mean",
        "escaping local optima lets a deep model outperform simple baselines",
        "With genes switched off, the in-silico twin predicts unseen cells {} the mean change that the same "
        "gene's loss made in the training cells, which needs no model",
        _PREDICTS,
        "in correlation",
        nothing_to_escape,
    ),
    Headline(
        "Trajectories of the in-silico",
        PRIMARY_PLACE,
        "Path less its strongest rival: distance saved",
        "paths of the in-silico twin resemble the real ones",
        "With genes switched off, they are {} the best of a straight line, doing nothing and the same policy "
        "with shuffled labels",
        _NEAR,
        "of [distance](../notebooks/11_twin_evaluation.ipynb) saved",
    ),
    Headline(
        "A poor initialisation traps",
        BARRIER,
        "Share of PPO's seeds that arrive (under half?)",
        "a poor start traps PPO in a local optimum",
        "Over the highest of three simulated barriers {} of tuned PPO's seeds bring half of their cells "
        "across",
        ("under half", "over half", "not surely under or over half"),
        beside=untuned,
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
        at_one_setting("TRPO"),
    ),
    Headline(
        "Initialising well",
        BARRIER,
        "TRPO before PPO less PPO started thrice",
        "a good start is what is needed",
        "Over the same barrier TRPO before PPO {} PPO from three fresh starts",
        _BRINGS,
        _SHARE,
        in_return(RESTARTS),
    ),
    Headline(
        "It is the first stage",
        BARRIER,
        "TRPO before PPO less its second stage",
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
        "the experimental twin predicts the perturbed state better than what needs no training",
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
        "With genes switched off, in time that is guessed from the cells, it is {} the best of a straight "
        "line, doing nothing and the same twin with shuffled labels",
        _NEAR,
        "of [distance](../notebooks/11_twin_evaluation.ipynb) saved",
    ),
    Headline(
        "TRPO_PPO greatly outperforms",
        PRIMARY_PLACE,
        "Squared error from start to end, saved",
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
        "Reward of an episode",
        "it outperforms PPO in the reward that both are trained for, of which the paper prints none",
        "In the same code, with the same cells, {} PPO",
        ("it earns more than", "it earns less than", "it is undecided whether it earns more than"),
        "in reward",
        once_logged,
    ),
)


#: The groups of the findings, in their order, each with what stands above its table.
IN_SILICO, ESCAPE, TWIN, CODE = (
    "The in-silico twin: what it predicts, and how it learns",
    "Escape over a barrier",
    "The experimental twin",
    "The paper's public code, rebuilt",
)
TABLES = {
    IN_SILICO: "Correlation, where nothing else is said",
    ESCAPE: "In shares of all cells, or seeds",
    TWIN: "Less its strongest rival",
    CODE: "TRPO before PPO less PPO",
}


def _group(finding: Headline) -> str:
    """Return the group of a finding."""
    if finding.statement.startswith("TRPO_PPO"):
        return CODE
    return ESCAPE if finding.place == BARRIER else TWIN if ", " in finding.place else IN_SILICO


def summary(rows: Sequence[Judged], pages: str = "") -> str:
    """Return what was found as Markdown: for each group a heading, its findings, and a table of all places.

    `pages` leads from the page that shows it to the folder of the book's pages.
    """
    parts = []
    for group in TABLES:
        told = "\n".join(f"- {text}" for text in findings(rows, pages, group))
        parts += [f"### {group}", told, by_place(rows, pages, group)] * bool(told)
    return "\n\n".join(parts)


def findings(rows: Sequence[Judged], pages: str = "", group: str = "") -> list[str]:
    """Return the findings that stand among `judged` claims, of all groups or of one, as Markdown."""
    told = []
    for finding in HEADLINES:
        of_claim = [row for row in rows if row.claim == claim_number(finding.statement)]
        own = [row for row in of_claim if row.place == finding.place and finding.says]
        if group in ("", _group(finding)):
            told += [_told(finding, row, of_claim, rows) for row in own]
    return [_from(pages, text) for text in told]


def by_place(rows: Sequence[Judged], pages: str = "", group: str = "") -> str:
    """Return the findings' differences on every place, as a Markdown table a group."""
    known = {claim_number(finding.statement): finding for finding in HEADLINES}
    chosen = {group: TABLES[group]} if group else TABLES
    tables = [
        _table(title, {n: finding for n, finding in known.items() if _group(finding) == name}, rows)
        for name, title in chosen.items()
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
    more = finding.beside(rows)
    below = f"\n  - {more}" if more else ""
    if gap is None:
        return f"{text}: {_number(row)}, {_link(row.claim)}.{below}"
    if alone(row.verdict, row.told):
        own = finding.sentence.format(words[HOLDS if gap.low > 0 else FAILS])
        text = f"**{_verdicts(of_claim)}**: that {finding.says}. {own}, taken by itself"
    if not np.isfinite(gap.low):
        return f"{text} ({_link(row.claim)})."
    _, low, high = _in_digits(gap.mean, gap.low, gap.high)
    interval = f"95 % interval {low} to {high}" if low != high else f"the same in all {gap.units} seeds"
    return f"{text}: {_number(row)} {finding.unit} ({interval}), {_link(row.claim)}.{below}"


def _verdicts(of_claim: Sequence[Judged]) -> str:
    """Return on how many places of a claim each verdict was reached, among all claims."""
    judged = [row for row in of_claim if row.told.gap is None or np.isfinite(row.told.gap.low)]
    if not judged:
        return "Undecided everywhere"
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
