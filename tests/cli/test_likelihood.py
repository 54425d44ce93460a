from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mezzotint.cli.chart import line_chart, ticks
from mezzotint.cli.pictures import read_png


def test_bound_curve_and_decodings(mezzotint, digits_run, tmp_path) -> None:
    words = ["likelihood", digits_run, "--data", "digits", "--num", 12, "--steps", 20]
    said = mezzotint(*words, "--json", "all.json", "--rate-distortion", "curve.png", "--progressive", "decoded")
    assert said.code == 0, said.err
    held = json.loads((tmp_path / "all.json").read_text())
    assert said.out[0].startswith(f"{held['bits_per_dim']:.4f} bits/dim") and "12 images" in said.out[0]
    assert held["images"] == 12 and len(held["terms"]) == 20 and held["data_range"] == [-1, 1]
    assert read_png(tmp_path / "curve.png").shape == (600, 900, 3)
    assert len(list((tmp_path / "decoded").glob("0*.png"))) == 8 and (tmp_path / "decoded" / "grid.png").is_file()
    assert mezzotint(*words, "--rate-distortion", "curve.json").out[0] == said.out[0]
    points = json.loads((tmp_path / "curve.json").read_text())
    assert len(points) == 20 and points[-1]["rate"] > points[0]["rate"] and points[-1]["rmse"] < points[0]["rmse"]


def test_density_says_what_it_depends_on(mezzotint, digits_run) -> None:
    said = mezzotint("likelihood", digits_run, "--data", "digits", "--num", 3, "--method", "ode", "--steps", 5, "--seed", 4)
    text = " ".join(said.out)
    assert said.code == 0 and all(part in text for part in ("20 network calls", "hutchinson", "seed 4", "dequantised uniformly", "[-1, 1]"))


def test_a_solver_that_chooses_its_steps_says_how_many_calls_it_made(mezzotint, digits_run) -> None:
    pytest.importorskip("torchdiffeq")
    words = [
        "likelihood",
        digits_run,
        "--data",
        "digits",
        "--num",
        2,
        "--method",
        "ode",
        "--solver",
        "bosh3",
        "--rtol",
        0.05,
        "--atol",
        0.05,
    ]
    said = mezzotint(*words, "--json", "all.json")
    held = json.loads(Path("all.json").read_text())
    assert said.code == 0 and held["calls"] > 3 and held["norm"] == "image" and "grid" not in held
    assert f"bosh3 (rtol 0.05, atol 0.05, norm image), {held['calls']:g} network calls an image" in said.out[1]
    with pytest.warns(UserWarning, match="steps and grid have no effect"):
        assert mezzotint(*words, "--steps", 5).out == said.out[:3]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rate-distortion", "a.pdf"], ".json or .png"),
        (["--method", "ode", "--progressive", "d"], "leave out --method ode"),
        (["--method", "ode", "--official"], "leave out --variance and --official"),
        (["--json", "no/a.json"], "no does not exist"),
        (["--num", "0"], "0 images were asked for"),
        (["--trace", "exat"], "exat"),
    ],
)
def test_mistakes(refused, digits_run, words, expected) -> None:
    assert expected in refused("likelihood", digits_run, "--data", "digits", *words)


def test_classifiers_have_no_likelihood(refused, classifier_run) -> None:
    assert "is a classifier" in refused("likelihood", classifier_run, "--data", "digits")


def test_a_chart_has_its_lines_in_their_places() -> None:
    sheet = line_chart({"one": [(0.0, 0.0), (4.0, 2.0)], "two": [(4.0, 1.0)]}, x="across", y="up")
    red = np.argwhere((sheet == (200, 40, 40)).all(-1) & (np.arange(900) < 610)[None])
    assert red[:, 0].min() < 40 and red[:, 1].max() > 595  # the upper right corner
    assert red[:, 0].max() > 520 and red[:, 1].min() < 100  # the origin
    assert ticks(0.0, 0.31) == [0.0, 0.1, 0.2, 0.3]
