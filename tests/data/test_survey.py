"""What a survey of a data set counts and measures."""

from __future__ import annotations

import numpy as np
import pytest
from tests.data.makers import encoded, folder, pixels, three_classes, wide_png
from tests.data.test_unreadable import files

from mezzotint.configs import DataConfig
from mezzotint.data.survey import survey
from mezzotint.errors import DataError


def surveyed(path, workers: int = 0, **settings):
    return survey(DataConfig(path=str(path), **settings), workers=workers)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_moments_are_those_of_the_pixels(tmp_path, dtype):
    arrays = [pixels(9, 7, 3, seed=i, dtype=dtype) // (i + 1) for i in range(5)]
    path = folder(tmp_path, {f"{i}.png": encoded(a) if dtype == np.uint8 else wide_png(a) for i, a in enumerate(arrays)})
    found = surveyed(path, workers=2)
    values = np.stack(arrays) / (np.iinfo(dtype).max / 2) - 1
    assert np.allclose(found.mean, values.mean((0, 1, 2)))
    assert np.allclose(found.std, values.std((0, 1, 2)))
    assert found.sigma_data == pytest.approx(values.std())
    flat = values.reshape(5, -1)
    assert found.sigma_max == pytest.approx(max(np.linalg.norm(a - b) for a in flat for b in flat), rel=1e-4)
    assert dict(found.sizes) == {(9, 7): 5} and dict(found.channels) == {3: 5} and dict(found.bits) == {np.iinfo(dtype).bits: 5}


def test_images_need_not_agree(tmp_path):
    held = files() | {"b/gray.png": encoded(pixels(8, 8, 1)), "b/large.png": encoded(pixels(30, 20, 3)), "b/again.png": files()["a/00.png"]}
    path = folder(tmp_path, held)
    found = surveyed(path)
    assert found.images == 23
    assert sorted(found.unreadable) == ["a/03.png", "a/07.png", "b/19.png"]
    assert dict(found.sizes) == {(8, 8): 19, (30, 20): 1}
    assert dict(found.channels) == {3: 19, 1: 1}
    assert found.duplicates == [["a/00.png", "b/again.png"]]
    assert found.classes == {"a": 10, "b": 13}
    assert (found.mean, found.sigma_data, found.sigma_max) == ((), None, None)
    found = surveyed(path, size=(8, 8), channels=3, workers=2)
    assert dict(found.sizes) == {(8, 8): 20} and len(found.mean) == 3 and found.sigma_max is not None


def test_arrays_digits_tags_and_missing_data(tmp_path):
    assert surveyed("digits").classes["0"] == 178
    np.savez(tmp_path / "a.npz", pixels(4, 6, 5, 5))
    assert dict(surveyed(tmp_path / "a.npz").channels) == {5: 4}
    held = {
        "0.png": encoded(pixels(4, 4, 3)),
        "1.png": encoded(pixels(4, 4, 3, seed=1)),
        "labels.csv": b"file,labels\n0.png,b;a\n1.png,a\n",
    }
    assert surveyed(folder(tmp_path / "tags", held)).tags == {"a": 2, "b": 1}
    with pytest.raises(DataError, match="does not exist"):
        surveyed(tmp_path / "gone")


def test_progress_is_told(tmp_path):
    told = []
    survey(DataConfig(path=str(folder(tmp_path, three_classes()))), progress=lambda done, total: told.append((done, total)))
    assert told == [(k, 6) for k in range(1, 7)]
