"""Integrators of the probability-flow ODE, in a coordinate of choice.

"sigma" integrates u = x / alpha against r = sigma / alpha, where du/dr = eps: the curves are straightest there, and Euler's method is DDIM.
"variance" integrates u against r^2, and "t" integrates x itself against the schedule's own t. These three, with the spacing of the grid,
are the family of samplers that Karras et al. 2022 compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.denoise import CLIPPED, Denoiser
from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.process import expand
from mezzotint.registry import register
from mezzotint.sample.ancestral import shifted
from mezzotint.sample.base import Sampler, draw, times
from mezzotint.sample.grid import End, jumps_to_0
from mezzotint.schedules import Schedule
from mezzotint.types import Cond, Plan, State

COORDINATES = ("sigma", "variance", "t")
METHODS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


@dataclass(frozen=True)
class Coordinate:
    """The ODE as dz/dtau = slope, with x = scale z.

    Source: Karras et al. 2022, equation 4 and table 1; Song, Meng & Ermon 2021, equation 14 ("sigma").
    """

    name: str
    schedule: Schedule

    def tau(self, t: Tensor) -> Tensor:
        """tau at time t, ``[b]``; infinite at pure noise, but for "t"."""
        if self.name == "t":
            return t
        alpha, sigma = self.schedule(t)
        return (sigma / alpha) ** (1 if self.name == "sigma" else 2)

    def time(self, tau: Tensor) -> Tensor:
        """The inverse of ``tau``."""
        return tau if self.name == "t" else self.schedule.time_of(-tau.log() / (1 if self.name == "sigma" else 2))

    def scale(self, t: Tensor) -> Tensor:
        """x = scale z, ``[b]``."""
        return torch.ones_like(t) if self.name == "t" else self.schedule(t)[0]

    def slope(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """dz/dtau where x_t = alpha x0 + sigma eps."""
        if self.name == "t":
            alpha_rate, sigma_rate = self.schedule.slopes(t)
            return expand(alpha_rate, x0) * x0 + expand(sigma_rate, x0) * eps
        return eps if self.name == "sigma" else expand(0.5 / self.tau(t).sqrt(), eps) * eps

    def advance(self, x_t: Tensor, slope: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s on the line through x_t with that slope."""
        ratio, width = self.scale(s) / self.scale(t), self.scale(s) * (self.tau(s) - self.tau(t))
        return expand(ratio, x_t) * x_t + expand(width, x_t) * slope


