"""The SDE samplers: exact moments, the laws that their settings promise, and Langevin steps."""

from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, GAUSSIAN, MIXTURE, SCHEDULES, QuickNoise, denoiser_of, marginal, reached

from mezzotint.data.worlds import gaussian
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise
from mezzotint.registry import build
from mezzotint.sample.loop import sample
from mezzotint.sample.sde import EulerMaruyama, PredictorCorrector
from mezzotint.schedules import build_schedule
from mezzotint.types import Plan

VP = build_schedule(SCHEDULES["vp"])


@pytest.mark.parametrize(
    "text", ["dpm_solver,order=1,variant=noise,eta=1", "dpm_solver,order=1,eta=1", "dpm_solver,order=2,eta=1", "euler_maruyama"]
)
def test_moments_of_the_mixture_after_fifty_steps(text) -> None:
    sampler, count = build("sampler", text), 4000
    noise = QuickNoise(count, seed=1)
    x = noise.normal((count, 2), name="prior", dtype=F64)
    result = sample(denoiser_of(MIXTURE, VP), sampler, sampler.plan(VP, steps=50, spacing="logsnr"), x, noise=noise)
    mean, cov = MIXTURE.moments()
    bound = 3 * (cov.diagonal() / count).sqrt() + 0.05 * cov.diagonal().sqrt()
    assert bool(((result.x.mean(0) - mean).abs() < bound).all())
    error = (result.x.T.cov() - cov).abs() / torch.outer(cov.diagonal(), cov.diagonal()).sqrt()
    assert float(error.max()) < 3 * (2 / count) ** 0.5 + 0.05 + (0.1 if text == "euler_maruyama" else 0)


@pytest.mark.parametrize("text", ["dpm_solver,order=2,eta=1", "dpm_solver,order=3,eta=0.5", "dpm_solver,order=2,eta=1,variant=noise"])
def test_sde_solvers_reach_the_covariance_with_any_share_of_noise(text) -> None:
    errors = []
    for steps in (40, 80):
        sampler = build("sampler", text)
        plan = sampler.plan(VP, steps=steps, spacing="logsnr", t_end="last")
        mean, cov = reached(denoiser_of(GAUSSIAN, VP), sampler, plan, *marginal(GAUSSIAN, VP, 1.0))
        wanted_mean, wanted_cov = marginal(GAUSSIAN, VP, VP.t_min)
        torch.testing.assert_close(mean, wanted_mean, rtol=0, atol=1e-6)
        errors.append(float((cov - wanted_cov).abs().max()))
    assert errors[1] < 0.03
    assert errors[1] < 0.6 * errors[0]


def test_ancestral_noise_of_single_steps_is_that_of_ddim() -> None:
    """At order 1 the step down and the noise up are DDIM's with the same eta."""
    denoiser, noise = denoiser_of(MIXTURE, VP), Noise(0, range(4))
    x = noise.normal((4, 2), name="prior", dtype=F64)
    for eta in (0.3, 1.0):
        ours = build("sampler", f"dpm_solver,order=1,method=singlestep_fixed,eta={eta}")
        ddim = build("sampler", f"ddim,eta={eta}")
        plan = ddim.plan(VP, steps=10)
        wanted = sample(denoiser, ddim, plan, x, noise=noise).x
        torch.testing.assert_close(sample(denoiser, ours, ours.plan(VP, steps=10), x, noise=noise).x, wanted, rtol=1e-9, atol=1e-9)


def test_dpmpp_sde_without_noise_is_the_single_step_solver() -> None:
    denoiser = denoiser_of(MIXTURE, VP)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    ours, other = build("sampler", "dpmpp_sde,eta=0"), build("sampler", "dpm_solver,order=2,method=singlestep_fixed")
    plan = ours.plan(VP, steps=8, spacing="logsnr", t_end="last")
    wanted = sample(denoiser, other, Plan(plan.grid, (2,) * 8), x).x
    torch.testing.assert_close(sample(denoiser, ours, plan, x).x, wanted, rtol=1e-10, atol=1e-10)


