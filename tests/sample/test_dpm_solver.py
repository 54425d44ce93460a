"""DPM-Solver against published numbers of single steps and whole runs, its plans, and what its options promise."""

from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, MIXTURE, SCHEDULES, QuickNoise, denoiser_of
from torch import Tensor

from mezzotint.denoise import Bound, Denoiser, FunctionDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.guidance import ScoreShift
from mezzotint.noise import Noise
from mezzotint.process import from_x0, to_x0
from mezzotint.registry import build
from mezzotint.sample.dpm_solver import DPMSolver, DPMSolverAdaptive, MultistepState, multistep_orders, singlestep_orders
from mezzotint.sample.loop import sample
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.types import Cond, Plan, Posterior

VP = build_schedule(SCHEDULES["vp"])
X = torch.tensor([[1.0, -2.0]], dtype=F64)


class Toy(Denoiser):
    """eps = 0.3 x + 0.1 t, the network of the published numbers."""

    def __init__(self, schedule: Schedule = VP):
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        eps = 0.3 * x_t + 0.1 * t.reshape(-1, *(1,) * (x_t.ndim - 1)).to(x_t)
        return Posterior(to_x0("eps", eps, x_t, *self.schedule(t)))


def one_step(t: float, s: float, order: int, **settings) -> Tensor:
    sampler = DPMSolver(order=order, method="singlestep_fixed", **settings)
    plan = Plan(torch.tensor([[t], [s]], dtype=F64), (order,))
    return sampler.step(Toy(), X, plan, 0, sampler.init(X, plan), cond={}, noise=None)[0][0]


@pytest.mark.parametrize(
    "settings, published",
    [
        ({"order": 1, "variant": "noise"}, [1.35833860, -2.80851680]),
        ({"order": 1, "variant": "++"}, [1.35833860, -2.80851680]),
        ({"order": 2, "variant": "noise"}, [1.33078909, -2.73677976]),
        ({"order": 3, "variant": "noise"}, [1.33375551, -2.74465124]),
        ({"order": 2, "variant": "++"}, [1.33710031, -2.75321376]),
        ({"order": 3, "variant": "++"}, [1.33383114, -2.74480111]),
    ],
)
def test_published_single_steps(settings, published) -> None:
    torch.testing.assert_close(one_step(0.5, 0.4, **settings), torch.tensor(published, dtype=F64), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "settings, published",
    [
        ({"order": 2, "variant": "noise"}, [1.15320293, -2.33963830]),
        ({"order": 3, "variant": "noise", "official": True}, [1.15383790, -2.34092569]),
        ({"order": 2, "variant": "++"}, [1.11473469, -2.25701589]),
        ({"order": 3, "variant": "++", "official": True}, [1.11966347, -2.26881583]),
    ],
)
def test_published_multisteps(settings, published) -> None:
    sampler, toy = DPMSolver(**settings), Toy()
    times = [torch.tensor([t], dtype=F64) for t in (0.5, 0.6)]
    seen = [(x, toy(x, t).mean) for x, t in zip((1.1 * X, 1.2 * X), times, strict=True)]
    if settings["variant"] == "noise":
        values = [from_x0("eps", x0, x, *VP(t)) for (x, x0), t in zip(seen, times, strict=True)]
    else:
        values = [x0 for _, x0 in seen]
    state = MultistepState(None, tuple(values), tuple(VP.half_log_snr(t) for t in times))
    plan = Plan(torch.tensor([[0.45], [0.4]], dtype=F64), (settings["order"],))
    got = sampler.step(toy, X, plan, 0, state, cond={}, noise=None)[0][0]
    torch.testing.assert_close(got, torch.tensor(published, dtype=F64), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "text, published",
    [
        ("dpm_solver,order=2,variant=noise", 27.58721293),
        ("dpm_solver,order=3,variant=noise,official=true", 27.29696032),
        ("dpm_solver,order=2", 23.47717077),
        ("dpm_solver,order=3,official=true", 26.34482957),
        ("dpm_solver,order=2,variant=noise,method=singlestep", 14.32696100),
        ("dpm_solver,order=3,variant=noise,method=singlestep", 22.60371106),
        ("dpm_solver,order=2,method=singlestep", 31.96177748),
        ("dpm_solver,order=3,method=singlestep", 24.75415209),
        ("unipc,order=1", 31.89598903),
        ("unipc,order=2", 23.72542021),
        ("unipc,order=3", 26.49864587),
    ],
)
def test_published_runs(text, published) -> None:
    sampler = build("sampler", text)
    result = sample(Toy(), sampler, sampler.plan(VP, steps=10, spacing="logsnr", t_end="last"), X)
    assert float(result.x[0, 0]) == pytest.approx(published, abs=1e-7)
    assert result.calls == 10


