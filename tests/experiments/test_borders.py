"""No page needs the experiments: they are not installed with the package."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def imported(source):
    """First names of every module that a source imports, inside of functions, too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_no_notebook_imports_an_experiment(path):
    assert not {"experiments", "benchmarks", "tests"} & imported(path.read_text())


def test_the_borders_can_be_crossed():
    assert "experiments" in imported("def f():\n    from experiments.tuning import SEEDS")
