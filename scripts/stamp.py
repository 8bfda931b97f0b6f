"""The stamp of an executed notebook: proof that the outputs on the page belong to this source.

It hashes the code cells (the setup cell aside), the twinlib modules that the run imported (as syntax trees
without docstrings and comments), the packaged files and results it read, the datasets it used and the pins of
requirements.txt.
Which modules, files and datasets these are is observed while the notebook runs, and kept beside the stamp.
"""

from __future__ import annotations

import ast
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jupytext
import nbformat

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
KEY = "twinlib"


def sources(which: Iterable[str] = ()) -> list[pathlib.Path]:
    """Return the py:percent sources, all of them or those whose numbers or names are asked for."""
    every = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    wanted = [pathlib.Path(name).name.removesuffix(".ipynb").removesuffix(".py") for name in which]
    if not wanted:
        return every
    chosen = [path for path in every if any(path.stem == name or path.stem[:2] == name for name in wanted)]
    if len(chosen) < len(set(wanted)):
        raise SystemExit(f"No notebook in notebooks/ answers to one of: {', '.join(wanted)}.")
    return chosen


def read_source(path: pathlib.Path) -> nbformat.NotebookNode:
    """Return the notebook that a py:percent file describes."""
    return jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def _plain(node: object) -> Iterator[str]:
    """Yield a syntax tree as text that is the same on every Python version: no positions, no empty fields."""
    if isinstance(node, ast.AST):
        yield type(node).__name__ + "("
        for name, value in ast.iter_fields(node):
            if value not in (None, []):
                yield name + "="
                yield from _plain(value)
        yield ")"
    elif isinstance(node, list):
        for item in node:
            yield from _plain(item)
            yield ","
    else:
        yield repr(node)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Drop every bare string statement: docstrings, and the remarks that stand after an attribute."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                item
                for item in body
                if not (
                    isinstance(item, ast.Expr)
                    and isinstance(item.value, ast.Constant)
                    and isinstance(item.value.value, str)
                )
            ]
    return tree


def module_digest(path: pathlib.Path) -> str:
    """Return the hash of a module's syntax tree without docstrings and comments."""
    tree = _without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
    return hashlib.sha256("".join(_plain(tree)).encode()).hexdigest()


def module_digests() -> dict[str, str]:
    """Return the hash of every module of twinlib, by dotted name."""
    digests = {}
    for path in sorted((ROOT / "twinlib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        digests[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = module_digest(path)
    return digests


def pins() -> list[str]:
    """Return the pinned requirements, sorted, without comments and options."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return sorted(line.split("#")[0].strip() for line in lines if re.match(r"[A-Za-z0-9]", line))


def _file_digest(name: str) -> str:
    path = ROOT / name
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def code_digest(source: pathlib.Path) -> str:
    """Return the hash of a notebook's code cells; Markdown and the setup cell cannot change an output."""
    cells = [
        cell for cell in read_source(source).cells if cell.cell_type == "code" and "setup" not in tags(cell)
    ]
    text = "\n# %%\n".join(cell.source.strip() for cell in cells)
    return hashlib.sha256(text.encode()).hexdigest()


def make(code: str, observed: dict[str, Any], digests: dict[str, str]) -> str:
    """Return the stamp for a code hash, what the run was observed to use, and the modules' hashes."""
    facts = {
        "code": code,
        "modules": {name: digests.get(name, "missing") for name in observed["modules"]},
        "files": {name: _file_digest(name) for name in observed["files"]},
        "datasets": observed["datasets"],
        "pins": pins(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_stamp(notebook: nbformat.NotebookNode) -> dict[str, Any] | None:
    """Return the stamp's metadata of an executed notebook, or None where it has none."""
    kept = notebook.metadata.get(KEY)
    return dict(kept) if kept and "stamp" in kept else None


def is_stale(source: pathlib.Path, digests: dict[str, str] | None = None) -> bool:
    """Tell whether the outputs beside a source are missing or older than what they were computed from."""
    executed = source.with_suffix(".ipynb")
    if not executed.is_file():
        return True
    kept = read_stamp(nbformat.read(executed, as_version=4))
    if kept is None:
        return True
    return make(code_digest(source), kept, digests or module_digests()) != kept["stamp"]


def preferred_datasets(source: pathlib.Path) -> list[str]:
    """Return the first name of every `choose("...", ...)` in a notebook: the data its prose is written on."""
    names = []
    for cell in read_source(source).cells:
        if cell.cell_type != "code" or cell.source.lstrip().startswith(("%", "!")):
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name == "choose" and isinstance(node.args[0].value, str):
                    names.append(node.args[0].value)
    return sorted(set(names))
