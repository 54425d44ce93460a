"""Brings the batches of the turns to come, in this process or in worker processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from mezzotint.errors import MezzotintError
from mezzotint.noise import Noise
from mezzotint.train.order import positions, turns
from mezzotint.types import Batch, Phase


class Source(Protocol):
    """What the trainer knows of a data set."""

    @property
    def fingerprint(self) -> str:
        """Changes when the images or their order change."""
        ...

    def __len__(self) -> int: ...

    def batch(self, ids: Sequence[int], *, noise: Noise) -> Batch:
        """The images at these positions, on the CPU; ``noise`` drives the augmentation."""
        ...


def rows(batch: Batch, part: slice, device: torch.device | str) -> Batch:
    """Some examples of a batch, on a device."""

    def take(value: torch.Tensor) -> torch.Tensor:
        return value[part].to(device, non_blocking=True)

    return replace(
        batch,
        images=take(batch.images),
        ids=take(batch.ids),
        label=None if batch.label is None else take(batch.label),
        extras={name: take(value) for name, value in batch.extras.items()},
    )


@dataclass(frozen=True)
class _Request:
    ids: list[int]
    stage: str
    step: int


@dataclass(frozen=True)
class _Requests:
    """This rank's share of each batch from a training step on."""

    phases: Sequence[Phase]
    seed: int
    num_images: int
    batch: int
    rank: int
    ranks: int
    first_step: int
    last_step: int
    cursor: int

    def __iter__(self) -> Iterator[_Request]:
        share = self.batch // self.ranks
        start = self.cursor + self.rank * share
        for step in range(self.first_step, self.last_step):
            for turn in turns(self.phases, step):
                if turn.draws:
                    ids = positions(self.seed, self.num_images, start, share)
                    yield _Request(ids, turn.stage(self.phases[turn.phase].name) + "/data", turn.step)
                    start += self.batch


class _Answers(Dataset):
    def __init__(self, source: Source, seed: int):
        self.source = source
        self.seed = seed

    def __getitem__(self, request: _Request) -> Batch | MezzotintError:
        try:
            return self.source.batch(request.ids, noise=Noise(self.seed, request.ids, stage=request.stage, step=request.step))
        except MezzotintError as error:  # returned, for a worker that raises adds its traceback to the message
            return error


def _keep(value: Any) -> Any:
    return value


def _quiet(_: int) -> None:
    """Leaves Ctrl-C to the training process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batches(
    source: Source,
    phases: Sequence[Phase],
    *,
    seed: int,
    batch: int,
    first_step: int,
    last_step: int,
    cursor: int,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """This rank's contiguous share of every batch that is drawn, in order.

    Args:
        source: The data set.
        phases: The phases of a training step.
        seed: Seed of the order and of the augmentation.
        batch: Images of a batch over all ranks; a multiple of ``ranks``.
        first_step: Training step to begin with.
        last_step: Training step to stop before.
        cursor: Images drawn before ``first_step``, over all ranks.
        rank: Number of this rank.
        ranks: Number of ranks.
        workers: Worker processes; 0: the images are made in this process when they are needed.

    Yields:
        Batches of ``batch / ranks`` images, on the CPU.

    Raises:
        DataError: The source cannot read its images.
    """
    requests = _Requests(phases, seed, len(source), batch, rank, ranks, first_step, last_step, cursor)
    loader = DataLoader(
        _Answers(source, seed),
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        collate_fn=_keep,
        worker_init_fn=_quiet if workers else None,
        generator=torch.Generator(),  # else the loader would draw from the global stream
    )
    for answer in loader:
        if isinstance(answer, MezzotintError):
            raise answer
        yield answer
