"""A results folder: held by one run at a time, refused when taken, finished parts kept for a resume."""

from __future__ import annotations

import gzip
import json
import pathlib
import platform
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from experiments.part import Part, Row
from twinlib.errors import FolderError
from twinlib.files import write_atomic, write_json

if TYPE_CHECKING:
    import pandas as pd

#: Packages whose versions a manifest names.
_VERSIONED = ("twinlib", "numpy", "scipy", "pandas", "torch", "scanpy", "anndata", "gymnasium", "POT")


def write_packed(path: pathlib.Path, table: pd.DataFrame) -> None:
    """Write a table as CSV packed by gzip, without name and date, so that equal tables are equal files."""
    text = table.to_csv(index=False, float_format="%.7g")
    write_atomic(path, lambda beside: beside.write_bytes(gzip.compress(text.encode(), mtime=0)))


class Parts:
    """The finished parts in a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def __contains__(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()

    def facts(self, name: str) -> Row:
        """Return what a finished part cost and found out; what it says of the run stands under `run`."""
        return _json(self.folder / f"{name}.json")

    def table(self, table: str, names: Sequence[str]) -> pd.DataFrame:
        """Return one table of some parts, joined; a part without such rows adds none."""
        import pandas as pd

        paths = [self.folder / f"{name}.{table}.csv" for name in names]
        read = [_csv(path) for path in paths if path.exists()]
        return pd.concat(read, ignore_index=True) if read else pd.DataFrame()

    def tables(self, names: Sequence[str]) -> dict[str, pd.DataFrame]:
        """Return every table of some parts by name."""
        kinds = dict.fromkeys(kind for name in names for kind in self.facts(name)["tables"])
        return {kind: self.table(kind, names) for kind in kinds}

    def keep(self, name: str, part: Part, cost: Row) -> None:
        """Write the rows of a part in full precision, and last the file that says that it is complete."""
        import pandas as pd

        tables = {kind: pd.DataFrame(rows) for kind, rows in part.tables.items() if len(rows)}
        for kind, table in tables.items():
            path = self.folder / f"{name}.{kind}.csv"
            write_atomic(path, partial(table.to_csv, index=False))
        facts = cost | part.facts | {"run": part.run, "tables": list(tables)}
        write_json(self.folder / f"{name}.json", facts)

    def given(self) -> dict[str, bytes]:
        """Return the files that parts read of one another."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("*.npz"))}

    def require_named(self, given: Sequence[str], option: str) -> None:
        """Refuse to leave out finished parts: the tables are written anew, and would lose their rows."""
        held = {path.stem.partition("~")[0] for path in self.folder.glob("*~*.json")}
        lost = sorted(held - set(given) - {"references"})
        if lost:
            raise FolderError(
                f"{self.folder.parent.name!r} holds finished parts of {', '.join(lost)}, too; add them to "
                f"{option}, or its tables would lose them."
            )

    def empty(self) -> bool:
        """Tell whether nothing but the identity is there."""
        return not any(path.name != "identity.json" for path in self.folder.iterdir())


def _json(path: pathlib.Path) -> Row:
    """Read a file that a run keeps for its resume."""
    try:
        content: Row = json.loads(path.read_text())
    except (OSError, ValueError):
        raise _broken(path) from None
    return content


def _csv(path: pathlib.Path) -> pd.DataFrame:
    """Read the rows of a part."""
    import pandas as pd

    try:
        return pd.read_csv(path, float_precision="round_trip")
    except (OSError, ValueError):
        raise _broken(path) from None


def _broken(path: pathlib.Path) -> FolderError:
    """Say which file of a run is broken, and the mend."""
    out = path.parent.parent
    if path.name == "identity.json":
        mend = f"delete the folder {str(out)!r}, or name another one"
    else:
        part = path.stem if path.suffix == ".json" else path.stem.rpartition(".")[0]
        mend = f"delete {part}.json there, and --resume makes the part again"
    return FolderError(f"{out.name}/parts/{path.name} cannot be read; {mend}.")


@contextmanager
def claimed(out: pathlib.Path, resume: bool, identity: Row) -> Iterator[Parts]:
    """Hold a results folder for one run, and yield its parts.

    Refused: a path that is no folder; a folder that another living run holds; one with results or parts,
    unless `resume`; a resume whose settings differ. A run that finishes no part leaves no trace.
    """
    identity = json.loads(json.dumps(identity))  # so that what is read back compares equal to it
    with _held(out):
        parts = out / "parts"
        _check_free(out, parts, resume, identity)
        parts.mkdir(exist_ok=True)
        write_json(parts / "identity.json", identity)
        try:
            yield Parts(parts)
        finally:
            if Parts(parts).empty():
                shutil.rmtree(parts)


@contextmanager
def _held(out: pathlib.Path) -> Iterator[None]:
    """Hold the folder's lock: the system lets it go when its process ends, however that ends."""
    from filelock import FileLock, Timeout

    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise FolderError(
            f"Another run is writing into {out.name!r}; wait for it or name another folder."
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FolderError(f"{str(out)!r} cannot be a results folder ({reason}); name another one.") from None
    try:
        yield
    finally:
        (out / ".lock").unlink(missing_ok=True)
        lock.release()
        if new and not any(out.iterdir()):
            out.rmdir()


def _check_free(out: pathlib.Path, parts: pathlib.Path, resume: bool, identity: Row) -> None:
    """Refuse a folder that holds something this run may not touch."""
    taken = sorted(path.name for path in out.iterdir() if path.suffix in (".csv", ".gz", ".json"))
    begun = parts.exists() and not Parts(parts).empty()
    if taken and not begun:
        raise FolderError(
            f"{out.name!r} already holds {taken[0]}, and no parts that a resume could go on from; name "
            "another folder, or delete this one."
        )
    if begun and not resume:
        raise FolderError(
            f"{out.name!r} already holds {[*taken, 'parts'][0]}; name another folder or add --resume."
        )
    before = parts / "identity.json"
    if before.exists() and not Parts(parts).empty() and _json(before) != identity:
        raise FolderError(f"{out.name!r} was begun with other settings; repeat them or name another folder.")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result."""
    import importlib.metadata

    known = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            known[name] = "not installed"
    return known


def commit() -> str:
    """Return the commit of the project's files, with `-dirty` where they differ from it; "" outside git."""
    import subprocess

    asked = ("git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    try:
        done = subprocess.run(asked, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
