"""Conditioners: what of a batch the denoiser is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mezzotint.configs import DiscreteConfig, LabelConfig, LowResConfig
from mezzotint.errors import CapabilityError, ConfigError, DataError
from mezzotint.noise import Noise
from mezzotint.process import add_noise
from mezzotint.registry import register
from mezzotint.resolution import blur, degraded, enlarge, parse_degradations
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.types import Batch, Cond

C = TypeVar("C", bound="Conditioner")
BLUR_RADIUS = 1


class Conditioner(nn.Module):
    """Batch -> Cond.

    Attributes:
        makes: Names of the conditions that it makes.
    """

    makes: frozenset[str] = frozenset()

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        """The conditions of a batch; with ``training``, dropped and augmented as the settings say."""
        raise NotImplementedError

    def part(self, kind: type[C]) -> C | None:
        """The conditioner of a kind: this one, or one that it is made of; None: there is none."""
        return self if isinstance(self, kind) else None


class Unconditional(Conditioner):
    """No conditions."""

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        return {}


@register("conditioner", "label")
class Label(Conditioner):
    """Class labels; in training each is replaced by the null class with probability ``drop``, independently.

    The null class has the number ``num_classes``; the network's table then needs ``rows`` = num_classes + 1 rows.

    Source: Ho & Salimans 2022, algorithm 1.
    """

    makes = frozenset({"label"})

    def __init__(self, config: LabelConfig):
        super().__init__()
        if config.num_classes < 1:
            raise ConfigError("class labels need at least one class; use data with class folders, or an unconditional recipe")
        if not 0 <= config.drop < 1:
            raise ConfigError(f"label.drop {config.drop} is not in [0, 1)")
        self.num_classes, self.drop = config.num_classes, config.drop

    @property
    def rows(self) -> int:
        """Rows that the network's label table needs."""
        return self.num_classes + (self.drop > 0)

    def null(self, cond: Cond) -> Cond:
        """The conditions with each label replaced by the null class.

        Raises:
            ConfigError: The model was trained without a null class.
        """
        if self.drop == 0:
            raise ConfigError("this model was trained without a null class (label.drop 0)")
        return {**cond, "label": torch.full_like(cond["label"], self.num_classes)}

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        label = batch.label
        if label is None:
            raise DataError("the data has no labels, and the recipe needs them; use class folders, or an unconditional recipe")
        if training and self.drop > 0:
            dropped = noise.uniform((len(label),), name="label drop") < self.drop
            label = torch.where(dropped.to(label.device), self.num_classes, label)
        return {"label": label}


