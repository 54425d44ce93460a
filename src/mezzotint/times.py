"""Laws of the times that training draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.schedules import Discrete, Schedule
from mezzotint.types import Times


class TimeLaw(nn.Module):
    """Draws training times. What it learns is kept in buffers, so that it is saved with the training state."""

    def draw(self, n: int, noise: Noise) -> Times:
        """Times for n examples."""
        raise NotImplementedError

    def update(self, t: Tensor, per_sample: Tensor) -> None:
        """Learns from the unweighted losses ``[b]`` of examples at times ``[b]``."""


class _OnGrid(TimeLaw):
    """Draws from a grid of times: level i has t = grid[i], s the level below (0 under the first) and t_up the level above."""

    grid: Tensor

    def __init__(self, levels: Tensor):
        super().__init__()
        if levels.ndim != 1 or len(levels) < 1 or not (levels.diff() > 0).all() or levels[0] <= 0:
            raise ConfigError("the levels of a time law must be positive and increasing")
        self.register_buffer("grid", levels.to(torch.float64), persistent=False)

    def at(self, index: Tensor, weight: Tensor) -> Times:
        """The times of given levels.

        Args:
            index: ``[b]`` int64.
            weight: ``[b]``.
        """
        padded = torch.cat([self.grid.new_zeros(1), self.grid.cpu()])
        index = index.cpu()
        # Above the last level the pair below is as good: only s = 0 borrows from it, and that is the first level.
        return Times(t=padded[index + 1], weight=weight, s=padded[index], t_up=padded[(index + 2).clamp_max(len(padded) - 1)])

    def index_of(self, t: Tensor) -> Tensor:
        """Number of the level of each time, ``[b]`` int64."""
        return (self.grid.cpu()[None] - t.detach().cpu()[:, None]).abs().argmin(dim=1)


class UniformLevels(_OnGrid):
    """Every level of a grid with the same probability.

    Source: Ho et al. 2020, algorithm 1.
    """

    def draw(self, n: int, noise: Noise) -> Times:
        u = noise.uniform((n,), name="time", dtype=torch.float64)
        return self.at((u * len(self.grid)).long(), torch.ones(n))


class Importance(_OnGrid):
    """Levels drawn in proportion to the root mean square of their recent losses, once every level has a full history.

    Args:
        levels: The grid of times, ``[N]`` increasing.
        history: Losses that are remembered for each level.
        uniform: Share of uniform probability that is mixed in.

    Source: Nichol & Dhariwal 2021, equation 18.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, levels: Tensor, *, history: int = 10, uniform: float = 0.001):
        super().__init__(levels)
        self.uniform = uniform
        self.register_buffer("losses", torch.zeros(len(levels), history, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(len(levels), dtype=torch.int64))

    @property
    def probabilities(self) -> Tensor:
        """Probability of each level, ``[N]`` float64."""
        size, history = self.losses.shape
        if bool((self.counts < history).any()):
            return torch.full((size,), 1 / size, dtype=torch.float64)
        weights = self.losses.cpu().square().mean(dim=1).sqrt()
        total = weights.sum()
        if total == 0:
            return torch.full((size,), 1 / size, dtype=torch.float64)
        return weights / total * (1 - self.uniform) + self.uniform / size

    def draw(self, n: int, noise: Noise) -> Times:
        p = self.probabilities
        u = noise.uniform((n,), name="time", dtype=torch.float64)
        index = torch.searchsorted(p.cumsum(0), u, right=True).clamp_max(len(p) - 1)
        return self.at(index, (1 / (len(p) * p[index])).float())

    def update(self, t: Tensor, per_sample: Tensor) -> None:
        for level, loss in zip(self.index_of(t).tolist(), per_sample.detach().cpu().tolist(), strict=True):
            count = int(self.counts[level])
            if count < self.losses.shape[1]:
                self.losses[level, count] = loss
                self.counts[level] += 1
            else:
                self.losses[level] = torch.cat([self.losses[level, 1:], self.losses.new_tensor([loss])])


class NoiseLevel(TimeLaw):
    """A step n of a table with the same probability each, then gamma = alpha^2 uniform between its two ends, for each example.

    Args:
        schedule: A discrete schedule.
        official: One step for the whole batch, and alpha, rather than its square, uniform between the ends, as in the common code.

    Source: Chen et al. 2021 (WaveGrad), section 3.1; Saharia et al. 2021 (SR3), section 2.3.
    """

    def __init__(self, schedule: Discrete, *, official: bool = False):
        super().__init__()
        self.schedule, self.official = schedule, official

    def draw(self, n: int, noise: Noise) -> Times:
        u = noise.uniform((n,), name="time", dtype=torch.float64)
        place = noise.uniform((n,), name="level", dtype=torch.float64)
        step = ((u[:1].expand(n) if self.official else u) * self.schedule.steps).long()
        alpha = self.schedule(torch.cat([torch.zeros(1, dtype=torch.float64), self.schedule.levels]))[0]
        if self.official:
            alpha = torch.lerp(alpha[step], alpha[step + 1], place)
        else:
            alpha = torch.lerp(alpha[step] ** 2, alpha[step + 1] ** 2, place).sqrt()
        return Times(t=self.schedule.time_of(alpha.log() - 0.5 * torch.log1p(-(alpha**2))), weight=torch.ones(n))


class UniformTimes(TimeLaw):
    """Uniform between two times of a continuous schedule.

    Source: Song et al. 2021, equation 7.
    """

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def draw(self, n: int, noise: Noise) -> Times:
        u = noise.uniform((n,), name="time", dtype=torch.float64)
        return Times(t=self.low + (self.high - self.low) * u, weight=torch.ones(n))


class LogNormal(TimeLaw):
    """log(sigma / alpha) is normal; the times are those of the schedule at that ratio, within its range.

    Source: Karras et al. 2022, table 1.
    """

    def __init__(self, schedule: Schedule, mean: float, std: float):
        super().__init__()
        self.schedule, self.mean, self.std = schedule, mean, std

    def draw(self, n: int, noise: Noise) -> Times:
        log_ratio = self.mean + self.std * noise.normal((n,), name="time", dtype=torch.float64)
        t = self.schedule.time_of(-log_ratio).clamp(self.schedule.t_min, self.schedule.t_max)
        return Times(t=t, weight=torch.ones(n))


class LogUniform(TimeLaw):
    """log(sigma / alpha) is uniform between the ends of the schedule.

    Source: Song et al. 2021, equation 31 (VE: uniform times of a geometric sigma).
    """

    def __init__(self, schedule: Schedule):
        super().__init__()
        self.schedule = schedule

    def draw(self, n: int, noise: Noise) -> Times:
        u = noise.uniform((n,), name="time", dtype=torch.float64)
        ends = self.schedule.half_log_snr(torch.tensor([self.schedule.t_min, self.schedule.t_max], dtype=torch.float64))
        return Times(t=self.schedule.time_of(torch.lerp(ends[0], ends[1], u)), weight=torch.ones(n))


def build_law(law: str, schedule: Schedule, *, mean: float = -1.2, std: float = 1.2, official: bool = False) -> TimeLaw:
    """The time law of a name on a schedule.

    Args:
        law: "uniform", "importance", "lognormal", "loguniform" or "noise_level".
        schedule: Where the times lie.
        mean: Mean of log sigma, for "lognormal".
        std: Standard deviation of log sigma, for "lognormal".
        official: For "noise_level", as the common code has it.

    Raises:
        CapabilityError: Importance sampling or noise levels were asked for of a schedule without levels.
    """
    levels = schedule.levels
    if law == "lognormal":
        return LogNormal(schedule, mean, std)
    if law == "loguniform":
        return LogUniform(schedule)
    if law == "noise_level":
        if not isinstance(schedule, Discrete):
            raise CapabilityError("times.law noise_level needs a discrete schedule; use times.law uniform, or another schedule")
        return NoiseLevel(schedule, official=official)
    if law == "importance":
        if levels is None:
            raise CapabilityError("importance-sampled times need a discrete schedule; use times.law uniform")
        return Importance(levels)
    return UniformTimes(schedule.t_min, schedule.t_max) if levels is None else UniformLevels(levels)
