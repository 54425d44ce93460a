"""Images in one array: ``.npz`` files, and whatever else fits into memory."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mezzotint.configs import DataConfig, DataFacts
from mezzotint.data.labels import check_labels
from mezzotint.data.source import Source, one_line
from mezzotint.data.transforms import Fit, Window, to_channels, to_size
from mezzotint.errors import DataError

_LOCAL_HEADER = 30


class ArraySource(Source):
    """Images that lie in one array ``[n, h, w, c]``.

    Args:
        pixels: The array, or a function that opens it; the function is called once in each process, and what it returned is not
            copied to other processes.
        config: ``size``, ``fit``, ``channels`` and ``flip`` are heeded. Channels convert between 1 and 3 only, since nothing says what
            others mean.
        names: Name of each image.
        labels: Class of each image, or None.
        classes: Class names.
        content: A check sum of the pixels, where the file holds one.

    Raises:
        DataError: A conversion that is not possible.
    """

    def __init__(
        self,
        pixels: np.ndarray | Callable[[], np.ndarray],
        config: DataConfig,
        *,
        names: Sequence[str],
        labels: np.ndarray | None = None,
        classes: tuple[str, ...] = (),
        content: str = "",
    ):
        self._pixels = None if callable(pixels) else pixels
        self._open = pixels if callable(pixels) else None
        _, height, width, have = self.pixels.shape
        channels, size = config.channels or have, config.size or (height, width)
        notes = []
        if channels != have:
            if {channels, have} != {1, 3}:
                raise DataError(f"the array has {have} channels, --data.channels is {channels}; arrays convert between 1 and 3 only")
            notes.append(f"{len(names)} images are converted from {have} to {channels} channels")
        if size != (height, width):
            done = "squashed" if config.fit == "squash" else "resized and cropped"
            notes.append(f"{len(names)} images are {done} from {height}x{width} to {size[0]}x{size[1]}")
        self._fit: Fit = config.fit
        facts = DataFacts(
            channels=channels,
            size=size,
            classes=classes if config.labels else (),
            bits=8 if self.pixels.dtype == np.uint8 else 16,
        )
        row = height * width * have * self.pixels.dtype.itemsize
        kept = labels if config.labels else None
        cut = config.fit == "random"
        super().__init__(facts, names, kept, [row] * len(names), flip=config.flip, notes=notes, content=content, cut=cut)

    @property
    def pixels(self) -> np.ndarray:
        """The array as stored, ``[n, h, w, c]``."""
        if self._pixels is None:
            assert self._open is not None
            self._pixels = self._open()
        return self._pixels

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._open is not None:
            state["_pixels"] = None
        return state

    def array(self, i: int, window: Window | None = None) -> np.ndarray:
        return to_size(to_channels(np.array(self.pixels[i]), self.facts.channels), self.facts.size, self._fit, window=window)


def open_npz(path: Path, config: DataConfig) -> Source:
    """Opens an ``.npz`` file as ADM writes it.

    ``arr_0`` holds the images, uint8 or uint16, ``[n, h, w, c]`` or ``[n, h, w]``; c may be any number. ``arr_1``, if there, holds
    integer labels ``[n]``; label k is called "k", and there are as many classes as the largest label says. An array stored without
    compression is read from disk as it is needed.

    Raises:
        DataError: The file is damaged, or its arrays are of another kind.
    """
    if config.split != "all":
        raise DataError(f"{path} has no parts, so --data.split {config.split} cannot be read; leave it at all, or give one file a part")
    try:
        with zipfile.ZipFile(path) as archive:
            crcs = {m.filename.removesuffix(".npy"): f"{m.CRC:08x}" for m in archive.infolist()}
    except Exception as error:  # zipfile and numpy raise a dozen kinds of error over damaged files
        raise DataError(f"{path} is not a readable .npz file ({one_line(error)}); write it again with numpy.savez") from error
    if "arr_0" not in crcs:
        held = ", ".join(sorted(crcs)) or "nothing"
        raise DataError(f"{path} holds {held} but no arr_0; write it with numpy.savez(path, images, labels)")
    pixels = _images(path)
    if len(pixels) == 0:
        raise DataError(f"{path} holds no images; arr_0 has shape {pixels.shape}")
    labels, classes = None, ()
    if "arr_1" in crcs and config.labels:
        labels = _load(path, "arr_1")
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu":
            kind = f"{labels.dtype} of shape {labels.shape}"
            raise DataError(f"arr_1 of {path} is {kind}; it must hold one integer label for each of {len(pixels)} images")
        classes = check_labels(labels.tolist(), [f"image {i}" for i in range(len(labels))], f"arr_1 of {path}")
    digits = len(str(len(pixels) - 1))
    names = [f"{i:0{digits}d}" for i in range(len(pixels))]
    return _NpzSource(path, config, names, labels, classes, crcs["arr_0"])


class _NpzSource(ArraySource):
    def __init__(
        self, path: Path, config: DataConfig, names: Sequence[str], labels: np.ndarray | None, classes: tuple[str, ...], content: str
    ):
        self._path = path
        super().__init__(partial(_images, path), config, names=names, labels=labels, classes=classes, content=content)

    def verify(self) -> None:
        try:
            with zipfile.ZipFile(self._path) as archive:
                bad = archive.testzip()
        except Exception as error:  # as in ``open_npz``
            raise DataError(f"{self._path} is damaged ({one_line(error)}); write it again with numpy.savez") from error
        if bad is not None:
            raise DataError(f"{bad} of {self._path} is damaged: its check sum is wrong; write the file again with numpy.savez")


def _images(path: Path) -> np.ndarray:
    pixels = _load(path, "arr_0")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"arr_0 of {path} is {pixels.dtype}; store images as uint8 (0 to 255) or uint16 (0 to 65535)")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or 0 in pixels.shape[1:]:
        raise DataError(f"arr_0 of {path} has shape {pixels.shape}; it must be [n, height, width, channels] or [n, height, width]")
    if pixels.shape[1] in (1, 3, 4) and pixels.shape[3] > 16:
        raise DataError(f"arr_0 of {path} has shape {pixels.shape}, channels first; store it as [n, height, width, channels]")
    return pixels


def _load(path: Path, key: str) -> np.ndarray:
    try:
        mapped = _map(path, f"{key}.npy")
        if mapped is not None:
            return mapped
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except Exception as error:  # as in ``open_npz``
        raise DataError(f"{key} of {path} cannot be read ({one_line(error)}); write the file again with numpy.savez") from error


def _map(path: Path, member: str) -> np.ndarray | None:
    """Maps an uncompressed member of the archive into memory; None where that is not possible."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            return None
        file.seek(info.header_offset)
        name_length, extra_length = struct.unpack_from("<HH", file.read(_LOCAL_HEADER), 26)
        file.seek(info.header_offset + _LOCAL_HEADER + name_length + extra_length)
        start = file.tell()
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            return None
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject or 0 in shape:
            return None
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if file.tell() - start + size != info.file_size:
            raise ValueError("the array is cut off")
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order="F" if fortran else "C")
