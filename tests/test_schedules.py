from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.analytic import F64, SCHEDULES

from mezzotint.configs import DiscreteConfig, FlowConfig, VEConfig, VPConfig
from mezzotint.denoise import time_input
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.process import step_variance
from mezzotint.sample.grid import make_grid, respaced
from mezzotint.schedules import build_schedule

ALL = {name: build_schedule(config) for name, config in SCHEDULES.items()}
every = pytest.mark.parametrize("name", list(ALL))


def inside(name: str, n: int = 200) -> torch.Tensor:
    schedule = ALL[name]
    return torch.linspace(schedule.t_min, schedule.t_max * (1 - 1e-9) if name == "flow" else schedule.t_max, n, dtype=F64)


def close(actual, expected, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(torch.as_tensor(actual, dtype=F64), torch.as_tensor(expected, dtype=F64), rtol=rtol, atol=0)


# --- every schedule ------------------------------------------------------------------------------------------------------


@every
def test_time_zero_is_exactly_clean(name) -> None:
    for dtype in (torch.float64, torch.float32):
        alpha, sigma = ALL[name](torch.zeros(2, dtype=dtype))
        assert alpha.tolist() == [1, 1] and sigma.tolist() == [0, 0]
        assert alpha.dtype == sigma.dtype == F64
    assert ALL[name].half_log_snr(torch.zeros(1)).item() == math.inf


@every
def test_noise_grows_and_signal_does_not(name) -> None:
    t = torch.cat([torch.zeros(1, dtype=F64), inside(name, 1000)])
    alpha, sigma = ALL[name](t)
    assert bool((sigma.diff() > 0).all()) and bool((alpha.diff() <= 0).all())
    assert bool((ALL[name].half_log_snr(t)[1:].diff() < 0).all())
    if name not in ("ve", "flow"):
        close(alpha**2 + sigma**2, torch.ones_like(t), 1e-14)


@every
def test_half_log_snr_is_the_log_of_the_ratio(name) -> None:
    alpha, sigma = ALL[name](inside(name))
    torch.testing.assert_close(ALL[name].half_log_snr(inside(name)), alpha.log() - sigma.log(), rtol=1e-9, atol=1e-9)


@every
def test_time_of_is_the_inverse(name) -> None:
    schedule, t = ALL[name], inside(name)
    torch.testing.assert_close(schedule.time_of(schedule.half_log_snr(t)), t, rtol=1e-9, atol=1e-10)
    assert 0 <= schedule.time_of(torch.tensor([math.inf])).item() < 1e-14


@every
def test_shapes_and_types_of_t(name) -> None:
    t = inside(name, 6).reshape(2, 3)
    alpha, sigma = ALL[name](t)
    assert alpha.shape == sigma.shape == ALL[name].half_log_snr(t).shape == (2, 3)
    close(ALL[name](t[0])[1], sigma[0], 1e-15)


@pytest.mark.parametrize("name", [n for n in ALL if n != "log_sigma"])
def test_rates_are_those_of_finite_differences(name) -> None:
    schedule = ALL[name]
    t = inside(name, 203)[1:-1]
    if schedule.levels is not None:  # between two knots, where the slope is constant
        t = ((t * len(schedule.levels)).floor().clamp_min(1) + 0.4) / len(schedule.levels)
        t = t[t < 1]
    h = 1e-7 * t
    (alpha_low, sigma_low), (alpha_high, sigma_high) = schedule(t - h), schedule(t + h)
    f, g2 = schedule.rates(t)
    drift = (alpha_high.log() - alpha_low.log()) / (2 * h)
    torch.testing.assert_close(f, drift, rtol=1e-5, atol=1e-6)
    slope = (sigma_high**2 - sigma_low**2) / (2 * h)
    torch.testing.assert_close(g2, slope - 2 * drift * schedule(t)[1] ** 2, rtol=1e-5, atol=1e-5)


@every
def test_equality_is_that_of_the_settings(name) -> None:
    again = build_schedule(SCHEDULES[name])
    assert again == ALL[name] and hash(again) == hash(ALL[name])
    assert ALL[name] != build_schedule(DiscreteConfig(steps=77))
    assert type(SCHEDULES[name]).__name__ in repr(again)


# --- discrete ------------------------------------------------------------------------------------------------------------

LINEAR, COSINE = DiscreteConfig(betas="linear", steps=1000), DiscreteConfig(betas="cosine", steps=1000)
LINEAR4, COSINE4 = DiscreteConfig(betas="linear", steps=4000), DiscreteConfig(betas="cosine", steps=4000)


def abar(config: DiscreteConfig, index: int) -> float:
    schedule = build_schedule(config)
    return schedule(schedule.levels[index : index + 1])[0].item() ** 2


@pytest.mark.parametrize(
    "config, first, middle, last",
    [
        (LINEAR, 1e-4, 0.07779665837, 4.035829765e-5),
        (LINEAR4, 2.5e-5, None, 4.246652276e-5),
        (COSINE, 4.128422482e-5, 0.4922851724, 2.428766907e-9),
        (COSINE4, 9.865818814e-6, 0.4934539797, 1.517980469e-10),
    ],
)
def test_published_tables(config, first, middle, last) -> None:
    close(build_schedule(config).betas[0], first)
    if middle is not None:
        close(abar(config, config.steps // 2), middle, 1e-8)
    close(abar(config, config.steps - 1), last)


def test_more_values_of_the_tables() -> None:
    close(build_schedule(LINEAR).betas[1], 1e-4 + 0.0199 / 999, 1e-12)
    close(build_schedule(COSINE).betas[1], 4.614175274e-5)
    close(abar(LINEAR, 0), 0.9999, 1e-12)
    close(abar(LINEAR, 499), 0.07858724288)
    assert build_schedule(COSINE).betas[-1] == 0.999 and build_schedule(COSINE).betas[-2] < 0.999


@pytest.mark.parametrize(
    "betas, at",
    [
        ("quad", {0: 1e-4, 99: 0.02, 50: (0.01 + 50 / 99 * (0.02**0.5 - 0.01)) ** 2}),
        ("warmup10", {0: 1e-4, 9: 0.02, 10: 0.02, 99: 0.02, 1: 1e-4 + 0.0199 / 9}),
        ("warmup50", {0: 1e-4, 49: 0.02, 50: 0.02, 1: 1e-4 + 0.0199 / 49}),
        ("const", {0: 0.02, 99: 0.02}),
        ("jsd", {0: 0.01, 1: 1 / 99, 99: 1.0}),
    ],
)
def test_other_tables(betas, at) -> None:
    table = build_schedule(DiscreteConfig(betas=betas, steps=100)).betas
    for index, value in at.items():
        close(table[index], value, 1e-12)


@pytest.mark.parametrize(
    "config, message",
    [
        (DiscreteConfig(steps=0), "a schedule of 0 steps"),
        (DiscreteConfig(custom=()), r"custom betas for 0 steps leave \(0, 1\]"),
        (DiscreteConfig(custom=(0.1, 1.2)), r"leave \(0, 1\]"),
        (DiscreteConfig(custom=(0.1, 0.0)), r"leave \(0, 1\]"),
        (DiscreteConfig(steps=10), r"linear betas for 10 steps leave \(0, 1\]"),
    ],
)
def test_tables_that_are_no_schedule(config, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build_schedule(config)


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_times_of_levels_snap_to_their_index(steps, dtype) -> None:
    """A float32 t N, rounded down, misses the index of several levels by one."""
    schedule = build_schedule(DiscreteConfig(betas="cosine", steps=steps))
    t = schedule.levels.to(dtype)
    assert torch.equal(time_input(schedule, t, "index"), torch.arange(steps, dtype=F64))
    exact = torch.cumsum(torch.log1p(-schedule.betas), 0) / 2
    assert torch.equal(schedule.log_alpha(t), exact)
    if dtype == torch.float32:
        assert bool(((t * steps).floor() != torch.arange(1, steps + 1)).any()) or steps == 4000


def test_between_knots_log_alpha_is_linear() -> None:
    schedule = ALL["custom"]
    t = torch.tensor([0.1, 0.3, 0.55], dtype=F64)
    low, high = 0.5 * math.log(0.9), 0.5 * math.log(0.9 * 0.7)
    third = 0.5 * math.log(0.9 * 0.7 * 0.8)
    close(schedule.log_alpha(t), [0.4 * low, low + 0.2 * (high - low), high + 0.2 * (third - high)], 1e-12)


def test_between_knots_log_sigma_may_be_linear_instead() -> None:
    schedule = ALL["log_sigma"]
    knots = schedule.half_log_snr(schedule.levels)
    middle = (schedule.levels[1:] + schedule.levels[:-1]) / 2
    close(schedule.half_log_snr(middle), (knots[1:] + knots[:-1]) / 2, 1e-9)
    close(schedule(schedule.levels)[0], build_schedule(DiscreteConfig(steps=100))(schedule.levels)[0], 1e-12)
    with pytest.raises(CapabilityError, match="interpolate='log_alpha'"):
        schedule.rates(middle)


def test_between_knots_sigma_may_be_linear_instead() -> None:
    schedule = build_schedule(DiscreteConfig(steps=100, interpolate="sigma"))
    ratio = torch.exp(-schedule.half_log_snr(schedule.levels))
    middle = (schedule.levels[1:] + schedule.levels[:-1]) / 2
    close(torch.exp(-schedule.half_log_snr(middle)), (ratio[1:] + ratio[:-1]) / 2, 1e-9)
    torch.testing.assert_close(schedule.time_of(schedule.half_log_snr(middle)), middle, rtol=1e-9, atol=0)


def test_zero_terminal_snr_keeps_the_first_level_and_the_shape() -> None:
    plain, rescaled = (build_schedule(DiscreteConfig(betas="scaled_linear", zero_snr=zero)) for zero in (False, True))
    before, after = plain(plain.levels)[0], rescaled(plain.levels)[0]
    close(after[0], before[0], 1e-12)
    assert after[-1] == 0
    share = (before - before[-1]) / (before[0] - before[-1])
    torch.testing.assert_close(after / before[0], share, rtol=1e-8, atol=1e-12)


def test_a_time_that_is_written_to_is_looked_up_again() -> None:
    schedule, t = ALL["linear"], torch.tensor([0.2, 0.7], dtype=F64)
    first = schedule.log_alpha(t)
    assert schedule.log_alpha(t) is first
    t += 0.1
    close(schedule.log_alpha(t), schedule.log_alpha(torch.tensor([0.3, 0.8], dtype=F64)), 1e-12)
    with torch.inference_mode():
        given = torch.tensor([0.5], dtype=F64)
        close(schedule.log_alpha(given), schedule.log_alpha(torch.tensor([0.5], dtype=F64)), 1e-12)


def test_infinite_time_is_pure_noise() -> None:
    alpha, sigma = ALL["linear"](torch.tensor([math.inf]))
    assert alpha.item() == 0 and sigma.item() == 1


def test_a_last_beta_of_one_leaves_its_neighbours_finite() -> None:
    schedule = build_schedule(DiscreteConfig(betas="jsd", steps=100))
    alpha, sigma = schedule(schedule.levels)
    assert alpha[-1] == 0 and sigma[-1] == 1
    assert bool((alpha[:-1] > 0).all()) and bool(alpha.isfinite().all())
    t = schedule.levels[:-1]
    torch.testing.assert_close(schedule.time_of(schedule.half_log_snr(t)), t)


@pytest.mark.parametrize(
    "config, rule, first, second, last, last_abar",
    [
        (LINEAR, "250", 1e-4, 5.990655644756e-4, 0.07751934499, 4.035829765e-5),
        (LINEAR, "ddim25", 1e-4, 0.02013508946, 0.5326018231, 8.7413053911e-5),
        (COSINE, "250", None, None, 0.9999374992, None),
    ],
)
def test_betas_of_a_respaced_process(config, rule, first, second, last, last_abar) -> None:
    schedule = build_schedule(config)
    grid = make_grid(schedule, rule, None)[:, 0]
    betas = step_variance(schedule, grid[:-1], grid[1:]).flip(0)
    close(betas[-1], last)
    if first is not None:
        close(betas[0], first, 1e-9)
        close(betas[1], second)
        close((1 - betas).prod(), last_abar)


# --- continuous ----------------------------------------------------------------------------------------------------------


def test_published_ends_of_the_linear_vp_schedule() -> None:
    alpha, _ = ALL["vp"](torch.tensor([1.0]))
    close(alpha, [math.exp(-0.25 * 19.9 - 0.05)], 1e-14)


def test_the_continuous_cosine_follows_the_discrete_one() -> None:
    t = torch.linspace(0.01, 0.9, 50, dtype=F64)
    torch.testing.assert_close(ALL["vp_cosine"](t)[0], ALL["cosine4000"](t)[0], rtol=2e-4, atol=0)


def test_the_linear_vp_schedule_follows_the_linear_betas() -> None:
    t = torch.linspace(0.01, 1, 50, dtype=F64)
    torch.testing.assert_close(ALL["vp"](t)[0], build_schedule(LINEAR4)(t)[0], rtol=2e-2, atol=0)


@given(st.floats(-12, 12))
def test_times_of_any_ratio(half_log_snr) -> None:
    lam = torch.tensor([half_log_snr], dtype=F64)
    for name in ("vp", "vp_cosine", "ve", "flow"):
        torch.testing.assert_close(ALL[name].half_log_snr(ALL[name].time_of(lam)), lam, rtol=1e-7, atol=1e-6)


def test_variance_exploding_times_are_sigma() -> None:
    schedule = build_schedule(VEConfig())
    assert (schedule.t_min, schedule.t_max, schedule.prior_scale) == (0.002, 80.0, 80.0)
    assert schedule(torch.tensor([3.0]))[1].item() == 3
    with pytest.raises(ConfigError, match="give 0 < sigma_min < sigma_max"):
        build_schedule(VEConfig(sigma_min=2, sigma_max=1))


def test_the_straight_path() -> None:
    alpha, sigma = build_schedule(FlowConfig())(torch.tensor([0.25, 1.0]))
    assert alpha.tolist() == [0.75, 0] and sigma.tolist() == [0.25, 1]


def test_only_discrete_schedules_have_levels() -> None:
    assert ALL["linear"].levels.tolist() == [(n + 1) / 1000 for n in range(1000)]
    assert all(build_schedule(c).levels is None for c in (VPConfig(), VEConfig(), FlowConfig()))


@pytest.mark.parametrize(
    "levels, rule, total, start, end",
    [
        (1000, "250", 124875, [0, 4, 8], [991, 995, 999]),
        (1000, "100", 49950, [0, 10, 20, 30, 40, 50, 61, 71], [999]),
        (1000, "25", 12487, [0, 42, 83, 125, 166, 208, 250, 291], [957, 999]),
        (1000, "10", None, [0, 111], [999]),
        (1000, "ddim25", 12000, [0, 40], [960]),
        (1000, "ddim50", None, [0, 20], [980]),
        (1000, "ddim250", None, [0, 4], [996]),
        (1000, "90,60,60,20,20", 88875, [0, 2, 4, 7, 9, 11, 13, 16], [989, 999]),
        (300, "10,15,20", None, [0, 11, 22], [299]),
        (4000, "250", 499875, [0, 16], [3967, 3983, 3999]),
    ],
)
def test_published_respacing(levels, rule, total, start, end) -> None:
    kept = respaced(levels, rule)
    assert kept[: len(start)] == start and kept[-len(end) :] == end
    assert total is None or sum(kept) == total
    if rule == "10,15,20":
        assert [k for k in kept if 99 <= k <= 107] == [99, 100, 107]
        assert [k for k in kept if 149 <= k <= 157] == [149, 157] and [k for k in kept if 199 <= k <= 216] == [199, 200, 205, 210, 216]
