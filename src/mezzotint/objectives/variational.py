"""The variational bound of the reverse chain, term by term, in bits/dim."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mezzotint.conditioning import Conditioner
from mezzotint.configs import VLBConfig
from mezzotint.covariance import reverse_kernel, small_log_variance
from mezzotint.denoise import NetworkDenoiser
from mezzotint.errors import CapabilityError
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.process import add_noise, bridge, expand
from mezzotint.registry import register
from mezzotint.schedules import Schedule
from mezzotint.times import TimeLaw
from mezzotint.types import Batch, Cond, Loss, Phase, Posterior, Times

LEVEL = 1 / 255  # half the distance between two of the 256 levels in [-1, 1]
FLOOR = 1e-12


def normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, exp(log_var1)) || N(mean2, exp(log_var2))), elementwise, in nats; arguments broadcast.

    Source: Kingma & Welling 2014, appendix B, for two general Gaussians.
    """
    return 0.5 * (log_var2 - log_var1 - 1 + torch.exp(log_var1 - log_var2) + (mean1 - mean2).square() * torch.exp(-log_var2))


def normal_cdf(z: Tensor, *, official: bool = False) -> Tensor:
    """The standard normal distribution function.

    Args:
        z: Any shape.
        official: Use the tanh approximation of the official code (largest error 2e-4) in place of the exact function.
    """
    if official:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    return torch.special.ndtr(z)


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor, *, official: bool = False) -> Tensor:
    """log P of 8-bit pixels under a Gaussian integrated over each level, elementwise, in nats.

    Args:
        x: Pixels in [-1, 1], on the 256 levels; the lowest and the highest level reach to infinity.
        mean: Mean of the Gaussian.
        log_scale: Log of its standard deviation.
        official: Use the approximate integral of the official code.

    Source: Ho et al. 2020, equation 13.
    """
    centred, inverse = x - mean, torch.exp(-log_scale)
    upper = normal_cdf(inverse * (centred + LEVEL), official=official)
    lower = normal_cdf(inverse * (centred - LEVEL), official=official)
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return probability.clamp_min(FLOOR).log()


def bits_per_dim(nats: Tensor) -> Tensor:
    """Mean over all but the first axis, from nats to bits, ``[b]``."""
    return nats.flatten(1).mean(dim=1) / math.log(2)


def prior_term(schedule: Schedule, x0: Tensor, t: Tensor) -> Tensor:
    """KL(q(x_t | x0) || N(0, prior_scale^2 I)) at the noisiest time, ``[b]`` bits/dim.

    Source: Ho et al. 2020, equation 5 (L_T).
    """
    alpha, sigma = schedule(t)
    zero = torch.zeros((), dtype=x0.dtype, device=x0.device)
    prior = zero + 2 * math.log(schedule.prior_scale)
    return bits_per_dim(normal_kl(expand(alpha, x0) * x0, expand(2 * sigma.log(), x0), zero, prior))


def vlb_term(
    schedule: Schedule,
    posterior: Posterior,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    t_up: Tensor | None,
    *,
    variance: str,
    official: bool = False,
) -> Tensor:
    """One term of the bound: KL(q(x_s | x_t, x0) || p(x_s | x_t)), or -log p(x0 | x_t) where s = 0.

    Args:
        schedule: Gives alpha and sigma.
        posterior: What the denoiser believes at (x_t, t).
        x0: Clean images ``[b, c, h, w]`` in [-1, 1].
        x_t: Noisy images, likewise.
        t: ``[b]`` float64.
        s: ``[b]`` float64, the next cleaner time.
        t_up: ``[b]`` float64, the next noisier time, or None.
        variance: As in ``covariance.reverse_kernel``.
        official: Use the approximate integral of the official code at s = 0.

    Returns:
        ``[b]`` bits/dim.

    Source: Ho et al. 2020, equation 5; Nichol & Dhariwal 2021, section 2.2.
    """
    a, b, _ = bridge(schedule, t, s)
    true_mean = expand(a, x_t) * x0 + expand(b, x_t) * x_t
    true_log_var = expand(small_log_variance(schedule, t, s, t_up), x_t)
    kernel = reverse_kernel(schedule, posterior, x_t, t, s, t_up, variance=variance)
    kl = bits_per_dim(normal_kl(true_mean, true_log_var, kernel.mean, kernel.log_var))
    if not bool((s == 0).any()):
        return kl
    # Var[x0 | x_t] knows nothing of the 256 levels, and may be 0: the decoder has the variance of the other choices.
    log_var = true_log_var if variance == "optimal" else kernel.log_var
    decoder = bits_per_dim(-discretized_log_likelihood(x0, kernel.mean, 0.5 * log_var.expand_as(x0), official=official))
    return torch.where((s == 0).to(kl.device), decoder, kl)


@register("objective", "vlb")
class VLB(Objective):
    """The bound itself as a loss: (number of levels) * (term of a drawn level), in bits/dim.

    Args:
        denoiser: What is trained.
        conditioner: Makes the conditions.
        law: Draws levels; importance sampling lowers the gradient noise much.
        config: Whether the number of levels multiplies the term.
        official: Use the approximate integral of the official code.

    Source: Nichol & Dhariwal 2021, section 3.3.
    """

    def __init__(self, denoiser: NetworkDenoiser, conditioner: Conditioner, law: TimeLaw, config: VLBConfig, *, official: bool = False):
        super().__init__()
        self.denoiser, self.conditioner, self.law = denoiser, conditioner, law
        self.official = official
        grid = getattr(law, "grid", None)
        if grid is None:
            raise CapabilityError("the variational bound is trained on numbered levels; use a discrete schedule with times.law importance")
        self.scale = len(grid) if config.rescale else 1

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("denoise", (self.denoiser.network,)),)

    @property
    def models(self) -> Mapping[str, nn.Module]:
        return {"model": self.denoiser.network}

    def terms(self, x0: Tensor, eps: Tensor, times: Times, cond: Cond) -> dict[str, Tensor]:
        """The loss of each example, ``[b]`` bits/dim, as "loss"; arguments as for ``Denoising.terms``."""
        assert times.s is not None
        schedule = self.denoiser.schedule
        x_t = add_noise(schedule, x0, eps, times.t)
        posterior = self.denoiser(x_t, times.t, cond)
        variance = self.denoiser.config.variance
        term = vlb_term(schedule, posterior, x0, x_t, times.t, times.s, times.t_up, variance=variance, official=self.official)
        return {"loss": self.scale * term}

    def forward(self, batch: Batch, *, phase: str, step: int, noise: Noise) -> Loss:
        x0 = batch.images
        times = self.law.draw(len(x0), noise)
        eps = noise.normal(tuple(x0.shape), name="eps", dtype=x0.dtype, device=x0.device)
        cond = self.conditioner(batch, t=times.t, noise=noise, training=self.training)
        loss = self.terms(x0, eps, times, cond)["loss"]
        return Loss((loss * times.weight.to(loss)).mean(), loss.detach(), times.t)

    def update(self, t: Tensor, per_sample: Tensor, *, phase: str) -> None:
        self.law.update(t, per_sample)
