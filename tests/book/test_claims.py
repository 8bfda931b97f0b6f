"""From the paper's sentence to number, code and command: what every claim on the claims page carries."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = r"(?:Abstract|Sections? \d[\d., and]*|Algorithm 1|Remark 3\.1|Eq\. \d+|Tables? \d[\d, and]*)"
SENTENCE = re.compile(rf'^> "[A-Z(].*[.!]" \({PLACE}(?:[;,] [^)]*)?\)$', re.M)
TESTED = re.compile(r"^- Test: \S.{20,}$", re.M)
CHAPTER = re.compile(r"^- Chapter: \[[^\]]+\]\(\.\./notebooks/(\d\d_\w+)\.ipynb#([\w-]+)\)$", re.M)
ROWS = re.compile(r"\{download\}`[^`<]+<\.\./(results/[\w./-]+)>`")
COMMAND = re.compile(r"^- Command: `(python -m experiments \w+(?: --[\w-]+ \S+)*)`$", re.M)
GLYPH = re.compile(r"^[●✗○■] (?:holds|does not hold|cannot be told here|holds by construction)$")
NUMBER = re.compile(r"[-+]?\d")


def claims(page: str) -> list[str]:
    """The sections of the claims page, one a claim."""
    return re.findall(r"^## \d+\. .*?(?=^## |\Z)", page, re.S | re.M)


def anchors(chapter: str) -> set[str]:
    """The anchors of a chapter: its headings, and its figures."""
    text = (ROOT / "notebooks" / f"{chapter}.py").read_text(encoding="utf-8")
    headings = re.findall(r"^# #+ (.+)$", text, re.M)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | {f"fig-{name}" for name in re.findall(r'^    "([a-z0-9-]+)",$', text, re.M)}


def lacks(section: str) -> list[str]:
    """What a claim's section does not have, in words; empty where it is complete."""
    chapter, rows = CHAPTER.search(section), ROWS.findall(section)
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ][2:]
    found = {
        "the paper's sentence in quotation marks with its section": SENTENCE.search(section),
        "what was tested": TESTED.search(section),
        "a link to the chapter's anchor": chapter and chapter[2] in anchors(chapter[1]),
        "a link to the table's rows": rows and all((ROOT / name).is_file() for name in rows),
        "the command that makes them": COMMAND.search(section),
        "a number in every row": table and all(NUMBER.search(row[1]) for row in table),
        "a glyph in every row": table and all(GLYPH.match(row[2]) for row in table),
    }
    return [name for name, there in found.items() if not there]


COMPLETE = """## 1. Starting PPO from a trust-region stage improves generalisation.

> "We demonstrate that this initialization strategy substantially improves generalization." (Abstract)

- Test: Unseen cells, pearson_delta, two_stage less PPO over perturbations with an effect.
- Chapter: [8, the line search](../notebooks/08_trpo.ipynb#step-3-the-line-search-makes-it-true)
- Rows: {download}`papalexi2021 <../results/trajectories/papalexi2021/scores.csv.gz>`
- Command: `python -m experiments trajectories --dataset papalexi2021 --out DIR`

| Dataset | Number | Verdict |
|---|---|---|
| papalexi2021 | +0.01 [-0.02, +0.04], U = 13 | ○ cannot be told here |
"""


def test_a_complete_claim_lacks_nothing() -> None:
    assert claims(COMPLETE) == [COMPLETE] and not lacks(COMPLETE)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('> "We', "> We", "quotation marks"),
        ("(Abstract)", "", "section"),
        ("#step-3", "#step-33", "anchor"),
        ("scores.csv.gz", "missing.csv", "rows"),
        ("- Command: `python", "- Command: `make", "command"),
        ("○ cannot", "cannot", "glyph"),
        ("+0.01 [-0.02, +0.04], U = 13", "n/a", "number"),
    ],
)
def test_what_is_taken_out_of_a_claim_is_missed(old: str, new: str, word: str) -> None:
    assert old in COMPLETE
    assert any(word in name for name in lacks(COMPLETE.replace(old, new)))


@pytest.mark.xfail(strict=True, reason="the claims page is generated before sentences, links and commands")
def test_every_claim_leads_to_number_code_and_command() -> None:
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    incomplete = {text.splitlines()[0]: lacks(text) for text in claims(page) if lacks(text)}
    assert claims(page) and not incomplete, incomplete
