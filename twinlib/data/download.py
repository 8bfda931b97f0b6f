"""Fetch pinned files with pooch: resumed, checked by size and hash, never more than the disk holds."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import stat
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

from twinlib.errors import DataError, Unreachable
from twinlib.files import write_atomic

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
    #: How to get it, where no address gives it.
    by_hand: str = ""

    @property
    def name(self) -> str:
        """Name without folders."""
        return pathlib.PurePosixPath(self.path).name


@dataclass(frozen=True)
class Resuming:
    """A downloader for pooch that keeps what came in `NAME.part` and goes on from there."""

    #: The file that is fetched.
    file: RemoteFile
    #: Answers in a row without a new byte after which it gives up.
    attempts: int = 5
    #: First pause between them in seconds; each pause is twice the last.
    wait: float = 1.0

    def __call__(self, url: str, output_file: str, pooch: object = None) -> None:
        """Fill `output_file` with the bytes of `url`."""
        part = pathlib.Path(output_file).with_name(self.file.name + ".part")
        if _have(part) > self.file.size:
            part.unlink()
        need_space(part.parent, self.file.size - _have(part))
        try:
            self._fill(part, url)
            os.replace(part, output_file)
        except OSError as error:
            raise disk_error(error, part) from None

    def _fill(self, part: pathlib.Path, url: str) -> None:
        """Ask for the missing bytes until all are there, or `attempts` answers in a row brought none."""
        import requests

        fruitless = 0
        while (before := _have(part)) < self.file.size:
            reason = "it ended early"
            try:
                self._ask(part, url)
            except requests.RequestException as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            fruitless = fruitless + 1 if _have(part) <= before else 0
            if fruitless >= self.attempts:
                raise Unreachable(
                    f"{url} stopped after {_have(part):,} of {self.file.size:,} bytes ({reason}): "
                    "call again to resume."
                )
            if fruitless:
                time.sleep(self.wait * 2 ** (fruitless - 1))

    def _ask(self, part: pathlib.Path, url: str) -> None:
        """Ask once for the bytes after those that are there, and append what comes."""
        import requests
        from tqdm import tqdm

        have, size = _have(part), self.file.size
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as answer:
            if answer.status_code in PASSING:
                raise requests.HTTPError(f"status {answer.status_code}")
            if answer.status_code not in (200, 206):
                raise Unreachable(f"{url} answered with status {answer.status_code}: it is out of date.")
            have = have if answer.status_code == 206 else 0
            self._check_announced(answer.headers, have)
            bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=self.file.name, disable=None)
            with bar, part.open("ab" if have else "wb") as sink:
                for piece in answer.iter_content(PIECE):
                    have += len(piece)
                    if have > size:
                        raise Unreachable(f"{url} sends more than {size:,} bytes: it is another file.")
                    bar.update(sink.write(piece))

    def _check_announced(self, headers: Mapping[str, str], have: int) -> None:
        """Raise a DataError when the server announces another size than pinned."""
        length = headers.get("Content-Length")
        if length is not None and int(length) + have != self.file.size:
            raise Unreachable(
                f"{self.file.url} announces {int(length) + have:,} bytes and {self.file.size:,} are pinned: "
                "the file there is truncated or another one."
            )


def agrees(path: pathlib.Path, file: RemoteFile) -> bool:
    """Whether a local file has the pinned size and hash."""
    import pooch

    kind, digest = file.digest.split(":")
    same_size = path.is_file() and path.stat().st_size == file.size
    return same_size and bool(pooch.file_hash(str(path), alg=kind) == digest)


def fetch(file: RemoteFile, folder: pathlib.Path, attempts: int = 5, wait: float = 1.0) -> pathlib.Path:
    """Return the checked file under `folder`, fetching what is missing (see `Resuming`).

    Raises
    ------
    DataError
        Too little free disk (before the first byte), other size or hash than pinned, no answer.
    """
    import pooch

    target = folder / file.path
    logger, level = pooch.get_logger(), pooch.get_logger().level
    logger.setLevel("ERROR")
    try:
        pooch.retrieve(
            file.url, file.digest, target.name, target.parent, None, Resuming(file, attempts, wait)
        )
    except DataError:
        raise
    except ValueError:  # of the hash; pooch has deleted the bytes
        raise Unreachable(f"{file.url} gave other bytes than pinned ({file.digest[:19]}...).") from None
    except OSError as error:
        raise disk_error(error, target) from None
    finally:
        logger.setLevel(level)
    return target


def _have(part: pathlib.Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def need_space(folder: pathlib.Path, size: int) -> None:
    """Raise a DataError when `size` bytes do not fit on the disk of `folder`, with `RESERVE` to spare."""
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise DataError(
            f"{size + RESERVE:,} bytes of free disk are needed and {free:,} are there: make room, or name "
            "another place with the environment variable XDG_CACHE_HOME."
        )


def disk_error(error: OSError, path: pathlib.Path) -> DataError:
    """Say in one sentence why a file could not be written."""
    if error.errno == errno.ENOSPC:
        return DataError(f"The disk became full while {path.name} was written: make room and call again.")
    return DataError(f"{path.name} could not be written ({error.strerror or error}): mend that.")


def take_member(archive: pathlib.Path, member: str, target: pathlib.Path) -> pathlib.Path:
    """Take one member, found by its name without folders, out of a zip archive; nothing else is written.

    Raises
    ------
    DataError
        A broken archive, a path in it that climbs out, no such member, too little free disk.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            info = _find_member(opened, member)
            if target.is_file() and target.stat().st_size == info.file_size:
                return target
            need_space(archive.parent, info.file_size)
            write_atomic(target, lambda beside: _copy(opened, info, beside))
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DataError(f"{archive.name} is not a sound zip archive ({error}): fetch it again.") from None
    except OSError as error:
        raise disk_error(error, target) from None
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
    named = [info for info in opened.infolist() if pathlib.PurePosixPath(info.filename).name == member]
    if len(named) != 1:
        raise DataError(f"The archive holds {len(named)} members named {member!r}, and one is needed.")
    return named[0]


def _copy(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: pathlib.Path) -> None:
    """Write the bytes of a member to a file."""
    with opened.open(info) as source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink, PIECE)
