"""The benchmark of the metrics runs, at a size that says nothing about speed, and its ways agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_ways_agree(tmp_path: Path) -> None:
    sizes = ["--num", "60", "--features", "16", "--memory-num", "80"]
    command = [sys.executable, ROOT / "bench" / "metrics.py", *sizes, "--out", tmp_path / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    ours, plain = (found["precision_recall"][name]["figures"] for name in ("mezzotint", "plain (cdist, whole tables)"))
    assert ours == pytest.approx(plain, abs=0.02) and 0 < min(ours) <= max(ours) <= 1
    for case in ("frechet", "kid", "inception_score"):
        for name, row in found[case].items():
            assert row["seconds"] > 0, (case, name)
    peaks = list(found["memory"].values())[:3]
    assert peaks == sorted(peaks)
