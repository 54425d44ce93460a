"""Rules and optimal trajectories."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from tests.analytic import F64, MIXTURE, SCHEDULES, denoiser_of

from mezzotint.configs import DiscreteConfig
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.metrics.likelihood import bound_costs, vlb
from mezzotint.moments import Moments
from mezzotint.noise import Noise
from mezzotint.sample.grid import make_grid
from mezzotint.sample.trajectory import kept_levels, least_cost_path, path_from_moments
from mezzotint.schedules import build_schedule
from mezzotint.types import Plan

SHORT = build_schedule(DiscreteConfig(steps=20))


@pytest.mark.parametrize("rule, ends", [("even", (0, 99)), ("stride", (0, 90)), ("quad", (0, 80)), ("power2", (0, 99))])
def test_rules(rule, ends) -> None:
    steps = 8 if rule == "quad" else 10
    kept = kept_levels(100, steps, rule)
    assert len(kept) == steps and (kept[0], kept[-1]) == ends
    assert all(a < b for a, b in pairwise(kept))
    grid = make_grid(build_schedule(DiscreteConfig(steps=100)), rule, steps)
    assert (grid[:-1, 0] * 100).round().long().sub(1).flip(0).tolist() == kept and grid[-1] == 0


@pytest.mark.parametrize(
    "rule, steps, kept",
    [
        ("trailing", 4, [24, 49, 74, 99]),
        ("trailing", 1, [99]),
        ("trailing", 3, [32, 66, 99]),
        ("leading", 4, [0, 25, 50, 75]),
        ("leading:1", 4, [1, 26, 51, 76]),
        ("leading_open", 4, [20, 40, 60, 80]),
        ("leading_open:1", 4, [21, 41, 61, 81]),
        ("linspace", 4, [0, 33, 66, 99]),
        ("linspace_open", 4, [25, 50, 74, 99]),
    ],
)
def test_diffusers_spacings(rule, steps, kept) -> None:
    assert kept_levels(100, steps, rule) == kept
    schedule = build_schedule(DiscreteConfig(steps=100))
    ends = make_grid(schedule, rule, steps)[[0, -1], 0].tolist()
    assert ends == [(kept[-1] + 1) / 100, 0]
    grid = make_grid(schedule, rule, steps, t_end="last")[:, 0]
    assert grid[-1] == schedule.t_min and len(grid) == steps + 1 and bool((grid.diff() < 0).all())


def test_what_the_rules_refuse() -> None:
    with pytest.raises(ConfigError, match="does not keep exactly 30"):
        kept_levels(100, 30, "stride")
    with pytest.raises(ConfigError, match="does not keep exactly 60"):
        kept_levels(100, 60, "quad")
    with pytest.raises(ConfigError, match="at most all"):
        kept_levels(10, 11, "even")
    with pytest.raises(ConfigError, match="trajectory 'evn'"):
        kept_levels(10, 5, "evn")
    with pytest.raises(CapabilityError, match="numbered levels"):
        make_grid(build_schedule(SCHEDULES["vp"]), "even", 10)


@pytest.mark.parametrize("edges", [1, 2, 4, 6])
def test_the_cheapest_path_against_all_paths(edges) -> None:
    cost = np.random.RandomState(edges).standard_normal((7, 7))
    paths = [(0, *between, 6) for between in combinations(range(1, 6), edges - 1)]
    best = min(paths, key=lambda path: sum(cost[a, b] for a, b in pairwise(path)))
    assert tuple(least_cost_path(cost, edges)) == best
    with pytest.raises(ConfigError, match="1 to 6"):
        least_cost_path(cost, 7)


def test_an_optimal_trajectory_has_the_better_bound() -> None:
    """On images that were not used to find it, and as the table says."""
    denoiser = denoiser_of(MIXTURE, SHORT, var=True)
    noise = Noise(0, range(500))
    costs = bound_costs(denoiser, [(MIXTURE.sample(500, noise)[0], {}, noise)], SHORT.levels, variance="optimal")
    fresh = Noise(5, range(2000))
    x0 = MIXTURE.sample(2000, fresh)[0]

    def bound(numbers: list[int]) -> float:
        grid = torch.tensor([*reversed(numbers), 0], dtype=F64)[:, None] / 20
        return float(vlb(denoiser, x0, Plan(grid), noise=fresh, variance="optimal", decoder="level").terms.sum(1).mean())

    best = least_cost_path(costs, 5)
    even = [0, *(n + 1 for n in kept_levels(20, 5, "even"))]
    assert bound(best[1:]) < bound(even[1:])
    assert bound(even[1:]) == pytest.approx(costs[even[:-1], even[1:]].sum(), abs=0.1)


def test_untrusted_moments_get_an_even_tail() -> None:
    alpha, sigma = SHORT(SHORT.levels)
    second = sigma**2 / (0.3 * alpha**2 + sigma**2)
    clean = path_from_moments(SHORT, Moments(SHORT.levels, second), 8)
    assert (len(clean), clean[0], clean[-1]) == (8, 0, 19)
    second[17:] = 1.01
    kept = path_from_moments(SHORT, Moments(SHORT.levels, second), 8)
    assert kept[-2:] == [13, 19] and len(kept) == 8, "14 levels are trusted, and get 7 of the 8 steps"
    with pytest.raises(ConfigError, match="more images"):
        path_from_moments(SHORT, Moments(SHORT.levels, second + 1), 8)
    with pytest.raises(CapabilityError, match="numbered levels"):
        path_from_moments(build_schedule(SCHEDULES["vp"]), Moments(torch.tensor([0.1, 0.2]), torch.zeros(2)), 8)
