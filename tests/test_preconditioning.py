"""The preconditionings that EDM compares: VP, VE, iDDPM and its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mezzotint.configs import DenoiserConfig, DiscreteConfig, VEConfig, VPConfig
from mezzotint.denoise import NetworkDenoiser, nearest_level, time_input
from mezzotint.errors import CapabilityError
from mezzotint.noise import Noise
from mezzotint.objectives.denoising import weight
from mezzotint.process import add_noise, from_x0, target, to_x0
from mezzotint.schedules import build_schedule
from mezzotint.times import build_law
from mezzotint.types import Cond

COSINE = build_schedule(DiscreteConfig(betas="cosine"))


class Told(nn.Module):
    """Answers with its own input, and keeps what it was told."""

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        self.x, self.label = x, label
        return x


def ratio(t: Tensor) -> Tensor:
    return torch.exp(-COSINE.half_log_snr(t))


def test_the_scaled_score_is_minus_the_noise() -> None:
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64), torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    alpha, sigma = COSINE(t)
    x_t = add_noise(COSINE, x0, eps, t)
    assert torch.equal(target("scaled_score", x0, eps, alpha, sigma), -eps)
    torch.testing.assert_close(from_x0("scaled_score", x0, x_t, alpha, sigma), -eps)
    torch.testing.assert_close(to_x0("scaled_score", -eps, x_t, alpha, sigma), x0)
    for name in ("simple", "snr", "min_snr", "edm"):
        assert torch.equal(weight(name, "scaled_score", alpha, sigma), weight(name, "eps", alpha, sigma))


def test_the_network_of_ve_is_told_half_of_sigma() -> None:
    schedule = build_schedule(VEConfig(0.02, 100.0))
    net = Told()
    denoiser = NetworkDenoiser(net, schedule, DenoiserConfig(predicts="scaled_score", time_input="log_half_sigma"))
    x = torch.ones(2, 1, 1, 1)
    mean = denoiser(x, torch.tensor([2.0, 8.0], dtype=torch.float64)).mean
    torch.testing.assert_close(net.label, torch.tensor([0.0, math.log(4)]))
    assert torch.equal(net.x, x) and mean.flatten().tolist() == [3.0, 9.0]


def test_the_nearest_level_is_that_of_the_ratio() -> None:
    levels = COSINE.levels
    assert levels is not None
    for n in (0, 1, 500, 998):
        low, high = ratio(levels[n : n + 2])
        times = COSINE.time_of(-torch.stack([0.6 * low + 0.4 * high, 0.4 * low + 0.6 * high]).log())
        assert nearest_level(COSINE, times).tolist() == [n, n + 1]
    # Below half of the first level's ratio no noise at all is nearer.
    first = ratio(levels[:1])
    assert nearest_level(COSINE, COSINE.time_of(-(torch.tensor([0.49, 0.51]) * first).log())).tolist() == [-1, 0]
    assert nearest_level(COSINE, levels).tolist() == list(range(1000))
    with pytest.raises(CapabilityError, match="'nearest' needs a discrete schedule"):
        nearest_level(build_schedule(VPConfig()), torch.tensor([0.5]))


def test_a_network_of_levels_is_told_whole_ones_and_snaps_to_them() -> None:
    t = torch.tensor([0.1004, 0.9998], dtype=torch.float64)
    nearest = NetworkDenoiser(Told(), COSINE, DenoiserConfig(time_input="nearest"))
    label = time_input(COSINE, t, "nearest")
    assert torch.equal(label, label.round()) and torch.equal(nearest.snap(t), (label + 1) / 1000)
    assert torch.equal(nearest.snap(nearest.snap(t)), nearest.snap(t))
    assert torch.equal(NetworkDenoiser(Told(), COSINE, DenoiserConfig()).snap(t), t)


def test_log_uniform_times_fill_the_range_of_log_sigma_evenly() -> None:
    for config in (VEConfig(0.02, 100.0), VPConfig()):
        schedule = build_schedule(config)
        times = build_law("loguniform", schedule).draw(2000, Noise(0, range(2000)))
        low, high = -schedule.half_log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
        place = (-schedule.half_log_snr(times.t) - low) / (high - low)
        assert place.min() >= 0 and place.max() <= 1
        torch.testing.assert_close(
            place.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)),
            torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64),
            atol=0.03,
            rtol=0,
        )
        assert torch.equal(times.weight, torch.ones(2000))
