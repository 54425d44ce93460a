"""Images in tar files, the shards of WebDataset: read at random through their index, never unpacked."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from mezzotint.data.labels import Labels, from_numbers, from_values, label_of
from mezzotint.data.source import one_line
from mezzotint.data.store import HEAD, MAX_MEMBER, TAIL, Ends, Store, check_member_name, is_junk
from mezzotint.errors import CheckpointError, DataError, MezzotintError

SUFFIX = ".tar"
_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")
_BLOCK = 512
_ZEROS = bytes(_BLOCK)


class _Place(NamedTuple):
    shard: int
    offset: int
    size: int


class TarStore(Store):
    """Files of tar files, which any number of processes and threads may read.

    The headers of all members are read once, which gives the place of each; a member is then one read at its place. Where two shards
    have a member of one name, the shard's name is put before the file's: ``cat/shard-0001~000007.jpg``.

    Args:
        shards: The files, in order.
        title: What they are called together.

    Raises:
        DataError: A file is no tar file, is cut short, packed or damaged; or a member is a link, is doubled, too large, or has a path that
            leads outside.
    """

    def __init__(self, shards: Sequence[Path], title: str):
        self._shards = tuple(shards)
        found = [_index(path) for path in self._shards]
        times = Counter(name for members, _ in found for name in members)
        doubled = any(count > 1 for count in times.values())
        self._places: dict[str, _Place] = {}
        for k, (members, _) in enumerate(found):
            for name, (offset, size) in members.items():
                self._places[self._apart(name, k) if doubled else name] = _Place(k, offset, size)
        folders = {folder for _, names in found for folder in names}
        super().__init__(self._shards[0], {name: place.size for name, place in self._places.items()}, folders, title)

    def _apart(self, name: str, k: int) -> str:
        folder, slash, file = name.rpartition("/")
        return f"{folder}{slash}{self._shards[k].stem.replace('.', '_')}~{file}"

    def place(self, name: str) -> str:
        return f"{self._shards[self._places[name].shard]}/{name}"

    def read(self, name: str) -> bytes:
        place = self._places[name]
        return self._raw(name, place.offset, place.size)

    def ends(self, name: str) -> Ends:
        place = self._places[name]
        if place.size <= HEAD:
            head = self.read(name)
            return Ends(head, head[-TAIL:], True)
        return Ends(self._raw(name, place.offset, HEAD), self._raw(name, place.offset + place.size - TAIL, TAIL), False)

    def _raw(self, name: str, offset: int, count: int) -> bytes:
        shard = self._shards[self._places[name].shard]
        try:
            with shard.open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(count)
        except OSError as error:
            raise DataError(f"{shard} cannot be read ({error.strerror}); check the file and its permissions") from error
        if len(data) != count:
            raise DataError(f"{shard} is shorter than when it was opened; fetch or make it again")
        return data


def _index(path: Path) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """Place and size of each file of a tar, and the folders."""
    try:
        return _collect(_plain_members(path), path)
    except (_NotPlainError, OSError):
        pass
    try:
        return _collect(_members(path), path)
    except MezzotintError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from error
    except Exception as error:  # tarfile raises several kinds of error over damaged files
        raise DataError(f"{path} is not a readable tar file ({one_line(error)}); fetch or make it again") from error


def _collect(found: Iterable[tuple[str, int, int | None]], path: Path) -> tuple[dict[str, tuple[int, int]], set[str]]:
    members: dict[str, tuple[int, int]] = {}
    folders: set[str] = set()
    for name, offset, size in found:
        name = name.removeprefix("./").rstrip("/")
        if name in ("", "."):
            continue
        check_member_name(name, path)
        if is_junk(name):
            continue
        above = name.rpartition("/")[0] if size is not None else name
        while above and above not in folders:
            folders.add(above)
            above = above.rpartition("/")[0]
        if size is None:
            continue
        if size > MAX_MEMBER:
            raise DataError(f"member '{name}' of {path} has {size >> 20} MiB; at most {MAX_MEMBER >> 20} are taken")
        if name in members:
            raise DataError(f"{path} has the member '{name}' twice; make it again with each file once")
        members[name] = (offset, size)
    return members, folders


class _NotPlainError(Exception):
    """A header that needs the standard library's reader, which takes six times as long."""


