"""PNG files with text, and grids."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.data.makers import pixels

from mezzotint.cli.pictures import grid, read_png, read_recipe, replacing_file, write_png
from mezzotint.data.images import decode
from mezzotint.data.png import encode_png


@given(h=st.integers(1, 9), w=st.integers(1, 9), c=st.integers(1, 4), bits=st.sampled_from([8, 16]), seed=st.integers(0, 99))
def test_any_shape_comes_back(h, w, c, bits, seed):
    array = pixels(h, w, c, seed=seed, dtype=np.uint8 if bits == 8 else np.uint16)
    back = decode(encode_png(array, {"key": "text"}), "x.png")
    assert back.dtype == array.dtype and np.array_equal(back, array)


def test_other_programs_read_pixels_and_text():
    array = pixels(5, 7, 3)
    image = Image.open(io.BytesIO(encode_png(array, {"mezzotint": '{"class": "кот"}'})))
    assert np.array_equal(np.asarray(image), array)
    assert image.text == {"mezzotint": '{"class": "кот"}'}  # pyright: ignore


def test_smooth_pictures_become_small():
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 64, 3))
    assert len(encode_png(ramp, {})) < 300


def test_recipe_of_a_file(tmp_path):
    path = tmp_path / "a.png"
    write_png(path, pixels(4, 4, 3), {"other": "x", "mezzotint": '{"id": 3}'})
    assert read_recipe(path) == {"id": 3}
    write_png(path, pixels(4, 4, 3), {"other": "x"})
    assert read_recipe(path) is None
    assert read_png(path).shape == (4, 4, 3)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing_file(path) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"


def test_grid_places_and_enlarges():
    images = [np.full((8, 4, 3), k + 1, np.uint8) for k in range(5)]
    sheet = grid(images, columns=3)
    assert sheet.shape == (2 * 34 - 2, 3 * 18 - 2, 3)
    for k in range(5):
        y, x = divmod(k, 3)
        assert (sheet[y * 34 : y * 34 + 32, x * 18 : x * 18 + 16] == k + 1).all()
    assert (sheet[32:34] == 0).all() and (sheet[34:, 36:] == 0).all()


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 2), (3, 3), (4, 4), (7, 3)])
def test_grid_of_wide_pixels(channels, shown):
    sheet = grid([np.full((32, 32, channels), 65535, np.uint16)] * 2, columns=2)
    assert sheet.shape == (32, 66, shown) and sheet.dtype == np.uint8
    assert (sheet[:, :32] == 255).all()
    if shown in (2, 4):
        assert (sheet[:, 32:34, -1] == 255).all()  # the gap is opaque
