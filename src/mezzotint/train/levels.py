"""The loss by noise level, with the band in which it was before."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BINS = 4
MEMORY = 20
"""Intervals of the log that the band looks back on, with weights that fall off exponentially."""
LEAST = 5
"""Intervals before there is a band."""


class Levels:
    """The mean loss of examples in four bins of noise level, and a reference band of each bin.

    The bins are bounded by the quartiles of the times of the first interval of the log, so that they stay comparable. The band of a bin is
    the running mean of its interval means over about the last 20 intervals, plus and minus two of their standard deviations: while losses
    lie within their bands the run stands still or moves slowly at each noise level, whatever their size; a loss above its band has become
    worse than the recent run explains.
    """

    def __init__(self) -> None:
        self._edges: list[float] = []
        self._count = [0] * BINS
        self._mean = [0.0] * BINS
        self._variance = [0.0] * BINS

    def summary(self, t: Tensor, loss: Tensor) -> dict[str, list[float | None]]:
        """Mean loss in each bin.

        Args:
            t: Time of each example, ``[n]``.
            loss: Unweighted loss of each example, ``[n]``.

        Returns:
            ``loss_by_level``: four means, cleanest first, None for a bin without examples; ``t_edges``: the five times that bound the
            bins; once there are enough intervals also ``band_low`` and ``band_high``. Empty where all times are equal or there are
            fewer than four examples.
        """
        edges = self._edges or _quartiles(t)
        if not edges:
            return {}
        out: dict[str, list[float | None]] = {"loss_by_level": _means(edges, t, loss), "t_edges": list(edges)}
        if min(self._count) >= LEAST:
            spread = [2 * math.sqrt(v) for v in self._variance]
            out["band_low"] = [m - s for m, s in zip(self._mean, spread, strict=True)]
            out["band_high"] = [m + s for m, s in zip(self._mean, spread, strict=True)]
        return out

    def commit(self, t: Tensor, loss: Tensor) -> None:
        """Ends an interval: the bands of the next ones know its means. Arguments as for ``summary``."""
        self._edges = self._edges or _quartiles(t)
        if not self._edges:
            return
        for i, mean in enumerate(_means(self._edges, t, loss)):
            if mean is None:
                continue
            self._count[i] += 1
            share = max(1 / self._count[i], 1 / MEMORY)
            change = mean - self._mean[i]
            self._mean[i] += share * change
            self._variance[i] = (1 - share) * (self._variance[i] + share * change**2)

    def state(self) -> dict[str, Any]:
        """Plain numbers that ``restore`` takes."""
        return {"edges": self._edges, "count": self._count, "mean": self._mean, "variance": self._variance}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what ``state`` gave."""
        self._edges, self._count = list(state["edges"]), list(state["count"])
        self._mean, self._variance = list(state["mean"]), list(state["variance"])


def _quartiles(t: Tensor) -> list[float]:
    if len(t) < BINS or bool((t == t[0]).all()):
        return []
    parts = t.sort().values.tensor_split(BINS)
    return [part[0].item() for part in parts] + [parts[-1][-1].item()]


def _means(edges: list[float], t: Tensor, loss: Tensor) -> list[float | None]:
    which = torch.bucketize(t, torch.tensor(edges[1:-1], dtype=t.dtype), right=True)
    parts = [loss[which == i] for i in range(BINS)]
    return [part.mean().item() if len(part) else None for part in parts]