@register("sampler", "euler")
class Euler(Sampler):
    """Euler's method, with optional churn: noise is added before each step, and taken away again by it.

    Args:
        coordinate: What is integrated against; one of ``COORDINATES``.
        s_churn: Amount of churn of the whole run; 0 is deterministic.
        s_min: No churn where sigma / alpha is below this.
        s_max: No churn where sigma / alpha is above this.
        s_noise: Standard deviation of the added noise, relative to the exact one.

    Source: Karras et al. 2022, algorithm 2 without its correction.
    """

    requires = frozenset({"uniform"})

    def __init__(
        self, *, coordinate: str = "sigma", s_churn: float = 0.0, s_min: float = 0.0, s_max: float = math.inf, s_noise: float = 1.0
    ):
        if coordinate not in COORDINATES:
            raise unknown("coordinate", coordinate, COORDINATES)
        if s_churn < 0:
            raise ConfigError(f"s_churn={s_churn:g} is negative; give 0 for none")
        self.coordinate = coordinate
        self.s_churn, self.s_min, self.s_max, self.s_noise = s_churn, s_min, s_max, s_noise
        self.stochastic = s_churn > 0

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, _ = times(plan, i, x_t)
        x_t, t = self.churn(denoiser, x_t, t, plan, noise)
        x0, eps = shifted(denoiser, x_t, t, cond, noise)
        line = Coordinate(self.coordinate, denoiser.schedule)
        slope = line.slope(x0, eps, t)
        second = self.second(line, t, s)
        if second is not None:
            t_2, weight = second
            x_2 = line.advance(x_t, slope, t, t_2)
            mix = expand(weight, x_t)
            slope = torch.where(mix > 0, (1 - mix) * slope + mix * line.slope(*shifted(denoiser, x_2, t_2, cond, noise), t_2), slope)
        # From pure noise, where tau is infinite, DDIM's step is the limit.
        x_s = torch.where(expand(torch.isfinite(line.tau(t)), x_t) > 0, line.advance(x_t, slope, t, s), ddim(denoiser.schedule, x0, eps, s))
        return x_s, s, State(x0=x0)

    def second(self, line: Coordinate, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor] | None:
        """Where a second slope is taken, and its weight, ``[b]`` each; None: nowhere."""
        return None

    def churn(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, plan: Plan, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Moves x_t to a noisier time by adding noise; algorithm 2, lines 4-6."""
        alpha, sigma = denoiser.schedule(t)
        ratio = sigma / alpha
        churned = (self.s_min <= ratio) & (ratio <= self.s_max) & torch.isfinite(ratio) & (self.s_churn > 0)
        if not bool(churned.any()):
            return x_t, t
        gamma = min(self.s_churn / plan.steps, math.sqrt(2) - 1)
        t = torch.where(churned, denoiser.snap(denoiser.schedule.time_of(-torch.log(ratio * (1 + gamma)))), t)
        alpha_hat, sigma_hat = denoiser.schedule(t)
        extra = ((sigma_hat / alpha_hat) ** 2 - ratio**2).clamp_min(0).sqrt()
        moved = expand(alpha_hat / alpha, x_t) * x_t + expand(self.s_noise * alpha_hat * extra, x_t) * draw(noise, x_t, "churn")
        return torch.where(expand(churned, x_t) > 0, moved, x_t), t


def ddim(schedule: Schedule, x0: Tensor, eps: Tensor, s: Tensor) -> Tensor:
    """alpha_s x0 + sigma_s eps."""
    alpha, sigma = schedule(s)
    return expand(alpha, x0) * x0 + expand(sigma, x0) * eps


@register("sampler", "heun")
class Heun(Euler):
    """EDM's sampler: Heun's method, with optional churn; the step to t = 0 is Euler's.

    So is a step from where next to nothing is left of the image, log(alpha / sigma) < -5.1, to a noise level of less than a quarter: there
    the second slope would multiply what the network changes its mind by, as at the noisy end of cosine schedules.

    Args:
        alpha: Place of the second slope along the step, in (0, 1]: 1 is Heun's method, 1/2 the midpoint's, 2/3 Ralston's.
        coordinate: As for ``Euler``, like those that follow.
        s_churn: Amount of churn.
        s_min: Lower end of the churn.
        s_max: Upper end of the churn.
        s_noise: Standard deviation of the added noise.

    Source: Karras et al. 2022, algorithm 2, and algorithm 3 (alpha).
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        coordinate: str = "sigma",
        s_churn: float = 0.0,
        s_min: float = 0.0,
        s_max: float = math.inf,
        s_noise: float = 1.0,
    ):
        super().__init__(coordinate=coordinate, s_churn=s_churn, s_min=s_min, s_max=s_max, s_noise=s_noise)
        if not 0 < alpha <= 1:
            raise ConfigError(f"alpha={alpha:g} is not in (0, 1]")
        self.alpha = alpha

    def second(self, line: Coordinate, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor] | None:
        inside = self.inside(line, t, s)
        if line.name != "t":
            (alpha_t, sigma_t), (alpha_s, sigma_s) = line.schedule(t), line.schedule(s)
            leap = (alpha_t < math.exp(CLIPPED) * sigma_t) & (4 * sigma_s * alpha_t < sigma_t * alpha_s)
            inside = inside & ~leap
        if not bool(inside.any()):
            return None
        middle = line.time(line.tau(t) + self.alpha * (line.tau(s) - line.tau(t))) if self.alpha < 1 else s
        return torch.where(inside, middle, t), inside / (2 * self.alpha)

    @staticmethod
    def inside(line: Coordinate, t: Tensor, s: Tensor) -> Tensor:
        """Where a second slope is of use: neither from pure noise nor to t = 0."""
        return (s > 0) & torch.isfinite(line.tau(t))


@register("sampler", "dpm2")
class DPM2(Heun):
    """The midpoint method with the middle at the geometric mean of the noise levels; DPM-Solver-2 with churn.

    Args:
        s_churn: As for ``Euler``, like those that follow.
        s_min: Lower end of the churn.
        s_max: Upper end of the churn.
        s_noise: Standard deviation of the added noise.

    Source: Lu et al. 2022 (DPM-Solver), algorithm 1, in the coordinate sigma / alpha; Karras et al. 2022, algorithm 2 (churn).
    """

    def __init__(self, *, s_churn: float = 0.0, s_min: float = 0.0, s_max: float = math.inf, s_noise: float = 1.0):
        super().__init__(s_churn=s_churn, s_min=s_min, s_max=s_max, s_noise=s_noise)

    def second(self, line: Coordinate, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor] | None:
        inside = self.inside(line, t, s)
        if not bool(inside.any()):
            return None
        return torch.where(inside, line.time((line.tau(t) * line.tau(s)).sqrt()), t), inside.double()


