"""Embeddings of the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.nn.precision import full_precision


def sinusoidal(t: Tensor, width: int, *, max_period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of the time at geometrically spaced frequencies, in float32.

    Args:
        t: ``[b]``, any real numbers.
        width: Length of the embedding; where it is odd, the last entry is zero.
        max_period: The period of the slowest wave is a little below 2 pi times this number.

    Returns:
        ``[b, width]``, float32, in [-1, 1].

    Source: Vaswani et al. 2017, section 3.5; order and frequencies exp(-ln(max_period) i / (width // 2)) as in Nichol & Dhariwal 2021.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(max_period) / max(half, 1)))
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """Sinusoids of the time and a perceptron of two layers, never in reduced precision under autocast.

    Args:
        width: Number of sinusoids.
        out: Length of the embedding.

    Source: Ho et al. 2020, appendix B.
    """

    def __init__(self, width: int, out: int):
        super().__init__()
        self.width = width
        self.hidden = nn.Linear(width, out)
        self.out = nn.Linear(out, out)

    def forward(self, t: Tensor) -> Tensor:
        """Embeds times ``[b]`` as ``[b, out]``."""
        with full_precision(t.device):
            waves = sinusoidal(t, self.width).to(self.hidden.weight.dtype)
            return self.out(F.silu(self.hidden(waves)))
