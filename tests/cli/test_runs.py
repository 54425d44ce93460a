"""``mezzotint runs``, ``plot`` and ``ema``, and the settings of ``train`` that belong to them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.models import TINY

import mezzotint as package
from mezzotint.cli.plot import draw
from mezzotint.cli.runs import find_runs
from mezzotint.cli.train import advice
from mezzotint.recipes.small import small
from mezzotint.tasks.plan import needs
from mezzotint.train.history import read_history
from mezzotint.weights.io import read_spec, read_tensors

WATCHED = [
    *["--train.images", "640", "--train.batch", "32", "--train.log-every", "2", "--train.sample-every", "320", "--train.sample-num", "4"],
    *["--train.held-out", "0.1", "--train.fd-every", "320", "--train.fd-num", "64", "--train.fd-steps", "3"],
    *["--data.augment", "0.12", "--ema.stds", "0.05", "0.1", "--sample.steps", "3", "--sample.grid", "uniform"],
]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run with all that can be looked at, and what it said."""
    import contextlib
    import io

    out, said = tmp_path_factory.mktemp("runs") / "watched", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert package_main(["train", "small", "--data", "digits", "--out", str(out), *TINY, *WATCHED]) == 0
    return out, said.getvalue().splitlines()


def package_main(words: list[str]) -> int:
    from mezzotint.cli import main

    return main(words)


def test_a_run_is_looked_at_as_asked(watched):
    out, said = watched
    assert any(line.startswith("held out: ") and "are trained on" in line for line in said)
    found = read_history(out)
    assert [images for images, _ in found.curve("held_out", "loss")] == [64 * k for k in range(1, 11)]
    assert list(found.distances()) == ["fd64 pixels"]
    assert [images for images, _ in found.distances()["fd64 pixels"]] == [320, 640]
    assert len(found.lines["grid"]) == 2 and len(found.lines["grid"][0]["colour_drift"]) == 1
    assert len(list((out / "tensorboard").iterdir())) == 1
    spec = read_spec(out / "model")
    assert spec.recipe.net.augment == 9
    assert [info["ema"] for info in spec.weights.values()] == [None, 0.999, 0.05, 0.1]


def test_small_data_is_advised(watched):
    _, said = watched
    assert not any("images are few" in line for line in said)
    words = advice(small(), 19_999)
    assert words is not None and "--train.held-out 0.02" in words and "--data.augment 0.12" in words
    assert advice(small(), 20_000) is None


def test_colours_that_drift_are_advised_once(watched):
    # Hardly trained, the model makes gray noise, and digits are mostly black.
    _, said = watched
    lines = [line for line in said if "channel means of the grid" in line]
    assert len(lines) == 1 and "--denoiser.predicts v or x0" in lines[0]


def test_runs_are_listed_with_their_state(mezzotint, watched, tmp_path):
    out, _ = watched
    shutil.copytree(out, tmp_path / "all/a/first")
    shutil.copytree(out, tmp_path / "all/second")
    status = tmp_path / "all/second/status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "failed", "reason": "the disk fell out"}))
    said = mezzotint("runs", "all")
    assert said.code == 0
    head, first, second = said.out
    assert head.split() == ["run", "recipe", "state", "images", "of", "loss", "last", "checkpoint"]
    loss = f"{read_history(out).loss:.4g}"
    assert first.split() == ["all/a/first", "small", "finished", "640", "640", loss, "640"]
    assert second.split()[:3] == ["all/second", "small", "failed"] and second.endswith("the disk fell out")
    # A run is not searched for others, and a run itself can be given.
    (tmp_path / "all/second/inner").mkdir()
    shutil.copy(out / "run.json", tmp_path / "all/second/inner")
    assert find_runs(tmp_path / "all") == [tmp_path / "all/a/first", tmp_path / "all/second"]
    assert len(mezzotint("runs", "all/second").out) == 2


def test_listing_needs_runs(refused, tmp_path):
    assert "there is no training run in" in refused("runs", tmp_path)
    assert "is no folder" in refused("runs", tmp_path / "nowhere")


