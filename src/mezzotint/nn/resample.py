"""Halving and doubling of feature maps of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.errors import ConfigError


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
        corner: Pad the strided convolution at the right and bottom alone, as TensorFlow does.

    Source: Ho et al. 2020, appendix B (whose code pads the corner); padding on all sides as in Nichol & Dhariwal 2021.
    """

    def __init__(self, channels: int, direction: Literal["down", "up"], *, conv: bool, corner: bool = False):
        super().__init__()
        self.up = direction == "up"
        self.corner = corner and not self.up
        padding = 0 if self.corner else 1
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if self.up else 2, padding=padding) if conv else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Maps ``[b, c, h, w]`` to ``[b, c, 2h, 2w]`` or ``[b, c, ceil(h/2), ceil(w/2)]``.

        Args:
            x: The feature map.
            embedding: Not used; it makes the call that of a residual block that resamples.
        """
        if self.up:
            x = double(x)
            return x if self.conv is None else self.conv(x)
        if self.conv is None:
            return halve(x)
        height, width = x.shape[2:]
        return self.conv(F.pad(x, (0, 1 + width % 2, 0, 1 + height % 2)) if self.corner else x)


class Filter(nn.Module):
    """Halves or doubles a feature map through a low-pass filter, without parameters.

    Args:
        taps: The filter along one axis, an even number of positive weights; the sum does not matter. (1, 1) gives means and repetition.
        direction: "down" or "up".
        pad: Whether the map is padded by zeros on the way down, so that its size is halved; otherwise the caller has padded it.

    Source: Karras et al. 2020 (StyleGAN2), appendix B; Song et al. 2021, appendix H.
    """

    def __init__(self, taps: Sequence[float], direction: Literal["down", "up"], *, pad: bool = True):
        super().__init__()
        if len(taps) < 2 or len(taps) % 2:
            raise ConfigError(f"a filter of {len(taps)} taps; give an even number of them, such as 1,1 or 1,3,3,1")
        self.taps = tuple(tap / sum(taps) for tap in taps)
        self.up, self.pad = direction == "up", pad

    @property
    def margin(self) -> int:
        """Pixels that the filter needs beyond each edge."""
        return len(self.taps) // 2 - 1

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[b, c, h, w]`` to ``[b, c, 2h, 2w]`` or ``[b, c, ceil(h/2), ceil(w/2)]``."""
        line = x.new_tensor(self.taps)
        kernel = (line[:, None] * line).expand(x.shape[1], 1, -1, -1)
        if self.up:
            return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=self.margin, groups=x.shape[1])
        height, width = x.shape[2:]
        margin = self.margin if self.pad else 0
        x = F.pad(x, (margin, margin + width % 2, margin, margin + height % 2))
        return F.conv2d(x, kernel, stride=2, groups=x.shape[1])
