"""The expanding half of U-Nets whose levels each add their share to the output."""

from __future__ import annotations

from collections.abc import Generator
from typing import cast

from torch import Tensor, nn

from mezzotint.nn.backbone import Backbone
from mezzotint.nn.trunk import Level


class Growing(Backbone):
    """A backbone with levels ``up``, output heads for the finest of them, and a filter that doubles what coarser heads gave.

    Source: Song et al. 2021, appendix H (progressive growing of the output).
    """

    up: nn.ModuleList
    heads: nn.ModuleList
    grow: nn.Module

    def _expand(self, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Generator[tuple[str, Tensor], None, Tensor]:
        """Yields the tap and the features of each stage after the middle, and returns the output."""
        out: Tensor | None = None
        for i in reversed(range(len(self.up))):
            level = cast(Level, self.up[i])
            for j, block in enumerate(level.blocks):
                h = self._run(block, h, embedding, skips.pop())
                yield f"up.{i}.blocks.{j}", h
            if i < len(self.heads):
                here = self.heads[i](h)
                out = here if out is None else here + self.grow(out)[:, :, : here.shape[2], : here.shape[3]]
            if level.resample is not None:
                h = self._run(level.resample, h, embedding)
                yield f"up.{i}.resample", h
        assert out is not None
        return out
