"""DDIM inversion: the noise that a model turns into a given image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.generate import NULL, GuidanceLike, Model
from mezzotint.sample.ancestral import DDIM, DDIMInversion
from mezzotint.sample.loop import sample
from mezzotint.types import Cond, Plan


@dataclass(frozen=True)
class Inversion:
    """What images come from, and what they become again.

    Attributes:
        latent: The noise, ``[b, c, h, w]``, in the space that the model works in.
        t: The time at which it is that noise.
        reconstruction: What DDIM makes of it in as many steps, as images ``[b, c, h, w]``.
        rmse: Root mean squared error of each reconstruction, ``[b]``, in levels of 0 to 255.
        largest: Largest error of each, likewise.
        steps: Steps of either way.
    """

    latent: Tensor
    t: float
    reconstruction: Tensor
    rmse: Tensor
    largest: Tensor
    steps: int


def invert(
    model: Model,
    images: Tensor,
    *,
    label: str | None = None,
    steps: int = 50,
    grid: str = "uniform",
    guidance: GuidanceLike | Sequence[GuidanceLike] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> Inversion:
    """Runs DDIM's ODE from images to noise, and back again.

    The images are taken to lie at the cleanest time that the network knows. x0 is not clipped, since clipping cannot be undone. The error
    falls as steps grow; guidance and labels that are not those of the image make it larger.

    Args:
        model: A generator.
        images: ``[b, c, h, w]`` in [-1, 1].
        label: Class of the images, by name or label; None: the null class, or none for unconditional models.
        steps: Steps of either way.
        grid: Spacing of the times.
        guidance: As for ``Model.job``; the same on both ways.
        on_step: Called after each step with its number and the number of steps, on the way to the noise and then on the way back.

    Raises:
        ConfigError: Images of another kind than the model makes, or a label that is missing or unknown.
        CapabilityError: The model has conditions beyond a class, or makes its images in no steps.

    Source: Song, Meng & Ermon 2021 (DDIM), section 4.3.
    """
    if images.ndim != 4 or images.shape[1] != model.facts.channels:
        raise ConfigError(f"images of shape {tuple(images.shape)}, and the model makes [b, {model.facts.channels}, h, w]; convert them")
    if others := model.stage.denoiser.accepts - {"label"}:
        raise CapabilityError(f"this model is told {', '.join(sorted(others))} as well; only models of images or classes can be inverted")
    conditional = "label" in model.stage.denoiser.accepts
    if conditional and label is None:
        if model.null is None:
            raise ConfigError(f"this model is class-conditional and has no null class; give the label: {', '.join(model.classes)}")
        label = NULL
    classes: dict[str | int, int] | None = None if label is None else {label: len(images)}
    wraps = (guidance,) if isinstance(guidance, str) or callable(guidance) else tuple(guidance)
    job = model.job(num=len(images), classes=classes, sampler="ddim", steps=steps, grid=grid, guidance=wraps, clip=False, end="last")
    denoiser, down = model.denoiser(job, wraps), model.plan(job)
    if down.steps == 0:
        raise CapabilityError("this model makes its images in no steps, so that there is nothing to invert")
    cond: Cond = {} if job.labels is None else {"label": torch.tensor(job.labels, device=model.device)}
    images = images.to(model.device)
    x = model.stage.codec.encode(images, noise=Noise(0, job.ids, stage="invert"))
    up = sample(denoiser, DDIMInversion(), Plan(down.grid.flip(0)), x, cond=cond, on_step=on_step)
    back = sample(denoiser, DDIM(), down, up.x, cond=cond, on_step=on_step)
    with torch.no_grad():
        reconstruction = model.stage.codec.decode(back.x)
    off = 127.5 * (reconstruction.clamp(-1, 1) - images).flatten(1)
    rmse, largest = off.square().mean(dim=1).sqrt(), off.abs().amax(dim=1)
    return Inversion(up.x.cpu(), float(up.t[0]), reconstruction.cpu(), rmse.cpu(), largest.cpu(), down.steps)
