"""The toy worlds against direct Bayes computations, quadrature and automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch

from mezzotint.data.worlds import World, gaussian, mixture
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise

F64 = torch.float64


MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.2], [0.1, -0.8]], dtype=F64)
COVS = torch.tensor([[[0.3, 0.1], [0.1, 0.1]], [[0.05, 0.0], [0.0, 0.4]], [[0.2, -0.15], [-0.15, 0.2]]], dtype=F64)
WEIGHTS = torch.tensor([1.0, 2.0, 3.0], dtype=F64)


def skew() -> World:
    return mixture(MEANS, COVS, WEIGHTS, labels=[0, 1, 1])


def inside(label: int | None) -> torch.Tensor:
    return {0: torch.tensor([1.0, 0, 0]), 1: torch.tensor([0.0, 1, 1])}.get(label, torch.ones(3)).double() * WEIGHTS


def component(k: int, alpha: float = 1.0, sigma: float = 0.0) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(alpha * MEANS[k], alpha**2 * COVS[k] + sigma**2 * torch.eye(2, dtype=F64))


@pytest.mark.parametrize("label", [None, 0, 1, 2])
@pytest.mark.parametrize(("alpha", "sigma"), [(0.9, 0.4), (0.2, 0.98), (1.0, 3.0)])
def test_posterior_is_that_of_quadrature(alpha, sigma, label):
    axis = torch.linspace(-4, 4, 401, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    prior = sum(inside(label)[k] * component(k).log_prob(grid).exp() for k in range(3))
    x_t = torch.tensor([[0.3, -0.2], [1.2, 0.9]], dtype=F64)
    mean, var = skew().posterior(x_t, alpha, sigma, None if label is None else torch.tensor([label, label]))
    for i in range(2):
        p = prior * torch.exp(-((x_t[i] - alpha * grid) ** 2).sum(1) / (2 * sigma**2))
        p = p / p.sum()
        exact = p @ grid
        assert torch.allclose(mean[i], exact, atol=1e-6)
        assert torch.allclose(var[i], p @ (grid - exact) ** 2, atol=1e-6)


def test_densities_and_classifier_are_bayes_rule():
    alpha, sigma = 0.7, 0.6
    x_t = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    parts = torch.stack([WEIGHTS[k] / 6 * component(k, alpha, sigma).log_prob(x_t).exp() for k in range(3)], 1)
    world = skew()
    assert torch.allclose(world.log_density(x_t, alpha, sigma).exp(), parts.sum(1), rtol=1e-10, atol=0)
    one = world.log_density(x_t, alpha, sigma, torch.ones(5, dtype=torch.long)).exp()
    assert torch.allclose(one, parts[:, 1:].sum(1) / (5 / 6), rtol=1e-10, atol=0)
    classes = torch.stack([parts[:, 0], parts[:, 1:].sum(1)], 1) / parts.sum(1, keepdim=True)
    assert torch.allclose(world.log_prob(x_t, alpha, sigma).exp(), classes, rtol=1e-10, atol=0)


def test_classifier_gradient_turns_the_mean_into_the_conditional_one():
    world, alpha, sigma = skew(), 0.8, 0.6
    x_t = torch.tensor([[0.3, -0.2], [1.2, 0.9]], dtype=F64, requires_grad=True)
    label = torch.tensor([0, 1])
    picked = world.log_prob(x_t, alpha, sigma).gather(1, label[:, None]).sum()
    (slope,) = torch.autograd.grad(picked, x_t)
    with torch.no_grad():
        shifted = world.posterior(x_t, alpha, sigma)[0] + sigma**2 / alpha * slope
        assert torch.allclose(shifted, world.posterior(x_t, alpha, sigma, label)[0], atol=1e-12)


def test_tweedie():
    world, alpha, sigma = skew(), 0.8, 0.6
    x_t = torch.tensor([[0.3, -0.2], [1.2, 0.9]], dtype=F64, requires_grad=True)
    (score,) = torch.autograd.grad(world.log_density(x_t, alpha, sigma).sum(), x_t)
    with torch.no_grad():
        assert torch.allclose(world.posterior(x_t, alpha, sigma)[0], (x_t + sigma**2 * score) / alpha, atol=1e-12)


@pytest.mark.parametrize("label", [None, 0, 1])
def test_samples_have_the_exact_moments(label):
    world, n = skew(), 20_000
    labels = None if label is None else torch.full((n,), label)
    x0, drawn = world.sample(n, Noise(0, range(n)), label=labels)
    mean, cov = world.moments(label)
    share = inside(label) / inside(label).sum()
    assert torch.allclose(mean, share @ MEANS)
    second = sum(share[k] * (COVS[k] + torch.outer(MEANS[k], MEANS[k])) for k in range(3))
    assert torch.allclose(cov, second - torch.outer(mean, mean))
    assert torch.allclose(x0.mean(0), mean, atol=0.03)
    assert torch.allclose(x0.T.cov(), cov, atol=0.03)
    assert abs(drawn.double().mean() - (5 / 6 if label is None else label)) < 0.01


def test_samples_depend_on_their_id_alone():
    world = skew()
    assert torch.equal(world.sample(4, Noise(0, [1, 5, 2, 9]))[0][2:], world.sample(2, Noise(0, [2, 9]))[0])


def test_images_levels_and_types():
    world = gaussian(torch.zeros(2, 3, 3), 0.25)
    x_t = torch.ones(4, 2, 3, 3)
    alpha, sigma = torch.tensor([1.0, 0.5, 0.0, 1.0]), torch.tensor([0.0, 0.5, 1.0, 2.0])
    mean, var = world.posterior(x_t, alpha[:, None, None, None], sigma)
    assert mean.dtype == torch.float32
    assert mean.shape == var.shape == x_t.shape
    assert torch.allclose(mean[:, 0, 0, 0], torch.tensor([1.0, 0.4, 0.0, 0.25 / 4.25]))
    assert torch.allclose(var[:, 0, 0, 0], torch.tensor([0.0, 0.2, 0.25, 1 / 4.25]))


def test_diagonal_and_full_covariances_agree():
    diagonal = torch.tensor([0.1, 0.7, 0.0], dtype=F64)
    one, two = gaussian(torch.ones(3), diagonal), gaussian(torch.ones(3), torch.diag(diagonal))
    x_t = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    for sigma in (0.0, 0.3, 50.0):
        for a, b in zip(one.posterior(x_t, 1.0, sigma), two.posterior(x_t, 1.0, sigma), strict=True):
            assert torch.allclose(a, b, atol=1e-12)
            assert torch.isfinite(a).all()
    mean, var = one.posterior(x_t, 1.0, 0.3)
    assert torch.allclose(mean[:, 2], torch.ones(4, dtype=F64))
    assert var[:, 2].abs().max() == 0


def test_points_are_found_without_noise():
    world = mixture(torch.tensor([[-1.0], [1.0]]), torch.zeros(2))
    mean, var = world.posterior(torch.tensor([[0.9], [-0.2]], dtype=F64), 1.0, 0.01)
    assert mean[:, 0].tolist() == [1.0, -1.0]
    assert var.max() == 0
    sure = world.log_prob(torch.tensor([[1.0]], dtype=F64), 1.0, 1.0)[0]
    assert math.isclose(float(sure[1] - sure[0]), 2.0)


def test_shapes_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"\[2\], \[2, 3\]"):
        mixture(torch.zeros(2, 3), torch.ones(3))
    with pytest.raises(ConfigError, match="positive semi-definite"):
        gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ConfigError, match="positive numbers"):
        mixture(torch.zeros(2, 3), torch.ones(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ConfigError, match="whole numbers"):
        mixture(torch.zeros(2, 3), torch.ones(2), labels=[0])
    with pytest.raises(ConfigError, match="this world needs"):
        skew().posterior(torch.zeros(1, 3), 1.0, 1.0)
    with pytest.raises(ConfigError, match="2 noise levels were given for 3"):
        skew().posterior(torch.zeros(3, 2), torch.ones(2), 1.0)
    with pytest.raises(ConfigError, match="classes 0 to 1"):
        skew().posterior(torch.zeros(1, 2), 1.0, 1.0, torch.tensor([3]))
