"""Two tiny trained models and one untrained, and a way to type commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tests.cli.models import SHORT, TINY, untrained

from mezzotint.cli import main


class Said(NamedTuple):
    """What a command gave: exit code, and the lines of its two outputs."""

    code: int
    out: list[str]
    err: list[str]


Mezzotint = Callable[..., Said]


@pytest.fixture
def mezzotint(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mezzotint:
    """Types a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEZZOTINT_DEBUG", raising=False)

    def run(*words: object) -> Said:
        capfd.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # --help
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return Said(code, out.splitlines(), err.splitlines())

    return run


@pytest.fixture
def refused(mezzotint: Mezzotint) -> Callable[..., str]:
    """Types a command that must end with exit code 2 and one line, and gives that line."""

    def run(*words: object) -> str:
        said = mezzotint(*words)
        lines = [line for line in said.err if not line.startswith("mezzotint: warning: ")]
        assert said.code == 2 and len(lines) == 1 and lines[0].startswith("mezzotint: "), said
        return lines[0]

    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a generator of digits, hardly trained."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    sampled = ["--sample.grid", "uniform", "--sample.steps", "10", "--train.sample-every", "320"]
    assert main(["train", "small", "--data", "digits", "--out", str(out), *TINY, *SHORT, *sampled]) == 0
    return out


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a classifier of noisy digits, hardly trained."""
    out = tmp_path_factory.mktemp("runs") / "classifier"
    assert main(["train-classifier", "small-classifier", "--data", "digits", "--out", str(out), *TINY, *SHORT]) == 0
    return out


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained class-conditional model of 8x8 colour images, whose network does not give zeros."""
    torch.manual_seed(0)
    return untrained(tmp_path_factory.mktemp("models") / "plain", channels=3, classes=("ant", "bee", "7"))
