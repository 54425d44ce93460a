"""Integrators of the reverse SDE dx = (f x - g^2 score) dt + g dw, and Langevin corrections."""

from __future__ import annotations

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser
from mezzotint.errors import ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.process import bridge, expand, step_variance
from mezzotint.registry import register
from mezzotint.sample.ancestral import shifted
from mezzotint.sample.base import Sampler, draw, times
from mezzotint.sample.dpm_solver import Leg, descend
from mezzotint.types import Cond, Plan, State

PREDICTORS = ("reverse_diffusion", "ancestral")


@register("sampler", "euler_maruyama")
class EulerMaruyama(Sampler):
    """Euler's method for the reverse SDE; integrates in the schedule's own t. The step to t = 0 takes x0, and adds no noise.

    Args:
        official: Make the step to t = 0 by Euler's method as well, from the rates at its start, as in Bao et al.'s code.

    Source: Song et al. 2021, equation 6 and appendix E.
    """

    requires = frozenset({"uniform"})
    stochastic = True

    def __init__(self, *, official: bool = False):
        self.official = official

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, _ = times(plan, i, x_t)
        x0, eps = shifted(denoiser, x_t, t, cond, noise)
        schedule = denoiser.schedule
        f, g2 = schedule.rates(t)
        dt, sigma = s - t, schedule(t)[1]
        if bool((s == 0).all()):
            last = expand(1 + f * dt, x_t) * x_t + expand(g2 / sigma * dt, x_t) * eps if self.official else x0
            return last, s, State(x0=x0)
        z = draw(noise, x_t, "step")
        x_s = expand(1 + f * dt, x_t) * x_t + expand(g2 / sigma * dt, x_t) * eps + expand((-g2 * dt).sqrt(), x_t) * z
        # From pure noise, where the rates of a straight path are infinite, the exact bridge.
        alpha_s, sigma_s = schedule(s)
        x_s = torch.where(expand(torch.isfinite(g2), x_t) > 0, x_s, expand(alpha_s, x_t) * x0 + expand(sigma_s, x_t) * z)
        return torch.where(expand(s > 0, x_t) > 0, x_s, x0), s, State(x0=x0)


@register("sampler", "predictor_corrector")
class PredictorCorrector(Sampler):
    """Langevin steps at each time, then a step of the reverse SDE to the next.

    Args:
        predictor: "reverse_diffusion" discretises the reverse SDE as the forward one; "ancestral" is the step of DDPM.
        corrections: Langevin steps at each time, one call each.
        snr: Size of the Langevin steps, as the ratio of the norms of score term and noise.
        norm: "image" sets the size from the norms of each image; with "batch", as in the authors' code, from their means over the batch, so
            that an image depends on its batch.

    Source: Song et al. 2021, algorithms 2-5 and equation 46.
    """

    requires = frozenset({"uniform"})
    stochastic = True

    def __init__(self, *, predictor: str = "reverse_diffusion", corrections: int = 1, snr: float = 0.16, norm: str = "image"):
        if predictor not in PREDICTORS:
            raise unknown("predictor", predictor, PREDICTORS)
        if norm not in ("image", "batch"):
            raise unknown("norm", norm, ("image", "batch"))
        if corrections < 0 or snr <= 0:
            raise ConfigError(f"corrections={corrections}, snr={snr:g}; give at least 0 corrections and a positive snr")
        self.predictor, self.corrections, self.snr, self.norm = predictor, corrections, snr, norm

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, _ = times(plan, i, x_t)
        schedule = denoiser.schedule
        (alpha_t, sigma_t), (alpha_s, _) = schedule(t), schedule(s)
        for k in range(self.corrections):
            _, eps = shifted(denoiser, x_t, t, cond, noise)
            x_t = self.langevin(x_t, expand(-1 / sigma_t, x_t) * eps, (alpha_t / alpha_s) ** 2, draw(noise, x_t, f"langevin/{k}"))
        x0, eps = shifted(denoiser, x_t, t, cond, noise)
        if self.predictor == "ancestral":
            a, b, std = bridge(schedule, t, s)
            x_s = expand(a, x_t) * x0 + expand(b, x_t) * x_t
        else:
            added = step_variance(schedule, t, s)
            x_s = expand(2 - alpha_t / alpha_s, x_t) * x_t - expand(added / sigma_t, x_t) * eps
            std = torch.where(s > 0, added.sqrt(), 0)
        if bool((std > 0).any()):
            x_s = x_s + expand(std, x_t) * draw(noise, x_t, "step")
        return x_s, s, State(x0=x0)

    def langevin(self, x_t: Tensor, score: Tensor, ratio: Tensor, z: Tensor) -> Tensor:
        """One Langevin step; ``ratio`` is alpha_i of algorithm 5, ``[b]``."""
        size, target = (value.flatten(1).norm(dim=1).cpu().double() for value in (score, z))
        if self.norm == "batch":
            size, target = size.mean().expand_as(size), target.mean().expand_as(target)
        width = 2 * ratio * (self.snr * target / size) ** 2
        return x_t + expand(width, x_t) * score + expand((2 * width).sqrt(), x_t) * z


@register("sampler", "dpmpp_sde")
class DPMSolverSDE(Sampler):
    """DPM-Solver++(2S) with noise in both of its stages; integrates in lambda, two calls a step.

    Args:
        eta: Share of the ancestral step's noise; 0 is DPM-Solver++(2S).
        s_noise: Standard deviation of the noise, relative to the exact one.
        r: Place of the second call along the step, in lambda.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 1, with the noise of Song, Meng & Ermon 2021, equation 16.
    """

    requires = frozenset({"uniform"})

    def __init__(self, *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5):
        if eta < 0 or not 0 < r <= 1:
            raise ConfigError(f"eta={eta:g}, r={r:g}; give eta of at least 0 and r in (0, 1]")
        self.eta, self.s_noise, self.r = eta, s_noise, r
        self.stochastic = eta > 0

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, _ = times(plan, i, x_t)
        schedule = denoiser.schedule
        x0, _ = shifted(denoiser, x_t, t, cond, noise)
        whole = Leg(schedule, t, s, data=True)
        finite = torch.isfinite(whole.h)
        if not bool(finite.any()):
            return whole.base(x_t, x0), s, State(x0=x0)
        middle = whole.part(self.r)[0].s
        x_m = self.reach(denoiser, x_t, x0, t, middle, noise, "middle")
        x0_m, _ = shifted(denoiser, x_m, middle, cond, noise)
        mean = torch.where(expand(finite, x_t) > 0, x0 + (x0_m - x0) / (2 * self.r), x0)
        return self.reach(denoiser, x_t, mean, t, s, noise, "step"), s, State(x0=x0)

    def reach(self, denoiser: Denoiser, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, noise: Noise | None, name: str) -> Tensor:
        """A step to s with x0 held constant: down, then noise up to s."""
        schedule = denoiser.schedule
        down, deviation = descend(schedule, t, s, self.eta, torch.zeros_like(s))
        x_s = expand(schedule(s)[0] / schedule(down)[0], x_t) * Leg(schedule, t, down, data=True).base(x_t, x0)
        if bool((deviation > 0).any()):
            x_s = x_s + expand(self.s_noise * deviation, x_t) * draw(noise, x_t, name)
        return x_s
