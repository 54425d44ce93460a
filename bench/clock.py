"""Two clocks, who used them, and what a list of paired times says."""

from __future__ import annotations

import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

WALL, CPU = 0, 1


def now() -> np.ndarray:
    """Seconds of the wall clock and of this process on the processor, ``[2]``."""
    return np.array([time.perf_counter(), time.process_time()])


class Stopwatch:
    """Adds up the time spent in chosen functions, and counts their calls.

    Attributes:
        owner: On whose account the time goes; None: nobody's.
        seconds: (owner, name) -> wall and CPU seconds, ``[2]``.
    """

    def __init__(self) -> None:
        self.owner: str | None = None
        self.seconds: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(2))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            owner, begin = self.owner, now()
            try:
                return function(*args, **kwargs)
            finally:
                if owner is not None:
                    self.seconds[owner, name] += now() - begin

        return call

    @contextmanager
    def on(self, *places: tuple[str, Any, str]) -> Iterator[None]:
        """Times functions while the block runs, each given as (name, object, attribute). None of them may call another."""
        with ExitStack() as stack:
            for name, place, attribute in places:
                stack.enter_context(mock.patch.object(place, attribute, self._timed(name, getattr(place, attribute))))
            yield


def between(outer: Sequence[np.ndarray], inner: Sequence[np.ndarray]) -> np.ndarray:
    """Ratios inner[i] / mean(outer[i], outer[i + 1]), ``[n, 2]``: taking both neighbours cancels a steady drift of the machine."""
    around = np.array(outer)
    return np.array(inner) / ((around[:-1] + around[1:]) / 2)


def median(ratios: np.ndarray) -> dict[str, float]:
    """Median of ratios ``[n]`` with its 95 % interval (by order statistics) and the quartiles of the ratios."""
    ordered, n = np.sort(ratios), len(ratios)
    reach = 0.98 * math.sqrt(n)
    low, high = math.floor((n - 1) / 2 - reach), math.ceil((n - 1) / 2 + reach)
    quarter, middle, three = np.quantile(ordered, [0.25, 0.5, 0.75]).tolist()
    return {
        "median": middle,
        "low": float(ordered[max(low, 0)]),
        "high": float(ordered[min(high, n - 1)]),
        "quartile_1": quarter,
        "quartile_3": three,
        "count": n,
    }


def gemm_rate(size: int = 1536, repeats: int = 7) -> np.ndarray:
    """Floating-point operations a second of a float32 matrix product, by each clock, ``[2]``: the median of several."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.mm(a, b)
    spans = []
    for _ in range(repeats):
        begin = now()
        torch.mm(a, b, out=out)
        spans.append(now() - begin)
    return 2 * size**3 / np.median(spans, axis=0)
