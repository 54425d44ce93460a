"""The Gaussian of one reverse step, p(x_s | x_t): its mean and the choices of its variance."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mezzotint.errors import CapabilityError, unknown
from mezzotint.process import bridge, expand, from_x0, step_variance
from mezzotint.schedules import SNAP, Schedule
from mezzotint.types import Posterior

Variance = Literal["fixed_small", "fixed_large", "learned_range", "learned", "bridge", "optimal"]
VARIANCES: tuple[str, ...] = get_args(Variance)


class ReverseKernel(NamedTuple):
    """p(x_s | x_t) = N(mean, diag(var)).

    Attributes:
        mean: ``[b, c, h, w]``.
        var: Variance, broadcastable to the mean; exactly 0 at s = 0 for "fixed_small".
        log_var: Log-variance, broadcastable; at s = 0, where the true one is -inf, borrowed from the next noisier step.
    """

    mean: Tensor
    var: Tensor
    log_var: Tensor


def small_log_variance(schedule: Schedule, t: Tensor, s: Tensor, t_up: Tensor | None) -> Tensor:
    """Log of beta_tilde, the variance of q(x_s | x_t, x0), with the entry at s = 0 borrowed from the step (t_up -> t).

    Args:
        schedule: Gives alpha and sigma.
        t: ``[b]``.
        s: ``[b]``.
        t_up: The time before t in the plan, ``[b]``; None at the start of a plan, where a step to s = 0 falls back on beta.

    Returns:
        ``[b]`` float64.

    Source: Nichol & Dhariwal 2021, section 3.1; Ho et al. 2020, equation 7.
    """
    own = bridge(schedule, t, s).std ** 2
    borrowed = step_variance(schedule, t, s) if t_up is None else bridge(schedule, t_up, t).std ** 2
    return torch.where(s == 0, borrowed, own).log()


def reverse_kernel(
    schedule: Schedule,
    posterior: Posterior,
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    t_up: Tensor | None,
    *,
    eta: float = 1.0,
    variance: str = "fixed_small",
    recompute_eps: bool = True,
) -> ReverseKernel:
    """Mean and variance of the reverse step from t to s.

    Args:
        schedule: Gives alpha and sigma.
        posterior: What the denoiser believes at (x_t, t). Its ``bounded`` estimate is used where there is one.
        x_t: ``[b, c, h, w]``.
        t: ``[b]`` float64.
        s: ``[b]`` float64, cleaner than t.
        t_up: The next noisier time of the plan, ``[b]``, or None.
        eta: Share of the ancestral noise; only "bridge" and "optimal" go with others than 1.
        variance: "fixed_small" (beta_tilde), "fixed_large" (beta of the pair), "learned_range" (between the two, by the network),
            "learned" (the network's log-variance), "bridge" (beta_tilde scaled by eta), "optimal" (with Var[x0 | x_t]).
        recompute_eps: Take eps from the same (bounded) x0, so that the mean is that of the bridge; otherwise from the unclipped mean.

    Raises:
        CapabilityError: The posterior lacks what the variance needs, or it holds for another pair of times.

    Source: Ho et al. 2020, equations 6-7; Nichol & Dhariwal 2021, equation 15; Bao et al. 2022, theorem 1 ("optimal").
    """
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    if eta != 1 and variance not in ("bridge", "optimal"):
        raise CapabilityError(f"variance '{variance}' is defined for eta=1, got eta={eta}; use variance='bridge'")
    a, b, std = bridge(schedule, t, s, eta=eta)
    head = posterior.kernel
    if head is not None and head.mean is not None and _same_pair(head.s, s):
        mean = head.mean
    else:
        mean = expand(a, x_t) * posterior.x0 + expand(b, x_t) * x_t
        if not recompute_eps:  # the eps of the unclipped mean in the place of that of the bounded one
            alpha, sigma = schedule(t)
            eps = from_x0("eps", posterior.mean, x_t, alpha, sigma) - from_x0("eps", posterior.x0, x_t, alpha, sigma)
            mean = mean + expand(b * sigma, x_t) * eps

    if variance == "fixed_small":
        return ReverseKernel(mean, expand(std**2, x_t), expand(small_log_variance(schedule, t, s, t_up), x_t))
    if variance == "fixed_large":
        log_var = step_variance(schedule, t, s).log()
        log_var = expand(torch.where(s == 0, small_log_variance(schedule, t, s, t_up), log_var), x_t)
    elif variance == "learned_range":
        if head is None or head.frac is None:
            raise CapabilityError("variance 'learned_range' needs a network that learned it; use fixed_small or fixed_large")
        low = expand(small_log_variance(schedule, t, s, t_up), x_t)
        high = expand(step_variance(schedule, t, s).log(), x_t)
        log_var = head.frac * high + (1 - head.frac) * low
    elif variance == "learned":
        if head is None or head.log_var is None:
            raise CapabilityError("variance 'learned' needs a network that learned it; use fixed_small or fixed_large")
        if not _same_pair(head.s, s):
            raise CapabilityError("this network's learned variance holds for its own steps only; sample all of them, or use fixed_small")
        log_var = head.log_var
    elif variance == "bridge":
        var = expand(std**2, x_t)
        return ReverseKernel(mean, var, var.log())
    else:
        if posterior.var is None:
            raise CapabilityError("variance 'optimal' needs a denoiser that knows Var[x0 | x_t]; use fixed_small or fixed_large")
        var = expand(std**2, x_t) + expand(a**2, x_t) * posterior.var
        return ReverseKernel(mean, var, var.log())
    return ReverseKernel(mean, log_var.exp(), log_var)


def x0_variance(eps_variance: Tensor, alpha: Tensor, sigma: Tensor, *, largest: float | None = 1.0, average: bool = False) -> Tensor:
    """Var[x0 | x_t] from what is believed of the variance of eps, (sigma / alpha)^2 Var[eps | x_t], within its bounds.

    Args:
        eps_variance: Belief about Var[eps | x_t], ``[b, #c, #h, #w]``, which may miss its range: 1 - E[mean eps^2] (Analytic-DPM),
            E[eps^2 | x_t] - eps^2 (SN-DPM), or E[(eps - eps_hat)^2 | x_t] (NPR-DPM).
        alpha: Signal scale ``[b]``, float64.
        sigma: Noise scale ``[b]``, float64.
        largest: Clamp to [0, largest]; 1 is the largest variance of data in [-1, 1], inf leaves only the 0. None: no bounds.
        average: Take the mean over each image before the bounds.

    Returns:
        ``[b, #c, #h, #w]``, in units of x0 squared; 1 where x_t is pure noise, which says nothing of x0.

    Source: Bao et al. 2022 (Analytic-DPM), equation 9 and theorem 2; Bao et al. 2022 (Estimating the optimal covariance), theorem 3.2
    and equation 15.
    """
    if average:
        eps_variance = eps_variance.mean(dim=tuple(range(1, eps_variance.ndim)), keepdim=True)
    var = expand((sigma / alpha) ** 2, eps_variance) * eps_variance
    if largest is None:
        return var
    return torch.where(expand(alpha > 0, var).bool(), var.clamp(0, largest), 1.0)


def noise_cap(pixels: float) -> float:
    """The variance at which noise changes an 8-bit pixel by so many levels on average: E|noise| = pixels * 2 / 255.

    Source: Bao et al. 2022 (Analytic-DPM), appendix F.2 (1 or 2 levels, on the step to the first noise level).

    Example:
        >>> round(noise_cap(1), 9), round(noise_cap(2), 8)
        (9.6627e-05, 0.00038651)
    """
    return (2 * pixels / 255) ** 2 * math.pi / 2


def _same_pair(given: Tensor | None, s: Tensor) -> bool:
    return given is not None and bool(((given - s).abs() <= SNAP).all())
