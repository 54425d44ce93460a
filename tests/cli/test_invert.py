from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mezzotint.cli.pictures import read_png


def test_an_image_comes_back(mezzotint, digits_run) -> None:
    mezzotint("sample", digits_run, "--classes", "3=1", "--out", "s")
    said = mezzotint("invert", digits_run, "s/000000.png", "--label", 3, "--steps", 20, "--grid", "logsnr", "--out", "found")
    assert said.code == 0, said
    held = json.loads(Path("found/inversion.json").read_text())
    assert held["steps"] == 20 and held["t"] == 1.0 and held["label"] == "3" and f"error of {held['rmse']:.3f} of 255" in said.out[0]
    latent = np.load("found/latent.npy")
    assert latent.shape == (1, 8, 8) and latent.dtype == np.float32
    off = read_png(Path("found/reconstruction.png")).astype(float) - read_png(Path("s/000000.png"))
    assert abs(np.sqrt((off**2).mean()) - held["rmse"]) < 0.5
    more = mezzotint("invert", digits_run, "s/000000.png", "--label", 3, "--steps", 80, "--grid", "logsnr", "--out", "more")
    assert more.code == 0 and json.loads(Path("more/inversion.json").read_text())["rmse"] < 0.5 * held["rmse"]


def test_any_picture_is_brought_to_size_and_channels(mezzotint, digits_run) -> None:
    Image.new("RGB", (30, 20), (90, 10, 200)).save("photo.jpg")
    assert mezzotint("invert", digits_run, "photo.jpg", "--steps", 2, "--out", "found").code == 0
    assert read_png(Path("found/reconstruction.png")).shape == (8, 8, 1)


def test_mistakes(refused, digits_run, classifier_run) -> None:
    Image.new("L", (8, 8)).save("photo.png")
    assert "no file" in refused("invert", digits_run, "nowhere.png", "--out", "s")
    assert "is a classifier" in refused("invert", classifier_run, "photo.png", "--out", "s")
    assert "unknown class 'x'" in refused("invert", digits_run, "photo.png", "--label", "x", "--out", "s")
    assert "0 steps" in refused("invert", digits_run, "photo.png", "--steps", 0, "--out", "s")
    Path("broken.png").write_text("x")
    assert "no image that can be read" in refused("invert", digits_run, "broken.png", "--out", "s")
    assert not Path("s").exists()
    assert "not empty" in refused("invert", digits_run, "photo.png", "--out", ".")
