"""Precision and recall, density and coverage: how much of one set lies in the neighbourhoods of the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mezzotint.errors import ConfigError, unknown

Precision = Literal["float16", "float32", "float64"]
_TYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_TILE = 1 << 25  # distances held at a time


@dataclass(frozen=True)
class PrecisionRecall:
    """Improved precision and recall.

    Attributes:
        precision: Share of the generated images that lie within the neighbourhood of a real one, in [0, 1].
        recall: Share of the real images that lie within the neighbourhood of a generated one, in [0, 1].
    """

    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """Harmonic mean of the two; 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def squared_distances(a: Tensor, b: Tensor, *, dtype: Precision = "float32") -> Tensor:
    """Squared Euclidean distance of each row of ``a`` to each row of ``b``.

    Args:
        a: ``[n, d]``.
        b: ``[m, d]``, on the same device.
        dtype: Type of the arithmetic. "float16" rounds as the ADM evaluator does, and falls back to float32 where it overflows.

    Returns:
        ``[n, m]``, at least 0; float32, or float64 for ``dtype="float64"``.

    Raises:
        ConfigError: An unknown type, or not the same number of features.
    """
    _check(a, b, dtype)
    x, y = a.to(_TYPES[dtype]), b.to(_TYPES[dtype])
    if dtype != "float16":
        return _squared(x, y, _square_norms(x), _square_norms(y))
    square = (x.square().sum(dim=1)[:, None] - 2 * (x @ y.T) + y.square().sum(dim=1)[None]).clamp_min(0)
    return square.float() if bool(torch.isfinite(square).all()) else squared_distances(a, b)


def _check(a: Tensor, b: Tensor, dtype: Precision) -> None:
    if dtype not in _TYPES:
        raise unknown("type of distances", dtype, _TYPES)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ConfigError(f"features of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared; give [n, d] and [m, d]")


def _square_norms(x: Tensor) -> Tensor:
    return torch.einsum("nd,nd->n", x, x)  # without a copy of the features


def _squared(x: Tensor, y: Tensor, norms_x: Tensor, norms_y: Tensor) -> Tensor:
    return torch.addmm(norms_y[None], x, y.T, alpha=-2).add_(norms_x[:, None]).clamp_min_(0)


def neighbour_radii(features: Tensor, k: int = 3, *, dtype: Precision = "float32") -> Tensor:
    """Squared distance of each vector to its k-th nearest neighbour in the same set, itself not counted.

    Args:
        features: ``[n, d]``.
        k: Which neighbour, from 1.
        dtype: As for ``squared_distances``.

    Returns:
        ``[n]``.

    Raises:
        ConfigError: The set has not more than k vectors.
    """
    if not 1 <= k < len(features):
        raise ConfigError(f"neighbour {k} of a set of {len(features)} images does not exist; use 1 <= k < {len(features)}")
    # The nearest of all is the vector itself, at distance zero.
    return torch.cat([rows.topk(k + 1, dim=1, largest=False).values[:, -1] for _, rows in _rows(features, features, dtype)])


def precision_recall(generated: Tensor, real: Tensor, *, k: int = 3, dtype: Precision = "float32") -> PrecisionRecall:
    """Precision and recall with balls that reach to each vector's k-th neighbour; the surface belongs to the ball.

    Args:
        generated: Features of the generated images, ``[n, d]``.
        real: Features of the real images, ``[m, d]``.
        k: Which neighbour gives the radius.
        dtype: As for ``squared_distances``.

    Raises:
        ConfigError: A set has not more than k vectors, or the numbers of features differ.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> precision_recall(points[:2], points, k=1)
        PrecisionRecall(precision=1.0, recall=0.75)

    Source: Kynkaanniemi et al. 2019, equations 1 and 2.
    """
    real = real.to(generated.device)
    reach_generated, reach_real = neighbour_radii(generated, k, dtype=dtype), neighbour_radii(real, k, dtype=dtype)
    inside = 0
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for start, rows in _rows(generated, real, dtype):
        inside += int((rows <= reach_real).any(dim=1).sum())
        covered |= (rows <= reach_generated[start : start + len(rows), None]).any(dim=0)
    return PrecisionRecall(inside / len(generated), float(covered.double().mean()))


@dataclass(frozen=True)
class DensityCoverage:
    """Density and coverage.

    Attributes:
        density: In how many neighbourhoods of real images a generated one lies, as a share of k; at least 0, about 1 for equal sets.
        coverage: Share of the real images whose neighbourhood has a generated one, in [0, 1].
    """

    density: float
    coverage: float


def density_coverage(generated: Tensor, real: Tensor, *, k: int = 5, dtype: Precision = "float32") -> DensityCoverage:
    """Density and coverage with balls around the real images alone, whose surface does not belong to them.

    Unlike precision and recall they do not trust outliers: a real one far off makes one large ball, which counts for one of k.

    Args:
        generated: Features of the generated images, ``[n, d]``.
        real: Features of the real images, ``[m, d]``.
        k: Which neighbour gives the radius.
        dtype: As for ``squared_distances``.

    Raises:
        ConfigError: The real set has not more than k vectors, or the numbers of features differ.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> density_coverage(points[:2] + 0.5, points, k=1)
        DensityCoverage(density=2.0, coverage=0.75)

    Source: Naeem et al. 2020, equations 3 and 4.
    """
    real = real.to(generated.device)
    reach = neighbour_radii(real, k, dtype=dtype)
    count = 0
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, rows in _rows(generated, real, dtype):
        inside = rows < reach
        count += int(inside.sum())
        covered |= inside.any(dim=0)
    return DensityCoverage(count / (k * len(generated)), float(covered.double().mean()))


def realism(generated: Tensor, real: Tensor, *, k: int = 3, dtype: Precision = "float32") -> tuple[Tensor, Tensor]:
    """How deep each generated image lies within the neighbourhoods of the real ones, and which real image is nearest to it.

    Args:
        generated: Features of the generated images, ``[n, d]``.
        real: Features of the real images, ``[m, d]``.
        k: Which neighbour gives the radius.
        dtype: As for ``squared_distances``.

    Returns:
        (largest ratio of a real image's squared radius to its squared distance, ``[n]``: 1 is the edge of what counts as precise;
        index of the nearest real image, ``[n]`` int64).

    Raises:
        ConfigError: The real set has not more than k vectors, or the numbers of features differ.

    Source: Kynkaanniemi et al. 2019, section 5, without the pruning of large radii, on squared distances as in ADM's evaluator.
    """
    real = real.to(generated.device)
    reach = neighbour_radii(real, k, dtype=dtype)
    ratios, nearest = [], []
    for _, rows in _rows(generated, real, dtype):
        ratios.append((reach / rows.clamp_min(torch.finfo(rows.dtype).tiny)).amax(dim=1))
        nearest.append(rows.argmin(dim=1))
    return torch.cat(ratios), torch.cat(nearest)


def _rows(a: Tensor, b: Tensor, dtype: Precision) -> Iterator[tuple[int, Tensor]]:
    """Distances of a few rows of ``a`` at a time to all of ``b``, so that the whole table never exists."""
    _check(a, b, dtype)
    step = max(1, _TILE // max(1, len(b)))
    if dtype == "float16":  # falls back by the block
        for start in range(0, len(a), step):
            yield start, squared_distances(a[start : start + step], b, dtype=dtype)
        return
    x, y = a.to(_TYPES[dtype]), b.to(_TYPES[dtype])
    norms_x, norms_y = _square_norms(x), _square_norms(y)
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        yield start, _squared(x[rows], y, norms_x[rows], norms_y)
