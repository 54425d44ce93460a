"""Every registered sampler reaches the exact mean and covariance of a Gaussian world as its steps grow."""

from __future__ import annotations

import pytest
from tests.analytic import GAUSSIAN, SCHEDULES, denoiser_of, marginal, reached

from mezzotint.registry import build, names
from mezzotint.schedules import build_schedule

# Inversions go the other way; Langevin steps are not affine in x, see test_sde.
SAMPLERS = [name for name in names("sampler") if name not in ("ddim_inversion", "predictor_corrector")]
TIGHT = {"ode": "", "dpm_solver_adaptive": ",atol=1e-4,rtol=1e-4"}


def deviation(text: str, steps: int | None, name: str) -> float:
    schedule, sampler = build_schedule(SCHEDULES[name]), build("sampler", text)
    plan = sampler.plan(schedule, t_end="last") if steps is None else sampler.plan(schedule, steps=steps, spacing="logsnr", t_end="last")
    got = reached(denoiser_of(GAUSSIAN, schedule), sampler, plan, *marginal(GAUSSIAN, schedule, schedule.t_max))
    wanted = marginal(GAUSSIAN, schedule, schedule.t_min)
    return max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("schedule", ["linear", "ve", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_moments_become_exact(name, schedule) -> None:
    if name in TIGHT:
        assert deviation(name + TIGHT[name], None, schedule) < 2e-3
        return
    few, many = (deviation(name, steps, schedule) for steps in (24, 48))
    assert many < 0.15
    assert many < max(0.66 * few, 1e-4), (few, many)
