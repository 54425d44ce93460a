from __future__ import annotations

import json
import shutil

import pytest

from mezzotint.cli.pictures import read_png, read_recipe


def test_search_then_sample(mezzotint, digits_run, tmp_path, monkeypatch) -> None:
    from mezzotint.tasks import tune

    monkeypatch.setattr(tune.tune_solver, "__kwdefaults__", {**tune.tune_solver.__kwdefaults__, "samplers": ("ddim", "heun")})
    folder = tmp_path / "m"
    shutil.copytree(digits_run / "model", folder)
    said = mezzotint("tune", folder, "--data", "digits", "--calls", "2,3", "--num", 64)
    assert said.code == 0, said.err
    assert [line.split()[0] for line in said.out[:3]] == ["calls", "2", "3"] and "tuned.json" in said.out[3]
    held = json.loads((folder / "tuned.json").read_text())
    assert set(held["best"]) == {"2", "3"} and len(held["tried"]["3"]) == 2 * len(tune.GRIDS)
    assert read_png(folder / "tuned.png").shape == (600, 900, 3)
    assert mezzotint("sample", folder, "--calls", 3, "--num", 2, "--out", "out").code == 0
    recipe = read_recipe(tmp_path / "out" / "000000.png")
    best = min(held["best"].values(), key=lambda setting: setting["distance"])
    assert recipe is not None and {name: recipe["job"][name] for name in ("sampler", "steps", "grid")} == {
        name: best[name] for name in ("sampler", "steps", "grid")
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--calls", "4,x"], "give numbers"), (["--num", "3"], "at least 64"), (["--what", "lr"], "lr")],
)
def test_mistakes(refused, digits_run, words, expected) -> None:
    assert expected in refused("tune", digits_run, "--data", "digits", *words)


def test_models_of_the_wrong_kind(refused, digits_run, classifier_run) -> None:
    assert "is a classifier" in refused("tune", classifier_run, "--data", "digits")
    assert "is a generator" in refused("tune", digits_run, "--data", "digits", "--features", digits_run)
    assert "is not tuned" in refused("sample", digits_run, "--calls", "4", "--out", "o")
