"""mezzotint fidelity."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tests.cli.test_upscale import QUICK
from tests.data.makers import encoded, folder, pixels, zipped
from tests.pipelines.upscalers import saved


def smooth(k: int, side: int = 32) -> np.ndarray:
    small = pixels(5, 5, 3, seed=k)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16).clip(30, 225).astype(np.uint8)


@pytest.fixture
def world(tmp_path):
    """Originals, low-resolution images, and outputs that are off by 2 levels of 255."""
    originals = {f"{k}.png": smooth(k) for k in range(9)}
    folder(tmp_path / "real", {f"a/{name}": encoded(x) for name, x in originals.items()})
    reduced = {name: np.asarray(Image.fromarray(x).resize((8, 8), Image.Resampling.BICUBIC)) for name, x in originals.items()}
    zipped(tmp_path / "small.zip", {f"a/{name}": encoded(x) for name, x in reduced.items()})
    outputs = {f"a/{name.replace('png', 'webp')}": encoded(x + np.uint8(2), "WEBP", lossless=True) for name, x in originals.items()}
    folder(tmp_path / "made", {**outputs, "grid.png": encoded(smooth(0)), "b.png": encoded(smooth(0))})
    return tmp_path


def test_figures(mezzotint, world):
    said = mezzotint("fidelity", "made", "--reference", "real", "--low-res", "small.zip", "--json", "f.json")
    assert said.code == 0 and "1 images of made have no original and are left out" in said.out
    held = json.loads((world / "f.json").read_text())
    assert len(held["images"]) == 9
    for row in held["images"]:
        assert abs(row["psnr"] - 20 * np.log10(255 / 2)) < 1e-6 and 0.98 < row["ssim"] < 1
        assert abs(row["consistency"] - (2 / 255) ** 2) < 1e-5
    text = "\n".join(said.out)
    assert "PSNR        42.1102 dB ± 0.0000" in text and "42." in text.split("consistency")[1]


def test_the_classifier(mezzotint, world):
    words = ("fidelity", "real", "--reference", "real", "--classifier", "--images", "640", "--json", "f.json")
    said = mezzotint(*words)
    assert said.code == 0 and any("50.0% told right" in line for line in said.out)
    assert json.loads((world / "f.json").read_text())["classifier"]["cuts"] == 18


def test_all_samples_of_an_enlarged_folder(mezzotint, world):
    model = saved(world / "model")
    order = ["upscale", "small.zip", "--model", model, "--out", "large", "--num", "2", "--consistent", *QUICK]
    assert mezzotint(*order).code == 0
    said = mezzotint("fidelity", "large", "--reference", "real", "--low-res", "small.zip", "--json", "f.json")
    held = json.loads((world / "f.json").read_text())["images"]
    assert said.code == 0 and [row["output"] for row in held[:2]] == ["a/0.0.png", "a/0.1.png"] and len(held) == 18
    assert all(-10 * np.log10(row["consistency"]) > 45 for row in held)


def test_mistakes(refused, world):
    (world / "hollow").mkdir()
    folder(world / "other", {"x.png": encoded(smooth(0))})
    folder(world / "small", {"a/0.png": encoded(smooth(0, 16))})
    folder(world / "odd", {f"a/{k}.png": encoded(smooth(0, 9)) for k in range(9)})
    folder(world / "damaged", {"a/0.png": encoded(smooth(0)), "manifest.json": b"{"})
    for words, line in (
        (["made", "--reference", "nowhere"], "neither a folder nor a ZIP"),
        (["made", "--reference", "other"], "no image of made has an original"),
        (["small", "--reference", "real"], "is 16x16, real/a/0.png 32x32"),
        (["made", "--reference", "real", "--low-res", "small"], "no low-resolution image 'a/1'"),
        (["made", "--reference", "real", "--low-res", "odd"], "whole number of times larger"),
        (["damaged", "--reference", "real"], "is damaged"),
        (["made", "--reference", "real", "--low-res", "real"], "outputs must be 2, 3 or another whole number of times larger"),
        (["hollow", "--reference", "real"], "hollow holds no images"),
        (["made", "--reference", "real", "--classifier", "--images", "0"], "--images 0; give"),
        (["made", "--reference", "real", "--json", "no/f.json"], "no does not exist"),
    ):
        assert line in refused("fidelity", *words), words
