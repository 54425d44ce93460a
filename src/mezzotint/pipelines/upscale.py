"""Enlarging pictures of any size with a model that begins from low-resolution images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.conditioning import Label, LowRes
from mezzotint.denoise import Denoiser, NetworkDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.cascade import Cascade, StageSettings
from mezzotint.pipelines.consistent import BackProjection, Consistent
from mezzotint.pipelines.generate import Job, Model, to_pixels
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


@dataclass(frozen=True)
class Pass:
    """One enlargement of pictures.

    Attributes:
        model: The model that enlarges.
        low_res: Its condition.
        job: How it is sampled; the ids are others.
        tile: Height and width of a tile.
        overlap: Pixels that neighbouring tiles share at least.
        repeat: How often the same model has enlarged before.
        last: Whether a picture comes out, rather than what the next stage of a cascade is to begin from.
    """

    model: Model
    low_res: LowRes
    job: Job
    tile: tuple[int, int]
    overlap: int
    repeat: int
    last: bool

    @property
    def scale(self) -> int:
        """Enlargement."""
        return self.low_res.config.scale

    @property
    def steps(self) -> int | None:
        """Number of steps; 1 for models that give the image at once, None where the sampler chooses them itself."""
        plan = self.model.plan(self.job)
        return None if plan.adaptive else max(1, plan.steps)

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Size of an enlarged picture, filled up to a tile."""
        return max(height * self.scale, self.tile[0]), max(width * self.scale, self.tile[1])

    def tiled(self, inner: Denoiser, *, batch: int = 1, on_tiles: Callable[[int], object] | None = None) -> Tiled:
        """A denoiser on tiles of larger pictures."""
        return Tiled(inner, self.tile, self.overlap, align=self.scale, batch=batch, on_tiles=on_tiles)

    def tiles(self, height: int, width: int) -> int:
        """Number of tiles of a picture that is ``height`` x ``width`` before."""
        return len(self.tiled(self.model.stage.denoiser).corners(*self.canvas(height, width)))

    def noise(self, ids: Sequence[int]) -> Noise:
        """The random streams, which are those of ``Model.run``."""
        noise = Noise(self.job.seed, ids, stage="sample")
        return noise.sub(f"pass {self.repeat}") if self.repeat else noise


