"""The demonstration: a miniature of it that runs through every part, and, marked slow, the whole."""

from __future__ import annotations

import dataclasses
import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mezzotint
from mezzotint.cli import demo, main
from mezzotint.configs import DataConfig
from mezzotint.data import open_source
from mezzotint.errors import ConfigError
from mezzotint.recipes.digits import digits, digits_classifier
from mezzotint.tasks.demo import Figures, Yardstick, claims, divide

MINIATURE = demo.Size(
    model=replace(digits(), train=replace(digits().train, images=256)),
    classifier=replace(digits_classifier(), train=replace(digits_classifier().train, images=256)),
    num=70,
    batch=35,
    steps=3,
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a miniature demonstration with seed 3, and what it printed."""
    out, said = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    with redirect_stdout(said):
        assert demo.run(out, seed=3, size=MINIATURE) == 0
    return out, said.getvalue().splitlines()


@pytest.fixture
def done(both) -> Path:
    """The folder alone."""
    return both[0]


@pytest.fixture(scope="module")
def whole():
    return open_source(DataConfig(path="digits"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "timings.json"}


def test_leaves_what_it_promises(done):
    assert sorted(p.name for p in done.iterdir()) == ["classifier", "figures.json", "gallery.png", "model", "samples", "timings.json"]
    assert isinstance(mezzotint.load(done / "model"), mezzotint.Model)
    assert isinstance(mezzotint.load(done / "classifier"), mezzotint.ClassifierModel)
    with Image.open(done / "gallery.png") as picture:
        assert picture.width == 1000
        assert np.asarray(picture).std() > 10


def test_samples_are_those_of_the_command(done, capsys, monkeypatch):
    manifest = json.loads((done / "samples" / "classifier-4" / "manifest.json").read_text())
    assert manifest["complete"] and manifest["num"] == 70 and manifest["job"]["guidance"] == ["classifier,model=classifier,scale=4"]
    assert [image["label"] for image in manifest["images"][:11]] == [*range(10), 0]
    monkeypatch.chdir(done)
    assert main(["redo", "samples/classifier-4/000007.png"]) == 0
    assert "image 7 made again" in capsys.readouterr().out


def test_guidance_changes_the_samples(done):
    rows = {row.name: (done / "samples" / row.name / "grid.png").read_bytes() for row in demo.ROWS}
    assert len(set(rows.values())) == len(demo.ROWS)


def test_figures_say_how_they_came_about(done):
    figures = json.loads((done / "figures.json").read_text())
    assert figures["complete"] and figures["seed"] == 3
    assert [row["name"] for row in figures["rows"]] == [row.name for row in demo.ROWS]
    assert all(row["calls"] == 3 and row["frechet"] > figures["real"]["frechet"] for row in figures["rows"])
    parts = {name: set(map(int, ids.split())) for name, ids in figures["split"].items()}
    assert not parts["guide"] & parts["judge"] and not parts["held_out"] & (parts["guide"] | parts["judge"])
    assert sum(map(len, parts.values())) == 1797
    trained_on = mezzotint.load(done / "classifier").spec.provenance["fingerprint"]
    assert trained_on != figures["protocol"]["fingerprint"]
    seconds = json.loads((done / "timings.json").read_text())["seconds"]
    assert set(seconds) == {"model", "classifier", "all", *(f"samples/{row.name}" for row in demo.ROWS)}


def test_same_seed_same_bytes_in_another_folder_over_an_older_demo(done, tmp_path):
    out = tmp_path / "other"
    (out / "model").mkdir(parents=True)
    (out / "model" / "old").write_text("of a demo that was interrupted")
    (out / "mine.txt").write_text("not the demo's")
    (out / "figures.json").write_text(json.dumps({"format": demo.FORMAT, "complete": False}))
    assert demo.run(out, seed=3, size=MINIATURE) == 0
    assert (out / "mine.txt").read_text() == "not the demo's"
    (out / "mine.txt").unlink()
    assert contents(out) == contents(done)


def test_prints_the_table_with_real_digits_beside(both):
    lines = both[1]
    header = next(i for i, line in enumerate(lines) if line.startswith("sampler"))
    assert lines[header].split() == ["sampler", "guidance", "calls", "seconds", "Frechet", "precision", "recall", "accuracy"]
    assert lines[header + 1].startswith("real digits (1)") and len(lines[header + 1].split()) == 7
    shown = [line.split() for line in lines[header + 2 : header + 2 + len(demo.ROWS)]]
    rows = json.loads((both[0] / "figures.json").read_text())["rows"]
    for words, row in zip(shown, rows, strict=True):
        assert words[0] == row["sampler"] and words[-6] == str(row["calls"])
        assert words[-4:] == [f"{row[name]:.3f}" for name in ("frechet", "precision", "recall", "accuracy")]


@pytest.mark.parametrize("content", ["holiday.jpg", "figures.json"])
def test_refuses_a_folder_of_something_else(tmp_path, content):
    (tmp_path / content).write_text("{}")
    with pytest.raises(ConfigError, match="holds no demo; give another --out"):
        demo.run(tmp_path, size=MINIATURE)
    assert (tmp_path / content).read_text() == "{}"


def test_refuses_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        demo.run(tmp_path / "out", size=MINIATURE)


@pytest.mark.parametrize("broken, code", [(None, 0), (0, 1), (1, 1), (2, 1)])
def test_check_fails_if_a_claim_fails_on_any_seed(tmp_path, monkeypatch, capsys, broken, code):
    monkeypatch.setattr(demo, "_once", lambda out, seed, size: {"the sky is blue": seed != broken, "water is wet": True})
    assert demo.run(tmp_path / "out", check=True) == code
    said = capsys.readouterr().out
    assert ("the sky is blue: holds on seeds 0, 1, 2" in said) == (broken is None)
    assert broken is None or f"the sky is blue: does not hold on seed {broken}" in said


def test_without_check_claims_do_not_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_once", lambda out, seed, size: {"the sky is green": False})
    assert demo.run(tmp_path / "out") == 0


@pytest.mark.parametrize(
    "changes, which",
    [
        ({}, []),
        ({"unguided": {"precision": 0.8}}, ["precision"]),
        ({"unguided": {"accuracy": 0.99}}, ["accuracy rises"]),
        ({"unguided": {"recall": 0.6}}, ["recall"]),
        ({"unguided": {"accuracy": 0.94}}, ["accuracy without"]),
        ({"best": 0.91}, ["distance"]),
    ],
)
def test_claims(changes, which):
    unguided = replace(Figures(frechet=0.7, precision=0.7, recall=0.8, accuracy=0.95), **changes.get("unguided", {}))
    guided = Figures(frechet=0.9, precision=0.8, recall=0.6, accuracy=0.99)
    failed = [claim for claim, holds in claims(unguided, guided, changes.get("best", 0.9)).items() if not holds]
    assert len(failed) == len(which) and all(word in claim for word, claim in zip(which, failed, strict=True))


def test_the_division_keeps_classes_and_depends_on_the_seed(whole):
    split = divide(whole, 0)
    assert [len(split.held_out), len(split.guide), len(split.judge), len(split.model)] == [599, 599, 599, 1198]
    counts = np.bincount(whole.labels[list(split.held_out)])
    assert counts.min() >= 57 and counts.max() <= 61
    assert split != divide(whole, 1)


def test_the_yardstick_knows_good_from_bad(whole):
    split = divide(whole, 0)
    yardstick = Yardstick(whole, split)
    assert yardstick.real.accuracy > 0.97 and yardstick.real.frechet < 0.6
    images = np.stack([whole.array(i) for i in split.held_out])
    labels = whole.labels[list(split.held_out)]
    same = yardstick.figures(images, labels)
    assert dataclasses.astuple(same) == (0.0, 1.0, 1.0, yardstick.real.accuracy)
    assert yardstick.figures(images, (labels + 1) % 10).accuracy < 0.03
    noise = yardstick.figures(np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8), labels)
    assert noise.frechet > 20 and noise.precision < 0.01 and noise.accuracy < 0.3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_claims_hold_on_three_seeds(tmp_path):
    assert demo.run(tmp_path / "out", check=True) == 0
