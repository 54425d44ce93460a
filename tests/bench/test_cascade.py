"""The cascade bench, in small."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tests.data.makers import encoded, folder, pixels

BENCH = Path(__file__).resolve().parents[2] / "bench" / "cascade.py"


@pytest.mark.filterwarnings("ignore:Frechet distance from")
def test_it_runs_and_adds_seeds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCH.parent)
    spec = importlib.util.spec_from_file_location("cascade_bench", BENCH)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    for part in ("train", "test"):
        folder(tmp_path / part, {f"{name}/{k}.png": encoded(pixels(32, 32, 3, seed=k)) for name in ("ant", "bee") for k in range(40)})
    given = {"data": tmp_path / "train", "test": tmp_path / "test", "work": tmp_path / "work", "out": tmp_path / "out.json", "width": 8}
    given |= {"base-images": 32, "images": 32, "feature-images": 64, "steps": 1, "tune": 64, "num": 16, "base": "ddim:1"}
    for seed in ("0", "1"):
        argv = ["cascade.py", *(f"--{name}={value}" for name, value in given.items()), "--levels", "0", "0.5", f"--seed={seed}"]
        monkeypatch.setattr(sys, "argv", argv)
        bench.main()
    found = json.loads((tmp_path / "out.json").read_text())["first stage"]
    assert set(found) == {"reduced test images", "ddim:1"} and all(set(seeds) == {"0", "1"} for seeds in found.values())
    assert {"without augmentation", "with, level 0", "with, tuned level", "with, tuned level, truncated"} < set(found["ddim:1"]["0"])
