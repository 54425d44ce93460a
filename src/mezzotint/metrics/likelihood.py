"""Bits/dim of images under the reverse chain of a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mezzotint.covariance import reverse_kernel
from mezzotint.denoise import Denoiser
from mezzotint.errors import unknown
from mezzotint.noise import Noise
from mezzotint.objectives.variational import bits_per_dim, discretized_log_likelihood, normal_kl, prior_term, vlb_term
from mezzotint.process import add_noise, bridge, expand, from_x0
from mezzotint.types import Cond, Plan


class Bound(NamedTuple):
    """The variational bound of each image, in bits/dim.

    Attributes:
        total: ``[b]``: prior plus all terms.
        prior: ``[b]``: cost of the noisiest state.
        terms: ``[b, steps]``: first the noisiest step, last the decoder.
        x0_mse: ``[b, steps]``: squared error of the estimate of x0.
        eps_mse: ``[b, steps]``: squared error of eps, taken from the (bounded) estimate of x0.
    """

    total: Tensor
    prior: Tensor
    terms: Tensor
    x0_mse: Tensor
    eps_mse: Tensor


@torch.no_grad()
def vlb(
    denoiser: Denoiser,
    x0: Tensor,
    plan: Plan,
    *,
    noise: Noise,
    cond: Cond | None = None,
    variance: str | None = None,
    decoder: str = "plan",
    official: bool = False,
) -> Bound:
    """The whole bound, with a fresh x_t for every step of the plan.

    Args:
        denoiser: Usually inside ``Bound(clip=True)``, as published likelihoods are.
        x0: 8-bit images ``[b, c, h, w]`` in [-1, 1].
        plan: Times that end at 0.
        noise: Random streams; step i uses ``noise.at(i)``.
        cond: Conditions.
        variance: Reverse variance; None: the denoiser's.
        decoder: Whence the variance of the last term is borrowed: the next noisier step of the "plan", or the next noisier "level" of a
            discrete schedule, whatever the plan.
        official: Use the approximate integral of the official code in the decoder term.

    Raises:
        ConfigError: Another ``decoder``.

    Source: Ho et al. 2020, equation 5; Nichol & Dhariwal 2021, section 2.2; Bao et al. 2022 (Analytic-DPM), appendix F ("level").
    """
    if decoder not in ("plan", "level"):
        raise unknown("decoder", decoder, ("plan", "level"))
    schedule, size = denoiser.schedule, len(x0)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in range(plan.steps):
        t, s = plan.grid[i].expand(size), plan.grid[i + 1].expand(size)
        t_up = plan.grid[i - 1].expand(size) if i else None
        if decoder == "level" and schedule.levels is not None:
            t_up = t + 1 / len(schedule.levels)
        eps = noise.at(i).normal(tuple(x0.shape), name="vlb", dtype=x0.dtype, device=x0.device)
        x_t = add_noise(schedule, x0, eps, t)
        posterior = denoiser(x_t, t, cond)
        term = vlb_term(schedule, posterior, x0, x_t, t, s, t_up, variance=variance or denoiser.variance, official=official)
        believed = from_x0("eps", posterior.x0, x_t, *schedule(t))
        columns.append((term, _mse(posterior.x0, x0), _mse(believed, eps)))
    terms, x0_mse, eps_mse = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    prior = prior_term(schedule, x0, plan.grid[0].expand(size))
    return Bound(prior + terms.sum(dim=1), prior, terms, x0_mse, eps_mse)


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(dim=1)


@torch.no_grad()
def bound_costs(
    denoiser: Denoiser,
    parts: Iterable[tuple[Tensor, Cond, Noise]],
    times: Tensor,
    *,
    variance: str,
    official: bool = False,
    on_pass: Callable[[], object] | None = None,
) -> np.ndarray:
    """What every step between two times adds to the bound, averaged over images; ``least_cost_path`` then finds the best trajectory.

    Args:
        denoiser: Usually inside ``Bound(clip=True)``.
        parts: Batches of clean 8-bit images in [-1, 1], their conditions and random streams; gone through once.
        times: The times to choose among, ``[n]`` float64, increasing; 0 is put before them.
        variance: As in ``covariance.reverse_kernel``.
        official: Use the approximate integral of the official code in the decoder.
        on_pass: Called without arguments after each pass of a batch at a time.

    Returns:
        ``[n + 1, n + 1]`` bits/dim, from s (first axis) to t > s; infinite elsewhere. The decoder, s = 0, has the variance of x_t, and from
        the first time beta_tilde of the first two.

    Source: Watson et al. 2021, section 3; Bao et al. 2022 (Analytic-DPM), appendix F.
    """
    schedule = denoiser.schedule
    total = np.full((len(times) + 1, len(times) + 1), np.inf)
    total[np.triu_indices(len(total), 1)] = 0.0
    count = 0
    first = 2 * bridge(schedule, times[1:2], times[:1]).std.log()
    for x0, cond, noise in parts:
        count += len(x0)
        for i, time in enumerate(times):
            t = time.expand(len(x0))
            eps = noise.at(i).normal(tuple(x0.shape), name="eps", dtype=x0.dtype, device=x0.device)
            x_t = add_noise(schedule, x0, eps, t)
            posterior = denoiser(x_t, t, cond)
            log_var = first if i == 0 else 2 * schedule(t)[1].log()
            scale = expand(0.5 * log_var.expand(len(x0)), x0).expand_as(x0)
            total[0, i + 1] += float(bits_per_dim(-discretized_log_likelihood(x0, posterior.x0, scale, official=official)).sum())
            for k, at in enumerate(times[:i]):
                s = at.expand(len(x0))
                a, b, std = bridge(schedule, t, s)
                kernel = reverse_kernel(schedule, posterior, x_t, t, s, None, variance=variance)
                true = expand(a, x_t) * x0 + expand(b, x_t) * x_t
                total[k + 1, i + 1] += float(bits_per_dim(normal_kl(true, expand(2 * std.log(), x_t), kernel.mean, kernel.log_var)).sum())
            if on_pass is not None:
                on_pass()
    return total / max(count, 1)
