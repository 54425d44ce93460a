from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.analytic import F64
from tests.objectives.nets import Linear

from mezzotint.conditioning import Unconditional
from mezzotint.configs import DenoiserConfig, DiscreteConfig, VLBConfig, VPConfig
from mezzotint.denoise import NetworkDenoiser
from mezzotint.errors import CapabilityError
from mezzotint.noise import Noise
from mezzotint.objectives.variational import VLB, bits_per_dim, discretized_log_likelihood, normal_cdf, normal_kl, prior_term, vlb_term
from mezzotint.process import bridge
from mezzotint.schedules import build_schedule
from mezzotint.times import UniformLevels, UniformTimes
from mezzotint.types import Batch, KernelHead, Posterior

LINEAR = build_schedule(DiscreteConfig())


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


@pytest.mark.parametrize(
    "log_scale, x, expected",
    [
        (0, -1, -1.1713337304),
        (0, -0.9995, -1.1710493764),
        (0, 0.99, -5.8900769255),
        (0, -0.99, -5.8900769255),
        (0, 0, -5.7670574736),
        (-3, 0, -2.7680936066),
        (-6, 0, -0.1208971028),
    ],
)
def test_published_log_probabilities_of_pixels(log_scale, x, expected) -> None:
    value = discretized_log_likelihood(number(x), number(0.5 * x), number(log_scale), official=True)
    assert value.item() == pytest.approx(expected, rel=1e-9)


@given(st.floats(-1, 1), st.floats(-4, 0.5), st.booleans())
def test_the_256_levels_share_all_probability(mean, log_scale, official) -> None:
    levels = torch.arange(256, dtype=F64) / 127.5 - 1
    log_p = discretized_log_likelihood(levels, number(mean).expand(256), number(log_scale).expand(256), official=official)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9 if log_scale > -3 else 1e-6)


def test_probabilities_have_a_floor() -> None:
    assert discretized_log_likelihood(number(0.5), number(-0.5), number(-7.0)).item() == pytest.approx(-27.6310211159)


def test_the_official_integral_is_an_approximation() -> None:
    z = torch.linspace(-5, 5, 1001, dtype=F64)
    exact = torch.distributions.Normal(0.0, 1.0).cdf(z)
    torch.testing.assert_close(normal_cdf(z), exact, rtol=1e-6, atol=1e-12)
    assert 1e-4 < (normal_cdf(z, official=True) - exact).abs().max() < 3e-4


@given(*[st.floats(-2, 2)] * 4)
def test_divergence_of_normals(m1, v1, m2, v2) -> None:
    a, b = (torch.distributions.Normal(number(m), number(v).mul(0.5).exp()) for m, v in ((m1, v1), (m2, v2)))
    exact = torch.distributions.kl_divergence(a, b)
    torch.testing.assert_close(normal_kl(number(m1), number(v1), number(m2), number(v2)), exact, rtol=1e-9, atol=1e-12)


def test_bits_per_dim() -> None:
    nats = torch.full((3, 2, 4, 4), math.log(2.0))
    torch.testing.assert_close(bits_per_dim(nats), torch.ones(3))


@pytest.mark.parametrize(
    "config, bits",
    [
        (DiscreteConfig(), 2.911e-5),
        (DiscreteConfig(steps=4000), 3.063e-5),
        (DiscreteConfig(betas="cosine"), 1.752e-9),
        (DiscreteConfig(betas="cosine", steps=4000), 1.095e-10),
    ],
)
def test_the_noisiest_state_costs_next_to_nothing(config, bits) -> None:
    value = prior_term(build_schedule(config), torch.ones(2, 1, 2, 2, dtype=F64), torch.ones(2, dtype=F64))
    assert value.tolist() == pytest.approx([bits, bits], rel=2e-4)


