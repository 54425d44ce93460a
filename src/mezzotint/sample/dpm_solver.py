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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser
from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.process import expand
from mezzotint.registry import register
from mezzotint.sample.ancestral import shifted
from mezzotint.sample.base import Sampler, draw, times
from mezzotint.sample.grid import End, jumps_to_0, make_grid
from mezzotint.sample.ode import ancestral_split
from mezzotint.schedules import Schedule
from mezzotint.types import Cond, Plan, State

VARIANTS = ("++", "noise")
METHODS = ("multistep", "singlestep", "singlestep_fixed", "adaptive")
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

    @property
    def lam(self) -> Tensor:
        """lambda at t."""
        return self.schedule.half_log_snr(self.t)

    @property
    def h(self) -> Tensor:
        """lambda_s - lambda_t; infinite to t = 0 and from pure noise."""
        return self.schedule.half_log_snr(self.s) - self.lam

    def psi(self, n: int) -> Tensor:
        """psi_n."""
        k = -(1 + self.eta) * self.h if self.data else self.h
        value = torch.expm1(k)
        for j in range(1, n):
            value = value / k - 1 / math.factorial(j)
        return value

    def base(self, x_t: Tensor, m: Tensor) -> Tensor:
        """The step with m held constant; for eta = 0 that of DDIM. Written so that it holds at s = 0 as well."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule(self.t), self.schedule(self.s)
        if self.data:
            keep = sigma_s / sigma_t * (torch.exp(-self.eta * self.h) if self.eta else 1)
            return expand(keep, x_t) * x_t + expand(alpha_s - alpha_t * keep, x_t) * m
        keep = alpha_s / alpha_t
        gain = torch.where(self.s > 0, 1 + self.eta, 1.0)
        return expand(keep, x_t) * x_t + expand(gain * (sigma_s - sigma_t * keep), x_t) * m

    def correct(self, x_s: Tensor, weight: Tensor, difference: Tensor) -> Tensor:
        """x_s - A weight difference. Steps to t = 0 and from pure noise, where h is infinite, stay of first order."""
        alpha_s, sigma_s = self.schedule(self.s)
        scale = alpha_s if self.data else (1 + self.eta) * sigma_s
        inside = torch.isfinite(self.h) & (self.h != 0)
        return x_s - expand(torch.where(inside, scale * weight, 0), x_s) * difference

    def deviation(self) -> Tensor:
        """Standard deviation of the noise that the step adds, ``[b]``."""
        sigma_s = self.schedule(self.s)[1]
        share = -torch.expm1(-2 * self.eta * self.h) if self.data else self.eta * torch.expm1(2 * self.h)
        return torch.where(self.s > 0, sigma_s * share.sqrt(), 0)

    def part(self, share: Tensor | float) -> Leg:
        """The leg that covers this share of h."""
        inside = torch.isfinite(self.h) & (self.h != 0)
        return Leg(self.schedule, self.t, torch.where(inside, self.schedule.time_of(self.lam + share * self.h), self.t), self.data)

    def until(self, s: Tensor) -> tuple[Leg, Tensor]:
        """The leg to a time on the way, and its share of h."""
        leg = Leg(self.schedule, self.t, s, self.data)
        return leg, leg.h / self.h


@dataclass(frozen=True)
class MultistepState(State):
    """Earlier values of the network, the latest first, and their lambdas."""

    values: tuple[Tensor, ...] = ()
    lams: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AdaptiveState(State):
    """Time ``[b]``, next step size ``[b]`` and the last accepted low-order result of an adaptive run."""

    t: Tensor
    h: Tensor
    x_low: Tensor


@register("sampler", "dpm_solver")
class DPMSolver(Sampler):
    """DPM-Solver (noise form) and DPM-Solver++ (data form), as an ODE or SDE solver; integrates in lambda.

    For the single-step methods, "steps" is the number of network calls.

    Args:
        order: 1, 2 or 3.
        variant: "++" is DPM-Solver++, "noise" is DPM-Solver.
        method: "multistep" uses earlier values, one call a step; "singlestep" mixes orders so that all calls are used ("fast");
            "singlestep_fixed" has one order; "adaptive" chooses its steps (order 2 or 3).
        correction: How second differences enter: "midpoint" (the authors' choice) or "taylor".
        eta: Noise. Multistep: share of the reverse SDE's; 1 is SDE-DPM-Solver(++). Single-step: share of the ancestral step's noise.
        s_noise: Standard deviation of that noise, relative to the exact one.
        lower_order_final: Multistep runs of less than ten steps fall to lower orders at the end.
        official: Multistep of order 3 as released: half of the second difference, which makes it of order 2.
        inverse: Multistep from the image to the noise.
        clip_lambda: Start no noisier than at this lambda, unless told where; the authors' code has -5.1 for discrete schedules.
        norm: Error of an adaptive step: "image" has a step size for each image; with "batch" (the largest error, as the authors' code has
            it) and "mean" (root mean square) an image depends on its batch.
        atol: Absolute tolerance of adaptive steps.
        rtol: Relative tolerance.
        h_init: First step size in lambda.
        theta: Safety factor of the step size.
        controller: "standard" is the authors'; "smooth" bounds each change of the step size by 1 + arctan, and accepts by theta^2.

    Source: Lu et al. 2022 (DPM-Solver), algorithms 1-4 and appendix C; Lu et al. 2022 (DPM-Solver++), algorithms 1-2 and section 6.
    """

    requires = frozenset({"uniform"})

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
        official: bool = False,
        inverse: bool = False,
        clip_lambda: float | None = None,
        norm: str = "image",
        atol: float = 0.0078,
        rtol: float = 0.05,
        h_init: float = 0.05,
        theta: float = 0.9,
        controller: str = "standard",
    ):
        for what, given, allowed in (
            ("variant", variant, VARIANTS),
            ("method", method, METHODS),
            ("correction", correction, CORRECTIONS),
            ("norm", norm, NORMS),
            ("controller", controller, CONTROLLERS),
        ):
            if given not in allowed:
                raise unknown(what, given, allowed)
        if order not in (1, 2, 3) or (method == "adaptive" and order == 1):
            raise ConfigError(f"order {order} with method {method}; give {'2 or 3' if method == 'adaptive' else '1, 2 or 3'}")
        if eta < 0 or (eta > 0 and (method == "adaptive" or inverse)):
            raise ConfigError(f"eta={eta:g} with method {method}{' inverse' * inverse}; give eta=0, or a multistep or singlestep method")
        if inverse and method != "multistep":
            raise ConfigError(f"inverse with method {method}; only multistep runs backwards")
        self.order, self.data, self.method, self.correction = order, variant == "++", method, correction
        self.eta, self.s_noise, self.lower_order_final = eta, s_noise, lower_order_final
        self.official, self.inverse, self.clip_lambda = official, inverse, clip_lambda
        self.norm, self.atol, self.rtol, self.h_init, self.theta, self.controller = norm, atol, rtol, h_init, theta, controller
        self.adaptive, self.stochastic = method == "adaptive", eta > 0

    # --- plans -----------------------------------------------------------------------------------------------------------

    def plan(
        self,
        schedule: Schedule,
        *,
        steps: int | None = None,
        spacing: str = "uniform",
        t_start: Tensor | float | None = None,
        t_end: End = 0.0,
    ) -> Plan:
        """As ``Sampler.plan``; single-step methods count network calls, and the adaptive one counts nothing beforehand."""
        if t_start is None and self.clip_lambda is not None:
            t_start = clipped_start(schedule, self.clip_lambda)
        if self.inverse:
            t_end = "last" if jumps_to_0(t_end) else t_end
        if self.method == "adaptive":
            if steps is not None:
                warnings.warn("an adaptive sampler chooses its own number of steps; steps has no effect", stacklevel=2)
            plan = Plan(make_grid(schedule, "uniform", 2 if jumps_to_0(t_end) else 1, t_start=t_start, t_end=t_end), adaptive=True)
        elif self.method == "multistep":
            plan = super().plan(schedule, steps=steps, spacing=spacing, t_start=t_start, t_end=t_end)
            plan = Plan(plan.grid.flip(0) if self.inverse else plan.grid)
            solved = plan.steps - jumps_to_0(plan.grid[-1])
            lower = self.lower_order_final and solved < 10
            plan = Plan(plan.grid, multistep_orders(solved, self.order, lower=lower) + (1,) * (plan.steps - solved))
        else:
            plan = self._singlestep_plan(schedule, steps, spacing, t_start, t_end)
        if not self.data and not bool((schedule(plan.grid[0])[0] > 0).all()):
            raise CapabilityError("variant 'noise' cannot start from pure noise; use variant=++, or start below it")
        return plan

    def _singlestep_plan(self, schedule: Schedule, steps: int | None, spacing: str, t_start: Tensor | float | None, t_end: End) -> Plan:
        jump = jumps_to_0(t_end)
        steps = len(make_grid(schedule, spacing, steps, t_start=t_start, t_end=t_end)) - 1
        calls = steps - jump
        if self.method == "singlestep_fixed":
            orders = (self.order,) * (calls // self.order)
        else:
            orders = singlestep_orders(calls, self.order) if calls > 0 else ()
        if not orders:
            raise ConfigError(f"{steps} network calls are too few for order {self.order}; give at least {self.order + jump}")
        last = (1,) * jump
        if self.method == "singlestep" and spacing.startswith("logsnr"):  # equal steps, whatever their order
            grid = make_grid(schedule, spacing, len(orders) + jump, t_start=t_start, t_end=t_end)
            return Plan(grid, orders + last)
        grid = make_grid(schedule, spacing, sum(orders) + jump, t_start=t_start, t_end=t_end)
        ends = [0, *torch.tensor(orders).cumsum(0).tolist()]
        inner = tuple(grid[a + 1 : b] for a, b in pairwise(ends))
        return Plan(torch.cat([grid[ends], grid[-1:]]) if jump else grid[ends], orders + last, inner + (grid[:0],) * jump)

    def init(self, x: Tensor, plan: Plan) -> State:
        if self.method != "adaptive":
            return MultistepState()
        t = plan.grid[0].expand(len(x))
        return AdaptiveState(t=t, h=torch.full_like(t, self.h_init), x_low=x)

    # --- steps -----------------------------------------------------------------------------------------------------------

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        def call(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            x0, eps = shifted(denoiser, x, t, cond, noise)
            return (x0, x0) if self.data else (eps, x0)

        if isinstance(state, AdaptiveState):
            return self._adaptive(denoiser.schedule, call, x_t, plan, state)
        t, s, _ = times(plan, i, x_t)
        m, x0 = call(x_t, t)
        if self.method == "multistep":
            assert isinstance(state, MultistepState)
            leg = Leg(denoiser.schedule, t, s, self.data, self.eta)
            values, lams = (m, *state.values)[: self.order], (leg.lam, *state.lams)[: self.order]
            x_s = self._multistep(leg, x_t, values, lams, plan.orders[i])
            deviation, state = leg.deviation(), MultistepState(x0, values, lams)
        else:
            down, deviation = descend(denoiser.schedule, t, s, self.eta, plan.grid[-1].expand_as(t))
            leg = Leg(denoiser.schedule, t, down, self.data)
            shares = [leg.until(at.expand_as(t)) for at in plan.inner[i]] if plan.inner and self.eta == 0 else None
            x_s = self._singlestep(leg, x_t, m, plan.orders[i], call, shares)
            alpha_s, alpha_down = denoiser.schedule(s)[0], denoiser.schedule(down)[0]
            x_s, state = expand(alpha_s / alpha_down, x_t) * x_s, MultistepState(x0)
        if bool((deviation > 0).any()):
            x_s = x_s + expand(self.s_noise * deviation, x_t) * draw(noise, x_t, "step")
        return x_s, s, state

    def _multistep(self, leg: Leg, x_t: Tensor, m: Sequence[Tensor], lams: Sequence[Tensor], order: int) -> Tensor:
        """DPM-Solver++, algorithm 2 and appendix B; the m are the latest values first."""
        x_s = leg.base(x_t, m[0])
        if order == 1:
            return x_s
        r0 = (lams[0] - lams[1]) / leg.h
        if order == 2:
            weight = 0.5 * leg.psi(1) if self.correction == "midpoint" else leg.psi(2)
            return leg.correct(x_s, weight / r0, m[0] - m[1])
        # d = (m0 - m1) / r0 and e = (m1 - m2) / r1 give h m' = d + r0 (d - e) / (r0 + r1) and h^2 m'' = 2 (d - e) / (r0 + r1).
        r1 = (lams[1] - lams[2]) / leg.h
        bend = (leg.psi(2) * r0 + leg.psi(3) * (1 if self.official else 2)) / (r0 + r1)
        x_s = leg.correct(x_s, (leg.psi(2) + bend) / r0, m[0] - m[1])
        return leg.correct(x_s, -bend / r1, m[1] - m[2])

    def _singlestep(
        self,
        leg: Leg,
        x_t: Tensor,
        m: Tensor,
        order: int,
        call: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        shares: Sequence[tuple[Leg, Tensor]] | None = None,
    ) -> Tensor:
        """DPM-Solver, algorithms 1 and 2 (their intermediate times by default); DPM-Solver++, algorithm 1."""
        if order == 1:
            return leg.base(x_t, m)
        if shares is None:
            shares = [(leg.part(r), torch.full_like(leg.t, r)) for r in ((1 / 2,) if order == 2 else (1 / 3, 2 / 3))]
        m1, _ = call(shares[0][0].base(x_t, m), shares[0][0].s)
        if order == 2:
            return self._second(leg, x_t, m, m1, shares[0][1])
        m2, _ = call(self._stage(shares, x_t, m, m1), shares[1][0].s)
        return self._third(leg, x_t, m, m1, m2, shares[0][1], shares[1][1])

    def _second(self, leg: Leg, x_t: Tensor, m: Tensor, m1: Tensor, r1: Tensor) -> Tensor:
        weight = 0.5 * leg.psi(1) if self.correction == "midpoint" else leg.psi(2)
        return leg.correct(leg.base(x_t, m), weight / r1, m1 - m)

    @staticmethod
    def _stage(shares: Sequence[tuple[Leg, Tensor]], x_t: Tensor, m: Tensor, m1: Tensor) -> Tensor:
        (_, r1), (part, r2) = shares
        return part.correct(part.base(x_t, m), r2 / r1 * part.psi(2), m1 - m)

    def _third(self, leg: Leg, x_t: Tensor, m: Tensor, m1: Tensor, m2: Tensor, r1: Tensor, r2: Tensor) -> Tensor:
        x_s = leg.base(x_t, m)
        if self.correction == "midpoint":
            return leg.correct(x_s, leg.psi(2) / r2, m2 - m)
        # With d_i = (m_i - m) / r_i: h m' = (r2 d1 - r1 d2) / (r2 - r1) and h^2 m'' = 2 (d2 - d1) / (r2 - r1).
        x_s = leg.correct(x_s, (r2 * leg.psi(2) - 2 * leg.psi(3)) / (r1 * (r2 - r1)), m1 - m)
        return leg.correct(x_s, (2 * leg.psi(3) - r1 * leg.psi(2)) / (r2 * (r2 - r1)), m2 - m)

    def _adaptive(
        self,
        schedule: Schedule,
        call: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        x_t: Tensor,
        plan: Plan,
        state: AdaptiveState,
    ) -> tuple[Tensor, Tensor, State]:
        """DPM-Solver, appendix C.4: two orders share their calls, and their difference sets the step size."""
        t = state.t
        last, end = plan.grid[1].expand_as(t), plan.grid[-1].expand_as(t)
        left = schedule.half_log_snr(last) - schedule.half_log_snr(t)
        h = torch.minimum(state.h, left)
        s = torch.where(h >= left, last, schedule.time_of(schedule.half_log_snr(t) + h))
        m, x0 = call(x_t, t)
        jump = (t <= last) & (end < last)
        x_s, reached = torch.where(expand(jump, x_t) > 0, x0, x_t), torch.where(jump, end, t)
        if bool((left <= 0).all()):
            return x_s, reached, AdaptiveState(x0, t=reached, h=state.h, x_low=state.x_low)

        leg = Leg(schedule, t, s, self.data)
        first, r1 = leg.part(1 / self.order), torch.full_like(t, 1 / self.order)
        m1, _ = call(first.base(x_t, m), first.s)
        if self.order == 2:
            low, high = leg.base(x_t, m), self._second(leg, x_t, m, m1, r1)
        else:
            shares = [(first, r1), (leg.part(2 / 3), 2 * r1)]
            m2, _ = call(self._stage(shares, x_t, m, m1), shares[1][0].s)
            low, high = self._second(leg, x_t, m, m1, r1), self._third(leg, x_t, m, m1, m2, r1, 2 * r1)
        error = self._error(low, high, state.x_low)
        if self.controller == "standard":
            accept, growth = error <= 1, self.theta * error ** (-1 / self.order)
        else:
            growth = 1 + torch.atan((error + 1e-8) ** (-1 / self.order) - 1)
            accept = growth >= self.theta**2
        accept = accept & (left > 0)
        kept = expand(accept, x_t) > 0
        reached = torch.where(accept, s, reached)
        low = torch.where(kept, low, state.x_low)
        return torch.where(kept, high, x_s), reached, AdaptiveState(x0, t=reached, h=h * growth, x_low=low)

    def _error(self, low: Tensor, high: Tensor, previous: Tensor) -> Tensor:
        """Error of each image in units of the tolerance, ``[b]`` float64."""
        allowed = (self.rtol * torch.maximum(low.abs(), previous.abs())).clamp_min(self.atol)
        square = ((high - low) / allowed).flatten(1).square().mean(dim=1).double().cpu()
        if self.norm == "image":
            return square.sqrt()
        return (square.max() if self.norm == "batch" else square.mean()).sqrt().expand_as(square)


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


def multistep_orders(steps: int, order: int, *, lower: bool) -> tuple[int, ...]:
    """Order of each step: rising at the start, where there is no past, and, with ``lower``, falling at the end.

    Example:
        >>> multistep_orders(6, 3, lower=True)
        (1, 2, 3, 3, 2, 1)
    """
    return tuple(i if i < order else min(order, steps + 1 - i) if lower else order for i in range(1, steps + 1))


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