def ancestral_split(ratio_t: Tensor, ratio_s: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Splits a step in r = sigma / alpha into a deterministic one to ``down`` and noise of deviation ``up``: down^2 + up^2 = ratio_s^2.

    Args:
        ratio_t: r where the step starts, ``[b]``.
        ratio_s: r where it ends, ``[b]``.
        eta: Share of the noise; 1 is that of the ancestral step.

    Returns:
        down and up, each ``[b]``.

    Source: Song, Meng & Ermon 2021, equation 16, for x / alpha.
    """
    up = torch.minimum(ratio_s, eta * ratio_s * (1 - (ratio_s / ratio_t) ** 2).clamp_min(0).sqrt())
    return (ratio_s**2 - up**2).sqrt(), up


@register("sampler", "euler_ancestral")
class EulerAncestral(Sampler):
    """Euler's step to less noise than asked for, then noise up to what was asked for; integrates in the coordinate "sigma".

    Args:
        eta: Share of the noise; 0 is Euler's method, 1 the ancestral step.
        s_noise: Standard deviation of the added noise, relative to the exact one.

    Source: Song, Meng & Ermon 2021, equation 12.
    """

    requires = frozenset({"uniform"})

    def __init__(self, *, eta: float = 1.0, s_noise: float = 1.0):
        if eta < 0:
            raise ConfigError(f"eta={eta:g} is negative; give 0 for no noise")
        self.eta, self.s_noise = eta, s_noise
        self.stochastic = eta > 0

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, _ = times(plan, i, x_t)
        x0, eps = shifted(denoiser, x_t, t, cond, noise)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule(t), denoiser.schedule(s)
        down, up = ancestral_split(sigma_t / alpha_t, sigma_s / alpha_s, self.eta)
        x_s = expand(alpha_s, x_t) * (x0 + expand(down, x_t) * eps)
        if bool((up > 0).any()):
            x_s = x_s + expand(alpha_s * up * self.s_noise, x_t) * draw(noise, x_t, "step")
        return x_s, s, State(x0=x0)


@dataclass(frozen=True)
class LMSState(State):
    """Earlier slopes of ``LMS``, the latest first: eps and r = sigma / alpha."""

    slopes: tuple[Tensor, ...] = ()
    ratios: tuple[Tensor, ...] = ()


@register("sampler", "lms")
class LMS(Sampler):
    """Linear multistep method (Adams-Bashforth on an uneven grid), one call a step; integrates in the coordinate "sigma".

    Args:
        order: Number of slopes that are used, 1 to 4.

    Source: Liu et al. 2022 (PNDM), section 3.3; Zhang & Chen 2023 (DEIS), equation 14.
    """

    requires = frozenset({"uniform"})

    def __init__(self, *, order: int = 4):
        if not 1 <= order <= 4:
            raise ConfigError(f"order {order} is not one of 1, 2, 3, 4")
        self.order = order

    def init(self, x: Tensor, plan: Plan) -> LMSState:
        return LMSState()

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        assert isinstance(state, LMSState)
        t, s, _ = times(plan, i, x_t)
        x0, eps = shifted(denoiser, x_t, t, cond, noise)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule(t), denoiser.schedule(s)
        slopes, ratios = (eps, *state.slopes)[: self.order], (sigma_t / alpha_t, *state.ratios)[: self.order]
        weights = lagrange_weights(torch.stack(ratios), sigma_s / alpha_s)
        # The weights add up to the width of the step, so that x = alpha x0 + sigma eps turns Euler's part into DDIM's, which has no limit.
        x_s = ddim(denoiser.schedule, x0, eps, s)
        for weight, slope in zip(weights[1:], slopes[1:], strict=True):
            x_s = x_s + expand(alpha_s * weight, x_t) * (slope - eps)
        return x_s, s, LMSState(x0, slopes, ratios)


def lagrange_weights(nodes: Tensor, to: Tensor) -> Tensor:
    """Integrals from nodes[0] to ``to`` of the Lagrange polynomials of the nodes.

    Args:
        nodes: ``[k, b]``, the latest first; an infinite one gets the weight 0.
        to: ``[b]``.

    Returns:
        ``[k, b]``, adding up to ``to - nodes[0]`` where that is finite.
    """
    places, masses = np.polynomial.legendre.leggauss(len(nodes))  # exact for the degree at hand
    width = (to - nodes[0]) / 2
    weights = torch.zeros_like(nodes)
    for place, mass in zip(places, masses, strict=True):
        at = nodes[0] + (1 + place) * width
        for j in range(len(nodes)):
            value = torch.ones_like(at)
            for k in range(len(nodes)):
                if k != j:
                    value = value * torch.where(torch.isfinite(nodes[k]), (at - nodes[k]) / (nodes[j] - nodes[k]), 1)
            weights[j] += mass * width * value
    return torch.where(torch.isfinite(nodes) & torch.isfinite(nodes[0]), weights, 0)


@register("sampler", "ode")
class AdaptiveODE(Sampler):
    """An integrator of torchdiffeq that chooses its own steps; it reports the calls that it made.

    Between the times of its plan it takes as many steps as the tolerances need; the step to t = 0 is Euler's.

    Args:
        method: One of ``METHODS``.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        coordinate: What is integrated against, as for ``Euler``.
        norm: "image" integrates each image by itself, so that it does not depend on its batch; "batch" all at once, with one error norm,
            as published codes do.

    Source: Song et al. 2021, section 4.3 and appendix D.4.
    """

    requires = frozenset({"uniform"})

    def __init__(self, *, method: str = "dopri5", rtol: float = 1e-5, atol: float = 1e-5, coordinate: str = "t", norm: str = "image"):
        if coordinate not in COORDINATES:
            raise unknown("coordinate", coordinate, COORDINATES)
        if norm not in ("image", "batch"):
            raise unknown("norm", norm, ("image", "batch"))
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        self.method, self.rtol, self.atol, self.coordinate, self.norm = method, rtol, atol, coordinate, norm
        self._odeint = load_odeint("sampler 'ode'", "heun")

    def plan(
        self,
        schedule: Schedule,
        *,
        steps: int | None = None,
        spacing: str = "uniform",
        t_start: Tensor | float | None = None,
        t_end: End = 0.0,
    ) -> Plan:
        """As ``Sampler.plan``; without steps, straight to the last time that the network knows."""
        if steps is None and spacing == "uniform":
            steps = 2 if jumps_to_0(t_end) else 1
        return super().plan(schedule, steps=steps, spacing=spacing, t_start=t_start, t_end=t_end)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        t, s, _ = times(plan, i, x_t)
        line = Coordinate(self.coordinate, denoiser.schedule)
        if not bool(torch.isfinite(line.tau(t)).all()):
            raise CapabilityError(f"coordinate '{self.coordinate}' has no place for pure noise; use coordinate=t, or start below it")
        x0 = None
        if bool((s == 0).any()):
            x0, _ = shifted(denoiser, x_t, t, cond, noise)
        x_s = x_t.clone() if x0 is None else x0
        going = torch.nonzero(s > 0).flatten().tolist()
        for part in [going] * bool(going) if self.norm == "batch" else [[k] for k in going]:
            given = {name: value[part] for name, value in cond.items()}
            streams = None if noise is None else noise.rows(part)
            x_s[part] = self._integrate(denoiser, line, x_t[part], t[part], s[part], given, streams)
        return x_s, s, State(x0=x0)

    def _integrate(
        self, denoiser: Denoiser, line: Coordinate, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond, noise: Noise | None
    ) -> Tensor:
        start, width = line.tau(t), line.tau(s) - line.tau(t)

        def slope(share: Tensor, z: Tensor) -> Tensor:
            now = line.time(start + share.double().cpu().clamp_max(1) * width)  # the choice of a first step looks ahead
            x = expand(line.scale(now), z) * z
            return expand(width, z) * line.slope(*shifted(denoiser, x, now, cond, noise), now)

        z = expand(1 / line.scale(t), x_t) * x_t
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x_t.device)
        # A step must end at the end: beyond it, times may be below 0.
        options = {"step_t": ends[1:]}
        z = self._odeint(slope, z, ends, rtol=self.rtol, atol=self.atol, method=self.method, options=options)[-1]
        return expand(line.scale(s), z) * z


def load_odeint(user: str, instead: str) -> Any:
    """torchdiffeq's ``odeint``.

    Args:
        user: What needs it, for the message.
        instead: What does not.

    Raises:
        CapabilityError: It is not installed.
    """
    try:
        import torchdiffeq
    except ImportError:
        raise CapabilityError(f"{user} needs torchdiffeq; install it with pip install 'mezzotint[solvers]', or use {instead}") from None
    return torchdiffeq.odeint
