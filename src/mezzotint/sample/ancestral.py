"""The ancestral step of DDPM and the step of DDIM: both draw from the reverse bridge, or from the network's own kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from mezzotint.covariance import VARIANCES, noise_cap, reverse_kernel
from mezzotint.denoise import Denoiser
from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.process import bridge, expand, from_x0, to_x0
from mezzotint.registry import register
from mezzotint.sample.base import Sampler, draw, times
from mezzotint.sample.grid import End
from mezzotint.schedules import Schedule
from mezzotint.types import Cond, Plan, Posterior, State

KNOWN_VARIANCE = frozenset({"x0_variance"})
"""What samplers require that use Var[x0 | x_t]."""


class Cap:
    """Limits the noise of the last steps.

    Args:
        levels: The most that it may change an 8-bit pixel on average; 0: no limit.
        steps: How many steps.

    Raises:
        ConfigError: A negative number.
    """

    def __init__(self, levels: float, steps: int):
        if levels < 0 or steps < 0:
            raise ConfigError(f"cap={levels:g}, cap_steps={steps}; give numbers from 0 on")
        self.levels, self.steps = levels, steps

    def __call__(self, std: Tensor, plan: Plan, i: int) -> Tensor:
        """Standard deviations ``[b, #c, #h, #w]`` of step i of a plan, limited if it is one of the last."""
        if self.levels == 0:
            return std
        last = (plan.grid[i + 1 :] > 0).sum(dim=0) <= self.steps
        return torch.where(expand(last, std).bool(), std.clamp_max(noise_cap(self.levels) ** 0.5), std)


@register("sampler", "ancestral")
class Ancestral(Sampler):
    """x_s ~ p(x_s | x_t), the Gaussian of ``covariance.reverse_kernel``; no noise is added on the step to t = 0.

    Classifier guidance shifts the mean by variance * score_shift.

    Args:
        variance: One of ``covariance.VARIANCES``, or "model" for that of the denoiser.
        cap: The most that the noise of the last steps may change an 8-bit pixel, on average, in levels; 0: no such limit.
        cap_steps: How many steps that is for, counted from the one that leads to the last time above 0.

    Source: Ho et al. 2020, algorithm 2; Dhariwal & Nichol 2021, algorithm 1 (guidance); Bao et al. 2022 (Analytic-DPM), appendix F.2 (cap).
    """

    stochastic = True

    def __init__(self, *, variance: str = "model", cap: float = 0.0, cap_steps: int = 1):
        if variance != "model" and variance not in VARIANCES:
            raise unknown("variance", variance, ["model", *VARIANCES])
        self.variance = variance
        self.cap = Cap(cap, cap_steps)
        self.requires = KNOWN_VARIANCE if variance == "optimal" else frozenset()

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, t_up = times(plan, i, x_t)
        posterior = denoiser(x_t, t, cond, noise=noise)
        variance = denoiser.variance if self.variance == "model" else self.variance
        mean, var, log_var = reverse_kernel(denoiser.schedule, posterior, x_t, t, s, t_up, variance=variance)
        if posterior.score_shift is not None:
            mean = mean + var * posterior.score_shift
        if bool((s > 0).any()):
            std = self.cap(torch.exp(0.5 * log_var), plan, i)
            mean = mean + expand(s > 0, x_t) * std * draw(noise, x_t, "step")
        return mean, s, State(x0=posterior.x0)


@register("sampler", "ddim")
class DDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z, with std scaled by eta.

    Classifier guidance shifts eps by -sigma * score_shift, and x0 accordingly, which is not clipped again.

    Args:
        eta: 0 is deterministic, 1 has the variance of the ancestral step.
        recompute_eps: Take eps from the bounded x0, so that the two belong together; otherwise from the network's unclipped mean.
        variance: "bridge" (std^2), or "optimal", which adds what Var[x0 | x_t] brings, and draws noise even with eta = 0.
        cap: As for ``Ancestral``.
        cap_steps: As for ``Ancestral``.

    Source: Song, Meng & Ermon 2021, equation 12; Dhariwal & Nichol 2021, algorithm 2 (guidance); Bao et al. 2022 (Analytic-DPM), theorem 1
    ("optimal").
    """

    def __init__(self, *, eta: float = 0.0, recompute_eps: bool = True, variance: str = "bridge", cap: float = 0.0, cap_steps: int = 1):
        if not 0 <= eta <= 1:
            raise ConfigError(f"eta {eta} is not in [0, 1]")
        if variance not in ("bridge", "optimal"):
            raise unknown("variance", variance, ["bridge", "optimal"])
        self.eta, self.recompute_eps, self.variance = eta, recompute_eps, variance
        self.cap = Cap(cap, cap_steps)
        self.requires = KNOWN_VARIANCE if variance == "optimal" else frozenset()
        self.stochastic = eta > 0 or variance == "optimal"

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, _ = times(plan, i, x_t)
        posterior = denoiser(x_t, t, cond, noise=noise)
        x0, eps = shift(denoiser.schedule, posterior, x_t, t, recompute_eps=self.recompute_eps)
        alpha_s, sigma_s = denoiser.schedule(s)
        a, _, std = bridge(denoiser.schedule, t, s, eta=self.eta)
        x_s = expand(alpha_s, x_t) * x0 + expand((sigma_s**2 - std**2).clamp_min(0).sqrt(), x_t) * eps
        spread = expand(std, x_t)
        if self.variance == "optimal":
            if posterior.var is None:
                raise CapabilityError("variance 'optimal' needs a denoiser that knows Var[x0 | x_t]; use bridge")
            spread = (spread**2 + expand(a**2, x_t) * posterior.var).sqrt()
        if self.stochastic and bool((s > 0).any()):
            x_s = x_s + expand(s > 0, x_t) * self.cap(spread, plan, i) * draw(noise, x_t, "step")
        return x_s, s, State(x0=x0)


@register("sampler", "ddim_inversion")
class DDIMInversion(Sampler):
    """Runs DDIM's ODE backwards: an image becomes the noise that DDIM would turn into it.

    The image is taken to lie at the first time of the plan, which has no noise to speak of.

    Args:
        official: End at pure noise, (alpha, sigma) = (0, 1), with one step beyond the last level, as the official code does.

    Source: Song, Meng & Ermon 2021, section 4.3.
    """

    def __init__(self, *, official: bool = False):
        self.official = official

    def plan(
        self,
        schedule: Schedule,
        *,
        steps: int | None = None,
        spacing: str = "uniform",
        t_start: Tensor | float | None = None,
        t_end: End = 0.0,
    ) -> Plan:
        """As ``Sampler.plan``, turned round: from the last time of the forward plan above 0 up to its start."""
        down = super().plan(schedule, steps=steps, spacing=spacing, t_start=t_start, t_end=t_end).grid
        up = down[down[:, 0] > 0].flip(0)
        if self.official:
            up = torch.cat([up, torch.full_like(up[:1], torch.inf)])
        return Plan(up)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, _ = times(plan, i, x_t)
        x0, eps = shifted(denoiser, x_t, t, cond, noise)
        alpha_s, sigma_s = denoiser.schedule(s)
        return expand(alpha_s, x_t) * x0 + expand(sigma_s, x_t) * eps, s, State(x0=x0)


def shifted(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Cond, noise: Noise | None, *, recompute_eps: bool = True
) -> tuple[Tensor, Tensor]:
    """x0 and eps as the deterministic samplers use them, with the score shift of guidance applied.

    Args:
        denoiser: Gives the posterior.
        x_t: ``[b, c, h, w]``.
        t: ``[b]`` float64.
        cond: Conditions.
        noise: Random streams.
        recompute_eps: Whether eps follows the bounded x0.

    Source: Dhariwal & Nichol 2021, equation 14.
    """
    return shift(denoiser.schedule, denoiser(x_t, t, cond, noise=noise), x_t, t, recompute_eps=recompute_eps)


def shift(schedule: Schedule, posterior: Posterior, x_t: Tensor, t: Tensor, *, recompute_eps: bool = True) -> tuple[Tensor, Tensor]:
    """x0 and eps of a posterior that is known already; as ``shifted``."""
    alpha, sigma = schedule(t)
    x0 = posterior.x0
    eps = from_x0("eps", x0 if recompute_eps else posterior.mean, x_t, alpha, sigma)
    if posterior.score_shift is not None:
        eps = eps - expand(sigma, x_t) * posterior.score_shift
        # Pure noise says nothing of x0, so that no shift of eps can move it there.
        x0 = torch.where(expand(alpha > 0, x_t).bool(), to_x0("eps", eps, x_t, alpha, sigma), x0)
    return x0, eps
