"""The super-resolution bench, in small."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tests.data.makers import encoded, folder, pixels

BENCH = Path(__file__).resolve().parents[2] / "bench" / "super_resolution.py"


def test_it_runs_and_adds_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCH.parent)
    spec = importlib.util.spec_from_file_location("super_resolution_bench", BENCH)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)

    def photo(k: int) -> bytes:
        return encoded(np.asarray(Image.fromarray(pixels(9, 9, 3, seed=k)).resize((72, 72), Image.Resampling.BICUBIC)))

    folder(tmp_path / "photos", {f"{part}/{k}.png": photo(k) for part in ("train", "test") for k in range(8)})
    labelled = {f"{name}/{k}.png": encoded(pixels(32, 32, 3, seed=k)) for name in ("ant", "bee") for k in range(4)}
    folder(tmp_path / "labelled", labelled)
    sizes = {"images": 32, "feature-images": 64, "tell-images": 64, "cuts": 8, "steps": 1, "sweep": "ddim@2", "sweep-cuts": 4, "width": 8}
    given = {
        "data": tmp_path / "photos",
        "features": tmp_path / "labelled",
        "work": tmp_path / "work",
        "out": tmp_path / "out.json",
    } | sizes
    for seed in ("0", "1"):
        monkeypatch.setattr(sys, "argv", ["super_resolution.py", *(f"--{name}={value}" for name, value in given.items()), f"--seed={seed}"])
        bench.main()
    held = json.loads((tmp_path / "out.json").read_text())
    names = {"bicubic", "regression", "SR3, unipc, 1 steps", "regression, 4 cuts", "SR3, ddim, 2 steps, 4 cuts"}
    assert set(held["seeds"]) == {"0", "1"} and set(held["seeds"]["1"]) == names
    assert "8 cuts of 64x64, 2 seed(s)" in capsys.readouterr().out
    assert held["seeds"]["0"]["bicubic"]["psnr"] > held["seeds"]["0"]["SR3, unipc, 1 steps"]["psnr"]
