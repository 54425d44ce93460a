"""The measurement of solvers runs, at a size that says nothing, and diffusers' solvers give there what ours give."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.pipelines.tiny import saved

from mezzotint.configs import Spec, UNetConfig
from mezzotint.data import open_source
from mezzotint.pipelines.build import resolve
from mezzotint.recipes.digits import digits

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("bench")
    facts = open_source(digits().data).facts
    recipe = resolve(replace(digits(), net=UNetConfig(width=8, mults=(1, 1), blocks=1, attention=(), heads=2)), facts)
    saved(folder / "demo" / "model", Spec(recipe, facts))
    words = [folder / "demo", "--num", "8", "--only", "peers", "--rounds", "2", "--out", folder / "results.json"]
    done = subprocess.run([sys.executable, ROOT / "bench" / "solvers.py", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())["peers"]


@pytest.mark.parametrize("ours, theirs", [("dpm_solver", "DPMSolver, order 2"), ("unipc,order=2", "UniPC, order 2")])
def test_on_one_grid_the_solvers_are_the_same(results, ours, theirs) -> None:
    assert results["ours"][f"{ours}, linspace_open"] == pytest.approx(results["theirs"][theirs], rel=1e-3)


def test_grids_and_orders_differ(results) -> None:
    assert results["ours"]["dpm_solver, beta"] != pytest.approx(results["ours"]["dpm_solver, linspace_open"], rel=1e-3)
    assert results["ours"]["unipc, linspace_open"] != pytest.approx(results["ours"]["unipc,order=2, linspace_open"], rel=1e-6)


def test_every_ratio_of_times_has_an_interval(results) -> None:
    for each in results["time"].values():
        for clock in ("cpu", "wall"):
            assert 0 < each[clock]["low"] <= each[clock]["median"] <= each[clock]["high"]
