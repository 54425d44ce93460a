from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.analytic import F64, QuickNoise, denoiser_of
from tests.pipelines.tiny import generator_spec, model_of

from mezzotint.configs import DataConfig, DiscreteConfig, VEConfig
from mezzotint.data import open_source
from mezzotint.data.worlds import gaussian
from mezzotint.denoise import FunctionDenoiser
from mezzotint.errors import CapabilityError, ConfigError, DataError
from mezzotint.metrics.likelihood import vlb
from mezzotint.process import bridge, expand
from mezzotint.sample.ancestral import Ancestral
from mezzotint.schedules import build_schedule
from mezzotint.tasks.likelihood import likelihood, spread
from mezzotint.tasks.rate_distortion import progressive, rate_distortion
from mezzotint.types import KernelHead, Posterior

SPREAD = 0.05


class Exact(FunctionDenoiser):
    """A Gaussian world that knows the variance of its own reverse steps."""

    def forward(self, x_t, t, cond=None, *, noise=None):
        mean = super().forward(x_t, t, cond).mean
        (alpha, sigma), s = self.schedule(t), t - 1 / 1000
        s = torch.where(s < 1e-9, 0.0, s)
        a, _, std = bridge(self.schedule, t, s)
        var = std**2 + a**2 * SPREAD * sigma**2 / (alpha**2 * SPREAD + sigma**2)
        return Posterior(mean, kernel=KernelHead(log_var=expand(var.log(), x_t).expand_as(x_t), s=s))


