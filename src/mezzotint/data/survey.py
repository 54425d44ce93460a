"""What a data set consists of: every image is decoded and counted, the unreadable ones too, and nothing has to agree."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from mezzotint.configs import DataConfig
from mezzotint.data.images import Listing, decode
from mezzotint.data.opening import find
from mezzotint.data.parallel import in_order
from mezzotint.data.source import Source
from mezzotint.data.transforms import to_channels, to_size
from mezzotint.errors import DataError

_COMPARED, _COMPARED_VALUES = 512, 2**25
"""Images whose distances to one another are measured, and the most values that they may have together."""


@dataclass
class Survey:
    """What was found. Pixel values are scaled to [-1, 1], as models see them.

    Attributes:
        images: Their number, unreadable ones included.
        num_bytes: Their stored size.
        sizes: (height, width) -> how many images have it, after any conversion that was asked for.
        channels: Number of channels -> how many images.
        bits: Bits a channel -> how many images.
        mean: Mean of each channel; empty if images differ in channels.
        std: Standard deviation of each channel, likewise.
        sigma_data: Standard deviation of all values around their common mean; None if images differ in channels.
        sigma_max: Largest Euclidean distance between two of at most 512 images that are spread evenly; None if sizes differ.
        classes: Class name -> how many images; empty without classes.
        tags: Tag -> how many images have it; empty without tags.
        duplicates: Groups of images of the same pixels, by name.
        unreadable: Name -> why.
        notes: What was left out or stepped into.
    """

    images: int = 0
    num_bytes: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    bits: Counter[int] = field(default_factory=Counter)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    sigma_data: float | None = None
    sigma_max: float | None = None
    classes: dict[str, int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Moments:
    """Sums of values and squares of each channel, exact for integers."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = np.zeros(0)
        self.squares = np.zeros(0)

    def add(self, pixels: np.ndarray) -> None:
        values = pixels.reshape(-1, pixels.shape[2])
        if not self.count:
            self.sums, self.squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        top = float(np.iinfo(pixels.dtype).max)
        self.count += len(values)
        self.sums += values.sum(0, dtype=np.uint64) / top
        self.squares += np.square(values, dtype=np.uint32).sum(0, dtype=np.uint64) / top**2

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...], float]:
        """Mean and deviation of each channel, and the deviation of all, in [-1, 1]."""
        mean, square = self.sums / self.count, self.squares / self.count
        std = np.sqrt(np.maximum(square - mean**2, 0))
        common = math.sqrt(max(square.mean() - mean.mean() ** 2, 0))
        return tuple((2 * mean - 1).tolist()), tuple((2 * std).tolist()), 2 * common


def survey(config: DataConfig, *, workers: int = 0, progress: Callable[[int, int], object] = lambda done, total: None) -> Survey:
    """Decodes every image of a data set once and counts.

    Args:
        config: As for ``open_source``; ``size`` and ``channels`` are heeded if they are given.
        workers: Threads that decode.
        progress: Called with the number of images done and of all.

    Raises:
        DataError: There is no such data, or it holds no images.

    Source: for ``sigma_data`` Karras et al. 2022 (EDM), table 1; for ``sigma_max`` Song & Ermon 2020, technique 1.
    """
    found = find(replace(config, flip=False))
    names = found.names if isinstance(found, Source) else found.titles
    sizes = found.num_bytes if isinstance(found, Source) else [found.store.files[name] for name in found.names]
    out = Survey(images=len(names), num_bytes=sum(sizes), notes=tuple(found.notes))
    _count_labels(found, out)

    def read(i: int) -> np.ndarray | DataError:
        try:
            return found.array(i) if isinstance(found, Source) else _decoded(found, i, config)
        except DataError as error:
            return error

    moments = _Moments()
    same: defaultdict[bytes, list[str]] = defaultdict(list)
    spread: set[int] | None = None
    compared: list[np.ndarray] = []
    for i, pixels in enumerate(in_order(read, range(len(names)), workers)):
        progress(i + 1, len(names))
        if isinstance(pixels, DataError):
            out.unreadable[names[i]] = str(pixels)
            continue
        out.sizes[(pixels.shape[0], pixels.shape[1])] += 1
        out.channels[pixels.shape[2]] += 1
        out.bits[8 * pixels.itemsize] += 1
        digest = hashlib.blake2b(f"{pixels.shape}{pixels.dtype}".encode(), digest_size=16)
        digest.update(pixels.tobytes())
        same[digest.digest()].append(names[i])
        if len(out.channels) == 1:
            moments.add(pixels)
        if spread is None:
            most = min(len(names), _COMPARED, max(2, _COMPARED_VALUES // pixels.size))
            spread = {k * len(names) // most for k in range(most)}
        if i in spread and len(out.sizes) == 1 and len(out.channels) == 1:
            compared.append(pixels)
    if len(out.channels) == 1:
        out.mean, out.std, out.sigma_data = moments.result()
    if len(out.sizes) == 1 and len(out.channels) == 1 and len(compared) > 1:
        out.sigma_max = _widest(compared)
    out.duplicates = [group for group in same.values() if len(group) > 1]
    return out


def _decoded(listing: Listing, i: int, config: DataConfig) -> np.ndarray:
    name = listing.names[i]
    pixels = decode(listing.store.read(name), listing.store.place(name))
    if config.channels is not None:
        pixels = to_channels(pixels, config.channels)
    return pixels if config.size is None else to_size(pixels, config.size, config.fit, alpha=pixels.shape[2] in (2, 4))


def _count_labels(found: Listing | Source, out: Survey) -> None:
    if isinstance(found, Source):
        if found.labels is not None:
            out.classes = {name: int((found.labels == k).sum()) for k, name in enumerate(found.facts.classes)}
    elif found.labels is not None:
        counts = Counter(found.labels.labels)
        out.classes = {name: counts[k] for k, name in enumerate(found.labels.classes)}
        tags = Counter(k for numbers in found.labels.tagged for k in numbers)
        out.tags = {name: tags[k] for k, name in enumerate(found.labels.tags)}


def _widest(images: list[np.ndarray]) -> float:
    """Largest Euclidean distance between two images, their values scaled to [-1, 1]."""
    scale = 2 / float(np.iinfo(images[0].dtype).max)
    flat = np.stack([image.reshape(-1) for image in images]).astype(np.float32)
    norms = (flat**2).sum(1)
    squared = norms[:, None] + norms[None] - 2 * flat @ flat.T
    return scale * math.sqrt(max(float(squared.max()), 0.0))
