"""The density of images under the probability-flow ODE: the ODE is run from the image to the noise, its divergence alongside.

With u = x / alpha and r = sigma / alpha the ODE is du / d log r = r eps, and log p(u) falls along it by the trace of sigma d eps / dx.
Both are smooth in log r, whatever the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser
from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.process import expand, from_x0
from mezzotint.sample.grid import SPACINGS, make_grid
from mezzotint.sample.ode import METHODS, load_odeint
from mezzotint.schedules import Schedule
from mezzotint.types import Cond

Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""u and log r -> du / d log r and the rate at which log p falls."""
Trace = Literal["exact", "hutchinson"]
Norm = Literal["image", "batch"]
STAGES: dict[str, tuple[float, ...]] = {"rk4": (1 / 6, 1 / 3, 1 / 3, 1 / 6), "heun": (1 / 2, 1 / 2)}
"""Fixed-step solvers: the weights of the slopes of a step."""
SOLVERS = (*STAGES, *METHODS)
"""All solvers; those of ``mezzotint.sample.ode.METHODS`` choose their own steps."""
STEPS = 50


class Density(NamedTuple):
    """What the ODE says of images.

    Attributes:
        log_density: log p(x), ``[b]`` float64, in nats, for x in [-1, 1].
        latent: Where the ODE ends, shaped like x.
        calls: Network evaluations an image, on average.
    """

    log_density: Tensor
    latent: Tensor
    calls: float


def dequantize(x0: Tensor, *, bits: int, noise: Noise) -> Tensor:
    """Spreads each pixel evenly over its level, of width 2 / (2^bits - 1).

    Args:
        x0: Pixels in [-1, 1] that lie on the levels, ``[b, c, h, w]``.
        bits: Bits a channel.
        noise: Random streams.

    Returns:
        In the type of x0; the outermost values are half a level outside [-1, 1].

    Source: Theis et al. 2016, section 3.1.
    """
    share = noise.uniform(tuple(x0.shape), name="dequantize", dtype=x0.dtype, device=x0.device)
    return x0 + (2 * share - 1) / (2**bits - 1)


def density_bits(log_density: Tensor, dims: int, *, bits: int) -> Tensor:
    """From a density of dequantised pixels in [-1, 1] to bits/dim of the pixels.

    The density of one level is that of the pixel times the level's width 2 / (2^bits - 1): for 8 bits this adds log2(127.5) = 6.994.
    Averaged over dequantisations it bounds the bits of the pixels from above.

    Args:
        log_density: In nats, ``[b]``.
        dims: Numbers an image.
        bits: Bits a channel.

    Source: Theis et al. 2016, equations 3-5.
    """
    return -log_density / (dims * math.log(2)) + math.log2((2**bits - 1) / 2)


