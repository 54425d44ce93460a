from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, QuickNoise

from mezzotint.configs import DiscreteConfig, FlowConfig, VEConfig, VPConfig
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.registry import get
from mezzotint.schedules import build_schedule
from mezzotint.times import Importance, LogNormal, UniformLevels, UniformTimes, build_law

LEVELS = build_schedule(DiscreteConfig(steps=100)).levels


def test_uniform_levels() -> None:
    n = 20_000
    times = UniformLevels(LEVELS).draw(n, QuickNoise(n))
    counts = torch.bincount((times.t * 100).round().long() - 1, minlength=100)
    assert counts.min() > 130 and counts.max() < 270  # 200 +- 5 standard deviations
    torch.testing.assert_close(times.t - times.s, torch.full((n,), 0.01, dtype=F64))
    assert times.s.min() == 0 and times.t_up.max() == 1
    top = times.t == 1
    torch.testing.assert_close((times.t_up - times.t)[~top], torch.full((int((~top).sum()),), 0.01, dtype=F64))
    assert bool((times.weight == 1).all())


def test_a_time_depends_on_its_image_alone() -> None:
    table = build_law("noise_level", build_schedule(DiscreteConfig()))
    for law in (UniformLevels(LEVELS), Importance(LEVELS), UniformTimes(0.1, 1.0), LogNormal(build_schedule(VEConfig()), -1.2, 1.2), table):
        whole = law.draw(3, Noise(0, [4, 5, 6])).t
        assert torch.equal(law.draw(1, Noise(0, [6])).t, whole[2:])
        assert whole.dtype == F64


# --- importance ----------------------------------------------------------------------------------------------------------


def levels(n: int = 1_000_000, *, official: bool = False) -> torch.Tensor:
    """Draws of the law of noise levels, as positions in its table of ten steps."""
    schedule = build_schedule(DiscreteConfig(betas="linear", steps=10, first=1e-3, last=0.3))
    return build_law("noise_level", schedule, official=official).draw(n, QuickNoise(n)).t * 10


def test_noise_levels_are_uniform_in_pieces() -> None:
    position = levels()
    counts = torch.bincount(position.ceil().long() - 1, minlength=10)
    assert len(counts) == 10 and bool(((counts - 100_000).abs() < 5 * 300).all())  # five standard deviations
    schedule = build_schedule(DiscreteConfig(betas="linear", steps=10, first=1e-3, last=0.3))
    gamma = schedule(position[position > 9] / 10)[0] ** 2
    ends = schedule(torch.tensor([0.9, 1.0], dtype=F64))[0] ** 2
    share = (gamma - ends[1]) / (ends[0] - ends[1])
    assert share.min() >= -1e-9 and share.max() <= 1 + 1e-9
    assert abs(share.mean().item() - 0.5) < 0.005 and abs(share.var().item() - 1 / 12) < 0.001


def test_every_step_of_sr3_s_table_is_drawn_as_often() -> None:
    """A million draws of the recipe's own law: each of the 2000 intervals of gamma has 1/2000 of them."""
    recipe = get("recipe", "sr3-64-256")()
    schedule = build_schedule(recipe.schedule)
    times = build_law(recipe.times.law, schedule, official=recipe.times.official).draw(1_000_000, QuickNoise(1_000_000))
    gamma = schedule(times.t)[0] ** 2
    ends = torch.cat([schedule(schedule.levels)[0].flip(0) ** 2, torch.ones(1, dtype=F64)])
    assert gamma.min() >= ends[0] and gamma.max() <= 1 and len(ends) == 2001
    bins = (torch.searchsorted(ends, gamma, right=True) - 1).clamp_max(1999)  # levels next to a knot are taken to be it
    counts = torch.bincount(bins, minlength=2000)
    assert len(counts) == 2000 and bool(((counts - 500).abs() < 5 * 500**0.5).all())  # five standard deviations
    spread = ((counts - 500) ** 2 / 500).sum().item()
    assert abs(spread - 1999) < 5 * (2 * 1999) ** 0.5  # chi square


def test_the_common_code_draws_one_step_for_a_batch() -> None:
    position = levels(1000, official=True)
    assert position.ceil().unique().numel() == 1 and position.unique().numel() == 1000
    with pytest.raises(CapabilityError, match="discrete"):
        build_law("noise_level", build_schedule(VPConfig()))


def filled(loss, history: int = 10) -> Importance:
    law = Importance(LEVELS)
    for k in range(history):
        law.update(LEVELS, loss(torch.arange(100, dtype=F64), k))
    return law


def test_probabilities_after_a_full_history() -> None:
    """With the loss t at level t: p = .999 t / sum + .001 / T."""
    law = filled(lambda level, k: level)
    level = torch.arange(100, dtype=F64)
    torch.testing.assert_close(law.probabilities, 0.999 * level / level.sum() + 0.001 / 100, rtol=1e-12, atol=0)


