"""The forward and reverse maths of one affine-Gaussian process: x_t = alpha x0 + sigma eps.

Scales are float64 tensors ``[b]`` (or already of image shape); ``expand`` fits them to images and to their type at the moment of use.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mezzotint.schedules import Schedule

Kind = Literal["x0", "eps", "v", "score", "scaled_score", "flow"]


def expand(scale: Tensor, like: Tensor) -> Tensor:
    """Fits a scale ``[b]`` to images ``[b, ...]``: trailing axes of size 1, the type and device of the images."""
    return scale.reshape(scale.shape + (1,) * (like.ndim - scale.ndim)).to(device=like.device, dtype=like.dtype)


def add_noise(schedule: Schedule, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Forward noising: a draw of q(x_t | x0).

    Args:
        schedule: Gives alpha(t) and sigma(t).
        x0: Clean images ``[b, c, h, w]`` in [-1, 1].
        eps: Standard normal noise, shaped like x0.
        t: Times ``[b]``.

    Source: Ho et al. 2020, equation 4.
    """
    alpha, sigma = schedule(t)
    return expand(alpha, x0) * x0 + expand(sigma, x0) * eps


def to_x0(kind: Kind, value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The x0 that a value of another kind stands for, at known x_t.

    Args:
        kind: What ``value`` is: x0, eps, v = alpha eps - sigma x0, score = -eps / sigma, scaled_score = -eps, or flow = eps - x0.
        value: Shaped like x_t.
        x_t: Noisy images ``[b, c, h, w]``.
        alpha: Signal scale ``[b]``, float64.
        sigma: Noise scale ``[b]``, float64.

    Source: Ho et al. 2020 (eps); Salimans & Ho 2022, appendix D (v); Song et al. 2021 (score); Lipman et al. 2023 (flow).
    """
    if kind == "x0":
        return value
    if kind == "eps":
        # In this order nothing is lost where sigma rounds to 1 and 1 / alpha is large.
        return (x_t - expand(sigma, x_t) * value) * expand(1 / alpha, x_t)
    if kind == "scaled_score":
        return expand(1 / alpha, x_t) * x_t + expand(sigma / alpha, x_t) * value
    if kind == "v":  # the divisor is 1 where the process preserves variance
        norm = alpha**2 + sigma**2
        return expand(alpha / norm, x_t) * x_t - expand(sigma / norm, x_t) * value
    if kind == "flow":
        return expand(1 / (alpha + sigma), x_t) * (x_t - expand(sigma, x_t) * value)
    return expand(1 / alpha, x_t) * x_t + expand(sigma**2 / alpha, x_t) * value


def from_x0(kind: Kind, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The inverse of ``to_x0``; same arguments and source."""
    if kind == "x0":
        return x0
    if kind == "v":
        return expand(alpha / sigma, x_t) * x_t - expand((alpha**2 + sigma**2) / sigma, x_t) * x0
    if kind == "score":
        return (expand(alpha, x_t) * x0 - x_t) * expand(1 / sigma**2, x_t)
    eps = (x_t - expand(alpha, x_t) * x0) * expand(1 / sigma, x_t)
    if kind == "scaled_score":
        return -eps
    return eps - x0 if kind == "flow" else eps


def target(kind: Kind, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The regression target of a kind, from the clean image and the noise that was added; arguments as for ``to_x0``."""
    if kind == "x0":
        return x0
    if kind == "eps":
        return eps
    if kind == "v":
        return expand(alpha, x0) * eps - expand(sigma, x0) * x0
    if kind == "flow":
        return eps - x0
    if kind == "scaled_score":
        return -eps
    return -eps * expand(1 / sigma, x0)


class Bridge(NamedTuple):
    """Coefficients of q(x_s | x_t, x0) = N(a x0 + b x_t, std^2 I), each ``[b]`` float64."""

    a: Tensor
    b: Tensor
    std: Tensor


def bridge(schedule: Schedule, t: Tensor, s: Tensor, *, eta: float = 1.0) -> Bridge:
    """The reverse bridge from time t to s.

    Args:
        schedule: Gives alpha and sigma.
        t: Where x_t is, ``[b]``.
        s: Where x_s is, ``[b]``; cleaner than t, or, with eta = 0, noisier (inversion).
        eta: 1 is the ancestral step of DDPM, 0 the deterministic one of DDIM.

    Source: Song, Meng & Ermon 2021 (DDIM), equations 7 and 16.
    """
    alpha_t, sigma_t = schedule(t)
    alpha_s, sigma_s = schedule(s)
    if eta == 0:
        std = torch.zeros_like(sigma_s)
        b = sigma_s / sigma_t
    else:
        ratio = (alpha_t * sigma_s) / (alpha_s * sigma_t)
        std = eta * sigma_s * (1 - ratio**2).clamp_min(0).sqrt()
        b = (sigma_s**2 - std**2).clamp_min(0).sqrt() / sigma_t
    return Bridge(alpha_s - b * alpha_t, b, std)


def step_variance(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """Variance that the forward process adds from s to t: sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, ``[b]`` float64.

    For neighbouring levels of a discrete schedule this is beta.

    Source: Kingma et al. 2021, equation 20.
    """
    alpha_t, sigma_t = schedule(t)
    alpha_s, sigma_s = schedule(s)
    return sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2


def as_of(own: Schedule, schedule: Schedule, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Images of one process as another one would have them at the same signal-to-noise ratio.

    Args:
        own: The process that is wanted. Beyond its noisiest time the noise, not the signal, is made to fit.
        schedule: The process of x_t.
        x_t: ``[b, c, h, w]``.
        t: Times above 0 in the coordinate of ``schedule``, ``[b]``.

    Returns:
        The images, and their times in the coordinate of ``own``.

    Source: Karras et al. 2022, section 2: processes of one signal-to-noise ratio differ by a factor.
    """
    if own == schedule:
        return x_t, t
    last = torch.full_like(t, own.t_max)
    ratio = schedule.half_log_snr(t)
    own_t = torch.where(ratio > own.half_log_snr(last), own.time_of(ratio).clamp(0, own.t_max), last)
    return expand(own(own_t)[1] / schedule(t)[1], x_t) * x_t, own_t
