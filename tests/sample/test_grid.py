"""Grids of sampling times: published values, ends, and strict decrease for any number of steps on every schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.analytic import F64, SCHEDULES

from mezzotint.configs import DiscreteConfig, VEConfig
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.sample.grid import make_grid, noise_schedules, snapped
from mezzotint.schedules import build_schedule
from mezzotint.types import Plan

BUILT = {name: build_schedule(config) for name, config in SCHEDULES.items()}
BUILT["jsd"] = build_schedule(DiscreteConfig(betas="jsd", steps=100))
LINEAR = BUILT["linear"]
NAMED = ["uniform", "quadratic", "logsnr", "logsnr:1.5", "karras", "karras:3", "beta", "beta:2"]


@pytest.mark.parametrize(
    "spacing, published",
    [
        ("logsnr", [1, 0.899294, 0.785817, 0.65359, 0.493114, 0.303308, 0.13904, 0.052723, 0.017803, 0.004952, 0.001]),
        ("quadratic", [1, 0.815702, 0.650159, 0.503372, 0.375339, 0.266061, 0.175539, 0.103772, 0.050759, 0.016502, 0.001]),
        ("uniform", [1, 0.9001, 0.8002, 0.7003, 0.6004, 0.5005, 0.4006, 0.3007, 0.2008, 0.1009, 0.001]),
    ],
)
def test_published_grids(spacing, published) -> None:
    torch.testing.assert_close(make_grid(LINEAR, spacing, 10, t_end="last")[:, 0], torch.tensor(published, dtype=F64), rtol=0, atol=5e-7)


def test_the_grid_of_edm() -> None:
    grid = make_grid(build_schedule(VEConfig()), "karras", 18)[:, 0]
    torch.testing.assert_close(grid[1:3], torch.tensor([57.58598472, 40.7855738], dtype=F64), rtol=0, atol=5e-9)
    assert grid[[0, -2, -1]].tolist() == [80.0, 0.002, 0.0]


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("spacing", NAMED)
def test_grids_fall_strictly_and_end_where_they_should(name, spacing) -> None:
    schedule = BUILT[name]
    middle = 0.37 * schedule.t_max
    for steps in (1, 2, 3, 4, 7, 10, 31, 100, 250, 999, 1000):
        for end, value in ((0.0, 0.0), ("last", schedule.t_min), (middle, middle)):
            if value >= schedule.t_max:
                continue
            grid = make_grid(schedule, spacing, steps, t_end=end)
            assert grid.shape == (steps + 1, 1)
            assert grid[0].item() == schedule.t_max
            assert grid[-1].item() == value
            assert bool((grid.diff(dim=0) < 0).all()), (steps, end)
            # The levels of noise fall as well: times that round to one knot would make a step of no length.
            assert bool((schedule.half_log_snr(grid[:, 0]).diff() > 0).all()), (steps, end)
            if value == 0 and steps > 1:
                assert grid[-2].item() == schedule.t_min


@given(
    name=st.sampled_from(sorted(BUILT)),
    spacing=st.sampled_from(NAMED),
    steps=st.integers(1, 1000),
    end=st.one_of(st.sampled_from([0.0, "last"]), st.floats(0.001, 0.98)),
)
def test_grids_end_exactly_where_they_are_told_for_any_number_of_steps(name, spacing, steps, end) -> None:
    schedule = BUILT[name]
    wanted = schedule.t_min if end == "last" else end * schedule.t_max
    assume(wanted < schedule.t_max)
    grid = make_grid(schedule, spacing, steps, t_end="last" if end == "last" else wanted)[:, 0]
    assert len(grid) == steps + 1 and grid[0] == schedule.t_max and grid[-1] == wanted
    assert bool((grid.diff() < 0).all()) and bool((schedule.half_log_snr(grid).diff() > 0).all())


def levels_of(num: int):
    """``Denoiser.snap`` of a network that knows the levels alone."""
    return lambda t: (t * num).round().clamp_min(1) / num


@given(steps=st.integers(1, 100), spacing=st.sampled_from(NAMED), end=st.sampled_from([0.0, "last", 0.3]))
def test_snapped_plans_visit_each_level_once(steps, spacing, end) -> None:
    schedule = BUILT["jsd"]
    plan = Plan(make_grid(schedule, spacing, steps, t_end=end))
    least = {0.0: 0, "last": 1, 0.3: 30}[end]
    if steps > 100 - least:
        with pytest.raises(ConfigError, match=f"{steps} steps, and this network knows {100 - least} noise levels"):
            snapped(plan, schedule, levels_of(100))
        return
    grid = snapped(plan, schedule, levels_of(100)).grid
    levels = (grid[:-1] * 100).round()
    torch.testing.assert_close(grid[:-1], levels / 100, rtol=0, atol=0)
    assert len(grid) == steps + 1 and torch.equal(grid[[0, -1]], plan.grid[[0, -1]]) and bool((grid.diff(dim=0) < 0).all())
    if steps <= 5 and spacing == "uniform":
        assert torch.equal(levels, (plan.grid[:-1] * 100).round().clamp_min(1))  # nothing moves further than it must


def test_plans_on_the_levels_and_adaptive_ones_are_left_alone() -> None:
    schedule = BUILT["jsd"]
    for plan in (Plan(make_grid(schedule, "10", None)), Plan(make_grid(schedule, "uniform", 3), adaptive=True)):
        assert snapped(plan, schedule, levels_of(100)) is plan
    free = Plan(make_grid(BUILT["vp"], "uniform", 3))
    assert snapped(free, BUILT["vp"], lambda t: t) is free


def test_each_image_may_have_a_start_of_its_own() -> None:
    starts = torch.tensor([1.0, 0.3, 0.0005], dtype=F64)
    for spacing in NAMED:
        grid = make_grid(LINEAR, spacing, 6, t_start=starts)
        assert grid.shape == (7, 3)
        assert bool((grid.diff(dim=0) < 0).all())
        torch.testing.assert_close(grid[0], starts, rtol=0, atol=0)
        torch.testing.assert_close(grid[:, 1:2], make_grid(LINEAR, spacing, 6, t_start=0.3), rtol=0, atol=1e-15)


def test_given_times() -> None:
    assert make_grid(LINEAR, "times:0.9,0.5,0.1", None)[:, 0].tolist() == [0.9, 0.5, 0.1, 0.0]
    assert make_grid(LINEAR, "times:0.9,0.5,0.1", 2, t_end="last")[:, 0].tolist() == [0.9, 0.5, 0.1]
    assert make_grid(LINEAR, "times:0.9,0.5", None, t_end=0.1)[:, 0].tolist() == [0.9, 0.5, 0.1]


@pytest.mark.parametrize(
    "spacing, steps, options, words",
    [
        ("times:0.5,0.9", None, {}, "fall strictly"),
        ("times:1.5,0.9", None, {}, "at most 1"),
        ("times:0.5,0", None, {}, "leave out the end"),
        ("times:0.5,0", None, {"t_end": "last"}, "above 0"),
        ("times:a,b", None, {}, "not a list of numbers"),
        ("times:0.9,0.5", 5, {}, "has 2 steps"),
        ("times:0.9", None, {"t_start": 0.5}, "leave out the start"),
        ("25", None, {"t_end": "last"}, "whole process"),
        ("25", 24, {}, "has 25 steps"),
        ("uniform:3", 5, {}, "only logsnr, karras, beta"),
        ("karras:-1", 5, {}, "positive"),
        ("karas", 5, {}, "'karras'"),
        ("uniform", 0, {}, "at least 1"),
        ("uniform", 5, {"t_start": 0.2, "t_end": 0.3}, "smaller time"),
        ("uniform", 5, {"t_end": torch.tensor([0.0, 0.3])}, "sample them apart"),
    ],
)
def test_what_cannot_be_is_refused(spacing, steps, options, words) -> None:
    with pytest.raises(ConfigError, match=words):
        make_grid(LINEAR, spacing, steps, **options)


def test_a_rule_for_levels_needs_levels() -> None:
    with pytest.raises(CapabilityError, match="numbered levels"):
        make_grid(BUILT["ve"], "ddim25", None)


# --- other noise schedules -------------------------------------------------------------------------------------------------


def test_betas_give_the_noise_levels_of_their_own_process() -> None:
    schedule = build_schedule(DiscreteConfig(betas="linear", steps=2000, first=1e-6, last=1e-2))
    grid = make_grid(schedule, "betas:1e-4,0.3", 20)
    assert grid.shape == (21, 1) and grid[-1] == 0
    wanted = torch.cumprod(1 - torch.linspace(1e-4, 0.3, 20, dtype=torch.float64), 0).flip(0)
    torch.testing.assert_close(schedule(grid[:-1, 0])[0] ** 2, wanted, rtol=1e-9, atol=0)
    assert len(make_grid(schedule, "betas:1e-4,0.3", 20, t_end="last")) == 20
    own = make_grid(schedule, "betas:1e-6,0.01", 2000)  # that of training
    torch.testing.assert_close(own, make_grid(schedule, "uniform", 2000))


@pytest.mark.parametrize("steps", [2, 10, 100])
def test_noise_schedules_for_a_search(steps) -> None:
    schedule = build_schedule(DiscreteConfig(betas="linear", steps=2000, first=1e-6, last=1e-2))
    found = noise_schedules(schedule, steps)
    assert len(found) == 12
    ends = sorted(float(schedule(make_grid(schedule, text, steps)[0, 0])[0].log()) for text in found)
    most = float(schedule(torch.ones(1, dtype=torch.float64))[0].log())
    torch.testing.assert_close(torch.tensor(ends) / most, torch.tensor([1.0, 0.8, 0.6, 0.4]).repeat_interleave(3), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("text", "message"), [("betas:0.1", "two growing numbers"), ("betas:0.3,0.1", "two growing"), ("betas:0.1,0.9", "beyond the noise")]
)
def test_betas_that_cannot_be(text, message) -> None:
    schedule = build_schedule(DiscreteConfig(betas="linear", steps=2000, first=1e-6, last=1e-2))
    with pytest.raises(ConfigError, match=message):
        make_grid(schedule, text, 20)
    with pytest.raises(ConfigError, match="other ends"):
        make_grid(schedule, "betas:1e-4,0.1", 20, t_end=0.3)
