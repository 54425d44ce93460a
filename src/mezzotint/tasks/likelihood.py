"""Bits/dim of a data set under a model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mezzotint.codecs import Pixel
from mezzotint.conditioning import Label
from mezzotint.data import Source
from mezzotint.denoise import Bound, Denoiser
from mezzotint.errors import CapabilityError, ConfigError, DataError, unknown
from mezzotint.metrics.likelihood import vlb
from mezzotint.metrics.ode_likelihood import STAGES, density_bits, dequantize, ode_density
from mezzotint.noise import Noise
from mezzotint.pipelines.generate import Model
from mezzotint.sample.grid import make_grid
from mezzotint.types import Batch, Cond, Plan

Method = Literal["vlb", "ode"]
VLB_STEPS = 1000
"""Steps of the bound for schedules without numbered levels."""


@dataclass(frozen=True)
class Likelihood:
    """Bits/dim of images, and where they come from.

    Attributes:
        method: "vlb" or "ode".
        bits_per_dim: Mean over images.
        std: Standard deviation over images; 0 for one image.
        error: Standard error of the mean.
        per_image: The bits/dim of each image, in the order of ``ids``.
        ids: Position of each image in the data.
        settings: What the figures depend on beside model and data.
        prior: Cost of the noisiest state, bits/dim; "vlb" only, like all that follows.
        terms: Mean of each term, bits/dim, the noisiest step first and the decoder last.
        x0_mse: Mean squared error of the estimate of x0 at each step, in [-1, 1] squared.
        times: The time of each step.
    """

    method: str
    bits_per_dim: float
    std: float
    error: float
    per_image: tuple[float, ...]
    ids: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    prior: float | None = None
    terms: tuple[float, ...] = ()
    x0_mse: tuple[float, ...] = ()
    times: tuple[float, ...] = ()

    @property
    def decoder(self) -> float:
        """The last term, bits/dim: what is left to tell when the least noisy state is known."""
        return self.terms[-1]

    @property
    def steps(self) -> float:
        """Sum of the terms between prior and decoder, bits/dim."""
        return math.fsum(self.terms[:-1])

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain lists, numbers and strings."""
        parts = {} if self.prior is None else {"prior": self.prior, "steps": self.steps, "decoder": self.decoder}
        detail = {"terms": list(self.terms), "x0_mse": list(self.x0_mse), "times": list(self.times)} if self.terms else {}
        return {
            "method": self.method,
            "bits_per_dim": self.bits_per_dim,
            "std": self.std,
            "standard_error": self.error,
            "images": len(self.ids),
            **parts,
            **self.settings,
            **detail,
            "ids": list(self.ids),
            "per_image": list(self.per_image),
        }


def likelihood(
    model: Model,
    source: Source,
    *,
    num: int | None = None,
    method: str = "vlb",
    steps: int | None = None,
    grid: str | None = None,
    trace: str = "hutchinson",
    solver: str = "rk4",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    norm: str = "image",
    variance: str | None = None,
    official: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    on_batch: Callable[[int], object] | None = None,
) -> Likelihood:
    """Measures a model on data.

    Args:
        model: A generator of pixels. Class-conditional ones are told the class of each image.
        source: Images such as the model was trained on.
        num: Number of images, evenly spread over the source; None: all.
        method: "vlb" sums the variational bound of the reverse chain; "ode" integrates the probability-flow ODE.
        steps: Steps; None: for "vlb" all levels or 1000, for "ode" 50.
        grid: Spacing of the times; None: "uniform" for "vlb", "logsnr" for "ode".
        trace: As for ``ode_density``; "ode" only.
        solver: As for ``ode_density``; "ode" only.
        rtol: As for ``ode_density``, for solvers that choose their own steps.
        atol: Likewise.
        norm: Likewise.
        variance: Reverse variance of the chain, as in ``covariance.reverse_kernel``; None: that of the training. "vlb" only.
        official: Use the approximate integral of the official code in the decoder; "vlb" only.
        seed: Seed of noise, dequantisation and probes.
        batch_size: Images in a pass.
        on_batch: Called after each batch with its number of images.

    Returns:
        The figures.

    Raises:
        ConfigError: Unknown names.
        DataError: Images of another kind than those of the model.
        CapabilityError: A model of latents, or the bound of 16-bit images.
    """
    if method not in get_args(Method):
        raise unknown("method", method, get_args(Method))
    if batch_size < 1:
        raise ConfigError(f"a batch of {batch_size}; give at least 1")
    check(model, source)
    if method == "vlb" and model.facts.bits != 8:
        raise CapabilityError(f"the bound's decoder knows 8-bit pixels, and these have {model.facts.bits}; use the method ode")
    ids = spread(len(source), num)
    bits: list[Tensor] = []
    settings: dict[str, Any] = {"seed": seed, "data_range": [-1, 1], "bits": model.facts.bits, "data": source.fingerprint}
    if method == "ode":
        spacing, adaptive = grid or "logsnr", solver not in STAGES
        if adaptive and not (steps is None and grid is None):
            warnings.warn(f"solver {solver} chooses its own times; steps and grid have no effect", stacklevel=2)
        calls = 0.0
        for x0, cond, noise in batches(model, source, ids, seed, batch_size):
            x = dequantize(x0, bits=model.facts.bits, noise=noise)
            how = {"solver": solver, "trace": trace, "rtol": rtol, "atol": atol, "norm": norm}
            found = ode_density(model.stage.denoiser.eval(), x, noise=noise, cond=cond, steps=steps, spacing=spacing, **how)
            bits.append(density_bits(found.log_density, x0[0].numel(), bits=model.facts.bits).cpu())
            calls += found.calls * len(x0) / len(ids)
            if on_batch is not None:
                on_batch(len(x0))
        settings |= {"dequantization": "uniform", "trace": trace, "solver": solver, "calls": round(calls, 6)}
        settings |= {"rtol": rtol, "atol": atol, "norm": norm} if adaptive else {"grid": spacing}
        return _summary(method, bits, ids, settings)
    denoiser, plan = coder(model, steps, grid, variance)
    sums = torch.zeros(3, plan.steps, dtype=torch.float64)
    for x0, cond, noise in batches(model, source, ids, seed, batch_size):
        bound = vlb(denoiser, x0, plan, noise=noise, cond=cond, variance=variance, official=official)
        bits.append(bound.total.cpu())
        sums[0] += bound.terms.double().sum(0).cpu()
        sums[1] += bound.x0_mse.double().sum(0).cpu()
        sums[2] += bound.prior.double().sum().cpu()
        if on_batch is not None:
            on_batch(len(x0))
    means = sums / len(ids)
    clip = isinstance(denoiser, Bound)
    settings |= {"steps_taken": plan.steps, "grid": grid or "uniform", "variance": variance or denoiser.variance, "clip": clip}
    settings["official"] = official
    return _summary(
        method,
        bits,
        ids,
        settings,
        prior=float(means[2, 0]),
        terms=tuple(means[0].tolist()),
        x0_mse=tuple(means[1].tolist()),
        times=tuple(plan.grid[:-1, 0].tolist()),
    )


