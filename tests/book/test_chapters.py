"""Every chapter has the shape of a chapter, and its exercises tell a stub from a solution."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import home
import nbformat
import pytest
import stamp

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = 900
DIRECTIVES = re.compile(r"^(```|:::)\s*\{|\{(eq|cite[a-z:]*|ref|numref|doc|term|glue[a-z:]*|math)\}`", re.M)
FENCE = re.compile(r"```.*?```", re.S)
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>.*?```python\n(.*?)```.*?</details>", re.S)


def markdown(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if tag in stamp.tags(cell)]


def headings(notebook: nbformat.NotebookNode) -> list[str]:
    return re.findall(r"^#+ (.+)$", FENCE.sub("", "\n".join(markdown(notebook))), re.M)


def prose_words(notebook: nbformat.NotebookNode) -> int:
    """Words of the Markdown cells without code, formulas, links' addresses and tags."""
    text = FENCE.sub(" ", "\n".join(markdown(notebook)))
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|<[^>]+>|\]\([^)]*\)|`[^`]*`", " ", text, flags=re.S)
    return len(re.findall(r"[A-Za-z][A-Za-z'-]+", text))


def exercise_numbers(source: pathlib.Path) -> list[int]:
    tags = [tag for cell in stamp.read_source(source).cells for tag in stamp.tags(cell)]
    return sorted(int(tag.split("-")[1]) for tag in tags if re.fullmatch(r"check-\d+", tag))


def test_starts_with_its_number_and_a_promise(source: pathlib.Path) -> None:
    first = stamp.read_source(source).cells[0]
    assert first.cell_type == "markdown"
    title, _, promise = first.source.partition("\n")
    assert re.match(rf"# {int(source.stem[:2])}\. \S", title), title
    assert len(promise.split()) >= 15, "the promise stands below the title"


def test_order_of_parts(source: pathlib.Path) -> None:
    notebook = stamp.read_source(source)
    setup = [i for i, cell in enumerate(notebook.cells) if "setup" in stamp.tags(cell)]
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    assert setup == [code[0]], "the setup cell is the first code cell, and the only one with its tag"
    objectives = "\n".join(text.lower() for text in markdown(notebook) if "you can" in text)
    assert len(re.findall(r"\bmin(?:ute)?s?\b", objectives)) >= 3, "objectives come with minutes"
    titles = [heading.lower() for heading in headings(notebook)]
    for wanted in ("limitation", "what this does not show", "key takeaways", "exercise", "references"):
        assert any(wanted in title for title in titles), f"no heading for: {wanted}"
    assert "stamp_line" in notebook.cells[code[-1]].source
    assert code[-1] == len(notebook.cells) - 1, "the last cell prints seed and versions"


#: Chapters that begin with their result and fold what draws, formats or sets up.
RESULT_FIRST = tuple(f"{number:02}" for number in range(1, 15))
OPEN_LINES, WIDTH, TABLES = 150, 88, 4
#: What draws the first figure: the page itself, or the report on a file.
DRAWS = re.compile(r"plots\.show\(|figures\.show_effects\(")
LABEL = re.compile(r'# @title \S.* \{ display-mode: "form" \}\n')


def code_cells(notebook: nbformat.NotebookNode, folded: bool) -> list[str]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if ("hide-input" in stamp.tags(cell)) == folded]


def chapter(number: str) -> pathlib.Path:
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.py")
    return path


@pytest.mark.parametrize("number", RESULT_FIRST)
def test_the_result_comes_first(number: str) -> None:
    """Question, answer and the figure that shows it; then objectives, imports and the way there."""
    notebook = stamp.read_source(chapter(number))
    opening = notebook.cells[0].source
    assert "**Question.**" in opening and "**Answer.**" in opening
    shows = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code" and DRAWS.search(c.source)]
    assert shows[0] == 2, "title, setup cell, figure"
    assert "record.say" in notebook.cells[2].source, "the answer's numbers come from a run"
    (aims,) = [i for i, c in enumerate(notebook.cells) if "## Objectives" in c.source]
    assert aims > shows[0]


@pytest.mark.parametrize("number", RESULT_FIRST)
def test_only_what_teaches_is_open(number: str) -> None:
    notebook = stamp.read_source(chapter(number))
    assert all(LABEL.match(text) for text in code_cells(notebook, folded=True)), "a fold without a label"
    shown = [line for text in code_cells(notebook, folded=False) for line in text.splitlines()]
    assert len([line for line in shown if line.strip()]) <= OPEN_LINES
    assert not [line for line in shown if len(line) > WIDTH]


@pytest.mark.parametrize("number", RESULT_FIRST)
def test_at_most_four_tables(number: str) -> None:
    notebook = nbformat.read(chapter(number).with_suffix(".ipynb"), as_version=4)
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = [data.get("text/markdown", "") for data in outputs] + markdown(notebook)
    ruled = sum(len(re.findall(r"^\|[-| :]+\|$", text, re.M)) for text in printed)
    assert ruled + sum("<table" in data.get("text/html", "") for data in outputs) <= TABLES


def test_enough_prose(source: pathlib.Path) -> None:
    assert prose_words(stamp.read_source(source)) >= WORDS


def test_plain_markdown_only(source: pathlib.Path) -> None:
    for text in markdown(stamp.read_source(source)):
        raw = DIRECTIVES.search(text)
        assert not raw, f"Colab would show this raw: {raw.group(0) if raw else ''}"


def test_one_sentence_a_line(source: pathlib.Path) -> None:
    """A source line of plain text holds one sentence: no full stop, space and capital inside it."""
    loose = []
    for text in markdown(stamp.read_source(source)):
        for line in FENCE.sub("", text).splitlines():
            if re.search(r"[a-z0-9)]\. [A-Z][a-z]+ ", line) and not re.match(r"\s*([-*|>\d]|<|#)", line):
                loose.append(line)
    assert len(loose) <= 3, "\n".join(loose)


def test_figures_have_alt_text(notebook: nbformat.NotebookNode) -> None:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.metadata["twinlib"] for output in outputs if output.get("metadata", {}).get("twinlib")]
    assert len(shown) >= 2, "at least two figures, through plots.show"
    assert len({figure["figure"] for figure in shown}) == len(shown), "a figure's name is unique on the page"
    assert not [o for o in outputs if "image/png" in o.get("data", {})], "an image without alt text"


def test_no_output_is_an_error_or_standard_error(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error" or "raises-exception" in stamp.tags(cell)
            assert output.get("name") != "stderr"


def test_setup_cell_is_the_canonical_one(source: pathlib.Path) -> None:
    (cell,) = tagged(stamp.read_source(source), "setup")
    assert cell.source == home.setup_cell(), "run `make home`"


def test_exercises_are_complete(source: pathlib.Path) -> None:
    notebook = stamp.read_source(source)
    numbers = exercise_numbers(source)
    assert len(numbers) >= 3
    assert numbers == list(range(1, len(numbers) + 1))
    assert "silent bug" in "\n".join(markdown(notebook)).lower()
    for k in numbers:
        assert len(tagged(notebook, f"exercise-{k}")) == 1
        assert len(tagged(notebook, f"check-{k}")) == 1
        assert len(solutions(notebook)) >= len(numbers)


def solutions(notebook: nbformat.NotebookNode) -> dict[int, str]:
    """The text of each solution, by the number of the exercise it follows."""
    by_number: dict[int, str] = {}
    current = 0
    for cell in notebook.cells:
        for tag in stamp.tags(cell):
            if re.fullmatch(r"exercise-\d+", tag):
                current = int(tag.split("-")[1])
        block = SOLUTION.search(cell.source) if cell.cell_type == "markdown" else None
        if block:
            by_number[current] = block.group(1)
    return by_number


RUN = """
import json, sys, os
os.environ.setdefault("MPLBACKEND", "Agg")
import contextlib, io
answers = []
for first, check in json.load(sys.stdin):
    names = {"__name__": "__exercise__"}
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(first, "answer", "exec"), names)
        exec(compile(check, "check", "exec"), names)
    answers.append(shown.getvalue())
print("ANSWERS " + json.dumps(answers))
"""


def test_a_stub_fails_and_the_solution_passes(source: pathlib.Path) -> None:
    notebook = stamp.read_source(source)
    solved = solutions(notebook)
    numbers = exercise_numbers(source)
    pairs = []
    for k in numbers:
        (check,) = tagged(notebook, f"check-{k}")
        (stub,) = tagged(notebook, f"exercise-{k}")
        pairs += [(stub.source, check.source), (solved[k], check.source)]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.split("ANSWERS ")[-1])
    chapter = int(source.stem[:2])
    for k, stubbed, right in zip(numbers, answers[::2], answers[1::2], strict=True):
        assert f"Exercise {chapter}.{k}: not yet" in stubbed, f"the stub of exercise {k} passes: {stubbed}"
        assert f"Exercise {chapter}.{k}: correct." in right, f"the solution of exercise {k} fails: {right}"


def test_runs_of_the_exercise_harness_can_fail() -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(NameError):
        exec("missing_name", {})
