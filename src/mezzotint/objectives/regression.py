"""Regression of images from their conditions alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mezzotint.conditioning import Conditioner
from mezzotint.configs import RegressionConfig
from mezzotint.denoise import NetworkDenoiser
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.objectives.denoising import ERRORS
from mezzotint.registry import register
from mezzotint.times import TimeLaw
from mezzotint.types import Batch, Loss, Phase


@register("objective", "regression")
class Regression(Objective):
    """The error of the image that the network gives at once.

    The network sees neither a noisy image nor a noise level (both are zero), so that it is the same function class as one without them.

    Args:
        denoiser: Holds the network.
        conditioner: Makes the conditions.
        law: Not used, for there are no times; it makes the call that of other objectives.
        config: The error.

    Source: Saharia et al. 2021 (SR3), section 4 (regression baseline).
    """

    def __init__(self, denoiser: NetworkDenoiser, conditioner: Conditioner, law: TimeLaw, config: RegressionConfig):
        super().__init__()
        self.denoiser, self.conditioner, self.config = denoiser, conditioner, config

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("regress", (self.denoiser.network,)),)

    @property
    def models(self) -> Mapping[str, nn.Module]:
        return {"model": self.denoiser.network}

    def forward(self, batch: Batch, *, phase: str, step: int, noise: Noise) -> Loss:
        t = torch.zeros(len(batch.images), dtype=torch.float64)
        cond = self.conditioner(batch, t=t, noise=noise, training=self.training)
        name, error = ERRORS[self.config.loss]
        loss = error(self.denoiser.answer(batch.images, cond) - batch.images).flatten(1).mean(dim=1)
        return Loss(loss.mean(), loss.detach(), t, {name: loss.detach().mean()})
