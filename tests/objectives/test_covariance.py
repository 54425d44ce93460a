"""Training of second heads."""

from __future__ import annotations

import pytest
import torch
from tests.analytic import F64
from torch import nn

from mezzotint.conditioning import Unconditional
from mezzotint.configs import CovarianceConfig, DenoiserConfig, DiscreteConfig, UNetConfig
from mezzotint.denoise import NetworkDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.moments import KnownVariance, Moments
from mezzotint.networks.covariance_head import CovarianceHead
from mezzotint.networks.unet import UNet
from mezzotint.noise import Noise
from mezzotint.objectives.covariance import CovarianceRegression
from mezzotint.schedules import build_schedule
from mezzotint.times import UniformLevels
from mezzotint.types import Batch

SCHEDULE = build_schedule(DiscreteConfig(steps=50))
BATCH = Batch(torch.rand(4, 1, 8, 8) * 2 - 1, torch.arange(4))


def objective(method: str, head: str = "simple") -> CovarianceRegression:
    torch.manual_seed(0)
    network = UNet(UNetConfig(in_channels=1, out_channels=1, width=8, mults=(1.0, 1.0), blocks=1, attention=(), dropout=0.5))
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    config = CovarianceConfig(method=method, head=head, features=8)  # pyright: ignore[reportArgumentType]
    inner = NetworkDenoiser(network, SCHEDULE, DenoiserConfig())
    return CovarianceRegression(KnownVariance(inner, config, CovarianceHead(config, 1)), Unconditional(), UniformLevels(SCHEDULE.levels))


@pytest.mark.parametrize("method", ["sn", "npr"])
@pytest.mark.parametrize("head", ["simple", "block"])
def test_gradients_reach_the_head_alone(method, head) -> None:
    whole = objective(method, head).train()
    loss = whole(BATCH, phase="covariance", step=0, noise=Noise(0, BATCH.ids))
    loss.total.backward()
    assert all(p.grad is None for p in whole.denoiser.inner.parameters())
    assert whole.head.head.conv.weight.grad.abs().sum() > 0
    assert not whole.denoiser.inner.training and whole.head.training
    again = whole(BATCH, phase="covariance", step=0, noise=Noise(0, BATCH.ids))
    assert torch.equal(loss.per_sample, again.per_sample), "the dropout of the network stays off"


def test_a_head_of_zeros_pays_its_whole_target() -> None:
    eps = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.1, 0.3, 0.6, 1.0], dtype=F64)
    terms = objective("sn").terms(BATCH.images, eps, t, {})
    torch.testing.assert_close(terms["loss"], (eps**4).flatten(1).sum(1))
    npr = objective("npr").terms(BATCH.images, eps, t, {})
    torch.testing.assert_close(npr["mean"], terms["mean"])
    assert not torch.allclose(npr["loss"], terms["loss"])


def test_features_at_a_coarser_grid_are_spread_out() -> None:
    head = CovarianceHead(CovarianceConfig("npr", features=8, factor=2), 3)
    assert head(torch.randn(2, 8, 4, 4), torch.zeros(2)).shape == (2, 3, 8, 8)
    with pytest.raises(ConfigError, match="features"):
        CovarianceHead(CovarianceConfig("npr"), 3)


def test_a_table_is_not_trained() -> None:
    inner = NetworkDenoiser(nn.Identity(), SCHEDULE, DenoiserConfig())
    denoiser = KnownVariance(inner, CovarianceConfig(), Moments(SCHEDULE.levels, torch.zeros(50)))
    with pytest.raises(CapabilityError, match="use sn or npr"):
        CovarianceRegression(denoiser, Unconditional(), UniformLevels(SCHEDULE.levels))
