"""What is known of Var[x0 | x_t], against the exact posteriors of toy worlds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.analytic import F64, MIXTURE, SCHEDULES, denoiser_of
from torch import Tensor, nn

from mezzotint.configs import CovarianceConfig, DenoiserConfig, DiscreteConfig
from mezzotint.covariance import noise_cap, x0_variance
from mezzotint.data.worlds import World, gaussian, mixture
from mezzotint.denoise import Bound, NetworkDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.metrics.likelihood import vlb
from mezzotint.moments import KnownVariance, Moments, estimate_moments, knots
from mezzotint.noise import Noise
from mezzotint.process import expand, from_x0
from mezzotint.sample.ancestral import DDIM, Ancestral
from mezzotint.sample.loop import sample
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.types import Plan

LINEAR = build_schedule(SCHEDULES["linear"])
RING = mixture(
    0.7 * torch.stack([torch.arange(8).double().mul(math.pi / 4).cos(), torch.arange(8).double().mul(math.pi / 4).sin()], dim=1),
    torch.full((8,), 0.05**2, dtype=F64),
)


class Exact(nn.Module):
    """The eps of a world in the place of a network; its features are what a perfect second head would say."""

    def __init__(self, world: World, schedule: Schedule, method: str):
        super().__init__()
        self.world, self.schedule, self.method = world, schedule, method

    def forward(self, x: Tensor, label: Tensor, cond) -> Tensor:
        return self.with_head(x, label, cond, nn.Identity())[0]

    def with_head(self, x: Tensor, label: Tensor, cond, head: nn.Module) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(label)
        mean, var = self.world.posterior(x, alpha, sigma)
        eps = from_x0("eps", mean, x, alpha, sigma)
        excess = expand((alpha / sigma) ** 2, x) * var
        return eps, excess if self.method == "npr" else excess + eps.square()


def network_of(world: World, schedule: Schedule, method: str) -> NetworkDenoiser:
    return NetworkDenoiser(Exact(world, schedule, method), schedule, DenoiserConfig(time_input="t"))


def parts(world: World, count: int, size: int = 1000) -> list:
    out = []
    for start in range(0, count, size):
        noise = Noise(0, range(start, start + size))
        out.append((world.sample(size, noise)[0], {}, noise))
    return out


@pytest.mark.parametrize("name", ["linear", "vp", "ve", "flow"])
def test_the_table_of_a_gaussian_world(name) -> None:
    """Isotropic data N(m, S^2): E[eps^2] = sigma^2 / (alpha^2 S^2 + sigma^2), and the variance of x0 is the exact one."""
    schedule = build_schedule(SCHEDULES[name])
    world = gaussian(torch.full((50,), 0.2, dtype=F64), 0.3)
    times = knots(schedule, 5)
    moments = estimate_moments(denoiser_of(world, schedule), parts(world, 400, 400), times)
    alpha, sigma = schedule(times)
    torch.testing.assert_close(moments.second, sigma**2 / (0.3 * alpha**2 + sigma**2), rtol=0.03, atol=0)
    exact = Moments(times, sigma**2 / (0.3 * alpha**2 + sigma**2))
    x_t = torch.zeros(3, 50, dtype=F64)
    found = KnownVariance(denoiser_of(world, schedule), CovarianceConfig(), exact)(x_t, times[1:4]).var
    assert found is not None
    torch.testing.assert_close(found[:, 0], world.posterior(x_t, *schedule(times[1:4]))[1][:, 0].clamp(0, 1))


def test_between_its_times_the_table_is_nearly_exact() -> None:
    times = knots(LINEAR, 100)
    alpha, sigma = LINEAR(times)
    moments = Moments(times, sigma**2 / (0.3 * alpha**2 + sigma**2))
    t = LINEAR.levels[::7]
    alpha, sigma = LINEAR(t)
    torch.testing.assert_close(moments.at(LINEAR, t), sigma**2 / (0.3 * alpha**2 + sigma**2), rtol=2e-3, atol=0)
    assert moments.at(LINEAR, torch.zeros(1)) == 0


@pytest.mark.parametrize("method", ["sn", "npr"])
@pytest.mark.parametrize("name", ["linear", "vp", "ve"])
def test_perfect_heads_give_the_variance_of_each_element(method, name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    t = torch.tensor([0.02, 0.3, 0.6], dtype=F64) * schedule.t_max
    x_t = torch.tensor([[0.3, -0.2], [0.9, 1.1], [-1.0, 0.4]], dtype=F64)
    config = CovarianceConfig(method=method)
    posterior = KnownVariance(network_of(MIXTURE, schedule, method), config, nn.Identity())(x_t, t)
    mean, var = MIXTURE.posterior(x_t, *schedule(t))
    torch.testing.assert_close(posterior.mean, mean)
    assert posterior.var is not None
    torch.testing.assert_close(posterior.var, var, rtol=1e-6, atol=1e-9)
    averaged = KnownVariance(network_of(MIXTURE, schedule, method), replace(config, average=True), nn.Identity())(x_t, t).var
    assert averaged is not None
    torch.testing.assert_close(averaged, var.mean(1, keepdim=True), rtol=1e-6, atol=1e-9)


def test_bounds() -> None:
    alpha, sigma = torch.tensor([0.6, 0.6, 0.0], dtype=F64), torch.tensor([0.8, 0.8, 1.0], dtype=F64)
    belief = torch.tensor([[-0.5], [5.0], [0.3]], dtype=F64)
    assert x0_variance(belief, alpha, sigma).flatten().tolist() == [0, 1, 1]
    wide = x0_variance(belief, alpha, sigma, largest=math.inf).flatten()
    assert wide.tolist() == pytest.approx([0, 5 * 16 / 9, 1])
    assert x0_variance(belief[:2], alpha[:2], sigma[:2], largest=None).flatten().tolist() == pytest.approx([-0.5 * 16 / 9, 5 * 16 / 9])


def ring_bounds(steps: int) -> dict[str, float]:
    """Bits/dim of the ring without the decoder, by the variance."""
    grid = torch.linspace(1, 0.001, steps, dtype=F64)
    grid = torch.cat([(grid * 1000).round() / 1000, torch.zeros(1, dtype=F64)])[:, None]
    x0 = RING.sample(2000, Noise(1, range(2000)))[0]
    exact = network_of(RING, LINEAR, "sn")
    moments = estimate_moments(exact, parts(RING, 1000), grid[:-1, 0].flip(0))
    found = {}
    for name, denoiser, variance in (
        ("sn", KnownVariance(exact, CovarianceConfig("sn"), nn.Identity()), "optimal"),
        ("analytic", KnownVariance(exact, CovarianceConfig(), moments), "optimal"),
        ("big", exact, "fixed_large"),
        ("small", exact, "fixed_small"),
    ):
        bound = vlb(Bound(denoiser), x0, Plan(grid), noise=Noise(2, range(2000)), variance=variance)
        found[name] = float((bound.prior + bound.terms[:, :-1].sum(1)).mean())
    return found


@pytest.mark.parametrize("steps, expected", [(10, (5.36, 5.53, 5.71)), (25, (4.52, 4.94, 5.22))])
def test_the_optimal_variances_have_the_better_bound(steps, expected) -> None:
    """The ring of eight Gaussians with its exact mean: SN below Analytic below beta, and far below beta_tilde."""
    found = ring_bounds(steps)
    assert found["sn"] < found["analytic"] < found["big"]
    assert [found["sn"], found["analytic"], found["big"]] == pytest.approx(expected, abs=0.15)
    assert found["small"] > 10 * found["big"]


@pytest.mark.parametrize("text", ["ancestral", "ddim"])
def test_few_steps_have_the_right_spread(text) -> None:
    plan = Ancestral().plan(LINEAR, steps=10, spacing="even")
    x = Noise(3, range(4000)).normal((4000, 2), name="x", dtype=F64)
    exact = network_of(RING, LINEAR, "sn")
    known = KnownVariance(exact, CovarianceConfig("sn"), nn.Identity())
    kinds = {"ancestral": (Ancestral(variance="optimal"), Ancestral(variance="fixed_small")), "ddim": (DDIM(variance="optimal"), DDIM())}
    ours, plain = kinds[text]
    traces = []
    for denoiser, sampler in ((known, ours), (exact, plain)):
        noise = Noise(4, range(4000)) if sampler.stochastic else None
        traces.append(float(sample(denoiser, sampler, plan, x, noise=noise).x.T.cov().trace()))
    truth = 0.7**2 + 2 * 0.05**2
    assert abs(traces[0] - truth) < 0.03
    assert abs(traces[1] - truth) > 0.12


def test_the_cap_holds_for_the_last_noisy_steps_alone() -> None:
    plan = Plan(torch.tensor([1.0, 0.5, 0.2, 0.001, 0.0], dtype=F64)[:, None])
    std = torch.ones(2, 1, dtype=F64)
    limit = math.sqrt(noise_cap(2))
    sampler = Ancestral(variance="fixed_large", cap=2, cap_steps=2)
    assert [float(sampler.cap(std, plan, i)[0]) for i in range(3)] == pytest.approx([1, limit, limit])
    drawn = Noise(0, range(200_000)).normal((200_000,), name="x", dtype=F64)
    assert float((limit * drawn).abs().mean()) == pytest.approx(2 * 2 / 255, rel=0.01)
    with pytest.raises(ConfigError, match="cap"):
        DDIM(cap=-1)


def test_a_head_needs_a_network_and_a_table_its_times() -> None:
    with pytest.raises(CapabilityError, match="use analytic"):
        KnownVariance(denoiser_of(RING, LINEAR), CovarianceConfig("sn"), nn.Identity())
    with pytest.raises(ConfigError, match="increasing times"):
        Moments(torch.tensor([0.2, 0.1]), torch.zeros(2))
    with pytest.raises(ConfigError, match="at least 2"):
        knots(LINEAR, 1)
    assert len(knots(build_schedule(DiscreteConfig(steps=50)), 60)) == 50
