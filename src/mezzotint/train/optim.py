"""The optimiser and its learning rate, which depends on images seen and so not on the batch."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from mezzotint.configs import OptimConfig


def lr_multiplier(config: OptimConfig, images: int, budget: int) -> float:
    """What the learning rate is multiplied with.

    Args:
        config: Warm-up (images) and shape of the decay.
        images: Images seen before this step.
        budget: Images of the whole run.

    Returns:
        A number in [0, 1]: 0 at the very first step of a warm-up; 0 when the budget is used up, unless the decay is "constant".

    Source: Ho et al. 2020, appendix B (linear warm-up from 0); Loshchilov and Hutter 2017, equation 5 (cosine).
    """
    if images < config.warmup:
        return images / config.warmup
    if config.decay == "constant":
        return 1.0
    done = min((images - config.warmup) / max(budget - config.warmup, 1), 1.0)
    return 1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def build_optimizer(config: OptimConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW in its fused form where the device has one.

    Source: Loshchilov and Hutter 2019, algorithm 2.
    """
    own = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in own)
    return torch.optim.AdamW(
        own, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True if fused else None
    )
