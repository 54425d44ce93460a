"""The last layers of a U-Net."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.nn.init import zeroed
from mezzotint.nn.norm import GroupNorm
from mezzotint.nn.precision import full_precision


class Head(nn.Module):
    """Normalisation, SiLU and a convolution that starts at zero, never in reduced precision under autocast.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of the output.
        norm: Makes the normalisation of a width.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: Callable[[int], nn.Module] = GroupNorm):
        super().__init__()
        self.norm = norm(in_channels)
        self.conv = zeroed(nn.Conv2d(in_channels, out_channels, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        """Maps features ``[b, in, h, w]`` to ``[b, out, h, w]``."""
        with full_precision(h.device):
            return self.conv(F.silu(self.norm(h.to(self.conv.weight.dtype))))
