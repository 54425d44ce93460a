"""PNG files as bytes, with any number of channels from 1 to 4 and 8 or 16 bits, which Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

START = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG."""
_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}


def encode_png(pixels: np.ndarray, text: Mapping[str, str], *, profile: bytes = b"") -> bytes:
    """A PNG file; Pillow writes none with 16 bits and several channels.

    Args:
        pixels: ``[h, w, c]`` uint8 or uint16, 1 to 4 channels.
        text: Keyword -> text, in any alphabet.
        profile: ICC profile of the colours; empty: none.

    Source: PNG specification, third edition.
    """
    height, width, channels = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    # Filter 2: each byte less the one above, modulo 256.
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1)
    parts = [START, _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _COLOUR[channels], 0, 0, 0))]
    if profile:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    parts += [_chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + value.encode()) for key, value in text.items()]
    return b"".join([*parts, _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)), _chunk(b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
