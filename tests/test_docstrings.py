"""Examples in docstrings are run, and every public name says what it does."""

from __future__ import annotations

import ast
import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = sorted(path for name in ("twinlib", "experiments") for path in (ROOT / name).rglob("*.py"))
WITH_EXAMPLES = [path for path in MODULES if ">>> " in path.read_text(encoding="utf-8")]


def dotted(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=dotted)
def test_examples_run(path: pathlib.Path) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(dotted(path)))
    assert attempted
    assert not failed


def test_there_are_examples() -> None:
    assert WITH_EXAMPLES


def public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of public classes."""
    nodes: list[ast.FunctionDef | ast.ClassDef] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            nodes.append(node)
            if isinstance(node, ast.ClassDef):
                inner = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                nodes += [item for item in inner if not item.name.startswith("_")]
    return nodes


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_public_names_are_described(path: pathlib.Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = []
    for node in public(tree):
        stub = isinstance(node, ast.FunctionDef) and ast.unparse(node.body[-1]) == "..."
        overload = any("overload" in ast.unparse(item) for item in node.decorator_list)
        if not ast.get_docstring(node) and not stub and not overload:
            silent.append(node.name)
    assert ast.get_docstring(tree), "the module has no docstring"
    assert not silent, f"no docstring: {silent}"
