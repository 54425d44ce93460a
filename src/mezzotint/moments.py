"""What a denoiser knows of Var[x0 | x_t]: a table of second moments (Analytic-DPM), or a second head (SN- and NPR-DPM)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from mezzotint.configs import CovarianceConfig
from mezzotint.covariance import x0_variance
from mezzotint.denoise import Denoiser, NetworkDenoiser, Wrapper
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.process import add_noise, expand, from_x0
from mezzotint.schedules import VE, Schedule
from mezzotint.types import Cond, Posterior


class Moments(nn.Module):
    """E[mean over the pixels of eps_hat^2] at some times, eps_hat being what the network takes for the noise.

    Args:
        times: ``[L]`` float64, increasing, at least 2.
        second: The moments, ``[L]``; in theory in [0, 1].

    Raises:
        ConfigError: Other times.

    Source: Bao et al. 2022 (Analytic-DPM), equation 8.
    """

    times: Tensor
    second: Tensor

    def __init__(self, times: Tensor, second: Tensor):
        super().__init__()
        if times.shape != second.shape or times.ndim != 1 or len(times) < 2 or not bool((times.diff() > 0).all()):
            raise ConfigError("a table of second moments needs at least 2 increasing times, and one moment for each")
        self.register_buffer("times", times.double())
        self.register_buffer("second", second.double())

    def at(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The moment at any times, ``[b]`` float64; between those of the table E|score|^2 is linear in t, beyond them constant.

        Source: Bao et al. 2022 (Analytic-DPM), section 4.2.
        """
        times, t = self.times.cpu(), t.cpu().double()
        score = self.second.cpu() / schedule(times)[1] ** 2
        place = t.clamp(times[0], times[-1])
        right = torch.searchsorted(times, place).clamp(1, len(times) - 1)
        share = (place - times[right - 1]) / (times[right] - times[right - 1])
        return torch.lerp(score[right - 1], score[right], share) * schedule(t)[1] ** 2


class KnownVariance(Wrapper):
    """Fills ``Posterior.var``. It stands inside all guidance.

    Args:
        inner: The denoiser.
        config: Where the variance comes from.
        part: The ``Moments`` of "analytic", the head of "sn" and "npr", None for "heuristic".

    Raises:
        CapabilityError: A head for a denoiser without a network of ours.

    Source: Bao et al. 2022 (Analytic-DPM), theorem 1; Bao et al. 2022 (Estimating the optimal covariance), equations 9-15.
    """

    def __init__(self, inner: Denoiser, config: CovarianceConfig, part: nn.Module | None):
        super().__init__(inner)
        self.config, self.part = config, part
        if config.method in ("sn", "npr") and not (isinstance(inner, NetworkDenoiser) and hasattr(inner.network, "with_head")):
            raise CapabilityError(f"covariance '{config.method}' needs a network that a second head can stand on; use analytic")

    def both(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Posterior, Tensor]:
        """The belief about x0, and the output of the second head, from one pass; arguments as for ``forward``."""
        assert isinstance(self.inner, NetworkDenoiser)
        body: nn.Module = self.inner.network
        found: list[Tensor] = []

        def tapped(x: Tensor, time_input: Tensor, told: Cond) -> Tensor:
            out, second = body.with_head(x, time_input, told, self.part)  # pyright: ignore[reportCallIssue]
            found.append(second.to(x_t.dtype))
            return out

        return self.inner.posterior(self.inner.predict(x_t, t, cond, network=tapped), x_t, t), found[0]

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        method = self.config.method
        alpha, sigma = self.schedule(t)
        if method in ("sn", "npr"):
            posterior, second = self.both(x_t, t, cond)
        else:
            posterior, second = self.inner(x_t, t, cond, noise=noise), torch.ones_like(x_t)
        if isinstance(self.part, Moments):
            eps_variance = expand(1 - self.part.at(self.schedule, t), x_t)
        elif method == "npr":
            eps_variance = second
        else:
            eps_variance = second - from_x0("eps", posterior.mean, x_t, alpha, sigma).square()
        largest = math.inf if self.config.largest is None else self.config.largest
        return replace(posterior, var=x0_variance(eps_variance, alpha, sigma, largest=largest, average=self.config.average))


def knots(schedule: Schedule, count: int | None = None) -> Tensor:
    """Times at which a table of moments is estimated, ``[L]`` float64, increasing.

    Args:
        schedule: The model's.
        count: How many; None: every level of a discrete schedule, 100 of a continuous one.

    Raises:
        ConfigError: Fewer than two.
    """
    levels = schedule.levels
    if levels is not None and (count is None or count >= len(levels)):
        return levels
    count = 100 if count is None else count
    if count < 2:
        raise ConfigError(f"{count} noise levels; give at least 2")
    if levels is not None:
        return levels[torch.linspace(0, len(levels) - 1, count, dtype=torch.float64).round().long()]
    low, high = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    if isinstance(schedule, VE):  # sigma spans orders of magnitude
        return torch.linspace(float(low.log()), float(high.log()), count, dtype=torch.float64).exp().clamp(low, high)
    return torch.linspace(float(low), float(high), count, dtype=torch.float64)


@torch.no_grad()
def estimate_moments(
    denoiser: Denoiser, parts: Iterable[tuple[Tensor, Cond, Noise]], times: Tensor, *, on_pass: Callable[[], object] | None = None
) -> Moments:
    """The table of moments, from images noised anew at each time.

    Args:
        denoiser: Unclipped.
        parts: Batches of clean images ``[b, c, h, w]``, their conditions and random streams; gone through once.
        times: ``[L]``.
        on_pass: Called without arguments after each pass of a batch at a time.

    Source: Bao et al. 2022 (Analytic-DPM), equation 8.
    """
    schedule, total, count = denoiser.schedule, torch.zeros(len(times), dtype=torch.float64), 0
    for x0, cond, noise in parts:
        count += len(x0)
        for i, time in enumerate(times):
            t = time.expand(len(x0))
            eps = noise.at(i).normal(tuple(x0.shape), name="eps", dtype=x0.dtype, device=x0.device)
            x_t = add_noise(schedule, x0, eps, t)
            believed = from_x0("eps", denoiser(x_t, t, cond).mean, x_t, *schedule(t))
            total[i] += believed.double().square().flatten(1).mean(dim=1).sum().cpu()
            if on_pass is not None:
                on_pass()
    if not count:
        raise ConfigError("no images; give at least one")
    return Moments(times, total / count)
