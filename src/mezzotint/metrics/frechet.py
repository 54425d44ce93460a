"""Frechet distance between two sets of feature vectors, from streamed moments."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from mezzotint.errors import ConfigError, DataError

_ROWS = 4096


class Moments:
    """Mean and covariance of feature vectors that arrive in batches; parts may be counted apart and merged.

    The sums are kept in float64 on the device of the first batch (on the CPU where the device has no float64).

    Attributes:
        n: Number of vectors so far.
        sum: Their sum, ``[d]`` float64; None before the first batch.
        outer: The sum of their outer products, ``[d, d]`` float64; None before the first batch.

    Example:
        >>> moments = Moments().add(torch.tensor([[0.0], [2.0]])).add(torch.tensor([[4.0]]))
        >>> moments.n, moments.mean.tolist(), moments.cov.tolist()
        (3, [2.0], [[4.0]])
    """

    def __init__(self) -> None:
        self.n = 0
        self.sum: Tensor | None = None
        self.outer: Tensor | None = None

    def add(self, features: Tensor) -> Moments:
        """Counts a batch.

        Args:
            features: ``[b, d]``, any floating type, any device.

        Returns:
            This object.

        Raises:
            DataError: Not a matrix, another number of features than before, or a value that is not finite.
        """
        if features.ndim != 2:
            raise DataError(f"features have shape {tuple(features.shape)}; give a matrix [images, features]")
        where = self.sum.device if self.sum is not None else torch.device("cpu") if features.device.type == "mps" else features.device
        x = features.detach().to("cpu" if features.device.type == "mps" else features.device).to(torch.float64)
        bad = int((~torch.isfinite(x)).any(dim=1).sum())
        if bad:
            raise DataError(f"{bad} of {len(x)} feature vectors are not finite; look for NaN or infinite pixels in their images")
        return self._take(len(x), x.sum(dim=0).to(where), (x.T @ x).to(where))

    def merge(self, other: Moments) -> Moments:
        """Counts all that another accumulator has counted, e.g. that of another rank; the order of merging does not matter.

        Returns:
            This object.

        Raises:
            DataError: The two have another number of features.
        """
        if other.sum is None or other.outer is None:
            return self
        where = other.sum.device if self.sum is None else self.sum.device
        return self._take(other.n, other.sum.to(where), other.outer.to(where))

    def _take(self, n: int, total: Tensor, outer: Tensor) -> Moments:
        if self.sum is None or self.outer is None:
            self.sum, self.outer = total.clone(), outer.clone()
        elif total.shape != self.sum.shape:
            raise DataError(f"{total.shape[0]} features an image were given after {self.sum.shape[0]}; use one feature network for all")
        else:
            self.sum, self.outer = self.sum + total, self.outer + outer
        self.n += n
        return self

    @property
    def mean(self) -> Tensor:
        """Mean of the vectors, ``[d]`` float64.

        Raises:
            DataError: Nothing was counted.
        """
        if self.sum is None or self.n == 0:
            raise DataError("moments of no images were asked for; add at least 2")
        return self.sum / self.n

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance (divided by n - 1), ``[d, d]`` float64.

        Raises:
            DataError: Fewer than two vectors were counted.
        """
        if self.outer is None or self.n < 2:
            raise DataError(f"the covariance of {self.n} image(s) was asked for; add at least 2")
        mean = self.mean
        cov = (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)
        return (cov + cov.T) / 2


