"""Group normalisation that keeps its precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_GROUPS = 32


def groups_for(channels: int, least: int = 1) -> int:
    """Number of groups for a width: the largest divisor of it that is at most 32.

    Args:
        channels: Number of channels, at least 1.
        least: Fewest channels of a group; 1 for the networks of ADM, 4 for those of EDM.

    Returns:
        The official number, wherever the official networks can be built.

    Example:
        >>> groups_for(64), groups_for(48), groups_for(10), groups_for(64, 4)
        (32, 24, 10, 16)
    """
    return next(n for n in range(max(1, min(channels // least, MAX_GROUPS)), 0, -1) if channels % n == 0)


class GroupNorm(nn.GroupNorm):
    """Group normalisation, computed in at least float32 and returned in the type of the input.

    Args:
        channels: Number of channels.
        groups: Number of groups; None: that of ``groups_for``.
        eps: Added to the variance.

    Source: Wu & He 2018; groups and eps as in Dhariwal & Nichol 2021.
    """

    def __init__(self, channels: int, groups: int | None = None, *, eps: float = 1e-5):
        super().__init__(groups_for(channels) if groups is None else groups, channels, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``[b, c, ...]``."""
        dtype = torch.promote_types(input.dtype, torch.float32)
        return F.group_norm(input.to(dtype), self.num_groups, self.weight.to(dtype), self.bias.to(dtype), self.eps).to(input.dtype)
