"""What all backbones have in common: the check of conditions, recomputation in the backward pass, and inner features by name."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mezzotint.errors import ConfigError, unknown
from mezzotint.types import Cond


class Backbone(nn.Module):
    """A network ``(x, time_input, cond) -> output`` that is walked through stage by stage.

    Attributes:
        accepts: The conditions that the network takes.
        optional: Those of them that may be missing.
        out_channels: Channels of the output.
        taps: Names of the inner features that ``features`` can give, in the order in which they are computed.
        checkpointing: Whether activations are recomputed in the backward pass to save memory.
    """

    accepts: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
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
        for key in self.accepts - self.optional - set(cond):
            raise ConfigError(f"{type(self).__name__} needs the condition '{key}', got {sorted(cond) or 'none'}; pass it in cond")

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        """Yields the tap and the value of each stage; the output comes last."""
        raise NotImplementedError

    def forward(self, x: Tensor, time_input: Tensor, cond: Cond) -> Tensor:
        """Runs the network.

        Args:
            x: ``[b, in_channels, h, w]``.
            time_input: What the network is told of the time, ``[b]``.
            cond: The conditions named in ``accepts``; those of ``optional`` may be missing.

        Returns:
            The output, in the type of ``x``.

        Raises:
            ConfigError: A condition that is missing or unknown, or a size that the network cannot take.
        """
        out = x
        for _, h in self._walk(x, time_input, cond):
            out = h
        return out.to(x.dtype)

    def with_head(self, x: Tensor, time_input: Tensor, cond: Cond, head: nn.Module) -> tuple[Tensor, Tensor]:
        """The output, and that of a further head ``head(features, time_input)`` on the features of the last tap.

        Args:
            x: As for ``forward``.
            time_input: As for ``forward``.
            cond: As for ``forward``.
            head: The head.

        Raises:
            ConfigError: As for ``forward``.
        """
        out = last = x
        for tap, h in self._walk(x, time_input, cond):
            out = h
            last = h if tap == self.taps[-1] else last
        return out.to(x.dtype), head(last, time_input).to(x.dtype)

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


class UNetSettings(Protocol):
    """The settings that every U-Net has."""

    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def attention(self) -> tuple[int, ...]: ...
    @property
    def dropout(self) -> float: ...


def check_unet(config: UNetSettings, levels: int) -> None:
    """Checks the settings of a U-Net, and warns of attention at factors that it does not have.

    Args:
        config: The settings.
        levels: Number of its levels; level i has the down-sampling factor 2^i.

    Raises:
        ConfigError: No channels, no residual block, or a dropout that is no probability.
    """
    if config.in_channels < 1 or config.out_channels < 1:
        raise ConfigError(
            f"in_channels={config.in_channels} and out_channels={config.out_channels}: a network needs at least 1; "
            "only recipes fill in 0 from the data"
        )
    if config.blocks < 1:
        raise ConfigError(f"blocks={config.blocks}: every level needs at least 1 residual block")
    if not 0 <= config.dropout <= 1:
        raise ConfigError(f"dropout={config.dropout} is no probability; give a number from 0 to 1")
    factors = [2**i for i in range(levels)]
    idle = sorted(set(config.attention) - set(factors))
    if idle:
        warnings.warn(f"attention at factors {idle} has no effect: the levels have the factors {factors}", stacklevel=4)
