"""Self-attention over the pixels of a feature map, and attention pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.errors import ConfigError
from mezzotint.nn.init import zeroed
from mezzotint.nn.norm import GroupNorm

Order = Literal["legacy", "new"]


def head_count(channels: int, heads: int, head_channels: int | None) -> int:
    """Number of attention heads at a width.

    Args:
        channels: Number of channels.
        heads: Number of heads, used where ``head_channels`` is None.
        head_channels: Channels a head.

    Raises:
        ConfigError: The heads do not divide the channels.
    """
    divisor, name = (heads, "heads") if head_channels is None else (head_channels, "head_channels")
    if divisor < 1 or channels % divisor:
        raise ConfigError(f"{name}={divisor} does not divide {channels} channels; choose a divisor of every width at which attention acts")
    return heads if head_channels is None else channels // head_channels


def split_qkv(qkv: Tensor, heads: int, order: Order) -> tuple[Tensor, Tensor, Tensor]:
    """Splits projected tokens ``[b, n, 3c]`` into q, k, v of shape ``[b, heads, n, c / heads]``.

    Args:
        qkv: The tokens.
        heads: Number of heads.
        order: "legacy": channels are laid out as (head, q|k|v, channel); "new": as (q|k|v, head, channel).
    """
    b, n, width = qkv.shape
    d = width // (3 * heads)
    # Unbound before the transposition, so that the gradients are put together in the layout of the projection.
    parts = qkv.view(b, n, heads, 3, d).unbind(3) if order == "legacy" else qkv.view(b, n, 3, heads, d).unbind(2)
    q, k, v = (part.transpose(1, 2) for part in parts)
    return q, k, v


def merge_heads(x: Tensor) -> Tensor:
    """Puts heads side by side again, ``[b, heads, n, d]`` -> ``[b, n, heads * d]``."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention of every pixel to every pixel, added to the input; the last projection starts at zero.

    Args:
        channels: Number of channels.
        heads: Number of heads; divides the channels.
        order: Layout of the 3c channels of q, k and v.
        norm: Makes the normalisation of a width.
        scale: Factor of the sum.
        bias: Whether the projection to q, k and v has one.

    Source: Dhariwal & Nichol 2021, section 3; Vaswani et al. 2017, equation 1.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        order: Order,
        *,
        norm: Callable[[int], nn.Module] = GroupNorm,
        scale: float = 1.0,
        bias: bool = True,
    ):
        super().__init__()
        self.scale = scale
        self.heads = heads
        self.order: Order = order
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[b, c, h, w]`` to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = split_qkv(self.qkv(tokens), self.heads, self.order)
        h = self.out(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        h = x + h.transpose(1, 2).view(x.shape)
        return h if self.scale == 1 else h * self.scale


class AttentionPool(nn.Module):
    """Pools a feature map by the attention of its mean to its pixels.

    Args:
        channels: Number of channels.
        heads: Number of heads; divides the channels.
        pixels: Number of pixels of the map, which the position table is made for.

    Source: Radford et al. 2021, section 2.4; Dhariwal & Nichol 2021, section 4.
    """

    def __init__(self, channels: int, heads: int, pixels: int):
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(channels, pixels + 1) / channels**0.5)
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Pools ``[b, c, h, w]`` to ``[b, c]``.

        Raises:
            ConfigError: The map has another number of pixels than the position table.
        """
        tokens = x.flatten(2).transpose(1, 2)
        if tokens.shape[1] + 1 != self.position.shape[1]:
            raise ConfigError(
                f"attention pooling was made for {self.position.shape[1] - 1} pixels, got a {x.shape[2]}x{x.shape[3]} map; "
                "use images of the size in the settings, or another pool"
            )
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + self.position.t().to(x.dtype)
        q, k, v = split_qkv(self.qkv(tokens), self.heads, "new")
        return merge_heads(F.scaled_dot_product_attention(q[:, :, :1], k, v))[:, 0]
