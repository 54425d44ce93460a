"""How fast an image is destroyed: x_t = alpha(t) x0 + sigma(t) eps.

t is the schedule's own coordinate and grows with noise; t = 0 means exactly (alpha, sigma) = (1, 0). All arithmetic is in float64.
Variance-preserving and discrete schedules use t in [0, 1]; variance-exploding ones use t = sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mezzotint.configs import DiscreteConfig, FlowConfig, ScheduleConfig, VEConfig, VPConfig
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.registry import get, register

T = TypeVar("T")
SNAP = 1e-6  # float32 times miss their knot by less than this


class Schedule:
    """alpha(t) and sigma(t), with what follows from them.

    Attributes:
        config: The settings; two schedules are equal if these are.
        t_min: Smallest time above 0 that training and sampling use.
        t_max: Largest time, where sampling starts.
        uniform: Whether alpha and sigma are the same for all entries of an image.
        prior_scale: Standard deviation of the Gaussian that sampling starts from.
    """

    t_min: float
    t_max: float
    uniform: bool = True
    prior_scale: float = 1.0

    def __init__(self, config: ScheduleConfig):
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.config == other.config

    def __hash__(self) -> int:
        return hash(self.config)

    def __repr__(self) -> str:
        return f"Schedule({self.config})"

    @property
    def levels(self) -> Tensor | None:
        """The times that a discrete model was trained at, ``[N]`` float64, increasing; None for a continuum."""
        return None

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scale.

        Args:
            t: Times, any shape.

        Returns:
            alpha and sigma, each float64 in the shape of t.
        """
        log_alpha = self.log_alpha(_f64(t))
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).clamp_min(0).sqrt()

    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t), float64."""
        raise NotImplementedError

    def half_log_snr(self, t: Tensor) -> Tensor:
        """lambda = log(alpha / sigma), float64; infinite at t = 0.

        Source: Lu et al. 2022 (DPM-Solver), section 3.
        """
        alpha, sigma = self(t)
        return alpha.log() - sigma.log()

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The inverse of ``half_log_snr``, float64."""
        raise NotImplementedError

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and squared diffusion of the forward SDE dx = f x dt + g dw.

        Returns:
            f = d log alpha / dt and g^2 = d sigma^2 / dt - 2 f sigma^2, each float64 in the shape of t.

        Source: Kingma et al. 2021, equation 3; Song et al. 2021, equation 5.
        """
        raise NotImplementedError

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha / dt and d sigma / dt, each float64 in the shape of t."""
        alpha, sigma = self(t)
        f, g2 = self.rates(t)
        return f * alpha, f * sigma + g2 / (2 * sigma)


def _f64(t: Tensor) -> Tensor:
    return t.to(torch.float64)


