"""Random streams of single images: image k depends on (seed, k), not on the batch that it is computed in.

Each draw is keyed by (seed, stage, name) and by (image id, step). The bits come from Philox, a counter-based generator
(Salmon et al. 2011), so that any draw can be made again without making those before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mezzotint.errors import ConfigError

_MASK = (1 << 64) - 1


class Noise:
    """Draws for a batch of images, each from its own stream.

    Args:
        seed: Any integer.
        ids: The id of each image of the batch.
        stage: Name of the part that draws, e.g. "sample" or "train"; parts with other names get independent numbers.
        step: Step within the part.

    Example:
        >>> a = Noise(0, [4, 5]).normal((2, 3), name="x")
        >>> b = Noise(0, [5]).normal((1, 3), name="x")
        >>> bool((a[1] == b[0]).all())
        True
    """

    def __init__(self, seed: int, ids: Iterable[int] | Tensor, *, stage: str = "", step: int = 0):
        self.seed = int(seed)
        self.ids = tuple(int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids))
        self.stage = stage
        self.step = int(step)

    def at(self, step: int) -> Noise:
        """The same streams at another step."""
        return Noise(self.seed, self.ids, stage=self.stage, step=step)

    def sub(self, stage: str) -> Noise:
        """Independent streams of a named sub-part."""
        return Noise(self.seed, self.ids, stage=f"{self.stage}/{stage}", step=self.step)

    def rows(self, index: Sequence[int] | Tensor) -> Noise:
        """The streams of some images of the batch, by position."""
        picked = index.tolist() if isinstance(index, Tensor) else index
        return Noise(self.seed, [self.ids[int(i)] for i in picked], stage=self.stage, step=self.step)

    def normal(self, shape: Sequence[int], *, name: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers.

        Args:
            shape: ``[b, ...]``; the first axis has one entry for each image.
            name: What the draw is for; other names give independent numbers.
            dtype: Type of the result. The numbers are made in float64 and cast.
            device: Where the result is put.

        Raises:
            ConfigError: The first axis does not fit the number of images.
        """
        return self._draw("standard_normal", shape, name, dtype, device)

    def uniform(self, shape: Sequence[int], *, name: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Numbers uniform in [0, 1); arguments as for ``normal``."""
        return self._draw("random", shape, name, dtype, device)

    def _draw(self, law: str, shape: Sequence[int], name: str, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        if shape[0] != len(self.ids):
            raise ConfigError(f"noise for {shape[0]} images was asked of streams for {len(self.ids)}; give one id an image")
        digest = hashlib.blake2b(f"{self.seed}|{self.stage}|{name}".encode(), digest_size=8).digest()
        key = int.from_bytes(digest, "little")
        out = np.empty(tuple(shape), dtype=np.float64)
        for row, image in enumerate(self.ids):
            # The counter's upper words hold the step, so that 2**128 draws of one step never meet those of the next.
            bits = np.random.Philox(counter=[0, 0, self.step & _MASK, 0], key=[key, image & _MASK])
            out[row] = getattr(np.random.Generator(bits), law)(tuple(shape[1:]))
        result = torch.from_numpy(out)
        if law == "random" and dtype != torch.float64:  # casting may round up to 1
            result = result.clamp_max(1 - torch.finfo(dtype).eps)
        return result.to(device=device, dtype=dtype)


class ReplayNoise(Noise):
    """Hands out stored draws in order, whatever is asked for; for parity with runs that recorded theirs.

    Args:
        draws: The arrays, in the order of the calls.

    Raises:
        ConfigError: More draws are asked for than there are, or one of another shape.
    """

    def __init__(self, draws: Sequence[Tensor]):
        super().__init__(0, range(draws[0].shape[0] if draws else 0))
        self._draws = list(draws)
        self._taken = 0

    def at(self, step: int) -> Noise:
        return self

    def sub(self, stage: str) -> Noise:
        return self

    def skip(self, count: int = 1) -> None:
        """Passes over draws that the recorded run made without effect."""
        self._taken += count

    @property
    def left(self) -> int:
        """Number of draws that were not taken."""
        return len(self._draws) - self._taken

    def _draw(self, law: str, shape: Sequence[int], name: str, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        if self._taken >= len(self._draws):
            raise ConfigError(f"all {len(self._draws)} stored draws are used up; the run asks for more ({name})")
        draw = self._draws[self._taken]
        self._taken += 1
        if tuple(draw.shape) != tuple(shape):
            raise ConfigError(f"stored draw {self._taken} has shape {tuple(draw.shape)}, the run asks for {tuple(shape)} ({name})")
        return draw.to(device=device, dtype=dtype)
