"""Progressive coding: how well an image is known after how many bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.data import Source
from mezzotint.errors import ConfigError
from mezzotint.pipelines.generate import Model
from mezzotint.process import add_noise
from mezzotint.tasks.likelihood import Likelihood, batches, check, coder, spread


@dataclass(frozen=True)
class Point:
    """One stop of the decoder.

    Attributes:
        steps: Reverse steps that were done, from 1.
        time: Time of the state that was received last.
        rate: Bits/dim received until then.
        rmse: Root of the mean squared error of the estimate of the image, on the scale 0 to 255.
    """

    steps: int
    time: float
    rate: float
    rmse: float


def rate_distortion(found: Likelihood) -> tuple[Point, ...]:
    """The curve of progressive lossy compression, the noisiest state first.

    Args:
        found: A likelihood by the method "vlb".

    Raises:
        ConfigError: One by another method.

    Source: Ho et al. 2020, section 4.3, algorithms 3-4, and table 4.
    """
    if found.prior is None:
        raise ConfigError("progressive coding follows from the variational bound; use the method vlb")
    points = []
    rate = found.prior
    for i, (time, term, mse) in enumerate(zip(found.times, found.terms, found.x0_mse, strict=True)):
        points.append(Point(i + 1, time, rate, 127.5 * math.sqrt(mse)))
        rate += term
    return tuple(points)


@dataclass(frozen=True)
class Decoded:
    """Estimates of images on the way.

    Attributes:
        ids: Position of each image in the data.
        steps: Reverse steps that were done at each stop.
        estimates: ``[n, stops, c, h, w]`` in [-1, 1], the noisiest first.
        images: The images themselves, ``[n, c, h, w]``.
    """

    ids: tuple[int, ...]
    steps: tuple[int, ...]
    estimates: Tensor
    images: Tensor


@torch.no_grad()
def progressive(
    model: Model, source: Source, *, num: int = 8, stops: int = 10, steps: int | None = None, grid: str | None = None, seed: int = 0
) -> Decoded:
    """What a receiver sees of images while their bits arrive.

    Args:
        model: As for ``likelihood``, like steps, grid and seed; the states are those of the bound.
        source: The images.
        num: Number of images, evenly spread over the source.
        stops: Number of estimates of each, evenly spread over the steps, first and last included.
        steps: Steps.
        grid: Spacing of the times.
        seed: Seed.

    Source: Ho et al. 2020, section 4.3 and figure 10.
    """
    check(model, source)
    if stops < 1:
        raise ConfigError(f"{stops} stops; give at least 1")
    denoiser, plan = coder(model, steps, grid)
    kept = sorted({round(k) for k in torch.linspace(0, plan.steps - 1, stops).tolist()} | {plan.steps - 1})
    ids = spread(len(source), min(num, len(source)))
    parts, images = [], []
    for x0, cond, noise in batches(model, source, ids, seed, 64):
        found = []
        for i in kept:
            t = plan.grid[i].expand(len(x0))
            eps = noise.at(i).normal(tuple(x0.shape), name="vlb", dtype=x0.dtype, device=x0.device)
            found.append(denoiser(add_noise(denoiser.schedule, x0, eps, t), t, cond).x0.cpu())
        parts.append(torch.stack(found, dim=1))
        images.append(x0.cpu())
    return Decoded(ids, tuple(i + 1 for i in kept), torch.cat(parts), torch.cat(images))
