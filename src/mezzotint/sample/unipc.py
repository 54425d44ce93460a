"""UniPC: a predictor and a corrector of one order more, with one network call a step.

Notation as in ``dpm_solver``: a step x_s = base(x_t, m_0) - A sum_k w_k D_k, with differences D_k = (m_k - m_0) / r_k of the network's
values at r_k = (lambda_k - lambda_0) / h. The predictor uses earlier values, r_k < 0; the corrector repeats the step when the value at its
end, r = 1, is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser
from mezzotint.errors import ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.registry import register
from mezzotint.sample.ancestral import shifted
from mezzotint.sample.base import Sampler, times
from mezzotint.sample.dpm_solver import Leg, counts, multistep_orders
from mezzotint.sample.grid import End, check_signal, jumps_to_0
from mezzotint.schedules import Schedule
from mezzotint.types import Cond, Plan, State

VARIANTS = ("bh1", "bh2", "vary_coeff")
PREDICTIONS = ("data", "noise")


@dataclass(frozen=True)
class UniPCState(State):
    """What the corrector needs of the step before: where it left from, its leg, and the network's values until then, latest first."""

    x: Tensor | None = None
    leg: Leg | None = None
    values: tuple[Tensor, ...] = ()
    lams: tuple[Tensor, ...] = ()


@register("sampler", "unipc")
class UniPC(Sampler):
    """UniPC-p with its corrector UniC-p; integrates in lambda. The order of accuracy is p + 1, and p without the corrector.

    Args:
        order: p, 1 to 4; 3 is advised without guidance, 2 with it.
        variant: "bh1" and "bh2" differ where one difference is used; "vary_coeff" has the exact weights there as well.
        prediction: "data" or "noise".
        corrector: Whether each step but the last is corrected.
        uncorrected: So many first steps are not corrected either, for strong guidance.
        lower_order_final: Fall to lower orders at the end.
        jump_counts: As for ``DPMSolver``.
        official: The corrector of "vary_coeff" as released, which leaves out terms and so is of order 1 for p = 2, 3.

    Source: Zhao et al. 2023 (UniPC), algorithms 1 and 2, equation 5; appendix C (vary_coeff).
    """

    requires = frozenset({"uniform"})

    def __init__(
        self,
        *,
        order: int = 3,
        variant: str = "bh2",
        prediction: str = "data",
        corrector: bool = True,
        uncorrected: int = 0,
        lower_order_final: bool = True,
        jump_counts: bool | None = None,
        official: bool = False,
    ):
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS)
        if prediction not in PREDICTIONS:
            raise unknown("prediction", prediction, PREDICTIONS)
        if not 1 <= order <= 4:
            raise ConfigError(f"order {order} is not one of 1, 2, 3, 4")
        self.order, self.variant, self.data = order, variant, prediction == "data"
        self.corrector, self.uncorrected = corrector, uncorrected
        self.lower_order_final, self.jump_counts, self.official = lower_order_final, jump_counts, official

    def plan(
        self,
        schedule: Schedule,
        *,
        steps: int | None = None,
        spacing: str = "uniform",
        t_start: Tensor | float | None = None,
        t_end: End = 0.0,
    ) -> Plan:
        grid = super().plan(schedule, steps=steps, spacing=spacing, t_start=t_start, t_end=t_end).grid
        if not self.data:
            check_signal(schedule, grid, "prediction 'noise'", "prediction=data")
        jump = jumps_to_0(grid[-1])
        last = jump and counts(self.jump_counts, schedule, grid)
        return Plan(grid, multistep_orders(len(grid) - 1, self.order, lower=self.lower_order_final, jump=jump, jump_counts=last))

    def init(self, x: Tensor, plan: Plan) -> UniPCState:
        return UniPCState()

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        assert isinstance(state, UniPCState)
        t, s, _ = times(plan, i, x_t)
        x0, eps = shifted(denoiser, x_t, t, cond, noise)
        m = x0 if self.data else eps
        leg = Leg(denoiser.schedule, t, s, self.data)
        if self.corrector and i > self.uncorrected and state.x is not None and state.leg is not None:
            x_t = self.advance(state.leg, state.x, (*state.values, m), (*state.lams, leg.lam), plan.orders[i - 1], correct=True)
        values, lams = (m, *state.values)[: self.order], (leg.lam, *state.lams)[: self.order]
        x_s = self.advance(leg, x_t, values, lams, plan.orders[i], correct=False)
        return x_s, s, UniPCState(x0, x_t, leg, values, lams)

    def advance(self, leg: Leg, x_t: Tensor, values: tuple[Tensor, ...], lams: tuple[Tensor, ...], order: int, *, correct: bool) -> Tensor:
        """One step along a leg from its start.

        Args:
            leg: From where to where.
            x_t: Point to start from.
            values: The network's values, that at the start first; for the corrector that at the end last.
            lams: Their lambdas, ``[b]`` each.
            order: p.
            correct: Whether this is the corrector.
        """
        used = [*range(1, order), *([len(values) - 1] if correct else [])]
        x_s = leg.base(x_t, values[0])
        if not used:
            return x_s
        r = torch.stack([(lams[k] - lams[0]) / leg.h for k in used], dim=-1)
        if self.official and correct and self.variant == "vary_coeff":
            weights = released_weights(leg, r)
        elif len(used) == 1 and self.variant != "vary_coeff":
            k = -leg.h if self.data else leg.h
            weights = 0.5 * (k if self.variant == "bh1" else torch.expm1(k))[:, None]
        else:
            weights = exact_weights(leg, r)
        for j, k in enumerate(used):
            x_s = leg.correct(x_s, weights[:, j] / r[:, j], values[k] - values[0])
        return x_s


def exact_weights(leg: Leg, r: Tensor) -> Tensor:
    """Weights of the differences at r ``[b, n]`` that are exact for polynomials of degree n: sum_k w_k r_k^(i-1) = i! psi_{i+1}.

    Source: Zhao et al. 2023, equation 5 (with B(h) multiplied out) and theorem 3.1.
    """
    n = r.shape[1]
    powers = torch.stack([r**i for i in range(n)], dim=1)
    right = torch.stack([math.factorial(i) * leg.psi(i + 1) for i in range(1, n + 1)], dim=1)
    # A leg without end (to t = 0) is of first order whatever the weights; it must not make the others unsolvable.
    ends = torch.isfinite(powers).flatten(1).all(dim=1) & leg.inside
    eye = torch.eye(n, dtype=r.dtype)
    return torch.linalg.solve(torch.where(ends[:, None, None], powers, eye), torch.where(ends[:, None], right, 0))


def released_weights(leg: Leg, r: Tensor) -> Tensor:
    """What the released corrector of "vary_coeff" uses: without the last row of its matrix, and one entry of it for the value at the end.

    Source: Zhao et al. 2023, appendix C, as released.
    """
    n = r.shape[1]
    inverse = torch.linalg.inv(torch.stack([r**i / math.factorial(i + 1) for i in range(n)], dim=2))
    psi = torch.stack([leg.psi(i + 2) for i in range(n)], dim=1)
    earlier = (psi[:, : n - 1, None] * inverse[:, : n - 1, : n - 1]).sum(dim=1)
    return torch.cat([earlier, psi[:, -1:] * inverse[:, max(n - 2, 0), -1:]], dim=1)
