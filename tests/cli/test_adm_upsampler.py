"""The class-conditional upsampler of ADM, from the command line: trained, joined, guided, swept, measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tests.data.makers import encoded, folder, pixels

from mezzotint.cli.pictures import read_png

NET = ("--net.width", 16, "--net.blocks", 1, "--net.mults", 1, "--net.attention", 1, "--schedule.steps", 100, "--train.precision", "fp32")
DIGITS = (
    "--data",
    "digits",
    "--data.split",
    "train",
    "--data.no-flip",
    "--train.sample-every",
    0,
    "--train.images",
    128,
    "--train.batch",
    64,
)
UPSAMPLER = ("--data.size", 8, 8, "--low-res.scale", 2, "--net.heads", 2, "--low-res.augment", "cosine", "--low-res.augment-steps", 100)
JOINED = ("--stage", "1.grid=4", "--stage", "2.grid=4")


def images(path: Path) -> np.ndarray:
    return np.stack([read_png(file) for file in sorted(path.glob("0*.png"))]).astype(float)


def test_from_labelled_digits_to_a_guided_cascade(mezzotint, refused, tmp_path) -> None:
    base = ("--data.size", 4, 4, "--net.head-channels", 8)
    assert mezzotint("train", "adm", *DIGITS, *NET, *base, "--out", "base").code == 0
    assert mezzotint("train", "adm-upsampler-64-256", *DIGITS, *NET, *UPSAMPLER, "--out", "up").code == 0
    assert mezzotint("train-classifier", "digits-classifier", "--data", "digits", "--train.images", 128, "--out", "classifier").code == 0
    said = mezzotint("cascade", "base", "up", "--out", "both", *JOINED)
    assert said.code == 0 and said.out[1] == "stage 2: adm-upsampler-64-256, 8x8, ancestral, grid 4", said

    guided = "classifier,model=classifier,scale=20"
    for name, words in (("plain", ()), ("guided", ("--stage", f"2.guidance={guided}")), ("level", ("--stage", "2.level=0.5"))):
        said = mezzotint("sample", "both", "--classes", "3=2,8=2", "--out", name, *words)
        assert said.code == 0, said.err
    plain = images(tmp_path / "plain")
    assert plain.shape == (4, 8, 8, 1)
    assert not any(np.array_equal(images(tmp_path / name), plain) for name in ("guided", "level"))
    held = json.loads((tmp_path / "guided" / "manifest.json").read_text())["job"]
    assert held["guidance"] == [guided] and held["before"][0]["guidance"] == []
    line = refused("sample", "both", "--classes", "3=2", "--out", "all", "--guidance", guided)
    assert "stage 1" in line and "images of 8x8x1" in line and "--stage 2.guidance=" in line

    folder(tmp_path / "small", {"a.png": encoded(pixels(24, 24, 1))})
    for name in ("3", "8"):
        assert mezzotint("upscale", "small/a.png", "--model", "up", "--class", name, "--grid", 20, "--out", f"large{name}").code == 0
    three, eight = (read_png(tmp_path / f"large{name}" / "a.png") for name in ("3", "8"))
    assert not np.array_equal(three, eight)
    assert "did you mean" in refused("upscale", "small/a.png", "--model", "up", "--class", "33", "--out", "large")

    said = mezzotint("tune", "both", "--data", "digits", "--what", "levels", "--levels", "0,0.5", "--num", 64)
    assert said.code == 0 and [line.split()[:2] for line in said.out[1:3]] == [["2", "0"], ["2", "0.5"]], said
    said = mezzotint("sample", "both", "--classes", ",".join(f"{k}=10" for k in range(10)), "--out", "many")
    measure = ("--reference", "digits", "--split", "test", "--features", "classifier", "--metrics", "fid,cas")
    said = mezzotint("evaluate", "many", *measure, "--cas-recipe", "digits-classifier", "--cas-images", 128)
    assert said.code == 0 and [line.split()[0] for line in said.out[:2]] == ["fd_classifier_100", "cas"], said
