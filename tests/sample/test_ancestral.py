"""Ancestral and DDIM sampling against the published table of the analytic chain, and guided against exact conditionals."""

from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, GAUSSIAN, MIXTURE, SCHEDULES, ExactClassifier, QuickNoise, denoiser_of, marginal, quasi_normal, reached

from mezzotint.covariance import VARIANCES
from mezzotint.data.worlds import gaussian
from mezzotint.denoise import Bound, FunctionDenoiser
from mezzotint.errors import ConfigError
from mezzotint.guidance import Classifier, ClassifierFree
from mezzotint.noise import Noise
from mezzotint.registry import build
from mezzotint.sample.ancestral import DDIM, Ancestral
from mezzotint.sample.loop import sample
from mezzotint.schedules import build_schedule
from mezzotint.types import Plan, Posterior

LINEAR = build_schedule(SCHEDULES["linear"])


@pytest.mark.parametrize(
    "variance, ratios",
    [("fixed_large", [1.00766, 1.00150, 0.99995, 0.99882]), ("fixed_small", [0.96311, 0.99222, 0.99552, 0.99684])],
)
def test_the_chain_of_a_thousand_steps_has_the_published_spread(variance, ratios) -> None:
    """Data N(0, s^2): standard deviation of the samples over s, exact by the chain's linearity."""
    sampler, stds = Ancestral(variance=variance), torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=F64)
    denoiser = denoiser_of(gaussian(torch.zeros(4, dtype=F64), stds**2), LINEAR)
    mean, var = reached(denoiser, sampler, sampler.plan(LINEAR), torch.zeros(4, dtype=F64), torch.ones(4), diagonal=True)
    torch.testing.assert_close(var.sqrt() / stds, torch.tensor(ratios, dtype=F64), rtol=0, atol=1.2e-5)
    assert bool((mean == 0).all())