def _plain_members(path: Path) -> Iterator[tuple[str, int, int | None]]:
    """Name, place and size of each file, and of each folder without a size, if all headers are of the plain kind.

    Source: POSIX.1-1988, ustar interchange format.
    """
    with path.open("rb", buffering=0) as file:
        length, at = file.seek(0, 2), 0
        while True:
            file.seek(at)
            block = file.read(_BLOCK)
            if block == _ZEROS and at:
                break
            kind = block[156:157]
            if len(block) < _BLOCK or kind not in (b"0", b"\0", b"5") or block[257:262] != b"ustar":
                raise _NotPlainError
            try:
                size, check = int(block[124:135], 8), int(block[148:155].rstrip(b"\0 "), 8)
                name = b"/".join(part for part in (block[345:500].partition(b"\0")[0], block[:100].partition(b"\0")[0]) if part).decode()
            except ValueError:
                raise _NotPlainError from None
            if check != sum(block) - sum(block[148:156]) + 8 * 32 or size < 0 or at + _BLOCK + size > length:
                raise _NotPlainError
            yield (name, at + _BLOCK, None if kind == b"5" or name.endswith("/") else size)
            at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    _check_end(path, at)


def _members(path: Path) -> Iterator[tuple[str, int, int | None]]:
    """The same for any tar file."""
    last = -1
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            if info.size < 0 or info.offset_data <= last:  # older Pythons follow such a member in circles
                raise DataError(f"{path} has the member '{info.name}' of {info.size} bytes; such a file is not to be trusted")
            last = info.offset_data
            archive.members = []  # pyright: ignore  (else the archive keeps every header)
            if not info.isdir():
                _check_member(info, info.name, path)
            yield info.name, info.offset_data, None if info.isdir() else info.size
        _check_end(path, archive.offset)


def _check_member(info: tarfile.TarInfo, name: str, path: Path) -> None:
    if info.issym() or info.islnk():
        raise DataError(f"{path} has the link '{name}', which is not followed; make it again with the files themselves (tar -h)")
    if not info.isreg() or info.issparse():
        raise DataError(f"{path} has the member '{name}', which is no plain file; make it again with plain files only")


