import errno
import hashlib
import http.server
import os
import shutil
import threading
import zipfile
from types import SimpleNamespace

import pytest

from twinlib.data import download as module
from twinlib.data.download import RemoteFile, fetch, take_member
from twinlib.errors import DataError

CONTENT = os.urandom(3_000_000)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves bytes with ranges; `plan` may list what goes wrong, one entry a request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        fault = server.plan.pop(0) if server.plan else ""
        if fault.startswith("status"):
            self.send_response(int(fault.split()[1]))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and fault != "no ranges" else 0
        body = server.content[self.path][start:]
        announced = len(body) - 100 if fault == "truncated" else len(body)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        if fault == "drop":
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body[:announced])


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.content, made.plan, made.asked = {"/file.bin": CONTENT}, [], []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def remote(server, content=CONTENT, name="file.bin", kind="sha256", **more):
    url = f"http://127.0.0.1:{server.server_port}/file.bin"
    digest = f"{kind}:{hashlib.new(kind, content).hexdigest()}"
    return RemoteFile(f"set/{name}", url, more.pop("digest", digest), more.pop("size", len(content)), **more)


def message_of(call, *arguments, **named):
    with pytest.raises(DataError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_good_file_is_fetched_once(server, tmp_path, kind):
    file = remote(server, kind=kind)
    path = fetch(file, tmp_path)
    assert path.read_bytes() == CONTENT
    assert fetch(file, tmp_path) == path and len(server.asked) == 1
    assert left(tmp_path) == ["file.bin"]


def test_an_interruption_is_resumed_by_range(server, tmp_path):
    server.plan = ["drop"]
    assert fetch(remote(server), tmp_path, wait=0).read_bytes() == CONTENT
    assert server.asked[0] is None and server.asked[1].startswith("bytes=") and len(server.asked) == 2


def test_a_killed_run_is_resumed_by_the_next_call(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(CONTENT[:1_000_000])
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000000-"]


def test_a_server_without_ranges_is_asked_from_the_start(server, tmp_path):
    server.plan = ["drop", "no ranges"]
    assert fetch(remote(server), tmp_path, wait=0).read_bytes() == CONTENT


def test_a_server_error_is_waited_out(server, tmp_path):
    server.plan = ["status 503", "status 500"]
    assert fetch(remote(server), tmp_path, wait=0).read_bytes() == CONTENT


def test_a_server_that_never_recovers_ends_in_one_sentence_and_keeps_what_came(server, tmp_path):
    server.plan = ["drop"] + ["status 503"] * 5
    assert "call again to resume" in message_of(fetch, remote(server), tmp_path, wait=0)
    assert left(tmp_path) == ["file.bin.part"]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_dead_address_ends_in_one_sentence(tmp_path):
    file = RemoteFile("set/file.bin", "http://127.0.0.1:9/file.bin", "md5:0", 10)
    assert "stopped after 0 of 10 bytes" in message_of(fetch, file, tmp_path, attempts=2, wait=0)


def test_a_truncated_file_is_refused_before_it_is_read(server, tmp_path):
    server.plan = ["truncated"]
    assert "truncated" in message_of(fetch, remote(server), tmp_path)
    assert left(tmp_path) == []


def test_a_missing_file_is_refused(server, tmp_path):
    server.plan = ["status 404"]
    assert "404" in message_of(fetch, remote(server), tmp_path)


def test_the_wrong_hash_is_refused_and_deleted(server, tmp_path):
    assert "other bytes than pinned" in message_of(
        fetch, remote(server, digest="sha256:" + "0" * 64), tmp_path
    )
    assert left(tmp_path) == []


def test_a_part_that_went_bad_is_fetched_anew(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(b"x" * 1000)
    message_of(fetch, remote(server), tmp_path)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_cached_file_that_changed_is_fetched_again(server, tmp_path):
    path = fetch(remote(server), tmp_path)
    path.write_bytes(CONTENT[:-1] + b"?")
    os.utime(path, ns=(0, 0))
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_found_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert "bytes of free disk are needed and 1,000 are there" in message_of(fetch, remote(server), tmp_path)
    assert server.asked == [] and left(tmp_path) == []


def test_a_disk_that_fills_up_meanwhile_is_one_sentence(server, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.Resuming, "_ask", full)
    assert "disk became full" in message_of(fetch, remote(server), tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_really_full_device_is_one_sentence(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").symlink_to("/dev/full")
    message_of(fetch, remote(server), tmp_path, wait=0)


def archive(path, members, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def test_one_member_is_taken_out_and_nothing_else(tmp_path):
    whole = archive(tmp_path / "a.zip", {"set/wanted.h5": CONTENT, "set/other.h5": b"no"})
    target = take_member(whole, "wanted.h5", tmp_path / "out" / "wanted.h5")
    assert target.read_bytes() == CONTENT and left(tmp_path / "out") == ["wanted.h5"]
    before = target.stat().st_mtime_ns
    assert take_member(whole, "wanted.h5", target).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "name", ["../evil.h5", "/etc/evil.h5", "a/../../evil.h5", "..\\evil.h5", "C:/evil.h5"]
)
def test_an_archive_that_climbs_out_is_refused_whole(tmp_path, name):
    whole = archive(tmp_path / "a.zip", {name: b"evil", "wanted.h5": CONTENT})
    assert "leaves its folder" in message_of(take_member, whole, "wanted.h5", tmp_path / "in" / "wanted.h5")
    assert left(tmp_path) == ["a.zip"]


def test_a_link_in_an_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        link = zipfile.ZipInfo("wanted.h5")
        link.external_attr = 0o120777 << 16
        made.writestr(link, "/etc/passwd")
    assert "leaves its folder" in message_of(take_member, tmp_path / "a.zip", "wanted.h5", tmp_path / "w")


@pytest.mark.parametrize("damage", ["flip", "cut", "no zip"])
def test_a_broken_archive_is_refused_and_leaves_nothing(tmp_path, damage):
    whole = archive(tmp_path / "a.zip", {"wanted.h5": CONTENT}, zipfile.ZIP_STORED)
    content = bytearray(whole.read_bytes())
    content[50_000] ^= 255
    whole.write_bytes({"flip": content, "cut": content[:-500], "no zip": b"not a zip"}[damage])
    assert "fetch it again" in message_of(take_member, whole, "wanted.h5", tmp_path / "out" / "wanted.h5")
    assert left(tmp_path) == ["a.zip"]


def test_a_missing_member_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    whole = archive(tmp_path / "a.zip", {"wanted.h5": CONTENT})
    assert "0 members named 'no.h5'" in message_of(take_member, whole, "no.h5", tmp_path / "no.h5")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert "free disk" in message_of(take_member, whole, "wanted.h5", tmp_path / "wanted.h5")
    assert left(tmp_path) == ["a.zip"]
