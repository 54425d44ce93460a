"""Bits/dim of images under the reverse chain of a denoiser."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser
from mezzotint.noise import Noise
from mezzotint.objectives.variational import prior_term, vlb_term
from mezzotint.process import add_noise, from_x0
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
        official: Use the approximate integral of the official code in the decoder term.

    Source: Ho et al. 2020, equation 5; Nichol & Dhariwal 2021, section 2.2.
    """
    schedule, size = denoiser.schedule, len(x0)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in range(plan.steps):
        t, s = plan.grid[i].expand(size), plan.grid[i + 1].expand(size)
        t_up = plan.grid[i - 1].expand(size) if i else None
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
