"""Measured order of convergence of every solver, on an exact mixture of Gaussians in float64."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from scipy.integrate import solve_ivp
from tests.analytic import F64, MIXTURE, SCHEDULES, denoiser_of
from torch import Tensor

from mezzotint.process import expand
from mezzotint.registry import build
from mezzotint.sample.dpm_solver import DPMSolver
from mezzotint.sample.loop import sample
from mezzotint.schedules import build_schedule

VP = build_schedule(SCHEDULES["vp"])
X = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=F64)

# Sampler, calls a step, range of calls, and the order that the authors' own code shows with these settings.
LATE, WHOLE = (96, 384), (24, 384)
TABLE = [
    ("euler", 1, LATE, 1.0),
    ("heun", 2, LATE, 2.0),
    ("heun,alpha=0.5", 2, LATE, 2.0),
    ("dpm2", 2, LATE, 2.0),
    ("dpm_solver,order=1", 1, LATE, 1.0),
    ("dpm_solver,order=1,variant=noise", 1, LATE, 1.0),
    ("dpm_solver,order=2,variant=noise,method=singlestep", 1, LATE, 1.99),
    ("dpm_solver,order=2,method=singlestep", 1, LATE, 1.93),
    ("dpm_solver,order=2,method=singlestep,correction=taylor", 1, LATE, 2.0),
    ("dpm_solver,order=3,variant=noise,method=singlestep_fixed", 1, LATE, 2.95),
    ("dpm_solver,order=3,method=singlestep_fixed", 1, LATE, 2.85),
    ("dpm_solver,order=3,method=singlestep_fixed,correction=taylor", 1, LATE, 2.9),
    ("dpm_solver,order=3,variant=noise,method=singlestep", 1, LATE, 2.75),  # its last steps are of lower order
    ("dpm_solver,order=2,variant=noise", 1, LATE, 1.95),
    ("dpm_solver,order=2", 1, LATE, 1.98),
    ("dpm_solver,order=3,variant=noise", 1, LATE, 2.94),
    ("dpm_solver,order=3", 1, LATE, 3.13),
    ("dpm_solver,order=3,variant=noise,official=true", 1, LATE, 2.18),
    ("dpm_solver,order=3,official=true", 1, LATE, 2.14),
    ("unipc,order=1", 1, LATE, 1.98),
    ("unipc,order=2", 1, LATE, 3.0),
    ("unipc,order=3", 1, WHOLE, 3.7),  # the first step, of order 1, limits it in the end
    ("unipc,order=1,corrector=false", 1, LATE, 1.0),
    ("unipc,order=2,corrector=false", 1, LATE, 2.0),
    ("unipc,order=3,corrector=false", 1, LATE, 3.0),
    ("unipc,order=2,variant=vary_coeff", 1, LATE, 3.0),
    ("unipc,order=2,variant=vary_coeff,official=true", 1, LATE, 1.0),
    ("unipc,order=3,variant=vary_coeff,official=true", 1, LATE, 1.0),
]


@cache
def exact() -> Tensor:
    """The end of the probability-flow ODE from X, by an integrator of order 8."""
    denoiser = denoiser_of(MIXTURE, VP)

    def slope(log_ratio: float, u):
        t = VP.time_of(torch.full((len(X),), -log_ratio, dtype=F64))
        alpha, sigma = VP(t)
        x = expand(alpha, X) * torch.from_numpy(u).reshape(X.shape)
        eps = (x - expand(alpha, X) * denoiser(x, t).mean) / expand(sigma, X)
        return (eps * math.exp(log_ratio)).numpy().ravel()

    start, end = (float(-VP.half_log_snr(torch.tensor(t, dtype=F64))) for t in (1.0, 1e-3))
    alpha = [VP(torch.tensor(t, dtype=F64))[0] for t in (1.0, 1e-3)]
    out = solve_ivp(slope, (start, end), (X / alpha[0]).numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(out.y[:, -1]).reshape(X.shape) * alpha[1]


def error(text: str, calls: int, per_step: int) -> float:
    sampler = build("sampler", text)
    plan = sampler.plan(VP, steps=calls // per_step, spacing="logsnr", t_end="last")
    result = sample(denoiser_of(MIXTURE, VP), sampler, plan, X)
    assert result.calls <= calls
    return float((result.x - exact()).square().mean().sqrt())


@pytest.mark.parametrize("text, per_step, span, order", TABLE)
def test_the_order_is_that_of_the_table(text, per_step, span, order) -> None:
    few, many = (error(text, calls, per_step) for calls in span)
    assert math.log(few / many) / math.log(span[1] / span[0]) == pytest.approx(order, abs=0.2), (few, many)


def test_errors_at_24_calls_rank_as_published() -> None:
    texts = (
        "dpm_solver,order=1,variant=noise",
        "dpm_solver,order=3,variant=noise,method=singlestep_fixed",
        "dpm_solver,order=2",
        "dpm_solver,order=3,variant=noise,method=singlestep",
        "unipc,order=3",
    )
    errors = [error(text, 24, 1) for text in texts]
    assert errors == sorted(errors, reverse=True), errors


def test_adaptive_methods_meet_their_tolerance() -> None:
    for text, tolerance in (("dpm_solver_adaptive,order=3,atol=1e-5,rtol=1e-5", 1e-4), ("ode,rtol=1e-7,atol=1e-7", 1e-5)):
        sampler = build("sampler", text)
        result = sample(denoiser_of(MIXTURE, VP), sampler, sampler.plan(VP, t_end="last"), X[:8])
        assert float((result.x - exact()[:8]).abs().max()) < tolerance
        assert result.calls > 20
        torch.testing.assert_close(result.t, torch.full((8,), VP.t_min, dtype=F64), rtol=0, atol=0)


def test_a_step_of_first_order_is_ddims_in_either_form() -> None:
    plan = DPMSolver(order=1).plan(VP, steps=7, spacing="logsnr")
    denoiser = denoiser_of(MIXTURE, VP)
    wanted = sample(denoiser, build("sampler", "ddim"), plan, X).x
    for text in ("dpm_solver,order=1", "dpm_solver,order=1,variant=noise", "euler", "unipc,order=1,corrector=false", "lms,order=1"):
        sampler = build("sampler", text)
        got = sample(denoiser, sampler, sampler.plan(VP, steps=7, spacing="logsnr"), X).x
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
