from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.pipelines.tiny import classifier_spec, generator_spec, saved

from mezzotint.cli.pictures import read_png
from mezzotint.configs import LowResConfig, SampleConfig

NOISY = LowResConfig(scale=2, augment="cosine", augment_steps=1000)
TINY = ("--net.width", 8, "--net.blocks", 1, "--train.batch", 16, "--train.images", 32, "--train.sample-num", 4, "--optim.warmup", 0)


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stages")
    small = generator_spec(size=(4, 4), sample=SampleConfig(grid="3"))
    large = generator_spec(size=(8, 8), low_res=NOISY, sample=SampleConfig(steps=2))
    return saved(folder / "small", small), saved(folder / "large", large)


def test_join_sample_redo_info(mezzotint, stages, tmp_path) -> None:
    said = mezzotint("cascade", *stages, "--out", "both", "--stage", "2.level=0.3", "--stage", "2.truncated=true")
    assert said.code == 0, said.err
    assert said.out[:2] == [
        "stage 1: tiny, 4x4, ancestral, grid 3",
        "stage 2: tiny, 8x8, ancestral, grid uniform, 2 steps, level 0.3 truncated",
    ]
    assert mezzotint("sample", "both", "--num", 3, "--out", "a", "--stage", "1.sampler=ddim").code == 0
    assert read_png(tmp_path / "a" / "000002.png").shape == (8, 8, 3)
    held = json.loads((tmp_path / "a" / "manifest.json").read_text())["job"]
    assert held["before"][0]["sampler"] == "ddim" and held["before"][0]["end"] == 0.3 and held["level"] == 0.3
    assert mezzotint("redo", "a/000001.png").code == 0
    said = mezzotint("info", "both")
    assert any(line.startswith("stage 1 of 2: tiny, 4x4, in both") for line in said.out)


def test_mistakes(mezzotint, refused, stages) -> None:
    assert "at least two" in refused("cascade", stages[0], "--out", "c")
    assert "stage 2 begins from no low-resolution image" in refused("cascade", *reversed(stages), "--out", "c")
    assert "did you mean 'steps'" in refused("cascade", *stages, "--out", "c", "--stage", "1.step=3")
    assert "single stage" in refused("sample", stages[0], "--out", "s", "--stage", "1.steps=2")
    assert "`mezzotint cascade`" in refused("sample", stages[1], "--out", "s")
    assert mezzotint("cascade", *stages, "--out", "whole").code == 0
    assert "not tuned as a whole" in refused("tune", "whole", "--data", "digits")
    assert "not a cascade" in refused("tune", stages[0], "--data", "digits", "--what", "levels")


def test_train_from_large_images_alone_join_and_tune(mezzotint, tmp_path) -> None:
    """Two stages of digits; the second sees nothing but the 8x8 images."""
    common = ("--data", "digits", "--data.no-flip", *TINY)
    said = mezzotint("train", "cdm-8", *common, "--data.size", 4, 4, "--net.mults", 1, "--net.attention", 1, "--out", "one")
    assert said.code == 0, said.err
    said = mezzotint("train", "cdm-8-16", *common, "--data.size", 8, 8, "--net.mults", 1, "--net.attention", 1, "--out", "two")
    assert said.code == 0, said.err
    preview = next((tmp_path / "two" / "samples").iterdir())
    assert read_png(preview).shape[1] % 16 == 0 or read_png(preview).shape[1] > 16  # the low resolution stands beside each image
    assert mezzotint("cascade", "one", "two", "--out", "both", "--stage", "1.steps=2", "--stage", "2.steps=2").code == 0
    said = mezzotint("tune", "both", "--data", "digits", "--what", "levels", "--levels", "0,0.5", "--num", 64)
    assert said.code == 0, said.err
    assert said.out[0].split() == ["stage", "level", "distance"] and len(said.out) == 4
    kept = float(said.out[3].split("level ")[1].split(",")[0])
    spec = json.loads((tmp_path / "both" / "spec.json").read_text())
    assert spec["recipe"]["sample"]["level"] == kept


def test_the_noise_schedule_is_searched_after_training(mezzotint, tmp_path) -> None:
    words = ("--data", "digits", "--low-res.scale", 2, "--net.groups", 4, "--net.mults", 1, "--net.attention", 1, *TINY)
    assert mezzotint("train", "sr3-small", *words, "--out", "run").code == 0
    said = mezzotint("tune", "run", "--data", "digits", "--what", "schedule", "--calls", "3", "--num", 64)
    assert said.code == 0, said.err
    best = json.loads((tmp_path / "run" / "model" / "tuned.json").read_text())["best"]["3"]
    assert best["grid"].startswith("betas:") and best["sampler"] == "ancestral"


def test_the_model_that_guides_an_earlier_stage_is_on_record(mezzotint, refused, tmp_path) -> None:
    one = saved(tmp_path / "one", generator_spec(size=(4, 4), sample=SampleConfig(grid="3")))
    two = saved(tmp_path / "two", generator_spec(size=(8, 8), low_res=LowResConfig(scale=2), sample=SampleConfig(steps=2)))
    judge = saved(tmp_path / "judge", classifier_spec(size=(4, 4)))
    assert mezzotint("cascade", one, two, "--out", "both").code == 0
    how = ["--classes", "cat=2", "--stage"]
    assert mezzotint("sample", "both", *how, "1.guidance=classifier,model=judge,scale=3", "--out", "a").code == 0
    digest = hashlib.sha256((judge / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["guidance_models"] == {"judge": digest}
    assert mezzotint("redo", "a/000001.png").code == 0
    # It may lie elsewhere for as long as it is the same one.
    shutil.move(judge, tmp_path / "moved")
    assert mezzotint("sample", "both", *how, "1.guidance=classifier,model=moved,scale=3", "--out", "a").code == 0
    line = refused("sample", "both", *how, "1.guidance=classifier,model=moved,scale=2", "--out", "a")
    assert 'stage 1 guidance is [["classifier", [["scale", "3"]]]] there, [["classifier", [["scale", "2"]]]] now' in line
    spec = classifier_spec(size=(4, 4))
    saved(tmp_path / "judge", replace(spec, recipe=replace(spec.recipe, net=replace(spec.recipe.net, width=16))))
    assert "judge is not the model that guided a/000001.png" in refused("redo", "a/000001.png")
    shutil.rmtree(tmp_path / "judge")
    assert "judge" in refused("redo", "a/000001.png")
