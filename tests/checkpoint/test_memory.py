"""Weights are in memory once while they load, in every precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "load.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_peak_memory_is_little_more_than_the_weights(tmp_path: Path) -> None:
    subprocess.run([sys.executable, BENCH, "--width", "128", "--repeats", "1", "--out", tmp_path / "figures.json"], check=True)
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    over = {case: runs[0]["peak_over_weights"] for case, runs in figures.items() if case != "torch.load"}
    assert len(over) == 5 and max(over.values()) <= 1.1, over
