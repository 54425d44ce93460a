"""``mezzotint invert``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.cli.sample import parse_ema
from mezzotint.errors import ConfigError, DataError


@dataclass(frozen=True)
class Arguments:
    """Finds the noise that a model turns into a given image, by DDIM backwards, and says how well it comes back.

    Writes latent.npy (float32), reconstruction.png and inversion.json.
    """

    model: tyro.conf.Positional[Path]
    """Model folder, or the folder of a training run."""
    image: tyro.conf.Positional[Path]
    """An image file; it is brought to size and channels as those of the training were."""
    out: Path
    """Folder to be made."""
    label: str | None = None
    """Class of the image, by name or label; without it the null class."""
    steps: int = 50
    """Steps of either way; more bring the image back more exactly."""
    grid: str = "uniform"
    """Spacing of the steps, as for `mezzotint sample`."""
    guidance: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """As for `mezzotint sample`, on both ways."""
    ema: str = "on"
    """Moving average of the weights: its decay, on (the first one) or off (the weights as trained)."""


def run(command: str, words: list[str]) -> int:
    """Inverts an image, and says how well it comes back.

    Args:
        command: "invert".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise ConfigError(f"{given.out} is a file or not empty; give another --out")
    if not given.image.is_file():
        raise DataError(f"{given.image} is no file; give an image")

    import numpy as np
    from tqdm import tqdm

    from mezzotint.checkpoint import load
    from mezzotint.cli.pictures import write_png
    from mezzotint.data.images import decode
    from mezzotint.data.source import to_images
    from mezzotint.data.transforms import to_channels, to_size
    from mezzotint.pipelines.generate import Model
    from mezzotint.tasks.invert import invert
    from mezzotint.weights.io import write_text

    model = load(given.model, ema=parse_ema(given.ema))
    if not isinstance(model, Model):
        raise ConfigError(f"{given.model} is a classifier, which makes no images; give a model of `mezzotint train`")
    channels = model.facts.channels
    if channels > 4:
        raise ConfigError(f"{given.model} makes images of {channels} channels, which no image file holds; use mezzotint.tasks.invert")
    array = to_channels(decode(given.image.read_bytes(), str(given.image)), channels)
    array = to_size(array, model.facts.size, model.spec.recipe.data.fit, alpha=channels in (2, 4))
    with tqdm(total=2 * given.steps, unit="step", mininterval=0.3 if sys.stderr.isatty() else 30, delay=0.5, leave=False) as bar:

        def step_done(step: int, steps: int) -> None:
            bar.update()

        found = invert(
            model,
            to_images(array[None]),
            label=given.label,
            steps=given.steps,
            grid=given.grid,
            guidance=given.guidance,
            on_step=step_done,
        )
    rmse, largest = float(found.rmse[0]), float(found.largest[0])
    given.out.mkdir(parents=True, exist_ok=True)
    np.save(given.out / "latent.npy", found.latent[0].numpy())
    write_png(given.out / "reconstruction.png", model.pixels(found.reconstruction)[0], {})
    about = {
        "image": str(given.image),
        "model": {"path": str(model.path), "weights": model.weights, "sha256": model.hash},
        "label": given.label,
        "guidance": list(given.guidance),
        "grid": given.grid,
        "steps": found.steps,
        "t": found.t,
        "rmse": rmse,
        "largest": largest,
    }
    write_text(given.out / "inversion.json", json.dumps(about, indent=2) + "\n")
    print(f"{given.image}: back from the noise at t = {found.t:g} in {found.steps} steps with an error of {rmse:.3f} of 255 levels")
    print(f"(root mean square; {largest:.3f} at most); latent.npy, reconstruction.png and inversion.json: {given.out}")
    return 0