def test_orders_add_up_to_the_calls() -> None:
    for calls in range(1, 41):
        for order in (1, 2, 3):
            orders = singlestep_orders(calls, order)
            assert sum(orders) == calls
            assert max(orders) <= order
            assert list(orders) == sorted(orders, reverse=True)
    assert singlestep_orders(11, 3) == (3, 3, 3, 2)
    assert singlestep_orders(15, 3) == (3, 3, 3, 3, 2, 1)
    assert singlestep_orders(20, 3) == (3,) * 6 + (2,)
    assert singlestep_orders(7, 2) == (2, 2, 2, 1)
    assert multistep_orders(3, 3, lower=True) == (1, 2, 1)
    assert multistep_orders(12, 3, lower=False) == (1, 2) + (3,) * 10


@pytest.mark.parametrize("method", ["multistep", "singlestep", "singlestep_fixed"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", ["uniform", "logsnr", "quadratic", "karras"])
def test_calls_are_as_stated(method, order, spacing) -> None:
    sampler = DPMSolver(order=order, method=method)
    for steps in (3, 4, 9, 12, 13):
        for end, jump in ((0.0, 1), ("last", 0)):
            if method == "singlestep_fixed" and steps - jump < order:
                continue
            plan = sampler.plan(VP, steps=steps, spacing=spacing, t_end=end)
            result = sample(Toy(), sampler, plan, X)
            solved = steps - jump
            assert result.calls == (solved // order * order if method == "singlestep_fixed" else solved) + jump
            assert float(result.t[0]) == (0.0 if jump else VP.t_min)
            assert bool((plan.grid.diff(dim=0) < 0).all())


def test_the_end_at_0_returns_the_last_estimate_of_x0() -> None:
    denoiser = denoiser_of(MIXTURE, VP)
    for text in (
        "dpm_solver,order=3",
        "dpm_solver,order=2,variant=noise",
        "dpm_solver,order=3,method=singlestep",
        "dpm_solver_adaptive",
        "unipc",
    ):
        sampler = build("sampler", text)
        steps = None if sampler.adaptive else 9
        x = sample(denoiser, sampler, sampler.plan(VP, steps=steps and steps - 1, t_end="last"), X).x
        wanted = denoiser(x, torch.full((1,), VP.t_min, dtype=F64)).mean
        got = sample(denoiser, sampler, sampler.plan(VP, steps=steps), X).x
        # UniPC corrects the last noisy point, now that the network is evaluated there.
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 if text == "unipc" else 1e-12)


def test_pure_noise_is_a_start_for_the_data_form() -> None:
    flow = build_schedule(SCHEDULES["flow"])
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    fine = DPMSolver(order=3)
    wanted = sample(denoiser_of(MIXTURE, flow), fine, fine.plan(flow, steps=400, spacing="logsnr"), x).x
    for text in ("dpm_solver,order=3", "dpm_solver,order=3,method=singlestep", "unipc", "heun", "dpm2", "lms"):
        sampler = build("sampler", text)
        got = sample(denoiser_of(MIXTURE, flow), sampler, sampler.plan(flow, steps=100, spacing="logsnr"), x).x
        torch.testing.assert_close(got, wanted, rtol=0, atol=0.05)
    with pytest.raises(CapabilityError, match="cannot start from pure noise"):
        DPMSolver(variant="noise").plan(flow, steps=10)
    assert DPMSolver(variant="noise").plan(flow, steps=10, t_start=0.99).steps == 10


def test_an_adaptive_image_does_not_depend_on_its_batch() -> None:
    denoiser = denoiser_of(MIXTURE, VP)
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(2), dtype=F64) * torch.linspace(0.2, 2, 7, dtype=F64)[:, None]
    together = DPMSolverAdaptive(order=2)
    plan = together.plan(VP)
    whole = sample(denoiser, together, plan, x)
    single = [sample(denoiser, together, plan, x[k : k + 1]) for k in range(7)]
    torch.testing.assert_close(whole.x, torch.cat([run.x for run in single]), rtol=0, atol=1e-12)
    assert whole.calls == max(run.calls for run in single)  # they end one after another
    assert len({run.calls for run in single}) > 1
    shared = DPMSolverAdaptive(order=2, norm="batch")
    assert float((sample(denoiser, shared, plan, x).x - whole.x).abs().max()) > 1e-6


def test_adaptive_steps_grow_with_the_tolerance() -> None:
    denoiser = denoiser_of(MIXTURE, VP)
    calls = []
    for settings in ({"rtol": 1e-4, "atol": 1e-4}, {}, {"controller": "smooth", "norm": "mean"}):
        sampler = DPMSolverAdaptive(order=3, **settings)
        calls.append(sample(denoiser, sampler, sampler.plan(VP), X.expand(4, 2)).calls)
    assert calls[0] > 2 * max(calls[1:])
    with pytest.warns(UserWarning, match="no effect"):
        DPMSolverAdaptive().plan(VP, steps=10)


def test_inversion_then_sampling_returns_the_image() -> None:
    denoiser = denoiser_of(MIXTURE, VP)
    x = sample(denoiser, DPMSolver(), DPMSolver().plan(VP, steps=50, t_end="last"), X.expand(4, 2) * 0.5).x
    back = DPMSolver(order=3, inverse=True)
    plan = back.plan(VP, steps=200, spacing="logsnr")
    assert bool((plan.grid.diff(dim=0) > 0).all())
    noise = sample(denoiser, back, plan, x).x
    forth = DPMSolver(order=3)
    torch.testing.assert_close(
        sample(denoiser, forth, forth.plan(VP, steps=200, spacing="logsnr", t_end="last"), noise).x, x, rtol=0, atol=1e-4
    )


def test_clip_lambda_leaves_out_the_noisiest_levels() -> None:
    cosine = build_schedule(SCHEDULES["cosine"])
    start = float(DPMSolver(clip_lambda=-5.1).plan(cosine, steps=10).grid[0, 0])
    assert start == pytest.approx(0.996)  # 996 of the 1000 levels, as published
    assert float(DPMSolver(clip_lambda=-5.1).plan(cosine, steps=10, t_start=0.999).grid[0, 0]) == 0.999
    assert float(DPMSolver(clip_lambda=-5.1).plan(VP, steps=10).grid[0, 0]) == 1.0
    assert float(DPMSolver(clip_lambda=-2.0).plan(VP, steps=10).grid[0, 0]) == pytest.approx(float(VP.time_of(torch.tensor(-2.0))))


def test_guidance_by_a_score_shifts_eps() -> None:
    """A score that is linear in x turns one Gaussian world into another: sampling with it must give what sampling the other gives."""
    inner = denoiser_of(MIXTURE, VP)
    pull = torch.tensor([0.7, -0.2], dtype=F64)
    guided = ScoreShift(inner, lambda x, t, cond: pull.expand_as(x))

    def moved(x: Tensor, alpha: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return MIXTURE.posterior(x, alpha, sigma)[0] + sigma**2 / alpha * pull

    for text in ("dpm_solver,order=2", "dpm_solver,order=3,variant=noise,method=singlestep", "unipc", "heun", "lms", "ode"):
        sampler = build("sampler", text)
        plan = sampler.plan(VP) if text == "ode" else sampler.plan(VP, steps=8)
        wanted = sample(FunctionDenoiser(VP, moved), sampler, plan, X).x
        torch.testing.assert_close(sample(guided, sampler, plan, X).x, wanted, rtol=1e-9, atol=1e-9)


def test_thresholding_bounds_what_the_data_form_uses() -> None:
    loud = FunctionDenoiser(VP, lambda x, alpha, sigma, cond: 3 * x)
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=F64)
    sampler = DPMSolver(order=2)
    plan = sampler.plan(VP, steps=6)
    assert float(sample(Bound(loud, quantile=0.9), sampler, plan, x).x.abs().max()) <= 1
    assert float(sample(loud, sampler, plan, x).x.abs().max()) > 2


def test_noise_of_the_sde_needs_streams_and_none_is_drawn_without() -> None:
    denoiser = denoiser_of(MIXTURE, VP)
    for text, draws in (("dpm_solver,eta=1", 9), ("dpm_solver,order=3,method=singlestep,eta=0.5", 4), ("dpm_solver", 0)):
        sampler = build("sampler", text)
        plan = sampler.plan(VP, steps=10)
        noise = Counting(1)
        sample(denoiser, sampler, plan, X, noise=noise)
        assert noise.taken == draws
        assert sampler.stochastic == (draws > 0)


class Counting(QuickNoise):
    taken = 0

    def _draw(self, law, shape, name, dtype, device):
        self.taken += 1
        return super()._draw(law, shape, name, dtype, device)


@pytest.mark.parametrize(
    "text, words",
    [
        ("dpm_solver,order=4", "order 4"),
        ("dpm_solver,variant=+", "'++'"),
        ("dpm_solver,method=multi", "'multistep'"),
        ("dpm_solver,correction=tailor", "'taylor'"),
        ("dpm_solver,eta=-1", "eta=-1"),
        ("dpm_solver,inverse=true,eta=1", "runs backwards"),
        ("dpm_solver_adaptive,order=1", "order 1"),
        ("dpm_solver_adaptive,norm=img", "'image'"),
        ("dpm_solver_adaptive,controller=smoth", "'smooth'"),
        ("dpm_solver_adaptive,atol=0", "positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(text, words) -> None:
    with pytest.raises(ConfigError, match=words.replace("+", r"\+")):
        build("sampler", text)


def test_too_few_calls_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        DPMSolver(order=3, method="singlestep_fixed").plan(VP, steps=3)
