"""The best sampling settings of a model for a number of network calls, as ``tuned.json`` in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.weights.io import read_json, write_text

FILE = "tuned.json"
VERSION = 1


@dataclass(frozen=True)
class Setting:
    """One way of sampling, and how far from the data its images were.

    Attributes:
        sampler: As in "dpm_solver,order=2".
        steps: Number of steps.
        grid: Spacing of the times.
        guidance: The guidances, the innermost first.
        calls: Network calls that it takes.
        images: Number of images that the distance was measured on.
        distance: Frechet distance to the data.
    """

    sampler: str
    steps: int
    grid: str
    guidance: tuple[str, ...]
    calls: int
    images: int
    distance: float


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        best: Budget of network calls -> the best setting within it.
        tried: Budget -> all settings, the best first; those that were given up early have a distance of fewer images.
        weights: SHA-256 of the weights that were sampled.
        about: What the distances depend on: data, features, seed, images.
    """

    best: dict[int, Setting]
    tried: dict[int, tuple[Setting, ...]]
    weights: str | None
    about: dict[str, Any]

    def setting(self, calls: int) -> Setting:
        """The best setting within so many calls, which may be one of a smaller budget.

        Raises:
            ConfigError: All budgets are larger.
        """
        within = [budget for budget in self.best if budget <= calls]
        if not within:
            raise ConfigError(
                f"{calls} network calls, and this model is tuned for {', '.join(map(str, sorted(self.best)))}; tune it for fewer"
            )
        return min((self.best[budget] for budget in within), key=lambda setting: setting.distance)


def write_tuned(folder: Path, tuned: Tuned) -> Path:
    """Writes ``tuned.json`` whole or not at all.

    Raises:
        CheckpointError: The file system refuses.
    """
    value = {
        "version": VERSION,
        "weights": tuned.weights,
        "about": tuned.about,
        "best": {str(budget): asdict(setting) for budget, setting in tuned.best.items()},
        "tried": {str(budget): [asdict(setting) for setting in settings] for budget, settings in tuned.tried.items()},
    }
    write_text(folder / FILE, json.dumps(value, indent=2) + "\n")
    return folder / FILE


def read_tuned(folder: Path) -> Tuned | None:
    """What a search left in a model folder, or None.

    Raises:
        CheckpointError: The file is damaged, or of a later version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        if value["version"] > VERSION:
            raise CheckpointError(f"{path} has version {value['version']}; this mezzotint reads up to {VERSION}: install a newer mezzotint")
        return Tuned(
            {int(budget): _setting(held) for budget, held in value["best"].items()},
            {int(budget): tuple(_setting(held) for held in each) for budget, each in value["tried"].items()},
            value["weights"],
            value["about"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"cannot understand {path}; remove it and run `mezzotint tune` again") from error


def _setting(held: dict[str, Any]) -> Setting:
    return Setting(**{**held, "guidance": tuple(held["guidance"])})
