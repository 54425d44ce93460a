from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, QuickNoise, denoiser_of

from mezzotint.configs import DiscreteConfig
from mezzotint.data.worlds import gaussian
from mezzotint.denoise import Bound, FunctionDenoiser
from mezzotint.metrics.likelihood import vlb
from mezzotint.noise import Noise
from mezzotint.objectives.variational import prior_term, vlb_term
from mezzotint.process import add_noise
from mezzotint.sample.ancestral import Ancestral
from mezzotint.schedules import build_schedule

LINEAR = build_schedule(DiscreteConfig())
G = torch.Generator().manual_seed(0)
UNIFORM = torch.randint(0, 256, (24, 3, 8, 8), generator=G).to(F64) / 127.5 - 1


@pytest.mark.parametrize("variance, bits", [("fixed_large", 8.371), ("fixed_small", 9.036)])
def test_bits_of_uniform_pixels_under_a_gaussian(variance, bits) -> None:
    """Published values of the analytic model of variance 1/3; no code can need fewer than 8 bits."""
    denoiser = denoiser_of(gaussian(torch.zeros(3, 8, 8, dtype=F64), 1 / 3), LINEAR)
    plan = Ancestral().plan(LINEAR)
    bound = vlb(denoiser, UNIFORM, plan, noise=QuickNoise(24), variance=variance, official=True)
    assert bound.total.mean().item() == pytest.approx(bits, abs=0.02)
    assert bound.terms[:, -1].mean().item() == pytest.approx(2.51, abs=0.04)
    assert bound.total.min() > 8
    assert bound.prior.max() < 1e-4


def test_the_sum_is_that_of_its_terms() -> None:
    x0 = UNIFORM[:2]
    denoiser = FunctionDenoiser(LINEAR, lambda x, *_: 0.5 * x)
    plan, noise = Ancestral().plan(LINEAR, spacing="10"), Noise(0, [4, 9])
    bound = vlb(denoiser, x0, plan, noise=noise, variance="fixed_large")
    assert bound.terms.shape == bound.x0_mse.shape == bound.eps_mse.shape == (2, 10)
    torch.testing.assert_close(bound.total, bound.prior + bound.terms.sum(1))
    torch.testing.assert_close(bound.prior, prior_term(LINEAR, x0, plan.grid[0].expand(2)))
    t, s, t_up = (plan.grid[i].expand(2) for i in (3, 4, 2))
    eps = noise.at(3).normal((2, 3, 8, 8), name="vlb", dtype=F64)
    x_t = add_noise(LINEAR, x0, eps, t)
    torch.testing.assert_close(bound.terms[:, 3], vlb_term(LINEAR, denoiser(x_t, t), x0, x_t, t, s, t_up, variance="fixed_large"))
    torch.testing.assert_close(bound.x0_mse[:, 3], (0.5 * x_t - x0).square().flatten(1).mean(1))
    sigma = LINEAR(t)[1].reshape(2, 1, 1, 1)
    torch.testing.assert_close(
        bound.eps_mse[:, 3], ((x_t - LINEAR(t)[0].reshape(2, 1, 1, 1) * 0.5 * x_t) / sigma - eps).square().flatten(1).mean(1)
    )


def test_errors_are_those_of_the_bounded_estimate() -> None:
    x0 = torch.ones(1, 1, 2, 2, dtype=F64)
    plain = FunctionDenoiser(LINEAR, lambda x, *_: 0 * x + 3)
    plan = Ancestral().plan(LINEAR, spacing="5")
    bound = vlb(Bound(plain), x0, plan, noise=Noise(0, [0]))
    assert bound.x0_mse.max() == 0 and bound.eps_mse.max() < 1e-12
    assert vlb(plain, x0, plan, noise=Noise(0, [0])).x0_mse.min() == 4


def test_an_image_s_bound_does_not_depend_on_its_batch() -> None:
    denoiser = FunctionDenoiser(LINEAR, lambda x, *_: 0.5 * x)
    plan = Ancestral().plan(LINEAR, spacing="5")
    whole = vlb(denoiser, UNIFORM[:3], plan, noise=Noise(0, [0, 1, 2])).total
    torch.testing.assert_close(vlb(denoiser, UNIFORM[2:3], plan, noise=Noise(0, [2])).total, whole[2:])
