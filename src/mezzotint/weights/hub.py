"""Files from an address: fetched once, kept in the user's cache, and refused when they change. Knows no model."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from mezzotint.errors import CheckpointError
from mezzotint.weights.io import file_hash, write_text

HASHES_FILE = "sha256.json"
"""File of the cache that holds the hash of each file at its first use."""
_CHUNK = 2**20
_TIMEOUT = 30.0

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those that there will be, or None where nobody says."""


def cache_folder() -> Path:
    """Where fetched files are kept: ``$MEZZOTINT_CACHE``, or ``mezzotint`` in the user's cache by the XDG rule."""
    if own := os.environ.get("MEZZOTINT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mezzotint"


def fetch(url: str, place: str, *, sha256: str | None = None, size: int | None = None, progress: Progress | None = None) -> Path:
    """The file of an address, from the cache or fetched.

    Args:
        url: The address.
        place: Path of the file inside the cache, such as "name/file.pt".
        sha256: What its hash must be; None: what it was at its first use.
        size: Its size in bytes; None: not known.
        progress: Told of the download.

    Raises:
        CheckpointError: The address cannot be reached, the download broke off, or the file is not the one that it was.
    """
    target = cache_folder() / place
    if not target.is_file():
        download(url, target, size=size, progress=progress)
    verify(place, sha256=sha256)
    return target


def verify(place: str, *, sha256: str | None = None) -> None:
    """Checks a file of the cache; at its first use its hash is recorded.

    Args:
        place: Path of the file inside the cache.
        sha256: What its hash must be; None: what it was at its first use.

    Raises:
        CheckpointError: It changed.
    """
    target, table = cache_folder() / place, cache_folder() / HASHES_FILE
    known: dict[str, str] = {}
    if table.is_file():
        try:
            known = json.loads(table.read_text(encoding="utf-8"))
        except ValueError:
            raise CheckpointError(f"{table} is damaged; remove it, and hashes are recorded anew") from None
    found, wanted = file_hash(target), sha256 or known.get(place)
    if wanted is None:
        write_text(table, json.dumps({**known, place: found}, indent=2, sort_keys=True) + "\n")
    elif found != wanted:
        source = "the published file" if sha256 else "the file of its first use"
        raise CheckpointError(
            f"{target} is not {source}: its SHA-256 is {found[:16]}..., not {wanted[:16]}...; remove it and fetch it again if you trust it"
        )


def download(url: str, target: Path, *, size: int | None = None, progress: Progress | None = None) -> None:
    """Fetches an address to a file; what broke off is continued by the next call.

    Args:
        url: The address, http or https.
        target: The file; until it is complete it has ``.part`` behind its name.
        size: Its size in bytes; None: not known.
        progress: Told of the download.

    Raises:
        CheckpointError: The address cannot be reached, the disk is full, or the download broke off.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise CheckpointError(f"{url} is no http or https address")
    part = target.with_name(f"{target.name}.part")
    tag_file = target.with_name(f"{target.name}.part.etag")
    target.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    tag = tag_file.read_text(encoding="utf-8") if tag_file.exists() else ""
    headers = {"User-Agent": "mezzotint"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if tag:  # a file that changed in the meantime is sent whole
            headers["If-Range"] = tag
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as reply:
            length = reply.headers.get("Content-Length")
            if reply.status != 206:
                done = 0
            total = done + int(length) if length else size
            tag_file.write_text(reply.headers.get("ETag") or "", encoding="utf-8")
            free = shutil.disk_usage(target.parent).free
            if total is not None and total - done > free:
                raise CheckpointError(
                    f"{target.parent} has {free / 1e9:.1f} GB free, {url} needs {(total - done) / 1e9:.1f}; free some space"
                )
            with part.open("ab" if done else "wb") as file:
                while chunk := reply.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch, or the part is longer than the file
            part.unlink(missing_ok=True)
            raise CheckpointError(f"{url}: the part that was fetched does not fit it and was removed; fetch it again") from None
        raise CheckpointError(f"{url} answers {error.code} {error.reason}; check the address, or fetch it by hand to {target}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(
            f"cannot fetch {url} ({str(reason).strip() or type(reason).__name__}): is this machine offline? The same command goes on "
            f"where it stopped; or put the file at {target}"
        ) from None
    if total is not None and done != total:
        raise CheckpointError(f"{url} broke off after {done:,} of {total:,} bytes; the same command goes on from there")
    part.replace(target)
    tag_file.unlink(missing_ok=True)


def progress_bar(name: str) -> Progress:
    """A bar on the error output for ``fetch``.

    Args:
        name: What is fetched.
    """
    from tqdm import tqdm

    bars: list[tqdm] = []

    def told(done: int, total: int | None) -> None:
        if not bars:
            terminal = sys.stderr.isatty()
            settings = {"mininterval": 0.3 if terminal else 30, "dynamic_ncols": terminal}
            bars.append(tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=name, **settings))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return told