@torch.no_grad()
def ode_density(
    denoiser: Denoiser,
    x: Tensor,
    *,
    noise: Noise,
    cond: Cond | None = None,
    steps: int | None = None,
    spacing: str = "logsnr",
    solver: str = "rk4",
    trace: str = "hutchinson",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    norm: str = "image",
) -> Density:
    """log p(x) under the probability-flow ODE, from the schedule's ``t_min`` to its ``t_max`` and the Gaussian there.

    Args:
        denoiser: Without bounds: a clipped field has no divergence of use.
        x: Dequantised images ``[b, ...]`` about [-1, 1].
        noise: Random streams of the probes.
        cond: Conditions.
        steps: Steps of fixed places; None: what the spacing gives, or 50.
        spacing: As for ``make_grid``.
        solver: "rk4", 4 calls a step, "heun", 2 calls a step, or a method of torchdiffeq that chooses its own steps, such as "dopri5";
            steps and spacing then have no effect.
        trace: "exact" takes one backward pass a dimension, "hutchinson" one, for a vector of random signs that is kept for the whole path.
        rtol: Relative tolerance of a solver that chooses its own steps, on x / alpha and on the change of the log-density.
        atol: Absolute tolerance.
        norm: "image" integrates each image by itself, so that its density does not depend on its batch; "batch" all at once, with one
            error norm, as published codes do: quicker, and the same within the tolerances.

    Returns:
        The density and the latents.

    Raises:
        ConfigError: Another solver, trace or norm, or tolerances that are not positive.
        CapabilityError: The schedule has not one noise level for a whole image, or torchdiffeq is missing.

    Source: Song et al. 2021, equations 39-40 and appendix D.2; Grathwohl et al. 2019, equation 7 (the trace from random signs).
    """
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if trace not in get_args(Trace):
        raise unknown("trace", trace, get_args(Trace))
    if norm not in get_args(Norm):
        raise unknown("norm", norm, get_args(Norm))
    if not min(rtol, atol) > 0:
        raise ConfigError(f"rtol={rtol:g}, atol={atol:g}; both must be positive")
    schedule, size, dims = denoiser.schedule, len(x), x[0].numel()
    if not schedule.uniform:
        raise CapabilityError("the ODE's likelihood needs one noise level for the whole image; use the method vlb")
    adaptive = solver not in STAGES
    times = _times(schedule, "logsnr", 1) if adaptive else _times(schedule, spacing, steps)
    probe = None
    if trace == "hutchinson":
        signs = noise.uniform(tuple(x.shape), name="hutchinson", dtype=torch.float64) < 0.5
        probe = torch.where(signs, -1.0, 1.0).to(x)
    calls = 0

    def field(rows: slice) -> Slope:
        given = {name: value[rows] for name, value in (cond or {}).items()}
        signs = None if probe is None else probe[rows]

        def slope(u: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += len(u)
            t = schedule.time_of(-log_ratio).expand(len(u))
            alpha, sigma = schedule(t)
            with torch.enable_grad():
                x_t = (expand(alpha, u) * u).detach().requires_grad_(True)
                eps = from_x0("eps", denoiser(x_t, t, given).mean, x_t, alpha, sigma)
                divergence = _trace(eps, x_t, signs)
            return expand(sigma / alpha, u) * eps.detach(), sigma.to(divergence) * divergence

        return slope

    nodes = -schedule.half_log_snr(times)
    alpha, _ = schedule(times[:1])
    u = expand(1 / alpha.expand(size), x) * x
    if adaptive:
        blocks = [slice(k, k + 1) for k in range(size)] if norm == "image" else [slice(None)]
        done = [_integrate(field(rows), u[rows], nodes[0], nodes[-1], solver, rtol, atol) for rows in blocks]
        u, change = (torch.cat(parts) for parts in zip(*done, strict=True))
    else:
        change = torch.zeros(size, dtype=torch.float64, device=x.device)
        for start, end in pairwise(nodes):
            step_u, step_change = _step(field(slice(None)), u, start, end, STAGES[solver])
            u, change = u + step_u, change + step_change
    alpha_end, _ = schedule(times[-1:])
    latent = expand(alpha_end.expand(size), u) * u
    scale = _prior_scale(schedule, times[-1:])
    z = latent.double().flatten(1) / scale
    prior = -0.5 * (z.square().sum(1) + dims * math.log(2 * math.pi)) - dims * math.log(scale)
    return Density(prior + change + dims * float(alpha_end.log() - alpha.log()), latent, calls / size)


def _times(schedule: Schedule, spacing: str, steps: int | None) -> Tensor:
    """Times from clean to noisy, ``[n + 1]``; pure noise, where log r is infinite, gives way to the last time with some signal."""
    start = None
    if float(schedule(torch.tensor(schedule.t_max, dtype=torch.float64))[0]) == 0:
        if schedule.levels is not None:
            start = float(schedule.levels[schedule(schedule.levels)[0] > 0].max())
        else:
            start = float(schedule.time_of(-schedule.half_log_snr(torch.tensor(schedule.t_min, dtype=torch.float64))))
    named = spacing.partition(":")[0] in SPACINGS
    grid = make_grid(schedule, spacing, STEPS if steps is None and named else steps, t_start=start, t_end="last" if named else 0.0)
    grid = grid[:, 0]
    grid = grid[grid > 0].flip(0)
    if len(grid) < 2:
        raise ConfigError(f"grid '{spacing}' has no two times above 0; give more steps")
    return grid


def _prior_scale(schedule: Schedule, t: Tensor) -> float:
    if t.item() == schedule.t_max:
        return schedule.prior_scale
    return float(schedule(t)[1])


def _integrate(slope: Slope, u: Tensor, start: Tensor, end: Tensor, method: str, rtol: float, atol: float) -> tuple[Tensor, Tensor]:
    """u at the end of the path, and the change of the density along it, in steps that torchdiffeq chooses."""
    odeint = load_odeint(f"solver '{method}'", "rk4")

    def rate(share: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        place = start + share.cpu().clamp(0, 1) * (end - start)  # the choice of a first step looks ahead
        moved, changed = slope(state[0].to(u.dtype), place)
        return float(end - start) * moved.double(), float(end - start) * changed.double()

    ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=u.device)
    before = (u.double(), torch.zeros(len(u), dtype=torch.float64, device=u.device))
    after, change = odeint(rate, before, ends, rtol=rtol, atol=atol, method=method, options={"step_t": ends[1:]})
    return after[-1].to(u.dtype), change[-1]


def _step(slope: Slope, u: Tensor, start: Tensor, end: Tensor, weights: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The change of u and of the density in one step."""
    width = end - start
    h = width.to(u)
    places = (0.0, 0.5, 0.5, 1.0) if len(weights) == 4 else (0.0, 1.0)
    moved, changed = torch.zeros_like(u), torch.zeros(len(u), dtype=torch.float64, device=u.device)
    k = torch.zeros_like(u)
    for place, weight in zip(places, weights, strict=True):
        k, divergence = slope(u + place * h * k, start + place * width)
        moved = moved + weight * h * k
        changed = changed + weight * width.to(changed) * divergence.double()
    return moved, changed


def _trace(out: Tensor, x: Tensor, probe: Tensor | None) -> Tensor:
    """Trace of d out / d x of each image, ``[b]``, float64."""
    if not out.requires_grad:  # a constant
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)
    if probe is not None:
        (product,) = torch.autograd.grad(out, x, probe)
        return (product.double() * probe.double()).flatten(1).sum(1)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    columns = out.flatten(1)
    for i in range(columns.shape[1]):
        (product,) = torch.autograd.grad(columns[:, i].sum(), x, retain_graph=i + 1 < columns.shape[1])
        total = total + product.flatten(1)[:, i].double()
    return total
