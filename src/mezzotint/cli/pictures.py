"""PNG files of 1 to 4 channels with 8 or 16 bits, which carry text; grids of images."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mezzotint.data.png import START, encode_png
from mezzotint.errors import DataError

KEY = "mezzotint"
"""Keyword of the PNG text that holds the recipe of an image, as JSON."""
UPSCALED = "mezzotint-upscale"
"""The same for pictures of ``mezzotint upscale``."""


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary file beside a place, which takes the place when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_png(path: Path, pixels: np.ndarray, text: Mapping[str, str], *, profile: bytes = b"") -> None:
    """Writes a PNG whole or not at all; arguments as for ``encode_png``."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(encode_png(pixels, text, profile=profile))


def read_png(path: Path) -> np.ndarray:
    """The pixels of a PNG, ``[h, w, c]`` uint8 or uint16.

    Raises:
        DataError: It is missing or damaged.
    """
    from mezzotint.data.images import decode

    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give a PNG that `mezzotint sample` wrote") from error
    return decode(data, str(path))


def read_recipe(path: Path, key: str = KEY) -> dict[str, Any] | None:
    """The recipe that a PNG carries, or None.

    Args:
        path: The file.
        key: Keyword of the text that holds it.

    Raises:
        DataError: It is missing, no PNG, or its text is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give a PNG that `mezzotint sample` wrote") from error
    if not data.startswith(START):
        raise DataError(f"{path} is no PNG; give one that `mezzotint sample` wrote")
    at = len(START)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"iTXt" and body.startswith(key.encode() + b"\0"):
            try:
                recipe = json.loads(body.split(b"\0", 5)[5])
            except (ValueError, IndexError) as error:
                raise DataError(f"the recipe in {path} is damaged; the image cannot be made again from it") from error
            return recipe if isinstance(recipe, dict) else None
        at += 12 + length
    return None


def grid(images: Sequence[np.ndarray], columns: int | None = None, *, gap: int = 2, at_least: int = 32) -> np.ndarray:
    """Images of one size side by side, row by row.

    Args:
        images: Each ``[h, w, c]`` uint8 or uint16; of more than 4 channels the first three are shown.
        columns: Images a row; None: about as many as rows.
        gap: Pixels between images, black.
        at_least: Images with shorter sides are enlarged by a whole factor, each pixel becoming a square.

    Returns:
        ``[H, W, c]`` uint8.
    """
    height, width, channels = images[0].shape
    shown = channels if channels <= 4 else 3
    factor = max(1, math.ceil(at_least / max(height, width)))
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    step_y, step_x = height * factor + gap, width * factor + gap
    sheet = np.zeros((rows * step_y - gap, columns * step_x - gap, shown), np.uint8)
    if shown in (2, 4):
        sheet[..., -1] = 255
    for i, image in enumerate(images):
        part = image[..., :shown]
        if part.dtype == np.uint16:
            part = np.round(part / 257).astype(np.uint8)
        part = part.repeat(factor, axis=0).repeat(factor, axis=1)
        y, x = divmod(i, columns)
        sheet[y * step_y : y * step_y + part.shape[0], x * step_x : x * step_x + part.shape[1]] = part
    return sheet
