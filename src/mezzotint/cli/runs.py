"""``mezzotint runs``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError
from mezzotint.train.history import History, is_run, read_history


@dataclass(frozen=True)
class Arguments:
    """Lists the training runs below a folder, each with what it is doing, its images, its loss and its last checkpoint."""

    folder: tyro.conf.Positional[Path] = Path(".")
    """A run, or a folder that holds some, at any depth."""


def run(command: str, words: list[str]) -> int:
    """Lists runs.

    Args:
        command: "runs".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if not given.folder.is_dir():
        raise ConfigError(f"{given.folder} is no folder; give one that holds training runs")
    folders = find_runs(given.folder)
    if not folders:
        raise ConfigError(f"there is no training run in {given.folder}; give the folder that --out was in")
    for line in table([read_history(folder) for folder in folders]):
        print(line)
    return 0


def find_runs(folder: Path) -> list[Path]:
    """The run folders at and below a folder; what lies inside a run is not searched."""
    if is_run(folder):
        return [folder]
    try:
        below = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]
    except PermissionError:
        return []
    return [found for path in sorted(below) for found in find_runs(path)]


def table(runs: Sequence[History]) -> list[str]:
    """The lines of the list."""
    rows = [("run", "recipe", "state", "images", "of", "loss", "last checkpoint")]
    for each in runs:
        loss = "-" if each.loss is None else f"{each.loss:.4g}"
        last = f"{each.checkpoints[-1]:,}" if each.checkpoints else "-"
        rows.append((str(each.path), each.name, each.state, f"{each.images:,}", f"{each.budget:,}", loss, last))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row, about in zip(rows, ["", *(each.reason for each in runs)], strict=True):
        # Names to the left, numbers to the right.
        cells = [f"{cell:<{w}}" if i < 3 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join([*cells, about]).rstrip())
    return lines
