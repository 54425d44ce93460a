"""The U-Net of SR3."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.configs import SR3Config
from mezzotint.errors import ConfigError
from mezzotint.nn.attention import SelfAttention
from mezzotint.nn.backbone import Backbone, check_unet
from mezzotint.nn.embeddings import LEVEL_SCALE, sinusoidal
from mezzotint.nn.head import Head
from mezzotint.nn.norm import GroupNorm
from mezzotint.nn.precision import full_precision
from mezzotint.nn.resample import Resample, double, halve
from mezzotint.nn.residual import ResidualBlock
from mezzotint.nn.trunk import Block, Level, Middle, level_widths
from mezzotint.registry import register
from mezzotint.types import Cond

SCALE = math.sqrt(0.5)
"""Factor of the sums of networks with rescaled skip connections."""


class LevelEmbedding(nn.Module):
    """Waves of a number at geometrically spaced frequencies, and a perceptron that widens and narrows again.

    Args:
        width: Length of the embedding.
        stored: Keep the frequencies among the weights, as files of networks that are told an index do.

    Source: Chen et al. 2021 (WaveGrad), section 3.2, without its factor of 5000.
    """

    frequencies: Tensor

    def __init__(self, width: int, *, stored: bool = False):
        super().__init__()
        self.width, self.stored = width, stored
        if stored:
            self.register_buffer("frequencies", torch.exp(torch.arange(width // 2) * (-math.log(10_000.0) / (width // 2))))
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, value: Tensor) -> Tensor:
        """Embeds numbers ``[b]`` as ``[b, width]``."""
        with full_precision(value.device):
            if self.stored:
                angles = value.float()[:, None] * self.frequencies.float()
                waves = torch.cat([angles.sin(), angles.cos()], dim=1)
            else:
                waves = sinusoidal(value, self.width, sine_first=True)
            return self.out(F.silu(self.hidden(waves.to(self.hidden.weight.dtype))))


@register("network", "sr3")
class SR3(Backbone):
    """A U-Net that is told the noise level, and sees a low-resolution image, brought to the size of x, beside x.

    Sizes that do not halve evenly are rounded up on the way down, and cut on the way up.

    Args:
        config: The settings, with ``in_channels`` and ``out_channels`` filled in.

    Raises:
        ConfigError: Settings that cannot be built.

    Source: Saharia et al. 2021 (SR3), section 2.2 and appendix A.
    """

    def __init__(self, config: SR3Config):
        super().__init__()
        if config.num_classes is not None and config.num_classes < 1:
            raise ConfigError(f"num_classes={config.num_classes} must be at least 1; None makes a network without labels")
        widths = level_widths(config)
        check_unet(config, len(widths))
        self.config = config
        self.checkpointing = config.checkpointing
        self.out_channels = config.out_channels
        conditions = {
            "label": config.num_classes is not None,
            "low_res": config.low_res_channels > 0,
            "low_res_level": config.low_res_level,
        }
        self.accepts = frozenset(name for name, used in conditions.items() if used)
        self.time_embed = LevelEmbedding(config.width, stored=config.waves == "index")
        self.level_embed = LevelEmbedding(config.width) if config.low_res_level else None
        self.label_embed = None if config.num_classes is None else nn.Embedding(config.num_classes, config.width)
        self.stem = nn.Conv2d(config.low_res_channels + config.in_channels, config.width, 3, padding=1)

        levels, skips, channels, taps = [], [config.width], config.width, ["stem"]
        for i, width in enumerate(widths):
            blocks = []
            for j in range(config.blocks):
                blocks.append(self._block(channels, width, attention=2**i in config.attention))
                channels = width
                skips.append(width)
                taps.append(f"down.{i}.blocks.{j}")
            if i < len(widths) - 1:
                skips.append(width)
                taps.append(f"down.{i}.resample")
            levels.append(Level(blocks, self._resample(width, up=False) if i < len(widths) - 1 else None))
        self.down = nn.ModuleList(levels)
        self.middle = Middle(self._residual(channels, channels), self._attention(channels), self._residual(channels, channels))
        taps.append("middle")

        levels = []
        for i, width in reversed(list(enumerate(widths))):
            blocks = []
            for j in range(config.blocks + 1):
                blocks.append(self._block(channels + skips.pop(), width, attention=2**i in config.attention))
                channels = width
                taps.append(f"up.{i}.blocks.{j}")
            if i:
                taps.append(f"up.{i}.resample")
            levels.append(Level(blocks, self._resample(width, up=True) if i else None))
        self.up = nn.ModuleList(reversed(levels))
        self.head = Head(widths[0], config.out_channels, norm=self._norm)
        self.taps = tuple(taps)

    def _norm(self, channels: int) -> GroupNorm:
        if channels % self.config.groups:
            raise ConfigError(f"groups={self.config.groups} does not divide {channels} channels; choose a divisor of every width")
        return GroupNorm(channels, self.config.groups)

    def _residual(self, in_channels: int, out_channels: int, *, up: bool | None = None) -> ResidualBlock:
        return ResidualBlock(
            in_channels,
            out_channels,
            self.config.width,
            scale_shift=False,
            dropout=self.config.dropout,
            resample=None if up is None else double if up else halve,
            norm=self._norm,
            scale=SCALE if self.config.rescale else 1.0,
        )

    def _attention(self, channels: int) -> SelfAttention:
        return SelfAttention(channels, 1, "new", norm=self._norm, scale=SCALE if self.config.rescale else 1.0, bias=False)

    def _block(self, in_channels: int, out_channels: int, *, attention: bool) -> Block:
        return Block(self._residual(in_channels, out_channels), self._attention(out_channels) if attention else None)

    def _resample(self, channels: int, *, up: bool) -> nn.Module:
        if self.config.resample == "block":
            return self._residual(channels, channels, up=up)
        return Resample(channels, "up" if up else "down", conv=True)

    def _embedding(self, time_input: Tensor, cond: Cond) -> Tensor:
        embedding = self.time_embed(time_input)
        if self.label_embed is not None:
            embedding = embedding + self.label_embed(cond["label"])
        if self.level_embed is not None:
            embedding = embedding + self.level_embed(LEVEL_SCALE * cond["low_res_level"].to(time_input.device))
        return F.silu(embedding) if self.config.waves == "index" else embedding

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        self._check(cond)
        embedding = self._embedding(time_input, cond)
        if "low_res" in self.accepts:
            low_res = cond["low_res"]
            if low_res.shape[2:] != x.shape[2:]:
                raise ConfigError(
                    f"low_res of {tuple(low_res.shape[2:])} beside x of {tuple(x.shape[2:])}; bring it to the size of x first"
                )
            x = torch.cat([low_res.to(x.dtype), x], dim=1)
        h = self.stem(x.to(self.stem.weight.dtype))
        skips = [h]
        yield "stem", h
        for i, level in enumerate(self.down):
            level = cast(Level, level)
            for j, block in enumerate(level.blocks):
                h = self._run(block, h, embedding)
                skips.append(h)
                yield f"down.{i}.blocks.{j}", h
            if level.resample is not None:
                h = self._run(level.resample, h, embedding)
                skips.append(h)
                yield f"down.{i}.resample", h
        h = self._run(self.middle, h, embedding)
        yield "middle", h
        for i in reversed(range(len(self.up))):
            level = cast(Level, self.up[i])
            for j, block in enumerate(level.blocks):
                h = self._run(block, h, embedding, skips.pop())
                yield f"up.{i}.blocks.{j}", h
            if level.resample is not None:
                h = self._run(level.resample, h, embedding)
                yield f"up.{i}.resample", h
        yield "output", self.head(h)