def frechet_distance(a: Moments | tuple[Tensor, Tensor], b: Moments | tuple[Tensor, Tensor]) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians with the moments of two sets.

    ``|m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^{1/2}``. The last trace is the sum of the singular values of ``R_a^T R_b`` with
    ``R R^T = S``, in float64, so that it is real, finite and exact for covariances of any rank.

    Args:
        a: Moments of one set, or its (mean ``[d]``, covariance ``[d, d]``).
        b: The same of the other set.

    Returns:
        The distance, at least 0; 0 for equal moments.

    Raises:
        ConfigError: The two have another number of features.

    Warns:
        UserWarning: A set has no more images than features. Its distances are biased upwards by much.

    Example:
        >>> one = torch.ones(1)
        >>> round(frechet_distance((0 * one, one[None]), (3 * one, 4 * one[None])), 6)
        10.0

    Source: Heusel et al. 2017, equation 6; Dowson and Landau 1982.
    """
    (mean_a, cov_a), (mean_b, cov_b) = _pair(a), _pair(b)
    if mean_a.shape != mean_b.shape:
        raise ConfigError(f"moments of {len(mean_a)} and of {len(mean_b)} features cannot be compared; use one feature network for both")
    mean_b, cov_b = mean_b.to(mean_a.device), cov_b.to(mean_a.device)
    root = _root(cov_a)
    squares = torch.linalg.eigvalsh(root.T @ cov_b @ root)
    overlap = squares.clamp_min(0).sqrt().sum()
    if bool((squares <= _rounding(squares)).any()):
        # The root of a rounding error of 1e-16 is 1e-8, once for each dimension. Singular values need no root, but more time.
        overlap = torch.linalg.svdvals(root.T @ _root(cov_b)).sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap
    return max(float(distance), 0.0)


@torch.no_grad()
def frechet_error(
    vectors: Tensor, moments: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], *, device: torch.device | str = "cpu"
) -> float:
    """Standard error of the Frechet distance of samples to fixed moments, by the infinitesimal jackknife.

    An image x moves the distance by ``psi(x) = 2 (m - m_r)(x - m) + (x - m)^T (I - T)(x - m)`` over n, less its mean, where
    ``T = R (R^T S R)^{-1/2} R^T`` with ``R R^T = S_r``; the error is the standard deviation of psi over the root of n. It knows of
    the chance in the samples only: neither of the bias that falls with n, nor of the reference's own chance, nor of another training run.

    Args:
        vectors: Features of the samples, ``[n, d]``.
        moments: Their mean ``[d]`` and covariance ``[d, d]``, float64.
        reference: Mean and covariance of the reference.
        device: Where to compute.

    Raises:
        ConfigError: Another number of features.

    Source: Efron 1982, chapter 6 (the method); the derivative is that of Dowson and Landau 1982.
    """
    (mean, cov), (mean_r, cov_r) = ([x.to(device) for x in _pair(pair)] for pair in (moments, reference))
    if mean.shape != mean_r.shape:
        raise ConfigError(f"moments of {len(mean)} and of {len(mean_r)} features cannot be compared; use one feature network for both")
    root = _root(cov_r)
    product, turned = torch.linalg.eigh(root.T @ cov @ root)
    kept = product > product.max().clamp_min(0) * len(product) * torch.finfo(product.dtype).eps
    half = ((root @ turned[:, kept]) * product[kept].pow(-0.25)).float()  # T = half half^T
    shift = (2 * (mean - mean_r)).float()
    parts = []
    for rows in vectors.split(_ROWS):
        x = (rows.to(device).double() - mean).float()
        parts.append((x @ shift + x.square().sum(dim=1) - (x @ half).square().sum(dim=1)).double())
    return float(torch.cat(parts).std(unbiased=False)) / len(vectors) ** 0.5


def _pair(moments: Moments | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if isinstance(moments, Moments):
        mean, cov = moments.mean, moments.cov
        if moments.n <= len(mean):
            warnings.warn(
                f"Frechet distance from {moments.n} images of {len(mean)} features: the covariance is rank-deficient; use more images",
                stacklevel=3,
            )
        return mean, cov
    mean, cov = (torch.as_tensor(m) for m in moments)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ConfigError(f"moments have shapes {tuple(mean.shape)} and {tuple(cov.shape)}; give a mean [d] and a covariance [d, d]")
    cov = cov.to(torch.float64)
    return mean.to(torch.float64), (cov + cov.T) / 2


def _root(cov: Tensor) -> Tensor:
    """R ``[d, rank]`` with ``R R^T`` the covariance ``[d, d]``."""
    root, failed = torch.linalg.cholesky_ex(cov)
    pivots = root.diagonal().square()
    if not bool(failed) and bool(pivots.min() > _rounding(pivots)):
        return root
    values, vectors = torch.linalg.eigh(cov)
    kept = values > _rounding(values)
    return vectors[:, kept] * values[kept].sqrt()


def _rounding(values: Tensor) -> float:
    """Size below which one of the non-negative values is a rounding error of the largest."""
    if values.numel() == 0:
        return 0.0
    return float(values.max().clamp_min(0)) * values.numel() * torch.finfo(values.dtype).eps
