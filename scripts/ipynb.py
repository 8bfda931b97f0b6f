"""The form of an .ipynb: its metadata, the names of its cells, how it is written beside its source."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any

import nbformat
import stamp
from jupytext.combine import combine_inputs_with_outputs

#: Seconds that one notebook may take.
TIMEOUT = 300


def metadata(kept: dict[str, Any] | None) -> nbformat.NotebookNode:
    """Return the notebook's metadata: the same on every machine, with the stamp of the outputs it holds."""
    plain: dict[str, Any] = {
        "execution": {"timeout": TIMEOUT},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3", "file_extension": ".py"},
        "jupytext": {"formats": "ipynb,py:percent"},
    }
    if kept:
        plain[stamp.KEY] = kept
    return nbformat.from_dict(plain)


def name_cells(notebook: nbformat.NotebookNode) -> None:
    """Give each cell an id that follows from its text, so that writing twice gives the same bytes."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.metadata.pop("lines_to_next_cell", None)
        name = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"


def paired(source: pathlib.Path) -> nbformat.NotebookNode:
    """Return the notebook for a source, with the outputs (and their stamp) that stand beside it already."""
    notebook = stamp.read_source(source)
    executed = source.with_suffix(".ipynb")
    kept = None
    if executed.is_file():
        before = nbformat.read(executed, as_version=4)
        kept = stamp.read_stamp(before)
        notebook.nbformat_minor = before.nbformat_minor
        notebook = combine_inputs_with_outputs(notebook, before, fmt="py:percent")
    notebook.metadata = metadata(kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    name_cells(notebook)
    return notebook


def write(notebook: nbformat.NotebookNode, path: pathlib.Path) -> None:
    """Write beside, then rename, so that no reader sees half a notebook; equal bytes are left alone."""
    text = nbformat.writes(notebook, version=4, indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    beside = path.with_suffix(f".{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _shape(notebook: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source.rstrip(), stamp.tags(cell)) for cell in notebook.cells]


def differs(source: pathlib.Path) -> bool:
    """Tell whether the .ipynb lacks or holds other cells, text or tags than its source."""
    executed = source.with_suffix(".ipynb")
    if not executed.is_file():
        return True
    return _shape(stamp.read_source(source)) != _shape(nbformat.read(executed, as_version=4))