def _check_end(path: Path, offset: int) -> None:
    """After the last member come zeros alone; anything else is a member that could not be read, or a second archive."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(_BLOCK)
        if len(rest) < _BLOCK:
            raise DataError(f"{path} has no end mark and may be cut short; fetch or make it again")
        while rest:
            if rest.strip(b"\0"):
                raise DataError(f"{path} is damaged after byte {offset}, or is several tar files in one; fetch or make it again")
            rest = file.read(1 << 20)


# --- which files ---------------------------------------------------------------------------------------------------------


def is_shards(path: str) -> bool:
    """Whether a data path means tar files: it ends in ``.tar``, is packed as one, or is an address."""
    low = path.lower()
    return "://" in low or low.startswith("pipe:") or low.partition("?")[0].endswith((SUFFIX, *_PACKED))


def open_shards(path: str) -> TarStore:
    """Opens tar files.

    Args:
        path: One file; several by braces, as in ``x-{000..146}.tar``, or by ``*`` and ``?``; or http addresses, with or without braces.
            What lies at an address is fetched into the cache once and compared with its hash from then on.

    Raises:
        DataError: There is no such file, or it cannot be read.
    """
    if path.lower().partition("?")[0].endswith(_PACKED):
        raise DataError(f"{path} is packed, so that single images cannot be reached; unpack it to a plain .tar (images are packed already)")
    shards: list[Path] = []
    for each in _expand(path):
        if "://" in each or each.startswith("pipe:"):
            shards.append(_fetched(each))
            continue
        local = Path(each).expanduser()
        if local.is_file():
            shards.append(local)
        elif any(mark in local.name for mark in "*?["):
            shards += sorted(local.parent.glob(local.name))
        else:
            raise DataError(f"{local} does not exist; check the path or the pattern {path}")
    if not shards:
        raise DataError(f"no file fits {path}; check the pattern")
    return TarStore(shards, path)


def _expand(path: str) -> list[str]:
    if "{" not in path or Path(path).exists():
        return [path]
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise DataError("braces in --data need the package webdataset; run: pip install 'mezzotint[sources]'") from error
    try:
        return list(braceexpand(path))
    except ValueError as error:
        raise DataError(f"{path} has a brace without its partner; write x-{{000..146}}.tar") from error


def _fetched(url: str) -> Path:
    from filelock import FileLock

    from mezzotint.weights.hub import cache_folder, fetch, progress_bar

    parts = urlsplit(url)
    name = PurePosixPath(parts.path).name
    if parts.scheme not in ("http", "https") or not name.lower().endswith(SUFFIX):
        raise DataError(f"{url} is no address of a .tar file; give http or https, or fetch the files and pass their path")
    place = f"data/{hashlib.sha256(url.encode()).hexdigest()[:16]}/{name}"
    target = cache_folder() / place
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{name}.lock")):  # ranks open the data at the same time
            return fetch(url, place, progress=progress_bar(name))
    except CheckpointError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror}); set MEZZOTINT_CACHE to a folder with space") from error


# --- samples of several members ------------------------------------------------------------------------------------------


def split_key(name: str) -> tuple[str, str]:
    """Key and extension of a member by WebDataset's rule: the file's name is divided at its first dot.

    Example:
        >>> split_key("cat/0001.seg.png")
        ('cat/0001', 'seg.png')
    """
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def pick_images(images: Sequence[str], column: str | None, place: str) -> list[str]:
    """One image of each sample.

    Args:
        images: Names of all members that are images.
        column: The extension wanted; None: there is but one.
        place: Where they lie, for messages.

    Raises:
        DataError: Samples have several images, or none of the extension wanted.
    """
    if column is not None:
        wanted = column.lower().removeprefix(".")
        picked = [name for name in images if split_key(name)[1] == wanted]
        if not picked:
            has = ", ".join(sorted({split_key(name)[1] for name in images})[:10])
            raise DataError(f"{place} has no images '.{wanted}'; give --data.column one of: {has}")
        return picked
    extensions: dict[str, set[str]] = defaultdict(set)
    for name in images:
        key, extension = split_key(name)
        extensions[key].add(extension)
    times = Counter(extension for found in extensions.values() for extension in found)
    for key, found in extensions.items():
        # Names with dots of their own, as in a.001.png and a.002.png, are no samples of several images.
        if len(found) > 1 and all(times[extension] > 1 for extension in found):
            several = ", ".join(sorted(found))
            raise DataError(f"sample '{key}' of {place} has several images ({several}); say which by --data.column {min(found)}")
    return list(images)


def sidecar_labels(store: Store, images: Sequence[str], place: str) -> Labels | None:
    """Labels from members ``key.cls`` (a number or a name) and ``key.json`` ("label", "class"; "labels" for several).

    Args:
        store: Where the members lie.
        images: Names of the images.
        place: The data set, for messages.

    Returns:
        The labels; None if no image has any.

    Raises:
        DataError: Some images have labels and some do not, or a label cannot be read.
    """
    values: list[str | tuple[str, ...]] = []
    titles: list[str] = []
    for name in images:
        key, _ = split_key(name)
        number, title = f"{key}.cls", f"{key}.json"
        entry = _json(store, title, place) if title in store.files else ""
        if number in store.files:
            values.append(_text(store, number, place).strip())
            titles.append(entry if isinstance(entry, str) else "")
        else:
            values.append(entry)
            titles.append("")
    if not any(values):
        return None
    where = f"a label member of {place}"
    if all(isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 for value in values):
        return from_numbers([int(str(value)) for value in values], titles, images, where)
    return from_values(values, images, where)


def _text(store: Store, name: str, place: str) -> str:
    try:
        return store.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"member '{name}' of {place} is not UTF-8 text; repair it, or pass --data.no-labels") from error


def _json(store: Store, name: str, place: str) -> str | tuple[str, ...]:
    text = _text(store, name, place)
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"member '{name}' of {place} is not JSON ({one_line(error)}); repair it, or pass --data.no-labels") from error
    return label_of(row, f"member '{name}' of {place}") if isinstance(row, dict) else ""
