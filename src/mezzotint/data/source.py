"""What all sources of images have in common."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.configs import DataFacts
from mezzotint.data.transforms import Window
from mezzotint.errors import DataError
from mezzotint.noise import Noise
from mezzotint.types import Batch

_SHOWN = 5
_MERGING = threading.Lock()
"""Held while the list of unreadable images is brought up to date, so that threads write each image once."""


class Source:
    """A fixed sequence of images of one size, with or without labels.

    A source holds names and places, not pixels, and opens its file anew in each process: it is cheap to hand to workers.

    Args:
        facts: Channels, size, class names and bits of every image.
        names: Name of each image.
        labels: Class of each image, or None.
        num_bytes: Stored size of each image.
        flip: Whether ``batch`` mirrors half of the images.
        notes: What was done to the images, or left out, one sentence each; to be shown to the user once.
        content: A check sum of the pixels, where the file holds one.
        cut: Whether ``batch`` cuts images at random places.
        tags: Names of what an image may show, where it may show several.
        tagged: Which of them each image shows, ``[n, len(tags)]`` of 0 and 1.
        unreadable: Images known to be unreadable: id -> why. They keep their ids; ``batch`` uses others in training.
        spare: How many images may be unreadable.
    """

    def __init__(
        self,
        facts: DataFacts,
        names: Sequence[str],
        labels: Sequence[int] | np.ndarray | None,
        num_bytes: Sequence[int],
        *,
        flip: bool = False,
        notes: Sequence[str] = (),
        content: str = "",
        cut: bool = False,
        tags: Sequence[str] = (),
        tagged: np.ndarray | None = None,
        unreadable: Mapping[int, str] | None = None,
        spare: int = 0,
    ):
        self.facts = facts
        self.names = tuple(names)
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.num_bytes = tuple(int(n) for n in num_bytes)
        self.flip = flip
        self.notes = tuple(notes)
        self.content = content
        self.cut = cut
        self.tags = tuple(tags)
        self.tagged = None if tagged is None else np.asarray(tagged, dtype=np.float32)
        self.unreadable = dict(unreadable or {})
        self.spare = spare
        self._record: Path | None = None
        self._recorded = 0

    def __len__(self) -> int:
        return len(self.names)

    def array(self, i: int, window: Window | None = None) -> np.ndarray:
        """The pixels of image i, ``[h, w, c]``, uint8 or uint16 as ``facts.bits`` says.

        Args:
            i: The id.
            window: Where to cut it, if the source was opened with the fit "random".

        Raises:
            DataError: The image cannot be decoded; the message names it.
        """
        raise NotImplementedError

    def label(self, i: int) -> int | None:
        """The class of image i, or None where there are no classes."""
        return None if self.labels is None else int(self.labels[i])

    def name(self, i: int) -> str:
        """The name of image i: its path within the source, or its number."""
        return self.names[i]

    @property
    def class_map(self) -> dict[str, int]:
        """Class name -> label; empty where there are no classes."""
        return {name: k for k, name in enumerate(self.facts.classes)}

    @property
    def fingerprint(self) -> str:
        """Hash of names, stored sizes and labels, in order; 32 hexadecimal digits. Pixels are not read.

        Unreadable images count like others, so that no mishap of reading changes it.
        """
        digest = hashlib.blake2b(self.content.encode(), digest_size=16)
        for i, (name, size) in enumerate(zip(self.names, self.num_bytes, strict=True)):
            digest.update(f"{name}\0{size}\0{self.label(i)}\n".encode("utf-8", "surrogateescape"))
        if self.tagged is not None:
            digest.update("\0".join(self.tags).encode() + self.tagged.astype("<f4").tobytes())
        return digest.hexdigest()

    def batch(self, ids: Sequence[int] | Tensor, *, noise: Noise | None = None) -> Batch:
        """Images ready for training.

        Args:
            ids: Positions in this source, b of them.
            noise: Streams keyed by the same ids, for training. With them, and if the source was opened so, each image is mirrored with
                probability 1/2 and cut at a random place, by (seed, id, step) alone; and the next readable image stands in for one that
                cannot be read, under the id that was asked for. Without them images are as they are, and one that cannot be read is an
                error.

        Returns:
            Images ``[b, c, h, w]`` float32 in [-1, 1]: x / 127.5 - 1 for 8 bits, x / 32767.5 - 1 for 16; labels where there are any; in
            ``extras["tags"]`` ``[b, len(tags)]`` float32, 0 or 1, where images may have several.

        Raises:
            DataError: An image cannot be decoded, or more than may.
        """
        where = [int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        if not where:
            raise DataError("a batch of no images was asked for; give at least one id")
        windows: list[Any] = [None] * len(where)
        mirrored = [False] * len(where)
        if noise is not None and self.cut:
            windows = noise.uniform((len(where), 3), name="cut").tolist()
        if noise is not None and self.flip:
            mirrored = (noise.uniform((len(where),), name="flip") < 0.5).tolist()
        taken: list[int] = []

        def arrays() -> Iterator[np.ndarray]:
            for i, window, turned in zip(where, windows, mirrored, strict=True):
                found, array = (i, self.array(i)) if noise is None else self._stand_in(i, window)
                taken.append(found)
                yield array[:, ::-1] if turned else array

        images = to_images(arrays(), len(where))
        label = None if self.labels is None else torch.from_numpy(self.labels[taken])
        extras = {} if self.tagged is None else {"tags": torch.from_numpy(self.tagged[taken])}
        return Batch(images=images, ids=torch.tensor(where, dtype=torch.int64), label=label, extras=extras)

    # --- unreadable images -----------------------------------------------------------------------------------------------

    def record(self, path: Path | str) -> None:
        """Keeps the list of unreadable images in a file, one JSON object a line: ``{"image": name, "problem": why}``.

        Images that the file lists count as unreadable from now on, so that a resumed run treats them as before; the file is written
        when the first image is read, and whenever another proves unreadable. Any number of processes may share it.

        Raises:
            DataError: The file cannot be read.
        """
        self._record, self._recorded = Path(path), -1
        if self._record.is_file():
            self._merge()

    def attempt(self, i: int, window: Window | None = None) -> np.ndarray | None:
        """``array``, or None if the image cannot be read, which is counted and recorded.

        Raises:
            DataError: More images cannot be read than may.
        """
        if self._record is not None and self._recorded < len(self.unreadable):
            self._merge()
        if i in self.unreadable:
            return None
        try:
            return self.array(i, window)
        except DataError as error:
            if self.spare == 0:
                raise
            self.unreadable[i] = str(error)
            if self._record is not None:
                self._merge()  # others may have found some
            check_spare(self.unreadable.values(), self.spare, len(self))
            return None

    def _stand_in(self, i: int, window: Window | None) -> tuple[int, np.ndarray]:
        """The first image from i on that can be read, and its pixels."""
        for k in range(len(self)):
            j = (i + k) % len(self)
            array = self.attempt(j, window)
            if array is not None:
                return j, array
        raise DataError("none of the images can be read; check the data")

    def _merge(self) -> None:
        """Brings the list in memory and the one on disk together."""
        path = self._record
        assert path is not None
        with _MERGING:
            self._merge_with(path)

    def _merge_with(self, path: Path) -> None:
        listed: dict[str, str] = {}
        try:
            for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
                entry = _entry(line)
                listed[entry[0]] = entry[1]
            lacking = {self.names[i]: why for i, why in self.unreadable.copy().items() if self.names[i] not in listed}
            if lacking:
                path.parent.mkdir(parents=True, exist_ok=True)
                lines = [json.dumps({"image": name, "problem": why}, ensure_ascii=False) + "\n" for name, why in lacking.items()]
                with path.open("a", encoding="utf-8") as file:
                    file.write("".join(lines))
        except OSError as error:
            raise DataError(f"the list of unreadable images {path} cannot be kept ({error.strerror}); check the folder") from error
        if listed:
            ids = {name: i for i, name in enumerate(self.names)}
            self.unreadable |= {ids[name]: why for name, why in listed.items() if name in ids}
        self._recorded = len(self.unreadable)

    def verify(self) -> None:
        """Decodes every image.

        Raises:
            DataError: Some images cannot be decoded; the message counts them and names the first few.
        """
        bad: list[str] = []
        first = ""
        for i in range(len(self)):
            try:
                self.array(i)
            except DataError as error:
                first = first or str(error)
                bad.append(self.names[i])
        if len(bad) == 1:
            raise DataError(first)
        if bad:
            more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            raise DataError(f"{len(bad)} of {len(self)} images cannot be read: {', '.join(bad[:_SHOWN])}{more}; replace or remove them")


def _entry(line: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        return str(entry["image"]), str(entry["problem"])
    except (ValueError, KeyError, TypeError):  # a line that a killed process did not finish
        return "", ""


def check_spare(problems: Iterable[str], spare: int, num: int) -> None:
    """Checks that not more images are unreadable than may be.

    Args:
        problems: What is wrong with each of them.
        spare: How many may be.
        num: Images in all.

    Raises:
        DataError: There are more; the message has the first.
    """
    problems = list(problems)
    if len(problems) > spare:
        first = problems[0].partition(";")[0]
        raise DataError(
            f"{len(problems)} of {num} images cannot be read, and --data.max-unreadable allows {spare}; the first: {first}; "
            f"replace or remove them (`mezzotint data info` lists all), or pass --data.max-unreadable {share_for(len(problems), num)}"
        )


def share_for(count: int, num: int) -> str:
    """A share that allows so many of the images, rounded up to two digits."""
    share = min(count / num * 1.05, 0.99)
    digits = max(2, 1 - math.floor(math.log10(share)))
    return f"{math.ceil(share * 10**digits) / 10**digits:g}"


def to_images(arrays: Iterable[np.ndarray], num: int | None = None) -> Tensor:
    """Turns pixels into what models see.

    Args:
        arrays: Images ``[h, w, c]`` of one shape, uint8 or uint16.
        num: Their number b, where ``arrays`` does not tell.

    Returns:
        ``[b, c, h, w]`` float32 in [-1, 1]: 0 becomes -1 and the largest value of the type 1.

    Example:
        >>> to_images(np.array([[[[0]], [[255]]]], dtype=np.uint8)).flatten().tolist()
        [-1.0, 1.0]
    """
    if num is None:
        arrays = list(arrays)
        num = len(arrays)
    out = np.empty(0, np.float32)
    for k, array in enumerate(arrays):  # one after the other, while the image lies in the processor's cache
        if k == 0:
            height, width, channels = array.shape
            out = np.empty((num, channels, height, width), np.float32)
        row = out[k]
        row[...] = array.transpose(2, 0, 1)
        row /= np.float32(np.iinfo(array.dtype).max) / np.float32(2)
        row -= np.float32(1)
    return torch.from_numpy(out)


def check_enough(source: Source, batch: int) -> None:
    """Checks that a source fills a batch.

    Args:
        source: The images.
        batch: Images a step, over all ranks.

    Raises:
        DataError: There are fewer images than that.
    """
    if len(source) < batch:
        raise DataError(f"the data has {len(source)} images but a batch takes {batch}; add images or pass --train.batch {len(source)}")


def one_line(error: Exception) -> str:
    """What another library said of a damaged file, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
