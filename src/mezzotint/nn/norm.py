"""Group normalisation that keeps its precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_GROUPS = 32


def groups_for(channels: int) -> int:
    """Number of groups for a width: the largest divisor of it that is at most 32.

    Args:
        channels: Number of channels, at least 1.

    Returns:
        32 wherever the official networks can be built, since they always use 32.

    Example:
        >>> groups_for(64), groups_for(48), groups_for(10)
        (32, 24, 10)
    """
    return next(n for n in range(min(channels, MAX_GROUPS), 0, -1) if channels % n == 0)


class GroupNorm(nn.GroupNorm):
    """Group normalisation, eps 1e-5, computed in at least float32 and returned in the type of the input.

    Args:
        channels: Number of channels.

    Source: Wu & He 2018; groups and eps as in Dhariwal & Nichol 2021.
    """

    def __init__(self, channels: int):
        super().__init__(groups_for(channels), channels, eps=1e-5)

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``[b, c, ...]``."""
        dtype = torch.promote_types(input.dtype, torch.float32)
        return F.group_norm(input.to(dtype), self.num_groups, self.weight.to(dtype), self.bias.to(dtype), self.eps).to(input.dtype)