def _summary(method: str, bits: list[Tensor], ids: tuple[int, ...], settings: dict[str, Any], **more: Any) -> Likelihood:
    values = torch.cat(bits).double()
    std = float(values.std()) if len(values) > 1 else 0.0
    return Likelihood(method, float(values.mean()), std, std / math.sqrt(len(values)), tuple(values.tolist()), ids, settings, **more)


def coder(model: Model, steps: int | None, grid: str | None, variance: str | None = None) -> tuple[Denoiser, Plan]:
    """The denoiser with the bounds that the model's own sampling has, and the times of the bound."""
    denoiser = model.with_variance() if variance == "optimal" else model.stage.denoiser
    spacing = grid or "uniform"
    if steps is None and spacing == "uniform" and denoiser.schedule.levels is None:
        steps = VLB_STEPS
    bounded = Bound(denoiser) if model.spec.recipe.sample.clip else denoiser
    return bounded.eval(), Plan(make_grid(denoiser.schedule, spacing, steps))


def check(model: Model, source: Source) -> None:
    """Whether a source holds what a model generates.

    Raises:
        DataError: Other images or classes.
        CapabilityError: A model of latents.
    """
    if not isinstance(model.stage.codec, Pixel):
        raise CapabilityError("bits/dim are defined for models of pixels, and this one generates latents")
    own, facts = model.facts, source.facts
    if (own.channels, own.size, own.bits) != (facts.channels, facts.size, facts.bits):
        kinds = [f"{f.size[0]}x{f.size[1]}x{f.channels} of {f.bits} bits" for f in (facts, own)]
        raise DataError(f"the data has images {kinds[0]}, and the model generates {kinds[1]}; give data like that of its training")
    if model.stage.conditioner.part(Label) is not None and own.classes != facts.classes:
        raise DataError(
            f"the data has {len(facts.classes)} classes and the model {len(own.classes)}, or other names; give data with its classes"
        )


def spread(total: int, num: int | None) -> tuple[int, ...]:
    """So many ids, evenly spread, since folders hold one class after the other.

    Raises:
        ConfigError: None, or more than there are.

    Example:
        >>> spread(10, 4)
        (0, 2, 5, 7)
    """
    num = total if num is None else num
    if not 1 <= num <= total:
        raise ConfigError(f"{num} images were asked for, and the data has {total}; give a number from 1 to that")
    return tuple(int(k) for k in np.arange(num) * total // num)


def batches(model: Model, source: Source, ids: tuple[int, ...], seed: int, size: int) -> Iterator[tuple[Tensor, Cond, Noise]]:
    """Images on the model's device, their conditions and streams."""
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        batch = source.batch(part)
        noise = Noise(seed, part, stage="likelihood")
        label = None if batch.label is None else batch.label.to(model.device)
        batch = Batch(batch.images.to(model.device), batch.ids, label)
        t = torch.zeros(len(part), dtype=torch.float64)
        yield batch.images, model.stage.conditioner(batch, t=t, noise=noise, training=False), noise
