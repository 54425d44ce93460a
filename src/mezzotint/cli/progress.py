"""A progress bar for reading images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mezzotint.tasks.evaluate import Reading


@contextmanager
def reading(batch_size: int, workers: int, *, show: bool = True) -> Iterator[Reading]:
    """How images are read, with a bar that counts them.

    Args:
        batch_size: Images in a pass.
        workers: Threads that decode.
        show: Whether this process shows the bar.
    """
    from tqdm import tqdm

    from mezzotint.tasks.evaluate import Reading

    with tqdm(unit="image", mininterval=1 if sys.stderr.isatty() else 30, delay=0.5, leave=False, disable=not show) as bar:

        def count(images: int, what: str) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update(images)

        yield Reading(batch_size=batch_size, workers=workers, on_images=count)
