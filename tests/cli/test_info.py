"""``mezzotint info``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from tests.data.makers import folder, three_classes

from mezzotint.cli.info import describe, tensor_shapes
from mezzotint.errors import CheckpointError, DataError


def test_a_model(digits_run, classifier_run):
    lines = describe(digits_run / "model")
    assert "a generator of images, 8x8 pixels, 1 channels, 8 bits, class-conditional" in lines[0]
    assert "sampled by: ancestral, grid uniform, 10 steps" in lines
    assert "classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in lines
    with safe_open(digits_run / "model" / "model.safetensors", framework="pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  (not a dictionary)
    assert any(line.startswith(f"model.safetensors: {count:,} parameters, weights as trained, after 640 images") for line in lines)
    assert any(line.startswith(f"ema-0.999.safetensors: {count:,} parameters, moving average of decay 0.999") for line in lines)
    assert any(line.startswith("  net: unet") for line in lines)
    assert "a classifier of noisy images" in describe(classifier_run / "model")[0]


def test_a_run(digits_run, tmp_path):
    lines = describe(digits_run)
    assert lines[0] == f"{digits_run}: a run of recipe 'small', finished, 640 images asked for"
    assert "seen so far: 640 images in 10 steps" in lines
    assert "checkpoints: 576, 640" in lines
    going = shutil.copytree(digits_run, tmp_path / "going")
    shutil.rmtree(going / "model")
    lines = describe(going)
    assert "not finished" in lines[0] and any("--resume" in line for line in lines)
    assert any("a generator of images" in line for line in lines)
    shutil.rmtree(going / "checkpoints")
    (going / "log.jsonl").write_text('{"event": "tr')
    assert describe(going)[1:] == ["checkpoints: none yet"]


def test_a_weight_file(digits_run):
    path = digits_run / "model" / "ema-0.999.safetensors"
    lines = describe(path)
    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert {name: shape for name, (_, shape) in tensor_shapes(path)[0].items()} == shapes
    assert "  ema: 0.999" in lines and "  images: 640" in lines
    name, shape = next(iter(shapes.items()))
    assert f"  {name}  F32 {list(shape)}" in lines


@pytest.mark.parametrize("kept", [4, 40, -4], ids=["size", "header", "tensors"])
def test_a_weight_file_cut_short(digits_run, tmp_path, kept):
    data = (digits_run / "model" / "model.safetensors").read_bytes()
    path = tmp_path / "w.safetensors"
    path.write_bytes(data[:kept])
    with pytest.raises(CheckpointError, match="copy it again"):
        describe(path)


def test_samples_and_their_pngs(mezzotint, digits_run):
    assert mezzotint("sample", digits_run, "--classes", "3=2,8=1", "--guidance", "cfg,scale=2", "--seed", 4, "--out", "s").code == 0
    lines = mezzotint("info", "s").out
    assert lines[0] == "s: 3 samples (ids 0-2), complete"
    assert "classes: 3=2, 8=1" in lines and "guidance: cfg,scale=2" in lines
    lines = mezzotint("info", "s/000002.png").out
    assert lines[0] == "s/000002.png: sample 2, class 8 (label 8), 8x8 pixels, 1 channels, 8 bits"
    assert any("seed 4" in line and "sampler ancestral" in line for line in lines)
    assert "carries no recipe" in mezzotint("info", "s/grid.png").out[0]


def test_data(mezzotint, tmp_path):
    source = folder(tmp_path / "photos", three_classes(per_class=2))
    lines = describe(source)
    assert lines[0] == f"{source}: a data set of 6 images, 8x8 pixels, 3 channels, 8 bits"
    assert lines[1] == "classes: ant=2, bee=2, cat=2"
    assert mezzotint("info", "digits").out[0].startswith("digits: a data set of 1797 images")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        describe(tmp_path / "empty")


def test_a_manifest_that_is_damaged(tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        describe(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"images": []}))
    assert "not complete" in describe(Path(tmp_path))[0]
