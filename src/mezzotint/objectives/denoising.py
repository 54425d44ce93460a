"""Regression of x0, eps, v, flow or score, with the usual weightings and Improved DDPM's hybrid term."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mezzotint.conditioning import Conditioner
from mezzotint.configs import DenoisingConfig
from mezzotint.denoise import NetworkDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.objectives.variational import vlb_term
from mezzotint.process import add_noise, bridge, expand, target
from mezzotint.registry import register
from mezzotint.times import TimeLaw
from mezzotint.types import Batch, Cond, Loss, Phase, Times

MIN_SNR = 5.0
ERRORS: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {"l2": ("mse", torch.square), "l1": ("mae", torch.abs)}
"""Loss -> its name in the log, and its function."""


def weight(weighting: str, predicts: str, alpha: Tensor, sigma: Tensor, *, sigma_data: float = 0.5) -> Tensor:
    """Weight of the squared error in the space of the prediction.

    All weightings but "simple" are defined as a weight w of the squared error of x0, and divided here by the ratio between the squared
    error of the prediction and that of x0.

    Args:
        weighting: "simple" (1 in the space of the prediction), "snr" (w = SNR, which is the simple loss of eps), "truncated_snr"
            (max(SNR, 1)), "min_snr" (min(SNR, 5)) or "edm" (1 / sigma^2 + 1 / sigma_data^2 at the ratio sigma / alpha).
        predicts: As in ``DenoiserConfig``.
        alpha: ``[b]`` float64.
        sigma: ``[b]`` float64.
        sigma_data: Standard deviation of the data, for "edm".

    Returns:
        ``[b]`` float64.

    Source: Ho et al. 2020, equation 14 (simple); Salimans & Ho 2022, section 4 (SNR, truncated); Hang et al. 2023, equation 10
    (minimum); Karras et al. 2022, table 1 ("edm").
    """
    if weighting == "simple":
        return torch.ones_like(alpha)
    snr = (alpha / sigma) ** 2
    w = {
        "snr": snr,
        "truncated_snr": snr.clamp_min(1),
        "min_snr": snr.clamp_max(MIN_SNR),
        "edm": snr + sigma_data**-2,
    }[weighting]
    ratio = {
        "eps": snr,
        "scaled_score": snr,
        "v": ((alpha**2 + sigma**2) / sigma) ** 2,  # snr + 1 where the process preserves variance
        "flow": ((alpha + sigma) / sigma) ** 2,
        "score": (alpha / sigma**2) ** 2,
    }.get(predicts)
    return w if ratio is None else w / ratio


@register("objective", "denoising")
class Denoising(Objective):
    """Weighted squared error of the network's prediction; with a learned variance also the variational bound (hybrid loss).

    L = L_simple + vlb * L_vlb, where L_vlb in bits/dim is estimated by (number of levels) * (term of the drawn level). The mean is
    detached in the second part, so that it trains the variance alone.

    Args:
        denoiser: What is trained.
        conditioner: Makes the conditions.
        law: Draws the times.
        config: Weighting and weight of the bound.
        official: Use the official code's approximate Gaussian integral in the last decoding term.

    Source: Ho et al. 2020, equation 14; Nichol & Dhariwal 2021, equation 16; Saharia et al. 2021 (SR3), equation 6 (absolute error).
    """

    def __init__(
        self, denoiser: NetworkDenoiser, conditioner: Conditioner, law: TimeLaw, config: DenoisingConfig, *, official: bool = False
    ):
        super().__init__()
        self.denoiser, self.conditioner, self.law = denoiser, conditioner, law
        self.config, self.official = config, official
        self.hybrid = config.vlb > 0 and denoiser.config.variance in ("learned", "learned_range")
        if config.loss == "l1" and config.weighting != "simple":
            raise ConfigError(f"objective.loss l1 has the weighting simple alone, not '{config.weighting}'; use one or the other")
        grid = getattr(law, "grid", None)
        if self.hybrid and grid is None:
            raise CapabilityError("a learned variance is trained on numbered levels; use a discrete schedule with times.law uniform")
        self.num_levels = 0 if grid is None else len(grid)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("denoise", (self.denoiser.network,)),)

    @property
    def models(self) -> Mapping[str, nn.Module]:
        return {"model": self.denoiser.network}

    def terms(self, x0: Tensor, eps: Tensor, times: Times, cond: Cond) -> dict[str, Tensor]:
        """The parts of the loss, each ``[b]``, and their sum "loss".

        Args:
            x0: Clean images ``[b, c, h, w]``.
            eps: The noise that is added, likewise.
            times: Where; ``s`` and ``t_up`` are needed by the hybrid loss.
            cond: Conditions.

        Returns:
            "mse", or "mae" for the absolute error (unweighted, in the space of the prediction), "vlb" in bits/dim of the hybrid loss, and
            "loss".
        """
        denoiser = self.denoiser
        schedule, config = denoiser.schedule, denoiser.config
        t = times.t
        x_t = add_noise(schedule, x0, eps, t)
        prediction = denoiser.predict(x_t, t, cond)
        alpha, sigma = schedule(t)
        if config.predicts == "x_prev":
            a, b, _ = bridge(schedule, t, denoiser.own_s(t))
            wanted = expand(a, x_t) * x0 + expand(b, x_t) * x_t
        else:
            wanted = target("x0" if config.predicts == "edm" else config.predicts, x0, eps, alpha, sigma)
        name, error = ERRORS[self.config.loss]
        mean = error(prediction.value - wanted).flatten(1).mean(dim=1)
        scale = weight(self.config.weighting, config.predicts, alpha, sigma, sigma_data=config.sigma_data)
        out = {name: mean}
        loss = mean * scale.to(device=mean.device, dtype=mean.dtype)
        if self.hybrid:
            frozen = denoiser.posterior(prediction._replace(value=prediction.value.detach()), x_t, t)
            assert times.s is not None
            bound = vlb_term(schedule, frozen, x0, x_t, t, times.s, times.t_up, variance=config.variance, official=self.official)
            out["vlb"] = self.num_levels * bound
            loss = loss + self.config.vlb * out["vlb"]
        out["loss"] = loss
        return out

    def forward(self, batch: Batch, *, phase: str, step: int, noise: Noise) -> Loss:
        x0 = batch.images
        times = self.law.draw(len(x0), noise)
        eps = noise.normal(tuple(x0.shape), name="eps", dtype=x0.dtype, device=x0.device)
        cond = self.conditioner(batch, t=times.t, noise=noise, training=self.training)
        terms = self.terms(x0, eps, times, cond)
        loss = terms["loss"]
        logs = {name: value.detach().mean() for name, value in terms.items() if name != "loss"}
        return Loss((loss * times.weight.to(loss)).mean(), loss.detach(), times.t, logs)

    def update(self, t: Tensor, per_sample: Tensor, *, phase: str) -> None:
        self.law.update(t, per_sample)
