"""From the paper's sentence to number, code and command: what every claim on the claims page carries."""

from __future__ import annotations

import html
import importlib
import pathlib
import re

import pytest

from experiments.__main__ import EXPERIMENTS, _parser
from twinlib.results import claims_page

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = r"(?:Abstract|Sections? \d[\d., and]*|Algorithm 1|Remark 3\.1|Eq\. \d+|Tables? \d[\d, and]*)"
SENTENCE = re.compile(rf'^> "[A-Z(].*[.!]" \({PLACE}(?:[;,] [^)]*)?\)$', re.M)
TESTED = re.compile(r"^- Test: \S.{20,}$", re.M)
UNIT = re.compile(r"^- Number in its boxes: \S.{4,}$", re.M)
CHAPTER = re.compile(r"^- Chapter: \[[^\]]+\]\(\.\./notebooks/(\d\d_\w+)\.ipynb#([\w-]+)\)$", re.M)
ROWS = re.compile(r"\{download\}`[^`<]+<\.\./((?:twinlib/)?results/[\w./-]+)>`")
CODE = re.compile(r"^- Code: \{py:func\}`~([\w.]+)`$", re.M)
COMMAND = re.compile(r"^- Command: `python -m (experiments \w+(?: --[\w-]+(?: [\w./]+)+)*)`$", re.M)
GLYPH = re.compile(
    r"^(?:n/a(?= cannot)|[●✗○■]) (?:holds|does not hold|cannot be told here|holds by construction)$"
)
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
    waits = claims_page.UNMEASURED in section
    has = {
        "the paper's sentence in quotation marks with its section": SENTENCE.search(section),
        "what was tested": TESTED.search(section),
        "what its numbers count": UNIT.search(section),
        "a link to the chapter's anchor": chapter and chapter[2] in anchors(chapter[1]),
        "a link to the table's rows": waits or rows and all((ROOT / name).is_file() for name in rows),
        "the code that measures it": all(map(resolves, CODE.findall(section))) and CODE.search(section),
        "the command that makes them": all(map(runs, COMMAND.findall(section))) and COMMAND.search(section),
        "a number in every row": waits or table and all(NUMBER.search(row[1]) for row in table),
        "a glyph in every row": waits or table and all(GLYPH.match(row[2]) for row in table),
        "one state of two": waits != bool(table),
    }
    return [name for name, there in has.items() if not there]


def resolves(name: str) -> bool:
    """Tell whether a dotted name is that of a function."""
    module, _, function = name.rpartition(".")
    return callable(getattr(importlib.import_module(module), function, None))


def runs(command: str) -> bool:
    """Tell whether the command line of the experiments takes a command."""
    _, name, *words = command.split(" ")
    if name not in (*EXPERIMENTS, "claims"):
        return False
    known = vars(_parser(name).parse_args([name, *words]))
    return not EXPERIMENTS.get(name) or known["out"] == pathlib.Path("DIR")


COMPLETE = """## 1. Starting PPO from a trust-region stage improves generalisation.

> "We demonstrate that this initialization strategy substantially improves generalization." (Abstract)

- Test: Unseen cells, pearson_delta, two_stage less PPO over perturbations with an effect.
- Number in its boxes: difference in pearson_delta
- Chapter: [8, the line search](../notebooks/08_trpo.ipynb#step-3-the-line-search-makes-it-true)
- Rows: {download}`papalexi2021 <../results/trajectories/papalexi2021/scores.csv.gz>`
- Code: {py:func}`~twinlib.results.claims.twins_agree`
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
        ("difference in pearson_delta", "", "count"),
        ("#step-3", "#step-33", "anchor"),
        ("scores.csv.gz", "missing.csv", "rows"),
        ("claims.twins_agree", "claims.twins_argue", "code"),
        ("- Command: `python", "- Command: `make", "command"),
        ("experiments trajectories", "experiments trajectory", "command"),
        ("○ cannot", "cannot", "glyph"),
        ("+0.01 [-0.02, +0.04], U = 13", "n/a", "number"),
    ],
)
def test_what_is_taken_out_of_a_claim_is_missed(old: str, new: str, word: str) -> None:
    assert old in COMPLETE
    assert any(word in name for name in lacks(COMPLETE.replace(old, new)))


def test_every_claim_leads_to_number_code_and_command() -> None:
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    incomplete = {text.splitlines()[0]: lacks(text) for text in claims(page) if lacks(text)}
    assert claims(page) and not incomplete, incomplete


def test_the_first_view_has_a_box_a_measured_claim_and_dataset_that_leads_to_the_claim() -> None:
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    view, _, rest = page.partition("(claim-1)=")
    boxes = re.findall(r'<a class="box (\w+)" href="#claim-(\d+)" title="[^"]+">([^<]+)', view)
    measured = {text.split(".")[0][3:]: text for text in claims(page) if claims_page.UNMEASURED not in text}
    assert {number for _, number, _ in boxes} == set(measured)
    for number, text in measured.items():
        told = re.findall(r"\| ([●✗○■]|n/a) ([a-z ]+) \|$", text, re.M)
        kinds = [(cell.split()[0], kind) for kind, own, cell in boxes if own == number]
        assert sorted(kinds) == sorted((glyph, claims_page.BOXES[verdict]) for glyph, verdict in told)
    assert all(re.match(r"(?:[●✗○■]|n/a) [-+.\d]", cell) for _, _, cell in boxes)
    units = dict(re.findall(r'href="#claim-(\d+)">[^<]+</a> <small>([^<]+)</small></th>', view))
    told = {number: html.unescape(unit) for number, unit in units.items()}
    assert told == {number: UNIT.findall(text)[0].partition(": ")[2] for number, text in measured.items()}
    assert all(head.count("<th ") <= 1 + claims_page.WIDEST for head in re.findall(r"<thead>.*", view))
    assert all(f"\n(claim-{number})=\n" in f"\n(claim-1)={rest}" for number in measured)
