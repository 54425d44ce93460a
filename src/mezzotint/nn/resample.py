"""Halving and doubling of feature maps of any size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


def halve(x: Tensor) -> Tensor:
    """Means of 2x2 pixels, ``[b, c, h, w]`` -> ``[b, c, ceil(h/2), ceil(w/2)]``; at odd edges, of the pixels that are there."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def double(x: Tensor) -> Tensor:
    """Repeats each pixel 2x2, ``[b, c, h, w]`` -> ``[b, c, 2h, 2w]``."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Resample(nn.Module):
    """Halves or doubles a feature map, with a 3x3 convolution or without parameters.

    Args:
        channels: Number of channels, in and out.
        direction: "down" or "up".
        conv: Whether a convolution takes part: with stride 2 on the way down, after the repetition on the way up.

    Source: Ho et al. 2020, appendix B; padding as in Nichol & Dhariwal 2021.
    """

    def __init__(self, channels: int, direction: Literal["down", "up"], *, conv: bool):
        super().__init__()
        self.up = direction == "up"
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if self.up else 2, padding=1) if conv else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Maps ``[b, c, h, w]`` to ``[b, c, 2h, 2w]`` or ``[b, c, ceil(h/2), ceil(w/2)]``.

        Args:
            x: The feature map.
            embedding: Not used; it makes the call that of a residual block that resamples.
        """
        if self.up:
            x = double(x)
            return x if self.conv is None else self.conv(x)
        return halve(x) if self.conv is None else self.conv(x)
