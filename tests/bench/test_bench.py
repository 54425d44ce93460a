"""The benchmark runs, at a size that says nothing about speed, and its figures hang together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    pytest.importorskip("diffusers")
    out = tmp_path_factory.mktemp("bench") / "results.json"
    sizes = ["--width", "32", "--batch", "2", "--steps", "3", "--train-steps", "2"]
    done = subprocess.run([sys.executable, ROOT / "bench" / "run.py", *sizes, "--out", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_every_bound_has_a_verdict(results):
    for name, bound in results["bounds"].items():
        limit = bound.get("at_most", bound.get("at_least"))
        assert bound["holds"] == (bound["value"] <= limit if "at_most" in bound else bound["value"] >= limit), name
    assert len(results["bounds"]) == 9


def test_networks_of_the_two_sides_do_the_same_work(results):
    assert results["bounds"]["training: difference of FLOPs"]["holds"]


def test_time_is_shared_out_without_remainder(results):
    for case in results["sampling"]["cases"].values():
        assert case["ms_per_step_inside"]["cpu"] > 0
        assert case["ms_per_step_outside"]["cpu"] > 0
    for side in results["training"]["sides"].values():
        parts = side["cpu_ms_of_parts"]
        assert parts["rest"] >= 0, parts
        assert parts["forward"] > 0
        assert parts["backward"] > 0
    assert results["training"]["sides"]["diffusers"]["cpu_ms_of_parts"]["average"] == 0


def test_no_name_of_the_machine_is_kept(results):
    import socket

    assert socket.gethostname() not in json.dumps(results["machine"])
