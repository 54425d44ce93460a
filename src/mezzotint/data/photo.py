"""Single pictures as people have them: any kind of pixel, with the profile that says what its colours are."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from mezzotint.data.images import decode

_SPACES = {b"GRAY": (1, 2), b"RGB ": (3, 4)}


@dataclass(frozen=True)
class Photo:
    """A picture.

    Attributes:
        pixels: ``[h, w, c]`` uint8 or uint16, turned as the EXIF orientation says: gray or colour, perhaps with alpha.
        profile: ICC profile of these pixels; empty: none.
    """

    pixels: np.ndarray
    profile: bytes = b""


def read_photo(data: bytes, place: str) -> Photo:
    """Reads an image file.

    Profiles of gray and colour pictures are kept, not applied. CMYK goes to sRGB through its profile where it has one.

    Args:
        data: The file's contents.
        place: Its path, for messages.

    Raises:
        DataError: The file is damaged, has several frames, claims too many pixels, or is of a kind that is not read.
    """
    pixels = decode(data, place)
    image = Image.open(io.BytesIO(data))
    profile = image.info.get("icc_profile") or b""
    if image.mode == "CMYK" and profile:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        try:
            converted = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a profile for other pixels, or a damaged one: as if there were none
            return Photo(pixels)
        assert converted is not None
        again = io.BytesIO()
        converted.save(again, "PNG", exif=image.info.get("exif", b""))
        return Photo(decode(again.getvalue(), place), srgb.tobytes())
    return Photo(pixels, profile if pixels.shape[2] in _SPACES.get(profile[16:20], ()) and _whole(profile) else b"")


def _whole(profile: bytes) -> bool:
    """Whether others can read a profile."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (ImageCms.PyCMSError, OSError):
        return False
    return True
