"""Toy worlds whose denoiser is known exactly: Gaussians and mixtures of Gaussians.

They show whether a sampler, a guidance or an objective is right, without any training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.errors import ConfigError
from mezzotint.noise import Noise

Level = Tensor | float


class World:
    """A mixture of Gaussians: component k has weight w_k, mean mu_k and covariance C_k, and belongs to a class.

    All formulas hold for any x_t = alpha x0 + sigma eps, know no schedule, are computed in float64 and can be differentiated with
    respect to x_t.

    Args:
        means: ``[k, *shape]``; shape is ``[d]`` for points or ``[c, h, w]`` for images.
        covs: Covariances: ``[k]`` (the same variance in every direction), ``[k, d]`` (diagonal), or ``[k, d, d]``, with d the number
            of elements of shape.
        weights: ``[k]``, positive; scaled to the sum 1. None: equal.
        labels: Class of each component, 0 to num_classes - 1. None: each component is a class of its own.

    Raises:
        ConfigError: Shapes that do not fit, weights that are not positive, covariances with a negative direction.

    Source: Bayes' rule for Gaussians; e.g. Bishop 2006, eq. 2.116.
    """

    def __init__(self, means: Tensor, covs: Tensor, weights: Tensor | None = None, labels: Sequence[int] | None = None):
        means, covs = torch.as_tensor(means, dtype=torch.float64), torch.as_tensor(covs, dtype=torch.float64)
        if means.ndim < 2:
            raise ConfigError(f"means of a world have shape {tuple(means.shape)}; give [k, d] or [k, c, h, w]")
        count, self.shape = means.shape[0], tuple(means.shape[1:])
        self._means = means.flatten(1)
        size = self._means.shape[1]
        self._basis: Tensor | None = None
        if covs.shape == (count, size, size):
            self._spread, self._basis = torch.linalg.eigh(covs)
        elif covs.shape == (count, size):
            self._spread = covs
        elif covs.shape == (count,):
            self._spread = covs[:, None].expand(count, size)
        else:
            allowed = f"[{count}], [{count}, {size}] or [{count}, {size}, {size}]"
            raise ConfigError(f"covariances of a world have shape {tuple(covs.shape)}; give {allowed}")
        if self._spread.min() < -1e-9 * self._spread.abs().max():
            raise ConfigError("a covariance of a world is not positive semi-definite; all its eigenvalues must be at least 0")
        self._spread = self._spread.clamp_min(0)
        weights = torch.ones(count, dtype=torch.float64) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if weights.shape != (count,) or weights.min() <= 0:
            raise ConfigError(f"weights of a world must be {count} positive numbers, not {weights.tolist()}")
        self._weights = weights / weights.sum()
        self._labels = torch.arange(count) if labels is None else torch.as_tensor(labels)
        if self._labels.shape != (count,) or self._labels.min() < 0:
            raise ConfigError(f"labels of a world must be {count} whole numbers from 0, not {self._labels.tolist()}")
        self.num_classes = int(self._labels.max()) + 1

    def sample(self, n: int, noise: Noise, *, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draws clean examples.

        Args:
            n: Their number.
            noise: One stream for each.
            label: The class of each, ``[n]``; ``num_classes`` stands for any. None: any.

        Returns:
            x0 ``[n, *shape]`` float64, and the class of each ``[n]`` int64.
        """
        steps = self._log_weights(label, n).exp().cumsum(1)
        point = noise.uniform((n,), name="component", dtype=torch.float64) * steps[:, -1]
        index = (steps <= point[:, None]).sum(1)
        x0 = self._spread[index].sqrt() * noise.normal((n, self._means.shape[1]), name="x0", dtype=torch.float64)
        if self._basis is not None:
            x0 = (self._basis[index] @ x0[..., None])[..., 0]
        return (x0 + self._means[index]).reshape(n, *self.shape), self._labels[index]

    def moments(self, label: int | None = None) -> tuple[Tensor, Tensor]:
        """Exact mean ``[*shape]`` and covariance ``[d, d]`` of x0, of one class or of all."""
        weights = self._log_weights(None if label is None else torch.tensor([label]), 1).exp()[0]
        mean = weights @ self._means
        away = self._means - mean
        if self._basis is None:
            inner = torch.diag(weights @ self._spread)
        else:
            inner = torch.einsum("k,kde,ke,kfe->df", weights, self._basis, self._spread, self._basis)
        return mean.reshape(self.shape), inner + (weights[:, None] * away).T @ away

    def posterior(self, x_t: Tensor, alpha: Level, sigma: Level, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance of x0, given x_t.

        Args:
            x_t: Noisy examples, ``[b, *shape]``.
            alpha: Signal scale, a number or ``[b]`` (axes of length 1 may follow), at least 0.
            sigma: Noise scale, likewise. At sigma = 0 the answer is x_t / alpha and 0.
            label: The class of each, ``[b]``; ``num_classes`` stands for any. None: any.

        Returns:
            E[x0 | x_t(, label)] and the variance of each element, both ``[b, *shape]`` in the type and on the device of x_t.
        """
        spread, basis, z, gain, level = self._rotated(x_t, alpha, sigma)
        logits = self._log_weights(label, len(x_t)).to(z.device) + _log_normal(z, level)
        share = logits.softmax(1)[..., None]
        shift = gain * z
        noise = _column(sigma, x_t)[..., None] ** 2
        kept = _ratio(spread * noise, level)
        if basis is not None:
            shift = torch.einsum("kde,bke->bkd", basis, shift)
            kept = torch.einsum("kde,bke->bkd", basis**2, kept)
        means = self._means.to(z.device) + shift
        mean = (share * means).sum(1)
        var = (share * (kept + (means - mean[:, None]) ** 2)).sum(1)
        return mean.reshape(x_t.shape).to(x_t.dtype), var.reshape(x_t.shape).to(x_t.dtype)

    def log_density(self, x_t: Tensor, alpha: Level, sigma: Level, label: Tensor | None = None) -> Tensor:
        """log p(x_t | label), or log p(x_t), in nats, ``[b]`` float64; its gradient is the score. Arguments as for ``posterior``."""
        _, _, z, _, level = self._rotated(x_t, alpha, sigma)
        return (self._log_weights(label, len(x_t)).to(z.device) + _log_normal(z, level)).logsumexp(1)

    def log_prob(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """The exact classifier, log p(label | x_t), ``[b, num_classes]`` float64. Arguments as for ``posterior``."""
        _, _, z, _, level = self._rotated(x_t, alpha, sigma)
        shares = (self._log_weights(None, len(x_t)).to(z.device) + _log_normal(z, level)).log_softmax(1)
        labels = self._labels.to(z.device)
        return torch.stack([shares[:, labels == k].logsumexp(1) for k in range(self.num_classes)], dim=1)

    def _log_weights(self, label: Tensor | None, n: int) -> Tensor:
        """Log weight of each component, ``[n, k]``, within the class of each example."""
        weights = self._weights.log().expand(n, -1)
        if label is None:
            return weights
        label = label.cpu()
        if label.min() < 0 or label.max() > self.num_classes:
            raise ConfigError(f"this world has classes 0 to {self.num_classes - 1}, and {self.num_classes} for any; got {label.tolist()}")
        inside = (self._labels == label[:, None]) | (label[:, None] == self.num_classes)
        return weights.masked_fill(~inside, -math.inf).log_softmax(1)

    def _rotated(self, x_t: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """In the eigenbasis of each component: its variances, the basis, x_t less its mean, the gain of x0, the variances of x_t."""
        if tuple(x_t.shape[1:]) != self.shape:
            raise ConfigError(f"x_t has shape {tuple(x_t.shape)}; this world needs [b, {', '.join(map(str, self.shape))}]")
        x = x_t.flatten(1).double()
        scale, noise = _column(alpha, x_t), _column(sigma, x_t)
        z = x[:, None] - scale[..., None] * self._means.to(x.device)
        basis = None if self._basis is None else self._basis.to(x.device)
        if basis is not None:
            z = torch.einsum("kde,bkd->bke", basis, z)
        spread = self._spread.to(x.device).expand(len(x), -1, -1)
        level = scale[..., None] ** 2 * spread + noise[..., None] ** 2
        gain = _ratio(scale[..., None] * spread, level)
        return spread, basis, z, gain, level


def gaussian(mean: Tensor, cov: Tensor | float) -> World:
    """A world of one Gaussian.

    Args:
        mean: ``[d]`` or ``[c, h, w]``.
        cov: A number, the variances ``[d]``, or the covariance matrix ``[d, d]``.
    """
    return World(torch.as_tensor(mean, dtype=torch.float64)[None], torch.as_tensor(cov, dtype=torch.float64)[None])


def mixture(means: Tensor, covs: Tensor, weights: Tensor | None = None, labels: Sequence[int] | None = None) -> World:
    """A world of several Gaussians, each a class unless ``labels`` says otherwise; arguments as for ``World``."""
    return World(means, covs, weights, labels)


def _column(level: Level, x_t: Tensor) -> Tensor:
    """A level as ``[b or 1, 1]`` float64."""
    column = torch.as_tensor(level, dtype=torch.float64, device=x_t.device).reshape(-1, 1)
    if len(column) not in (1, len(x_t)):
        raise ConfigError(f"{len(column)} noise levels were given for {len(x_t)} examples; give one, or one for each")
    return column


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """The quotient, 0 where both are 0: a direction without spread or noise, in which the mean is known."""
    return top / bottom.clamp_min(1e-300)


def _log_normal(z: Tensor, level: Tensor) -> Tensor:
    # A component without any spread has no density; the smallest variance makes it a very narrow one.
    level = level.clamp_min(1e-300)
    return -0.5 * (z**2 / level + level.log() + math.log(2 * math.pi)).sum(-1)