def test_probabilities_are_root_mean_squares_of_the_last_ten() -> None:
    law = filled(lambda level, k: (level + 1) * k, history=13)  # k = 3 .. 12 are kept
    rms = (torch.arange(3, 13, dtype=F64) ** 2).mean().sqrt() * torch.arange(1, 101)
    torch.testing.assert_close(law.probabilities, 0.999 * rms / rms.sum() + 0.00001)
    assert torch.equal(law.losses[1], 2 * torch.arange(3, 13, dtype=F64))


def test_uniform_until_the_last_level_has_its_history() -> None:
    law = filled(lambda level, k: level, history=9)
    law.update(LEVELS[:-1], torch.ones(99))
    assert torch.equal(law.probabilities, torch.full((100,), 0.01, dtype=F64))
    torch.testing.assert_close(law.draw(5, QuickNoise(5)).weight, torch.ones(5))
    law.update(LEVELS[-1:], torch.ones(1))
    assert law.probabilities.std() > 0


def test_weights_undo_the_probabilities() -> None:
    law = filled(lambda level, k: level)
    p = law.probabilities
    weight = law.at(torch.arange(100), 1 / (100 * p)).weight
    assert (p * weight).sum().item() == pytest.approx(1, abs=1e-12)
    n = 100_000
    times = law.draw(n, QuickNoise(n))
    index = law.index_of(times.t)
    torch.testing.assert_close(times.weight.double(), 1 / (100 * p[index]), rtol=1e-6, atol=0)
    shares = torch.bincount(index, minlength=100) / n
    assert (shares - p).abs().max() < 5 * (p.max() / n) ** 0.5
    value = torch.cos(LEVELS * 5)  # an unbiased estimate of a mean over the levels
    spread = (times.weight.double() * value[index]).std() / n**0.5
    assert abs((times.weight.double() * value[index]).mean() - value.mean()) < 4 * spread


def test_losses_that_are_all_zero_leave_it_uniform() -> None:
    assert torch.equal(filled(lambda level, k: 0 * level).probabilities, torch.full((100,), 0.01, dtype=F64))


def test_several_losses_of_one_level_in_a_batch_all_count() -> None:
    law = Importance(LEVELS)
    law.update(LEVELS[[3, 3, 5]], torch.tensor([1.0, 2.0, 4.0]))
    assert law.losses[3, :2].tolist() == [1, 2] and law.counts[[3, 5]].tolist() == [2, 1]


def test_the_history_is_saved() -> None:
    law, other = filled(lambda level, k: level), Importance(LEVELS)
    other.load_state_dict(law.state_dict())
    assert torch.equal(other.probabilities, law.probabilities)


def test_importance_finds_the_level_of_a_float32_time() -> None:
    law = Importance(build_schedule(DiscreteConfig(steps=1000)).levels)
    assert torch.equal(law.index_of(law.grid.float()), torch.arange(1000))


# --- continuous ----------------------------------------------------------------------------------------------------------


def test_uniform_times_stay_inside() -> None:
    times = UniformTimes(0.2, 0.7).draw(5000, QuickNoise(5000))
    assert times.t.min() > 0.2 and times.t.max() < 0.7 and abs(times.t.mean() - 0.45) < 0.01
    assert times.s is None and times.t_up is None


@pytest.mark.parametrize("config", [VEConfig(), VPConfig(), FlowConfig()])
def test_log_normal_ratios(config) -> None:
    schedule = build_schedule(config)
    times = LogNormal(schedule, -1.2, 0.6).draw(20_000, QuickNoise(20_000))
    log_ratio = -schedule.half_log_snr(times.t)
    assert log_ratio.mean().item() == pytest.approx(-1.2, abs=0.02) and log_ratio.std().item() == pytest.approx(0.6, rel=0.02)
    wide = LogNormal(schedule, 0.0, 30.0).draw(100, QuickNoise(100)).t
    assert wide.min() >= schedule.t_min and wide.max() <= schedule.t_max


def test_building() -> None:
    discrete, vp = build_schedule(DiscreteConfig(steps=100)), build_schedule(VPConfig())
    assert isinstance(build_law("uniform", discrete), UniformLevels) and isinstance(build_law("uniform", vp), UniformTimes)
    assert isinstance(build_law("importance", discrete), Importance)
    law = build_law("lognormal", vp, mean=-2, std=0.1)
    assert isinstance(law, LogNormal) and (law.mean, law.std) == (-2, 0.1)
    with pytest.raises(CapabilityError, match="need a discrete schedule"):
        build_law("importance", vp)


@pytest.mark.parametrize("levels", [[], [0.2, 0.1], [0.0, 0.1]])
def test_levels_must_rise_from_above_zero(levels) -> None:
    with pytest.raises(ConfigError, match="positive and increasing"):
        UniformLevels(torch.tensor(levels))
