"""Weights that are not zero anywhere, so that every part of a network shows in its output."""

from __future__ import annotations

import zlib
from typing import TypeVar

import numpy as np
import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def filled(module: M, scale: float = 0.1) -> M:
    """Sets every parameter to scale * N(0, 1), plus one for the weights of normalisations; the numbers depend on its name alone."""
    for name, p in module.named_parameters():
        value = scale * np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(p.shape))
        p.data = torch.from_numpy(value + (p.ndim == 1 and name.endswith("weight"))).to(p.dtype)
    return module