def test_listing_does_not_load_torch():
    import subprocess
    import sys

    code = "import sys, mezzotint.cli.runs, mezzotint.cli.plot; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_curves_are_drawn(mezzotint, watched, tmp_path):
    out, _ = watched
    said = mezzotint("plot", out, "--out", "curves.png")
    assert said.code == 0 and said.out == [f"curves of {out}: curves.png"]
    image = Image.open(tmp_path / "curves.png")
    assert image.format == "PNG" and image.width > 3 * 600
    titles = draw([read_history(out)], tmp_path / "one.png")
    assert titles == ["loss", "loss by noise level, and the band in which it was", "Frechet distance"]
    # Of several runs the levels would be too many.
    assert draw([read_history(out)] * 2, tmp_path / "two.png") == ["loss", "Frechet distance"]


def test_curves_against_compute(mezzotint, watched, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    out, _ = watched
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    assert mezzotint("plot", out, out, "--out", "scaling.png", "--against", "flops").code == 0
    axes = kept[0].axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_xlabel() == "floating-point operations"
    recipe = read_spec(out / "model").recipe
    expected = needs(replace(recipe, data=replace(recipe.data, size=(8, 8)))).flops * read_history(out).losses()["denoise"][-1][0]
    assert axes.get_lines()[0].get_xdata()[-1] == pytest.approx(expected)


def test_what_cannot_be_drawn_is_one_line(refused, watched, tmp_path):
    out, _ = watched
    assert "is not the folder of a run" in refused("plot", tmp_path, "--out", "x.png")
    assert "ends in .png" in refused("plot", out, "--out", "x.pdf")
    shutil.copytree(out, tmp_path / "silent")
    (tmp_path / "silent/log.jsonl").unlink()
    assert "nothing is logged yet" in refused("plot", "silent", "--out", "x.png")


def test_an_average_of_another_length_becomes_a_model(mezzotint, watched, tmp_path):
    out, _ = watched
    said = mezzotint("ema", out, "--std", "0.075", "--out", "other")
    assert said.code == 0, said
    assert said.out[-1].startswith("average of relative standard deviation 0.075, half-life ")
    spec = read_spec(tmp_path / "other")
    (name,) = spec.weights
    assert name == "ema-std0.075.safetensors"
    assert (spec.weights[name]["profile"], spec.weights[name]["images"], spec.weights[name]["updates"]) == ("power", 640, 20)
    assert set(read_tensors(tmp_path / "other" / name)) == set(read_tensors(out / "model/model.safetensors"))
    images = package.load("other").sample(num=2, steps=2)
    assert images.shape == (2, 1, 8, 8)
    assert any("relative standard deviation 0.075 over 20 updates" in line for line in mezzotint("info", "other").out)


def test_averages_that_cannot_be_made_are_one_line(refused, watched, digits_run, tmp_path):
    out, _ = watched
    assert "must be above 0 and at most 0.28" in refused("ema", out, "--std", "0.5", "--out", "x")
    assert "no snapshot after 7 images" in refused("ema", out, "--std", "0.1", "--images", "7", "--out", "x")
    assert "already exists" in refused("ema", out, "--std", "0.1", "--out", out)
    assert "--ema.stds 0.05 0.1" in refused("ema", digits_run, "--std", "0.1", "--out", "x")


@pytest.mark.parametrize(
    "words, part",
    [
        (["--train.fd-every", "32", "--train.fd-features", "inceptionn"], "did you mean 'inception'"),
        (["--train.held-out", "1.5"], "--train.held-out is 1.5"),
        (["--data.augment", "2"], "data.augment 2 is no probability"),
        (["--train.trackers", "nowhere"], "unknown tracker 'nowhere'"),
        (["--ema.stds", "0.9"], "at most 0.28"),
    ],
)
def test_bad_settings_are_one_line_before_the_run(refused, tmp_path, words, part):
    assert part in refused("train", "small", "--data", "digits", "--out", "r", *TINY, *words)
    assert not (tmp_path / "r").exists()


def test_a_classifier_can_be_what_is_compared(mezzotint, classifier_run, tmp_path):
    words = ["--train.images", "64", "--train.batch", "32", "--train.sample-every", "0", "--sample.steps", "2", "--sample.grid", "uniform"]
    distance = ["--train.fd-every", "64", "--train.fd-num", "16", "--train.fd-steps", "2", "--train.fd-features", classifier_run]
    assert mezzotint("train", "small", "--data", "digits", "--out", "r", *TINY, *words, *distance).code == 0
    (name,) = read_history(tmp_path / "r").distances()
    assert name.startswith("fd16 classifier")
