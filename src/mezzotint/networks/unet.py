"""The U-Net of ADM and Improved DDPM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.configs import UNetConfig
from mezzotint.errors import ConfigError
from mezzotint.nn.embeddings import LEVEL_SCALE, TimeEmbedding
from mezzotint.nn.head import Head
from mezzotint.nn.init import zeroed
from mezzotint.nn.trunk import Level, Trunk, level_widths
from mezzotint.registry import register
from mezzotint.types import Cond


@register("network", "unet")
class UNet(Trunk):
    """A U-Net with residual blocks and attention, told of the time and perhaps of a label, a low-resolution image and an augmentation.

    Sizes that do not halve evenly are rounded up on the way down, and cut on the way up.

    Attributes:
        out_channels: Channels of the output.

    Args:
        config: The settings, with ``in_channels`` and ``out_channels`` filled in.

    Raises:
        ConfigError: Settings that cannot be built.

    Source: Dhariwal & Nichol 2021, section 3; Nichol & Dhariwal 2021, appendix A; EDM's version: Karras et al. 2022, appendix F.2.
    """

    def __init__(self, config: UNetConfig):
        if config.num_classes is not None and config.num_classes < 1:
            raise ConfigError(f"num_classes={config.num_classes} must be at least 1; None makes a network without labels")
        conditions = {"label": config.num_classes is not None, "low_res": config.low_res_channels > 0, "augment": config.augment > 0}
        conditions["low_res_level"] = config.low_res_level
        super().__init__(config, config.in_channels + config.low_res_channels, [name for name, used in conditions.items() if used])
        self.optional = frozenset({"augment"})
        self.out_channels = config.out_channels
        self.augment_embed = zeroed(nn.Linear(config.augment, config.width, bias=False)) if config.augment else None
        self.label_embed = None if config.num_classes is None else nn.Embedding(config.num_classes, self.embed_channels)
        self.level_embed = TimeEmbedding(config.width, self.embed_channels) if config.low_res_level else None
        widths = level_widths(config)
        heads = config.heads if config.heads_up is None else config.heads_up
        levels, skips, channels = [], list(self.skip_channels), widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            blocks = []
            for j in range(config.blocks + 1):
                blocks.append(self._block(channels + skips.pop(), width, attention=2**i in config.attention, heads=heads))
                channels = width
                self.taps += (f"up.{i}.blocks.{j}",)
            if i:
                self.taps += (f"up.{i}.resample",)
            levels.append(Level(blocks, self._resample(width, up=True) if i else None))
        self.up = nn.ModuleList(reversed(levels))
        self.head = Head(widths[0], config.out_channels, norm=self._norm)

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        self._check(cond)
        augment = cond.get("augment")
        embedding = self.time_embed(time_input, None if augment is None or self.augment_embed is None else self.augment_embed(augment))
        if self.label_embed is not None:
            embedding = embedding + self.label_embed(cond["label"])
        if self.level_embed is not None:
            embedding = embedding + self.level_embed(LEVEL_SCALE * cond["low_res_level"].to(x.device))
        embedding = F.silu(embedding)
        if "low_res" in self.accepts:
            low_res = F.interpolate(cond["low_res"], x.shape[2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, low_res.to(x.dtype)], dim=1)
        h, skips = x, []
        for tap, h in self._contract(x, embedding):
            skips.append(h)
            yield tap, h
        skips.pop()
        for i in reversed(range(len(self.up))):
            level = cast(Level, self.up[i])
            for j, block in enumerate(level.blocks):
                h = self._run(block, h, embedding, skips.pop())
                yield f"up.{i}.blocks.{j}", h
            if level.resample is not None:
                h = self._run(level.resample, h, embedding)
                yield f"up.{i}.resample", h
        yield "output", self.head(h)
