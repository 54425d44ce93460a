"""``mezzotint train``, as a newcomer types it."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.models import SHORT, TINY
from tests.data.makers import encoded, folder, pixels, three_classes

from mezzotint import registry
from mezzotint.cli.train import TASKS, Options, arguments, recipes, summary
from mezzotint.configs import ClassifyConfig, EncoderConfig, VEConfig, VLBConfig, to_dict
from mezzotint.errors import ConfigError
from mezzotint.weights.io import read_spec


def test_every_recipe_belongs_to_a_command():
    found = [name for task in TASKS.values() for name in recipes(task)]
    assert sorted(found) == registry.names("recipe")


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_a_recipe_without_changes_comes_back_whole(name):
    recipe = registry.get("recipe", name)()
    given, run = arguments(recipe, ["--data", "digits", "--out", "r"], prog="p")
    wanted = to_dict(recipe)
    wanted["data"]["path"] = "digits"
    assert to_dict(given) == wanted
    assert run == Options(Path("r"), resume=False, init=None)


def test_any_setting_can_be_changed():
    words = ["--data=photos", "--out", "r", "--resume", "--net.width", "96", "--net.mults", "1", "2", "--data.size", "32", "48"]
    words += [
        "--data.no-labels",
        "--data.flip",
        "--optim.lr",
        "3e-4",
        "--optim.clip",
        "None",
        "--ema.decays",
        "0.9",
        "0.99",
        "--label.drop",
        "0.2",
    ]
    given, run = arguments(recipes("generate")["small"], words, prog="p")
    assert run.resume
    assert given.net.width == 96 and tuple(given.net.mults) == (1, 2)
    assert given.data.path == "photos" and given.data.size == (32, 48) and not given.data.labels and given.data.flip
    assert given.optim.lr == 3e-4 and given.optim.clip is None
    assert given.ema.decays == (0.9, 0.99)
    assert given.label is not None and given.label.drop == 0.2


def test_pieces_can_be_exchanged():
    words = [
        "--data",
        "d",
        "--out",
        "r",
        "--objective",
        "vlb",
        "--schedule=ve",
        "--schedule.sigma-max",
        "50",
        "--label",
        "none",
        "--net",
        "encoder",
    ]
    given, _ = arguments(recipes("generate")["small"], words, prog="p")
    assert given.objective == VLBConfig()
    assert given.schedule == VEConfig(sigma_max=50.0)
    assert given.label is None
    assert given.net == EncoderConfig()
    with pytest.raises(ConfigError, match=r"--label\.drop"):
        arguments(recipes("generate")["small"], [*words, "--label.drop", "0.1"], prog="p")


def test_summary_has_every_piece():
    recipe = recipes("classify")["small-classifier"]
    assert recipe.objective == ClassifyConfig()
    lines = summary(recipe).splitlines()
    assert lines[0] == "recipe: small-classifier"
    assert "  objective: classify noised=True" in lines
    assert "  label: none" in lines


def test_a_run_leaves_a_model_and_sample_grids(digits_run, mezzotint):
    spec = read_spec(digits_run / "model")
    assert spec.data.classes == tuple("0123456789")
    assert spec.recipe.net.width == 16
    assert spec.provenance["data"] == "digits"
    grids = sorted(p.name for p in (digits_run / "samples").glob("*.png"))
    assert grids == ["000000320.png", "000000640.png"]
    assert Image.open(digits_run / "samples" / grids[0]).size == (4 * 34 - 2, 4 * 34 - 2)


def test_a_run_says_what_it_does(mezzotint, tmp_path):
    source = folder(tmp_path / "photos", three_classes(per_class=3) | {"ant/note.txt": b"x"})
    said = mezzotint(
        "train", "small", "--data", source, "--out", "r", *TINY, "--train.images", "12", "--train.batch", "4", "--train.sample-every", "0"
    )
    assert said.code == 0, said
    assert said.out[0] == f"data: {source}, 9 images of 8x8x3, 8 bits"
    assert said.out[1] == "classes: 0 ant, 1 bee, 2 cat"
    assert said.out[2].startswith("note: 1 files are not images")
    assert "  net: unet in_channels=3 out_channels=6" in "\n".join(said.out)
    assert [line for line in said.out if line.startswith("run folder: ")] == [f"run folder: {tmp_path / 'r'}"] * 2
    assert any("12.0/12.0" in line and "img/s" in line for line in "\n".join(said.err).replace("\r", "\n").splitlines())
    again = mezzotint("train", "small", "--data", source, "--out", "r", *TINY, "--train.images", "12", "--train.batch", "4")
    assert again.code == 2 and "--resume" in again.err[-1]


def test_the_seed_decides_the_weights(mezzotint):
    words = ["train", "small", "--data", "digits", *TINY, "--train.images", "128", "--train.batch", "64", "--train.sample-every", "0"]
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert mezzotint(*words, "--out", name, "--train.seed", seed).code == 0
        hashes.append({k: v["sha256"] for k, v in json.loads(Path(name, "model", "spec.json").read_text())["weights"].items()})
    assert hashes[0] == hashes[1] != hashes[2]


def test_data_without_labels(mezzotint, refused, tmp_path):
    source = folder(tmp_path / "photos", {f"{i}.png": encoded(pixels(8, 8, 1, seed=i)) for i in range(4)})
    words = ["train", "small", "--data", source, *TINY, "--train.images", "4", "--train.batch", "4", "--train.sample-every", "0"]
    assert "--label none" in refused(*words, "--out", "r")
    assert not (tmp_path / "r").exists()
    assert mezzotint(*words, "--out", "r", "--label", "none").code == 0
    assert read_spec(tmp_path / "r" / "model").recipe.label is None


# --- bad input -----------------------------------------------------------------------------------------------------------


def damaged(tmp_path, kind):
    """A data path with one fault, and words that its message must have."""
    root = tmp_path / "photos"
    files = three_classes()
    expected: list[str] = []
    if kind == "empty folder":
        files, expected = {"readme.txt": b"none here"}, ["holds no images"]
    elif kind == "fewer images than a batch":
        expected = ["6 images", "--train.batch 6"]
    elif kind == "mixed sizes":
        files["bee/9.png"], expected = encoded(pixels(8, 9, 3)), ["bee/9.png", "--data.size"]
    elif kind == "truncated JPEG":
        files["bee/9.jpg"], expected = encoded(pixels(8, 8, 3), "JPEG")[:300], ["bee/9.jpg", "damaged"]
    elif kind == "CMYK":
        files["bee/9.jpg"], expected = encoded(pixels(8, 8, 3), "JPEG", "CMYK"), ["bee/9.jpg", "CMYK", "--data.channels"]
    elif kind == "palette":
        files["bee/9.png"], expected = encoded(pixels(8, 8, 3), mode="P"), ["bee/9.png", "palette", "--data.channels"]
    elif kind == "class folder without images":
        files["dog/note.txt"], expected = b"none yet", ["dog", "no images"]
    elif kind == "zip cut in half":
        folder(root, files)
        path = tmp_path / "photos.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path, ["photos.zip"]
    elif kind == "label out of range":
        path = tmp_path / "photos.npz"
        np.savez(path, arr_0=pixels(4, 8, 8, 3), arr_1=np.array([0, 1, -1, 1]))
        return path, ["-1"]
    return folder(root, files), expected


KINDS = [
    "empty folder",
    "fewer images than a batch",
    "mixed sizes",
    "truncated JPEG",
    "CMYK",
    "palette",
    "class folder without images",
    "zip cut in half",
    "label out of range",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", TASKS)
def test_bad_data_is_one_line(refused, tmp_path, kind, command):
    path, expected = damaged(tmp_path, kind)
    recipe = "small" if command == "train" else "small-classifier"
    batch = "64" if kind == "fewer images than a batch" else "2"
    line = refused(command, recipe, "--data", path, "--out", tmp_path / "r", *TINY, "--train.batch", batch)
    for part in expected:
        assert part in line
    assert not (tmp_path / "r").exists()


def test_an_output_folder_that_cannot_be_made(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = refused("train", "small", "--data", "digits", "--out", tmp_path / "file" / "r", *TINY, *SHORT)
    assert "cannot make the run folder" in line and "--out" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the root user")
def test_a_read_only_output_folder(refused, tmp_path):
    place = tmp_path / "locked"
    place.mkdir(mode=0o555)
    assert "Permission denied" in refused("train", "small", "--data", "digits", "--out", place / "r", *TINY, *SHORT)


@pytest.mark.parametrize("name", ["sr3-small", "sr3-regression-small"])
def test_a_model_that_enlarges_is_measured_on_the_way(mezzotint, tmp_path, name):
    """The first image cannot be read: neither grid nor distance begins from it."""
    root = folder(tmp_path / "photos", {f"{k:02}.png": encoded(pixels(16, 16, 3, seed=k)) for k in range(40)})
    late = bytearray((root / "00.png").read_bytes())
    late[-40:-20] = bytes(20)
    (root / "00.png").write_bytes(late)
    tiny = [
        "--net.width",
        "8",
        "--net.mults",
        "1",
        "--net.attention",
        "1",
        "--net.groups",
        "4",
        "--train.batch",
        "8",
        "--train.images",
        "16",
    ]
    looks = ["--train.fd-every", "16", "--train.fd-num", "8", "--train.fd-steps", "2", "--train.sample-num", "4"]
    words = [*tiny, *looks, "--sample.steps", "2"] if name == "sr3-small" else [*tiny, *looks]
    said = mezzotint("train", name, "--data", root, "--data.max-unreadable", "0.1", "--out", "r", "--optim.warmup", "0", *words)
    assert said.code == 0, said.err
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    (found,) = [line for line in lines if line["event"] == "distance"]
    assert found["name"] == "fd8" and float(found["distance"]) > 0
    assert "00.png" in (tmp_path / "r" / "unreadable.jsonl").read_text()
    assert len(list((tmp_path / "r" / "samples").iterdir())) >= 1
