"""The U-Net of DDPM, with the settings that diffusers gives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.configs import UNet2DConfig
from mezzotint.errors import ConfigError
from mezzotint.nn.attention import SelfAttention, head_count
from mezzotint.nn.backbone import check_unet
from mezzotint.nn.embeddings import TimeEmbedding
from mezzotint.nn.growing import Growing
from mezzotint.nn.head import Head
from mezzotint.nn.norm import GroupNorm, groups_for
from mezzotint.nn.resample import Filter, Resample, double, halve
from mezzotint.nn.residual import ResidualBlock
from mezzotint.nn.trunk import Block, Level, Middle
from mezzotint.registry import register
from mezzotint.types import Cond

TAPS = (1, 3, 3, 1)
"""Low-pass filter of progressive networks."""
SCALE = math.sqrt(0.5)
"""Factor of the sums of progressive networks."""
GROUPS = 32
"""Groups before the attention of progressive networks."""

Direction = Literal["down", "up"]


@register("network", "unet2d")
class UNet2D(Growing):
    """A U-Net that resamples by convolutions; progressive ones (NCSN++) by filters, with an input and an output at every level.

    Sizes that do not halve evenly are rounded up on the way down, and cut on the way up.

    Args:
        config: The settings, with ``in_channels`` and ``out_channels`` filled in.

    Raises:
        ConfigError: Settings that cannot be built.

    Source: Ho et al. 2020, appendix B; Song et al. 2021, appendix H (progressive).
    """

    def __init__(self, config: UNet2DConfig):
        super().__init__()
        widths = config.widths
        if not widths or min(widths) < 1:
            raise ConfigError(f"widths={widths}: give the channels of each level, each at least 1")
        if config.num_classes is not None and config.num_classes < 1:
            raise ConfigError(f"num_classes={config.num_classes} must be at least 1; None makes a network without labels")
        check_unet(config, len(widths))
        self.config = config
        self.checkpointing = config.checkpointing
        self.out_channels = config.out_channels
        self.accepts = frozenset({"label"} if config.num_classes else ())
        self.embed_channels = config.embed or 4 * widths[0]
        waves = 2 * widths[0] if config.waves == "fourier" else widths[0]
        self.time_embed = TimeEmbedding(
            waves, self.embed_channels, shift=config.wave_shift, sine_first=config.sine_first, fourier=config.waves == "fourier"
        )
        self.label_embed = nn.Embedding(config.num_classes, self.embed_channels) if config.num_classes else None
        self.stem = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        attention_up = config.attention if config.attention_up is None else config.attention_up
        steps = len(widths) - 1

        levels, skips, channels, taps = [], [widths[0]], widths[0], ["stem"]
        for i, width in enumerate(widths):
            blocks = []
            for j in range(config.blocks):
                blocks.append(Block(self._residual(channels, width), self._attention(width) if 2**i in config.attention else None))
                channels = width
                skips.append(width)
                taps.append(f"down.{i}.blocks.{j}")
            if i < steps:
                skips.append(width)
                taps.append(f"down.{i}.resample")
            levels.append(Level(blocks, self._resample(width, "down", 2**i in config.residual_down) if i < steps else None))
        self.down = nn.ModuleList(levels)
        self.middle = self._middle(channels)
        taps.append("middle")

        levels = []
        for i, width in reversed(list(enumerate(widths))):
            blocks = []
            for j in range(config.blocks + 1):
                residual = self._residual(channels + skips.pop(), width)
                attends = 2**i in attention_up
                if attends and config.progressive:
                    # Here the official networks take the groups from the channels without those of the skip connection.
                    residual.norm1 = GroupNorm(residual.conv1.in_channels, GROUPS, eps=config.eps)
                    attends = j == config.blocks
                blocks.append(Block(residual, self._attention(width) if attends else None))
                channels = width
                taps.append(f"up.{i}.blocks.{j}")
            if i:
                taps.append(f"up.{i}.resample")
            levels.append(Level(blocks, self._resample(width, "up", 2**i in config.residual_up) if i else None))
        self.up = nn.ModuleList(reversed(levels))

        aside = range(steps) if config.progressive else ()
        self.sides = nn.ModuleList(nn.Conv2d(config.in_channels, widths[i], 1) for i in aside)
        self.heads = nn.ModuleList(
            [Head(widths[0], config.out_channels, norm=self._plain_norm)]
            + [Head(widths[i + 1], config.out_channels, norm=self._norm) for i in aside]
        )
        self.shrink, self.grow = Filter(TAPS, "down"), Filter(TAPS, "up")
        self.taps = tuple(taps)

    def _plain_norm(self, channels: int) -> nn.Module:
        if channels % self.config.groups:
            raise ConfigError(f"groups={self.config.groups} does not divide {channels} channels; choose a divisor of every width")
        return GroupNorm(channels, self.config.groups, eps=self.config.eps)

    def _norm(self, channels: int) -> nn.Module:
        if self.config.progressive:
            return GroupNorm(channels, groups_for(channels, 4), eps=self.config.eps)
        return self._plain_norm(channels)

    def _residual(
        self,
        in_channels: int,
        out_channels: int,
        resample: Callable[[Tensor], Tensor] | None = None,
        *,
        norm: Callable[[int], nn.Module] | None = None,
        scale: float | None = None,
    ) -> ResidualBlock:
        progressive = self.config.progressive
        return ResidualBlock(
            in_channels,
            out_channels,
            self.embed_channels,
            scale_shift=self.config.scale_shift,
            dropout=self.config.dropout,
            resample=resample,
            norm=norm or self._norm,
            project=progressive and resample is not None,
            scale=(SCALE if progressive else 1.0) if scale is None else scale,
        )

    def _heads(self, channels: int) -> int:
        return head_count(channels, 1, self.config.head_channels)

    def _attention(self, channels: int) -> SelfAttention:
        if not self.config.progressive:
            return SelfAttention(channels, self._heads(channels), "new", norm=self._norm)
        if channels % GROUPS:
            raise ConfigError(f"progressive networks need attention at widths that {GROUPS} divides, not at {channels}")
        return SelfAttention(channels, self._heads(channels), "new", norm=lambda c: GroupNorm(c, GROUPS, eps=self.config.eps), scale=SCALE)

    def _middle(self, channels: int) -> Middle:
        config = self.config
        groups = config.groups if config.groups_middle is None else config.groups_middle
        attention = None
        if config.attention_middle:
            attention = SelfAttention(
                channels,
                self._heads(channels),
                "new",
                norm=lambda c: GroupNorm(c, groups, eps=config.eps) if groups else nn.Identity(),
                scale=config.middle_scale,
            )
        before, after = (self._residual(channels, channels, norm=self._plain_norm, scale=config.middle_scale) for _ in range(2))
        return Middle(before, attention, after)

    def _resample(self, channels: int, direction: Direction, residual: bool) -> nn.Module:
        if self.config.progressive:
            return self._residual(channels, channels, Filter(TAPS, direction))
        if residual:
            return self._residual(channels, channels, halve if direction == "down" else double)
        return Resample(channels, direction, conv=True, corner=self.config.corner)

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        self._check(cond)
        fourier = self.config.waves == "fourier"
        embedding = self.time_embed(time_input.log() if fourier else time_input)
        if self.label_embed is not None:
            embedding = embedding + self.label_embed(cond["label"])
        embedding = F.silu(embedding)
        side = x.to(self.stem.weight.dtype)
        h = self.stem(side)
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
                if len(self.sides):
                    side = self.shrink(side)
                    h = h + self.sides[i](side)
                skips.append(h)
                yield f"down.{i}.resample", h
        h = self._run(self.middle, h, embedding)
        yield "middle", h
        out = yield from self._expand(h, skips, embedding)
        yield "output", out / time_input.to(out)[:, None, None, None] if fourier else out
