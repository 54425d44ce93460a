"""What the trainer knows of an objective."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mezzotint.noise import Noise
from mezzotint.types import Batch, Loss, Phase


class Objective(nn.Module):
    """What training minimises.

    The trainer wraps one forward for each phase, switches ``requires_grad`` by phase, and saves ``models`` as model files and the
    whole ``state_dict`` (time laws included) as training state. Objectives never step optimisers or move data between devices.
    """

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of a training step, in order."""
        raise NotImplementedError

    @property
    def models(self) -> Mapping[str, nn.Module]:
        """The networks to be saved and averaged: name -> module. "model" is the one that ``load`` gives back."""
        raise NotImplementedError

    def forward(self, batch: Batch, *, phase: str, step: int, noise: Noise) -> Loss:
        """The loss of one phase on one batch.

        Args:
            batch: The examples, on the objective's device.
            phase: Name of one of ``phases``.
            step: Number of the training step, from 0.
            noise: Streams keyed by (seed, example id), already at this step.
        """
        raise NotImplementedError

    def update(self, t: Tensor, per_sample: Tensor, *, phase: str) -> None:
        """Learns from the unweighted losses of a step, gathered over all ranks; importance-sampled times need it."""
