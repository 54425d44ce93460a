"""Figures of infinitely many images, extrapolated from what smaller and larger subsets give."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mezzotint.errors import ConfigError
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.metrics.inception_score import inception_score


@dataclass(frozen=True)
class Extrapolation:
    """A straight line through figures over one by the number of images.

    Attributes:
        value: Where the line meets infinitely many images.
        spread: Standard error of that place, from the residuals.
        slope: Of the line: the leading bias is ``slope / images``.
        sizes: Images of each subset.
        values: The figure of each.
    """

    value: float
    spread: float
    slope: float
    sizes: tuple[int, ...]
    values: tuple[float, ...]


def extrapolate(
    figure: Callable[[Tensor], float], rows: Tensor, *, points: int = 15, smallest: int | None = None, seed: int = 0
) -> Extrapolation:
    """Extrapolates a figure whose bias falls with one by the number of images.

    Args:
        figure: Takes some of the rows.
        rows: ``[n, ...]``, one row an image.
        points: Number of random subsets, of equally spaced sizes up to all images.
        smallest: Size of the smallest; None: a tenth of all.
        seed: Of the subsets.

    Returns:
        The line.

    Raises:
        ConfigError: Fewer than three subsets, or sizes that cannot be.

    Source: Chong & Forsyth 2020, section 3.
    """
    n = len(rows)
    least = n // 10 if smallest is None else smallest
    if points < 3 or not 2 <= least <= n - points + 1:
        raise ConfigError(f"{points} subsets of {least} to {n} images cannot be extrapolated; give at least 3, and more images")
    rng = np.random.RandomState(seed)
    sizes = np.linspace(least, n, points).round().astype(int)
    values = np.array([figure(rows[torch.from_numpy(rng.choice(n, size, replace=False)).to(rows.device)]) for size in sizes])
    design = np.stack([np.ones(points), 1 / sizes], axis=1)
    (value, slope), *_ = np.linalg.lstsq(design, values, rcond=None)
    variance = ((values - design @ [value, slope]) ** 2).sum() / (points - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Extrapolation(float(value), float(np.sqrt(variance)), float(slope), tuple(map(int, sizes)), tuple(map(float, values)))


def fid_infinity(
    generated: Tensor,
    real: Moments | tuple[Tensor, Tensor],
    *,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> Extrapolation:
    """The Frechet distance without the bias of finitely many generated images; that of the real ones stays.

    The line is a good one where even the smallest subset has several times as many images as features.

    Args:
        generated: Features of the generated images, ``[n, d]``.
        real: Moments of the real images, or their (mean ``[d]``, covariance ``[d, d]``).
        points: As for ``extrapolate``.
        smallest: As for ``extrapolate``.
        seed: As for ``extrapolate``.

    Raises:
        ConfigError: As for ``extrapolate``, or another number of features.

    Warns:
        UserWarning: The smallest subset has no more images than features.

    Source: Chong & Forsyth 2020, equation 8.
    """
    reference = (real.mean, real.cov) if isinstance(real, Moments) else real

    def distance(rows: Tensor) -> float:
        moments = Moments().add(rows)
        return frechet_distance((moments.mean, moments.cov), reference)

    found = extrapolate(distance, generated, points=points, smallest=smallest, seed=seed)
    if found.sizes[0] <= generated.shape[1]:
        warnings.warn(
            f"FID-infinity from subsets of {found.sizes[0]} images of {generated.shape[1]} features: its line is bent; use more images",
            stacklevel=2,
        )
    return found


def inception_score_infinity(logits: Tensor, *, points: int = 15, smallest: int | None = None, seed: int = 0) -> Extrapolation:
    """The Inception score without the bias of finitely many images, from undivided subsets.

    Args:
        logits: ``[n, classes]``.
        points: As for ``extrapolate``.
        smallest: As for ``extrapolate``.
        seed: As for ``extrapolate``.

    Raises:
        ConfigError: As for ``extrapolate``.

    Source: Chong & Forsyth 2020, section 3.
    """

    def score(rows: Tensor) -> float:
        return inception_score(rows, splits=1).value

    return extrapolate(score, logits, points=points, smallest=smallest, seed=seed)
