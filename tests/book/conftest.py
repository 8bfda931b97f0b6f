"""Fixtures of the book's tests: the notebooks, and the scripts that make them."""

from __future__ import annotations

import pathlib
import sys

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `source` one run a notebook."""
    if "source" in metafunc.fixturenames:
        metafunc.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])


@pytest.fixture
def notebook(source: pathlib.Path) -> nbformat.NotebookNode:
    """The executed notebook beside a source."""
    path = source.with_suffix(".ipynb")
    if not path.is_file():
        pytest.fail(f"{source.name} has no .ipynb; run `python scripts/execute.py {source.stem[:2]}`.")
    return nbformat.read(path, as_version=4)
