"""Pairs are equal, stamps are fresh, and both tests can fail."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import execute
import ipynb
import nbformat
import pytest
import stamp

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 99. A small page

# %% tags=["setup"]
import twinlib

# %%
from twinlib.page import record

record.say("one and one is **2**")
print(record.stamp_line())
"""
#: A page that uses another module than the small one, and only inside a function.
OTHER = (
    SMALL.partition("# %%\nfrom")[0].replace("99", "97").replace("small", "different")
    + """# %%
def colours():
    from twinlib.page import plots

    return plots.COLOURS


print(colours()["control"])
"""
)


def test_pair_is_equal(source: pathlib.Path) -> None:
    assert not ipynb.differs(source)


def test_outputs_belong_to_this_source(source: pathlib.Path) -> None:
    assert not stamp.is_stale(source), "outputs older than source: run `python scripts/execute.py`"


def test_every_code_cell_was_executed_in_order(notebook: nbformat.NotebookNode) -> None:
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_no_notebook_without_source() -> None:
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} <= {p.stem for p in stamp.sources()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the project with two small notebooks, executed."""
    folder = tmp_path_factory.mktemp("book")
    for name in ("scripts", "twinlib"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    for name in ("requirements.txt", "_config.yml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "book").mkdir()
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "99_small.py").write_text(SMALL, encoding="utf-8")
    (folder / "notebooks" / "97_other.py").write_text(OTHER, encoding="utf-8")
    run(folder, "execute")
    return folder


def run(folder: pathlib.Path, script: str, *order: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, f"scripts/{script}.py", *order],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def edited(path: pathlib.Path, old: str, new: str) -> str:
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new, 1), encoding="utf-8")
    return before


def test_a_second_run_gives_the_same_bytes(copy: pathlib.Path) -> None:
    page = copy / "notebooks" / "99_small.ipynb"
    before = page.read_bytes()
    run(copy, "execute")
    assert page.read_bytes() == before
    assert "All pairs are equal" in run(copy, "check")


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("notebooks/99_small.py", "one and one", "1 and 1", "older than source"),
        ("notebooks/99_small.py", "A small page", "A page", "differs"),
        ("twinlib/page/record.py", "seed {seed}", "Seed {seed}", "older than source"),
        ("requirements.txt", "numpy==", "numpy==9", "older than source"),
    ],
)
def test_a_change_is_noticed(copy: pathlib.Path, name: str, old: str, new: str, complaint: str) -> None:
    before = edited(copy / name, old, new)
    try:
        assert complaint in run(copy, "check", status=1)
    finally:
        (copy / name).write_text(before, encoding="utf-8")


def test_a_docstring_leaves_the_stamp_fresh(copy: pathlib.Path) -> None:
    path = copy / "twinlib" / "page" / "record.py"
    before = edited(path, "Numbers from a run into prose", "Numbers into prose")
    try:
        run(copy, "check")
    finally:
        path.write_text(before, encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "users"),
    [
        ("page/plots.py", {"97_other"}),
        ("page/record.py", {"99_small"}),
        ("policy/proximal.py", set()),
        ("__init__.py", {"97_other", "99_small"}),
    ],
)
def test_an_edit_of_a_module_makes_stale_what_uses_it(
    copy: pathlib.Path, module: str, users: set[str]
) -> None:
    path = copy / "twinlib" / module
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\nADDED = 1\n", encoding="utf-8")
    try:
        lines = run(copy, "check", status=1 if users else 0).splitlines()
    finally:
        path.write_text(before, encoding="utf-8")
    assert {line.partition(":")[0] for line in lines if "older than source" in line} == users


def test_a_change_of_text_needs_a_pair_but_no_run(copy: pathlib.Path) -> None:
    source = copy / "notebooks" / "99_small.py"
    before = edited(source, "A small page", "A page")
    try:
        run(copy, "pair")
        run(copy, "check")
    finally:
        source.write_text(before, encoding="utf-8")
        run(copy, "pair")


def test_old_outputs_stay_when_the_dataset_cannot_be_had(
    copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale notebook on data that is not here keeps its outputs; the script says so and exits with 3."""
    from twinlib.data.sources import DATASETS

    monkeypatch.delenv("TWINLIB_DATA_DIR", raising=False)
    large = next(name for name, entry in DATASETS.items() if entry.large)
    page, source = copy / "notebooks" / "98_data.ipynb", copy / "notebooks" / "98_data.py"
    choose = f'# %%\nfrom twinlib.data.sources import choose\n\ndataset = choose("{large}", "waddington")\n'
    source.write_text(SMALL.replace("# %%\nfrom", choose + "\n# %%\nfrom"), encoding="utf-8")
    try:
        run(copy, "pair", "98")
        old = nbformat.read(page, as_version=4)
        old.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="from real cells\n")]
        old.metadata["twinlib"] = {"stamp": "old", "modules": [], "files": [], "datasets": {large: "hash"}}
        nbformat.write(old, page)
        done = subprocess.run(
            [sys.executable, "scripts/execute.py", "--stale", "98"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == execute.KEPT_OLD, done.stdout + done.stderr
        (sentence,) = [line for line in done.stderr.splitlines() if "98_data" in line]
        assert large in sentence
        assert "TWINLIB_DATA_DIR" in sentence
        assert nbformat.read(page, as_version=4).cells[-1].outputs[0].text == "from real cells\n"
    finally:
        page.unlink()
        source.unlink()


def test_a_page_with_old_outputs_says_so() -> None:
    import book_extension

    class App:
        twinlib_stale = {"notebooks/98_data"}

    context = {"body": "<p>text</p>"}
    book_extension._mark(App(), "notebooks/98_data", "", context, None)
    assert "Outputs older than source" in context["body"]
    fresh = {"body": "<p>text</p>"}
    book_extension._mark(App(), "notebooks/99_small", "", fresh, None)
    assert fresh["body"] == "<p>text</p>"


def test_the_address_reaches_every_setup_cell_and_leaves_stamps_fresh(copy: pathlib.Path) -> None:
    source = copy / "notebooks" / "99_small.py"
    run(copy, "home", "https://example.org/someone/book")
    assert 'HOME = "https://example.org/someone/book"' in source.read_text(encoding="utf-8")
    assert "git+{HOME}" in source.read_text(encoding="utf-8")
    assert "https://example.org/someone/book" in (copy / "README.md").read_text(encoding="utf-8")
    run(copy, "check")
    run(copy, "home", "")
    assert "git+" not in source.read_text(encoding="utf-8")
    assert "twin-book.zip" in source.read_text(encoding="utf-8")
    run(copy, "check")