def test_the_bound_of_a_gaussian_is_exact() -> None:
    """With the true variance of each step the bound is tight: it is the entropy code of 8-bit pixels of the Gaussian."""
    schedule = build_schedule(DiscreteConfig())
    world = gaussian(torch.zeros(3, 16, 16, dtype=F64), SPREAD)
    noise = QuickNoise(8)
    pixels = ((world.sample(8, noise)[0] + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    upper, lower = (torch.special.ndtr((pixels + side / 255) / math.sqrt(SPREAD)) for side in (1, -1))
    exact = -torch.where(pixels <= -1, upper, torch.where(pixels >= 1, 1 - lower, upper - lower)).log2().mean()
    bound = vlb(
        Exact(schedule, lambda x, alpha, sigma, _: alpha * SPREAD / (alpha**2 * SPREAD + sigma**2) * x),
        pixels,
        Ancestral().plan(schedule),
        noise=noise,
        variance="learned",
    )
    assert bound.total.mean().item() == pytest.approx(exact.item(), abs=0.01)


def test_the_prior_of_a_schedule_that_explodes_is_its_own() -> None:
    schedule = build_schedule(VEConfig())
    denoiser = denoiser_of(gaussian(torch.zeros(3, dtype=F64), 0.1), schedule)
    bound = vlb(denoiser, torch.full((2, 3), 0.5, dtype=F64), Ancestral().plan(schedule, steps=3), noise=QuickNoise(2))
    assert bound.prior.max().item() == pytest.approx(0.5 * (0.5 / 80) ** 2 / math.log(2))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "few.npz"
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    np.savez(file, arr_0=images, arr_1=np.arange(9) // 3)
    return open_source(DataConfig(path=str(file)))


@pytest.fixture(scope="module")
def model(source):
    return model_of(generator_spec(classes=source.facts.classes))


def test_bound_of_a_model_and_its_curve(model, source) -> None:
    found = likelihood(model, source, num=6, steps=20, seed=3)
    assert found.ids == (0, 1, 3, 4, 6, 7) and len(found.per_image) == 6
    assert found.prior is not None
    assert found.prior + found.steps + found.decoder == pytest.approx(found.bits_per_dim, rel=1e-5)
    assert found.error == pytest.approx(float(np.std(found.per_image, ddof=1)) / math.sqrt(6))
    alone = likelihood(model, source, num=6, steps=20, seed=3, batch_size=1)
    np.testing.assert_allclose(alone.per_image, found.per_image, rtol=1e-4)
    points = rate_distortion(found)
    assert [p.steps for p in points] == list(range(1, 21)) and points[0].rate == found.prior
    assert points[-1].rate == pytest.approx(found.bits_per_dim - found.decoder, rel=1e-5)
    assert points[-1].rmse == pytest.approx(127.5 * math.sqrt(found.x0_mse[-1])) and points[-1].rmse < points[0].rmse


def test_variance_and_integral_of_choice(model, source) -> None:
    own, large, official = (
        likelihood(model, source, num=4, steps=10, **more) for more in ({}, {"variance": "fixed_large"}, {"official": True})
    )
    assert (own.settings["variance"], large.settings["variance"]) == ("learned_range", "fixed_large")
    assert own.steps != large.steps and own.x0_mse == large.x0_mse
    assert own.steps == official.steps and 0 < abs(own.decoder - official.decoder) < 0.1
    with pytest.raises(CapabilityError, match="mezzotint covariance"):
        likelihood(model, source, num=4, steps=10, variance="optimal")


def test_density_of_a_model(model, source) -> None:
    seen = []
    exact = likelihood(model, source, num=2, method="ode", steps=8, trace="exact", solver="heun", on_batch=seen.append)
    rough = likelihood(model, source, num=2, method="ode", steps=8, solver="heun")
    assert seen == [2] and exact.settings["calls"] == 16 and exact.settings["dequantization"] == "uniform"
    assert exact.bits_per_dim != rough.bits_per_dim and abs(exact.bits_per_dim - rough.bits_per_dim) < 5
    with pytest.raises(ConfigError, match="use the method vlb"):
        rate_distortion(exact)


def test_the_labels_of_the_data_reach_the_network(model, source, tmp_path) -> None:
    images = np.stack([source.array(i) for i in range(9)])
    np.savez(tmp_path / "other.npz", arr_0=images, arr_1=2 - np.arange(9) // 3)
    other = open_source(DataConfig(path=str(tmp_path / "other.npz")))
    a, b = (np.array(likelihood(model, s, steps=5).per_image) for s in (source, other))
    assert (a[[0, 8]] != b[[0, 8]]).all() and a[4] == pytest.approx(b[4])


def test_progressive_decodings_come_nearer(model, source) -> None:
    decoded = progressive(model, source, num=3, stops=4, steps=20)
    assert decoded.steps == (1, 7, 14, 20) and decoded.estimates.shape == (3, 4, 3, 4, 4)
    errors = (decoded.estimates - decoded.images[:, None]).square().mean(dim=(0, 2, 3, 4))
    assert errors[-1] < 0.1 * errors[0]


def test_what_cannot_be_measured(model, source, tmp_path) -> None:
    with pytest.raises(ConfigError, match="unknown method 'elbo'"):
        likelihood(model, source, method="elbo")
    with pytest.raises(ConfigError, match="10 images were asked for, and the data has 9"):
        likelihood(model, source, num=10)
    np.savez(tmp_path / "grey.npz", arr_0=np.zeros((2, 4, 4, 1), np.uint8))
    with pytest.raises(DataError, match="4x4x1 of 8 bits, and the model generates 4x4x3"):
        likelihood(model, open_source(DataConfig(path=str(tmp_path / "grey.npz"))))
    np.savez(tmp_path / "plain.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="0 classes and the model 3"):
        likelihood(model, open_source(DataConfig(path=str(tmp_path / "plain.npz"))))
    deep = model_of(generator_spec(label=None))
    deep.spec.data.__dict__["bits"] = 16
    np.savez(tmp_path / "deep.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint16))
    with pytest.raises(CapabilityError, match="use the method ode"):
        likelihood(deep, open_source(DataConfig(path=str(tmp_path / "deep.npz"))))
    assert spread(3, 3) == (0, 1, 2)
