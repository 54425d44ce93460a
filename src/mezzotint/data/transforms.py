"""Bringing images to one size and one number of channels. Pixels are ``[h, w, c]`` arrays of uint8 or uint16."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image

from mezzotint.errors import DataError

_LUMA = np.array([0.299, 0.587, 0.114])


def to_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Converts between gray (1), gray with alpha (2), colour (3) and colour with alpha (4).

    Gray becomes colour by repetition, colour becomes gray by its luma, alpha is added as opaque, and removed by laying the image over
    white.

    Args:
        array: ``[h, w, c]`` with c from 1 to 4.
        channels: The number wanted, 1 to 4.

    Returns:
        ``[h, w, channels]`` of the same type.

    Source: luma of ITU-R BT.601.
    """
    have = array.shape[2]
    if have == channels:
        return array
    top = np.iinfo(array.dtype).max
    pixels, alpha = (array[..., :-1], array[..., -1:]) if have in (2, 4) else (array, None)
    if channels < 3 and pixels.shape[2] == 3:
        pixels = _back(pixels @ _LUMA, array.dtype)[..., None]
    elif channels >= 3 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if channels in (2, 4):
        return np.concatenate([pixels, np.full_like(pixels[..., :1], top) if alpha is None else alpha], axis=2)
    if alpha is not None:
        cover = alpha / top
        pixels = _back(pixels * cover + top * (1 - cover), array.dtype)
    return np.ascontiguousarray(pixels)


Fit = Literal["crop", "random", "squash"]
Window = tuple[float, float, float]
"""Where a random cut lies: its scale, top and left, each in [0, 1)."""
SMALLEST_CUT = 0.8
"""The least that a random cut keeps of the short side."""


def to_size(array: np.ndarray, size: tuple[int, int], fit: Fit, *, alpha: bool = False, window: Window | None = None) -> np.ndarray:
    """Brings an image to a size.

    ``crop`` keeps proportions: the image is halved by box averaging while both sides stay at least twice as long as wanted, then
    resized by bicubic interpolation until it just covers the size, and its middle is cut out. ``squash`` resizes each side on its
    own, bicubically. ``random`` is like ``crop``, but covers a size of 1 to 1 / 0.8 times the one wanted, a whole number of pixels, and
    cuts anywhere; without a window it is ``crop``. An image that has the size already is returned as it is, but for a random cut.
    16-bit images are resized in floating point.

    Args:
        array: ``[h, w, c]``, uint8 or uint16, any number of channels.
        size: Height and width wanted.
        fit: "crop", "random" or "squash".
        alpha: Whether the last channel is alpha; colours are then weighted by it, so that invisible ones do not bleed.
        window: Where to cut; heeded by "random" only.

    Returns:
        ``[*size, c]`` of the same type.

    Source: Dhariwal and Nichol 2021 (ADM), preprocessing of ImageNet; for squares this is theirs.
    """
    tall, wide = size
    cut = window if fit == "random" else None
    if array.shape[:2] == (tall, wide) and cut is None:
        return array
    dtype = array.dtype
    planes = _planes(array, alpha)
    width, height = planes[0].size
    if fit == "squash":
        planes = [p.resize((wide, tall), Image.Resampling.BICUBIC) for p in planes]
        return _join(planes, dtype, alpha)
    cover_tall, cover_wide = (tall, wide) if cut is None else _cover(size, cut[0])
    while width >= 2 * cover_wide and height >= 2 * cover_tall:
        width, height = width // 2, height // 2
        planes = [p.resize((width, height), Image.Resampling.BOX) for p in planes]
    scale = max(cover_tall / height, cover_wide / width)
    width, height = max(wide, round(width * scale)), max(tall, round(height * scale))
    planes = [p.resize((width, height), Image.Resampling.BICUBIC) for p in planes]
    if cut is None:
        top, left = (height - tall) // 2, (width - wide) // 2
    else:
        top, left = int(cut[1] * (height - tall + 1)), int(cut[2] * (width - wide + 1))
    planes = [p.crop((left, top, left + wide, top + tall)) for p in planes]
    return _join(planes, dtype, alpha)


def _cover(size: tuple[int, int], scale: float) -> tuple[float, float]:
    """The size that an image covers before it is cut at random."""
    short = min(size)
    chosen = short + int(scale * (math.ceil(short / SMALLEST_CUT) - short + 1))
    return size[0] * chosen / short, size[1] * chosen / short


def _planes(array: np.ndarray, alpha: bool) -> list[Image.Image]:
    if array.dtype == np.uint8 and not alpha:
        if array.shape[2] == 3:
            return [Image.fromarray(np.ascontiguousarray(array))]
        return [Image.fromarray(np.ascontiguousarray(array[..., k])) for k in range(array.shape[2])]
    values = array.astype(np.float32)
    if alpha:
        values[..., :-1] *= values[..., -1:] / np.iinfo(array.dtype).max
    return [Image.fromarray(np.ascontiguousarray(values[..., k])) for k in range(array.shape[2])]


def _join(planes: list[Image.Image], dtype: np.dtype, alpha: bool) -> np.ndarray:
    if planes[0].mode == "RGB":
        return np.asarray(planes[0])
    values = np.stack([np.asarray(p) for p in planes], axis=2)
    if values.dtype == dtype:
        return values
    if alpha:
        cover = values[..., -1:] / np.iinfo(dtype).max
        values = np.concatenate([np.where(cover > 0, values[..., :-1] / np.maximum(cover, 1e-6), 0), values[..., -1:]], axis=2)
    return _back(values, dtype)


def _back(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


def check_settings(size: tuple[int, int] | None, channels: int | None) -> None:
    """Checks the two conversion settings.

    Raises:
        DataError: A side below 1, or fewer than 1 channel.
    """
    if size is not None and min(size) < 1:
        raise DataError(f"--data.size {size[0]} {size[1]} is no image size; give height and width of at least 1")
    if channels is not None and channels < 1:
        raise DataError(f"--data.channels {channels} is no number of channels; give 1 for gray or 3 for colour")
