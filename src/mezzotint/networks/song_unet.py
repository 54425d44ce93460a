"""The U-Nets of score_sde in EDM's form: DDPM++, NCSN++ and what lies between them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.configs import SongUNetConfig
from mezzotint.errors import ConfigError
from mezzotint.nn.attention import SelfAttention
from mezzotint.nn.backbone import check_unet
from mezzotint.nn.embeddings import TimeEmbedding
from mezzotint.nn.growing import Growing
from mezzotint.nn.head import Head
from mezzotint.nn.norm import GroupNorm, groups_for
from mezzotint.nn.resample import Filter
from mezzotint.nn.residual import ResidualBlock
from mezzotint.nn.trunk import Block, Level, Middle, level_widths
from mezzotint.registry import register
from mezzotint.types import Cond

GROUP_CHANNELS = 4
EPS = 1e-6
SCALE = math.sqrt(0.5)


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(channels, groups_for(channels, GROUP_CHANNELS), eps=EPS)


class ClassTable(nn.Module):
    """One row a class, scaled by the root of their number, and a bias; the label one beyond the last class stands for none.

    Args:
        classes: Number of classes.
        out: Length of the embedding.
    """

    def __init__(self, classes: int, out: int):
        super().__init__()
        limit = math.sqrt(6 / (classes + out))
        self.weight = nn.Parameter(torch.empty(classes, out).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, label: Tensor) -> Tensor:
        """Embeds labels ``[b]`` as ``[b, out]``."""
        table = F.pad(self.weight * math.sqrt(len(self.weight)), (0, 0, 0, 1))
        return F.embedding(label, table) + self.bias


class Side(nn.Module):
    """What the shrunk input adds to a level that has just been entered.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the level.
        config: The settings; ``encoder`` is "skip" or "residual".

    Source: Song et al. 2021, appendix H ("input skip" and "residual" progressive growing).
    """

    def __init__(self, in_channels: int, out_channels: int, config: SongUNetConfig):
        super().__init__()
        self.residual = config.encoder == "residual"
        self.shrink = Filter(config.filter, "down", pad=not self.residual)
        # Convolved before it is shrunk, the input needs the filter's margin around it.
        size, padding = (3, 1 + self.shrink.margin) if self.residual else (1, 0)
        self.conv = nn.Conv2d(in_channels, out_channels, size, padding=padding)

    def forward(self, h: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the level's features and the input of the level before to the new features and the input of this level."""
        if not self.residual:
            side = self.shrink(side)
            return h + self.conv(side), side
        height, width = side.shape[2:]
        side = self.shrink(self.conv(F.pad(side, (0, width % 2, 0, height % 2))))
        h = (h + side) * SCALE
        return h, h


@register("network", "song_unet")
class SongUNet(Growing):
    """A U-Net with scaled residual sums, resampling residual blocks and attention of one head.

    Sizes that do not halve evenly are rounded up on the way down, and cut on the way up.

    Args:
        config: The settings, with ``in_channels`` and ``out_channels`` filled in.

    Raises:
        ConfigError: Settings that cannot be built.

    Source: Song et al. 2021, appendix H; Karras et al. 2022, appendix F.2.
    """

    def __init__(self, config: SongUNetConfig):
        super().__init__()
        widths = level_widths(config)
        check_unet(config, len(widths))
        if config.num_classes is not None and config.num_classes < 1:
            raise ConfigError(f"num_classes={config.num_classes} must be at least 1; None makes a network without labels")
        self.config = config
        self.checkpointing = config.checkpointing
        self.out_channels = config.out_channels
        self.accepts = frozenset({"label"} if config.num_classes else ()) | frozenset({"augment"} if config.augment else ())
        self.optional = frozenset({"augment"})
        waves = config.noise_mult * config.width
        self.embed_channels = config.embed_mult * config.width
        self.time_embed = TimeEmbedding(waves, self.embed_channels, shift=1, sine_first=True, fourier=config.embedding == "fourier")
        self.label_embed = ClassTable(config.num_classes, waves) if config.num_classes else None
        self.augment_embed = nn.Linear(config.augment, waves, bias=False) if config.augment else None
        self.stem = nn.Conv2d(config.in_channels, config.width, 3, padding=1)

        levels, sides, skips, channels, side = [], [], [config.width], config.width, config.in_channels
        taps = ["stem"]
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
                if config.encoder != "plain":
                    sides.append(Side(side, width, config))
                    side = width if config.encoder == "residual" else side
            levels.append(Level(blocks, self._residual(width, width, "down") if i < len(widths) - 1 else None))
        self.down = nn.ModuleList(levels)
        self.sides = nn.ModuleList(sides)
        middle = [self._residual(channels, channels) for _ in range(2)]
        self.middle = Middle(middle[0], SelfAttention(channels, 1, "new", norm=_norm, scale=SCALE), middle[1])
        taps.append("middle")

        levels = []
        for i, width in reversed(list(enumerate(widths))):
            blocks = []
            for j in range(config.blocks + 1):
                attention = j == config.blocks and 2**i in config.attention
                blocks.append(self._block(channels + skips.pop(), width, attention=attention))
                channels = width
                taps.append(f"up.{i}.blocks.{j}")
            if i:
                taps.append(f"up.{i}.resample")
            levels.append(Level(blocks, self._residual(width, width, "up") if i else None))
        self.up = nn.ModuleList(reversed(levels))
        self.heads = nn.ModuleList(
            Head(width, config.out_channels, norm=_norm) for width in (widths if config.decoder == "skip" else widths[:1])
        )
        self.grow = Filter(config.filter, "up")
        self.taps = tuple(taps)
        self._initialise()

    def _residual(self, in_channels: int, out_channels: int, direction: Literal["down", "up"] | None = None) -> ResidualBlock:
        return ResidualBlock(
            in_channels,
            out_channels,
            self.embed_channels,
            scale_shift=False,
            dropout=self.config.dropout,
            resample=None if direction is None else Filter(self.config.filter, direction),
            norm=_norm,
            project=direction is not None,
            scale=SCALE,
        )

    def _block(self, in_channels: int, out_channels: int, *, attention: bool) -> Block:
        attend = SelfAttention(out_channels, 1, "new", norm=_norm, scale=SCALE) if attention else None
        return Block(self._residual(in_channels, out_channels), attend)

    def _initialise(self) -> None:
        """Uniform weights of the fan average, smaller where attention projects, and next to nothing where a sum is entered."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                last = name.endswith(("conv2", "attention.out")) or name.startswith("heads.")
                nn.init.xavier_uniform_(module.weight, 1e-5 if last else math.sqrt(0.2) if name.endswith("qkv") else 1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        self._check(cond)
        told = [
            embed(cond[name]) for name, embed in (("label", self.label_embed), ("augment", self.augment_embed)) if embed and name in cond
        ]
        embedding = F.silu(self.time_embed(time_input, cast(Tensor, sum(told)) if told else None))
        h = side = x.to(self.stem.weight.dtype)
        h = self.stem(h)
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
                    h, side = self.sides[i](h, side)
                skips.append(h)
                yield f"down.{i}.resample", h
        h = self._run(self.middle, h, embedding)
        yield "middle", h
        out = yield from self._expand(h, skips, embedding)
        yield "output", out
