"""How far a figure would move if other samples were drawn: standard errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mezzotint.metrics.kernel import gaussian
from mezzotint.metrics.precision_recall import neighbour_radii, squared_distances

_TILE = 1 << 23  # distances held at a time


def share_error(share: float, n: int) -> float:
    """Standard error of a share of n independent images.

    Example:
        >>> share_error(0.5, 100)
        0.05
    """
    return math.sqrt(max(share * (1 - share), 0.0) / n)


def score_error(logits: Tensor) -> float:
    """Standard error of the Inception score of one split: that of the mean of ``KL(p(y|x) || p(y))``, times the score.

    Args:
        logits: ``[n, K]``.
    """
    log_p = logits.double().log_softmax(dim=1)
    middle = log_p.exp().mean(dim=0).clamp_min(torch.finfo(torch.float64).tiny).log()
    divergence = (log_p.exp() * (log_p - middle)).sum(dim=1)
    return float(divergence.mean().exp() * divergence.std(unbiased=True) / math.sqrt(len(logits)))


def density_error(generated: Tensor, real: Tensor, *, k: int = 5) -> float:
    """Standard error of the density, a mean over generated images, with the balls of the real ones fixed.

    Args:
        generated: Features of the generated images, ``[n, d]``.
        real: Features of the real images, ``[m, d]``.
        k: Which neighbour gives the radius.
    """
    reach = neighbour_radii(real, k)
    step = max(1, _TILE // len(real))
    counts = torch.cat([(squared_distances(rows, real) < reach).sum(dim=1) for rows in generated.split(step)])
    return float(counts.double().std(unbiased=False)) / k / math.sqrt(len(generated))


def discrepancy_error(generated: Tensor, real: Tensor, *, sigma: float = 10.0) -> float:
    """Standard error of ``kernel.cmmd`` by the infinitesimal jackknife over the generated images, the real ones fixed.

    Image x moves the squared discrepancy by ``2 (mean k(x, generated) - mean k(x, real))`` over n, less its mean.

    Args:
        generated: Features of the generated images, ``[n, d]``.
        real: The same of the real images, ``[m, d]``.
        sigma: Width of the kernel.

    Source: Efron 1982, chapter 6.
    """
    x, y = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (generated, real))
    step = max(1, _TILE // max(len(x), len(y)))
    parts = [gaussian(row, x, sigma=sigma).mean(dim=1) - gaussian(row, y, sigma=sigma).mean(dim=1) for row in x.split(step)]
    return 1000 * 2 * float(torch.cat(parts).std()) / math.sqrt(len(x))
