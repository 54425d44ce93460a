"""The contracting half of the ADM U-Net, which the U-Net and the noisy classifier share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from mezzotint.configs import EncoderConfig, SongUNetConfig, SR3Config, UNetConfig
from mezzotint.errors import ConfigError
from mezzotint.nn.attention import SelfAttention, head_count
from mezzotint.nn.backbone import Backbone, check_unet
from mezzotint.nn.embeddings import TimeEmbedding
from mezzotint.nn.norm import GroupNorm, groups_for
from mezzotint.nn.resample import Resample, double, halve
from mezzotint.nn.residual import ResidualBlock


class Block(nn.Module):
    """A residual block and, at some levels, attention.

    Args:
        residual: The residual block.
        attention: The attention after it, or None.
    """

    def __init__(self, residual: ResidualBlock, attention: SelfAttention | None):
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, h: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """Maps features ``[b, c, h, w]``, cut to the size of ``skip`` and followed by its channels where there is one."""
        if skip is not None:
            h = torch.cat([h[:, :, : skip.shape[2], : skip.shape[3]], skip], dim=1)
        h = self.residual(h, embedding)
        return h if self.attention is None else self.attention(h)


class Level(nn.Module):
    """The blocks of one resolution and the way to the next.

    Args:
        blocks: The blocks, in order.
        resample: What leads to the next level, or None at the last.
    """

    def __init__(self, blocks: list[Block], resample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample


class Middle(nn.Module):
    """Residual block, attention or none, residual block at the coarsest resolution."""

    def __init__(self, before: ResidualBlock, attention: SelfAttention | None, after: ResidualBlock):
        super().__init__()
        self.before = before
        self.attention = attention
        self.after = after

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Maps features ``[b, c, h, w]`` to the same shape."""
        h = self.before(h, embedding)
        return self.after(h if self.attention is None else self.attention(h), embedding)


def level_widths(config: UNetConfig | EncoderConfig | SongUNetConfig | SR3Config) -> list[int]:
    """Channels of each level, finest first; fractions are cut off.

    Raises:
        ConfigError: No level, or a level without a channel.
    """
    widths = [int(mult * config.width) for mult in config.mults]
    if not widths or min(widths) < 1:
        raise ConfigError(f"width={config.width} with mults={config.mults} gives the channels {widths}; each level needs at least 1")
    return widths


class Trunk(Backbone):
    """Time embedding, first convolution, contracting levels and middle: what backbones of the ADM family begin with.

    Attributes:
        group_channels: Fewest channels of a group of the normalisations.
        skip_channels: Channels of what each stage hands to the way up.

    Args:
        config: The settings.
        in_channels: Channels of the first convolution's input.
        accepts: The conditions.

    Raises:
        ConfigError: Settings that cannot be built.

    Source: Dhariwal & Nichol 2021, section 3.
    """

    def __init__(self, config: UNetConfig | EncoderConfig, in_channels: int, accepts: Collection[str] = ()):
        super().__init__()
        widths = level_widths(config)
        check_unet(config, len(widths))
        self.config = config
        self.checkpointing = config.checkpointing
        self.accepts = frozenset(accepts)
        self.group_channels = getattr(config, "group_channels", 1)
        self.embed_channels = 4 * config.width
        self.time_embed = TimeEmbedding(config.width, self.embed_channels)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        taps = ["stem"]
        levels, skips, channels = [], [widths[0]], widths[0]
        for i, width in enumerate(widths):
            blocks = []
            for j in range(config.blocks):
                blocks.append(self._block(channels, width, attention=2**i in config.attention, heads=config.heads))
                channels = width
                skips.append(width)
                taps.append(f"down.{i}.blocks.{j}")
            resample = None
            if i < len(widths) - 1:
                resample = self._resample(width, up=False)
                skips.append(width)
                taps.append(f"down.{i}.resample")
            levels.append(Level(blocks, resample))
        self.down = nn.ModuleList(levels)
        attention = self._attention(channels, config.heads) if getattr(config, "attention_middle", True) else None
        self.middle = Middle(self._residual(channels, channels), attention, self._residual(channels, channels))
        self.taps: tuple[str, ...] = (*taps, "middle")
        self.skip_channels: tuple[int, ...] = tuple(skips)

    def _residual(self, in_channels: int, out_channels: int, resample: str | None = None) -> ResidualBlock:
        return ResidualBlock(
            in_channels,
            out_channels,
            self.embed_channels,
            scale_shift=self.config.scale_shift,
            dropout=self.config.dropout,
            resample={"up": double, "down": halve, None: None}[resample],
            norm=self._norm,
        )

    def _norm(self, channels: int) -> GroupNorm:
        return GroupNorm(channels, groups_for(channels, self.group_channels))

    def _attention(self, channels: int, heads: int) -> SelfAttention:
        return SelfAttention(channels, head_count(channels, heads, self.config.head_channels), self.config.attention_order, norm=self._norm)

    def _block(self, in_channels: int, out_channels: int, *, attention: bool, heads: int) -> Block:
        return Block(self._residual(in_channels, out_channels), self._attention(out_channels, heads) if attention else None)

    def _resample(self, channels: int, *, up: bool) -> nn.Module:
        direction = "up" if up else "down"
        if self.config.resample == "block":
            return self._residual(channels, channels, direction)
        return Resample(channels, direction, conv=self.config.resample == "conv")

    def _contract(self, x: Tensor, embedding: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yields the tap and the features of each stage, up to the middle."""
        h = self.stem(x.to(self.stem.weight.dtype))
        yield "stem", h
        for i, level in enumerate(self.down):
            level = cast(Level, level)
            for j, block in enumerate(level.blocks):
                h = self._run(block, h, embedding)
                yield f"down.{i}.blocks.{j}", h
            if level.resample is not None:
                h = self._run(level.resample, h, embedding)
                yield f"down.{i}.resample", h
        yield "middle", self._run(self.middle, h, embedding)
