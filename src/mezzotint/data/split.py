"""Parts of a source: views, and divisions that keep the share of each class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mezzotint.data.source import Source
from mezzotint.data.transforms import Window
from mezzotint.errors import DataError


class _Subset(Source):
    def __init__(self, parent: Source, ids: Sequence[int]):
        labels = None if parent.labels is None else parent.labels[list(ids)]
        super().__init__(
            parent.facts,
            [parent.names[i] for i in ids],
            labels,
            [parent.num_bytes[i] for i in ids],
            flip=parent.flip,
            notes=parent.notes,
            content=parent.content,
            cut=parent.cut,
            tags=parent.tags,
            tagged=None if parent.tagged is None else parent.tagged[list(ids)],
            unreadable={k: parent.unreadable[i] for k, i in enumerate(ids) if i in parent.unreadable},
            spare=parent.spare,
        )
        self._parent = parent
        self._ids = tuple(ids)

    def array(self, i: int, window: Window | None = None) -> np.ndarray:
        return self._parent.array(self._ids[i], window)


def subset(source: Source, ids: Sequence[int]) -> Source:
    """A view of some images of a source, in the given order; it keeps the class map and counts its own ids from 0.

    Raises:
        DataError: No ids, or an id that the source does not have.
    """
    picked = [int(i) for i in ids]
    if not picked:
        raise DataError("a part of the data without images was asked for; give at least one id")
    for i in picked:
        if not 0 <= i < len(source):
            raise DataError(f"image {i} was asked for; the data has images 0 to {len(source) - 1}")
    return _Subset(source, picked)


def split_ids(source: Source, fractions: Sequence[float], seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Divides the images at random into parts that share none, each class by the same fractions.

    The order within a class follows a hash of (seed, name), so that the division does not depend on library versions.

    Args:
        source: The images.
        fractions: Share of each part, in (0, 1]; together at most 1. What is left over goes to no part.
        seed: Another seed gives another division.

    Returns:
        The ids of each part, ascending.

    Raises:
        DataError: Fractions out of range, or a part that would be empty.
    """
    if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
        raise DataError(f"fractions {tuple(fractions)} of the data were asked for; give positive numbers with a sum of at most 1")
    strata: dict[int | None, list[int]] = {}
    for i in range(len(source)):
        strata.setdefault(source.label(i), []).append(i)
    parts: list[list[int]] = [[] for _ in fractions]
    for members in strata.values():
        members.sort(key=lambda i: hashlib.blake2b(f"{seed}|{source.names[i]}".encode(), digest_size=16).digest())
        start, total = 0, 0.0
        for part, fraction in zip(parts, fractions, strict=True):
            total += fraction
            stop = int(total * len(members) + 0.5)
            part += members[start:stop]
            start = stop
    for part, fraction in zip(parts, fractions, strict=True):
        if not part:
            raise DataError(f"a share of {fraction:g} of {len(source)} images holds none; ask for a larger share")
    return tuple(tuple(sorted(part)) for part in parts)
