"""Pictures of any size through a network of one size: overlapping tiles, blended where the denoiser speaks of x0.

All tiles see cut-outs of one x_t, so that they share their noise, and their beliefs are blended at every step: there is one picture all the
time, and no seam to be hidden at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mezzotint.denoise import Denoiser, Wrapper
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise
from mezzotint.types import Cond, KernelHead, Posterior


def starts(length: int, tile: int, overlap: int, align: int = 1) -> list[int]:
    """Where tiles begin along one axis: the fewest that overlap enough, evenly spread.

    Args:
        length: Pixels of the picture.
        tile: Pixels of a tile.
        overlap: Pixels that two neighbours share at least.
        align: All starts are multiples of this number, which divides ``length - tile``.

    Returns:
        Increasing starts; the first is 0, the last ``length - tile``.

    Example:
        >>> starts(100, 40, 8), starts(40, 40, 8)
        ([0, 30, 60], [0])
    """
    free, step = (length - tile) // align, max(1, (tile - overlap) // align)
    count = math.ceil(free / step)
    return [0] + [i * free // count * align for i in range(1, count + 1)]


def windows(begin: Sequence[int], tile: int) -> Tensor:
    """Weights of the tiles along one axis, which sum to 1 at every pixel.

    Each falls from 1 to 0 along what the tile shares with a neighbour, with slope 0 at both ends.

    Args:
        begin: Starts of the tiles, increasing.
        tile: Pixels of a tile.

    Returns:
        ``[tiles, tile]`` float64.

    Example:
        >>> windows([0, 2], 4)
        tensor([[1.0000, 1.0000, 0.8536, 0.1464],
                [0.1464, 0.8536, 1.0000, 1.0000]], dtype=torch.float64)
    """
    raw = torch.ones(len(begin), tile, dtype=torch.float64)
    for k, (a, b) in enumerate(pairwise(begin)):
        shared = a + tile - b
        ramp = torch.sin(math.pi / 2 * (torch.arange(shared, dtype=torch.float64) + 0.5) / shared) ** 2
        raw[k + 1, :shared] *= ramp
        raw[k, tile - shared :] *= ramp.flip(0)
    total = torch.zeros(begin[-1] + tile, dtype=torch.float64)
    for a, row in zip(begin, raw, strict=True):
        total[a : a + tile] += row
    return torch.stack([row / total[a : a + tile] for a, row in zip(begin, raw, strict=True)])


class Tiled(Wrapper):
    """Runs a denoiser on overlapping tiles of larger pictures, and blends what it says.

    Memory beyond the pictures themselves is bounded by ``batch`` tiles. Where a picture is one tile, the inner denoiser is called as ever.

    Args:
        inner: A denoiser for images of one size; guidance belongs inside, ``Bound`` outside.
        size: Height and width of a tile.
        overlap: Pixels that neighbours share at least.
        align: Tiles begin at multiples of this number: the scale of an upscaler, whose network knows one position of the small pixels only.
        batch: Tiles in a pass.
        spatial: Conditions that are cut like x_t; all others go to each tile whole.
        on_tiles: Called after each pass with its number of tiles.

    Raises:
        ConfigError: Tiles that overlap by half or more, or do not fit the alignment.
    """

    def __init__(
        self,
        inner: Denoiser,
        size: tuple[int, int],
        overlap: int,
        *,
        align: int = 1,
        batch: int = 8,
        spatial: frozenset[str] = frozenset({"low_res"}),
        on_tiles: Callable[[int], object] | None = None,
    ):
        super().__init__(inner)
        if not 0 <= overlap <= min(size) // 2:
            raise ConfigError(f"tiles of {size[0]}x{size[1]} that overlap by {overlap}; give an overlap from 0 to {min(size) // 2}")
        if any(side % align for side in size):
            raise ConfigError(f"tiles of {size[0]}x{size[1]} at a scale of {align}; give sides that are multiples of {align}")
        self.size, self.overlap, self.align, self.batch = size, overlap, align, batch
        self.spatial, self.on_tiles = spatial, on_tiles

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Upper left corners of all tiles of a picture, by number of the tile along each axis."""
        rows, columns = self._starts(height, width)
        return [(i, j) for i in range(len(rows)) for j in range(len(columns))]

    def _starts(self, height: int, width: int) -> tuple[list[int], list[int]]:
        if height < self.size[0] or width < self.size[1] or (height - self.size[0]) % self.align or (width - self.size[1]) % self.align:
            tile = f"{self.size[0]}x{self.size[1]}"
            raise ConfigError(
                f"a picture of {height}x{width} and tiles of {tile}; pad it to at least a tile and to multiples of {self.align}"
            )
        return starts(height, self.size[0], self.overlap, self.align), starts(width, self.size[1], self.overlap, self.align)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        cond = cond or {}
        height, width = x_t.shape[2:]
        for name in self.spatial & set(cond):
            if cond[name].shape[2:] != x_t.shape[2:]:
                found = "x".join(map(str, cond[name].shape[2:]))
                raise ConfigError(f"the condition '{name}' is {found}, and x_t {height}x{width}; bring it to that size first")
        rows, columns = self._starts(height, width)
        tall, wide = self.size
        down, across = windows(rows, tall), windows(columns, wide)
        jobs = [(row, i, j) for i, j in self.corners(height, width) for row in range(len(x_t))]
        canvas = _Canvas(x_t.shape[0], height, width)
        for first in range(0, len(jobs), self.batch):
            part = jobs[first : first + self.batch]
            index = [row for row, _, _ in part]
            spots = [(row, rows[i], columns[j]) for row, i, j in part]

            def cut(value: Tensor, spots: Sequence[tuple[int, int, int]] = spots) -> Tensor:
                return torch.stack([value[row, :, y : y + tall, x : x + wide] for row, y, x in spots])

            local = {name: cut(value) if name in self.spatial else value[index] for name, value in cond.items()}
            whole = len(part) == len(jobs) and len(rows) == len(columns) == 1
            said = self.inner(cut(x_t), t[index], local, noise=None if noise is None else noise.rows(index))
            if self.on_tiles is not None:
                self.on_tiles(len(part))
            if whole:
                return said
            weights = torch.stack([down[i][:, None] * across[j] for _, i, j in part])
            canvas.add(said, weights[:, None], spots)
        return canvas.result()


