"""One quantity has one name, definition, baseline and value wherever the book speaks of it."""

from __future__ import annotations

import pathlib
import re
from collections import Counter
from dataclasses import replace

import nbformat
import numpy as np
import pytest

from twinlib.evaluation.calibration import Arms
from twinlib.evaluation.scoring import scored, shared_error
from twinlib.results import claims, claims_page
from twinlib.results.headlines import HEADLINES, KINDS, TABLES, by_place, findings, summary
from twinlib.results.judged import in_words, judged_splits
from twinlib.results.verdicts import BUILT, FAILS, HOLDS, OPEN, withheld
from twinlib.verdict.sentences import MEASURED

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHAPTERS = ("04_experimental_twin", "12_replication", "14_your_perturbation")
GAP = r"[+-]\d+\.\d{3} \[[+-]\d+\.\d{3}, [+-]\d+\.\d{3}\]"
TWIN = claims.claim_number("The embedding model")
#: How the introduction speaks of the rows that a model is held against.
SPOKEN = {
    "context_mean": "the mean of the other types",
    "matching_mean": "the mean change that the same gene's loss",
}


def page(name: str) -> str:
    """The source of a page of the book."""
    return (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")


def prose(chapter: str) -> str:
    """What a chapter says without being run."""
    source = (ROOT / "notebooks" / f"{chapter}.py").read_text(encoding="utf-8")
    return "\n".join(line[2:] for line in source.splitlines() if line.startswith("# "))


def printed(chapter: str) -> str:
    """What a chapter printed when it was run."""
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join(
        "".join(o.get("text", "") or o.get("data", {}).get("text/markdown", "")) for o in outputs
    )


def glossary() -> dict[str, str]:
    """The definitions by term."""
    parts = re.findall(
        r"^(\S[^\n]*)\n((?:(?:  [^\n]*)?\n)+)", page("glossary").partition("{glossary}\n")[2], re.M
    )
    return {term: told for terms, told in parts for term in terms.split(", ")}


def contests() -> dict[tuple[str, str], tuple[str, str]]:
    """By dataset and split: the row that the twin is held against on the claims page, and by how much."""
    section = re.search(rf"^## {TWIN}\. .*?(?=^## |\Z)", page("claims"), re.S | re.M)
    assert section
    rows = re.findall(
        rf"^\| (\w+), (\w+) \| \w+(?: over all)?: experimental [-\d.]+, (\w+) .*?({GAP})", section[0], re.M
    )
    return {(dataset, kind): (rival, gap) for dataset, kind, rival, gap in rows}


def test_the_formula_of_the_glossary_is_the_number_of_the_judge() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 12)), rng.normal(size=(25, 12)) + np.arange(12) / 6
    answered = 0.5 * x + np.arange(12) / 9
    change = answered - x
    observed, predicted = y.mean(0) - x.mean(0), change.mean(0)
    free = [cells - cells.mean(1, keepdims=True) for cells in (x, change)]
    shared = -sum(np.cov(free[0][:, g], free[1][:, g])[0, 1] for g in range(12)) / len(x)
    correlation = np.corrcoef(observed, predicted)[0, 1]
    expected = correlation - shared / (12 * observed.std() * predicted.std())
    arms = Arms(perturbed=(y,), controls=(x,), contexts=("T",), dropped=())
    told = scored(arms, predicted[None], None, [shared_error(x, answered)])[""]["pearson_delta"]
    assert told == pytest.approx(expected) and abs(shared) > 0.01
    assert r"\operatorname{corr}_g(\Delta, \hat\Delta) - \frac{S}{G" in glossary()["pearson_delta"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_chapter_writes_another_formula(chapter: str) -> None:
    formulas = re.findall(r"\$\$.*?\$\$", prose(chapter), re.S)
    assert not [
        f for f in formulas if re.search(r"corr\b|pearson", f) and f not in glossary()["pearson_delta"]
    ]


DEFINED = re.compile(r"correlation\b[^.]*\b(predicted|observed)\b[^.]*\b(predicted|observed)\b[^.]*\bchange")


@pytest.mark.parametrize("name", ["intro", "claims", *CHAPTERS])
def test_every_page_says_the_same_of_the_primary_metric(name: str) -> None:
    text = prose(name) if name in CHAPTERS else page(name)
    assert DEFINED.search(text.replace("\n", " ")), "no sentence says what pearson_delta correlates"


def test_the_verdict_of_a_file_speaks_of_the_same_metric() -> None:
    assert DEFINED.search(MEASURED["pearson_delta"])


def test_rows_of_the_claims_page_stand_in_the_glossary() -> None:
    rows = {rival for rival, _ in contests().values()}
    rows |= set(re.findall(r"(?:gained|;) on (\w+) [+-]", page("claims"))) | {"experimental"}
    assert len(rows) > 6 and not sorted(row for row in rows if row not in glossary())


QUESTION = re.compile(r'^    \("(\w+)", "(\w+)", "(\w+)", ""\),$', re.M)


def test_chapter_4_holds_the_twin_against_the_same_rows_with_the_same_numbers() -> None:
    source = (ROOT / "notebooks" / "04_experimental_twin.py").read_text(encoding="utf-8")
    asked, known = set(QUESTION.findall(source)), contests()
    places = {(name, kind) for kind, name, _ in asked} & set(known)
    assert len(places) >= 9
    for name, kind in sorted(places):
        rival, gap = known[name, kind]
        # Of a perturbation that was never seen the mean of its label is the mean of all.
        named = {rival, "mean"} if kind == "perturbations" and rival == "matching_mean" else {rival}
        (other,) = {row for k, n, row in asked if (n, k) == (name, kind) and row in named}
        told = in_words(judged_splits("experimental", name)[kind].gap("experimental", other))
        assert told.startswith(gap), (name, kind, told, gap)


def test_chapter_12_counts_the_verdicts_of_the_claims_page() -> None:
    verdicts = re.findall(r'href="#claim-\d+" title="([^":]+): [^"]+">', page("claims"))
    line = re.search(r"^(\d+) verdicts, .*", printed("12_replication"), re.M)
    assert line and int(line[1]) == len(verdicts) > 0
    told = {word: int(number) for word, number in re.findall(r"\*([^*]+)\* (\d+)", line[0])}
    assert told == dict(Counter(verdicts))


@pytest.fixture(scope="module")
def rows() -> list[claims.Judged]:
    return claims.judged()


def test_the_claims_page_is_the_one_that_the_results_give(
    rows: list[claims.Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "judged", lambda: rows)  # judged once for all tests of this file
    table = claims.evidence(rows)
    assert set(table["Verdict"]) <= {HOLDS, FAILS, OPEN, BUILT} and len(table) > 5
    assert page("claims") == claims_page.page(), "run: python -m experiments claims"


def test_findings_say_what_the_claims_page_says(rows: list[claims.Judged]) -> None:
    told, known = findings(rows), contests()
    assert "\n<!-- findings -->\n" in page("intro")
    assert len(told) == sum(bool(finding.says) for finding in HEADLINES)
    (twin,) = (finding for finding in HEADLINES if claims.claim_number(finding.statement) == TWIN)
    dataset, _, kind = twin.place.partition(", ")
    rival, gap = known[dataset, kind]
    mean, low, high = re.findall(r"[+-]\d+\.\d{3}", gap)
    shown = rf"(\*\*)?{re.escape(mean)}(\*\*)?†? "
    number = shown + re.escape(f"{twin.unit} (95 % interval {low} to {high}), [claim {TWIN}]")
    assert SPOKEN[rival] in twin.sentence and any(re.search(number, text) for text in told)


def test_findings_count_the_verdicts_of_their_claims(rows: list[claims.Judged]) -> None:
    words, texts = {"holds on": HOLDS, "does not hold on": FAILS, "undecided on": OPEN}, findings(rows)
    for finding in (finding for finding in HEADLINES if finding.says):
        number = claims.claim_number(finding.statement)
        boxes = re.findall(rf'href="#claim-{number}" title="([^":]+): [^"]*">(\S+)', page("claims"))
        told = Counter(verdict for verdict, cell in boxes if cell != "n/a")
        (text,) = (text for text in texts if f"[claim {number}]" in text)
        lead = re.match(r"\*\*([^(]+?)( \(.*\))?\*\*: that ", text)
        assert lead and f": that {finding.says}" in text.replace("](notebooks", "](../notebooks")
        total = re.search(r" of (\d+) (?:datasets|landscapes|splits|paths)", lead[1])
        assert total and int(total[1]) == told.total() > 1
        counted = re.sub(r" of \d+ [a-z]+", "", lead[1]).lower().split(", ")
        assert {words[part.rsplit(" ", 1)[0]]: int(part.rsplit(" ", 1)[1]) for part in counted} == dict(told)


def shown_by_place(rows: list[claims.Judged]) -> dict[tuple[int, str], str]:
    """Cells of the introduction's tables, by claim and place."""
    shown, kinds = {}, {words: kind for kind, words in KINDS.items()}
    for table in by_place(rows).split("\n\n"):
        head, _, *lines = ([part.strip() for part in line.split("|")[1:-1]] for line in table.splitlines())
        for first, *cells in lines:
            named, number = re.findall(r"^(.*) \(\[claim (\d+)\]", first)[0]
            kind = kinds.get(f", {named.partition(', ')[2]}", "")
            for name, text in zip(head[1:], cells, strict=True):
                shown[int(number), f"{name}, {kind}".removesuffix(", ")] = text
    return {key: text for key, text in shown.items() if text}


def test_the_table_of_places_says_what_the_claims_page_says(rows: list[claims.Judged]) -> None:
    shown, listed = shown_by_place(rows), {claims.claim_number(finding.statement) for finding in HEADLINES}
    own = {(row.claim, row.place): row for row in rows if row.claim in listed}
    assert set(shown) == set(own) and len(shown) > 80
    for key, text in shown.items():
        row, gap = own[key], own[key].told.gap
        value, number = row.told.value if gap is None else gap.mean, text.strip("(*)†")
        told = float(number.rstrip("%")) / 100 if number.endswith("%") else float(number)
        assert value is not None and told == pytest.approx(value, abs=0.051 if abs(value) > 10 else 6e-4)
        assert text.startswith("**") == (row.verdict in (HOLDS, FAILS))
        assert text.endswith("†") == ("†" in claims.cell(row.verdict, row.told))
        assert text.startswith("(") == (gap is not None and gap.low != gap.low)


def test_a_finding_without_any_interval_says_so(rows: list[claims.Judged]) -> None:
    number = claims.claim_number("The two stages together")
    own = [row for row in rows if row.claim == number and row.told.gap]
    without = [
        replace(row, told=replace(row.told, gap=withheld(row.told.gap)), verdict=OPEN)
        for row in own
        if row.told.gap
    ]
    (told,) = findings(without)
    assert told.startswith("**Undecided everywhere**: that both stages") and "interval" not in told
    assert by_place(without).count("| (") == len(without) > 3


def test_a_finding_without_results_is_left_out(rows: list[claims.Judged]) -> None:
    fewer = [row for row in rows if row.claim != TWIN]
    assert 0 < len(findings(fewer)) < len(findings(rows)) and not findings([]) and not by_place([])
    assert not summary([])


def test_the_readme_holds_the_findings_of_the_packaged_results(rows: list[claims.Judged]) -> None:
    import findings as script

    text, block = script.README.read_text(encoding="utf-8"), script.block(rows)
    assert text == script.written(text, block), "run `make claims`"
    assert [block.count(f"\n### {group}\n") for group in TABLES] == [1] * len(TABLES)
    assert all(f"\n- {told}\n" in block for told in findings(rows, "book/"))
    links = re.findall(r"\]\(((?:book|notebooks)/[\w./]+)", block)
    assert links and all((ROOT / link).is_file() for link in links)
