"""Commands that are typed on two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.train.comparing import REPOSITORY

ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "mezzotint"]


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TORCHRUN, *map(str, words)], env=ENVIRONMENT, capture_output=True, text=True, timeout=200)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
