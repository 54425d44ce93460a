import math

import pytest
import torch

from mezzotint.train.levels import LEAST, MEMORY, Levels


def interval(mean: float, n: int = 400, seed: int = 0):
    """Times in [0, 1] and losses that grow with them, all scaled by a mean."""
    t = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return t, mean * (1 + (4 * t).floor())


def test_bins_are_the_quartiles_of_the_first_interval_and_stay():
    levels = Levels()
    t, loss = interval(1.0)
    first = levels.summary(t, loss)
    assert first["t_edges"][1:4] == pytest.approx([0.25, 0.5, 0.75], abs=0.08)
    assert first["loss_by_level"] == pytest.approx([1, 2, 3, 4], abs=0.4)
    levels.commit(t, loss)
    later = levels.summary(t.sqrt(), loss)
    assert later["t_edges"] == first["t_edges"]
    # All times lie in the third bin: the others are empty.
    only = levels.summary(torch.full((8,), 0.6, dtype=torch.float64), torch.full((8,), 5.0, dtype=torch.float64))
    assert only["loss_by_level"] == [None, None, 5.0, None]


def test_the_band_is_the_running_mean_and_two_deviations():
    levels, means = Levels(), [1.0, 1.2, 0.9, 1.1, 1.0, 0.8]
    t = torch.arange(8, dtype=torch.float64)
    for k, mean in enumerate(means):
        assert ("band_low" in levels.summary(t, torch.full_like(t, mean))) == (k >= LEAST)
        levels.commit(t, torch.full_like(t, mean))
    found = levels.summary(t, torch.ones_like(t))
    # Before the memory is full every interval counts the same.
    assert len(means) < MEMORY
    mean = sum(means) / len(means)
    spread = 2 * math.sqrt(sum((m - mean) ** 2 for m in means) / len(means))
    assert found["band_low"] == pytest.approx([mean - spread] * 4)
    assert found["band_high"] == pytest.approx([mean + spread] * 4)


def test_the_band_forgets():
    levels, t = Levels(), torch.arange(8, dtype=torch.float64)
    for mean in [10.0] * 30 + [1.0] * 240:
        levels.commit(t, torch.full_like(t, mean))
    assert levels.summary(t, torch.ones_like(t))["band_high"][0] < 1.5


def test_equal_times_have_no_levels():
    levels = Levels()
    assert levels.summary(torch.zeros(8), torch.ones(8)) == {}
    levels.commit(torch.zeros(8), torch.ones(8))
    assert levels.summary(torch.rand(3), torch.ones(3)) == {}


def test_state_goes_on():
    one, other = Levels(), Levels()
    for k in range(7):
        one.commit(*interval(1 + 0.1 * k, seed=k))
    other.restore(one.state())
    for levels in (one, other):
        levels.commit(*interval(2.0, seed=9))
    assert one.summary(*interval(1.0)) == other.summary(*interval(1.0))
