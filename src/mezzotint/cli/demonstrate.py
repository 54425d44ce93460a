"""``mezzotint demo``: its arguments; the demo itself is in ``demo.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mezzotint.cli.arguments import parse


@dataclass(frozen=True)
class Arguments:
    """Trains, guides and samples on real scans of digits, prints how good the samples are, and draws a gallery."""

    out: Path = Path("demo")
    """Folder for models, samples, figures and gallery."""
    check: bool = False
    """Exit with 1 unless the claims of the demo hold on three seeds."""
    seed: int = 0


def run(command: str, words: list[str]) -> int:
    """Runs the demo.

    Args:
        command: "demo".
        words: The arguments.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    from mezzotint.cli import demo

    return demo.run(given.out, seed=given.seed, check=given.check)
