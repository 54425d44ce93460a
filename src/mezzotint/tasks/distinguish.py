"""How well a network learns to tell made images from real ones: the nearer to one half, the better they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from mezzotint.errors import DataError
from mezzotint.metrics.proportion import wilson

SMALLEST, LEAST = 8, 8
"""Least side of images, and least number of them."""


@dataclass(frozen=True)
class Distinguished:
    """How many images were told right by a network that had not seen them.

    Attributes:
        right: Number of images of both kinds that were told right.
        total: Number of images of both kinds.
        recognised: Share of the made images that were taken for made.
    """

    right: int
    total: int
    recognised: float

    @property
    def accuracy(self) -> float:
        """Share of images that were told right; one half is chance."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, by Wilson."""
        return wilson(self.right, self.total)


def distinguish(
    real: Tensor,
    made: Tensor,
    *,
    seed: int = 0,
    images: int = 20_000,
    width: int = 32,
    batch: int = 64,
    groups: Sequence[int] | None = None,
    on_step: Callable[[int, int], object] | None = None,
) -> Distinguished:
    """Trains a small convolutional network on one half of the images and tests it on the other, and the other way round.

    Real and made images of one number belong together (as output and original of super-resolution do) and go to the same half, so that no
    network can know the contents of an image that it is tested on.

    Args:
        real: ``[n, c, h, w]`` in [-1, 1], sides of at least 8.
        made: The same shape.
        seed: Seed of halves, first weights, order and mirroring.
        images: Training budget of each of the two networks, in images.
        width: Channels of the first layer.
        batch: Images a step, half of each kind.
        groups: Number of the picture that each image was cut from; cuts of one picture go to the same half. None: each is its own.
        on_step: Called after each step with its number and the number of all steps.

    Raises:
        DataError: Other shapes, or too few or too small images.
    """
    if real.shape != made.shape or len(real) < LEAST or min(real.shape[2:]) < SMALLEST:
        raise DataError(
            f"real images {tuple(real.shape)} and made ones {tuple(made.shape)}; give at least {LEAST} of each, as many of both, "
            f"of one size of at least {SMALLEST}x{SMALLEST}"
        )
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(len(real)) if groups is None else torch.as_tensor(groups)
    order = group.unique()[torch.randperm(len(group.unique()), generator=generator)]
    if len(order) < 2:
        raise DataError(
            "all images are cuts of one picture, and the network is tested on pictures that it has not seen; give more pictures"
        )
    first = torch.isin(group, order[: len(order) // 2])
    halves = first.nonzero()[:, 0], (~first).nonzero()[:, 0]
    steps = max(1, images // batch)
    told = torch.zeros(2, len(real), dtype=torch.bool)  # whether each real and made image was taken for made
    for number, (train, test) in enumerate((halves, halves[::-1])):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = judge(real.shape[1], width)
        _train(
            network, real[train], made[train], steps, batch, generator, lambda i, n=number: on_step and on_step(n * steps + i, 2 * steps)
        )
        for kind, part in enumerate((real, made)):
            told[kind, test] = torch.cat([_says_made(network, part[rows]) for rows in test.split(256)])
    right = int((~told[0]).sum() + told[1].sum())
    return Distinguished(right, 2 * len(real), float(told[1].float().mean()))


def judge(channels: int, width: int) -> nn.Sequential:
    """The network: four convolutions, the first at full resolution, where upscaled images give themselves away; then means."""
    widths = [channels, width, width, 2 * width, 4 * width]
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(a, b, 3, stride=1 if k == 0 else 2, padding=1), nn.GroupNorm(max(1, b // 16), b), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))


def _train(
    network: nn.Module, real: Tensor, made: Tensor, steps: int, batch: int, generator: torch.Generator, done: Callable[[int], object]
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    half = max(1, min(batch // 2, len(real)))
    target = torch.cat([torch.zeros(half), torch.ones(half)])
    network.train()
    for step in range(steps):
        rows = torch.randint(len(real), (half,), generator=generator)
        mirror = torch.rand(half, generator=generator)[:, None, None, None] < 0.5
        x = torch.cat([torch.where(mirror, part[rows].flip(3), part[rows]) for part in (real, made)])
        loss = nn.functional.binary_cross_entropy_with_logits(network(x)[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        done(step + 1)


@torch.no_grad()
def _says_made(network: nn.Module, images: Tensor) -> Tensor:
    return network.eval()(images)[:, 0] > 0
