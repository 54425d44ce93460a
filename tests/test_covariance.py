from __future__ import annotations

import math

import pytest
import torch
from tests.analytic import F64, GAUSSIAN, SCHEDULES, denoiser_of, marginal

from mezzotint.configs import DiscreteConfig
from mezzotint.covariance import VARIANCES, reverse_kernel, small_log_variance
from mezzotint.data.worlds import gaussian
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.process import bridge, step_variance
from mezzotint.sample.grid import make_grid
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.types import KernelHead, Posterior

LINEAR = build_schedule(DiscreteConfig())


def chain(schedule: Schedule, rule: str | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """t, s and t_up of every step of a respaced process, cleanest first; the last t_up repeats its t."""
    grid = make_grid(schedule, rule or str(len(schedule.levels)), None)[:, 0].flip(0)
    return grid[1:], grid[:-1], torch.cat([grid[2:], grid[-1:]])


def kernel(variance: str, schedule: Schedule = LINEAR, rule: str | None = None, **head):
    t, s, t_up = chain(schedule, rule)
    x_t = torch.randn(len(t), 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    posterior = Posterior(0.3 * x_t, kernel=KernelHead(**head) if head else None)
    return reverse_kernel(schedule, posterior, x_t, t, s, t_up, variance=variance), x_t, t, s, t_up


@pytest.mark.parametrize(
    "config, first",
    [
        (DiscreteConfig(), -9.81672513529595),
        (DiscreteConfig(steps=4000), -11.265781941821107),
        (DiscreteConfig(betas="cosine"), -10.734082532465003),
        (DiscreteConfig(betas="cosine", steps=4000), -12.204537145969704),
    ],
)
def test_the_first_log_variance_is_borrowed_from_the_second(config, first) -> None:
    schedule = build_schedule(config)
    table = small_log_variance(schedule, *chain(schedule))
    assert table[0] == table[1]
    assert table[0].item() == pytest.approx(first, rel=1e-9)
    abar = schedule(schedule.levels)[0] ** 2
    exact = schedule.betas[1:] * (1 - abar[:-1]) / (1 - abar[1:])
    torch.testing.assert_close(table[1:], exact.log(), rtol=1e-9, atol=0)


def test_fixed_small() -> None:
    k, x_t, t, s, _ = kernel("fixed_small")
    a, b, std = bridge(LINEAR, t, s)
    torch.testing.assert_close(k.mean, (0.3 * a + b).reshape(-1, 1, 1, 1) * x_t)
    assert k.var[0] == 0
    torch.testing.assert_close(k.var.flatten(), std**2)
    torch.testing.assert_close(k.log_var[1:].exp().flatten(), std[1:] ** 2)


def test_fixed_large_is_beta_but_for_the_first() -> None:
    k, *_ = kernel("fixed_large")
    torch.testing.assert_close(k.var.flatten()[1:], LINEAR.betas[1:], rtol=1e-9, atol=0)
    assert k.var.flatten()[0].item() == pytest.approx(5.4531876613e-5, rel=1e-9)
    assert torch.equal(k.log_var.exp(), k.var)


@pytest.mark.parametrize("rule", [None, "250", "ddim25"])
def test_learned_range_lies_between_the_bounds_of_the_pair(rule) -> None:
    t, s, t_up = chain(LINEAR, rule)
    low, high = small_log_variance(LINEAR, t, s, t_up), step_variance(LINEAR, t, s).log()
    assert bool((low[1:] < high[1:]).all())
    for v in (-1.0, 0.0, 1.0, 2.0):
        k, *_ = kernel("learned_range", rule=rule, frac=torch.full((len(t), 1, 2, 2), (v + 1) / 2, dtype=F64))
        expected = low + (v + 1) / 2 * (high - low)
        torch.testing.assert_close(k.log_var[:, 0, 1, 1], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(k.var, k.log_var.exp())
    # raw beta of the pair, not borrowed, is the upper bound of the first step
    assert high[0].item() == pytest.approx(math.log(1e-4), rel=1e-9)


def test_a_learned_variance_holds_for_its_own_steps_only() -> None:
    _, s, _ = chain(LINEAR)
    log_var = torch.full((len(s), 1, 2, 2), -3.0, dtype=F64)
    k, *_ = kernel("learned", log_var=log_var, s=s)
    assert torch.equal(k.log_var, log_var)
    with pytest.raises(CapabilityError, match="holds for its own steps only"):
        kernel("learned", log_var=log_var, s=s * 0.5)


def test_a_predicted_mean_of_x_s_is_used_for_its_own_pair_only() -> None:
    _, s, _ = chain(LINEAR)
    mean = torch.full((1000, 1, 2, 2), 7.0, dtype=F64)
    assert torch.equal(kernel("fixed_small", mean=mean, s=s)[0].mean, mean)
    other = kernel("fixed_small", mean=mean, s=s * 0.5)[0].mean
    assert torch.equal(other, kernel("fixed_small")[0].mean)


def test_bounded_estimates_come_first() -> None:
    x_t, one = torch.zeros(1, 1, 1, 1, dtype=F64), torch.ones(1, 1, 1, 1, dtype=F64)
    t, s = torch.tensor([0.5], dtype=F64), torch.tensor([0.4], dtype=F64)
    k = reverse_kernel(LINEAR, Posterior(3 * one, bounded=one), x_t, t, s, None)
    torch.testing.assert_close(k.mean.flatten(), bridge(LINEAR, t, s).a)


@pytest.mark.parametrize("name", ["linear", "vp", "ve", "flow"])
@pytest.mark.parametrize("place, share", [(1.0, 0.1), (0.5, 0.9), (0.1, 0.5)])
def test_the_optimal_kernel_of_a_gaussian_world_is_exact(name, place, share) -> None:
    """p(x_s | x_t) by conditioning the joint Gaussian of (x_s, x_t)."""
    schedule = build_schedule(SCHEDULES[name])
    world = gaussian(torch.tensor([0.4, -0.7], dtype=F64), torch.tensor([0.5, 0.01], dtype=F64))
    t = torch.tensor([place * schedule.t_max], dtype=F64)
    s = share * t
    (mean_t, cov_t), (mean_s, cov_s) = marginal(world, schedule, t.item()), marginal(world, schedule, s.item())
    cross = schedule(t)[0] / schedule(s)[0] * cov_s
    gain = cross @ torch.linalg.inv(cov_t)
    x_t = torch.tensor([[0.3, 1.2]], dtype=F64)
    k = reverse_kernel(schedule, denoiser_of(world, schedule, var=True)(x_t, t), x_t, t, s, None, variance="optimal")
    torch.testing.assert_close(k.mean[0], mean_s + gain @ (x_t[0] - mean_t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(k.var[0], (cov_s - gain @ cross.T).diag(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("std, variance", [(1.0, "fixed_large"), (1e-4, "fixed_small")])
def test_the_fixed_variances_are_the_optimal_ones_of_wide_and_narrow_data(std, variance) -> None:
    world = gaussian(torch.zeros(1, dtype=F64), std**2)
    t, s, t_up = (part[1:] for part in chain(LINEAR))
    x_t = torch.zeros(len(t), 1, dtype=F64)
    posterior = denoiser_of(world, LINEAR, var=True)(x_t, t)
    exact = reverse_kernel(LINEAR, posterior, x_t, t, s, t_up, variance="optimal").log_var
    fixed = reverse_kernel(LINEAR, posterior, x_t, t, s, t_up, variance=variance).log_var
    torch.testing.assert_close(exact, fixed.expand_as(exact), rtol=0, atol=1e-3)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_bridge_variance_is_scaled_by_eta(eta) -> None:
    x_t, t, s = torch.ones(1, 2, dtype=F64), torch.tensor([0.5], dtype=F64), torch.tensor([0.3], dtype=F64)
    k = reverse_kernel(LINEAR, Posterior(x_t), x_t, t, s, None, eta=eta, variance="bridge")
    assert k.var.item() == pytest.approx((eta * bridge(LINEAR, t, s).std.item()) ** 2, rel=1e-12)
    torch.testing.assert_close(k.mean, k.mean * 0 + sum(bridge(LINEAR, t, s, eta=eta)[:2]))


@pytest.mark.parametrize(
    "variance, message", [("learned_range", "network that learned it"), ("learned", "network that learned it"), ("optimal", "knows Var")]
)
def test_a_variance_that_the_posterior_does_not_have(variance, message) -> None:
    with pytest.raises(CapabilityError, match=message):
        kernel(variance)


def test_names_and_eta_are_checked() -> None:
    with pytest.raises(ConfigError, match="unknown variance 'fixed_smal'; did you mean 'fixed_small'"):
        kernel("fixed_smal")
    x, t = torch.zeros(1, 2, dtype=F64), torch.tensor([0.5], dtype=F64)
    for variance in set(VARIANCES) - {"bridge", "optimal"}:
        with pytest.raises(CapabilityError, match="defined for eta=1"):
            reverse_kernel(LINEAR, Posterior(x), x, t, t / 2, None, eta=0.5, variance=variance)


def test_each_image_has_its_own_times() -> None:
    """A batch gives what its images give alone, the borrowed first variance included."""
    denoiser = denoiser_of(GAUSSIAN, LINEAR, var=True)
    t = torch.tensor([0.001, 0.5, 1.0], dtype=F64)
    s = torch.tensor([0.0, 0.2, 0.9], dtype=F64)
    t_up = torch.tensor([0.01, 0.7, 1.0], dtype=F64)
    x_t = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    for variance in ("fixed_small", "fixed_large", "bridge", "optimal"):
        whole = reverse_kernel(LINEAR, denoiser(x_t, t), x_t, t, s, t_up, variance=variance)
        for i in range(3):
            row = slice(i, i + 1)
            one = reverse_kernel(LINEAR, denoiser(x_t[row], t[row]), x_t[row], t[row], s[row], t_up[row], variance=variance)
            for a, b in zip(whole, one, strict=True):
                torch.testing.assert_close(a[row], b)
