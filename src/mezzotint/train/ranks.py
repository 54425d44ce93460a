"""The processes of a run or job: what the first does for all, what they add up, and who is missing when they wait."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import broadcast_object_list, gather, gather_object
from torch import Tensor
from torch import distributed as dist

from mezzotint.errors import MezzotintError, TrainingError

_WORDS = ("timed out", "timeout", "connection closed by peer", "connection reset by peer", "broken pipe")
"""What collectives that fail say, whatever the backend."""


def launched(timeout: float | None = None) -> PartialState:
    """Device and rank of this process, under ``torchrun`` or ``accelerate launch`` or alone: a GPU each, or the CPU.

    Args:
        timeout: Seconds after which a rank that waits gives up; None: as PyTorch has it. The first call of a process decides.
    """
    more = {} if timeout is None else {"timeout": timedelta(seconds=timeout)}
    state = PartialState(cpu=not torch.cuda.is_available(), **more)
    leave_at_exit(state)
    return state


def leave_at_exit(state: Accelerator | PartialState) -> None:
    """Has the process group closed in time: threads of one that is open when the interpreter ends abort the process."""
    if state.num_processes > 1:
        atexit.unregister(_leave)
        atexit.register(_leave)


def _leave() -> None:
    PartialState().destroy_process_group()


class Ranks:
    """The ranks of a run or job.

    Args:
        state: Accelerate, set up.
        timeout: Seconds after which a rank that waits gives up; the process group was made with the same.
        setting: The setting that changes it, to be named when it is reached; empty: there is none.
    """

    def __init__(self, state: Accelerator | PartialState, timeout: float, *, setting: str = ""):
        self.device = state.device
        self.timeout = timeout
        self.count = state.num_processes
        self.index = state.process_index
        self.main = state.is_main_process
        self._setting = setting
        self._place = ("starting", time.monotonic())
        self._store: Any = None
        self._ended = threading.Event()
        if self.count > 1:
            store: Any = dist.distributed_c10d._get_default_store()
            self._store = store.clone()  # one that waits would hold up the others
            threading.Thread(target=self._tell, daemon=True).start()

    # --- doing things together -------------------------------------------------------------------------------------------

    def on_main(self, action: Callable[[], Any]) -> Any:
        """Does something on the first rank and gives every rank its result, or its error, so that none is left waiting."""
        result: list[Any] = [None, None]
        if self.main:
            try:
                result[0] = action()
            except MezzotintError as error:
                result[1] = error
        if self.count > 1:
            broadcast_object_list(result)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def say(self, text: str) -> None:
        """Prints a line, once."""
        if self.main:
            print(text, flush=True)

    def gather(self, row: Tensor) -> Tensor:
        """Brings rows of numbers ``[n]``, of one length, together as ``[ranks, n]`` on the CPU."""
        if self.count > 1:
            row = gather(row.to(self.device)).cpu()  # pyright: ignore
        return row.reshape(self.count, -1)

    def collect(self, value: Any) -> list[Any]:
        """What each rank gives, in their order, on all of them."""
        return gather_object([value]) if self.count > 1 else [value]

    def add_up(self, *values: Tensor) -> list[Tensor]:
        """The sums over all ranks of tensors that have the same shapes everywhere, in float64 on the CPU."""
        flat = self.gather(torch.cat([value.detach().cpu().double().reshape(-1) for value in values])).sum(0)
        parts = flat.split([value.numel() for value in values])
        return [part.reshape(value.shape) for part, value in zip(parts, values, strict=True)]

    def share(self, count: int) -> range:
        """This rank's contiguous share of so many things."""
        return range(self.index * count // self.count, (self.index + 1) * count // self.count)

    # --- waiting ---------------------------------------------------------------------------------------------------------

    def at(self, place: str) -> None:
        """Notes what this rank does from now on, such as "reading the images of step 7"."""
        self._place = (place, time.monotonic())

    def close(self) -> None:
        """Ends the watch over this rank."""
        self._ended.set()

    def _tell(self) -> None:
        """Lets the others know where this rank stands, but only once it has stood there for long: steps cost nothing."""
        told = ("", 0.0)
        while not self._ended.wait(min(self.timeout / 16, 10)):
            place, since = self._place
            if time.monotonic() - since > self.timeout / 4 and told != (place, since):
                told = (place, since)
                with suppress(Exception):  # the store ends with the first rank
                    self._store.set(_key(self.index), place)

    def explain(self, error: BaseException) -> TrainingError | None:
        """The error of a collective that failed, with rank and place; None if this is something else."""
        text = str(error).lower()
        if self.count == 1 or not isinstance(error, RuntimeError) or not any(word in text for word in _WORDS):
            return None
        place, since = self._place
        waited = time.monotonic() - since
        if waited < 0.9 * self.timeout and "timed out" not in text and "timeout" not in text:
            return TrainingError(f"rank {self.index} lost another rank while {place}; that rank's own message says why")
        others = self._others()
        elsewhere = [f"rank {rank} was {where}" for rank, where in others.items() if where != place]
        missing = "; ".join(elsewhere) or "no other rank said where it was, so one may have ended or be off the network"
        return TrainingError(
            f"rank {self.index} waited {waited:.0f} s for the other ranks while {place}; {missing} "
            f"(the limit is {f'{self._setting} {self.timeout:g}' if self._setting else f'{self.timeout:g} s'})"
        )

    def _others(self) -> dict[int, str]:
        found = {}
        for rank in range(self.count):
            with suppress(Exception):
                if rank != self.index and self._store.check([_key(rank)]):
                    found[rank] = self._store.get(_key(rank)).decode()
        return found


def _key(rank: int) -> str:
    return f"mezzotint/place/{rank}"
