"""A figure with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A figure that was found several times, on parts of the data or for several seeds.

    Attributes:
        value: The mean.
        spread: The standard deviation (divided by their number): that of one part, not of the mean.
        parts: The figures that it is made of.
    """

    value: float
    spread: float
    parts: tuple[float, ...]

    @classmethod
    def of(cls, parts: Sequence[float]) -> Estimate:
        """The mean of some figures.

        Example:
            >>> Estimate.of([1.0, 3.0])
            Estimate(value=2.0, spread=1.0, parts=(1.0, 3.0))
        """
        return cls(float(np.mean(parts)), float(np.std(parts)), tuple(float(part) for part in parts))
