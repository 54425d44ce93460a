"""``mezzotint redo``."""

from __future__ import annotations

from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import CheckpointError, ConfigError, DataError


@dataclass(frozen=True)
class Arguments:
    """Makes an image again from the recipe that its PNG carries, and says whether it is the same.

    Exits with 0 if it is (within 1/255; in all bytes if it was made with --exact), else with 1.
    """

    file: tyro.conf.Positional[Path]
    """A PNG that `mezzotint sample` wrote."""
    out: Path | None = None
    """Write the new image there; without it the two are compared only."""
    model: Path | None = None
    """Where the model is now, if it has moved."""


def run(command: str, words: list[str]) -> int:
    """Makes an image again.

    Args:
        command: "redo".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if given.out is not None and given.out.exists():
        raise ConfigError(f"{given.out} already exists; give another --out")

    import json

    import numpy as np

    from mezzotint.cli.folder import guidance_hashes, guidances, single
    from mezzotint.cli.pictures import KEY, read_png, read_recipe, write_png
    from mezzotint.registry import parse as parse_text

    recipe = read_recipe(given.file)
    if recipe is None:
        raise DataError(f"{given.file} carries no recipe; give a PNG that `mezzotint sample` wrote and no other program has saved since")
    old = read_png(given.file)
    try:
        held, job = recipe["model"], single(recipe["job"], recipe["id"], recipe["label"])
        guides = recipe["guidance_models"]
        paths = [Path(settings["model"]) for text in guidances(job) if "model" in (settings := parse_text(text)[1])]
    except KeyError as error:
        raise DataError(f"the recipe in {given.file} lacks {error}; the image cannot be made again from it") from error
    own = given.model.resolve() if given.model is not None else Path(held["path"])
    with chdir(_base(given.file, [own, *paths])):
        model = _load(own, held, given.file)
        for path, digest in guidance_hashes(job).items():
            if digest != guides.get(path):
                raise CheckpointError(f"{path} is not the model that guided {given.file} (its SHA-256 differs); put that model back there")
        (chunk,) = model.run(job)
    new = model.pixels(chunk.trajectory.x)[0]
    if given.out is not None:
        write_png(given.out, new, {KEY: json.dumps(recipe, ensure_ascii=False)})
    if new.shape != old.shape:
        raise DataError(f"{given.file} has shape {old.shape}, the image made again {new.shape}; the file was changed")
    difference = int(np.abs(new.astype(np.int64) - old.astype(np.int64)).max())
    allowed = 0 if job.exact else int(np.iinfo(new.dtype).max) // 255
    words_of = "equal in all pixels" if difference == 0 else f"differs by at most {difference} of {np.iinfo(new.dtype).max} levels"
    print(f"{given.file}: image {recipe['id']} made again, {words_of}" + (f"; written to {given.out}" if given.out else ""))
    return 0 if difference <= allowed else 1


def _base(file: Path, models: list[Path]) -> Path:
    """The folder that relative model paths mean: this one, or the nearest above the picture that holds them all."""
    places = [Path.cwd(), *file.resolve().parents]
    return next((place for place in places if all((place / path).exists() for path in models)), places[0])


def _load(path: Path, held: dict[str, Any], file: Path) -> Any:
    from mezzotint.checkpoint import load
    from mezzotint.weights.io import find_model, read_spec

    elsewhere = "; pass --model with the folder of the model that made the image"
    try:
        folder = find_model(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{elsewhere}") from error
    entry = read_spec(folder).weights.get(held["weights"], {})
    if entry.get("sha256") != held["sha256"]:
        raise CheckpointError(f"{folder} is not the model that made {file} (its SHA-256 differs){elsewhere}")
    return load(folder, ema=False if entry["ema"] is None else entry["ema"])
