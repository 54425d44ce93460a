"""Sizes and channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.data.makers import pixels

from mezzotint.data.transforms import to_channels, to_size


@pytest.mark.parametrize("shape", [(100, 100), (300, 200), (64, 257), (129, 128)])
def test_squares_are_cropped_as_adm_crops_them(shape):
    # Worked out by hand from the rule: halvings on the way to 64, then the size before the crop.
    halvings = {(100, 100): 0, (300, 200): 1, (64, 257): 0, (129, 128): 1}[shape]
    before = {(100, 100): (64, 64), (300, 200): (96, 64), (64, 257): (64, 257), (129, 128): (64, 64)}[shape]
    array = pixels(*shape, 3)
    image = Image.fromarray(array)
    for _ in range(halvings):
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    image = image.resize(before[::-1], Image.Resampling.BICUBIC)
    top, left = (before[0] - 64) // 2, (before[1] - 64) // 2
    assert (to_size(array, (64, 64), "crop") == np.asarray(image)[top : top + 64, left : left + 64]).all()


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40), st.sampled_from(["crop", "squash"]))
def test_any_size_is_reached_from_any(h, w, tall, wide, fit):
    for dtype, channels in ((np.uint8, 3), (np.uint16, 2)):
        flat = np.full((h, w, channels), 77, dtype)
        out = to_size(flat, (tall, wide), fit)
        assert out.shape == (tall, wide, channels)
        assert out.dtype == dtype
        assert (out == 77).all()


def test_crop_keeps_proportions_and_squash_does_not():
    array = np.zeros((64, 128, 1), np.uint8)
    array[:, 32:96] = 255
    assert (to_size(array, (32, 32), "crop") == 255).all()
    squashed = to_size(array, (32, 32), "squash")
    assert squashed[0, 0, 0] == 0
    assert squashed[16, 16, 0] == 255
    assert to_size(array, (32, 64), "crop")[:, :14].max() == 0


def test_sixteen_bits_are_not_lost_on_the_way():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64, 1).astype(np.uint16)
    small = to_size(ramp, (16, 16), "crop")[..., 0].astype(float)
    exact = ramp[..., 0].reshape(16, 4, 16, 4).mean((1, 3))
    assert np.abs(small - exact)[2:-2, 2:-2].max() < 16  # 8 bits would be off by up to 128
    assert len(np.unique(small)) == 256


def test_many_channels_are_resized_one_by_one():
    array = pixels(40, 30, 5)
    out = to_size(array, (10, 12), "squash")
    assert all((out[..., k : k + 1] == to_size(array[..., k : k + 1], (10, 12), "squash")).all() for k in range(5))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_invisible_colours_do_not_bleed(dtype):
    top = np.iinfo(dtype).max
    array = np.zeros((32, 32, 4), dtype)
    array[:, 16:] = [top, top // 2, 0, top]
    out = to_size(array, (16, 16), "crop", alpha=True).astype(float) / top
    seen = out[..., 3] > 0.05
    assert np.abs(out[seen][:, :3] - [1, 0.5, 0]).max() < 0.02


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_there_and_back(dtype):
    gray, colour = pixels(6, 6, 1, dtype=dtype), pixels(6, 6, 3, dtype=dtype)
    top = np.iinfo(dtype).max
    assert (to_channels(to_channels(gray, 3), 1) == gray).all()
    assert (to_channels(to_channels(colour, 4), 3) == colour).all()
    assert (to_channels(colour, 4)[..., 3] == top).all()
    assert to_channels(pixels(6, 6, 2, dtype=dtype), 4).shape == (6, 6, 4)
    assert to_channels(pixels(6, 6, 4, dtype=dtype), 2).dtype == dtype


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40), st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3))
def test_random_cuts_reach_any_size_from_any(h, w, tall, wide, window):
    out = to_size(np.full((h, w, 3), 77, np.uint8), (tall, wide), "random", window=window)
    assert out.shape == (tall, wide, 3)
    assert (out == 77).all()


def test_random_cuts_follow_adm():
    # Worked out by hand: 64 of 80 or fewer pixels; scale 0.5 of the 17 sizes 64..80 is 72.
    array = pixels(300, 200, 3)
    image = Image.fromarray(array).resize((100, 150), Image.Resampling.BOX).resize((72, 108), Image.Resampling.BICUBIC)
    for (top, left), corner in {(0.0, 0.0): (0, 0), (0.999, 0.999): (44, 8), (0.5, 0.25): (22, 2)}.items():
        cut = np.asarray(image)[corner[0] : corner[0] + 64, corner[1] : corner[1] + 64]
        assert (to_size(array, (64, 64), "random", window=(0.5, top, left)) == cut).all()
    assert (to_size(array, (64, 64), "random") == to_size(array, (64, 64), "crop")).all()
    square = pixels(64, 64, 3)
    assert (to_size(square, (64, 64), "random", window=(0.0, 0.9, 0.9)) == square).all()
    assert (to_size(square, (64, 64), "random", window=(0.9, 0.9, 0.9)) != square).any()
