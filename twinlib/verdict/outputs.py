"""Where commands write: nothing that is there already is overwritten in silence."""

from __future__ import annotations

import os
import pathlib

from twinlib.errors import FolderError


def fresh_folder(out: str | os.PathLike[str], overwrite: bool = False) -> pathlib.Path:
    """Return a folder to write into, made if need be; one that holds something is refused or said to be "
    "used."""
    path = pathlib.Path(out)
    if path.exists() and not path.is_dir():
        raise FolderError(f"{path} is a file: name a folder with --out.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FolderError(f"The folder {path} holds files already: name another, or give --overwrite.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def fresh_file(out: str | os.PathLike[str], overwrite: bool = False) -> pathlib.Path:
    """Return a path to write to; a file that is there already, or no folder to write into, is refused."""
    path = pathlib.Path(out)
    if path.is_dir():
        raise FolderError(f"{path} is a folder: name a file with --out.")
    if path.exists() and not overwrite:
        raise FolderError(f"The file {path} is there already: name another, or give --overwrite.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