class _VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1: log alpha gives everything."""

    def half_log_snr(self, t: Tensor) -> Tensor:
        log_alpha = self.log_alpha(_f64(t))
        return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        f = self.log_alpha_slope(_f64(t))
        return f, -2 * f  # d sigma^2 = -2 alpha^2 f, so that g^2 = -2 f (alpha^2 + sigma^2)

    def log_alpha_slope(self, t: Tensor) -> Tensor:
        """d log alpha / dt."""
        raise NotImplementedError


def betas(config: DiscreteConfig) -> np.ndarray:
    """The table of betas of a discrete schedule.

    Returns:
        ``[steps]`` float64; beta_n is the variance that step n adds.

    Raises:
        ConfigError: A beta outside (0, 1].

    Source: Ho et al. 2020 (linear, quad, warm-up, const, jsd); Nichol & Dhariwal 2021, equation 17 (cosine) and section 3;
    Rombach et al. 2022 (scaled_linear); Lin et al. 2024, algorithm 1 (zero_snr).
    """
    n = config.steps
    low = 1e-4 if config.first is None else config.first
    high = 0.02 if config.last is None else config.last
    if config.custom is not None:
        table = np.asarray(config.custom, dtype=np.float64)
    elif n < 1:
        raise ConfigError(f"a schedule of {n} steps; give at least 1")
    elif config.betas == "linear":  # the end points keep the total noise of 1000 steps
        first = low * 1000 / n if config.first is None else low
        last = high * 1000 / n if config.last is None else high
        table = np.linspace(first, last, n, dtype=np.float64)
    elif config.betas == "cosine":
        edges = np.array([math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)])
        table = np.minimum(1 - edges[1:] / edges[:-1], 0.999)
    elif config.betas == "quad":
        table = np.linspace(low**0.5, high**0.5, n, dtype=np.float64) ** 2
    elif config.betas in ("warmup10", "warmup50"):
        rising = int(n * int(config.betas[-2:]) / 100)
        table = np.full(n, high)
        table[:rising] = np.linspace(low, high, rising, dtype=np.float64)
    elif config.betas == "scaled_linear":
        table = np.linspace(0.00085**0.5, 0.012**0.5, n, dtype=np.float64) ** 2
    elif config.betas == "const":
        table = np.full(n, high)
    else:
        table = 1.0 / np.arange(n, 0, -1, dtype=np.float64)
    if config.zero_snr and len(table) > 1:
        root = np.sqrt(np.cumprod(1 - table))
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        table = 1 - np.concatenate([root[:1], root[1:] / root[:-1]]) ** 2
    if len(table) == 0 or not ((table > 0) & (table <= 1)).all():
        name = config.betas if config.custom is None else "custom"
        raise ConfigError(f"{name} betas for {len(table)} steps leave (0, 1]; use more steps or other betas")
    return table


@register("schedule", "discrete")
class Discrete(_VariancePreserving):
    """Noise levels at N knots t = (n + 1) / N, n = 0 .. N-1, given by betas.

    Times within 1e-6 of a knot are taken to be it. Between knots, log alpha (or sigma / alpha, or its logarithm) is linear in t; before the
    first knot log alpha runs linearly from 0; beyond the last it is extrapolated, so that t = inf is pure noise.

    Source: Ho et al. 2020; Lu et al. 2022, appendix D.4 (interpolation).
    """

    def __init__(self, config: DiscreteConfig):
        super().__init__(config)
        self._last: dict[str, tuple[Tensor, int, Any]] = {}
        self.betas = torch.from_numpy(betas(config))
        self.steps = len(self.betas)
        self.t_min, self.t_max = 1 / self.steps, 1.0
        self._log_alpha = torch.cat([torch.zeros(1, dtype=torch.float64), 0.5 * torch.log1p(-self.betas).cumsum(0)])
        self._between = config.interpolate

    @property
    def levels(self) -> Tensor:
        return torch.arange(1, self.steps + 1, dtype=torch.float64) / self.steps

    def position(self, t: Tensor) -> Tensor:
        """t N, snapped to whole numbers within 1e-6 of a knot; the index that a network is told is this less one."""
        place = _f64(t) * self.steps
        whole = place.round()
        return torch.where((place - whole).abs() <= SNAP * self.steps, whole, place)

    def log_alpha(self, t: Tensor) -> Tensor:
        return self._once("log_alpha", self._look_up, t)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._once("scales", super().__call__, t)

    def _once(self, name: str, function: Callable[[Tensor], T], t: Tensor) -> T:
        """A step asks several times for the same time: the last answer is kept, as long as that tensor is not written to."""
        if t.is_inference():  # such tensors do not tell
            return function(t)
        last = self._last.get(name)
        if last is None or last[0] is not t or last[1] != t._version:
            last = self._last[name] = (t, t._version, function(t))
        return last[2]

    def _look_up(self, t: Tensor) -> Tensor:
        table = self._log_alpha.to(t.device)
        place = self.position(t)
        left = place.floor().clamp(0, self.steps - 1)
        left = torch.where(torch.isfinite(left), left, self.steps - 1.0).long()
        share = place - left
        low, high = table[left], table[left + 1]
        between = low + share * (high - low)
        if self._between != "log_alpha":
            knots = self._knots(table)
            knots = torch.lerp(knots[left], knots[left + 1], share)
            half_log_snr = knots if self._between == "log_sigma" else -torch.log(knots)
            between = torch.where(left == 0, between, -0.5 * torch.nn.functional.softplus(-2 * half_log_snr))
        # An infinite table entry (beta = 1) must not turn its exact neighbours into NaN.
        return torch.where(share == 0, low, torch.where(share == 1, high, between))

    def _knots(self, table: Tensor) -> Tensor:
        """lambda at the knots, or sigma / alpha."""
        if self._between == "sigma":
            return torch.expm1(-2 * table).sqrt()
        return table - 0.5 * torch.log(-torch.expm1(2 * table))

    def log_alpha_slope(self, t: Tensor) -> Tensor:
        if self._between != "log_alpha":
            raise CapabilityError("rates of a discrete schedule need interpolate='log_alpha'; set it in the schedule")
        table = self._log_alpha.to(t.device)
        left = (self.position(t).ceil() - 1).clamp(0, self.steps - 1).long()
        return (table[left + 1] - table[left]) * self.steps

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        lam = _f64(half_log_snr)
        table = self._log_alpha.to(lam.device)
        log_alpha = -0.5 * torch.nn.functional.softplus(-2 * lam)
        right = torch.searchsorted(-table, -log_alpha).clamp(1, self.steps)
        low, high = table[right - 1], table[right]
        share = (log_alpha - low) / (high - low)
        if self._between != "log_alpha":
            knots = self._knots(table)
            place = lam if self._between == "log_sigma" else torch.exp(-lam)
            share = torch.where(right == 1, share, (place - knots[right - 1]) / (knots[right] - knots[right - 1]))
        return torch.where(torch.isposinf(lam), 0.0, (right - 1 + share) / self.steps)


@register("schedule", "vp")
class VP(_VariancePreserving):
    """Continuous variance-preserving schedule, t in [0, 1].

    Source: Song et al. 2021, equation 32 (linear); Nichol & Dhariwal 2021, equation 17 (cosine, up to t = 0.9946 as in Lu et al. 2022).
    """

    OFFSET = 0.008

    def __init__(self, config: VPConfig):
        super().__init__(config)
        self.t_min = config.t_min
        self.t_max = 1.0 if config.shape == "linear" else 0.9946
        self._low, self._high, self._linear = config.beta_min, config.beta_max, config.shape == "linear"
        self._log_cos0 = math.log(math.cos(self.OFFSET / (1 + self.OFFSET) * math.pi / 2))

    def log_alpha(self, t: Tensor) -> Tensor:
        if self._linear:
            return -0.25 * t**2 * (self._high - self._low) - 0.5 * t * self._low
        return torch.log(torch.cos((t + self.OFFSET) / (1 + self.OFFSET) * math.pi / 2)) - self._log_cos0

    def log_alpha_slope(self, t: Tensor) -> Tensor:
        if self._linear:
            return -0.5 * (self._low + t * (self._high - self._low))
        width = math.pi / 2 / (1 + self.OFFSET)
        return -width * torch.tan((t + self.OFFSET) * width)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        lam = _f64(half_log_snr)
        if self._linear:
            rise = self._high - self._low
            q = 2 * rise * torch.nn.functional.softplus(-2 * lam)
            return q / ((self._low**2 + q).sqrt() + self._low) / rise
        log_alpha = -0.5 * torch.nn.functional.softplus(-2 * lam)
        t = torch.arccos((log_alpha + self._log_cos0).exp()) * 2 * (1 + self.OFFSET) / math.pi - self.OFFSET
        return t.clamp_min(0)  # rounding may pass 0


@register("schedule", "ve")
class VE(Schedule):
    """Variance-exploding schedule with t = sigma.

    Source: Song et al. 2021, equation 31; Karras et al. 2022, table 1 (range 0.002 to 80).
    """

    def __init__(self, config: VEConfig):
        super().__init__(config)
        if not 0 < config.sigma_min < config.sigma_max:
            raise ConfigError(f"sigma from {config.sigma_min} to {config.sigma_max}; give 0 < sigma_min < sigma_max")
        self.t_min, self.t_max = config.sigma_min, config.sigma_max
        self.prior_scale = config.sigma_max

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _f64(t)
        return torch.ones_like(t), t

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(_f64(t))

    def half_log_snr(self, t: Tensor) -> Tensor:
        return -_f64(t).log()

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        return (-_f64(half_log_snr)).exp()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _f64(t)
        return torch.zeros_like(t), 2 * t


@register("schedule", "flow")
class Flow(Schedule):
    """Straight path: alpha = 1 - t, sigma = t.

    Source: Lipman et al. 2023, equation 22; Liu et al. 2023.
    """

    def __init__(self, config: FlowConfig):
        super().__init__(config)
        self.t_min, self.t_max = config.t_min, 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _f64(t)
        return 1 - t, t

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(-_f64(t))

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-_f64(half_log_snr))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _f64(t)
        return -1 / (1 - t), 2 * t / (1 - t)

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(_f64(t)), torch.ones_like(_f64(t))


def build_schedule(config: ScheduleConfig) -> Schedule:
    """The schedule of a config.

    Example:
        >>> schedule = build_schedule(DiscreteConfig(betas="linear", steps=1000))
        >>> alpha, sigma = schedule(torch.tensor([0.5]))
        >>> round(float(alpha) ** 2, 8)
        0.07858724
    """
    return get(*config.kind)(config)
