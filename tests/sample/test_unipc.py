"""UniPC against published single steps, and against the multistep solvers that it contains."""

from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, MIXTURE, SCHEDULES, denoiser_of
from tests.sample.test_dpm_solver import VP, Toy, X

from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.registry import build
from mezzotint.sample.dpm_solver import DPMSolver, Leg
from mezzotint.sample.loop import sample
from mezzotint.sample.unipc import UniPC
from mezzotint.schedules import build_schedule


@pytest.mark.parametrize(
    "variant, order, predicted, corrected",
    [
        ("bh2", 1, [1.14884570, -2.33279122], [1.14484923, -2.32222528]),
        ("bh2", 2, [1.11473469, -2.25701589], [1.13731069, -2.30568232]),
        ("bh1", 2, [1.11020924, -2.24696290], [1.13698379, -2.30495615]),
        ("bh1", 3, [1.12123015, -2.27250524], [1.13667609, -2.30451379]),
        ("bh2", 3, [1.12123015, -2.27250524], [1.13667609, -2.30451379]),
    ],
)
def test_published_steps(variant, order, predicted, corrected) -> None:
    toy, sampler = Toy(), UniPC(order=order, variant=variant)
    times = [torch.tensor([t], dtype=F64) for t in (0.45, 0.5, 0.6)]
    values = tuple(toy(scale * X, t).mean for scale, t in zip((1.0, 1.1, 1.2), times, strict=True))
    lams = tuple(VP.half_log_snr(t) for t in times)
    end = torch.tensor([0.4], dtype=F64)
    leg = Leg(VP, times[0], end, data=True)
    x = sampler.advance(leg, X, values, lams, order, correct=False)
    torch.testing.assert_close(x[0], torch.tensor(predicted, dtype=F64), rtol=0, atol=1e-7)
    known = (*values, toy(x, end).mean), (*lams, VP.half_log_snr(end))
    x = sampler.advance(leg, X, *known, order, correct=True)
    torch.testing.assert_close(x[0], torch.tensor(corrected, dtype=F64), rtol=0, atol=1e-7)


def test_first_steps_may_go_without_the_corrector() -> None:
    def run(text: str) -> torch.Tensor:
        sampler = build("sampler", text)
        return sample(denoiser_of(MIXTURE, VP), sampler, sampler.plan(VP, steps=6, spacing="logsnr"), X).x

    plain, none = run("unipc"), run("unipc,corrector=false")
    assert torch.equal(run("unipc,uncorrected=0"), plain) and torch.equal(run("unipc,uncorrected=5"), none)
    two = run("unipc,uncorrected=2")
    assert not torch.equal(two, plain) and not torch.equal(two, none)


@pytest.mark.parametrize("kind", [DPMSolver, UniPC])
@pytest.mark.parametrize(
    "spacing, setting, orders",
    [
        ("trailing", None, (1, 2, 3, 3, 2, 1)),
        ("trailing", False, (1, 2, 3, 2, 1, 1)),
        ("uniform", None, (1, 2, 3, 2, 1, 1)),
        ("uniform", True, (1, 2, 3, 3, 2, 1)),
    ],
)
def test_whether_the_step_to_0_is_one_of_those_of_falling_order(kind, spacing, setting, orders) -> None:
    plan = kind(order=3, jump_counts=setting).plan(build_schedule(SCHEDULES["linear"]), steps=6, spacing=spacing)
    assert plan.orders == orders


@pytest.mark.parametrize(
    "unipc, other",
    [
        ("unipc,order=2,corrector=false,lower_order_final=false", "dpm_solver,order=2,lower_order_final=false"),
        ("unipc,order=3,corrector=false,lower_order_final=false", "dpm_solver,order=3,lower_order_final=false"),
        (
            "unipc,order=3,corrector=false,lower_order_final=false,prediction=noise,variant=vary_coeff",
            "dpm_solver,order=3,lower_order_final=false,variant=noise,correction=taylor",
        ),
    ],
)
def test_the_predictor_is_a_multistep_dpm_solver(unipc, other) -> None:
    runs = []
    for text in (unipc, other):
        sampler = build("sampler", text)
        runs.append(sample(denoiser_of(MIXTURE, VP), sampler, sampler.plan(VP, steps=12, spacing="logsnr"), X).x)
    torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-9)


def test_all_variants_agree_once_their_equations_are_full() -> None:
    """B(h) and the choice of the free weight drop out of order 3; they differ where one difference is used alone."""
    runs = {}
    for variant in ("bh1", "bh2", "vary_coeff"):
        for order in (2, 3):
            sampler = UniPC(order=order, variant=variant, lower_order_final=False)
            plan = sampler.plan(VP, steps=9, spacing="logsnr", t_end="last")
            runs[variant, order] = sample(Toy(), sampler, plan, X)
            assert runs[variant, order].calls == 9
    assert float((runs["bh1", 2].x - runs["bh2", 2].x).abs().max()) > 1e-6
    assert float((runs["vary_coeff", 2].x - runs["bh2", 2].x).abs().max()) > 1e-6


def test_the_corrector_brings_the_end_closer() -> None:
    denoiser = denoiser_of(MIXTURE, VP)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    fine = UniPC()
    wanted = sample(denoiser, fine, fine.plan(VP, steps=300, spacing="logsnr"), x).x
    errors = []
    for corrector in (True, False):
        sampler = UniPC(order=2, corrector=corrector)
        errors.append(float((sample(denoiser, sampler, sampler.plan(VP, steps=40, spacing="logsnr"), x).x - wanted).square().mean()))
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("text", ["unipc,order=5", "unipc,variant=bh3", "unipc,prediction=x0"])
def test_settings_that_cannot_work_are_refused(text) -> None:
    with pytest.raises(ConfigError):
        build("sampler", text)


def test_noise_prediction_cannot_start_from_pure_noise() -> None:
    with pytest.raises(CapabilityError, match="cannot start from pure noise"):
        UniPC(prediction="noise").plan(build_schedule(SCHEDULES["flow"]), steps=5)
