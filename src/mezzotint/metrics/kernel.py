"""Kernel distances between two sets of feature vectors: the maximum mean discrepancy, KID and CMMD."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mezzotint.errors import ConfigError, unknown
from mezzotint.metrics.estimate import Estimate

Kernel = Callable[[Tensor, Tensor], Tensor]
Estimator = Literal["biased", "unbiased", "u_statistic"]
ESTIMATORS = ("biased", "unbiased", "u_statistic")
_TILE = 1 << 25  # values of the kernel held at a time, 256 MB


def polynomial(a: Tensor, b: Tensor, *, degree: int = 3, gamma: float | None = None, offset: float = 1.0) -> Tensor:
    """``(gamma a.b + offset)^degree`` of each row of ``a`` ``[n, d]`` and of ``b`` ``[m, d]``: ``[n, m]``.

    Args:
        a: One set.
        b: The other.
        degree: The power.
        gamma: None: one by the number of features.
        offset: What is added.

    Source: Binkowski et al. 2018, section 4.
    """
    return (a @ b.T).mul_(1 / a.shape[1] if gamma is None else gamma).add_(offset).pow_(degree)


def gaussian(a: Tensor, b: Tensor, *, sigma: float) -> Tensor:
    """``exp(-|a - b|^2 / (2 sigma^2))`` of each row of ``a`` ``[n, d]`` and of ``b`` ``[m, d]``: ``[n, m]``.

    Args:
        a: One set.
        b: The other.
        sigma: Width of the kernel.
    """
    norms_a, norms_b = (torch.einsum("nd,nd->n", z, z) for z in (a, b))  # which makes no copy of the features
    square = torch.addmm(norms_b[None], a, b.T, alpha=-2).add_(norms_a[:, None]).clamp_min_(0)
    return square.mul_(-1 / (2 * sigma**2)).exp_()


def squared_mmd(a: Tensor, b: Tensor, kernel: Kernel = polynomial, *, estimator: Estimator = "unbiased") -> float:
    """Squared maximum mean discrepancy of two sets; memory does not grow with the square of their sizes.

    Args:
        a: ``[n, d]``.
        b: ``[m, d]``.
        kernel: Takes two matrices and gives the table of their rows.
        estimator: "unbiased" leaves out each vector with itself; "biased" counts it, and is at least 0; "u_statistic" also leaves out
            the pairs of the same number, of two sets of the same size.

    Returns:
        The estimate; those without bias may be negative.

    Raises:
        ConfigError: An unknown estimator, sets of different width, too few vectors, or of different size for a U-statistic.

    Source: Gretton et al. 2012, equations 3 to 5.
    """
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ConfigError(f"features of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared; give [n, d] and [m, d]")
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise ConfigError(f"sets of {n} and {m} images have no discrepancy; give at least 2 of each")
    if estimator == "u_statistic" and n != m:
        raise ConfigError(f"a U-statistic needs two sets of the same size, not of {n} and {m} images")
    a, b = _double(a), _double(b).to(_double(a).device)
    (aa, own_a), (bb, own_b), (ab, same) = _sums(a, a, kernel), _sums(b, b, kernel), _sums(a, b, kernel)
    if estimator == "biased":
        return aa / n**2 + bb / m**2 - 2 * ab / (n * m)
    between = ab / (n * m) if estimator == "unbiased" else (ab - same) / (n * (n - 1))
    return (aa - own_a) / (n * (n - 1)) + (bb - own_b) / (m * (m - 1)) - 2 * between


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()


def _sums(a: Tensor, b: Tensor, kernel: Kernel) -> tuple[float, float]:
    """Sum of the kernel over all pairs, and over those of the same number."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    same = torch.zeros((), dtype=torch.float64, device=a.device)
    step = max(1, _TILE // len(b))
    for start in range(0, len(a), step):
        rows = kernel(a[start : start + step], b)
        total += rows.sum()
        same += rows.diagonal(start).sum() if start < len(b) else 0
    return float(total), float(same)


def draw_subsets(n: int, m: int, *, subsets: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the subsets of two sets, without replacement within one, in the order of torch-fidelity's draws.

    Args:
        n: Size of the first set.
        m: Size of the second set.
        subsets: How many pairs of subsets.
        size: Vectors in each.
        seed: Of the draws.

    Returns:
        Rows of the first and of the second set, both ``[subsets, size]`` int64.

    Raises:
        ConfigError: A subset that is larger than its set, or no subset.
    """
    if subsets < 1 or not 2 <= size <= min(n, m):
        raise ConfigError(f"{subsets} subsets of {size} out of {n} and {m} images; give at least 1 subset of 2 to {min(n, m)} images")
    rng = np.random.RandomState(seed)
    pairs = [(rng.choice(n, size, replace=False), rng.choice(m, size, replace=False)) for _ in range(subsets)]
    return np.stack([first for first, _ in pairs]), np.stack([second for _, second in pairs])


def kid(
    generated: Tensor, real: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 2020, kernel: Kernel = polynomial
) -> Estimate:
    """Kernel Inception distance: the unbiased squared discrepancy of pairs of random subsets, and its spread over them.

    Args:
        generated: Features of the generated images, ``[n, d]``.
        real: Features of the real images, ``[m, d]``.
        subsets: Number of pairs of subsets.
        size: Images in each; smaller sets are taken whole.
        seed: Of the subsets.
        kernel: By default ``(a.b / d + 1)^3``.

    Returns:
        The distance, not times 1000; it may be negative.

    Raises:
        ConfigError: Settings that cannot be, or sets of different width.

    Source: Binkowski et al. 2018, section 4.
    """
    size = min(size, len(generated), len(real))
    first, second = draw_subsets(len(generated), len(real), subsets=subsets, size=size, seed=seed)
    x, y = _double(generated), _double(real)
    rows = [(torch.from_numpy(i).to(x.device), torch.from_numpy(j).to(y.device)) for i, j in zip(first, second, strict=True)]
    return Estimate.of([squared_mmd(x[i], y[j], kernel) for i, j in rows])


def cmmd(generated: Tensor, real: Tensor, *, sigma: float = 10.0) -> float:
    """CLIP's maximum mean discrepancy: with a Gaussian kernel, on vectors of length one, biased, times 1000.

    Args:
        generated: Image features of CLIP of the generated images, ``[n, d]``.
        real: The same of the real images, ``[m, d]``.
        sigma: Width of the kernel.

    Returns:
        The distance, at least 0.

    Raises:
        ConfigError: Too few images, or sets of different width.

    Source: Jayasumana et al. 2024, section 4.
    """
    x, y = (torch.nn.functional.normalize(_double(set_), dim=1) for set_ in (generated, real))
    return 1000 * squared_mmd(x, y, partial(gaussian, sigma=sigma), estimator="biased")
