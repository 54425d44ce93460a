"""``mezzotint data``, and training on what only some machines have: shards, tables, broken images, odd shapes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.cli.models import TINY
from tests.data.makers import encoded, folder, pixels, tarred, three_classes, wide_png
from tests.data.test_unreadable import files

from mezzotint.cli.pictures import read_png
from mezzotint.data.images import ImageSource

RUN = ["--train.images", "32", "--train.batch", "8", "--train.save-every", "16", "--train.sample-every", "0", "--train.log-every", "1"]


def test_info_says_what_there_is(mezzotint, tmp_path):
    held = files() | {"b/again.png": files()["a/00.png"], "b/large.png": encoded(pixels(30, 20, 3)), "b/notes.txt": b"x"}
    path = folder(tmp_path / "data", held)
    said = mezzotint("data", "info", path, "--json", "info.json")
    assert said.code == 0
    text = "\n".join(said.out)
    assert "22 images" in text and "8x8 (18), 30x20 (1)" in text and "train with --data.size" in text
    assert "a (10), b (12)" in text
    assert "duplicates: 1 images are copies of 1 others" in text and "  a/00.png, b/again.png" in text
    assert "unreadable: 3" in text and "b/19.png" in text
    assert "1 files are not images" in text
    table = json.loads((tmp_path / "info.json").read_text())
    assert table["sizes"] == {"8x8": 18, "30x20": 1} and sorted(table["unreadable"]) == ["a/03.png", "a/07.png", "b/19.png"]
    said = mezzotint("data", "info", "digits")
    assert any(line.startswith("suggested sigma_data: 0.7") for line in said.out), said.out


def test_pack_then_train_and_grid(mezzotint, tmp_path):
    folder(tmp_path / "data", three_classes() | {"ant/wide.png": encoded(pixels(20, 40, 3))})
    said = mezzotint("data", "pack", "data", "--out", "x-%02d.tar", "--size", "8", "--per-shard", "3")
    assert said.code == 0 and said.out[-1] == "x-%02d.tar: 7 images of 8x8x3, 8 bits"
    assert sorted(p.name for p in tmp_path.glob("*.tar")) == ["x-00.tar", "x-01.tar", "x-02.tar"]
    said = mezzotint("data", "grid", "x-{00..02}.tar", "--out", "g.png", "--num", "6", "--columns", "3")
    assert said.out == ["g.png: 6 of 7 images"]
    assert read_png(tmp_path / "g.png").shape == (2 * 34 - 2, 3 * 34 - 2, 3)
    said = mezzotint("train", "small", "--data", "x-*.tar", "--out", "r", *TINY, *RUN, "--train.batch", "4")
    assert said.code == 0 and "classes: 0 ant, 1 bee, 2 cat" in said.out


def test_mistakes_are_one_line(refused, tmp_path):
    path = folder(tmp_path / "data", {"a.png": encoded(pixels(8, 8, 3)), "b.png": encoded(pixels(8, 9, 3))})
    assert "info, pack, grid" in refused("data")
    assert "did you mean 'pack'" in refused("data", "pac", path)
    assert "pass --size 8 8" in refused("data", "pack", path, "--out", "x.zip")
    assert "missing" in refused("data", "pack", path)
    assert "one side, or height and width" in refused("data", "info", path, "--size", "1", "2", "3")
    assert "does not exist; PATH is a folder" in refused("data", "info", tmp_path / "gone")
    assert "ends in .png" in refused("data", "grid", path, "--size", "8", "--out", "g.jpg")
    assert "at least 1" in refused("data", "grid", path, "--num", "0")
    assert "make it" in refused("data", "info", path, "--json", "no/where.json")
    assert "--max-unreadable 2" in refused("data", "pack", path, "--out", "x.zip", "--size", "8", "--max-unreadable", "2")


# --- training ------------------------------------------------------------------------------------------------------------


def same_bits(one: Path, other: Path) -> bool:
    return all((other / p.name).read_bytes() == p.read_bytes() for p in one.glob("*.safetensors"))


@pytest.mark.parametrize("kind", ["folder", "shards", "table"])
def test_a_stopped_run_goes_on_to_the_same_bits(mezzotint, tmp_path, monkeypatch, kind):
    unreadable = ["--data.max-unreadable", "0.2", "--data.flip", "--data.fit", "random"]
    if kind == "folder":
        data = folder(tmp_path / "data", files())
    elif kind == "shards":
        held = files()
        names = list(held)
        for k in range(2):
            tarred(tmp_path / f"x-{k}.tar", {name: held[name] for name in names[10 * k : 10 * k + 10]})
        data = tmp_path / "x-{0..1}.tar"
    else:
        datasets = pytest.importorskip("datasets")
        rows = {"image": [{"bytes": data, "path": None} for data in files().values()]}
        datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()})).save_to_disk(tmp_path / "saved")
        data = f"hf:{tmp_path / 'saved'}"
    words = ["train", "small", "--data", data, *TINY, *RUN, *unreadable, "--label", "none"]
    whole = mezzotint(*words, "--out", "whole")
    assert whole.code == 0, whole.err
    assert "3 of 20 images could not be read" in whole.out[-1]
    assert (tmp_path / "whole" / "unreadable.jsonl").read_text().count("\n") == 3

    batch, calls = ImageSource.batch, []

    def stopping(self, ids, **settings):
        calls.append(ids)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, ids, **settings)

    monkeypatch.setattr(ImageSource, "batch", stopping)
    assert mezzotint(*words, "--out", "halves").code == 128 + signal.SIGTERM
    monkeypatch.setattr(ImageSource, "batch", batch)
    resumed = mezzotint(*words, "--out", "halves", "--resume", "--data.workers", "2")
    assert resumed.code == 0, resumed.err
    assert same_bits(tmp_path / "whole" / "model", tmp_path / "halves" / "model")


def test_too_many_unreadable_images_end_a_run(mezzotint, tmp_path):
    path = folder(tmp_path / "data", files())
    words = ["train", "small", "--data", path, "--out", "r", *TINY, *RUN, "--data.max-unreadable"]
    said = mezzotint(*words, "0.05")
    assert said.code == 2
    assert "2 of 20 images cannot be read, and --data.max-unreadable allows 1" in said.err[-1]


@pytest.mark.parametrize(("shape", "bits"), [((48, 80, 1), 8), ((33, 65, 3), 8), ((48, 80, 4), 16), ((33, 65, 1), 16)])
def test_any_shape_goes_from_data_to_sample(mezzotint, tmp_path, shape, bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    make = encoded if bits == 8 else wide_png
    folder(tmp_path / "data", {f"{i}.png": make(pixels(*shape, seed=i, dtype=dtype)) for i in range(2)})
    words = ["--train.images", "2", "--train.batch", "2", "--train.sample-every", "0", "--label", "none"]
    assert mezzotint("train", "small", "--data", "data", "--out", "r", *TINY, *words).code == 0
    assert mezzotint("sample", "r", "--num", "1", "--steps", "2", "--out", "s").code == 0
    made = read_png(tmp_path / "s" / "000000.png")
    assert made.shape == shape and made.dtype == dtype
    assert made.min() < np.iinfo(dtype).max / 8 and made.max() > np.iinfo(dtype).max * 7 / 8
