"""The values that pass between the pieces: frozen dataclasses without logic.

Shapes: b = batch, c h w = channels, height, width; toy worlds may use ``[b, d]`` in place of ``[b, c, h, w]``.
Images are in [-1, 1]. ``alpha`` is the signal scale sqrt(alpha_bar), ``sigma`` the noise scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Cond = Mapping[str, "Tensor"]
"""What a denoiser is told beside x_t and t: name -> tensor whose first axis is the batch, e.g. ``{"label": [b]}``."""


@dataclass(frozen=True)
class KernelHead:
    """What the network says of its own reverse kernel p(x_s | x_t), beyond the mean of x0.

    Attributes:
        frac: Place of the log-variance between its bounds, ``[b, c, h, w]``: 0 is beta_tilde, 1 is beta; not clamped.
        log_var: The log-variance itself, ``[b, c, h, w]``.
        mean: The mean of x_s itself, ``[b, c, h, w]``, valid for the pair (s, t) only.
        s: The time that ``mean`` and ``log_var`` lead to, ``[b]``; None where ``frac`` fits any pair.
    """

    frac: Tensor | None = None
    log_var: Tensor | None = None
    mean: Tensor | None = None
    s: Tensor | None = None


@dataclass(frozen=True)
class Posterior:
    """What a denoiser believes about x0, given x_t.

    Attributes:
        mean: E[x0 | x_t], ``[b, c, h, w]``. Never clipped.
        bounded: The same after clipping or thresholding (``Bound``), or None.
        var: Var[x0 | x_t], ``[b, #c, #h, #w]``, where the denoiser knows it.
        kernel: What the network says of the reverse kernel.
        score_shift: scale * grad_{x_t} log p(y | x_t), from classifier guidance. Each sampler applies it in its own kernel.
    """

    mean: Tensor
    bounded: Tensor | None = None
    var: Tensor | None = None
    kernel: KernelHead | None = None
    score_shift: Tensor | None = None

    @property
    def x0(self) -> Tensor:
        """The estimate that samplers use: ``bounded`` where there is one, else ``mean``."""
        return self.mean if self.bounded is None else self.bounded


@dataclass(frozen=True)
class Batch:
    """Training examples.

    Attributes:
        images: ``[b, c, h, w]`` in [-1, 1].
        ids: Position of each example in its data set, ``[b]`` int64: the key of its random streams.
        label: Class of each example, ``[b]`` int64, or None.
        extras: Further per-example tensors, by name.
    """

    images: Tensor
    ids: Tensor
    label: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """What an objective returns.

    Attributes:
        total: The scalar to differentiate.
        per_sample: Detached, unweighted loss of each example, ``[b]``.
        t: The time of each example, ``[b]``; zeros where the objective has no times.
        logs: Scalars to be logged, by name.
    """

    total: Tensor
    per_sample: Tensor
    t: Tensor
    logs: Mapping[str, float | Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Times:
    """Times drawn for training.

    Attributes:
        t: ``[b]`` float64, in the schedule's coordinate.
        weight: Importance weight of each loss, ``[b]``.
        s: The next cleaner time of the grid, ``[b]``, or None for a law without a grid.
        t_up: The next noisier time of the grid, ``[b]``, or None.
    """

    t: Tensor
    weight: Tensor
    s: Tensor | None = None
    t_up: Tensor | None = None


@dataclass(frozen=True)
class Phase:
    """One optimiser's share of a training step.

    Attributes:
        name: Unique name; the objective is called with it.
        modules: The modules whose parameters this phase trains. Phases may share modules.
        repeats: Optimiser steps of this phase in one training step.
        every: The phase runs only on training steps that are multiples of this number.
        fresh_batch: Whether each repeat draws a batch of its own.
        optim: Settings that replace those of the trainer (an ``OptimConfig``), or None.
        ema: Whether the phase's modules are averaged.
    """

    name: str
    modules: tuple[nn.Module, ...]
    repeats: int = 1
    every: int = 1
    fresh_batch: bool = True
    optim: Any = None
    ema: bool = True


@dataclass(frozen=True)
class Plan:
    """The times that a sampler will visit.

    Attributes:
        grid: ``[n + 1, b or 1]`` float64, strictly decreasing along the first axis (increasing for an inversion). For an adaptive
            sampler only the start, the end, and between them the time from which it jumps to an end at 0.
        orders: Order of each step, for methods that vary it.
        inner: Times inside each step, ``[orders[i] - 1, b or 1]``, for single-step methods that do not choose them themselves.
        adaptive: Whether the sampler chooses its own times between the two of the grid.
        max_steps: The most steps that an adaptive sampler may try.
    """

    grid: Tensor
    orders: tuple[int, ...] = ()
    inner: tuple[Tensor, ...] = ()
    adaptive: bool = False
    max_steps: int = 10_000

    @property
    def steps(self) -> int:
        """Number of steps; for an adaptive plan the most that it may try."""
        return self.max_steps if self.adaptive else self.grid.shape[0] - 1


@dataclass(frozen=True)
class State:
    """What a sampler remembers from one step to the next; multistep methods add fields.

    Attributes:
        x0: The estimate of x0 that the last step used, ``[b, c, h, w]``; None before the first step.
    """

    x0: Tensor | None = None


@dataclass(frozen=True)
class Trajectory:
    """What the sampling loop returns.

    Attributes:
        x: The final sample, ``[b, c, h, w]``.
        t: The time that each sample ended at, ``[b]``.
        calls: Denoiser evaluations (one of classifier-free guidance's doubled batch counts as one).
        steps: Steps that were taken.
        xs: The saved states, noisiest first; empty unless asked for.
        x0s: The saved estimates of x0, in the same order.
        ts: The times of the saved states.
    """

    x: Tensor
    t: Tensor
    calls: int
    steps: int
    xs: tuple[Tensor, ...] = ()
    x0s: tuple[Tensor, ...] = ()
    ts: tuple[Tensor, ...] = ()
