"""Where sampling starts: x and its own t."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.noise import Noise
from mezzotint.schedules import Schedule
from mezzotint.types import Cond


class Prior:
    """Draws the starting point of sampling."""

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


class Gaussian(Prior):
    """Pure noise at ``schedule.t_max``: standard normal, or of standard deviation sigma where the variance explodes.

    Source: Ho et al. 2020, algorithm 2; Karras et al. 2022, algorithm 1.
    """

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    def sample(self, shape: Sequence[int], *, cond: Cond, noise: Noise) -> tuple[Tensor, Tensor]:
        count = len(noise.ids)
        x = self.schedule.prior_scale * noise.normal((count, *shape), name="prior")
        return x, torch.full((count,), self.schedule.t_max, dtype=torch.float64)
