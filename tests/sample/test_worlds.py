"""Every sampler in worlds whose denoiser, classifier and moments are known exactly. A sampler that is registered is tested."""

from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, GAUSSIAN, MIXTURE, SCHEDULES, ExactClassifier, QuickNoise, denoiser_of, marginal, quasi_normal, reached

from mezzotint.guidance import Classifier
from mezzotint.registry import build, names
from mezzotint.sample.base import Sampler
from mezzotint.sample.loop import sample
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.types import Plan

# A name that is not here is tested with its default settings.
SETTINGS: dict[str, tuple[str, ...]] = {
    "ancestral": ("ancestral", "ancestral,variance=fixed_large", "ancestral,variance=optimal"),
    "ddim": ("ddim", "ddim,eta=0.5", "ddim,eta=1"),
    "ddim_inversion": (),  # leads from images to noise; see test_ancestral
    "euler": ("euler", "euler,coordinate=t"),
    "dpm_solver": ("dpm_solver", "dpm_solver,eta=1", "dpm_solver,variant=noise,method=singlestep,order=3"),
    "ode": ("ode,norm=batch",),
    # Two dimensions are few for a step size from the norms of one image: now and then the score is near zero.
    "predictor_corrector": ("predictor_corrector,norm=batch",),
}
# Samplers that choose their own times, and the tolerances that make them exact enough.
FINE = {"ode": ",rtol=1e-4,atol=1e-4", "dpm_solver_adaptive": ",rtol=5e-4,atol=8e-5"}
CHOSEN = [text for name in names("sampler") for text in SETTINGS.get(name, (name,))]
# Settings beside the defaults, whose moments test_orders_of_moments looks at.
VARIANTS = [text for text in CHOSEN if "," in text and text.split(",")[0] not in ("ode", "predictor_corrector")]


def planned(text: str, schedule: Schedule, steps: int) -> tuple[Sampler, Plan]:
    """A sampler with a plan in log-SNR, or, where it chooses its own times, with the plan that it makes by itself."""
    fine = FINE.get(text.split(",")[0])
    sampler = build("sampler", text + (fine or ""))
    if fine:
        return sampler, sampler.plan(schedule)
    start = 0.999 if "variant=noise" in text and schedule.t_max == 1 else None  # eps says nothing at pure noise
    return sampler, sampler.plan(schedule, steps=steps, spacing="logsnr", t_start=start)


@pytest.mark.parametrize("name", ["linear", "ve", "flow"])
@pytest.mark.parametrize("text", VARIANTS)
def test_the_moments_of_a_gaussian_become_exact_as_steps_grow(text, name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    denoiser = denoiser_of(GAUSSIAN, schedule, var=True)
    exact_mean, exact_cov = GAUSSIAN.moments()
    errors = []
    for steps in (20, 60):
        sampler, plan = planned(text, schedule, steps)
        mean, cov = reached(denoiser, sampler, plan, *marginal(GAUSSIAN, schedule, plan.grid[0].item()))
        errors.append(max((mean - exact_mean).abs().max().item(), (cov - exact_cov).abs().max().item()))
    assert errors[1] < 0.11, errors
    assert errors[1] < 0.5 * errors[0] or errors[1] < 2e-3, errors


N = 1024
START = quasi_normal(N, 2)


@pytest.mark.parametrize("text", CHOSEN)
def test_a_mixture_is_reached(text) -> None:
    schedule = build_schedule(SCHEDULES["linear"])
    sampler, plan = planned(text, schedule, 100)
    x = sample(denoiser_of(MIXTURE, schedule, var=True), sampler, plan, START, noise=QuickNoise(N)).x
    mean, cov = MIXTURE.moments()
    error = 4 * (cov.diag() / N).sqrt() if sampler.stochastic else torch.full((2,), 0.04, dtype=F64)
    assert bool(((x.mean(0) - mean).abs() < error).all()), x.mean(0)
    torch.testing.assert_close(x.T.cov(), cov, rtol=0, atol=0.09)
    # the whole law: shares of the components, told apart by the exact classifier
    shares = MIXTURE.log_prob(x, 1.0, 1e-3).exp().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2], dtype=F64), rtol=0, atol=0.06)


@pytest.mark.parametrize("text, name", [*((text, "linear") for text in CHOSEN), ("ancestral", "flow"), ("ddim", "flow"), ("ddim", "ve")])
def test_the_exact_classifier_guides_to_the_exact_conditional(text, name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    sampler, plan = planned(text, schedule, 100)
    inner = denoiser_of(MIXTURE, schedule, var="optimal" in text)
    inner.accepts = frozenset()
    denoiser = Classifier(inner, ExactClassifier(MIXTURE, schedule), scale=1.0)
    cond = {"label": torch.ones(N, dtype=torch.long)}
    x = sample(denoiser, sampler, plan, schedule.prior_scale * START, cond=cond, noise=QuickNoise(N)).x
    torch.testing.assert_close(x.mean(0), torch.tensor([0.8, 0.9], dtype=F64), rtol=0, atol=0.04)
    torch.testing.assert_close(x.T.cov(), 0.25**2 * torch.eye(2, dtype=F64), rtol=0, atol=0.013)