@register("conditioner", "low_res")
class LowRes(Conditioner):
    """The image at a lower resolution, made from the images themselves, brought to their size, and perhaps given noise or blur.

    "low_res" is ``[b, c, h, w]`` at the size of x; "low_res_level" the time ``[b]`` float64 of the noise that it was given, where the
    settings have such noise. z_s = alpha(s) low + sigma(s) eps is made at the low resolution and is not rescaled.

    Attributes:
        schedule: The process of the noise, or None.

    Raises:
        ConfigError: Settings that cannot be.

    Source: Saharia et al. 2021 (SR3), section 2.2; Ho et al. 2021 (CDM), section 4.
    """

    def __init__(self, config: LowResConfig):
        super().__init__()
        low, high = config.blur_sigma
        if config.scale < 2:
            raise ConfigError(f"low_res.scale {config.scale}; give at least 2")
        if not 0 <= config.blur <= 1 or not 0 < low <= high:
            raise ConfigError(f"low_res.blur {config.blur} with sigma from {low} to {high}; give a probability, and 0 < low <= high")
        parse_degradations(config.degrade)  # a slip of the pen is told before training begins
        self.config = config
        self.schedule: Schedule | None = None
        if config.augment != "none":
            self.schedule = build_schedule(DiscreteConfig(betas=config.augment, steps=config.augment_steps))
        self.makes = frozenset({"low_res"} if self.schedule is None else {"low_res", "low_res_level"})

    def reduce(self, images: Tensor, *, noise: Noise) -> Tensor:
        """The low-resolution images ``[b, c, ceil(h / scale), ceil(w / scale)]`` of images ``[b, c, h, w]``, degraded but not augmented."""
        return degraded(images, self.config, noise=noise.sub("low_res"))

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        config, low = self.config, self.reduce(batch.images, noise=noise)
        own = noise.sub("low_res")
        level = torch.zeros(len(low), dtype=torch.float64)
        if training and config.blur > 0:
            least, most = config.blur_sigma
            sigma = least + (most - least) * own.uniform((len(low),), name="blur sigma")
            chosen = own.uniform((len(low),), name="blurred") < config.blur
            low = blur(low, torch.where(chosen, sigma, 0.0), radius=BLUR_RADIUS)
        if training and self.schedule is not None:  # of the levels 0 .. T, the first is no noise at all
            count = config.augment_steps + 1
            level = (own.uniform((len(low),), name="level", dtype=torch.float64) * count).long() / config.augment_steps
        return self.prepare(low, level=level, noise=noise, size=batch.images.shape[2:])

    def prepare(
        self,
        low: Tensor,
        *,
        level: float | Tensor | None = None,
        noise: Noise | None = None,
        noised: bool = False,
        size: Sequence[int] | None = None,
    ) -> Cond:
        """The condition from low-resolution images.

        Args:
            low: ``[b, c, h, w]`` in [-1, 1].
            level: Time of the noise that the images are given, or one for each of them ``[b]``; None: 0, no noise.
            noise: Random streams, needed where a level is above 0.
            noised: The images are at that level already, as where the stage before stopped at it.
            size: Height and width of x; None: ``scale`` times those of the images.

        Raises:
            CapabilityError: A level above 0, and the model was trained without noise on low-resolution images.
            ConfigError: A level outside [0, 1].
        """
        times = torch.as_tensor(0.0 if level is None else level, dtype=torch.float64).cpu().expand(len(low))
        if not bool(((times >= 0) & (times <= 1)).all()):
            raise ConfigError(f"augmentation level {float(times.min())} to {float(times.max())}; levels are from 0 (no noise) to 1")
        given = bool((times > 0).any())
        if given and self.schedule is None:
            raise CapabilityError("this model was trained without noise on its low-resolution images; leave out the level")
        if given and not noised:
            assert self.schedule is not None
            if noise is None:
                raise ConfigError("low-resolution images are given noise, and there are no random streams; give `noise`")
            eps = noise.sub("low_res").normal(tuple(low.shape), name="augmentation", dtype=low.dtype, device=low.device)
            low = add_noise(self.schedule, low, eps, times)
        wanted = [side * self.config.scale for side in low.shape[2:]] if size is None else size
        cond = {"low_res": enlarge(low, wanted, up=self.config.up)}
        return cond if self.schedule is None else {**cond, "low_res_level": times}


class Augmentation(Conditioner):
    """How an image was changed before it was trained on, where the batch says so; at all other times nothing, which means unchanged.

    Source: Karras et al. 2022 (EDM), appendix F.2.
    """

    makes = frozenset({"augment"})

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        return {"augment": batch.extras["augment"]} if "augment" in batch.extras else {}


class Together(Conditioner):
    """The conditions of several conditioners.

    Args:
        parts: The conditioners; no two make the same condition.
    """

    def __init__(self, parts: Sequence[Conditioner]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.makes = frozenset().union(*(part.makes for part in parts))

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        cond: dict[str, Tensor] = {}
        for part in self.parts:
            cond.update(part(batch, t=t, noise=noise, training=training))
        return cond

    def part(self, kind: type[C]) -> C | None:
        return next((found for inner in self.parts if isinstance(inner, Conditioner) and (found := inner.part(kind)) is not None), None)
