"""DPM-Solver and DPM-Solver++: exponential integrators in lambda = log(alpha / sigma), half the log-SNR.

A step goes from time t to s, with h = lambda_s - lambda_t. The network's value m is eps in the noise form (DPM-Solver) and x0 in the data
form (DPM-Solver++). With (k, A) = (h, sigma_s) for noise and (-h, alpha_s) for data, psi_1 = exp(k) - 1 and psi_{n+1} = psi_n / k - 1 / n!,
both forms are

    x_s = base(x_t, m) - A (psi_2 h m' + psi_3 h^2 m'' + ...)

where m' is the derivative in lambda, estimated from differences, and base is DDIM's step.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser
from mezzotint.errors import ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.process import expand
from mezzotint.registry import register
from mezzotint.sample.ancestral import shifted
from mezzotint.sample.base import Sampler, draw, times
from mezzotint.sample.grid import End, check_signal, jumps_to_0, make_grid
from mezzotint.sample.ode import ancestral_split
from mezzotint.schedules import Schedule
from mezzotint.types import Cond, Plan, State

VARIANTS = ("++", "noise")
METHODS = ("multistep", "singlestep", "singlestep_fixed")
CORRECTIONS = ("midpoint", "taylor")
NORMS = ("image", "batch", "mean")
CONTROLLERS = ("standard", "smooth")


@dataclass(frozen=True)
class Leg:
    """The exact part of a step, and the weights of what is approximated.

    Attributes:
        schedule: Gives alpha, sigma and lambda.
        t: Where it starts, ``[b]``.
        s: Where it ends, ``[b]``.
        data: Whether m is x0; otherwise eps.
        eta: Share of the noise of the reverse SDE; 0 is the ODE.

    Source: Lu et al. 2022 (DPM-Solver), equation 3.4; Lu et al. 2022 (DPM-Solver++), equations 8 and 18.
    """

    schedule: Schedule
    t: Tensor
    s: Tensor
    data: bool
    eta: float = 0.0

    @cached_property
    def scales(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha_t, sigma_t, alpha_s, sigma_s."""
        return *self.schedule(self.t), *self.schedule(self.s)

    @cached_property
    def lam(self) -> Tensor:
        """lambda at t."""
        return self.scales[0].log() - self.scales[1].log()

    @cached_property
    def h(self) -> Tensor:
        """lambda_s - lambda_t; infinite to t = 0 and from pure noise."""
        return self.scales[2].log() - self.scales[3].log() - self.lam

    @cached_property
    def inside(self) -> Tensor:
        """Where h is of use: neither infinite nor nothing."""
        return torch.isfinite(self.h) & (self.h != 0)

    def psi(self, n: int) -> Tensor:
        """psi_n."""
        k = -(1 + self.eta) * self.h if self.data else self.h
        value = torch.expm1(k)
        for j in range(1, n):
            value = value / k - 1 / math.factorial(j)
        return value

    def base(self, x_t: Tensor, m: Tensor) -> Tensor:
        """The step with m held constant; for eta = 0 that of DDIM. Written so that it holds at s = 0 as well."""
        alpha_t, sigma_t, alpha_s, sigma_s = self.scales
        if self.data:
            keep = sigma_s / sigma_t * (torch.exp(-self.eta * self.h) if self.eta else 1)
            return expand(keep, x_t) * x_t + expand(alpha_s - alpha_t * keep, x_t) * m
        keep = alpha_s / alpha_t
        gain = torch.where(self.s > 0, 1 + self.eta, 1.0)
        return expand(keep, x_t) * x_t + expand(gain * (sigma_s - sigma_t * keep), x_t) * m

    def correct(self, x_s: Tensor, weight: Tensor, difference: Tensor) -> Tensor:
        """x_s - A weight difference. Steps to t = 0 and from pure noise, where h is infinite, stay of first order."""
        scale = self.scales[2] if self.data else (1 + self.eta) * self.scales[3]
        return x_s - expand(torch.where(self.inside, scale * weight, 0), x_s) * difference

    def deviation(self) -> Tensor:
        """Standard deviation of the noise that the step adds, ``[b]``."""
        share = -torch.expm1(-2 * self.eta * self.h) if self.data else self.eta * torch.expm1(2 * self.h)
        return torch.where(self.s > 0, self.scales[3] * share.sqrt(), 0)

    def part(self, share: float) -> tuple[Leg, Tensor]:
        """The leg that covers a share of h, and that share ``[b]``."""
        s = torch.where(self.inside, self.schedule.time_of(self.lam + share * self.h), self.t)
        return Leg(self.schedule, self.t, s, self.data), torch.full_like(self.t, share)

    def until(self, s: Tensor) -> tuple[Leg, Tensor]:
        """The leg to a time on the way, and its share of h ``[b]``."""
        leg = Leg(self.schedule, self.t, s, self.data)
        return leg, leg.h / self.h

    # --- single steps: m is the value at t, m1 and m2 those at the shares r1 and r2 ----------------------------------------

    def second(self, x_t: Tensor, m: Tensor, m1: Tensor, r1: Tensor, *, taylor: bool) -> Tensor:
        """DPM-Solver, algorithm 1; DPM-Solver++, algorithm 1 (2S)."""
        weight = self.psi(2) if taylor else 0.5 * self.psi(1)
        return self.correct(self.base(x_t, m), weight / r1, m1 - m)

    def stage(self, x_t: Tensor, m: Tensor, m1: Tensor, r1: Tensor, r2: Tensor) -> Tensor:
        """The point at which m2 is evaluated, at the end of this leg; DPM-Solver, algorithm 2."""
        return self.correct(self.base(x_t, m), r2 / r1 * self.psi(2), m1 - m)

    def third(self, x_t: Tensor, m: Tensor, m1: Tensor, m2: Tensor, r1: Tensor, r2: Tensor, *, taylor: bool) -> Tensor:
        """DPM-Solver, algorithm 2."""
        x_s = self.base(x_t, m)
        if not taylor:
            return self.correct(x_s, self.psi(2) / r2, m2 - m)
        # With d_i = (m_i - m) / r_i: h m' = (r2 d1 - r1 d2) / (r2 - r1) and h^2 m'' = 2 (d2 - d1) / (r2 - r1).
        x_s = self.correct(x_s, (r2 * self.psi(2) - 2 * self.psi(3)) / (r1 * (r2 - r1)), m1 - m)
        return self.correct(x_s, (2 * self.psi(3) - r1 * self.psi(2)) / (r2 * (r2 - r1)), m2 - m)


