"""Projection onto the pictures whose reduction is given."""

from __future__ import annotations

import pytest
import torch

from mezzotint.configs import DiscreteConfig
from mezzotint.denoise import Bound, FunctionDenoiser
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.consistent import BackProjection, Consistent
from mezzotint.registry import build
from mezzotint.resolution import enlarge, shrink
from mezzotint.sample.loop import sample
from mezzotint.schedules import build_schedule


def reduction(rule: str, scale: int):
    return lambda x: shrink(x, scale, down=rule)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


CASES = [(rule, scale, size) for rule in ("area", "bilinear", "bicubic") for scale in (2, 4) for size in ((5, 7), (1, 1), (1, 6), (16, 16))]


@pytest.mark.parametrize("rule, scale, size", CASES)
def test_the_reduction_becomes_exactly_what_is_given(rule, scale, size):
    reduce, low = reduction(rule, scale), drawn(2, 3, *size)
    project = BackProjection(reduce, low, scale)
    x = drawn(2, 3, size[0] * scale, size[1] * scale, seed=1)
    done = project(x)
    assert (reduce(done) - low).abs().max() < 1e-5
    assert torch.allclose(project(done), done, atol=1e-5)


@pytest.mark.parametrize("rule", ["area", "bicubic"])
def test_it_is_the_nearest_of_all_such_pictures(rule):
    reduce, low = reduction(rule, 4), drawn(1, 1, 3, 4)
    x = drawn(1, 1, 12, 16, seed=1)
    basis = torch.eye(12 * 16).reshape(-1, 1, 12, 16)
    matrix = reduce(basis).reshape(12 * 16, -1).T.double()
    wanted = x.flatten().double() + torch.linalg.pinv(matrix) @ (low.flatten().double() - matrix @ x.flatten().double())
    assert torch.allclose(BackProjection(reduce, low, 4)(x).flatten().double(), wanted, atol=1e-5)


@pytest.mark.parametrize("rule", ["area", "bicubic"])
def test_black_and_white_survive_the_bounds_and_the_rounding(rule):
    reduce = reduction(rule, 4)
    blots = (enlarge(drawn(1, 3, 8, 8, seed=2), (64, 64)) > 0).float() * 2 - 1  # overshoots on both sides are cut off
    low = ((reduce(blots).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    assert (low.abs() == 1).float().mean() > 0.01
    x = BackProjection(reduce, low, 4).bounded(0.3 * drawn(1, 3, 64, 64, seed=1))
    pixels = ((x + 1) * 127.5).round()
    error = (reduce(pixels / 127.5 - 1).clamp(-1, 1) - low).square().mean() / 4
    assert x.abs().max() <= 1 and 10 * torch.log10(1 / error) > 45


def test_what_is_consistent_is_left_as_it_is():
    low = drawn(1, 3, 4, 4)
    x = low.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(BackProjection(reduction("area", 2), low, 2).bounded(x), x)


def test_a_sampler_ends_at_a_consistent_picture():
    schedule = build_schedule(DiscreteConfig(betas="linear", steps=100))
    blind = FunctionDenoiser(schedule, lambda x_t, alpha, sigma, cond: x_t / alpha * 0.1)  # knows nothing of the low-resolution image
    reduce, low, noise = reduction("bicubic", 4), 0.6 * drawn(2, 3, 4, 4), Noise(0, [0, 1])
    law = build("sampler", "ddim")

    def made(denoiser):
        x = noise.normal((2, 3, 16, 16), name="prior")
        return sample(denoiser, law, law.plan(schedule, steps=10), x, noise=noise).x

    x = made(Consistent(Bound(blind), BackProjection(reduce, low, 4)))
    assert (reduce(x) - low).square().mean() < 1e-4 < 1e-2 < (reduce(made(Bound(blind))) - low).square().mean()
    assert x.abs().max() <= 1


def test_reductions_that_have_no_back_projection():
    low = drawn(1, 3, 4, 4)
    with pytest.raises(ConfigError, match="changes constants"):
        BackProjection(lambda x: 0.5 * reduction("area", 2)(x), low, 2)
    with pytest.raises(ConfigError, match="it gives 4x1"):
        BackProjection(reduction("area", 4), low, 2)
