"""What the sampling loop knows of a sampler."""

from __future__ import annotations

from torch import Tensor

from mezzotint.denoise import Denoiser
from mezzotint.noise import Noise
from mezzotint.sample.grid import End, make_grid
from mezzotint.schedules import Schedule
from mezzotint.types import Cond, Plan, State


class Sampler:
    """A plan of times, then one reverse step.

    A new sampler is one subclass with ``step``, entered with ``@register("sampler", name)``; the keyword arguments of ``__init__`` are
    its settings on the command line.

    Attributes:
        requires: What it needs, checked before the first step: "uniform" (alpha and sigma are the same all over an image).
        adaptive: Whether it chooses its own times.
        stochastic: Whether its steps draw noise.
    """

    requires: frozenset[str] = frozenset()
    adaptive: bool = False
    stochastic: bool = False

    def plan(
        self,
        schedule: Schedule,
        *,
        steps: int | None = None,
        spacing: str = "uniform",
        t_start: Tensor | float | None = None,
        t_end: End = 0.0,
    ) -> Plan:
        """The times that this sampler will visit.

        Args:
            schedule: The denoiser's schedule.
            steps: Number of steps; None where the spacing gives it, or for all levels of a discrete schedule.
            spacing: A spacing of ``mezzotint.sample.grid``.
            t_start: Where the samples are, a number or one for each image; None: t_max.
            t_end: Where they go; "last" is the last time that the network is evaluated at otherwise.

        Raises:
            ConfigError: Steps and spacing contradict each other.
        """
        return Plan(make_grid(schedule, spacing, steps, t_start=t_start, t_end=t_end))

    def init(self, x: Tensor, plan: Plan) -> State:
        """The memory before the first step."""
        return State()

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        """One step.

        Args:
            denoiser: Gives the posterior at (x_t, t).
            x_t: ``[b, c, h, w]`` at the time that the last step reached (``plan.grid[i]`` unless the plan is adaptive).
            plan: The whole plan.
            i: Number of this step, from 0.
            state: The memory.
            cond: Conditions.
            noise: Random streams at this step; None is an error for samplers that draw.

        Returns:
            x_s, the time that each image reached ``[b]``, and the new memory.
        """
        raise NotImplementedError


def times(plan: Plan, i: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """t, s and t_up of step i of a plan, each ``[b]`` float64; t_up, the time before t, is None at the first step."""
    size = (like.shape[0],)
    t_up = plan.grid[i - 1].expand(size) if i > 0 else None
    return plan.grid[i].expand(size), plan.grid[i + 1].expand(size), t_up


def draw(noise: Noise | None, like: Tensor, name: str) -> Tensor:
    """Standard normal numbers in the shape, type and place of a tensor."""
    if noise is None:
        raise ValueError(f"this sampler draws noise ({name}); give `noise`")
    return noise.normal(tuple(like.shape), name=name, dtype=like.dtype, device=like.device)
