"""What all sources of images have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mezzotint.configs import DataFacts
from mezzotint.errors import DataError
from mezzotint.noise import Noise
from mezzotint.types import Batch

_SHOWN = 5


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
    ):
        self.facts = facts
        self.names = tuple(names)
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.num_bytes = tuple(int(n) for n in num_bytes)
        self.flip = flip
        self.notes = tuple(notes)
        self.content = content

    def __len__(self) -> int:
        return len(self.names)

    def array(self, i: int) -> np.ndarray:
        """The pixels of image i, ``[h, w, c]``, uint8 or uint16 as ``facts.bits`` says.

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
        """Hash of names, stored sizes and labels, in order; 32 hexadecimal digits. Pixels are not read."""
        digest = hashlib.blake2b(self.content.encode(), digest_size=16)
        for i, (name, size) in enumerate(zip(self.names, self.num_bytes, strict=True)):
            digest.update(f"{name}\0{size}\0{self.label(i)}\n".encode())
        return digest.hexdigest()

    def batch(self, ids: Sequence[int] | Tensor, *, noise: Noise | None = None) -> Batch:
        """Images ready for training.

        Args:
            ids: Positions in this source, b of them.
            noise: Streams keyed by the same ids. With them, and if the source was opened with ``flip``, each image is mirrored with
                probability 1/2; the choice depends on (seed, id, step) alone. Without them nothing is mirrored.

        Returns:
            Images ``[b, c, h, w]`` float32 in [-1, 1]: x / 127.5 - 1 for 8 bits, x / 32767.5 - 1 for 16; labels where there are any.

        Raises:
            DataError: An image cannot be decoded.
        """
        where = [int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        if not where:
            raise DataError("a batch of no images was asked for; give at least one id")
        images = to_images(np.stack([self.array(i) for i in where]))
        if self.flip and noise is not None:
            mirrored = noise.uniform((len(where),), name="flip") < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        label = None if self.labels is None else torch.from_numpy(self.labels[where])
        return Batch(images=images, ids=torch.tensor(where, dtype=torch.int64), label=label)

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


def to_images(arrays: np.ndarray) -> Tensor:
    """Turns pixels into what models see.

    Args:
        arrays: ``[b, h, w, c]``, uint8 or uint16.

    Returns:
        ``[b, c, h, w]`` float32 in [-1, 1]: 0 becomes -1 and the largest value of the type 1.

    Example:
        >>> to_images(np.array([[[[0]], [[255]]]], dtype=np.uint8)).flatten().tolist()
        [-1.0, 1.0]
    """
    half = float(np.iinfo(arrays.dtype).max) / 2
    pixels = np.ascontiguousarray(arrays.transpose(0, 3, 1, 2), dtype=np.float32)
    return torch.from_numpy(pixels / np.float32(half) - np.float32(1))


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
