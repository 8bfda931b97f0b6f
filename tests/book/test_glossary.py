"""The glossary explains every arm, every dataset, and the words that the results stand on."""

from __future__ import annotations

import pathlib
import re

import pytest

from twinlib.data import sources
from twinlib.policy.algorithms import ALGORITHMS

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Datasets that the book's results are computed on.
SHOWN = ("papalexi2021", "norman2019", "cross_study", "kang2018", "waddington", "vcc_h1", "chi11", "a549_dex")


def entries() -> dict[str, str]:
    """The definitions by term; a line that names several terms counts for each."""
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    parts = re.findall(r"^(\S[^\n]*)\n((?:(?:  [^\n]*)?\n)+)", text.partition("```{glossary}\n")[2], re.M)
    return {term: said.strip() for terms, said in parts for term in terms.split(", ")}


@pytest.mark.parametrize(
    "term", [*ALGORITHMS, *SHOWN, "released", "described", "stand-in", "arm", "do_nothing"]
)
def test_term_is_explained(term: str) -> None:
    assert len(entries().get(term, "").split()) >= 6, f"the glossary does not explain {term}"


def test_the_datasets_are_those_of_the_registry() -> None:
    assert all(sources.dataset(name) for name in SHOWN)


def test_the_primary_metric_comes_with_its_formula() -> None:
    said = entries()["pearson_delta"]
    assert said.count("$$") == 4 and r"\operatorname{corr}_g(\Delta, \hat\Delta)" in said