def term(predicted: torch.Tensor, t: float, variance: str = "fixed_small", **head) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    x0 = (torch.rand(1, 1, 4, 4, dtype=F64, generator=g) * 255).round() / 127.5 - 1
    x_t = torch.randn(1, 1, 4, 4, dtype=F64, generator=g)
    posterior = Posterior(x0 + predicted, kernel=KernelHead(**head) if head else None)
    times = [torch.tensor([v], dtype=F64) for v in (t, t - 0.001, t + 0.001)]
    return vlb_term(LINEAR, posterior, x0, x_t, *times, variance=variance)


def test_a_term_is_the_divergence_from_the_true_bridge() -> None:
    off = torch.full((1, 1, 4, 4), 0.2, dtype=F64)
    assert term(0 * off, 0.5).item() == pytest.approx(0, abs=1e-12)
    a, _, std = bridge(LINEAR, torch.tensor([0.5], dtype=F64), torch.tensor([0.499], dtype=F64))
    expected = (a * 0.2 / std) ** 2 / 2 / math.log(2)
    torch.testing.assert_close(term(off, 0.5), expected)


def test_the_network_s_variance_enters_the_term() -> None:
    off = torch.full((1, 1, 4, 4), 0.2, dtype=F64)
    low = term(off, 0.5, "learned_range", frac=torch.zeros(1, 1, 4, 4, dtype=F64))
    torch.testing.assert_close(low, term(off, 0.5))
    high = term(off, 0.5, "learned_range", frac=torch.ones(1, 1, 4, 4, dtype=F64))
    torch.testing.assert_close(high, term(off, 0.5, "fixed_large"))
    assert high != low


def test_the_last_term_is_the_decoder() -> None:
    off = torch.zeros(1, 1, 4, 4, dtype=F64)
    exact = term(off, 0.001)
    std = math.exp(0.5 * -9.81672513529595)
    inside = math.erf(1 / 255 / std / 2**0.5)
    assert exact.item() == pytest.approx(-math.log2(inside), rel=0.05)
    assert term(off + 0.02, 0.001) > exact + 1


def test_a_batch_may_mix_the_last_term_with_others() -> None:
    g = torch.Generator().manual_seed(0)
    x0 = torch.zeros(3, 1, 2, 2, dtype=F64)
    x_t = torch.randn(3, 1, 2, 2, dtype=F64, generator=g)
    t = torch.tensor([0.001, 0.5, 1.0], dtype=F64)
    t_up = torch.tensor([0.002, 0.501, 1.0], dtype=F64)
    whole = vlb_term(LINEAR, Posterior(x0 + 0.1), x0, x_t, t, t - 0.001, t_up, variance="fixed_large")
    for i in range(3):
        r = slice(i, i + 1)
        one = vlb_term(LINEAR, Posterior(x0[r] + 0.1), x0[r], x_t[r], t[r], t[r] - 0.001, t_up[r], variance="fixed_large")
        torch.testing.assert_close(whole[r], one)


def piece(config: VLBConfig = VLBConfig(), law=None) -> VLB:
    denoiser = NetworkDenoiser(Linear(1, 2), LINEAR, DenoiserConfig(variance="learned_range"))
    return VLB(denoiser, Unconditional(), law or UniformLevels(LINEAR.levels), config)


def test_the_objective_estimates_the_whole_bound() -> None:
    batch = Batch(torch.zeros(4, 1, 2, 2, dtype=F64), torch.arange(4))
    scaled = piece()(batch, phase="denoise", step=0, noise=Noise(0, range(4)))
    plain = piece(VLBConfig(rescale=False))(batch, phase="denoise", step=0, noise=Noise(0, range(4)))
    torch.testing.assert_close(scaled.total, 1000 * plain.total)
    assert scaled.total.requires_grad and not scaled.per_sample.requires_grad
    scaled.total.backward()
    assert piece().phases[0].name == "denoise" and list(piece().models) == ["model"]


def test_the_bound_needs_levels() -> None:
    vp = build_schedule(VPConfig())
    denoiser = NetworkDenoiser(Linear(1, 2), vp, DenoiserConfig(variance="learned_range", time_input="t"))
    with pytest.raises(CapabilityError, match="the variational bound is trained on numbered levels"):
        VLB(denoiser, Unconditional(), UniformTimes(0.001, 1.0), VLBConfig())
