"""The one sampling loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser, Wrapper, check_cond
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.sample.base import Sampler
from mezzotint.types import Cond, Plan, Posterior, Trajectory


class _Counted(Wrapper):
    """Counts the denoiser's evaluations."""

    def __init__(self, inner: Denoiser):
        super().__init__(inner)
        self.calls = 0

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        self.calls += 1
        return self.inner(x_t, t, cond, noise=noise)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    plan: Plan,
    x_start: Tensor,
    *,
    cond: Cond | None = None,
    noise: Noise | None = None,
    save: int | Literal["all"] = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Runs a sampler along its plan.

    Args:
        denoiser: Guidance and bounds included.
        sampler: The reverse step.
        plan: What ``sampler.plan`` gave.
        x_start: Samples at the first time of the plan, ``[b, c, h, w]``.
        cond: Conditions, ``[b, ...]`` each.
        noise: Random streams of the images; step i uses ``noise.at(i)``.
        save: Keep every k-th state and the estimate of x0 that led to it, or "all"; 0 keeps none.
        on_step: Called after each step with its number and the number of steps.

    Returns:
        The final samples, and what was saved.

    Raises:
        CapabilityError: The sampler needs what the schedule has not.
        ConfigError: Unknown conditions, streams for another number of images, or an adaptive run that does not end.
    """
    if "uniform" in sampler.requires and not denoiser.schedule.uniform:
        raise CapabilityError(f"{type(sampler).__name__} needs one noise level for the whole image; use ancestral or ddim")
    cond = check_cond(cond, denoiser.accepts)
    if noise is not None and len(noise.ids) != len(x_start):
        raise ConfigError(f"random streams for {len(noise.ids)} images, and {len(x_start)} images to sample; give one id an image")
    every = 1 if save == "all" else save
    counted = _Counted(denoiser)
    x, t = x_start, plan.grid[0].expand(len(x_start))
    end = plan.grid[-1].expand(len(x_start))
    state = sampler.init(x, plan)
    xs: list[Tensor] = []
    x0s: list[Tensor] = []
    ts: list[Tensor] = []
    step = 0
    while step < plan.steps and not (plan.adaptive and bool((t <= end).all())):
        x_new, reached, state = sampler.step(counted, x, plan, step, state, cond=cond, noise=noise and noise.at(step))
        if plan.adaptive:  # images that are done stay as they are
            running = t > end
            mask = running.reshape(-1, *(1,) * (x.ndim - 1)).to(x.device)
            x_new, reached = torch.where(mask, x_new, x), torch.where(running, reached, t)
        x, t = x_new, reached
        step += 1
        if every and (step % every == 0 or step == plan.steps):
            xs.append(x)
            ts.append(t)
            x0s.append(state.x0 if state.x0 is not None else x)
        if on_step is not None:
            on_step(step, plan.steps)
    if plan.adaptive and bool((t > end).any()):
        raise ConfigError(f"{type(sampler).__name__} did not reach the end in {plan.steps} steps; loosen its tolerances")
    return Trajectory(x, t, counted.calls, step, tuple(xs), tuple(x0s), tuple(ts))
