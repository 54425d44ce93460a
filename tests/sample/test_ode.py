"""The ODE samplers against published numbers, against each other, and in every coordinate."""

from __future__ import annotations

import sys

import pytest
import torch
from tests.analytic import F64, MIXTURE, SCHEDULES, denoiser_of
from torch import Tensor

from mezzotint.denoise import FunctionDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.process import expand
from mezzotint.registry import build
from mezzotint.sample.ancestral import DDIM
from mezzotint.sample.loop import sample
from mezzotint.sample.ode import AdaptiveODE, Coordinate, Euler, Heun, ancestral_split, lagrange_weights
from mezzotint.schedules import build_schedule
from mezzotint.types import Plan

EDM = build_schedule(SCHEDULES["ve"])
VP, FLOW = build_schedule(SCHEDULES["vp"]), build_schedule(SCHEDULES["flow"])
X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


def test_published_runs_of_edm() -> None:
    """N = 18, D(x) = x / (1 + sigma^2), from 80 and -40."""
    denoiser = FunctionDenoiser(EDM, lambda x, alpha, sigma, cond: x / (1 + sigma**2))
    place = torch.arange(18, dtype=F64)[:, None] / 17
    grid = torch.cat([(80 ** (1 / 7) + place * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, torch.zeros(1, 1, dtype=F64)])
    x = torch.tensor([[80.0, -40.0]], dtype=F64)
    heun, euler = sample(denoiser, Heun(), Plan(grid), x), sample(denoiser, Euler(), Plan(grid), x)
    torch.testing.assert_close(heun.x[0], torch.tensor([1.04472884, -0.52236442], dtype=F64), rtol=0, atol=1e-7)
    assert float(euler.x[0, 0]) == pytest.approx(0.85945542, abs=1e-7)
    assert (heun.calls, euler.calls) == (35, 18)


@pytest.mark.parametrize(
    "text", ["euler", "heun", "heun,alpha=0.6", "dpm2", "lms", "dpm_solver,order=3", "dpm_solver,variant=noise", "unipc"]
)
def test_a_run_does_not_depend_on_how_the_process_is_scaled(text) -> None:
    """u = x / alpha at equal sigma / alpha is the same curve on every schedule, and so is the numerical one."""
    ratio = torch.logspace(1.2, -2, 9, dtype=F64)[:, None]
    ends = []
    for schedule in (EDM, VP, FLOW):
        sampler, grid = build("sampler", text), schedule.time_of(-ratio.log())
        orders = sampler.plan(schedule, spacing="times:" + ",".join(str(float(t)) for t in grid), t_end="last").orders
        result = sample(denoiser_of(MIXTURE, schedule), sampler, Plan(grid, orders), expand(schedule(grid[0])[0], X) * ratio[0] * X)
        ends.append(result.x / expand(schedule(grid[-1])[0], X))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["vp", "ve", "vp_cosine"])
def test_every_coordinate_leads_to_the_same_end_at_second_order(name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    denoiser, x = denoiser_of(MIXTURE, schedule), schedule.prior_scale * X
    fine = build("sampler", "dpm_solver,order=3")
    wanted = sample(denoiser, fine, fine.plan(schedule, steps=200, spacing="logsnr", t_end="last"), x).x
    for coordinate in ("sigma", "variance", "t"):
        sampler, errors = Heun(coordinate=coordinate), []
        for steps in (50, 100):
            plan = sampler.plan(schedule, steps=steps, spacing="logsnr", t_end="last")
            errors.append(float((sample(denoiser, sampler, plan, x).x - wanted).abs().max()))
        assert errors[1] < 0.02
        assert errors[1] < 0.3 * errors[0], (coordinate, errors)


def test_heun_does_not_leap_from_where_nothing_is_left_of_the_image() -> None:
    """The first step of a cosine schedule leads from sigma / alpha = 20 000 to about 10."""
    schedule = build_schedule(SCHEDULES["cosine"])
    world, start = denoiser_of(MIXTURE, schedule), torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))

    def run(text: str, steps: int) -> torch.Tensor:
        sampler = build("sampler", text)
        return sample(world, sampler, sampler.plan(schedule, steps=steps, spacing="trailing"), start).x

    exact = run("dpm_solver,order=3", 500)
    assert (run("heun", 20) - exact).abs().mean() < 0.5 * (run("euler", 20) - exact).abs().mean()


def test_slopes_are_those_of_the_curve() -> None:
    """dz/dtau against a difference along x_t = alpha x0 + sigma eps."""
    x0, eps = X[:4], X[4:]
    for schedule in (VP, FLOW, EDM, build_schedule(SCHEDULES["linear"])):
        for name in ("sigma", "variance", "t"):
            line = Coordinate(name, schedule)
            t = torch.full((4,), 0.40015, dtype=F64)
            tau = line.tau(t)
            near = [line.time(tau * (1 + d)) for d in (-1e-6, 1e-6)]
            z = [(expand(a, X) * x0 + expand(s, X) * eps) / expand(line.scale(u), X) for u in near for a, s in [schedule(u)]]
            torch.testing.assert_close(line.slope(x0, eps, t), (z[1] - z[0]) / expand(2e-6 * tau, X), rtol=1e-6, atol=1e-7)


