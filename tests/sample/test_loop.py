from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.analytic import F64, GAUSSIAN, SCHEDULES, denoiser_of

from mezzotint.denoise import FunctionDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.guidance import ClassifierFree
from mezzotint.noise import Noise, ReplayNoise
from mezzotint.sample.ancestral import DDIM, Ancestral
from mezzotint.sample.base import Sampler
from mezzotint.sample.loop import sample
from mezzotint.sample.ode import Euler
from mezzotint.schedules import build_schedule
from mezzotint.types import Plan, State

LINEAR = build_schedule(SCHEDULES["linear"])
DENOISER = denoiser_of(GAUSSIAN, LINEAR)
X = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.2]], dtype=F64)


class Halving(Sampler):
    """Chooses its own times: image k halves its time k + 1 times a step, until 0.01, and then is done."""

    adaptive = True

    def plan(self, schedule, **_):
        return Plan(torch.tensor([[1.0], [0.0]], dtype=F64), adaptive=True, max_steps=20)

    def init(self, x, plan):
        return State(x0=torch.ones(len(x), dtype=F64))  # the time of each image

    def step(self, denoiser, x_t, plan, i, state, *, cond, noise):
        t = state.x0 * 0.5 ** torch.arange(1, len(x_t) + 1)
        t = torch.where(t < 0.01, 0.0, t)
        return x_t + 1, t, State(x0=t)


def test_what_a_run_reports() -> None:
    seen = []
    plan = DDIM().plan(LINEAR, steps=5)
    run = sample(DENOISER, DDIM(), plan, X, on_step=lambda i, n: seen.append((i, n)))
    assert run.steps == run.calls == 5 and run.t.tolist() == [0, 0, 0]
    assert run.xs == run.x0s == run.ts == () and seen == [(i, 5) for i in range(1, 6)]
    assert run.x.dtype == F64 and not run.x.requires_grad


def test_saving() -> None:
    plan = DDIM().plan(LINEAR, steps=5)
    every = sample(DENOISER, DDIM(), plan, X, save="all")
    assert [t[0].item() for t in every.ts] == plan.grid[1:, 0].tolist()
    assert torch.equal(every.xs[-1], every.x) and len(every.x0s) == 5
    torch.testing.assert_close(every.x0s[0], DENOISER(X, plan.grid[0].expand(3)).mean)
    some = sample(DENOISER, DDIM(), plan, X, save=2)
    assert [t[0].item() for t in some.ts] == plan.grid[[2, 4, 5], 0].tolist()  # and the last one
    assert torch.equal(some.xs[0], every.xs[1]) and torch.equal(some.x, every.x)


def test_each_image_may_have_its_own_times() -> None:
    start = torch.tensor([1.0, 0.6, 0.3], dtype=F64)
    for sampler in (DDIM(), DDIM(eta=1.0), Ancestral()):
        plan = sampler.plan(LINEAR, steps=6, t_start=start)
        noise = Noise(0, [0, 1, 2])
        whole = sample(DENOISER, sampler, plan, X, noise=noise)
        for i in range(3):
            alone = sample(DENOISER, sampler, sampler.plan(LINEAR, steps=6, t_start=start[i].item()), X[i : i + 1], noise=noise.rows([i]))
            torch.testing.assert_close(whole.x[i : i + 1], alone.x, rtol=1e-12, atol=1e-12)


def test_an_adaptive_run_masks_images_that_are_done() -> None:
    run = sample(DENOISER, Halving(), Halving().plan(LINEAR), torch.zeros(3, 2), save="all")
    assert run.x[:, 0].tolist() == [7, 4, 3] and run.t.tolist() == [0, 0, 0] and run.steps == 7
    assert run.xs[4][:, 0].tolist() == [5, 4, 3]


def test_an_adaptive_run_that_does_not_end() -> None:
    with pytest.raises(ConfigError, match="Halving did not reach the end in 2 steps; loosen its tolerances"):
        sample(DENOISER, Halving(), replace(Halving().plan(LINEAR), max_steps=2), torch.zeros(3, 2))


def test_step_i_draws_from_the_streams_of_step_i() -> None:
    ids, plan = [7, 8, 9], DDIM().plan(LINEAR, steps=4)
    noise = Noise(5, ids, stage="sample")
    draws = [noise.at(i).normal((3, 2), name="step", dtype=F64) for i in range(3)]  # none on the step to 0
    replay = ReplayNoise(draws)
    run = sample(DENOISER, Ancestral(), plan, X, noise=replay)
    assert replay.left == 0 and torch.equal(run.x, sample(DENOISER, Ancestral(), plan, X, noise=noise).x)


def test_a_doubled_batch_counts_as_one_call() -> None:
    guided = ClassifierFree(DENOISER, lambda cond: {"label": torch.ones_like(cond["label"])}, scale=2.0)
    run = sample(guided, DDIM(), DDIM().plan(LINEAR, steps=4), X, cond={"label": torch.zeros(3, dtype=torch.long)})
    assert run.calls == 4


def test_the_denoiser_runs_without_gradients() -> None:
    weight = torch.ones(1, dtype=F64, requires_grad=True)
    run = sample(FunctionDenoiser(LINEAR, lambda x, *_: x * weight), DDIM(), DDIM().plan(LINEAR, steps=2), X)
    assert not run.x.requires_grad and weight.grad is None


def test_what_is_checked_before_the_first_step() -> None:
    calls = []
    denoiser = FunctionDenoiser(LINEAR, lambda x, *_: calls.append(1) or x)
    plan = DDIM().plan(LINEAR, steps=2)
    with pytest.raises(ConfigError, match="unknown condition 'label'"):
        sample(denoiser, DDIM(), plan, X, cond={"label": torch.zeros(3)})
    with pytest.raises(ConfigError, match="random streams for 2 images, and 3 images to sample"):
        sample(denoiser, DDIM(), plan, X, noise=Noise(0, [0, 1]))

    class Bands(type(LINEAR)):
        uniform = False

    denoiser.schedule = Bands(SCHEDULES["linear"])
    with pytest.raises(CapabilityError, match="Euler needs one noise level for the whole image"):
        sample(denoiser, Euler(), plan, X)
    assert not calls


def test_images_keep_their_type() -> None:
    run = sample(denoiser_of(GAUSSIAN, LINEAR), Ancestral(), DDIM().plan(LINEAR, steps=3), X.float(), noise=Noise(0, range(3)))
    assert run.x.dtype == torch.float32
