"""Fetch large files: resumed, checked by size and hash, and never more than the disk holds."""

from __future__ import annotations

import errno
import hashlib
import os
import pathlib
import shutil
import stat
import time
import zipfile
from dataclasses import dataclass
from typing import IO, Any

from twinlib.errors import DataError, Unreachable

#: Bytes read at a time.
PIECE = 1 << 20

#: Answers of a server that may be better a little later.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

#: Bytes that stay free on the disk.
RESERVE = 1 << 28


@dataclass(frozen=True)
class RemoteFile:
    """One file at a pinned address."""

    #: Path inside a data folder, and inside the cache.
    path: str
    #: Pinned address.
    url: str
    #: Hash of the bytes, `sha256:...` or `md5:...`, in hexadecimal.
    digest: str
    #: Size in bytes.
    size: int
    #: The one member to take out, when the file is a zip archive.
    member: str = ""


def digest_of(path: pathlib.Path, kind: str) -> str:
    """Return the hash of a file as `kind:hexadecimal`, read in pieces."""
    with path.open("rb") as handle:
        return f"{kind}:{hashlib.file_digest(handle, kind).hexdigest()}"


def agrees(path: pathlib.Path, file: RemoteFile) -> bool:
    """Whether a local file has the pinned size and hash."""
    return (
        path.is_file()
        and path.stat().st_size == file.size
        and digest_of(path, file.digest.split(":")[0]) == file.digest
    )


def download(file: RemoteFile, folder: pathlib.Path, attempts: int = 5, wait: float = 1.0) -> pathlib.Path:
    """Return the checked file under `folder`, fetching what is missing.

    An interrupted download leaves `NAME.part` and is resumed by the next call. After `attempts` answers in a
    row without a new byte the call gives up; pauses grow from `wait` seconds.

    Raises:
        DataError: too little free disk (before the first byte), other size or hash than pinned, no answer.
    """
    target = folder / file.path
    if _is_verified(target, file):
        return target
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if _have(part) > file.size:
        part.unlink()
    need_space(part.parent, file.size - _have(part))
    try:
        _fill(part, file, attempts, wait)
    except OSError as error:
        raise disk_error(error, part) from error
    if not agrees(part, file):
        part.unlink()
        raise DataError(
            f"{file.url} gave other bytes than pinned ({file.digest[:19]}...): they were deleted."
        )
    os.replace(part, target)
    _mark(target, file)
    return target


