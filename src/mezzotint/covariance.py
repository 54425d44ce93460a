"""The Gaussian of one reverse step, p(x_s | x_t): its mean and the choices of its variance."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mezzotint.errors import CapabilityError, unknown
from mezzotint.process import bridge, expand, step_variance
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


def _same_pair(given: Tensor | None, s: Tensor) -> bool:
    return given is not None and bool(((given - s).abs() <= SNAP).all())