class Upscaler:
    """A model together with all settings of the enlargement.

    Pictures of any size go through the network in overlapping tiles (``Tiled``); those smaller than a tile are continued by mirroring.
    The picture of an id depends on the model, the settings, the seed and the id, and on nothing that is made beside it.

    The stages of a cascade enlarge in turn; what a stage hands on is neither clipped nor rounded, as in ``Cascade``. A first stage that
    makes its images from nothing is left out, and with it the noise that is to hide its flaws: the next one begins at level 0 unless told
    otherwise.

    Args:
        model: Trained with a low-resolution condition, or a cascade of such models, perhaps after one that makes small images.
        scale: Enlargement; None: the model's own, or that of all stages. The first of the stages give less; the last one is repeated for
            more.
        tile: Side of a tile, in pixels of the result; None: the size that the model, or each stage, was trained at.
        overlap: Pixels that neighbouring tiles share at least; None: a quarter of a tile.
        batch_size: Tiles in a pass of the network.
        class_: Class of all pictures, by name or label; None: the null class, or the first one where the model has no null class.
        consistent: Project at every step, at the end of each pass and at the very end onto the pictures whose reduction is the given one.
        stages: For a cascade, settings of single stages by their number in it, as for ``Cascade.job``.
        wish: Further arguments of ``Model.job``: sampler, variance, steps, grid, calls, guidance, level, clip, seed.

    Attributes:
        job: The sampling settings, resolved.
        passes: The enlargements, in order.

    Raises:
        CapabilityError: The model begins from no low-resolution image.
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
        stages: StageSettings | None = None,
        **wish: Any,
    ):
        self.model, self.consistent, self.batch = model, consistent, batch_size
        every = model.stages if isinstance(model, Cascade) else (model,)
        own = [stage for stage in every if stage.stage.conditioner.part(LowRes) is not None]
        if not own:
            raise CapabilityError("this model begins from no low-resolution image; give one trained by a recipe such as sr3-64-256")
        self.scale, count = _reached([_low_res(stage).config.scale for stage in own], scale)
        own, made = own[:count], len(every) - len(own)
        settings = _settings_of(stages or {}, made, len(own), len(every), self.scale)
        if made and wish.get("level") is None:  # the level against the flaws of the stage that is left out
            settings.setdefault(1, {}).setdefault("level", 0.0)
        whole = own[0] if len(own) == 1 else Cascade(own)
        name = _class(whole, own, class_)
        wish |= {"num": 1, "classes": None if name is None else {name: 1}}
        if isinstance(whole, Cascade):
            self.job = whole.job(stages=settings, **wish)
            jobs = whole.parts(self.job)
        else:
            alone = {key: value for key, value in settings.get(1, {}).items() if key != "truncated"}  # there is no stage to be stopped
            self.job = whole.job(**{**wish, **alone})
            jobs = [self.job]
        if consistent and any(job.noised for job in jobs):
            raise ConfigError("a truncated stage hands on noise, and no picture can be consistent with that; leave out one of the two")
        self.passes: tuple[Pass, ...] = ()
        for number in range(count):
            at = min(number, len(own) - 1)
            size = own[at].facts.size if tile is None else (tile, tile)
            if batch_size < 1 or min(size) < 1:
                raise ConfigError(f"tiles of {size[0]}x{size[1]}, {batch_size} in a pass; give at least 1")
            if size[0] * size[1] > LARGEST:
                raise ConfigError(f"tiles of {size[0]}x{size[1]} are more than {LARGEST >> 20} million pixels; give a smaller tile")
            shared = min(size) // 4 if overlap is None else overlap
            last = number >= len(own) - 1
            one = Pass(own[at], _low_res(own[at]), jobs[at], size, shared, number - at, last)
            one.tiled(own[at].stage.denoiser)  # a mistake is found before anything is made
            self.passes += (one,)

    @property
    def settings(self) -> dict[str, Any]:
        """All that pictures depend on beside the model, as plain values."""
        known = ("labels", "sampler", "steps", "grid", "guidance", "seed", "clip", "level", "before", "noised")
        job = {name: value for name, value in self.job.to_dict().items() if name in known}
        stages = [one for one in self.passes if not one.repeat]
        tiles, overlaps = [list(one.tile) for one in stages], [one.overlap for one in stages]
        own = {"tile": tiles, "overlap": overlaps} if len(stages) > 1 else {"tile": tiles[0], "overlap": overlaps[0]}
        return {"scale": self.scale, **own, "consistent": self.consistent, **job}

    # --- work ------------------------------------------------------------------------------------------------------------

    def work(self, height: int, width: int, channels: int) -> int | None:
        """What one sample of a picture costs: tiles times steps, over all passes; what ``on_work`` is told adds up to it.

        None where the sampler chooses its steps itself.

        Raises:
            ConfigError: The result would be too large.
        """
        self.check(height, width)
        total = 0
        for one in self.passes:
            steps = one.steps
            if steps is None:
                return None
            total += self._rows(channels) * one.tiles(height, width) * steps
            height, width = height * one.scale, width * one.scale
        return total

    def _rows(self, channels: int) -> int:
        """Images of the model that a picture becomes."""
        return 3 if self.model.facts.channels == 1 and channels >= 3 else 1

    def together(self, height: int, width: int, channels: int) -> int:
        """Samples of a picture that are made at once."""
        return max(1, self.batch // (self.passes[0].tiles(height, width) * self._rows(channels)))

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
        for one in self.passes:
            x = self._once(one, x, one.noise(ids), on_work)
            x = x.clamp(-1, 1) if one.last else x
        if self.consistent:
            # All passes together: reduced in one step, a picture of several would not be quite the given one otherwise.
            project = _back(self.passes[-1].low_res, low.to(x.device, torch.float32), self.scale)
            x = project.bounded(x)
            if (reached := project.decibels(x)) < CONSISTENT:
                warnings.warn(
                    f"no picture reduces to the given one exactly; the nearest that was found does to {reached:.1f} dB", stacklevel=2
                )
        return x.cpu()

    def _once(self, one: Pass, low: Tensor, noise: Noise, on_work: OnWork | None) -> Tensor:
        model, job, scale = one.model, one.job, one.scale
        height, width = low.shape[2] * scale, low.shape[3] * scale
        tall, wide = one.canvas(low.shape[2], low.shape[3])
        filled = mirrored(low, tall // scale, wide // scale)
        cond: dict[str, Tensor] = dict(one.low_res.prepare(filled, level=job.level, noise=noise, noised=bool(job.noised)))
        if job.labels is not None:
            cond["label"] = torch.full((len(low),), job.labels[0], device=low.device)
        shape = (low.shape[1], tall, wide)
        meter = _Meter(on_work)
        meter.step = one.tiles(low.shape[2], low.shape[3]) * len(low)

        def tiles(inner: Denoiser) -> Denoiser:
            return one.tiled(inner, batch=self.batch, on_tiles=meter.tiles)

        if model.stage.prior.clean:
            blank, t = low.new_zeros(len(low), *shape), torch.zeros(len(low), dtype=torch.float64)
            x = tiles(_Answers(model.stage.denoiser))(blank, t, cond).mean
            meter.done()
        else:
            denoiser = model.denoiser(job, [*job.guidance, tiles])
            if self.consistent:
                denoiser = Consistent(denoiser, _back(one.low_res, filled, scale), clip=job.clip is not False)
            x, t = model.stage.prior.sample(shape, cond=cond, noise=noise.sub("prior"))
            plan = model.plan(job, t_start=t)
            x = sample(denoiser, model.sampler(job), plan, x.to(low.device), cond=cond, noise=noise, on_step=lambda *_: meter.done()).x
        x = x[..., :height, :width]
        if self.consistent and one is not self.passes[-1]:
            x = _back(one.low_res, low, scale).bounded(x)
        return x

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
        together = self.together(low.shape[2], low.shape[3], len(planes))
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


def _back(low_res: LowRes, low: Tensor, scale: int) -> BackProjection:
    return BackProjection(partial(shrink, scale=scale, down=low_res.config.down), low, scale)


def _low_res(model: Model) -> LowRes:
    part = model.stage.conditioner.part(LowRes)
    assert part is not None
    return part


def _reached(scales: Sequence[int], wanted: int | None) -> tuple[int, int]:
    """The enlargement, and the number of passes that reach it by enlargements ``scales`` of which the last may be repeated."""
    reached = [1]
    while len(reached) <= len(scales) + 2 or (wanted is not None and reached[-1] < wanted):
        reached.append(reached[-1] * scales[min(len(reached), len(scales)) - 1])
    total = reached[len(scales)] if wanted is None else wanted
    if total not in reached[1:]:
        given, more = ", ".join(map(str, reached[1 : len(scales) + 3])), f" or another power of {scales[0]}" if len(scales) == 1 else ""
        raise ConfigError(f"scale {total}, and this model enlarges {reached[len(scales)]} times; give {given}{more}")
    return total, reached.index(total)


def _settings_of(stages: StageSettings, made: int, count: int, every: int, scale: int) -> dict[int, dict[str, Any]]:
    """Settings by the number of a stage among those that enlarge: ``count`` of ``every`` stages, after the first ``made`` ones."""
    for number in stages:
        if not 1 <= number <= every:
            raise ConfigError(f"settings of stage {number}, and the stages are 1 to {every}")
        if number <= made:
            raise ConfigError(f"settings of stage {number}, which makes its images from nothing and takes no part in enlarging")
        if number > made + count:
            raise ConfigError(f"settings of stage {number}, which takes no part in enlarging {scale} times; leave them out")
    return {number - made: dict(settings) for number, settings in stages.items()}


def _class(whole: Model, stages: Sequence[Model], given: str | None) -> str | None:
    """The class by which pictures are enlarged."""
    if given is not None or all(model.stage.conditioner.part(Label) is None for model in stages):
        return given
    if whole.null is not None:
        return "null"
    name = whole.classes[0]
    warnings.warn(f"this model is class-conditional; enlarging as '{name}', give a class for better results", stacklevel=4)
    return name