def _have(part: pathlib.Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _marker(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(target.name + ".verified")


def _mark(target: pathlib.Path, file: RemoteFile) -> None:
    """Note beside a file that its hash was checked, and its time of change: it is hashed once only."""
    _marker(target).write_text(f"{file.digest} {target.stat().st_mtime_ns}")


def _is_verified(target: pathlib.Path, file: RemoteFile) -> bool:
    """Whether the file is whole: its hash is computed unless it was, and the file has not changed since."""
    if not target.is_file():
        return False
    marker = _marker(target)
    said = marker.read_text() if marker.is_file() else ""
    if said == f"{file.digest} {target.stat().st_mtime_ns}" and target.stat().st_size == file.size:
        return True
    if not agrees(target, file):
        target.unlink()
        return False
    _mark(target, file)
    return True


def need_space(folder: pathlib.Path, size: int) -> None:
    """Raise a DataError when `size` bytes do not fit on the disk of `folder`, with `RESERVE` to spare."""
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise DataError(
            f"{size + RESERVE:,} bytes of free disk are needed and {free:,} are there: make room, or name "
            "another place with the environment variable XDG_CACHE_HOME."
        )


def disk_error(error: OSError, part: pathlib.Path) -> DataError:
    """Say in one sentence why a file could not be written."""
    if error.errno == errno.ENOSPC:
        return DataError(
            f"The disk became full after {_have(part):,} bytes of {part.stem}: make room and call again."
        )
    return DataError(f"{part.name} could not be written ({error.strerror or error}): mend that.")


def _fill(part: pathlib.Path, file: RemoteFile, attempts: int, wait: float) -> None:
    """Ask for the missing bytes until all are there, or `attempts` answers in a row brought none."""
    import requests

    fruitless = 0
    while _have(part) < file.size:
        before, reason = _have(part), "it ended early"
        try:
            _ask(part, file)
        except requests.RequestException as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        fruitless = fruitless + 1 if _have(part) <= before else 0
        if fruitless >= attempts:
            raise Unreachable(
                f"{file.url} stopped after {_have(part):,} of {file.size:,} bytes ({reason}): "
                "call again to resume."
            )
        if fruitless:
            time.sleep(wait * 2 ** (fruitless - 1))


def _ask(part: pathlib.Path, file: RemoteFile) -> None:
    """Ask once for the bytes after those that are there, and append what comes."""
    import requests

    have = _have(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(file.url, headers=headers, stream=True, timeout=(10, 60)) as answer:
        if answer.status_code in PASSING:
            raise requests.HTTPError(f"status {answer.status_code}")
        if answer.status_code not in (200, 206):
            raise DataError(f"{file.url} answered with status {answer.status_code}: it is out of date.")
        resumed = answer.status_code == 206 and have > 0
        _check_announced(answer.headers, file, have if resumed else 0)
        with part.open("ab" if resumed else "wb") as sink:
            _copy(answer, sink, file, have if resumed else 0)


def _check_announced(headers: Any, file: RemoteFile, have: int) -> None:
    """Raise a DataError when the server announces another size than pinned."""
    length = headers.get("Content-Length")
    if length is not None and int(length) + have != file.size:
        raise DataError(
            f"{file.url} announces {int(length) + have:,} bytes and {file.size:,} are pinned: the file there "
            "is truncated or another one."
        )


def _copy(answer: Any, sink: IO[bytes], file: RemoteFile, have: int) -> None:
    """Write the pieces of an answer, with a progress bar where someone watches."""
    from tqdm import tqdm

    name = pathlib.PurePosixPath(file.path).name
    with tqdm(total=file.size, initial=have, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        for piece in answer.iter_content(PIECE):
            have += len(piece)
            if have > file.size:
                raise DataError(f"{file.url} sends more than {file.size:,} bytes: it is another file.")
            sink.write(piece)
            bar.update(len(piece))


def take_member(archive: pathlib.Path, member: str, target: pathlib.Path) -> pathlib.Path:
    """Take one member, found by its name without folders, out of a zip archive; nothing else is written.

    Raises:
        DataError: a broken archive, a path in it that climbs out, no such member, too little free disk.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            info = _find_member(opened, member)
            if target.is_file() and target.stat().st_size == info.file_size:
                return target
            target.parent.mkdir(parents=True, exist_ok=True)
            need_space(target.parent, info.file_size)
            _extract(opened, info, target)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DataError(f"{archive.name} is not a sound zip archive ({error}): fetch it again.") from error
    return target


def _find_member(opened: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    """Return the one member with this name, after every path of the archive was looked at."""
    for info in opened.infolist():
        path = pathlib.PurePosixPath(info.filename.replace("\\", "/"))
        linked = stat.S_ISLNK(info.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or linked:
            raise DataError(
                f"The archive holds the path {info.filename!r}, which leaves its folder: it is refused."
            )
    found = [info for info in opened.infolist() if pathlib.PurePosixPath(info.filename).name == member]
    if len(found) != 1:
        raise DataError(f"The archive holds {len(found)} members named {member!r}, and one is needed.")
    return found[0]


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: pathlib.Path) -> None:
    """Write a member beside its target and move it into place; a failure leaves nothing."""
    part = target.with_name(target.name + ".part")
    try:
        with opened.open(info) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, PIECE)
        os.replace(part, target)
    except OSError as error:
        raise disk_error(error, part) from error
    finally:
        part.unlink(missing_ok=True)
