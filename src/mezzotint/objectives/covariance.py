"""Training of the second head of SN- and NPR-DPM on a network that is not trained any more."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mezzotint.conditioning import Conditioner
from mezzotint.errors import CapabilityError
from mezzotint.moments import KnownVariance
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.process import add_noise, from_x0
from mezzotint.times import TimeLaw
from mezzotint.types import Batch, Cond, Loss, Phase


class CovarianceRegression(Objective):
    """Squared error, summed over the pixels, of a second head: for "sn" from eps^2, for "npr" from (eps - eps_hat)^2.

    The network under the head has no gradient and no dropout.

    Args:
        denoiser: The network with its head.
        conditioner: Makes the conditions.
        law: Draws the times.

    Raises:
        CapabilityError: A denoiser without a head.

    Source: Bao et al. 2022 (Estimating the optimal covariance), equations 10 and 14.
    """

    def __init__(self, denoiser: KnownVariance, conditioner: Conditioner, law: TimeLaw):
        super().__init__()
        if denoiser.config.method not in ("sn", "npr") or denoiser.part is None:
            raise CapabilityError(f"covariance '{denoiser.config.method}' has no head to train; use sn or npr")
        self.denoiser, self.conditioner, self.law = denoiser, conditioner, law
        self.head: nn.Module = denoiser.part
        denoiser.inner.requires_grad_(False)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("covariance", (self.head,)),)

    @property
    def models(self) -> Mapping[str, nn.Module]:
        return {"model": self.head}

    def train(self, mode: bool = True) -> CovarianceRegression:
        """Sets the mode of the head; the rest stays as it is used."""
        super().train(mode)
        self.denoiser.inner.eval()
        return self

    def terms(self, x0: Tensor, eps: Tensor, t: Tensor, cond: Cond) -> dict[str, Tensor]:
        """The parts of the loss.

        Args:
            x0: Clean images ``[b, c, h, w]``.
            eps: The noise that is added, likewise.
            t: Times ``[b]``.
            cond: Conditions.

        Returns:
            "mean", the squared error of the predicted noise, and "loss", that of the head; each ``[b]``, summed over the pixels.
        """
        schedule = self.denoiser.schedule
        x_t = add_noise(schedule, x0, eps, t)
        posterior, second = self.denoiser.both(x_t, t, cond)
        error = (eps - from_x0("eps", posterior.mean, x_t, *schedule(t)).detach()).square()
        wanted = error if self.denoiser.config.method == "npr" else eps.square()
        return {"mean": error.flatten(1).sum(dim=1), "loss": (wanted - second).square().flatten(1).sum(dim=1)}

    def forward(self, batch: Batch, *, phase: str, step: int, noise: Noise) -> Loss:
        x0 = batch.images
        times = self.law.draw(len(x0), noise)
        eps = noise.normal(tuple(x0.shape), name="eps", dtype=x0.dtype, device=x0.device)
        with torch.no_grad():
            cond = self.conditioner(batch, t=times.t, noise=noise, training=self.training)
        terms = self.terms(x0, eps, times.t, cond)
        return Loss((terms["loss"] * times.weight.to(x0)).mean(), terms["loss"].detach(), times.t, {"mean": terms["mean"].mean()})
