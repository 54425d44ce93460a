"""Image files: reading their headers, decoding their pixels without loss, and the source that consists of them."""

from __future__ import annotations

import io
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from mezzotint.configs import DataConfig, DataFacts
from mezzotint.data.labels import Labels
from mezzotint.data.source import Source, check_spare, one_line, share_for
from mezzotint.data.store import Store
from mezzotint.data.transforms import Fit, Window, to_channels, to_size
from mezzotint.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm")
# Only these decoders are ever asked: some others start programs or reach far into the system.
_FORMATS = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif", "PPM": ".ppm", "MPO": ".jpg",
}  # fmt: skip
_OPENED = tuple(_FORMATS)
_PLAIN = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_VIA = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA", "HSV": "RGB"}
_WORDS = {"1": "1-bit", "P": "a palette image", "PA": "a palette image", "I": "32-bit integer", "F": "32-bit floating-point"}
_PIXELS = {1: "gray (1 channel)", 2: "gray with alpha (2 channels)", 3: "colour (3 channels)", 4: "colour with alpha (4 channels)"}
_END_MARKS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file say.

    Attributes:
        size: Height and width, after turning.
        mode: Pillow's name of the kind of pixel.
        channels: Number of channels; 0 for a mode that needs a conversion.
        bits: Bits a channel, 8 or 16.
        turned: Whether its EXIF orientation asks for turning or mirroring.
        remark: What reading it would lose or change, to be noted; "" if nothing.
        suffix: The suffix that belongs to its format.
    """

    size: tuple[int, int]
    mode: str
    channels: int
    bits: Literal[8, 16]
    turned: bool
    remark: str
    suffix: str

    @property
    def words(self) -> str:
        """The kind of pixel for people, as in "a palette image"."""
        return _PIXELS.get(self.channels) or _WORDS.get(self.mode, self.mode)


@dataclass(frozen=True)
class Listing:
    """Image files that were found and named, but not looked into.

    Attributes:
        store: Where they lie.
        names: Path of each image within it.
        titles: Shown name of each image.
        labels: Their classes, or None.
        notes: What is known already about files that were left out.
    """

    store: Store
    names: tuple[str, ...]
    titles: tuple[str, ...]
    labels: Labels | None = None
    notes: tuple[str, ...] = ()


class ImageSource(Source):
    """Image files of a folder, an archive or a table.

    All headers are read at once; pixels are decoded on demand. Colour profiles are not applied. Images with an EXIF orientation are
    turned accordingly. Of a camera's multi-picture JPEG the main picture is read; any other file of several frames is an error.

    Args:
        listing: The files.
        config: ``size``, ``fit``, ``channels``, ``flip`` and ``max_unreadable`` are heeded.

    Raises:
        DataError: Too many damaged files, or images that do not agree in size, channels or bits where the settings ask for no
            conversion.
    """

    def __init__(self, listing: Listing, config: DataConfig):
        if config.channels is not None and config.channels > 4:
            raise DataError(f"--data.channels {config.channels} is not possible for image files; give 1 to 4, or store an .npz array")
        store, labels = listing.store, listing.labels
        self._store = store
        self._paths = listing.names
        self._fit: Fit = config.fit
        spare = int(config.max_unreadable * len(listing.names))
        facts, done, unreadable = _scan(store, listing.names, config, spare)
        super().__init__(
            DataFacts(facts.channels, facts.size, () if labels is None else labels.classes, facts.bits),
            listing.titles,
            None if labels is None or labels.tags else labels.labels,
            [store.files[name] for name in listing.names],
            flip=config.flip,
            notes=[*listing.notes, *done],
            cut=config.fit == "random",
            tags=() if labels is None else labels.tags,
            tagged=None if labels is None or not labels.tags else labels.matrix,
            unreadable=unreadable,
            spare=spare,
        )

    def array(self, i: int, window: Window | None = None) -> np.ndarray:
        name = self._paths[i]
        place = self._store.place(name)
        array = to_channels(decode(self._store.read(name), place), self.facts.channels)
        array = to_size(array, self.facts.size, self._fit, alpha=self.facts.channels in (2, 4), window=window)
        if array.dtype != (np.uint8 if self.facts.bits == 8 else np.uint16):
            raise DataError(f"{place} has changed since the data was opened; start again")
        return array

    def stored(self, i: int) -> tuple[bytes, str] | None:
        """The file of image i and its suffix, if its pixels are those of ``array`` as they stand; else None.

        Raises:
            DataError: The file cannot be read.
        """
        name = self._paths[i]
        data = self._store.read(name)
        header = _header(data, self._store.place(name))
        as_is = (header.size, header.channels, header.turned) == (self.facts.size, self.facts.channels, False)
        return (data, header.suffix) if as_is else None


def read_header(store: Store, name: str) -> Header:
    """Reads the header of an image file, and all of it if its end looks cut off.

    Raises:
        DataError: The file is empty, damaged, no image, too large, or of a kind that cannot be read without loss.
    """
    place = store.place(name)
    if store.files[name] == 0:
        raise DataError(f"{place} is empty (0 bytes); replace or remove it")
    head, tail, whole = store.ends(name)
    mark = next((end for start, end in _END_MARKS.items() if head.startswith(start)), None)
    if mark is None and not whole:  # other formats keep their tables anywhere
        head, whole = store.read(name), True
    try:
        header = _header(head, place)
    except DataError:
        if whole:
            raise
        header = _header(store.read(name), place)
    if mark is not None and tail is not None and mark not in tail:
        decode(store.read(name), place)
    return header


def decode(data: bytes, place: str) -> np.ndarray:
    """Decodes an image file.

    Args:
        data: The file's contents.
        place: Its path, for messages.

    Returns:
        ``[h, w, c]``, uint8 or uint16, turned as its EXIF orientation says; palettes, CMYK and the like become gray or colour.

    Raises:
        DataError: The file is damaged or of a kind that is not read.
    """
    image = _open(data, place)
    _check_kind(image, place)
    turn = _orientation(image)
    try:
        if _bits(image) == 16:
            array = _decode_wide(image, data, place)
        elif image.mode in _PLAIN:
            array = np.asarray(image)
        else:
            see_through = image.mode == "P" and "transparency" in image.info
            array = np.asarray(image.convert("RGBA" if see_through else _VIA[image.mode]))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        raise DataError(f"{place} is damaged ({one_line(error)}); replace or remove it") from error
    return _turn(array if array.ndim == 3 else array[..., None], turn)


def _scan(store: Store, names: Sequence[str], config: DataConfig, spare: int) -> tuple[DataFacts, list[str], dict[int, str]]:
    """What all images have in common, what has to be done to them, and which cannot be read."""
    first: Header | None = None
    leader = ""
    channels, size = config.channels or 0, config.size or (0, 0)
    unreadable: dict[int, str] = {}
    converted: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    resized = enlarged = 0
    for i, name in enumerate(names):
        try:
            header = read_header(store, name)
        except DataError as error:
            if spare == 0 and len(names) == 1:
                raise
            if spare == 0:
                raise DataError(f"{error}, or pass --data.max-unreadable {share_for(1, len(names))}") from error
            unreadable[i] = str(error)
            check_spare(unreadable.values(), spare, len(names))
            continue
        if first is None:
            first, leader = header, name
            channels = config.channels or header.channels
            size = config.size or header.size
        if header.channels == 0 and config.channels is None:
            raise DataError(f"{store.place(name)} is {header.words}; pass --data.channels 3 to convert all to colour, or 1 to gray")
        if header.bits != first.bits:
            depths = f"has {header.bits} bits a channel, {leader} has {first.bits}"
            raise DataError(f"{store.place(name)} {depths}; convert all files to one depth")
        if header.channels != channels:
            if config.channels is None:
                raise DataError(
                    f"{store.place(name)} is {header.words}, {leader} is {first.words}; "
                    "pass --data.channels 3 to convert all to colour, or 1 to gray"
                )
            converted[header.words] += 1
        if header.size != size:
            if config.size is None:
                raise DataError(
                    f"{store.place(name)} is {_by(header.size)} pixels (height x width), {leader} is {_by(size)}; "
                    f"pass --data.size {size[0]} {size[1]} or another size to bring all to one"
                )
            resized += 1
            enlarged += header.size[0] < size[0] or header.size[1] < size[1]
        if header.remark:
            remarks[header.remark] += 1
        if header.turned:
            remarks["turned as their EXIF orientation says"] += 1
    assert first is not None  # a share below 1 leaves at least one
    total = len(names)
    notes = [f"{count} of {total} images are converted from {words} to {_PIXELS[channels]}" for words, count in converted.items()]
    if resized:
        done = "squashed" if config.fit == "squash" else "resized and cropped"
        larger = f", {enlarged} of them enlarged" if enlarged else ""
        notes.append(f"{resized} of {total} images are {done} to {_by(size)} (height x width){larger}")
    notes += [f"{count} of {total} images: {words}" for words, count in remarks.items()]
    if unreadable:
        why = next(iter(unreadable.values())).partition(";")[0]
        notes.append(f"{len(unreadable)} of {total} images cannot be read; the first: {why}")
    return DataFacts(channels=channels, size=size, bits=first.bits), notes, unreadable


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _open(data: bytes, place: str) -> ImageFile:
    try:
        image = Image.open(io.BytesIO(data), formats=_OPENED)
        frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise _too_large(place) from error
    except Exception as error:  # see ``decode``
        if not data:
            raise DataError(f"{place} is empty (0 bytes); replace or remove it") from error
        raise DataError(f"{place} is no image that can be read, or is damaged; replace or remove it") from error
    if Image.MAX_IMAGE_PIXELS is not None and math.prod(image.size) > Image.MAX_IMAGE_PIXELS:
        raise _too_large(place)
    if frames > 1 and image.format != "MPO":
        raise DataError(f"{place} has {frames} frames or pages; save the one that is wanted as a PNG of its own")
    return image


def _too_large(place: str) -> DataError:
    millions = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
    return DataError(f"{place} claims more than {millions} million pixels, which may be an attack; make it smaller or remove it")


def _header(data: bytes, place: str) -> Header:
    image = _open(data, place)
    _check_kind(image, place)
    width, height = image.size
    turn = _orientation(image)
    channels = 2 if image.mode == "RGBA" and _raw_mode(image).startswith("LA") else _PLAIN.get(image.mode, 0)
    bits = _bits(image)
    if bits == 16 and image.mode.startswith("I"):
        channels = 1
    remark = ""
    if image.mode in ("L", "RGB") and "transparency" in image.info:
        remark = "the colour that stands for transparency is read as a plain colour"
    elif _raw_mode(image) in ("L;2", "L;4"):
        remark = "gray of 2 or 4 bits is spread over 8"
    size = (width, height) if turn >= 5 else (height, width)
    return Header(size, image.mode, channels, bits, turn > 1, remark, _FORMATS[image.format or ""])


def _check_kind(image: ImageFile, place: str) -> None:
    if image.format == "PPM" and image.tile[0].codec_name != "raw" and "255" not in str(image.tile[0].args) and image.mode != "1":
        raise DataError(f"{place} is a PNM file with other than 8 bits a channel; save it as PNG")
    if image.mode not in _PLAIN and image.mode not in _VIA and _bits(image) != 16:
        raise DataError(f"{place} is {_WORDS.get(image.mode, image.mode)}; save it as PNG with 8 or 16 bits a channel")


def _raw_mode(image: ImageFile) -> str:
    """How the pixels lie in the file, which ``image.mode`` does not tell for 16-bit colour."""
    args = image.tile[0].args if image.tile else ""
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def _bits(image: ImageFile) -> Literal[8, 16]:
    wide = image.mode.startswith("I;16") or ";16" in _raw_mode(image)
    return 16 if wide else 8


def _decode_wide(image: ImageFile, data: bytes, place: str) -> np.ndarray:
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    raw = _raw_mode(image)
    high = np.asarray(_reread(image, data, place, high=True))
    if raw.startswith("LA"):
        # Pillow takes the four bytes of such a pixel for one of RGBA: high and low byte of gray, then of alpha.
        return high[..., 0::2].astype(np.uint16) << 8 | high[..., 1::2]
    # Pillow keeps only the high bytes of 16-bit colour; read in the other byte order, it keeps the low ones.
    low = np.asarray(_reread(image, data, place, high=False))
    return high.astype(np.uint16) << 8 | low


def _reread(image: ImageFile, data: bytes, place: str, *, high: bool) -> ImageFile:
    again = _open(data, place)
    raw = _raw_mode(image)
    native = "L" if sys.byteorder == "little" else "B"
    order = native if raw.endswith("N") else raw[-1]
    if raw == "LA;16B":
        wanted = "RGBA"
    elif raw in (f"{image.mode};16{end}" for end in "BLN"):
        wanted = f"{image.mode};16{order if high else 'BL'[order == 'B']}"
    else:
        raise DataError(f"{place} holds 16-bit colour in a rare layout ({raw}); save it as PNG")
    again.tile = [tile._replace(args=(wanted, *tile.args[1:]) if isinstance(tile.args, tuple) else wanted) for tile in again.tile]
    return again


def _orientation(image: ImageFile) -> int:
    # Pillow turns TIFF files by itself. ``getexif`` would decode a PNG to search for EXIF data behind its pixels.
    data = image.info.get("exif") if image.format != "TIFF" else None
    if not data:
        return 1
    exif = Image.Exif()
    try:
        exif.load(data)
        turn = exif.get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data do not make the pixels unreadable
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _turn(array: np.ndarray, turn: int) -> np.ndarray:
    if turn >= 5:
        array = array.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)
