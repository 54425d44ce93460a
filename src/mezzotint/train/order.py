"""Which images each training step sees: a function of (seed, position) alone, so that any step can be found without those before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mezzotint.types import Phase


def stream_key(*parts: object) -> int:
    """A 63-bit number that is the same for the same parts in every process, for seeding."""
    digest = hashlib.blake2b("|".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@lru_cache(maxsize=2)
def _permutation(seed: int, n: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[stream_key(seed, "order"), epoch])).permutation(n)


def positions(seed: int, n: int, start: int, count: int) -> list[int]:
    """The images at consecutive places of an endless stream that visits every image once an epoch.

    Args:
        seed: Any integer.
        n: Number of images.
        start: First place, from 0.
        count: Number of places.

    Returns:
        ``count`` positions in the data set, each in 0..n-1.

    Example:
        >>> sorted(positions(0, 5, 5, 5)), positions(0, 5, 3, 4) == positions(0, 5, 0, 9)[3:7]
        ([0, 1, 2, 3, 4], True)
    """
    found: list[int] = []
    while len(found) < count:
        epoch, first = divmod(start + len(found), n)
        found += _permutation(seed, n, epoch)[first : first + count - len(found)].tolist()
    return found


@dataclass(frozen=True)
class Turn:
    """One optimiser step.

    Attributes:
        step: Number of the training step.
        phase: Index of the phase.
        repeat: Number of the repeat within the phase.
        draws: Whether a new batch is drawn; otherwise the last one is used again.
    """

    step: int
    phase: int
    repeat: int
    draws: bool

    def stage(self, name: str) -> str:
        """Name of the random streams of this turn, for a phase of that name."""
        return f"train/{name}/{self.repeat}"


def turns(phases: Sequence[Phase], step: int) -> Iterator[Turn]:
    """The optimiser steps of a training step, in order.

    The first of them always draws a batch; the others draw one if their phase asks for fresh batches.
    """
    first = True
    for index, phase in enumerate(phases):
        if step % phase.every == 0:
            for repeat in range(phase.repeats):
                yield Turn(step, index, repeat, first or phase.fresh_batch)
                first = False
