"""A results folder: refused when taken, written atomically, finished parts kept for a resume."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twinlib.errors import FolderError
from twinlib.files import write_json

#: The files a finished run leaves.
FILES = ("regression.csv", "similarity.csv", "manifest.json")
#: Packages whose versions a manifest names.
_VERSIONED = ("twinlib", "numpy", "scipy", "pandas", "torch", "scanpy", "anndata", "gymnasium", "POT")


def _alive(pid: int) -> bool:
    """Tell whether a process is still there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def claimed(out: pathlib.Path, resume: bool, identity: dict[str, Any]) -> Iterator[pathlib.Path]:
    """Hold a results folder for one run, and yield the folder of its parts.

    Refused: a folder that another living run holds; a folder with results or parts, unless `resume`; a resume
    whose settings differ from those the parts were made with.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock, parts = out / ".lock", out / "parts"
    _take(lock, out)
    try:
        _check_free(out, parts, resume, identity)
        parts.mkdir(exist_ok=True)
        write_json(parts / "identity.json", identity)
        yield parts
    finally:
        lock.unlink(missing_ok=True)


def _take(lock: pathlib.Path, out: pathlib.Path) -> None:
    """Create the lock, or refuse; the lock of a dead run is taken over."""
    for _ in range(2):
        try:
            with open(lock, "x") as file:
                file.write(str(os.getpid()))
            return
        except FileExistsError:
            text = lock.read_text().strip()
            if text.isdigit() and not _alive(int(text)):
                lock.unlink(missing_ok=True)
                continue
            break
    raise FolderError(f"Another run is writing into {out.name!r}; wait for it or name another folder.")


def _check_free(out: pathlib.Path, parts: pathlib.Path, resume: bool, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds something this run may not touch."""
    taken = [name for name in FILES if (out / name).exists()] + (["parts"] if parts.exists() else [])
    if taken and not resume:
        raise FolderError(f"{out.name!r} already holds {taken[0]}; name another folder or add --resume.")
    before = parts / "identity.json"
    if before.exists() and json.loads(before.read_text()) != identity:
        raise FolderError(f"{out.name!r} was begun with other settings; repeat them or name another folder.")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result."""
    import importlib.metadata

    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
