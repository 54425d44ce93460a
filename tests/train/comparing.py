"""What two runs have in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from mezzotint.weights import io

REPOSITORY = Path(__file__).parents[2]
FILES = [f"{kind}{name}.safetensors" for kind in ("model", "ema-0.9", "ema-0.5") for name in ("", "-critic")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a model of the toy objective."""
    return {f"{file}/{name}": value for file in FILES for name, value in io.read_tensors(folder / file).items()}


def same_bits(one: Path, other: Path) -> None:
    """Checks that two models have equal weights."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def close(one: Path, other: Path) -> None:
    """Checks that two models are equal but for rounding."""
    a, b = weights(one), weights(other)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def log(run: Path, event: str = "train") -> list[dict]:
    """The lines of one event without what depends on the machine."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "peak_memory")} for line in lines if line["event"] == event]


def contents(run: Path) -> dict[str, bytes]:
    """All that a run keeps: weights, averages, optimiser, objective and meters of its checkpoints, snapshots, grids, the model."""
    kept = ("checkpoints", "snapshots", "samples", "model")
    return {str(p.relative_to(run)): p.read_bytes() for name in kept for p in (run / name).rglob("*") if p.is_file()}


def same_run(one: Path, other: Path) -> None:
    """Checks that two runs left the same files, byte for byte, and the same figures."""
    a, b = contents(one), contents(other)
    assert sorted(a) == sorted(b)
    assert [name for name in a if a[name] != b[name]] == []
    assert log(one) == log(other)


def run_module(module: str, *arguments: str, ranks: int = 0, code: int = 0, timeout: float = 250) -> str:
    """Runs a module in a process of its own, or in several; what it printed."""
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"] if ranks else []
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, "-m", module, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=timeout)
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    return done.stdout + done.stderr
