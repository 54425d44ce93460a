"""Enlarging pictures of any size with a model that begins from low-resolution images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.conditioning import Label, LowRes
from mezzotint.denoise import Denoiser, NetworkDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.cascade import Cascade
from mezzotint.pipelines.consistent import BackProjection, Consistent
from mezzotint.pipelines.generate import Model, to_pixels
from mezzotint.pipelines.tiling import Tiled
from mezzotint.resolution import enlarge, shrink
from mezzotint.sample.loop import sample
from mezzotint.types import Cond, Posterior

LARGEST = 1 << 28
"""Pixels of the largest picture that is made."""
SAMPLE_BITS = 40
"""Ids of pictures have so many bits; the number of the sample stands above them."""
CONSISTENT = 45.0
"""What ``consistent`` promises wherever it is possible, in decibels."""
OnWork = Callable[[float], object]


class Upscaler:
    """A model together with all settings of the enlargement.

    Pictures of any size go through the network in overlapping tiles (``Tiled``); those smaller than a tile are continued by mirroring.
    The picture of an id depends on the model, the settings, the seed and the id, and on nothing that is made beside it.

    Args:
        model: Trained with a low-resolution condition.
        scale: Enlargement; None: the model's own. A power of it is reached in several passes.
        tile: Side of a tile, in pixels of the result; None: the size that the model was trained at.
        overlap: Pixels that neighbouring tiles share at least; None: a quarter of a tile.
        batch_size: Tiles in a pass of the network.
        class_: Class of all pictures, by name or label; None: the null class, or the first one where the model has no null class.
        consistent: Project at every step, and at the end, onto the pictures whose reduction is the given one.
        wish: Further arguments of ``Model.job``: sampler, variance, steps, grid, calls, guidance, level, clip, seed.

    Attributes:
        job: The sampling settings, resolved.
        passes: How many times the model enlarges.

    Raises:
        CapabilityError: The model begins from no low-resolution image, or is a cascade.
        ConfigError: A scale, tile or other setting that cannot be.

    Warns:
        UserWarning: The model needs a class and none is given.
    """

    def __init__(
        self,
        model: Model,
        *,
        scale: int | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        batch_size: int = 8,
        class_: str | None = None,
        consistent: bool = False,
        **wish: Any,
    ):
        if isinstance(model, Cascade):
            raise CapabilityError("a cascade makes its own low-resolution images; enlarge with one of the models that it was joined from")
        low_res = model.stage.conditioner.part(LowRes)
        if low_res is None:
            raise CapabilityError("this model begins from no low-resolution image; give one trained by a recipe such as sr3-64-256")
        self.model, self.low_res, self.consistent = model, low_res, consistent
        once = low_res.config.scale
        self.scale = once if scale is None else scale
        self.passes = _passes(self.scale, once)
        self.tile = model.facts.size if tile is None else (tile, tile)
        if batch_size < 1 or min(self.tile) < 1:
            raise ConfigError(f"tiles of {self.tile[0]}x{self.tile[1]}, {batch_size} in a pass; give at least 1")
        self.overlap = min(self.tile) // 4 if overlap is None else overlap
        self.batch = batch_size
        name = self._class(class_)
        self.job = model.job(num=1, classes=None if name is None else {name: 1}, **wish)
        self._tiled(model.stage.denoiser, None)  # a mistake is found before anything is made

    def _class(self, given: str | None) -> str | None:
        model = self.model
        if given is not None or model.stage.conditioner.part(Label) is None:
            return given
        if model.null is not None:
            return "null"
        name = model.classes[0]
        warnings.warn(f"this model is class-conditional; enlarging as '{name}', give a class for better results", stacklevel=4)
        return name

    @property
    def settings(self) -> dict[str, Any]:
        """All that pictures depend on beside the model, as plain values."""
        job = {
            k: v for k, v in self.job.to_dict().items() if k in ("labels", "sampler", "steps", "grid", "guidance", "seed", "clip", "level")
        }
        own = {"scale": self.scale, "tile": list(self.tile), "overlap": self.overlap, "consistent": self.consistent}
        return {**own, **job}

    # --- work ------------------------------------------------------------------------------------------------------------

    def _canvas(self, height: int, width: int) -> tuple[int, int]:
        """Size of a picture after one enlargement, filled up to a tile."""
        once = self.low_res.config.scale
        return max(height * once, self.tile[0]), max(width * once, self.tile[1])

    def _tiles(self, height: int, width: int) -> int:
        """Number of tiles of the first enlargement of a picture."""
        return len(self._tiled(self.model.stage.denoiser, None).corners(*self._canvas(height, width)))

    def work(self, height: int, width: int, channels: int) -> int | None:
        """What one sample of a picture costs: tiles times steps, over all passes; what ``on_work`` is told adds up to it.

        None where the sampler chooses its steps itself.

        Raises:
            ConfigError: The result would be too large.
        """
        self.check(height, width)
        grown = [self.low_res.config.scale**number for number in range(self.passes)]
        tiles = self._rows(channels) * sum(self._tiles(height * g, width * g) for g in grown)
        return None if self.steps is None else tiles * self.steps

    def _rows(self, channels: int) -> int:
        """Images of the model that a picture becomes."""
        return 3 if self.model.facts.channels == 1 and channels >= 3 else 1

    @property
    def steps(self) -> int | None:
        """Steps of a pass; 1 for models that give the image at once, None where the sampler chooses them itself."""
        plan = self.model.plan(self.job)
        return None if plan.adaptive else max(1, plan.steps)

    def check(self, height: int, width: int) -> None:
        """Refuses pictures whose enlargement would not fit into memory.

        Raises:
            ConfigError: More than ``LARGEST`` pixels.
        """
        if height * width * self.scale**2 > LARGEST:
            size = f"{height * self.scale}x{width * self.scale}"
            raise ConfigError(
                f"{height}x{width} pixels enlarged {self.scale} times are {size}, more than {LARGEST >> 20} million pixels; "
                "cut the picture into parts, or make it smaller"
            )

    # --- pictures --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(self, low: Tensor, ids: Sequence[int], *, on_work: OnWork | None = None) -> Tensor:
        """Enlarges images of one size.

        Args:
            low: ``[n, c, h, w]`` in [-1, 1], with the model's number of channels.
            ids: The id of each image: the key of its noise.
            on_work: Called with the tiles that were done since it was last called.

        Returns:
            ``[n, c, scale h, scale w]`` float32 in [-1, 1], on the CPU.

        Raises:
            ConfigError: Another number of channels, or too large a result.
        """
        if low.shape[1] != self.model.facts.channels:
            raise ConfigError(f"images of {low.shape[1]} channels, and the model makes {self.model.facts.channels}; convert them")
        self.check(low.shape[2], low.shape[3])
        x = low.to(self.model.device, torch.float32)
        for number in range(self.passes):
            noise = Noise(self.job.seed, ids, stage="sample")  # as ``Model.run`` has it
            x = self._once(x, noise.sub(f"pass {number}") if number else noise, on_work).clamp(-1, 1)
        return x.cpu()

    def _once(self, low: Tensor, noise: Noise, on_work: OnWork | None) -> Tensor:
        model, job, once = self.model, self.job, self.low_res.config.scale
        height, width = low.shape[2] * once, low.shape[3] * once
        tall, wide = self._canvas(low.shape[2], low.shape[3])
        filled = mirrored(low, tall // once, wide // once)
        cond: dict[str, Tensor] = dict(self.low_res.prepare(filled, level=job.level, noise=noise))
        if job.labels is not None:
            cond["label"] = torch.full((len(low),), job.labels[0], device=low.device)
        shape = (low.shape[1], tall, wide)
        meter = _Meter(on_work)

        def tiles(inner: Denoiser) -> Denoiser:
            return self._tiled(inner, meter.tiles)

        meter.step = self._tiles(low.shape[2], low.shape[3]) * len(low)
        if model.stage.prior.clean:
            blank, t = low.new_zeros(len(low), *shape), torch.zeros(len(low), dtype=torch.float64)
            x = tiles(_Answers(model.stage.denoiser))(blank, t, cond).mean
            meter.done()
        else:
            denoiser = model.denoiser(job, [*job.guidance, tiles])
            if self.consistent:
                project = BackProjection(partial(shrink, scale=once, down=self.low_res.config.down), filled, once)
                denoiser = Consistent(denoiser, project, clip=job.clip is not False)
            x, t = model.stage.prior.sample(shape, cond=cond, noise=noise.sub("prior"))
            plan = model.plan(job, t_start=t)
            x = sample(denoiser, model.sampler(job), plan, x.to(low.device), cond=cond, noise=noise, on_step=lambda *_: meter.done()).x
        x = x[..., :height, :width]
        if self.consistent:
            project = BackProjection(partial(shrink, scale=once, down=self.low_res.config.down), low, once)
            x = project.bounded(x)
            if (reached := project.decibels(x)) < CONSISTENT:
                warnings.warn(
                    f"no picture reduces to the given one exactly; the nearest that was found does to {reached:.1f} dB", stacklevel=2
                )
        return x

    def _tiled(self, inner: Denoiser, on_tiles: Callable[[int], object] | None) -> Tiled:
        align = self.low_res.config.scale
        return Tiled(inner, self.tile, self.overlap, align=align, batch=self.batch, on_tiles=on_tiles)

    def pixels(self, pixels: np.ndarray, key: int, *, samples: Sequence[int] = (0,), on_work: OnWork | None = None) -> Iterator[np.ndarray]:
        """Enlarges a picture of any kind.

        Gray pictures go through a colour model as gray ones and stay gray; the channels of a colour picture go through a gray model apart,
        with the same noise. Alpha is enlarged bicubically.

        Args:
            pixels: ``[h, w, c]`` uint8 or uint16: gray, gray with alpha, colour, or colour with alpha.
            key: Id of the picture, below 2^40.
            samples: Numbers of the samples wanted; each is another picture with the same low-resolution image.
            on_work: As for ``__call__``.

        Yields:
            Each sample, ``[scale h, scale w, c]`` of the same type.

        Raises:
            CapabilityError: The model makes images of neither 1 nor 3 channels.
            ConfigError: Too large a result.
        """
        own = self.model.facts.channels
        if own not in (1, 3):
            raise CapabilityError(f"this model makes images of {own} channels, which are no pictures; give a model of 1 or 3 channels")
        top = np.iinfo(pixels.dtype).max
        planes = torch.from_numpy(pixels.astype(np.float32) / top * 2 - 1).permute(2, 0, 1)
        colour, alpha = (planes[:-1], planes[-1:]) if len(planes) in (2, 4) else (planes, None)
        if alpha is not None:
            size = [side * self.scale for side in alpha.shape[1:]]
            alpha = enlarge(alpha[None], size)[0].clamp(-1, 1)
        if own == 1:
            low = colour[:, None]
        else:
            low = colour.expand(3, -1, -1)[None]
        together = max(1, self.batch // (self._tiles(low.shape[2], low.shape[3]) * len(low)))
        for first in range(0, len(samples), together):
            part = samples[first : first + together]
            ids = [key + (number << SAMPLE_BITS) for number in part for _ in range(len(low))]
            x = self(low.repeat(len(part), 1, 1, 1), ids, on_work=on_work)
            for k in range(len(part)):
                rows = x[k * len(low) : (k + 1) * len(low)]
                picture = rows[:, 0] if own == 1 else rows[0].mean(dim=0, keepdim=True) if len(colour) == 1 else rows[0]
                whole = picture if alpha is None else torch.cat([picture, alpha])
                yield to_pixels(whole[None], bits=8 if pixels.dtype == np.uint8 else 16)[0]


def upscale(model: Model, images: Tensor, *, ids: Sequence[int] | None = None, num: int = 1, **settings: Any) -> Tensor:
    """Enlarges images of one size.

    Args:
        model: Trained with a low-resolution condition.
        images: ``[n, c, h, w]`` in [-1, 1].
        ids: The id of each image, below 2^40; None: its number.
        num: Samples of each image.
        settings: As for ``Upscaler``, for instance ``scale=16, steps=50, consistent=True, seed=1``.

    Returns:
        ``[n * num, c, H, W]`` float32 in [-1, 1], on the CPU; the samples of an image stand together.

    Raises:
        MezzotintError: As ``Upscaler`` does.

    Example:
        model = mezzotint.load("runs/sr3/model")
        large = upscale(model, small, steps=50, consistent=True)
    """
    if num < 1:
        raise ConfigError(f"{num} samples of each image; ask for at least 1")
    upscaler = Upscaler(model, **settings)
    keys = range(len(images)) if ids is None else ids
    rows = images.repeat_interleave(num, dim=0)
    names = [key + (number << SAMPLE_BITS) for key in keys for number in range(num)]
    step = upscaler.batch
    return torch.cat([upscaler(rows[k : k + step], names[k : k + step]) for k in range(0, len(rows), step)])


def mirrored(images: Tensor, height: int, width: int) -> Tensor:
    """Images continued at the right and below by their mirror images, again and again if need be.

    Args:
        images: ``[b, c, h, w]``.
        height: Rows wanted, at least h.
        width: Columns wanted, at least w.

    Example:
        >>> mirrored(torch.tensor([[[[1, 2, 3]]]]), 1, 8)[0, 0, 0].tolist()
        [1, 2, 3, 3, 2, 1, 1, 2]
    """

    def index(have: int, wanted: int) -> Tensor:
        place = torch.arange(wanted, device=images.device) % (2 * have)
        return torch.minimum(place, 2 * have - 1 - place)

    return images[:, :, index(images.shape[2], height)][:, :, :, index(images.shape[3], width)]


class _Answers(Denoiser):
    """A model that gives the image at once, as a denoiser, so that its answers can be blended too."""

    def __init__(self, inner: NetworkDenoiser):
        super().__init__()
        self.inner, self.schedule, self.accepts = inner, inner.schedule, inner.accepts

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        return Posterior(self.inner.answer(x_t, cond))


class _Meter:
    """Counts tiles such that each step counts once, however many calls of the network it takes."""

    def __init__(self, on_work: OnWork | None):
        self.on_work, self.step, self.told = on_work, 0, 0

    def tiles(self, count: int) -> None:
        self._tell(min(self.told + count, self.step))

    def done(self) -> None:
        self._tell(self.step)
        self.told = 0

    def _tell(self, told: int) -> None:
        if self.on_work is not None and told > self.told:
            self.on_work(told - self.told)
        self.told = told


def _passes(scale: int, once: int) -> int:
    passes = max(1, round(math.log(scale, once))) if scale > 0 else 1
    if once**passes != scale:
        nearest = ", ".join(str(once**k) for k in (1, 2, 3))
        raise ConfigError(f"scale {scale}, and this model enlarges {once} times; give {nearest} or another power of {once}")
    return passes