def test_euler_ancestral_is_ddim_with_noise() -> None:
    noise = Noise(3, range(8))
    denoiser = denoiser_of(MIXTURE, VP)
    for eta in (0.0, 0.5, 1.0):
        ours = build("sampler", f"euler_ancestral,eta={eta}")
        plan = ours.plan(VP, steps=12)
        torch.testing.assert_close(
            sample(denoiser, ours, plan, X, noise=noise).x, sample(denoiser, DDIM(eta=eta), plan, X, noise=noise).x, rtol=1e-10, atol=1e-10
        )


def test_the_split_of_a_step_keeps_the_variance() -> None:
    t, s = torch.tensor([10.0, 1.0, 3.0], dtype=F64), torch.tensor([5.0, 0.9, 0.0], dtype=F64)
    for eta in (0.0, 0.3, 1.0, 2.0):
        down, up = ancestral_split(t, s, eta)
        torch.testing.assert_close(down**2 + up**2, s**2, rtol=1e-12, atol=1e-12)
        assert bool((up <= s).all())
    assert ancestral_split(t, s, 0.0)[0].tolist() == s.tolist()


def test_lagrange_weights_integrate_polynomials() -> None:
    nodes, to = torch.tensor([[3.0], [4.0], [6.0], [7.5]], dtype=F64), torch.tensor([2.2], dtype=F64)
    weights = lagrange_weights(nodes, to)
    for power in range(4):
        wanted = (to ** (power + 1) - nodes[0] ** (power + 1)) / (power + 1)
        torch.testing.assert_close((weights * nodes**power).sum(0), wanted, rtol=1e-12, atol=1e-12)
    nodes[3] = torch.inf
    weights = lagrange_weights(nodes, to)
    assert float(weights[3]) == 0
    torch.testing.assert_close((weights[:3] * nodes[:3] ** 2).sum(0), (to**3 - nodes[0] ** 3) / 3, rtol=1e-12, atol=1e-12)


def test_churn_adds_what_it_then_removes() -> None:
    """Inside its range it draws, outside it does not; with the exact denoiser the law of the end stays."""
    denoiser, noise = denoiser_of(MIXTURE, EDM), Noise(0, range(8))
    x = 20 * X
    plan = Heun().plan(EDM, steps=18, spacing="karras")
    still = sample(denoiser, Heun(), plan, x).x
    torch.testing.assert_close(sample(denoiser, Heun(s_churn=40, s_min=30.0), plan, x, noise=noise).x, still, rtol=0, atol=0)
    churned = sample(denoiser, Heun(s_churn=40, s_min=0.05, s_max=10.0), plan, x, noise=noise)
    assert float((churned.x - still).abs().max()) > 0.01
    assert churned.calls == 35
    assert Heun(s_churn=1).stochastic
    assert not Heun().stochastic


def test_the_adaptive_integrator_treats_each_image_by_itself() -> None:
    denoiser, sampler = denoiser_of(MIXTURE, VP), AdaptiveODE(rtol=1e-4, atol=1e-4)
    plan, x = sampler.plan(VP), X[:3]
    whole = sample(denoiser, sampler, plan, x)
    single = [sample(denoiser, sampler, plan, x[k : k + 1]) for k in range(3)]
    torch.testing.assert_close(whole.x, torch.cat([run.x for run in single]), rtol=0, atol=1e-12)
    assert whole.calls == sum(run.calls for run in single) - 2  # the step to t = 0 is one call for all
    together = sample(denoiser, AdaptiveODE(rtol=1e-4, atol=1e-4, norm="batch"), plan, x)
    assert together.calls < whole.calls / 2
    torch.testing.assert_close(together.x, whole.x, rtol=0, atol=1e-2)
    assert sample(denoiser, sampler, plan, x.float()).x.dtype == torch.float32


def test_pure_noise_is_no_place_in_the_sigma_coordinate() -> None:
    with pytest.raises(CapabilityError, match="coordinate=t"):
        sample(denoiser_of(MIXTURE, FLOW), AdaptiveODE(coordinate="sigma"), AdaptiveODE().plan(FLOW), X)


def test_without_torchdiffeq_one_line_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(CapabilityError, match=r"pip install 'mezzotint\[solvers\]'"):
        build("sampler", "ode")


@pytest.mark.parametrize(
    "text",
    [
        "euler,coordinate=lambda",
        "heun,alpha=0",
        "heun,s_churn=-1",
        "euler_ancestral,eta=-1",
        "lms,order=5",
        "ode,method=rk4",
        "ode,norm=max",
    ],
)
def test_settings_that_cannot_work_are_refused(text) -> None:
    with pytest.raises(ConfigError):
        build("sampler", text)


def test_the_plan_of_the_adaptive_integrator_has_only_its_ends() -> None:
    def steps(t_end: Tensor | float | str) -> int:
        return AdaptiveODE().plan(VP, t_end=t_end).steps

    assert (steps(0.0), steps("last"), steps(0.2)) == (2, 1, 1)
    assert AdaptiveODE().plan(VP, steps=5).steps == 5
