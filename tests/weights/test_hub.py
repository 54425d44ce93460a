"""Downloads from a server on this machine: whole, broken off, continued, changed."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezzotint.errors import CheckpointError
from mezzotint.weights import hub

DATA = bytes(range(256)) * 4096


class Server(http.server.ThreadingHTTPServer):
    """Serves ``data`` under any name, as its fields say."""

    data = DATA
    tag = '"one"'
    ranges = True
    breaks_at: int | None = None
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted, server = self.headers.get("Range"), self.server
        server.asked.append(wanted)
        if self.path == "/missing":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if self.headers.get("If-Range", server.tag) != server.tag:
            start = 0
        if start and start >= len(server.data):
            self.send_error(416)
            return
        body = server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(body[: server.breaks_at])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def url(server: Server, name: str = "x.pt") -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_a_file_is_fetched_once_and_its_hash_recorded(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = hub.fetch(url(server), "m/x.pt", progress=lambda done, total: told.append((done, total)))
    assert path == tmp_path / "cache" / "m" / "x.pt" and path.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert json.loads((tmp_path / "cache" / hub.HASHES_FILE).read_text()) == {"m/x.pt": hashlib.sha256(DATA).hexdigest()}
    assert hub.fetch(url(server), "m/x.pt") == path
    assert server.asked == [None]
    assert [p.name for p in path.parent.iterdir()] == ["x.pt"]


def test_what_broke_off_goes_on(server: Server) -> None:
    server.breaks_at = 300_000
    with pytest.raises(CheckpointError, match="broke off after 300,000 of 1,048,576 bytes; the same command goes on"):
        hub.fetch(url(server), "x.pt")
    server.breaks_at = None
    assert hub.fetch(url(server), "x.pt").read_bytes() == DATA
    assert server.asked == [None, "bytes=300000-"]


@pytest.mark.parametrize("change", ["ranges", "tag"])
def test_a_part_that_cannot_be_continued_is_fetched_whole(server: Server, change: str) -> None:
    server.breaks_at = 300_000
    with pytest.raises(CheckpointError):
        hub.fetch(url(server), "x.pt")
    server.breaks_at = None
    if change == "ranges":
        server.ranges = False
    else:
        server.tag, server.data = '"two"', DATA[::-1]
    assert hub.fetch(url(server), "x.pt").read_bytes() == server.data


def test_a_part_longer_than_the_file_is_removed(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "cache" / "x.pt.part"
    part.parent.mkdir()
    part.write_bytes(DATA + b"more")
    with pytest.raises(CheckpointError, match="was removed; fetch it again"):
        hub.fetch(url(server), "x.pt")
    assert hub.fetch(url(server), "x.pt").read_bytes() == DATA


def test_changed_files_are_refused(server: Server) -> None:
    path = hub.fetch(url(server), "x.pt")
    path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(CheckpointError, match="is not the file of its first use: its SHA-256 is"):
        hub.fetch(url(server), "x.pt")
    path.unlink()
    server.data = b"another"
    with pytest.raises(CheckpointError, match="is not the file of its first use"):
        hub.fetch(url(server), "x.pt")


def test_a_pinned_hash_counts_from_the_first_use(server: Server) -> None:
    assert hub.fetch(url(server), "a.pt", sha256=hashlib.sha256(DATA).hexdigest()).exists()
    with pytest.raises(CheckpointError, match="is not the published file"):
        hub.fetch(url(server), "b.pt", sha256="0" * 64)


def test_failures_are_one_line(server: Server) -> None:
    with pytest.raises(CheckpointError, match="answers 404 Not Found; check the address") as found:
        hub.fetch(url(server, "missing"), "x.pt")
    assert "\n" not in str(found.value)
    closed = url(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError, match="is this machine offline") as found:
        hub.fetch(closed, "x.pt")
    assert "\n" not in str(found.value)
    with pytest.raises(CheckpointError, match="no http or https address"):
        hub.fetch("file:///etc/passwd", "x.pt")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEZZOTINT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / "mezzotint"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hub.cache_folder() == Path.home() / ".cache" / "mezzotint"


def test_a_bar_is_drawn(capfd: pytest.CaptureFixture[str]) -> None:
    told = hub.progress_bar("x.pt")
    assert capfd.readouterr().err == ""
    told(50, 100)
    told(100, 100)
    assert "x.pt: 100%" in capfd.readouterr().err