class _Canvas:
    """Posteriors of whole pictures, as they fill with weighted tiles."""

    def __init__(self, count: int, height: int, width: int):
        self.shape = (count, height, width)
        self.maps: dict[str, Tensor] = {}
        self.s: Tensor | None = None
        self.kernel = False

    def add(self, said: Posterior, weights: Tensor, spots: Sequence[tuple[int, int, int]]) -> None:
        head = said.kernel or KernelHead()
        maps = {
            **{name: getattr(said, name) for name in ("mean", "bounded", "var", "score_shift")},
            **{f"kernel.{name}": getattr(head, name) for name in ("frac", "log_var", "mean")},
        }
        self.kernel |= said.kernel is not None
        count, height, width = self.shape
        for name, value in maps.items():
            if value is None:
                continue
            if name not in self.maps:
                self.maps[name] = value.new_zeros((count, value.shape[1], height, width))
            weighted = value * weights.to(device=value.device, dtype=value.dtype)  # what holds for a whole tile is spread over it
            for tile, (row, y, x) in zip(weighted, spots, strict=True):
                self.maps[name][row, :, y : y + tile.shape[1], x : x + tile.shape[2]] += tile
        if head.s is not None:
            self.s = head.s.new_zeros(count) if self.s is None else self.s
            self.s[[row for row, _, _ in spots]] = head.s

    def result(self) -> Posterior:
        head = {name.partition(".")[2]: value for name, value in self.maps.items() if "." in name}
        kernel = KernelHead(head.get("frac"), head.get("log_var"), head.get("mean"), self.s) if self.kernel else None
        maps = self.maps
        return Posterior(maps["mean"], maps.get("bounded"), maps.get("var"), kernel, maps.get("score_shift"))
