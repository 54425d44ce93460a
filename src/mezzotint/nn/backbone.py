"""What all backbones have in common: the check of conditions, recomputation in the backward pass, and inner features by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mezzotint.errors import ConfigError, unknown
from mezzotint.types import Cond


class Backbone(nn.Module):
    """A network ``(x, time_input, cond) -> output`` that is walked through stage by stage.

    Attributes:
        accepts: The conditions that the network takes, all of which it needs.
        out_channels: Channels of the output.
        taps: Names of the inner features that ``features`` can give, in the order in which they are computed.
        checkpointing: Whether activations are recomputed in the backward pass to save memory.
    """

    accepts: frozenset[str] = frozenset()
    out_channels: int
    taps: tuple[str, ...] = ()
    checkpointing: bool = False

    def _run(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(module, *inputs, use_reentrant=False))
        return module(*inputs)

    def _check(self, cond: Cond) -> None:
        for key in cond:
            if key not in self.accepts:
                raise unknown(f"condition of {type(self).__name__}", key, self.accepts)
        for key in self.accepts - set(cond):
            raise ConfigError(f"{type(self).__name__} needs the condition '{key}', got {sorted(cond) or 'none'}; pass it in cond")

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        """Yields the tap and the value of each stage; the output comes last."""
        raise NotImplementedError

    def forward(self, x: Tensor, time_input: Tensor, cond: Cond) -> Tensor:
        """Runs the network.

        Args:
            x: ``[b, in_channels, h, w]``.
            time_input: What the network is told of the time, ``[b]``.
            cond: The conditions named in ``accepts``.

        Returns:
            The output, in the type of ``x``.

        Raises:
            ConfigError: A condition that is missing or unknown, or a size that the network cannot take.
        """
        out = x
        for _, h in self._walk(x, time_input, cond):
            out = h
        return out.to(x.dtype)

    def features(self, x: Tensor, time_input: Tensor, cond: Cond, taps: Collection[str]) -> dict[str, Tensor]:
        """Inner features by name; what comes after the last of them is not computed.

        Args:
            x: As for ``forward``.
            time_input: As for ``forward``.
            cond: As for ``forward``.
            taps: Some of ``self.taps``.

        Returns:
            Tap -> features: ``[b, c, h', w']``, or ``[b, c]`` for "pooled".

        Raises:
            ConfigError: An unknown tap.
        """
        for tap in taps:
            if tap not in self.taps:
                raise unknown("tap", tap, self.taps)
        found: dict[str, Tensor] = {}
        walk = self._walk(x, time_input, cond)
        while len(found) < len(set(taps)):
            tap, h = next(walk)
            if tap in taps:
                found[tap] = h
        return found
