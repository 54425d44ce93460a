"""The residual block of the ADM U-Net."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, addcmul, nn
from torch.nn import functional as F

from mezzotint.nn.init import zeroed
from mezzotint.nn.norm import GroupNorm


class ResidualBlock(nn.Module):
    """Two convolutions, told of an embedding, added to the input; the second convolution starts at zero.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        embed: Length of the embedding.
        scale_shift: Whether the embedding scales and shifts the second normalisation's output; otherwise it is added before it.
        dropout: Probability that a channel's pixel is dropped before the second convolution.
        resample: Halves or doubles the map, inside the block and beside it; None: keeps it.
        norm: Makes the normalisation of a width.
        project: Put a 1x1 convolution beside the block even where its widths are equal.
        scale: Factor of the sum.

    Source: Dhariwal & Nichol 2021, section 3.1, equation 4; resampling as in Brock et al. 2019; scale: Song et al. 2021, appendix H.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embed: int,
        *,
        scale_shift: bool,
        dropout: float,
        resample: Callable[[Tensor], Tensor] | None = None,
        norm: Callable[[int], nn.Module] = GroupNorm,
        project: bool = False,
        scale: float = 1.0,
    ):
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.scale = scale
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embed, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels and not project else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Maps features ``[b, in, h, w]`` and the embedding after its SiLU ``[b, embed]`` to ``[b, out, h', w']``."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        told = self.embed(embedding).to(h.dtype)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + told)
        h = self.conv2(self.dropout(F.silu(h)))
        h += self.skip(x)  # in place: a convolution does not need its own output for the gradient
        return h if self.scale == 1 else h * self.scale
