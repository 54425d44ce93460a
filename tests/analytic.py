"""Toy worlds as denoisers, noise that is quick or that isolates one draw, and the moments that a sampler reaches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mezzotint.configs import DiscreteConfig, FlowConfig, VEConfig, VPConfig
from mezzotint.data.worlds import World, gaussian, mixture
from mezzotint.denoise import Denoiser, FunctionDenoiser
from mezzotint.noise import Noise
from mezzotint.sample.base import Sampler
from mezzotint.sample.loop import sample
from mezzotint.schedules import Schedule
from mezzotint.types import Plan

F64 = torch.float64
SCHEDULES = {
    "linear": DiscreteConfig(betas="linear", steps=1000),
    "cosine": DiscreteConfig(betas="cosine", steps=1000),
    "cosine4000": DiscreteConfig(betas="cosine", steps=4000),
    "quad": DiscreteConfig(betas="quad", steps=100),
    "warmup10": DiscreteConfig(betas="warmup10", steps=100),
    "warmup50": DiscreteConfig(betas="warmup50", steps=100),
    "const": DiscreteConfig(betas="const", steps=100),
    "custom": DiscreteConfig(custom=(0.1, 0.3, 0.2, 0.6)),
    "log_sigma": DiscreteConfig(betas="linear", steps=100, interpolate="log_sigma"),
    "vp": VPConfig(),
    "vp_cosine": VPConfig(shape="cosine"),
    "ve": VEConfig(sigma_max=20.0),
    "flow": FlowConfig(),
}

GAUSSIAN = gaussian(torch.tensor([0.4, -0.7], dtype=F64), torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64))
MIXTURE = mixture(
    torch.tensor([[-1.0, -0.5], [0.8, 0.9], [0.3, -1.0]], dtype=F64),
    torch.full((3,), 0.25**2, dtype=F64),
    torch.tensor([0.5, 0.3, 0.2], dtype=F64),
)


def denoiser_of(world: World, schedule: Schedule, *, var: bool = False) -> FunctionDenoiser:
    """The exact denoiser of a world; it knows labels, and needs none."""

    def mean(x_t: Tensor, alpha: Tensor, sigma: Tensor, cond) -> Tensor | tuple[Tensor, Tensor]:
        out = world.posterior(x_t, alpha, sigma, cond.get("label"))
        return out if var else out[0]

    return FunctionDenoiser(schedule, mean, accepts=frozenset({"label"}))


class ExactClassifier(nn.Module):
    """The class posterior of a world, called as a ``NoisyClassifier`` is."""

    def __init__(self, world: World, schedule: Schedule):
        super().__init__()
        self.world, self.schedule, self.calls = world, schedule, 0

    def forward(self, x_t: Tensor, t: Tensor, schedule: Schedule | None = None) -> Tensor:
        self.calls += 1
        alpha, sigma = (schedule or self.schedule)(t)
        return self.world.log_prob(x_t, alpha, sigma)


class QuickNoise(Noise):
    """One generator for the whole batch: for tests of moments, where streams of single images would only cost time."""

    def __init__(self, n: int, seed: int = 0):
        super().__init__(seed, range(n))
        self.generator = torch.Generator().manual_seed(seed)

    def at(self, step: int) -> Noise:
        return self

    def _draw(self, law, shape, name, dtype, device):
        draw = torch.randn if law == "standard_normal" else torch.rand
        return draw(tuple(shape), generator=self.generator, dtype=F64).to(dtype)


class UnitNoise(Noise):
    """Draw k of a run is a unit vector in the rows that belong to it and zero in all others; with one row a draw, all ones there."""

    def __init__(self, rows: int, first: int, size: int):
        super().__init__(0, range(rows))
        self.first, self.size, self.taken = first, size, 0

    def at(self, step: int) -> Noise:
        return self

    def _draw(self, law, shape, name, dtype, device):
        out = torch.zeros(tuple(shape), dtype=dtype)
        start = self.first + self.taken * self.size
        if start < len(out):
            out[start : start + self.size] = torch.eye(self.size, dtype=dtype) if self.size > 1 else 1.0
        self.taken += 1
        return out


def marginal(world: World, schedule: Schedule, t: float) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of x_t."""
    mean, cov = world.moments()
    alpha, sigma = schedule(torch.tensor([t], dtype=F64))
    return alpha * mean, alpha**2 * cov + sigma**2 * torch.eye(len(cov), dtype=F64)


def reached(
    denoiser: Denoiser, sampler: Sampler, plan: Plan, mean: Tensor, cov: Tensor, *, diagonal: bool = False
) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of the samples in a Gaussian world, where every step is affine in x and in its noise.

    The response to the start and to each draw is read off from rows that are disturbed in one number each.

    Args:
        denoiser: That of a Gaussian world of points ``[d]``.
        sampler: What is tested.
        plan: Its times.
        mean: Mean of the start, ``[d]``.
        cov: Covariance of the start, ``[d, d]``, or variances ``[d]``.
        diagonal: The directions do not mix, and are disturbed together; variances ``[d]`` are returned.
    """
    size = 1 if diagonal else len(mean)
    probe = UnitNoise(1, 1, size)
    sample(denoiser, sampler, plan, mean[None], noise=probe)
    x = mean.expand(1 + size * (1 + probe.taken), len(mean)).clone()
    x[1 : 1 + size] += 1.0 if diagonal else torch.eye(size, dtype=F64)
    out = sample(denoiser, sampler, plan, x, noise=UnitNoise(len(x), 1 + size, size)).x
    away = out[1:] - out[0]
    start, draws = away[:size], away[size:]
    if diagonal:
        return out[0], start[0] ** 2 * cov + draws.square().sum(0)
    return out[0], start.T @ cov @ start + draws.T @ draws


def quasi_normal(n: int, d: int, seed: int = 0) -> Tensor:
    """Evenly spread standard normal points, ``[n, d]`` float64, n a power of two."""
    points = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=F64)
    return torch.special.ndtri(points.clamp(1e-9, 1 - 1e-9))
