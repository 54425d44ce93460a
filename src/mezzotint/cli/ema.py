"""``mezzotint ema``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Makes the moving average of another length after a run that tracked power-function averages (--ema.stds 0.05 0.1).

    The result is a model of its own.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the training run."""
    std: float
    """Length of the average: its relative standard deviation, the width of its profile as a share of the run."""
    out: Path
    """Model folder to be made."""
    images: int | None = None
    """End of the average: images seen at one of the snapshots; without it the newest."""


def run(command: str, words: list[str]) -> int:
    """Makes an average.

    Args:
        command: "ema".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if given.out.exists():
        raise ConfigError(f"{given.out} already exists; give another --out, or remove it")
    if not given.run.is_dir():
        raise ConfigError(f"{given.run} is no folder; give the --out of a training")

    from mezzotint.train.posthoc import FIT_WARNING, reconstruct
    from mezzotint.weights.io import save_model

    spec, held, error = reconstruct(given.run, given.std, images=given.images)
    save_model(given.out, replace(spec, weights={}), [held])
    print(f"profile: error {error:.2g} of its size, from the snapshots up to {held.images:,} images")
    if error > FIT_WARNING:
        print("note: the snapshots are too few for this length; use one nearer to those that were tracked, or a lower --ema.snapshot-every")
    print(f"average of relative standard deviation {given.std:g}, half-life {held.half_life:,.0f} images: {given.out}")
    return 0
