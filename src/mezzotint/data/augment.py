"""Geometric changes of training images that the network is told of, so that samples show none of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mezzotint.data.source import Source
from mezzotint.noise import Noise
from mezzotint.types import Batch

NUMBERS = 9
"""Numbers by which a network is told: two flips, scale, two of the rotation, two of the stretching, two of the shift."""
SCALE_STD, STRETCH_STD = 0.2, 0.2
"""Standard deviations of the binary logarithms of scale and stretching."""
SHIFT_STD = 0.125
"""Standard deviation of the shift, in widths and heights."""
FINE = 2
"""Samples along a pixel's side when an image is drawn anew."""


def augment(images: Tensor, *, noise: Noise, probability: float) -> tuple[Tensor, Tensor]:
    """Changes images at random.

    Mirroring left and right is as likely as not, whatever the probability, since most data is mirrored anyway. The numbers are those of
    EDM, so that its published weights understand them; like those they leave open whether an image is stretched along a direction or
    across it.

    Args:
        images: ``[b, c, h, w]``.
        noise: One stream an image.
        probability: Of each other change: upside down (of which half are carried out), scale, rotation, stretching, shift.

    Returns:
        The images, mirrored at their edges where pixels are lacking, and ``[b, 9]`` numbers that say what was done; 0 where nothing.

    Source: Karras et al. 2022 (EDM), appendix F.2 and table 6.
    """
    b = len(images)
    chance = noise.uniform((b, 5), name="augment chance", dtype=torch.float64) < probability
    coin = (noise.uniform((b, 3), name="augment coin", dtype=torch.float64) < 0.5).double()
    angle = math.pi * (2 * noise.uniform((b, 2), name="augment angle", dtype=torch.float64) - 1)
    size = noise.normal((b, 4), name="augment size", dtype=torch.float64)
    mirror, upside_down = coin[:, 0], coin[:, 1] * chance[:, 0]
    scale, turn = size[:, 0] * chance[:, 1], angle[:, 0] * chance[:, 2]
    stretch, along = size[:, 1] * chance[:, 3], angle[:, 1] * coin[:, 2]
    shift = size[:, 2:] * chance[:, 4, None]
    told = [mirror, upside_down, scale, turn.cos() - 1, turn.sin(), stretch * along.cos(), stretch * along.sin(), shift[:, 0], shift[:, 1]]

    images = torch.where(_fit(mirror, images) > 0, images.flip(3), images)
    images = torch.where(_fit(upside_down, images) > 0, images.flip(2), images)
    height, width = images.shape[2:]
    across, down = torch.tensor([width, height]) * SHIFT_STD * shift.new_ones(2)
    grow = torch.exp2(STRETCH_STD * stretch)
    # From a pixel of the result to the place in the image where it comes from.
    back = _scaling(*2 * [torch.exp2(-SCALE_STD * scale)]) @ _rotation(turn)
    back = back @ _rotation(-along) @ _scaling(1 / grow, grow) @ _rotation(along)
    back = back @ _shift(-across * shift[:, 0], -down * shift[:, 1])
    changed = chance[:, 1:].any(dim=1)
    if bool(changed.any()):
        images = images.clone()
        images[changed] = _draw(images[changed], back[changed])
    return images, torch.stack(told, dim=1).float()


def _fit(values: Tensor, images: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (images.ndim - 1))


def _matrix(*numbers: Tensor | float, like: Tensor) -> Tensor:
    return torch.stack([torch.as_tensor(n, dtype=like.dtype).expand_as(like) for n in numbers], dim=1).reshape(-1, 3, 3)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _matrix(x, 0, 0, 0, y, 0, 0, 0, 1, like=x)


def _rotation(angle: Tensor) -> Tensor:
    return _matrix(angle.cos(), -angle.sin(), 0, angle.sin(), angle.cos(), 0, 0, 0, 1, like=angle)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    return _matrix(1, 0, x, 0, 1, y, 0, 0, 1, like=x)


def _draw(images: Tensor, back: Tensor) -> Tensor:
    """Images ``[b, c, h, w]`` seen through maps ``[b, 3, 3]`` of pixels, from the middle of the image."""
    height, width = images.shape[2:]
    # Places of the fine pixels' centres, in pixels from the middle.
    rows = (torch.arange(FINE * height, dtype=torch.float64) + 0.5) / FINE - height / 2
    columns = (torch.arange(FINE * width, dtype=torch.float64) + 0.5) / FINE - width / 2
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    source = torch.einsum("bij,hwj->bhwi", back, places)[..., :2]
    grid = source / torch.tensor([width / 2, height / 2], dtype=torch.float64)
    fine = F.grid_sample(images, grid.to(images.dtype), mode="bicubic", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(fine, FINE).clamp(-1, 1)


class Augmented:
    """A source whose images are changed, each batch with the numbers that say how in ``extras["augment"]`` ``[b, 9]``.

    Args:
        source: The images.
        probability: As for ``augment``.
    """

    def __init__(self, source: Source, probability: float):
        self.source, self.probability = source, probability

    @property
    def fingerprint(self) -> str:
        """That of the images."""
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def name(self, i: int) -> str:
        """The name of image i."""
        return self.source.name(i)

    def batch(self, ids: Sequence[int], *, noise: Noise) -> Batch:
        """As for ``Source.batch``; the changes depend on (seed, id, step) alone."""
        batch = self.source.batch(ids, noise=noise)
        images, told = augment(batch.images, noise=noise, probability=self.probability)
        return replace(batch, images=images, extras={**batch.extras, "augment": told})
