"""The rules by which claims are judged: the primary claim by tuning curves, the rest by Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twinlib.errors import InputError
from twinlib.evaluation.calibration import Estimate, holm

#: The verdicts a claim can have.
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
#: A statement that the code cannot break; it is no finding.
BUILT = "holds by construction"
#: How a verdict is drawn in a table of claims.
GLYPHS = {HOLDS: "●", FAILS: "✗", OPEN: "○", BUILT: "■"}
#: Marks a difference whose own interval excludes zero, and not after the correction.
ALONE = "†"
#: Numbers of settings at which the primary claim is told; it is decided at the last.
TOLD_AT = (1, 5, 10)
#: Error rate of the family of all claims but the primary one.
ALPHA = 0.05


@dataclass(frozen=True)
class Evidence:
    """What one dataset says about a claim."""

    #: The number with its interval, as text.
    number: str
    #: One of holds, does not hold, cannot be told here, holds by construction.
    verdict: str
    #: The difference that decides, where it is one with an interval over units.
    gap: Estimate | None = None
    #: Does Holm's correction take it in? The primary claim stands outside, and so does what a rule decides.
    corrected: bool = True
    #: The number that decides where a rule does; None where it is the difference.
    value: float | None = None


@dataclass(frozen=True)
class Rows:
    """A table in each folder of a packaged experiment."""

    #: Name of the experiment, which is its folder under results/ and its command.
    experiment: str
    #: Name of the table, without suffix.
    table: str


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and how it is tested."""

    #: Where it stands.
    where: str
    #: The statement, in our words.
    statement: str
    #: How it is tested.
    test: str
    #: What would change the verdict.
    change: str
    #: Maps a place (a dataset, a split of it, a landscape) to its evidence; raises ResultsError or KeyError
    #: where the results lack the rows.
    measure: Callable[[str], Evidence]
    #: Places on which it is tested.
    datasets: tuple[str, ...]
    #: The paper's own sentence.
    sentence: str
    #: Where that sentence stands.
    place: str
    #: The chapter that shows it.
    chapter: str
    #: Heading of its section there.
    section: str
    #: The tables that it is measured on; () where it is the paper's own.
    rows: tuple[Rows, ...]
    #: What the number in its boxes counts.
    unit: str


def by_interval(low: float, high: float) -> str:
    """Return holds above 0, does not hold below, cannot be told around 0 or without an interval."""
    if low > 0:
        return HOLDS
    return FAILS if high < 0 else OPEN


def weakest(margins: Collection[Estimate]) -> tuple[str, Estimate]:
    """Return the verdict on a claim that needs every margin above 0, and the margin that decides it."""
    lows, highs = ([getattr(margin, end) for margin in margins] for end in ("low", "high"))
    verdict = by_interval(float(np.min(lows)), float(np.min(highs)))
    decides = highs if verdict == FAILS else lows
    return verdict, list(margins)[int(np.argmin(decides))]


def primary(gaps: Mapping[int, Estimate]) -> str:
    """Return the verdict on the primary claim from its differences at k = 1 and 10 settings.

    It holds if the interval at k = 10 lies above 0 and that at k = 1 not below; 'does not hold' mirrors it.
    """
    missing = [k for k in (TOLD_AT[0], TOLD_AT[-1]) if k not in gaps]
    if missing:
        raise InputError(f"The primary claim needs the difference at k = {missing[0]}; add it.")
    few, many = (by_interval(gaps[k].low, gaps[k].high) for k in (TOLD_AT[0], TOLD_AT[-1]))
    return OPEN if {few, many} == {HOLDS, FAILS} else many


def alone(verdict: str, told: Evidence) -> bool:
    """Tell whether an interval excludes zero by itself, and not after the correction."""
    gap = told.gap
    return verdict == OPEN and told.corrected and gap is not None and (gap.low > 0 or gap.high < 0)


def corrected(gaps: Sequence[Estimate]) -> list[str]:
    """Return the verdicts on claims [m] after Holm's correction over all of them that have an interval."""
    known = [number for number, gap in enumerate(gaps) if np.isfinite(gap.low)]
    verdicts = [OPEN] * len(gaps)
    for number, p in zip(known, holm([gaps[number].p_value() for number in known]), strict=True):
        if p < ALPHA:
            verdicts[number] = HOLDS if gaps[number].mean > 0 else FAILS
    return verdicts


def short(value: float) -> str:
    """Return a number for a table's cell: its sign, no zero before the point, no more digits than are read.

    >>> short(0.0123), short(-1.5), short(-46.52), short(1870.2), short(-0.0001)
    ('+.012', '-1.50', '-46.5', '+1,870', '.000')
    """
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:+,.{digits}f}".replace("+0.", "+.").replace("-0.", "-.")
    return ".000" if text in ("+.000", "-.000") else text


def cell(verdict: str, told: Evidence) -> str:
    """Return glyph, number and interval of a claim on a dataset; 'n/a' where there is no interval.

    `ALONE` marks an interval that excludes zero by itself.
    """
    if told.gap is not None and not np.isfinite(told.gap.low):
        return f"n/a {short(told.gap.mean)}"
    if told.value is not None:
        return f"{GLYPHS[verdict]} {short(told.value).removeprefix('+')}"
    if told.gap is None:
        return GLYPHS[verdict]
    return f"{GLYPHS[verdict]} {short(told.gap.mean)}{ALONE * alone(verdict, told)} {_interval(told.gap)}"


def _interval(gap: Estimate) -> str:
    """Return an interval for a table's cell; one that three digits would print as zero by its size."""
    if 0 < max(abs(gap.low), abs(gap.high)) < 0.0005:
        return f"(within {size(gap)})"
    return f"[{short(gap.low)}, {short(gap.high)}]"


def withheld(gap: Estimate) -> Estimate:
    """Return a difference without its interval, where the controls come from another study."""
    return replace(gap, low=float("nan"), high=float("nan"))


def size(gap: Estimate) -> str:
    """Return the largest size of a difference, in either direction, that its interval leaves possible.

    >>> size(Estimate(0.01, -0.002, 0.024, 12, 13, 0.02))
    '.024'
    >>> size(Estimate(0.0, -0.00021, 0.0001, 6, 7, 0.0))
    '.0002'
    """
    largest = float(max(abs(gap.low), abs(gap.high)))
    if 0 < largest < 0.0005:  # three digits would print a zero
        return np.format_float_positional(largest, precision=1, fractional=False).removeprefix("0")
    return short(largest).removeprefix("+")
