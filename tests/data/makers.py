"""Small image files of every kind, written by hand where Pillow cannot write them."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(*shape: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
    out = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(out, kind, **options)
    return out.getvalue()


def wide_png(array: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, ``[h, w, c]``."""
    h, w, c = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wide_tiff(array: np.ndarray, order: str = "<", deflate: bool = False) -> bytes:
    """A TIFF of 16-bit colour, ``[h, w, 3]``, in either byte order."""
    h, w, c = array.shape
    data = array.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if deflate else data
    start = 8 + 2 + 9 * 12 + 4 + 6
    entries = [
        (256, 4, 1, w),
        (257, 4, 1, h),
        (258, 3, 3, start - 6),
        (259, 3, 1, 8 if deflate else 1),
        (262, 3, 1, 2),
        (273, 4, 1, start),
        (277, 3, 1, c),
        (278, 4, 1, h),
        (279, 4, 1, len(data)),
    ]
    out = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in entries:
        body = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        out += struct.pack(f"{order}HHI", tag, kind, count) + body
    return out + struct.pack(f"{order}I3H", 0, 16, 16, 16) + data


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def zipped(path: Path, files: dict[str, bytes], deflate: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def three_classes(prefix: str = "", per_class: int = 2) -> dict[str, bytes]:
    return {
        f"{prefix}{name}/{i}.png": encoded(pixels(8, 8, 3, seed=10 * k + i))
        for k, name in enumerate(["ant", "bee", "cat"])
        for i in range(per_class)
    }


def tarred(path: Path, files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
