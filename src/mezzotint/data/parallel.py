"""Work on many images at once, in threads: decoding and resizing leave Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_order(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """Results in the order of the items, a few of which are worked on at once.

    Args:
        function: What to do.
        items: To what; taken as they are needed.
        workers: Threads; 0: none beside this one.

    Raises:
        Exception: What the function raises, at its item's turn.
    """
    if workers < 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
