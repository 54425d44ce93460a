"""The encoder half of the ADM U-Net with a pooling head: the noisy classifier."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.configs import EncoderConfig
from mezzotint.errors import ConfigError
from mezzotint.nn.attention import AttentionPool, head_count
from mezzotint.nn.init import zeroed
from mezzotint.nn.norm import GroupNorm
from mezzotint.nn.precision import full_precision
from mezzotint.nn.trunk import Trunk, level_widths
from mezzotint.registry import register
from mezzotint.types import Cond

SPATIAL_WIDTH = 2048


class AdaptiveHead(nn.Module):
    """Normalised mean over the pixels of the middle, and a linear layer that starts at zero."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.norm = GroupNorm(channels)
        self.out = zeroed(nn.Linear(channels, out))

    def pool(self, h: Tensor) -> Tensor:
        """Pools the middle ``[b, c, h, w]`` to ``[b, c]``."""
        return F.silu(self.norm(h)).mean(dim=(2, 3))


class AttentionHead(nn.Module):
    """Attention pooling of the normalised middle, and a linear layer."""

    def __init__(self, channels: int, heads: int, pixels: int, out: int):
        super().__init__()
        self.norm = GroupNorm(channels)
        self.attention = AttentionPool(channels, heads, pixels)
        self.out = nn.Linear(channels, out)

    def pool(self, h: Tensor) -> Tensor:
        """Pools the middle ``[b, c, h, w]`` to ``[b, c]``."""
        return self.attention(F.silu(self.norm(h)))


class SpatialHead(nn.Module):
    """Means over the pixels of every stage, and a perceptron: with ReLU, or ("spatial_v2") with normalisation and SiLU."""

    def __init__(self, channels: int, out: int, *, normalised: bool):
        super().__init__()
        self.hidden = nn.Linear(channels, SPATIAL_WIDTH)
        self.norm = GroupNorm(SPATIAL_WIDTH) if normalised else None
        self.out = nn.Linear(SPATIAL_WIDTH, out)

    def pool(self, means: Tensor) -> Tensor:
        """Maps the means of all stages ``[b, sum of c]`` to ``[b, 2048]``."""
        hidden = self.hidden(means)
        return F.relu(hidden) if self.norm is None else F.silu(self.norm(hidden))


@register("network", "encoder")
class Encoder(Trunk):
    """A classifier of noised images: logits ``[b, K]`` from ``x`` and the time.

    Besides the maps of the trunk, the tap "pooled" gives the pooled features before the last linear layer.

    Attributes:
        out_channels: Number of classes K.

    Args:
        config: The settings, with ``in_channels``, ``out_channels`` and, for attention pooling, ``image_size`` filled in.

    Raises:
        ConfigError: Settings that cannot be built.

    Source: Dhariwal & Nichol 2021, section 4 and appendix.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__(config, config.in_channels)
        self.out_channels = config.out_channels
        self.taps += ("pooled",)
        channels = level_widths(config)[-1]
        if config.pool == "adaptive":
            self.head = AdaptiveHead(channels, config.out_channels)
        elif config.pool == "attention":
            if min(config.image_size) < 1:
                raise ConfigError(f"image_size={config.image_size}: attention pooling needs it; give it or choose another pool")
            factor = 2 ** (len(config.mults) - 1)
            height, width = (-(-side // factor) for side in config.image_size)
            heads = head_count(channels, config.heads, config.head_channels)
            self.head = AttentionHead(channels, heads, height * width, config.out_channels)
        else:
            widths = sum(self.skip_channels) + channels
            self.head = SpatialHead(widths, config.out_channels, normalised=config.pool == "spatial_v2")

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        self._check(cond)
        h, means = x, []
        for tap, h in self._contract(x, F.silu(self.time_embed(time_input))):
            if isinstance(self.head, SpatialHead):
                means.append(h.mean(dim=(2, 3)))
            yield tap, h
        with full_precision(x.device):
            pooled = self.head.pool((torch.cat(means, dim=1) if means else h).to(self.head.out.weight.dtype))
            out = self.head.out(pooled)
        yield "pooled", pooled
        yield "output", out
