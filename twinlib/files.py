"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def write_atomic(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(pathlib.Path(beside))
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        pathlib.Path(beside).unlink(missing_ok=True)
        raise


def write_table(path: pathlib.Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with seven significant digits, packed where the name ends in .gz."""
    packed: dict[str, str | int] | None = {"method": "gzip", "mtime": 1} if path.suffix == ".gz" else None
    write_atomic(
        path, lambda beside: table.to_csv(beside, index=False, float_format="%.7g", compression=packed)
    )


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write JSON."""
    write_atomic(path, lambda beside: beside.write_text(json.dumps(content, indent=2) + "\n"))
