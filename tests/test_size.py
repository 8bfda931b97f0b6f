"""Functions are short: counted in lines of code, without blanks, comments and docstrings."""

from __future__ import annotations

import ast
import io
import pathlib
import statistics
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LONGEST, MEDIAN = 45, 8
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def documented(node: ast.AST) -> ast.Expr | None:
    """The docstring of a module, a class or a function."""
    if isinstance(node, ast.Module | ast.ClassDef | FUNCTIONS) and ast.get_docstring(node, clean=False):
        return node.body[0]  # type: ignore[return-value]
    return None


def code_lines(text: str) -> set[int]:
    """The numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if docstring := documented(node):
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def lengths(text: str) -> dict[str, int]:
    """Lines of code in the body of every function, inner ones too, by its name and line."""
    lines = code_lines(text)
    return {
        f"{node.name}, line {node.lineno}": sum(node.body[0].lineno <= n <= node.end_lineno for n in lines)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, FUNCTIONS)
    }


@pytest.mark.parametrize("package", ["twinlib", "experiments"])
def test_functions_are_short(package: str) -> None:
    counted = {
        f"{path.relative_to(ROOT)}: {name}": length
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, length in lengths(path.read_text(encoding="utf-8")).items()
    }
    assert statistics.median(counted.values()) < MEDIAN
    assert not {name: length for name, length in counted.items() if length > LONGEST}


def test_only_code_is_counted() -> None:
    text = 'def f(a):\n    """Say."""\n    # why\n\n    b = (\n        a\n    )\n    return b  # so\n'
    assert lengths(text) == {"f, line 1": 4}
