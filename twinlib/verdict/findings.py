"""One sentence about a file: something that holds, was assumed, is a defect, or is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A fact, a guess that was made, a defect that one has to know of, or what stops a verdict.
LEVELS = ("holds", "assumed", "defect", "missing")


@dataclass(frozen=True)
class Finding:
    """One sentence about a file."""

    #: One of `LEVELS`.
    level: str
    #: The key or the property that it is about.
    about: str
    #: The sentence, without its full stop.
    sentence: str


def first_of(names: Sequence[str], most: int) -> str:
    """Return names in a row, at most so many of them.

    >>> first_of(["A", "B", "C"], 2)
    'A, B, ...'
    """
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def holds(about: str, sentence: str) -> Finding:
    """Tell a fact."""
    return Finding("holds", about, sentence)


def assumed(about: str, sentence: str) -> Finding:
    """Tell a guess."""
    return Finding("assumed", about, sentence)


def defect(about: str, sentence: str) -> Finding:
    """Tell a defect."""
    return Finding("defect", about, sentence)


def missing(about: str, sentence: str) -> Finding:
    """Tell what stops a verdict."""
    return Finding("missing", about, sentence)
