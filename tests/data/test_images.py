"""Image files: what passes unchanged, what is converted only when asked, what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tests.data.makers import encoded, folder, pixels, wide_png, wide_tiff, zipped

from mezzotint.configs import DataConfig
from mezzotint.data import open_source
from mezzotint.errors import DataError


def opened(path, **settings):
    return open_source(DataConfig(path=str(path), **settings))


def refused(path, *words: str, **settings) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, **settings).verify()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(16, 16), (10, 6), (33, 65)])
@pytest.mark.parametrize("place", ["folder", "zip"])
def test_every_channel_count_depth_and_shape_passes_unchanged(tmp_path, channels, dtype, size, place):
    arrays = [pixels(*size, channels, seed=k, dtype=dtype) for k in range(2)]
    files = {f"{k}.png": encoded(a) if dtype == np.uint8 else wide_png(a) for k, a in enumerate(arrays)}
    source = opened(folder(tmp_path, files) if place == "folder" else zipped(tmp_path / "a.zip", files))
    assert source.facts.channels == channels
    assert source.facts.size == size
    assert source.facts.bits == 8 * np.dtype(dtype).itemsize
    assert source.notes == ()
    for k in range(2):
        assert source.array(k).dtype == dtype
        assert (source.array(k) == arrays[k]).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_wide_tiff_keeps_its_low_bytes(tmp_path, order, deflate):
    array = pixels(9, 7, 3, dtype=np.uint16)
    source = opened(folder(tmp_path, {"a.tif": wide_tiff(array, order, deflate)}))
    assert source.facts.bits == 16
    assert (source.array(0) == array).all()


def test_wide_gray_tiff(tmp_path):
    array = pixels(9, 7, dtype=np.uint16)
    source = opened(folder(tmp_path, {"a.tiff": encoded(array, "TIFF")}))
    assert source.facts.channels == 1
    assert (source.array(0)[..., 0] == array).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_formats(tmp_path, kind):
    array = pixels(9, 7, 3)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (opened(folder(tmp_path, {f"a.{kind.lower()}": encoded(array, kind, **options)})).array(0) == array).all()


CONVERTIBLE = {
    "palette": ("a.png", encoded(pixels(8, 8, 3), mode="P")),
    "palette with transparency": ("a.png", encoded(pixels(8, 8, 3), mode="P", transparency=3)),
    "gif": ("a.gif", encoded(pixels(8, 8, 3), "GIF", mode="P")),
    "CMYK": ("a.jpg", encoded(pixels(8, 8, 3), "JPEG", mode="CMYK")),
    "1-bit": ("a.png", encoded(pixels(8, 8, 3), mode="1")),
}


@pytest.mark.parametrize("what", CONVERTIBLE)
@pytest.mark.parametrize("channels", [1, 3])
def test_other_pixels_are_converted_only_when_asked(tmp_path, what, channels):
    name, data = CONVERTIBLE[what]
    path = folder(tmp_path, {name: data})
    refused(path, name, what.split()[0] if what != "gif" else "palette", "--data.channels 3")
    source = opened(path, channels=channels)
    assert source.facts.channels == channels
    assert source.array(0).shape == (8, 8, channels)
    assert len(source.notes) == 1
    assert "1 of 1 images are converted" in source.notes[0]
    with Image.open(io.BytesIO(data)) as image:
        over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    expected = np.asarray(over_white if channels == 3 else over_white.convert("L"))
    assert np.abs(source.array(0).squeeze().astype(int) - expected).max() <= 1


def test_gray_and_colour_together(tmp_path):
    path = folder(
        tmp_path, {"a.png": encoded(pixels(8, 8, 3)), "b.png": encoded(pixels(8, 8, 1, seed=1)), "c.png": encoded(pixels(8, 8, 4))}
    )
    refused(path, "b.png is gray (1 channel), a.png is colour (3 channels)", "--data.channels 3")
    source = opened(path, channels=3)
    assert (source.array(1) == pixels(8, 8, 1, seed=1)).all()
    assert len(source.notes) == 2
    assert (opened(path, channels=4).array(0)[..., 3] == 255).all()
    luma = pixels(8, 8, 3) @ [0.299, 0.587, 0.114]
    assert np.abs(opened(path, channels=1).array(0)[..., 0] - luma).max() <= 0.51


def test_alpha_is_laid_over_white(tmp_path):
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0] = [200, 100, 0, 255]
    array[0, 1] = [200, 100, 0, 51]
    out = opened(folder(tmp_path, {"a.png": encoded(array)}), channels=3).array(0)
    assert out[0, 0].tolist() == [200, 100, 0]
    assert out[0, 1].tolist() == [244, 224, 204]
    assert out[1, 1].tolist() == [255, 255, 255]


def test_wide_gray_to_colour_keeps_the_depth(tmp_path):
    array = pixels(8, 8, 1, dtype=np.uint16)
    out = opened(folder(tmp_path, {"a.png": encoded(array)}), channels=3).array(0)
    assert out.dtype == np.uint16
    assert (out == array).all()


def test_mixed_depths(tmp_path):
    path = folder(tmp_path, {"a.png": encoded(pixels(8, 8)), "b.png": encoded(pixels(8, 8, dtype=np.uint16))})
    refused(path, "b.png has 16 bits", "a.png has 8", channels=1)


def test_mixed_sizes(tmp_path):
    path = folder(tmp_path, {"a.png": encoded(pixels(8, 10, 3)), "b.png": encoded(pixels(12, 10, 3))})
    refused(path, "b.png is 12x10 pixels", "a.png is 8x10", "--data.size 8 10")
    source = opened(path, size=(8, 10))
    assert source.array(1).shape == (8, 10, 3)
    assert (source.array(0) == pixels(8, 10, 3)).all()
    assert source.notes == ("1 of 2 images are resized and cropped to 8x10 (height x width)",)
    assert "2 of them enlarged" in opened(path, size=(16, 16)).notes[0]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_honoured_as_pillow_does(tmp_path, turn, kind):
    exif = Image.Exif()
    exif[0x0112] = turn
    smooth = np.add.outer(np.arange(24) * 5, np.arange(40) * 3).astype(np.uint8)[..., None].repeat(3, 2)
    data = encoded(smooth, kind, exif=exif)
    source = opened(folder(tmp_path, {f"a.{kind.lower()}": data}))
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert source.facts.size == expected.shape[:2] == ((40, 24) if turn >= 5 else (24, 40))
    assert (source.array(0) == expected).all()


BAD = {
    "empty file": ("a.png", b"", "empty (0 bytes)"),
    "text": ("a.png", b"I am no image at all", "no image that can be read"),
    "32-bit": ("a.tif", encoded(np.zeros((4, 4), np.int32), "TIFF"), "32-bit integer"),
    "float": ("a.tif", encoded(np.zeros((4, 4), np.float32), "TIFF"), "32-bit floating-point"),
    "truncated JPEG": ("a.jpg", encoded(pixels(64, 64, 3), "JPEG")[:-500], "damaged"),
    "truncated PNG": ("a.png", encoded(pixels(64, 64, 3))[:-500], "damaged"),
    "truncated long PNG": ("a.png", encoded(pixels(256, 256, 3))[:-90000], "damaged"),
    "half a header": ("a.png", encoded(pixels(64, 64, 3))[:20], "no image that can be read"),
    "16-bit PPM": ("a.ppm", b"P6 2 2 65535\n" + bytes(24), "PNM"),
    "PostScript": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no image that can be read"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("place", ["folder", "zip", "deflated"])
def test_bad_files_are_named_when_the_data_is_opened(tmp_path, what, place):
    name, data, word = BAD[what]
    size = 256 if "long" in what else 64
    files = {f"0{name}": encoded(pixels(size, size, 3)), name: data}
    path = folder(tmp_path, files) if place == "folder" else zipped(tmp_path / "a.zip", files, deflate=place == "deflated")
    refused(path, f"/{name} ", word)


def test_animated_images_are_refused(tmp_path):
    frames = [Image.fromarray(pixels(8, 8, 3, seed=k)) for k in range(3)]
    for suffix in ("gif", "png", "webp", "tiff"):
        out = io.BytesIO()
        frames[0].save(out, suffix.upper(), save_all=True, append_images=frames[1:])
        refused(folder(tmp_path / suffix, {f"a.{suffix}": out.getvalue()}), f"a.{suffix} has 3 frames", channels=3)


def test_damage_behind_the_header_is_named_when_it_is_met(tmp_path):
    data = bytearray(encoded(pixels(200, 200, 3)))
    data[60_000:60_100] = bytes(100)
    good = encoded(pixels(200, 200, 3))
    source = opened(folder(tmp_path, {"a.png": good, "b.png": bytes(data), "c.png": bytes(data)}))
    assert source.array(0).shape == (200, 200, 3)
    with pytest.raises(DataError, match=r"b\.png is damaged"):
        source.batch([0, 1])
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read: b\.png, c\.png"):
        source.verify()


def test_a_file_that_vanishes_is_named(tmp_path):
    source = opened(folder(tmp_path, {"a.png": encoded(pixels(8, 8, 3))}))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        source.array(0)


def test_images_of_absurd_size_are_refused(tmp_path, monkeypatch):
    path = folder(tmp_path, {"a.png": encoded(pixels(40, 40, 3))})
    for limit in (1000, 500):  # Pillow warns beyond its limit and stops at twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.warns() if limit == 1000 else monkeypatch.context():
            refused(path, "a.png claims more than")


def test_arrays_convert_between_gray_and_colour_only(tmp_path):
    np.savez(tmp_path / "a.npz", pixels(3, 8, 8, 5))
    refused(tmp_path / "a.npz", "5 channels", channels=3)
    np.savez(tmp_path / "b.npz", pixels(3, 8, 8))
    source = opened(tmp_path / "b.npz", channels=3, size=(4, 4))
    assert source.array(0).shape == (4, 4, 3)
    assert len(source.notes) == 2


def test_channels_beyond_four_need_an_array(tmp_path):
    refused(folder(tmp_path, {"a.png": encoded(pixels(8, 8, 3))}), ".npz", channels=5)


@pytest.mark.parametrize(("settings", "word"), [({"size": (0, 8)}, "--data.size 0 8"), ({"channels": 0}, "--data.channels 0")])
def test_impossible_settings(tmp_path, settings, word):
    refused(folder(tmp_path, {"a.png": encoded(pixels(8, 8, 3))}), word, **settings)