def test_one_step_of_euler_maruyama() -> None:
    """x + (f x - g^2 score) dt + g sqrt(-dt) z, written out for VP."""
    noise = Noise(0, [0])
    x, t, s = torch.tensor([[0.3, -1.2]], dtype=F64), torch.tensor([0.6], dtype=F64), torch.tensor([0.55], dtype=F64)
    got = EulerMaruyama().step(
        denoiser_of(GAUSSIAN, VP), x, Plan(torch.stack([t, s])), 0, EulerMaruyama().init(x, Plan(t)), cond={}, noise=noise
    )[0]
    beta = 0.1 + 0.6 * 19.9
    alpha, sigma = VP(t)
    score = (alpha * GAUSSIAN.posterior(x, alpha, sigma)[0] - x) / sigma**2
    z = noise.normal((1, 2), name="step", dtype=F64)
    torch.testing.assert_close(got, x + (-0.5 * beta * x - beta * score) * -0.05 + (beta * 0.05) ** 0.5 * z, rtol=1e-10, atol=1e-10)


# Norms of score and noise are those of images only where there are many numbers.
SIZE = 1024
WIDE = gaussian(torch.linspace(-1, 1, SIZE, dtype=F64), torch.tensor([0.2, 0.5] * (SIZE // 2), dtype=F64))


def ratios(x: torch.Tensor, var: torch.Tensor) -> list[float]:
    """Variance over the exact one, in the narrow and the wide directions."""
    return (x.var(0) / var).reshape(-1, 2).mean(0).tolist()


@pytest.mark.parametrize("predictor", ["reverse_diffusion", "ancestral"])
@pytest.mark.parametrize("name", ["vp", "ve"])
def test_predictor_and_corrector_reach_the_covariance(predictor, name) -> None:
    schedule, count = build_schedule(SCHEDULES[name]), 64
    errors = []
    for corrections in (0, 1):
        sampler, noise = PredictorCorrector(predictor=predictor, corrections=corrections, snr=0.1), QuickNoise(count, seed=2)
        x = schedule.prior_scale * noise.normal((count, SIZE), name="prior", dtype=F64)
        result = sample(denoiser_of(WIDE, schedule), sampler, sampler.plan(schedule, steps=60, spacing="logsnr"), x, noise=noise)
        mean, cov = WIDE.moments()
        assert result.calls == 60 * (1 + corrections)
        assert float((result.x.mean(0) - mean).square().mean()) < 0.02
        errors.append(max(abs(ratio - 1) for ratio in ratios(result.x, cov.diagonal())))
    # What is left is the corrector's own: the size of its steps does not shrink with those of the predictor.
    assert errors[1] < 0.1
    assert errors[1] < 0.7 * errors[0], errors


def test_langevin_steps_repair_a_wrong_law() -> None:
    """From samples of twice the spread, at one noise level; the predictor alone would keep them so."""
    schedule, count = build_schedule(SCHEDULES["ve"]), 64
    t, noise = 1.0, QuickNoise(count, seed=3)
    mean, cov = marginal(WIDE, schedule, t)
    x = mean + 2 * noise.normal((count, SIZE), name="start", dtype=F64) * cov.diagonal().sqrt()
    plan = Plan(torch.tensor([[t], [t - 1e-6]], dtype=F64))
    out = sample(denoiser_of(WIDE, schedule), PredictorCorrector(corrections=200, snr=0.1), plan, x, noise=noise).x
    assert ratios(out, cov.diagonal()) == pytest.approx([1, 1], abs=0.06)


def test_langevin_norms_of_the_batch_tie_images_together() -> None:
    denoiser, noise = denoiser_of(MIXTURE, VP), Noise(0, range(5))
    x = noise.normal((5, 2), name="prior", dtype=F64) * torch.arange(1, 6, dtype=F64)[:, None]
    ends = {}
    for norm in ("image", "batch"):
        sampler = PredictorCorrector(norm=norm)
        plan = sampler.plan(VP, steps=5)
        whole = sample(denoiser, sampler, plan, x, noise=noise).x
        ends[norm] = float((sample(denoiser, sampler, plan, x[:2], noise=noise.rows([0, 1])).x - whole[:2]).abs().max())
    assert ends["image"] < 1e-12
    assert ends["batch"] > 1e-3


@pytest.mark.parametrize(
    "text", ["predictor_corrector,predictor=ddim", "predictor_corrector,snr=0", "predictor_corrector,norm=max", "dpmpp_sde,r=0"]
)
def test_settings_that_cannot_work_are_refused(text) -> None:
    with pytest.raises(ConfigError):
        build("sampler", text)
