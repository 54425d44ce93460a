"""What a network believes about x0, given x_t: every parameterisation becomes a Posterior.

Times are float64 and stay on the CPU (they are few); scales are cast to the images' type and device at the moment of use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mezzotint.configs import DenoiserConfig
from mezzotint.errors import CapabilityError, unknown
from mezzotint.noise import Noise
from mezzotint.process import Kind, bridge, expand, to_x0
from mezzotint.schedules import Discrete, Schedule
from mezzotint.types import Cond, KernelHead, Posterior

CLIPPED = -5.1
"""The log(alpha / sigma) below which DPM-Solver's code drops the levels of a table."""


class Denoiser(nn.Module):
    """x_t, t -> Posterior. Guidance and ``Bound`` are denoisers around a denoiser.

    Attributes:
        schedule: The schedule that t is a coordinate of.
        accepts: The names that ``cond`` may have; any other is an error.
        variance: The reverse variance that the network was trained with, for samplers that are not told another.
        predicts: What its network's output stands for; x0 where that has no meaning by itself.
    """

    schedule: Schedule
    accepts: frozenset[str] = frozenset()
    variance: str = "fixed_small"
    predicts: Kind = "x0"

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        """The belief about x0.

        Args:
            x_t: Noisy images ``[b, c, h, w]``.
            t: Time of each image, ``[b]`` float64.
            cond: Conditions by name; only those of ``accepts``.
            noise: Random streams, for denoisers that return a draw of x0 in place of its mean.

        Raises:
            ConfigError: ``cond`` has a name that is not in ``accepts``.
        """
        raise NotImplementedError

    def snap(self, t: Tensor) -> Tensor:
        """The nearest times that the network knows, where it knows only some; otherwise t."""
        return t


def check_cond(cond: Cond | None, accepts: frozenset[str]) -> Cond:
    """The conditions, after a check of their names.

    Raises:
        ConfigError: A name that is not accepted.
    """
    for name in cond or {}:
        if name not in accepts:
            raise unknown("condition", name, accepts or {"none (the model is unconditional)"})
    return cond or {}


def time_input(schedule: Schedule, t: Tensor, kind: str) -> Tensor:
    """What a network is told of the time.

    Args:
        schedule: Coordinate of t.
        t: ``[b]`` float64.
        kind: As in ``DenoiserConfig.time_input``.

    Returns:
        ``[b]`` float64. For "index" the number n of the level t = (n + 1) / N, fractional between levels.

    Raises:
        CapabilityError: An index was asked for of a schedule without numbered levels.
    """
    if kind in ("index", "index_1000", "index_clipped"):
        if not isinstance(schedule, Discrete):
            raise CapabilityError(f"time input '{kind}' needs a discrete schedule; use t, t_999 or log_sigma")
        index = (schedule.position(t) - 1).clamp_min(0)
        if kind == "index":
            return index
        count = schedule.steps
        if kind == "index_clipped":
            count = int((schedule.half_log_snr(schedule.levels) >= CLIPPED).sum())
        return index * (1000.0 / count)
    if kind == "nearest":
        return nearest_level(schedule, t).to(torch.float64)
    if kind == "t":
        return t
    if kind in ("t_999", "t_1000"):
        return t * int(kind[2:])
    if kind in ("alpha", "alpha_bar"):
        alpha, _ = schedule(t)
        return alpha if kind == "alpha" else alpha**2
    if kind == "log_half_sigma":
        return -schedule.half_log_snr(t) - math.log(2)
    return -schedule.half_log_snr(t) / 4


def nearest_level(schedule: Schedule, t: Tensor) -> Tensor:
    """The number n of the level (n + 1) / N whose sigma / alpha is nearest; -1 where no noise at all is nearer.

    Args:
        schedule: Coordinate of t.
        t: Times, any shape.

    Returns:
        In the shape of t, int64.

    Raises:
        CapabilityError: The schedule has no numbered levels.

    Source: Karras et al. 2022, appendix C.3.2.
    """
    if schedule.levels is None:
        raise CapabilityError("time input 'nearest' needs a discrete schedule; use t, t_999 or log_sigma")
    known = torch.cat([schedule.levels.new_zeros(1), schedule.levels])
    ratios, here = (torch.exp(-schedule.half_log_snr(x)) for x in (known, t))
    return (ratios - here[..., None]).abs().argmin(dim=-1) - 1


