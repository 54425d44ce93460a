"""Where files lie: a folder or a ZIP file, read alike. Nothing is ever extracted to disk."""

from __future__ import annotations

import mmap
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from mezzotint.data.source import one_line
from mezzotint.errors import DataError

HEAD = 32768
TAIL = 64
MAX_MEMBER = 1 << 30
_JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_DRIVE = re.compile("[A-Za-z]:")
_LOCAL_HEADER = 30


class Ends(NamedTuple):
    """Beginning and end of a file.

    Attributes:
        head: The first bytes.
        tail: The last bytes; None where they cannot be had without reading it all.
        whole: Whether ``head`` is the whole file.
    """

    head: bytes
    tail: bytes | None
    whole: bool


class Store:
    """Files by their path, with slashes, below one root.

    Attributes:
        path: The folder or archive.
        title: Its name for messages.
        files: Path -> size in bytes, in sorted order; junk of operating systems and hidden files are left out.
        folders: Paths of all folders, empty ones included.
    """

    def __init__(self, path: Path, files: dict[str, int], folders: set[str], title: str = ""):
        self.path = path
        self.title = title or str(path)
        self.files = dict(sorted(files.items()))
        self.folders = folders

    def place(self, name: str) -> str:
        """Where a file lies, for messages."""
        return f"{self.title}/{name}"

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            DataError: It cannot be read.
        """
        raise NotImplementedError

    def ends(self, name: str) -> Ends:
        """Beginning and end of a file.

        Raises:
            DataError: It cannot be read.
        """
        raise NotImplementedError


class FolderStore(Store):
    """Files of a folder and all folders below it; links are followed, once each.

    Raises:
        DataError: A folder cannot be listed.
    """

    def __init__(self, path: Path):
        files: dict[str, int] = {}
        folders: set[str] = set()
        self._walk(path, "", files, folders, {os.path.realpath(path)})
        super().__init__(path, files, folders)

    def _walk(self, root: Path, below: str, files: dict[str, int], folders: set[str], above: set[str]) -> None:
        try:
            entries = list(os.scandir(root / below))
        except OSError as error:
            raise DataError(f"folder {root / below} cannot be read ({error.strerror}); check its permissions") from error
        for entry in entries:
            name = below + entry.name
            if is_junk(name):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if real not in above:  # a link back to a folder above would never end
                    folders.add(name)
                    self._walk(root, f"{name}/", files, folders, above | {os.path.realpath(entry.path)})
                continue
            try:
                files[name] = entry.stat().st_size
            except OSError as error:
                raise DataError(f"{entry.path} cannot be read ({error.strerror}); check the file or the link") from error

    def read(self, name: str) -> bytes:
        try:
            with open(f"{self.title}/{name}", "rb", buffering=0) as file:  # a path object would cost as much as reading a small file
                return file.readall()
        except OSError as error:
            raise DataError(f"{self.path / name} cannot be read ({error.strerror}); check the file and its permissions") from error

    def ends(self, name: str) -> Ends:
        try:
            with open(self.path / name, "rb", buffering=0) as file:
                head = file.read(HEAD)
                if len(head) < HEAD:
                    return Ends(head, head[-TAIL:], True)
                file.seek(-TAIL, os.SEEK_END)
                return Ends(head, file.read(TAIL), False)
        except OSError as error:
            raise DataError(f"{self.path / name} cannot be read ({error.strerror}); check the file and its permissions") from error


class _Member(NamedTuple):
    offset: int
    stored: int
    size: int
    method: int
    crc: int


class ZipStore(Store):
    """Files of a ZIP file, read through a memory map, which any number of processes and threads may share.

    Raises:
        DataError: The file is no ZIP file or is damaged, or a member is encrypted, too large, doubled, compressed by a rare method, or
            has a path that leads outside.
    """

    def __init__(self, path: Path):
        self._map: mmap.mmap | None = None
        self._members: dict[str, _Member] = {}
        files: dict[str, int] = {}
        folders: set[str] = set()
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except Exception as error:  # zipfile raises a dozen kinds of error over damaged files
            raise DataError(f"{path} is not a readable ZIP file ({one_line(error)}); fetch or make it again") from error
        for info in infos:
            name = info.filename.replace("\\", "/")
            parts = name.rstrip("/").split("/")
            check_member_name(name, path)
            if is_junk(name.rstrip("/")):
                continue
            folders.update("/".join(parts[:k]) for k in range(1, len(parts)))
            if name.endswith("/"):
                folders.add(name.rstrip("/"))
                continue
            if name in files:
                raise DataError(f"{path} has the member '{name}' twice; make it again with each file once")
            if info.flag_bits & 1:
                raise DataError(f"{path} is encrypted (member '{name}'); make it again without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{path} is compressed by method {info.compress_type} (member '{name}'); make it again with zip -0")
            if info.file_size > MAX_MEMBER:
                raise DataError(f"member '{name}' of {path} unpacks to {info.file_size >> 20} MiB; at most {MAX_MEMBER >> 20} are taken")
            files[name] = info.file_size
            self._members[name] = _Member(info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC)
        super().__init__(path, files, folders)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def read(self, name: str) -> bytes:
        member = self._members[name]
        data = self._raw(name, member.stored)
        if member.method == zipfile.ZIP_DEFLATED:
            data = self._inflate(name, data, member.size + 1)
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise DataError(f"member '{name}' of {self.path} is damaged; fetch or make the ZIP file again")
        return data

    def ends(self, name: str) -> Ends:
        member = self._members[name]
        whole = member.size <= HEAD
        if whole:
            head = self.read(name)
            return Ends(head, head[-TAIL:], True)
        if member.method == zipfile.ZIP_DEFLATED:
            return Ends(self._inflate(name, self._raw(name, min(member.stored, HEAD)), HEAD), None, False)
        return Ends(self._raw(name, HEAD), self._raw(name, TAIL, member.stored - TAIL), False)

    def _inflate(self, name: str, data: bytes, limit: int) -> bytes:
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
        except zlib.error as error:
            raise DataError(f"member '{name}' of {self.path} is damaged ({error}); fetch or make the ZIP file again") from error

    def _raw(self, name: str, count: int, skip: int = 0) -> bytes:
        if self._map is None:
            try:
                with open(self.path, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise DataError(f"{self.path} cannot be read ({error}); check the file and its permissions") from error
        at = self._members[name].offset
        if self._map[at : at + 4] != b"PK\3\4" or at + _LOCAL_HEADER > len(self._map):
            raise DataError(f"member '{name}' of {self.path} is damaged; fetch or make the ZIP file again")
        name_length, extra_length = struct.unpack_from("<HH", self._map, at + 26)
        start = at + _LOCAL_HEADER + name_length + extra_length + skip
        return self._map[start : start + count]


def is_junk(name: str) -> bool:
    """Whether a path is hidden or is what an operating system left behind."""
    return any(part.startswith(".") or part in _JUNK for part in name.split("/"))


def check_member_name(name: str, archive: Path) -> None:
    """Refuses paths that would lead out of the archive.

    Raises:
        DataError: It is such a path.
    """
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/") or _DRIVE.match(name):
        raise DataError(f"{archive} has the member '{name}', whose path leads outside; such a file is not to be trusted")
