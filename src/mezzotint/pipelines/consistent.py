"""Pictures whose reduction is given: projection onto them, during sampling and at its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser, Wrapper
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise
from mezzotint.types import Cond, Posterior

Reduction = Callable[[Tensor], Tensor]
"""``[b, c, s h, s w]`` -> ``[b, c, h, w]``, linear, along each axis apart, and without effect on constants."""

_CHUNK = 256


class BackProjection:
    """Moves pictures to the nearest ones whose reduction, clamped to [-1, 1], is given: x + D^T (D D^T)^-1 (low - clamp(D x)).

    The inverse is exact: D acts along each axis apart, so that D D^T is a product of two small matrices.

    Args:
        reduce: The reduction D.
        low: What the reduction shall be, ``[b, c, h, w]``.
        scale: Pixels of the picture along a pixel of ``low``.

    Raises:
        ConfigError: The reduction does not give the size of ``low``, or changes constants.

    Source: Irani & Peleg 1991 (back-projection); Wang et al. 2023 (DDNM), equation 12.
    """

    def __init__(self, reduce: Reduction, low: Tensor, scale: int):
        self.reduce, self.low, self.scale = reduce, low, scale
        tall, wide = low.shape[2:]
        self._factors = tuple(_factor(reduce, side, scale, low.device) for side in (tall, wide))

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest pictures to ``x`` ``[b, c, s h, s w]`` whose reduction is ``low``."""
        x = x.detach()
        with torch.enable_grad():
            leaf = x.requires_grad_(True)
            reduced = self.reduce(leaf)
            left = self._left(reduced.detach())
            down, across = self._factors
            solved = torch.cholesky_solve(left.transpose(2, 3).to(torch.float64), across.expand(*left.shape[:2], -1, -1)).transpose(2, 3)
            solved = torch.cholesky_solve(solved, down.expand(*left.shape[:2], -1, -1)).to(reduced.dtype)
            (shift,) = torch.autograd.grad(reduced, leaf, solved)  # the adjoint of a linear map
        return x.detach() + shift

    def _left(self, reduced: Tensor) -> Tensor:
        # Low-resolution images are clamped where they overshoot, so that black and white only bound the reduction from one side.
        return self.low.to(reduced.dtype) - reduced.clamp(-1, 1)

    def bounded(self, x: Tensor, *, rounds: int = 100, tolerance: float = 2e-4) -> Tensor:
        """Pictures in [-1, 1] whose reduction is ``low`` as nearly as that allows, by projecting on both in turn.

        Args:
            x: ``[b, c, s h, s w]``.
            rounds: The most projections.
            tolerance: Largest root mean square error of the reduction, in the unit of images, to be content with.
        """
        x = x.clamp(-1, 1)
        for _ in range(rounds):
            if self._error(x) <= tolerance**2:
                break
            x = self(x).clamp(-1, 1)
        return x

    def _error(self, x: Tensor) -> float:
        return float(self._left(self.reduce(x)).square().mean(dim=(1, 2, 3)).max())

    def decibels(self, x: Tensor) -> float:
        """Peak signal-to-noise ratio of the reduction of the worst picture, in dB."""
        return -10 * math.log10(max(self._error(x) / 4, 1e-20))


def _factor(reduce: Reduction, side: int, scale: int, device: torch.device) -> Tensor:
    """Cholesky factor of D D^T along one axis, ``[side, side]`` float64."""
    size = side * scale
    matrix = torch.empty(side, size, dtype=torch.float64)
    for first in range(0, size, _CHUNK):  # the reduction of one bright row at a time
        rows = torch.arange(first, min(first + _CHUNK, size))
        probe = torch.zeros(1, len(rows), size, scale)
        probe[0, torch.arange(len(rows)), rows] = 1
        found = reduce(probe.to(device)).cpu().to(torch.float64)
        if found.shape[2:] != (side, 1):
            raise ConfigError(f"a reduction of {size}x{scale} to {found.shape[2]}x{found.shape[3]}; at the scale {scale} it gives {side}x1")
        matrix[:, rows] = found[0, :, :, 0].T
    if float((matrix.sum(dim=1) - 1).abs().max()) > 1e-4:
        raise ConfigError("a reduction that changes constants has no back-projection here; give one whose weights sum to 1")
    return torch.linalg.cholesky(matrix @ matrix.T).to(device)


class Consistent(Wrapper):
    """Projects the estimate of x0, after its bounds, onto the pictures whose reduction is given.

    Args:
        inner: The denoiser, guidance, tiles and bounds included.
        project: A ``BackProjection`` for the pictures that are sampled, in their order.
        clip: Clamp to [-1, 1] after that.

    Source: Wang et al. 2023 (DDNM), algorithm 1.
    """

    def __init__(self, inner: Denoiser, project: BackProjection, *, clip: bool = True):
        super().__init__(inner)
        self.project, self.clip = project, clip

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        posterior = self.inner(x_t, t, cond, noise=noise)
        x0 = self.project(posterior.x0)
        return replace(posterior, bounded=x0.clamp(-1, 1) if self.clip else x0)