class Prediction(NamedTuple):
    """The network's output, split: ``value`` is in the space of ``DenoiserConfig.predicts``, ``head`` is None or the variance half."""

    value: Tensor
    head: Tensor | None


class NetworkDenoiser(Denoiser):
    """A denoiser around a network ``network(x, time_input, cond) -> [b, c or 2c, h, w]``.

    Args:
        network: The network; its ``accepts`` becomes that of the denoiser.
        schedule: The schedule it was trained on.
        config: How its output is read.

    Source: Ho et al. 2020 (eps, x_prev); Salimans & Ho 2022 (v); Nichol & Dhariwal 2021, equation 15 (learned range);
    Karras et al. 2022, table 1 ("edm").
    """

    def __init__(self, network: nn.Module, schedule: Schedule, config: DenoiserConfig):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.config = config
        self.variance = config.variance
        self.predicts = "x0" if config.predicts in ("x_prev", "edm") else config.predicts
        self.accepts = getattr(network, "accepts", frozenset())

    def predict(
        self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, network: Callable[[Tensor, Tensor, Cond], Tensor] | None = None
    ) -> Prediction:
        """The network's own output, before it becomes x0.

        For "edm" the value is already x0, since the network alone has no meaning there.

        Args:
            x_t: As for ``forward``.
            t: As for ``forward``.
            cond: As for ``forward``.
            network: Called in the place of the denoiser's own, as by those that look inside it.
        """
        network = network or self.network
        cond = check_cond(cond, self.accepts)
        fine = x_t.dtype if x_t.dtype == torch.float64 else torch.float32
        label = time_input(self.schedule, t, self.config.time_input).to(device=x_t.device, dtype=fine)
        if self.config.predicts == "edm":
            alpha, sigma = self.schedule(t)
            level, data = sigma / alpha, self.config.sigma_data
            total = (level**2 + data**2).sqrt()
            out = network(expand(1 / (alpha * total), x_t) * x_t, label, cond).to(x_t.dtype)
            out, head = self._split(out, x_t.shape[1])
            skip = expand(data**2 / (total**2 * alpha), x_t) * x_t
            return Prediction(skip + expand(level * data / total, x_t) * out, head)
        return Prediction(*self._split(network(x_t, label, cond).to(x_t.dtype), x_t.shape[1]))

    def answer(self, like: Tensor, cond: Cond | None = None) -> Tensor:
        """What the network makes of the conditions alone: x is zero everywhere, and so is the time input.

        Args:
            like: Of the shape, type and place of the answer, ``[b, c, h, w]``.
            cond: As for ``forward``.

        Source: Saharia et al. 2021 (SR3), section 4 (regression baseline).
        """
        return self.network(torch.zeros_like(like), like.new_zeros(len(like)), check_cond(cond, self.accepts))

    def _split(self, out: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        if self.config.variance in ("learned", "learned_range"):
            if out.shape[1] != 2 * channels:
                raise CapabilityError(
                    f"variance '{self.config.variance}' needs {2 * channels} output channels, the network gives {out.shape[1]}"
                )
            value, head = out.split(channels, dim=1)
            return value, head
        if out.shape[1] != channels:
            raise CapabilityError(
                f"the network gives {out.shape[1]} channels for images of {channels}; fix its out_channels, or set a learned variance"
            )
        return out, None

    def own_s(self, t: Tensor) -> Tensor:
        """The level below each time, ``[b]``: where the steps that the network was trained on lead to.

        Raises:
            CapabilityError: The schedule has no numbered levels.
        """
        if not isinstance(self.schedule, Discrete):
            raise CapabilityError("only a discrete schedule has single steps; use another prediction or variance")
        return (self.schedule.position(t) - 1).clamp_min(0) / self.schedule.steps

    def posterior(self, prediction: Prediction, x_t: Tensor, t: Tensor) -> Posterior:
        """The belief that a prediction at (x_t, t) stands for."""
        value, out = prediction
        predicts = self.config.predicts
        head = None
        if out is not None and self.config.variance == "learned":
            head = KernelHead(log_var=out, s=self.own_s(t))
        elif out is not None:
            # The network's [-1, 1] is mapped to [0, 1], so that an output of 0 is the geometric mean of the two bounds.
            head = KernelHead(frac=(out + 1) / 2)
        if predicts == "x_prev":
            s = self.own_s(t)
            a, b, _ = bridge(self.schedule, t, s)
            mean = expand(1 / a, x_t) * value - expand(b / a, x_t) * x_t
            head = replace(head or KernelHead(), mean=value, s=s)
        elif predicts == "edm":
            mean = value
        else:
            mean = to_x0(predicts, value, x_t, *self.schedule(t))
        return Posterior(mean, kernel=head)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        return self.posterior(self.predict(x_t, t, cond), x_t, t)

    def snap(self, t: Tensor) -> Tensor:
        if self.config.time_input != "nearest" or self.schedule.levels is None:
            return t
        return time_input(self.schedule, t, "nearest").add(1) / len(self.schedule.levels)


class FunctionDenoiser(Denoiser):
    """A denoiser around a formula.

    Args:
        schedule: Coordinate of t.
        function: ``(x_t, alpha, sigma, cond) -> mean`` or ``-> (mean, var)`` of x0, with alpha and sigma fitted to x_t.
        accepts: Names of the conditions that the function knows.
    """

    def __init__(
        self, schedule: Schedule, function: Callable[..., Tensor | tuple[Tensor, Tensor]], *, accepts: frozenset[str] = frozenset()
    ):
        super().__init__()
        self.schedule = schedule
        self.function = function
        self.accepts = accepts

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        alpha, sigma = self.schedule(t)
        out = self.function(x_t, expand(alpha, x_t), expand(sigma, x_t), check_cond(cond, self.accepts))
        return Posterior(out[0], var=out[1]) if isinstance(out, tuple) else Posterior(out)


class Wrapper(Denoiser):
    """A denoiser that changes what another one says; it takes over the other's schedule, conditions and variance."""

    def __init__(self, inner: Denoiser):
        super().__init__()
        self.inner = inner
        self.schedule = inner.schedule
        self.accepts = inner.accepts
        self.variance = inner.variance
        self.predicts = inner.predicts

    def snap(self, t: Tensor) -> Tensor:
        return self.inner.snap(t)


class Bound(Wrapper):
    """Fills ``Posterior.bounded``. It stands outside all guidance, which mixes unclipped means.

    Args:
        inner: The denoiser.
        clip: Clamp x0 to [-1, 1].
        quantile: Dynamic thresholding: clamp to the larger of ``least`` and this quantile of |x0| per image, and divide by it. Replaces
            ``clip``.
        least: Smallest bound of dynamic thresholding.
        most: Largest bound of dynamic thresholding.
        transform: Applied to x0 before the clipping.

    Source: Ho et al. 2020, section 3.2 (clipping); Saharia et al. 2022 (Imagen), section 2.3 (dynamic thresholding).
    """

    def __init__(
        self,
        inner: Denoiser,
        *,
        clip: bool = True,
        quantile: float | None = None,
        least: float = 1.0,
        most: float = math.inf,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(inner)
        self.clip, self.quantile, self.least, self.most, self.transform = clip, quantile, least, most, transform

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        posterior = self.inner(x_t, t, cond, noise=noise)
        x0 = posterior.mean if self.transform is None else self.transform(posterior.mean)
        if self.quantile is not None:
            size = x0.flatten(1).abs()
            size = size if size.dtype == torch.float64 else size.float()  # quantiles know no half precision
            limit = torch.quantile(size, self.quantile, dim=1).clamp(self.least, self.most).to(x0.dtype)
            limit = limit.reshape(-1, *(1,) * (x0.ndim - 1))
            x0 = x0.clamp(-limit, limit) / limit
        elif self.clip:
            x0 = x0.clamp(-1, 1)
        return replace(posterior, bounded=x0)
