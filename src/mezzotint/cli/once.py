"""Errors of a job of several processes, which come out once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

SECONDS = 5
"""How long a process looks for the others, and waits for the one that speaks."""
_CLAIM, _SAID = "mezzotint/error", "mezzotint/said"


def is_first() -> bool:
    """Whether this is the first process of a job, or its only one, as the environment of ``torchrun`` says."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def first_to_fail() -> Iterator[bool]:
    """Gives True to the process of a job that fails first, which then says why; the others wait until it has.

    A launcher ends all processes as soon as one has ended, so one that is silent must not be the first to end. Where the launcher's store
    cannot be reached, every process speaks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_PORT" not in os.environ:
        yield True
        return
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        address = os.environ.get("MASTER_ADDR", "localhost"), int(os.environ["MASTER_PORT"])
        store = TCPStore(*address, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=SECONDS))
        first = store.add(f"{_CLAIM}/{again}", 1) == 1
        if not first:
            store.wait([f"{_SAID}/{again}"])
    except (RuntimeError, ValueError):
        yield True
        return
    yield first
    if first:
        store.set(f"{_SAID}/{again}", "")
