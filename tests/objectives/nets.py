"""Small networks that answer by formula, for tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """A 1x1 convolution of x, plus a share of the time and a table of labels; float64."""

    accepts = frozenset({"label"})

    def __init__(self, channels: int, out: int, classes: int = 4):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(channels, out, 1, dtype=torch.float64)
        self.label = nn.Embedding(classes, out, dtype=torch.float64)

    def forward(self, x: Tensor, t: Tensor, cond) -> Tensor:
        out = self.mix(x) + 1e-3 * t.reshape(-1, 1, 1, 1)
        return out + self.label(cond["label"])[:, :, None, None] if "label" in cond else out


class Table(nn.Module):
    """A parameter for every number of the output, so that gradients show channel by channel."""

    def __init__(self, shape: tuple[int, ...], value: float = 0.0):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.out = nn.Parameter(value + 0.3 * torch.randn(shape, dtype=torch.float64, generator=g))

    def forward(self, x: Tensor, t: Tensor, cond) -> Tensor:
        return self.out
