"""Settings that all tests share: one thread a process, the folder of reference figures, and property tests without a deadline."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported, here and in the processes that tests start: workers that each take every core slow one another down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from tests.parity.summary import pytest_terminal_summary as pytest_terminal_summary  # the hook that counts parity cases

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)
settings.register_profile("mezzotint", deadline=None, derandomize=True)
settings.load_profile("mezzotint")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference",
        metavar="DIR",
        default=str(ROOT.parent / "shared" / "reference"),
        help="folder of reference cases for tests/parity; what needs it is skipped where it is absent (default: %(default)s)",
    )


@pytest.fixture(scope="session")
def reference_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of reference cases; the test is skipped, saying so, where there is none."""
    folder = Path(request.config.getoption("--reference"))
    if not folder.is_dir():
        pytest.skip(f"no folder of reference cases at {folder}; give one with --reference DIR")
    return folder