@pytest.mark.parametrize("name", ["linear", "vp", "ve", "flow"])
def test_the_optimal_variance_is_exact_with_any_number_of_steps(name) -> None:
    """Isotropic data: every reverse step is then the true conditional, so that few steps are as good as many."""
    schedule = build_schedule(SCHEDULES[name])
    world = gaussian(torch.tensor([0.4, -0.7], dtype=F64), 0.3)
    sampler = Ancestral(variance="optimal")
    low = 1e-3 * schedule.t_max
    for steps in (1, 3, 10):
        plan = Plan(torch.linspace(schedule.t_max, low, steps + 1, dtype=F64)[:, None])
        mean, cov = reached(denoiser_of(world, schedule, var=True), sampler, plan, *marginal(world, schedule, schedule.t_max))
        exact_mean, exact_cov = marginal(world, schedule, low)
        torch.testing.assert_close(mean, exact_mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(cov, exact_cov, rtol=1e-8, atol=1e-9)


def test_eta_one_is_the_ancestral_step() -> None:
    """DDIM with eta = 1 draws from the bridge, as fixed_small does; the last step adds no noise."""
    denoiser, noise = denoiser_of(GAUSSIAN, LINEAR), Noise(0, [4, 5, 6])
    x = noise.normal((3, 2), name="x", dtype=F64)
    plan = DDIM().plan(LINEAR, spacing="25")
    one = sample(denoiser, DDIM(eta=1.0), plan, x, noise=noise, save="all")
    other = sample(denoiser, Ancestral(variance="fixed_small"), plan, x, noise=noise, save="all")
    for a, b in zip((*one.xs, *one.x0s), (*other.xs, *other.x0s), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_needs_noise_only_where_it_draws(eta) -> None:
    sampler = DDIM(eta=eta)
    denoiser, plan = denoiser_of(GAUSSIAN, LINEAR), sampler.plan(LINEAR, steps=4)
    x = torch.zeros(2, 2, dtype=F64)
    if eta == 0:
        assert sample(denoiser, sampler, plan, x).x.isfinite().all()
    else:
        with pytest.raises(ValueError, match="this sampler draws noise"):
            sample(denoiser, sampler, plan, x)
    assert sampler.stochastic == (eta > 0)


def test_eps_from_the_clipped_or_the_unclipped_estimate() -> None:
    x0 = torch.tensor([[3.0, 0.5]], dtype=F64)
    denoiser = Bound(FunctionDenoiser(LINEAR, lambda *_: x0))
    t, s = torch.tensor([0.6], dtype=F64), torch.tensor([0.3], dtype=F64)
    (alpha, sigma), (alpha_s, sigma_s) = LINEAR(t), LINEAR(s)
    x_t, clipped = torch.tensor([[1.0, -1.0]], dtype=F64), x0.clamp(-1, 1)
    for recompute, source in ((True, clipped), (False, x0)):
        out = sample(denoiser, DDIM(recompute_eps=recompute), Plan(torch.stack([t, s])), x_t).x
        torch.testing.assert_close(out, alpha_s * clipped + sigma_s * (x_t - alpha * source) / sigma)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"eta 1.5 is not in \[0, 1\]"):
        DDIM(eta=1.5)
    with pytest.raises(ConfigError, match="unknown variance 'fixed'"):
        Ancestral(variance="fixed")
    assert all(Ancestral(variance=v).variance == v for v in (*VARIANCES, "model"))


def test_the_model_s_variance_is_the_default() -> None:
    denoiser, plan = denoiser_of(GAUSSIAN, LINEAR), Ancestral().plan(LINEAR, spacing="25")
    x = torch.ones(2, 2, dtype=F64)
    for variance in ("fixed_small", "fixed_large"):
        denoiser.variance = variance
        own = sample(denoiser, Ancestral(), plan, x, noise=Noise(0, [0, 1])).x
        assert torch.equal(own, sample(denoiser, Ancestral(variance=variance), plan, x, noise=Noise(0, [0, 1])).x)


@pytest.mark.parametrize("name", ["linear", "vp", "ve"])
def test_inversion_is_undone_by_ddim(name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    denoiser = denoiser_of(MIXTURE, schedule)
    x0, _ = MIXTURE.sample(16, Noise(0, range(16)))
    errors = []
    for steps in (50, 200):
        spacing = {"steps": steps, "spacing": "logsnr"}
        up, down = build("sampler", "ddim_inversion"), DDIM()
        noise = sample(denoiser, up, up.plan(schedule, **spacing), x0)
        assert bool((noise.t == schedule.t_max).all())
        errors.append((sample(denoiser, down, down.plan(schedule, **spacing), noise.x).x - x0).abs().mean().item())
    assert errors[1] < 0.02 and errors[1] < 0.4 * errors[0]


def test_official_inversion_ends_in_pure_noise() -> None:
    up = build("sampler", "ddim_inversion,official=yes")
    plan = up.plan(LINEAR, spacing="250")
    assert plan.grid[-1].item() == float("inf") and plan.steps == 250
    world = gaussian(torch.zeros(2, dtype=F64), 0.25)
    x0, _ = world.sample(1000, QuickNoise(1000))
    x_1 = sample(denoiser_of(world, LINEAR), up, plan, x0).x
    assert abs(x_1.std().item() - 1) < 0.05


# --- guidance ------------------------------------------------------------------------------------------------------------

N = 1024
START = quasi_normal(N, 2)
LABEL = {"label": torch.ones(N, dtype=torch.long)}
MEAN, STD = torch.tensor([0.8, 0.9], dtype=F64), 0.25


def guided(scale: float, sampler: str, spacing: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of samples of class 1, from the unconditional mixture and the exact class posterior."""
    denoiser = Classifier(denoiser_of_all(), ExactClassifier(MIXTURE, LINEAR), scale=scale)
    piece = build("sampler", sampler)
    plan = piece.plan(LINEAR, spacing=spacing)
    x = sample(denoiser, piece, plan, START, cond=LABEL, noise=QuickNoise(N)).x
    return x.mean(0), x.std(0)


def denoiser_of_all() -> FunctionDenoiser:
    """The denoiser of the whole mixture, which does not know labels."""
    inner = denoiser_of(MIXTURE, LINEAR)
    inner.accepts = frozenset()
    return inner


@pytest.mark.parametrize(
    "sampler, spacing, scale, mean, std, tolerance",
    [
        ("ancestral", "1000", 1.0, (0.801, 0.901), (0.250, 0.248), 0.02),
        ("ancestral", "1000", 4.0, (0.853, 0.970), (0.245, 0.248), 0.02),
        ("ddim", "250", 1.0, (0.796, 0.898), (0.247, 0.244), 0.01),
        ("ddim", "250", 4.0, (1.089, 1.240), (0.191, 0.178), 0.015),
        ("ddim", "25", 1.0, (0.796, 0.893), (0.203, 0.200), 0.02),
    ],
)
def test_guided_by_the_exact_classifier_as_published(sampler, spacing, scale, mean, std, tolerance) -> None:
    """Values measured with the method's own equations and 4,000 samples; the tolerance is their Monte-Carlo error."""
    got_mean, got_std = guided(scale, sampler, spacing)
    torch.testing.assert_close(got_mean, torch.tensor(mean, dtype=F64), rtol=0, atol=tolerance)
    torch.testing.assert_close(got_std, torch.tensor(std, dtype=F64), rtol=0, atol=tolerance)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_scale_zero_is_equal_to_unguided_in_all_bits(sampler) -> None:
    piece = build("sampler", sampler)
    plan = piece.plan(LINEAR, spacing="25")
    noise = lambda: QuickNoise(N)  # noqa: E731
    zero = Classifier(denoiser_of_all(), ExactClassifier(MIXTURE, LINEAR), scale=0.0)
    one = sample(zero, piece, plan, START, cond=LABEL, noise=noise())
    assert torch.equal(one.x, sample(denoiser_of_all(), piece, plan, START, noise=noise()).x)
    mean, _ = MIXTURE.moments()
    torch.testing.assert_close(one.x.mean(0), mean, rtol=0, atol=0.06)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_classifier_free_scales_against_exact_laws(sampler) -> None:
    """Scale 1 is the class, scale 0 the whole mixture; larger scales narrow it and move it away; an interval does so in part."""
    piece = build("sampler", sampler)
    plan = piece.plan(LINEAR, spacing="250")

    def run(**settings):
        any_class = lambda cond: {"label": torch.full_like(cond["label"], 3)}  # noqa: E731
        denoiser = ClassifierFree(denoiser_of(MIXTURE, LINEAR), any_class, **settings)
        x = sample(denoiser, piece, plan, START[:512], cond={"label": LABEL["label"][:512]}, noise=QuickNoise(512)).x
        return x.mean(0), x.T.cov()

    (mean, cov), (all_mean, all_cov) = run(scale=1.0), run(scale=0.0)
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close(cov, STD**2 * torch.eye(2, dtype=F64), rtol=0, atol=0.01)
    exact_mean, exact_cov = MIXTURE.moments()
    torch.testing.assert_close(all_mean, exact_mean, rtol=0, atol=0.06)
    torch.testing.assert_close(all_cov, exact_cov, rtol=0, atol=0.06)
    far, narrow = run(scale=4.0)
    part, _ = run(scale=4.0, from_=0.1, to=0.4)
    assert bool((far > part + 0.005).all()) and bool((part > mean + 0.005).all())
    assert bool((narrow.diag() < 0.99 * cov.diag()).all())


def test_guidance_moves_the_mean_by_the_variance_of_the_step() -> None:
    shift = torch.tensor([[2.0, -1.0]], dtype=F64)

    class Shifted(FunctionDenoiser):
        def forward(self, x_t, t, cond=None, *, noise=None):
            return Posterior(0.2 * x_t, score_shift=self.function)

    x = torch.tensor([[0.3, 0.1]], dtype=F64)
    plain = FunctionDenoiser(LINEAR, lambda x_t, *_: 0.2 * x_t)
    for grid in ([0.6, 0.5], [0.6, 0.001, 0.0]):
        plan = Plan(torch.tensor(grid, dtype=F64)[:, None])
        for variance in ("fixed_large", "fixed_small"):
            sampler = Ancestral(variance=variance)
            last = Plan(plan.grid[-2:]) if len(grid) == 2 else plan
            one = sample(Shifted(LINEAR, shift), sampler, last, x, noise=Noise(0, [0]), save="all")
            other = sample(plain, sampler, last, x, noise=Noise(0, [0]), save="all")
            t, s = last.grid[0, 0], last.grid[1, 0]
            (alpha_t, sigma_t), (alpha_s, sigma_s) = LINEAR(t), LINEAR(s)
            beta = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
            var = beta if variance == "fixed_large" else beta * sigma_s**2 / sigma_t**2
            torch.testing.assert_close(one.xs[0] - other.xs[0], var * shift)
