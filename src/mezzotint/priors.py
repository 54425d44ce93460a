"""Where sampling starts: x and its own t."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.denoise import NetworkDenoiser
from mezzotint.noise import Noise
from mezzotint.registry import register
from mezzotint.schedules import Schedule
from mezzotint.types import Cond


class Prior:
    """Draws the starting point of sampling.

    Attributes:
        clean: Whether what it gives is finished, at t = 0, so that no step follows.
    """

    clean: bool = False

    @classmethod
    def of(cls, denoiser: NetworkDenoiser) -> Prior:
        """The prior that goes with a denoiser."""
        raise NotImplementedError

    def sample(self, shape: Sequence[int], *, cond: Cond, noise: Noise) -> tuple[Tensor, Tensor]:
        """Starting points and the time of each.

        Args:
            shape: Shape of one image, ``(c, h, w)``.
            cond: Conditions.
            noise: Random streams; their number is the number of images.

        Returns:
            x ``[b, c, h, w]`` float32 and t ``[b]`` float64.
        """
        raise NotImplementedError


@register("prior", "gaussian")
class Gaussian(Prior):
    """Pure noise at ``schedule.t_max``: standard normal, or of standard deviation sigma where the variance explodes.

    Source: Ho et al. 2020, algorithm 2; Karras et al. 2022, algorithm 1.
    """

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    @classmethod
    def of(cls, denoiser: NetworkDenoiser) -> Gaussian:
        return cls(denoiser.schedule)

    def sample(self, shape: Sequence[int], *, cond: Cond, noise: Noise) -> tuple[Tensor, Tensor]:
        count = len(noise.ids)
        x = self.schedule.prior_scale * noise.normal((count, *shape), name="prior")
        return x, torch.full((count,), self.schedule.t_max, dtype=torch.float64)


@register("prior", "one_shot")
class OneShot(Prior):
    """The network's answer to the conditions alone, as a finished image.

    Source: Saharia et al. 2021 (SR3), section 4 (regression baseline).
    """

    clean = True

    def __init__(self, denoiser: NetworkDenoiser):
        self.denoiser = denoiser

    @classmethod
    def of(cls, denoiser: NetworkDenoiser) -> OneShot:
        return cls(denoiser)

    @torch.no_grad()
    def sample(self, shape: Sequence[int], *, cond: Cond, noise: Noise) -> tuple[Tensor, Tensor]:
        count = len(noise.ids)
        like = torch.zeros(count, *shape, device=next(self.denoiser.parameters()).device)
        return self.denoiser.answer(like, cond), torch.zeros(count, dtype=torch.float64)
