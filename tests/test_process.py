from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.analytic import F64, GAUSSIAN, MIXTURE, SCHEDULES

from mezzotint.process import add_noise, bridge, expand, from_x0, step_variance, target, to_x0
from mezzotint.schedules import build_schedule

KINDS = ("x0", "eps", "v", "score", "flow")
ALL = {name: build_schedule(config) for name, config in SCHEDULES.items()}
VP, VE, LINEAR = ALL["vp"], ALL["ve"], ALL["linear"]
scales = st.floats(0.02, 1).flatmap(lambda a: st.tuples(st.just(a), st.floats(0.02, 30)))


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=F64)


def pair(seed: int, b: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, 2, 3, 3, dtype=F64, generator=g), torch.randn(b, 2, 3, 3, dtype=F64, generator=g)


@given(st.sampled_from(list(itertools.product(KINDS, KINDS))), scales, st.integers(0, 1000))
def test_round_trips_between_all_kinds(kinds, scale, seed) -> None:
    """x0 -> a -> x0 -> b -> x0 in float64."""
    alpha, sigma = number(scale[0]), number(scale[1])
    x0, eps = pair(seed)
    x_t = scale[0] * x0 + scale[1] * eps
    back = x0
    for kind in kinds:
        back = to_x0(kind, from_x0(kind, back, x_t, alpha, sigma), x_t, alpha, sigma)
    torch.testing.assert_close(back, x0, rtol=1e-9, atol=1e-9)


@given(st.sampled_from(KINDS), scales, st.integers(0, 1000))
def test_the_target_stands_for_the_clean_image(kind, scale, seed) -> None:
    alpha, sigma = number(scale[0]), number(scale[1])
    x0, eps = pair(seed)
    x_t = scale[0] * x0 + scale[1] * eps
    wanted = target(kind, x0, eps, alpha, sigma)
    torch.testing.assert_close(from_x0(kind, x0, x_t, alpha, sigma), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_x0(kind, wanted, x_t, alpha, sigma), x0, rtol=1e-9, atol=1e-9)


def test_targets_in_words() -> None:
    (x0, eps), alpha, sigma = pair(0), number(0.8), number(0.6)
    torch.testing.assert_close(target("v", x0, eps, alpha, sigma), 0.8 * eps - 0.6 * x0)
    torch.testing.assert_close(target("score", x0, eps, alpha, sigma), -eps / 0.6)
    torch.testing.assert_close(target("flow", x0, eps, alpha, sigma), eps - x0)


def test_scales_are_fitted_at_the_moment_of_use() -> None:
    images = torch.zeros(2, 3, 4, 4)
    fitted = expand(torch.tensor([1 / 3, 2.0], dtype=F64), images)
    assert fitted.shape == (2, 1, 1, 1) and fitted.dtype == torch.float32 and fitted[0].item() == torch.tensor(1 / 3).item()
    assert expand(torch.ones(2, 1, 4, 4), images).shape == (2, 1, 4, 4)


def test_noising_has_a_time_for_each_image() -> None:
    x0, eps = pair(1, b=3)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    x_t = add_noise(LINEAR, x0, eps, t)
    assert torch.equal(x_t[0], x0[0])
    alpha, sigma = LINEAR(t)
    torch.testing.assert_close(x_t[1], alpha[1] * x0[1] + sigma[1] * eps[1])
    assert add_noise(LINEAR, x0.float(), eps.float(), t).dtype == torch.float32


# --- bridge --------------------------------------------------------------------------------------------------------------


def test_the_bridge_has_the_published_coefficients() -> None:
    t = LINEAR.levels
    s = torch.cat([torch.zeros(1, dtype=F64), t[:-1]])
    a, b, std = bridge(LINEAR, t, s)
    beta, abar = LINEAR.betas, LINEAR(t)[0] ** 2
    before = torch.cat([torch.ones(1, dtype=F64), abar[:-1]])
    torch.testing.assert_close(a, beta * before.sqrt() / (1 - abar), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(b, (1 - before) * (1 - beta).sqrt() / (1 - abar), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(std**2, beta * (1 - before) / (1 - abar), rtol=1e-9, atol=1e-18)
    assert a[0] == 1 and b[0] == 0 and std[0] == 0
    expected = torch.tensor([0.0030580570756296344, 0.9941043507567258], dtype=F64)
    torch.testing.assert_close(torch.stack([a[500], b[500]]), expected, rtol=1e-9, atol=0)
    assert std[1].item() ** 2 == pytest.approx(5.4531876613e-5, rel=1e-9)
    assert std[2].item() ** 2 == pytest.approx(8.5489115231e-5, rel=1e-9)
    torch.testing.assert_close(step_variance(LINEAR, t, s), beta, rtol=1e-9, atol=0)


@given(st.sampled_from(list(ALL)), st.floats(0.01, 1), st.floats(0, 0.99), st.floats(0, 1))
def test_the_bridge_leads_to_the_right_marginal(name, place, share, eta) -> None:
    schedule = ALL[name]
    t = number(schedule.t_min + place * (schedule.t_max - schedule.t_min))
    s = share * t
    a, b, std = bridge(schedule, t, s, eta=eta)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    torch.testing.assert_close(a + b * alpha_t, alpha_s, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close((b * sigma_t) ** 2 + std**2, sigma_s**2, rtol=1e-9, atol=1e-12)


@given(st.sampled_from(list(ALL)), st.floats(0.01, 0.999), st.floats(0.01, 0.99))
def test_step_variance_adds_up(name, place, share) -> None:
    schedule = ALL[name]
    t = number(schedule.t_min + place * (schedule.t_max - schedule.t_min))
    s = share * t
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    beta = step_variance(schedule, t, s)
    torch.testing.assert_close((alpha_t / alpha_s) ** 2 * sigma_s**2 + beta, sigma_t**2)
    # the bridge of eta = 1 by Bayes' rule
    torch.testing.assert_close(bridge(schedule, t, s).std ** 2, beta * sigma_s**2 / sigma_t**2, rtol=1e-6, atol=1e-12)


def test_without_noise_the_bridge_also_runs_upwards() -> None:
    t, s = number(0.2), number(0.7)
    a, b, std = bridge(LINEAR, t, s, eta=0)
    x0, eps = pair(2)
    torch.testing.assert_close(a * x0 + b * add_noise(LINEAR, x0, eps, t), add_noise(LINEAR, x0, eps, s))
    assert std == 0


# --- one posterior, two processes -----------------------------------------------------------------------------------------


@given(st.floats(-2.9, 4), st.integers(0, 1000))
def test_vp_and_ve_give_the_same_posterior_mean_at_the_same_ratio(half_log_snr, seed) -> None:
    lam = number(half_log_snr)
    (alpha_p, sigma_p), (alpha_e, sigma_e) = VP(VP.time_of(lam)), VE(VE.time_of(lam))
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 2, dtype=F64, generator=g) * (1 + sigma_e)
    for world in (GAUSSIAN, MIXTURE):
        mean, var = world.posterior(alpha_p * x, alpha_p, sigma_p)
        mean_e, var_e = world.posterior(x, alpha_e, sigma_e)
        torch.testing.assert_close(mean, mean_e, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(var, var_e, rtol=1e-8, atol=1e-9)
    eps = torch.randn(4, 2, dtype=F64, generator=g)  # and one eps stands for one x0
    torch.testing.assert_close(
        to_x0("eps", eps, alpha_p * x, alpha_p.expand(4), sigma_p.expand(4)), to_x0("eps", eps, x, alpha_e.expand(4), sigma_e.expand(4))
    )
