from __future__ import annotations

import math

import pytest
import torch
from tests.analytic import F64, GAUSSIAN, MIXTURE, SCHEDULES, denoiser_of
from torch import Tensor

from mezzotint.configs import VEConfig
from mezzotint.data.worlds import gaussian
from mezzotint.denoise import FunctionDenoiser
from mezzotint.errors import ConfigError
from mezzotint.metrics.ode_likelihood import density_bits, dequantize, ode_density
from mezzotint.noise import Noise
from mezzotint.schedules import build_schedule


def test_bits_of_a_gaussian_are_exact() -> None:
    """8-bit pixels of a correlated Gaussian, dequantised; the exact density is that of the world itself."""
    factor = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    world = gaussian(torch.full((6,), 0.1, dtype=F64), 0.02 * torch.eye(6, dtype=F64) + 0.01 * factor @ factor.T)
    noise = Noise(0, range(32))
    pixels = ((world.sample(32, noise)[0] + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    x = dequantize(pixels, bits=8, noise=noise)
    exact = density_bits(world.log_density(x, 1.0, 0.0), 6, bits=8)
    found = ode_density(denoiser_of(world, build_schedule(SCHEDULES["linear"])), x, noise=noise, trace="exact")
    assert (density_bits(found.log_density, 6, bits=8) - exact).abs().max() < 0.01
    rough = ode_density(denoiser_of(world, build_schedule(SCHEDULES["linear"])), x, noise=noise)
    assert (density_bits(rough.log_density, 6, bits=8) - exact).mean().abs() < 0.1


@pytest.mark.parametrize("name", ["cosine", "log_sigma", "vp", "ve", "flow"])
def test_density_at_the_least_noise_of_every_schedule(name) -> None:
    """Schedules that end in noise give the density of x at t_min, whatever their coordinate."""
    # So much noise that the mean of the world does not show at the end.
    schedule = build_schedule(VEConfig() if name == "ve" else SCHEDULES[name])
    least = torch.tensor([schedule.t_min], dtype=F64)
    noise = Noise(1, range(16))
    x = schedule(least)[0] * MIXTURE.sample(16, noise)[0] + schedule(least)[1] * noise.normal((16, 2), name="noise", dtype=F64)
    exact = MIXTURE.log_density(x, *schedule(least))
    found = ode_density(denoiser_of(MIXTURE, schedule), x, noise=noise, trace="exact", steps=60)
    assert (found.log_density - exact).abs().max() / (2 * math.log(2)) < 0.01
    assert found.calls == 240


@pytest.mark.parametrize("solver, order", [("heun", 2), ("rk4", 4)])
def test_order_of_convergence(solver, order) -> None:
    denoiser = denoiser_of(gaussian(torch.full((1,), 0.4, dtype=F64), 0.3), build_schedule(SCHEDULES["vp"]))
    x, noise = torch.linspace(-1, 1, 8, dtype=F64)[:, None], Noise(0, range(8))

    def found(steps: int, solver: str) -> Tensor:
        return ode_density(denoiser, x, noise=noise, trace="exact", steps=steps, solver=solver).log_density

    fine = found(160, "rk4")
    slope = torch.log2((found(40, solver) - fine).abs().mean() / (found(80, solver) - fine).abs().mean()).item()
    assert slope == pytest.approx(order, abs=0.2)


def test_random_signs_are_exact_where_dimensions_do_not_mix_and_right_on_average() -> None:
    schedule = build_schedule(SCHEDULES["vp"])
    x = torch.tensor([[0.3, -0.2]], dtype=F64).expand(100, 2)
    plain = denoiser_of(gaussian(torch.zeros(2, dtype=F64), 0.3), schedule)
    mixed = denoiser_of(GAUSSIAN, schedule)
    for denoiser, spread in ((plain, 0.0), (mixed, 2.0)):
        exact = ode_density(denoiser, x[:1], noise=Noise(0, [0]), trace="exact", steps=20).log_density
        guess = ode_density(denoiser, x, noise=Noise(0, range(100)), steps=20).log_density
        assert guess.std() <= spread + 1e-12 and (spread == 0 or guess.std() > 0.01)
        assert (guess.mean() - exact).abs().item() <= 4 * guess.std() / 10 + 1e-9


def test_an_image_does_not_depend_on_its_batch() -> None:
    denoiser, noise = denoiser_of(MIXTURE, build_schedule(SCHEDULES["cosine"])), Noise(3, [5, 6, 7])
    x = MIXTURE.sample(3, noise)[0]
    whole = ode_density(denoiser, x, noise=noise, steps=10).log_density
    torch.testing.assert_close(ode_density(denoiser, x[1:2], noise=noise.rows([1]), steps=10).log_density, whole[1:2])


def test_dequantisation_fills_each_level() -> None:
    levels = torch.tensor([[0.0, 128.0, 255.0]], dtype=F64).expand(2000, 3) / 127.5 - 1
    away = (dequantize(levels, bits=8, noise=Noise(0, range(2000))) - levels) * 255
    assert -1 <= away.min() < -0.99 and 0.99 < away.max() < 1 and away.mean().abs() < 0.05
    assert density_bits(torch.zeros(1), 4, bits=8).item() == pytest.approx(math.log2(127.5))


def test_a_constant_belief_and_wrong_names() -> None:
    schedule = build_schedule(SCHEDULES["vp"])
    certain = FunctionDenoiser(schedule, lambda x, *_: torch.zeros_like(x))
    x, noise = torch.zeros(1, 2, dtype=F64), Noise(0, [0])
    # All curves run into one point: eps = x / sigma, so that log p(0) is that of N(0, sigma(t_min)^2).
    expected = -math.log(2 * math.pi) - 2 * float(schedule(torch.tensor(schedule.t_min))[1].log())
    assert ode_density(certain, x, noise=noise, steps=100, trace="exact").log_density.item() == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ConfigError, match="unknown solver 'rk5'; did you mean 'rk4'"):
        ode_density(certain, x, noise=noise, solver="rk5")
    with pytest.raises(ConfigError, match="unknown trace"):
        ode_density(certain, x, noise=noise, trace="hutch")
    with pytest.raises(ConfigError, match="no two times"):
        ode_density(FunctionDenoiser(build_schedule(SCHEDULES["linear"]), certain.function), x, noise=noise, spacing="1")


@pytest.mark.parametrize("norm", ["image", "batch"])
def test_solvers_that_choose_their_own_steps(norm) -> None:
    """To the tolerance they agree with many fixed steps, and tighter ones make more calls."""
    pytest.importorskip("torchdiffeq")
    schedule, noise = build_schedule(SCHEDULES["vp"]), Noise(1, [4, 5, 6])
    denoiser, x = denoiser_of(MIXTURE, schedule), MIXTURE.sample(3, noise)[0]
    fine = ode_density(denoiser, x, noise=noise, trace="exact", steps=100).log_density
    found = [ode_density(denoiser, x, noise=noise, trace="exact", solver="dopri5", rtol=r, atol=r, norm=norm) for r in (1e-3, 1e-6)]
    errors = [(density.log_density - fine).abs().max().item() for density in found]
    assert errors[1] < 1e-4 < errors[0] < 0.1 and found[0].calls < found[1].calls
    if norm == "image":
        alone = ode_density(denoiser, x[1:2], noise=noise.rows([1]), trace="exact", solver="dopri5", rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone.log_density, found[0].log_density[1:2], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.latent, found[0].latent[1:2], rtol=1e-12, atol=1e-12)


def test_conditions_and_signs_go_with_their_images() -> None:
    """Integrated one by one, each image keeps its own class and its own random signs."""
    pytest.importorskip("torchdiffeq")
    noise, cond = Noise(1, [4, 5, 6]), {"label": torch.tensor([0, 1, 2])}
    denoiser, x = denoiser_of(MIXTURE, build_schedule(SCHEDULES["vp"])), MIXTURE.sample(3, noise)[0]
    fixed = ode_density(denoiser, x, noise=noise, cond=cond, steps=120).log_density
    chosen = ode_density(denoiser, x, noise=noise, cond=cond, solver="dopri5", rtol=1e-6, atol=1e-6).log_density
    torch.testing.assert_close(chosen, fixed, rtol=0, atol=1e-3)
    free = ode_density(denoiser, x, noise=noise, steps=60).log_density
    assert (free - fixed).abs().min() > 1e-2


def test_tolerances_and_norms_are_checked() -> None:
    denoiser, x, noise = denoiser_of(MIXTURE, build_schedule(SCHEDULES["vp"])), torch.zeros(1, 2, dtype=F64), Noise(0, [0])
    with pytest.raises(ConfigError, match="both must be positive"):
        ode_density(denoiser, x, noise=noise, solver="dopri5", rtol=0)
    with pytest.raises(ConfigError, match="unknown norm 'rows'"):
        ode_density(denoiser, x, noise=noise, norm="rows")
