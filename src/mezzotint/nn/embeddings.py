"""Embeddings of the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.nn.precision import full_precision

LEVEL_SCALE = 1000.0
"""What the level of a low-resolution condition, from 0 to 1, is multiplied by before it is embedded like a time."""


def sinusoidal(
    t: Tensor, width: int, *, max_period: float = 10_000.0, shift: float = 0.0, scale: float = 1.0, sine_first: bool = False
) -> Tensor:
    """Cosines, then sines, of the time at geometrically spaced frequencies, in float32.

    Args:
        t: ``[b]``, any real numbers.
        width: Length of the embedding; where it is odd, the last entry is zero.
        max_period: The period of the slowest wave is a little below 2 pi times this number.
        shift: Taken from the number of frequencies in their exponents; with 1 the slowest period is exactly 2 pi ``max_period``.
        scale: Factor of all angles, applied last, since rounding counts where they are large.
        sine_first: Sines, then cosines.

    Returns:
        ``[b, width]``, float32, in [-1, 1].

    Source: Vaswani et al. 2017, section 3.5; order and frequencies exp(-ln(max_period) i / (width // 2)) as in Nichol & Dhariwal 2021;
    sines first and shift 1 as in Ho et al. 2020.
    """
    half = width // 2
    exponents = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / max(half - shift, 1)
    # Kernels differ in the last bit of a float32 exponential, which a time of 999 makes visible; MPS has no float64.
    frequencies = exponents.to(torch.float32 if t.device.type == "mps" else torch.float64).exp().float()
    angles = scale * (t.float()[:, None] * frequencies)
    waves = (angles.sin(), angles.cos()) if sine_first else (angles.cos(), angles.sin())
    return F.pad(torch.cat(waves, dim=1), (0, width % 2))


class Fourier(nn.Module):
    """Sines, then cosines, of the time at fixed random frequencies, in float32.

    Args:
        width: Number of frequencies; the embedding is twice as long.
        scale: Standard deviation of the frequencies.

    Source: Song et al. 2021, appendix H (Tancik et al. 2020).
    """

    frequencies: Tensor

    def __init__(self, width: int, *, scale: float = 16.0):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width) * scale)

    def forward(self, t: Tensor) -> Tensor:
        """Embeds times ``[b]`` as ``[b, 2 width]``."""
        angles = t.float()[:, None] * (2 * math.pi * self.frequencies.float())
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Waves of the time and a perceptron of two layers, never in reduced precision under autocast.

    Args:
        width: Number of waves.
        out: Length of the embedding.
        shift: As for ``sinusoidal``.
        sine_first: As for ``sinusoidal``.
        fourier: Random frequencies in place of geometrically spaced ones.

    Source: Ho et al. 2020, appendix B; Song et al. 2021, appendix H.
    """

    def __init__(self, width: int, out: int, *, shift: float = 0.0, sine_first: bool = False, fourier: bool = False):
        super().__init__()
        self.width, self.shift, self.sine_first = width, shift, sine_first
        self.fourier = Fourier(width // 2) if fourier else None
        self.hidden = nn.Linear(width, out)
        self.out = nn.Linear(out, out)

    def forward(self, t: Tensor, extra: Tensor | None = None) -> Tensor:
        """Embeds times ``[b]`` as ``[b, out]``.

        Args:
            t: The times.
            extra: Added to the waves, ``[b, width]``.
        """
        with full_precision(t.device):
            waves = sinusoidal(t, self.width, shift=self.shift, sine_first=self.sine_first) if self.fourier is None else self.fourier(t)
            waves = waves.to(self.hidden.weight.dtype)
            return self.out(F.silu(self.hidden(waves if extra is None else waves + extra)))