class _Exponential(Sampler):
    """What the two samplers below share."""

    requires = frozenset({"uniform"})

    def __init__(self, *, order: int, variant: str, correction: str, clip_lambda: float | None):
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS)
        if correction not in CORRECTIONS:
            raise unknown("correction", correction, CORRECTIONS)
        self.order, self.data, self.taylor, self.clip_lambda = order, variant == "++", correction == "taylor", clip_lambda

    def evaluate(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Cond, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """m and x0."""
        x0, eps = shifted(denoiser, x_t, t, cond, noise)
        return (x0 if self.data else eps), x0

    def grid(self, schedule: Schedule, spacing: str, steps: int | None, t_start: Tensor | float | None, t_end: End) -> Tensor:
        """``make_grid`` from ``clip_lambda``.

        Raises:
            CapabilityError: eps says nothing at pure noise.
        """
        if t_start is None and self.clip_lambda is not None:
            t_start = clipped_start(schedule, self.clip_lambda)
        grid = make_grid(schedule, spacing, steps, t_start=t_start, t_end=t_end)
        if not self.data:
            check_signal(schedule, grid, "variant 'noise'", "variant=++")
        return grid


@dataclass(frozen=True)
class MultistepState(State):
    """Earlier values of the network, the latest first, and their lambdas."""

    values: tuple[Tensor, ...] = ()
    lams: tuple[Tensor, ...] = ()


@register("sampler", "dpm_solver")
class DPMSolver(_Exponential):
    """DPM-Solver (noise form) and DPM-Solver++ (data form), as an ODE or SDE solver; integrates in lambda.

    Args:
        order: 1, 2 or 3.
        variant: "++" is DPM-Solver++, "noise" is DPM-Solver.
        method: "multistep" uses earlier values, one call a step. The single-step methods take their number of steps as that of network
            calls: "singlestep" mixes orders so that all are used ("DPM-Solver-fast"), "singlestep_fixed" has one order.
        correction: How second differences enter: "midpoint" (the authors' choice) or "taylor".
        eta: Noise. Multistep: share of the reverse SDE's; 1 is SDE-DPM-Solver(++). Single-step: share of the ancestral step's noise.
        s_noise: Standard deviation of that noise, relative to the exact one.
        lower_order_final: Short multistep runs fall to lower orders at the end.
        lower_below: Runs of less than so many steps are short; the authors have 10, diffusers 15.
        jump_counts: Whether the step to t = 0, which is of order 1 anyway, is the last of those that fall, as in diffusers; otherwise the
            one before it has fallen to order 1 already. None: where it starts above t_min, and so is a step to speak of.
        official: Multistep of order 3 as released: with half of the second derivative, which makes it of order 2.
        inverse: Multistep from the image to the noise.
        clip_lambda: Start no noisier than at this lambda, unless told where; the authors' code has -5.1 for discrete schedules.

    Source: Lu et al. 2022 (DPM-Solver), algorithms 1-2; Lu et al. 2022 (DPM-Solver++), algorithms 1-2, section 6 and appendix B.
    """

    def __init__(
        self,
        *,
        order: int = 2,
        variant: str = "++",
        method: str = "multistep",
        correction: str = "midpoint",
        eta: float = 0.0,
        s_noise: float = 1.0,
        lower_order_final: bool = True,
        lower_below: int = 10,
        jump_counts: bool | None = None,
        official: bool = False,
        inverse: bool = False,
        clip_lambda: float | None = None,
    ):
        super().__init__(order=order, variant=variant, correction=correction, clip_lambda=clip_lambda)
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        if order not in (1, 2, 3):
            raise ConfigError(f"order {order} is not one of 1, 2, 3")
        if eta < 0:
            raise ConfigError(f"eta={eta:g} is negative; give 0 for no noise")
        if inverse and (method != "multistep" or eta > 0):
            raise ConfigError(f"inverse with method {method} and eta={eta:g}; only multistep without noise runs backwards")
        self.method, self.eta, self.s_noise = method, eta, s_noise
        self.lower_order_final, self.lower_below, self.jump_counts = lower_order_final, lower_below, jump_counts
        self.official, self.inverse = official, inverse
        self.stochastic = eta > 0

    def plan(
        self,
        schedule: Schedule,
        *,
        steps: int | None = None,
        spacing: str = "uniform",
        t_start: Tensor | float | None = None,
        t_end: End = 0.0,
    ) -> Plan:
        """As ``Sampler.plan``; single-step methods count network calls."""
        jump = jumps_to_0(t_end)
        if self.inverse:
            up = self.grid(schedule, spacing, steps, t_start, "last" if jump else t_end).flip(0)
            return Plan(up, self.multistep_orders(len(up) - 1, jump=False, counts=False))
        grid = self.grid(schedule, spacing, steps, t_start, t_end)
        if self.method == "multistep":
            return Plan(grid, self.multistep_orders(len(grid) - 1, jump=jump, counts=jump and counts(self.jump_counts, schedule, grid)))
        orders, last = self.singlestep_orders(len(grid) - 1 - jump), (1,) * jump
        if not orders:
            raise ConfigError(f"{len(grid) - 1} network calls are too few for order {self.order}; give at least {self.order + jump}")
        if self.method == "singlestep" and spacing.startswith("logsnr"):  # steps of one length, whatever their order
            return Plan(self.grid(schedule, spacing, len(orders + last), t_start, t_end), orders + last)
        if sum(orders + last) < len(grid) - 1:
            grid = self.grid(schedule, spacing, sum(orders + last), t_start, t_end)
        ends = [0, *accumulate(orders + last)]
        return Plan(grid[ends], orders + last, tuple(grid[a + 1 : b] for a, b in pairwise(ends)))

    def multistep_orders(self, steps: int, *, jump: bool, counts: bool) -> tuple[int, ...]:
        """Order of each step; ``jump``: the last leads to t = 0, and whether that counts."""
        short = steps - (jump and not counts) < self.lower_below
        return multistep_orders(steps, self.order, lower=self.lower_order_final and short, jump=jump, jump_counts=counts)

    def singlestep_orders(self, calls: int) -> tuple[int, ...]:
        """Order of each step, the last to t = 0 aside."""
        return singlestep_orders(calls, self.order) if self.method == "singlestep" else (self.order,) * (calls // self.order)

    def init(self, x: Tensor, plan: Plan) -> MultistepState:
        return MultistepState()

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        assert isinstance(state, MultistepState)
        t, s, _ = times(plan, i, x_t)
        m, x0 = self.evaluate(denoiser, x_t, t, cond, noise)
        if self.method == "multistep":
            leg = Leg(denoiser.schedule, t, s, self.data, self.eta)
            state = MultistepState(x0, (m, *state.values)[: self.order], (leg.lam, *state.lams)[: self.order])
            x_s, deviation = self.multistep(leg, x_t, state, plan.orders[i]), leg.deviation()
        else:
            down, deviation = descend(denoiser.schedule, t, s, self.eta, plan.grid[-1].expand_as(t))
            leg = Leg(denoiser.schedule, t, down, self.data)
            inner = plan.inner[i] if plan.inner and self.eta == 0 else None
            x_s = self.singlestep(leg, x_t, m, plan.orders[i], inner, lambda x, t: self.evaluate(denoiser, x, t, cond, noise)[0])
            x_s = expand(denoiser.schedule(s)[0] / denoiser.schedule(down)[0], x_t) * x_s
            state = MultistepState(x0)
        if bool((deviation > 0).any()):
            x_s = x_s + expand(self.s_noise * deviation, x_t) * draw(noise, x_t, "step")
        return x_s, s, state

    def multistep(self, leg: Leg, x_t: Tensor, state: MultistepState, order: int) -> Tensor:
        """DPM-Solver++, algorithm 2 and appendix B."""
        m, lams = state.values, state.lams
        x_s = leg.base(x_t, m[0])
        if order == 1:
            return x_s
        r0 = (lams[0] - lams[1]) / leg.h
        if order == 2:
            return leg.correct(x_s, (leg.psi(2) if self.taylor else 0.5 * leg.psi(1)) / r0, m[0] - m[1])
        # d = (m0 - m1) / r0 and e = (m1 - m2) / r1 give h m' = d + r0 (d - e) / (r0 + r1) and h^2 m'' = 2 (d - e) / (r0 + r1).
        r1 = (lams[1] - lams[2]) / leg.h
        bend = (leg.psi(2) * r0 + leg.psi(3) * (1 if self.official else 2)) / (r0 + r1)
        x_s = leg.correct(x_s, (leg.psi(2) + bend) / r0, m[0] - m[1])
        return leg.correct(x_s, -bend / r1, m[1] - m[2])

    def singlestep(
        self, leg: Leg, x_t: Tensor, m: Tensor, order: int, inner: Tensor | None, call: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """DPM-Solver, algorithms 1 and 2, by default at their own intermediate times; DPM-Solver++, algorithm 1."""
        if order == 1:
            return leg.base(x_t, m)
        parts = [leg.until(at.expand_as(leg.t)) for at in inner] if inner is not None else [leg.part(k / order) for k in range(1, order)]
        first, r1 = parts[0]
        m1 = call(first.base(x_t, m), first.s)
        if order == 2:
            return leg.second(x_t, m, m1, r1, taylor=self.taylor)
        second, r2 = parts[1]
        return leg.third(x_t, m, m1, call(second.stage(x_t, m, m1, r1, r2), second.s), r1, r2, taylor=self.taylor)


@dataclass(frozen=True, kw_only=True)
class AdaptiveState(State):
    """Time ``[b]``, next step size in lambda ``[b]``, and the last accepted result of the lower order."""

    t: Tensor
    h: Tensor
    x_low: Tensor


@register("sampler", "dpm_solver_adaptive")
class DPMSolverAdaptive(_Exponential):
    """DPM-Solver(++) with steps of its own choice: two orders share their calls, and their difference sets the next step size.

    Args:
        order: The higher order, 2 or 3; also the number of calls a step.
        variant: As for ``DPMSolver``, like those that follow.
        correction: How second differences enter.
        clip_lambda: Start no noisier than at this lambda.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
        h_init: First step size in lambda.
        theta: Safety factor of the step size.
        norm: "image" has a step size for each image; with "batch" (the largest error, as the authors' code has it) and "mean" (root mean
            square) an image depends on its batch.
        controller: "standard" is the authors'; "smooth" multiplies the step size by 1 + arctan(error^(-1 / order) - 1), and accepts what
            keeps that above theta^2.

    Source: Lu et al. 2022 (DPM-Solver), appendix C; Jolicoeur-Martineau et al. 2021, algorithm 1 (the error).
    """

    adaptive = True

    def __init__(
        self,
        *,
        order: int = 3,
        variant: str = "++",
        correction: str = "midpoint",
        clip_lambda: float | None = None,
        atol: float = 0.0078,
        rtol: float = 0.05,
        h_init: float = 0.05,
        theta: float = 0.9,
        norm: str = "image",
        controller: str = "standard",
    ):
        super().__init__(order=order, variant=variant, correction=correction, clip_lambda=clip_lambda)
        if order not in (2, 3):
            raise ConfigError(f"order {order} is not one of 2, 3")
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        if controller not in CONTROLLERS:
            raise unknown("controller", controller, CONTROLLERS)
        if min(atol, rtol, h_init, theta) <= 0:
            raise ConfigError(f"atol={atol:g}, rtol={rtol:g}, h_init={h_init:g}, theta={theta:g}; all must be positive")
        self.atol, self.rtol, self.h_init, self.theta, self.norm, self.controller = atol, rtol, h_init, theta, norm, controller

    def plan(
        self,
        schedule: Schedule,
        *,
        steps: int | None = None,
        spacing: str = "uniform",
        t_start: Tensor | float | None = None,
        t_end: End = 0.0,
    ) -> Plan:
        """The start, the last time that the network knows if the end is 0, and the end; steps and spacing have no effect."""
        if steps is not None or spacing != "uniform":
            warnings.warn("dpm_solver_adaptive chooses its own times; steps and grid have no effect", stacklevel=2)
        ends = 2 if jumps_to_0(t_end) else 1
        return Plan(self.grid(schedule, "uniform", ends, t_start, t_end), adaptive=True)

    def init(self, x: Tensor, plan: Plan) -> AdaptiveState:
        t = plan.grid[0].expand(len(x))
        return AdaptiveState(t=t, h=torch.full_like(t, self.h_init), x_low=x)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        assert isinstance(state, AdaptiveState)
        schedule, t = denoiser.schedule, state.t
        last, end = plan.grid[1].expand_as(t), plan.grid[-1].expand_as(t)
        left = schedule.half_log_snr(last) - schedule.half_log_snr(t)
        m, x0 = self.evaluate(denoiser, x_t, t, cond, noise)
        jump = (left <= 0) & (end < last)  # images that have only the step to t = 0 before them
        x_s, reached = torch.where(expand(jump, x_t) > 0, x0, x_t), torch.where(jump, end, t)
        if bool((left <= 0).all()):
            return x_s, reached, AdaptiveState(x0, t=reached, h=state.h, x_low=state.x_low)

        h = torch.minimum(state.h, left)
        s = torch.where(h >= left, last, schedule.time_of(schedule.half_log_snr(t) + h))
        # Pure noise has no lambda: from there to where next to nothing is left of the image, a step of first order is exact.
        pure = torch.isneginf(schedule.half_log_snr(t))
        s = torch.where(pure, schedule.time_of(-schedule.half_log_snr(torch.full_like(t, schedule.t_min))), s)
        leg = Leg(schedule, t, s, self.data)
        first, r1 = leg.part(1 / self.order)
        m1, _ = self.evaluate(denoiser, first.base(x_t, m), first.s, cond, noise)
        second = leg.second(x_t, m, m1, r1, taylor=self.taylor)
        if self.order == 2:
            low, high = leg.base(x_t, m), second
        else:
            part, r2 = leg.part(2 / 3)
            m2, _ = self.evaluate(denoiser, part.stage(x_t, m, m1, r1, r2), part.s, cond, noise)
            low, high = second, leg.third(x_t, m, m1, m2, r1, r2, taylor=self.taylor)
        accept, growth = self.judge(self.error(low, high, state.x_low))
        accept = accept & (left > 0)
        kept = expand(accept, x_t) > 0
        reached = torch.where(accept, s, reached)
        h = torch.where(pure, self.h_init, h * growth)
        state = AdaptiveState(x0, t=reached, h=h, x_low=torch.where(kept, low, state.x_low))
        return torch.where(kept, high, x_s), reached, state

    def error(self, low: Tensor, high: Tensor, previous: Tensor) -> Tensor:
        """Error of each image in units of the tolerance, ``[b]`` float64."""
        allowed = (self.rtol * torch.maximum(low.abs(), previous.abs())).clamp_min(self.atol)
        square = ((high - low) / allowed).flatten(1).square().mean(dim=1).cpu().double()
        if self.norm == "image":
            return square.sqrt()
        return (square.max() if self.norm == "batch" else square.mean()).sqrt().expand_as(square)

    def judge(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a step is accepted, and the factor of the next step size."""
        if self.controller == "standard":
            return error <= 1, self.theta * error ** (-1 / self.order)
        growth = 1 + torch.atan((error + 1e-8) ** (-1 / self.order) - 1)
        return growth >= self.theta**2, growth


def descend(schedule: Schedule, t: Tensor, s: Tensor, eta: float, least: Tensor) -> tuple[Tensor, Tensor]:
    """Where to solve to, so that noise then leads up to s.

    Args:
        schedule: Gives alpha and sigma.
        t: Where the step starts, ``[b]``.
        s: Where it ends, ``[b]``.
        eta: Share of the ancestral step's noise.
        least: Not beyond this time, ``[b]``.

    Returns:
        The time, and the deviation of the noise to be added to x_s = alpha_s / alpha_down x_down, each ``[b]``.
    """
    if eta == 0:
        return s, torch.zeros_like(s)
    ratio_t, ratio_s, ratio_least = (sigma / alpha for alpha, sigma in map(schedule, (t, s, least)))
    down = torch.maximum(ancestral_split(ratio_t, ratio_s, eta)[0], ratio_least)
    up = (ratio_s**2 - down**2).clamp_min(0).sqrt()
    return torch.where(up > 0, schedule.time_of(-down.log()), s), schedule(s)[0] * up


def multistep_orders(steps: int, order: int, *, lower: bool, jump: bool = False, jump_counts: bool = False) -> tuple[int, ...]:
    """Order of each step: rising at the start, where there is no past, and, with ``lower``, falling at the end.

    Args:
        steps: Number of steps.
        order: The highest order.
        lower: Whether orders fall at the end.
        jump: Whether the last step leads to t = 0, and so is of order 1.
        jump_counts: Whether that one is the last of those that fall.

    Example:
        >>> multistep_orders(6, 3, lower=True), multistep_orders(6, 3, lower=True, jump=True)
        ((1, 2, 3, 3, 2, 1), (1, 2, 3, 2, 1, 1))
    """
    if jump and not (lower and jump_counts):
        return (*multistep_orders(steps - 1, order, lower=lower), 1)
    return tuple(i if i < order else min(order, steps + 1 - i) if lower else order for i in range(1, steps + 1))


def counts(wish: bool | None, schedule: Schedule, grid: Tensor) -> bool:
    """Whether the step to t = 0 is one of those that fall in order; as ``jump_counts`` of ``DPMSolver``."""
    return bool((grid[-2] > 1.001 * schedule.t_min).all()) if wish is None else wish


def singlestep_orders(calls: int, order: int) -> tuple[int, ...]:
    """Orders of single steps that add up to a number of calls, the highest first.

    Source: Lu et al. 2022 (DPM-Solver), section 3.4 ("DPM-Solver-fast").

    Example:
        >>> singlestep_orders(10, 3), singlestep_orders(12, 3)
        ((3, 3, 3, 1), (3, 3, 3, 2, 1))
    """
    whole, rest = divmod(calls, order)
    if order == 3 and rest == 0:
        return (3,) * (whole - 1) + (2, 1)
    return (order,) * whole + ((rest,) if rest else ())


def clipped_start(schedule: Schedule, lam: float) -> float:
    """The noisiest time, a level where there are levels, at which log(alpha / sigma) is at least lam."""
    if schedule.levels is None:
        return min(schedule.t_max, float(schedule.time_of(torch.tensor(lam, dtype=torch.float64))))
    return float(schedule.levels[schedule.half_log_snr(schedule.levels) >= lam].max())
