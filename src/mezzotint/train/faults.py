"""What goes wrong in a run, in words: steps that are not finite, and memory that runs out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.train.sharding import whole

BAD_STEPS = 25
"""Optimiser steps of a phase that may be skipped in a row before the run stops or goes back."""
ROLLBACK_RATE = 0.5
"""What the learning rate is multiplied with each time a run goes back to its last good state."""
MOST_ROLLBACKS = 8
"""How often a run goes back before it stops all the same."""
MEMORY = (
    "out of memory; the three cheapest remedies: a lower --train.micro-batch (the same step), --net.checkpointing where the network has it "
    "(recomputes activations: about a third more time), --train.precision bf16"
)


@dataclass(frozen=True)
class BadStep:
    """An optimiser step that was not finite.

    Attributes:
        what: The first bad tensor: a parameter, the loss of an image, or a gradient.
        levels: Times of the examples with a bad loss, or of all where none is bad.
    """

    what: str
    levels: list[float]

    @property
    def between(self) -> str:
        """The noise levels in words."""
        return f"t from {min(self.levels):.4g} to {max(self.levels):.4g}"


def find_bad(parameters: Mapping[str, nn.Parameter], per_sample: Tensor, t: Tensor, total: float, ids: Sequence[int]) -> BadStep:
    """Finds the first bad tensor of a step, in the order of computation: parameters, losses, gradients.

    Args:
        parameters: Name -> parameter, with its gradient.
        per_sample: Loss of each example over all ranks, ``[b]``.
        t: Their times, ``[b]``.
        total: The loss.
        ids: Their positions in the data.
    """
    bad = (~per_sample.isfinite()).nonzero().flatten().tolist()
    levels = (t[bad] if bad else t).tolist()
    for name, p in parameters.items():
        if not bool(torch.isfinite(whole(p)).all()):
            return BadStep(f"parameter '{name}'", levels)
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        return BadStep(f"the loss of image {ids[bad[0]]}{more}", levels)
    if not math.isfinite(total):
        return BadStep("the total loss", levels)
    for name, p in parameters.items():
        if p.grad is not None and not bool(torch.isfinite(whole(p.grad)).all()):
            return BadStep(f"the gradient of '{name}'", levels)
    return BadStep("the norm of the gradient, of which each part is finite", levels)


def is_out_of_memory(error: Any) -> bool:
    """Whether an error says that memory ran out, on a GPU or the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
