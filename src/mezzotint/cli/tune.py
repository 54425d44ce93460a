"""``mezzotint tune``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.cli.sample import parse_ema
from mezzotint.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from mezzotint.data.source import Source
    from mezzotint.pipelines.generate import ClassifierModel, Model
    from mezzotint.pipelines.tuned import Tuned

PLOT = "tuned.png"


@dataclass(frozen=True)
class Arguments:
    """Searches the best sampler, grid and guidance for each number of network calls, and keeps them with the model.

    `mezzotint sample MODEL --calls 8` then uses them.
    """

    model: tyro.conf.Positional[Path]
    """Model folder, or the folder of a training run."""
    data: str
    """Images that samples should be like: a folder, a ZIP, an .npz or digits."""
    what: Literal["solver", "schedule", "levels"] = "solver"
    """Sampler and grid; the noise schedule of ancestral steps, for networks that know every noise level, as SR3's does; or the noise that
    the stages of a cascade give to what they begin from."""
    levels: str = "0,0.05,0.1,0.2,0.3,0.5"
    """For levels: those that are tried."""
    truncated: bool = False
    """For levels: let the stage before stop at the level, rather than finish its images."""
    split: Literal["all", "train", "test"] = "all"
    """Part of the data, where it has parts."""
    calls: str = "4,6,8,10,15,20"
    """Numbers of network calls an image."""
    num: int = 1024
    """Images of the last round; the first has a ninth of them."""
    guidance: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Also try this guidance, as in cfg,scale=1.5. May be repeated."""
    features: Path | None = None
    """Classifier whose features are compared; without it the pixels, of larger images those of 16x16 cuts."""
    seed: int = 0
    """Seed of the samples."""
    batch_size: int = 64
    """Images in a pass."""
    ema: str = "on"
    """Moving average of the weights: its decay, on (the first one) or off (the weights as trained)."""


def run(command: str, words: list[str]) -> int:
    """Searches, and saves what was found in the model's folder.

    Args:
        command: "tune".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if not all(part.strip().isdecimal() for part in given.calls.split(",")):
        raise ConfigError(f"--calls {given.calls}: give numbers, as in 4,6,8,10")
    calls = [int(part) for part in given.calls.split(",")]

    from tqdm import tqdm

    from mezzotint.checkpoint import load
    from mezzotint.cli.pictures import write_png
    from mezzotint.data import open_source
    from mezzotint.pipelines.cascade import Cascade
    from mezzotint.pipelines.generate import ClassifierModel, Model
    from mezzotint.pipelines.tuned import write_tuned
    from mezzotint.sample.grid import noise_schedules
    from mezzotint.tasks.tune import tune_solver

    model = load(given.model, ema=parse_ema(given.ema))
    if not isinstance(model, Model) or model.path is None:
        raise ConfigError(f"{given.model} is a classifier, which is not sampled; give a model of `mezzotint train`")
    if isinstance(model, Cascade) and given.what != "levels":
        raise ConfigError(f"{given.model} is a cascade, which is not tuned as a whole; tune its stages one by one, or --what levels")
    features = None if given.features is None else load(given.features)
    if features is not None and not isinstance(features, ClassifierModel):
        raise ConfigError(f"--features {given.features} is a generator; give a model of `mezzotint train-classifier`")
    source = open_source(replace(model.spec.recipe.data, path=given.data, split=given.split, flip=False))
    if given.what == "levels":
        return _levels(given, model, source, features)
    by_betas = partial(noise_schedules, model.stage.schedule)
    search: dict[str, Any] = {"samplers": ("ancestral",), "grids": by_betas} if given.what == "schedule" else {}
    with tqdm(unit="image", mininterval=1 if sys.stderr.isatty() else 30, delay=0.5, leave=False) as bar:

        def show(images: int, what: str) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update(images)

        tuned = tune_solver(
            model,
            source,
            calls,
            num=given.num,
            guidance=[(), *((text,) for text in given.guidance)],
            features=features,
            seed=given.seed,
            batch_size=given.batch_size,
            on_images=show,
            **search,
        )
    for line in table(tuned):
        print(line)
    print(f"kept with the model: {write_tuned(model.path, tuned)}")
    write_png(model.path / PLOT, front(tuned), {})
    print(f"distance against calls: {model.path / PLOT}")
    return 0


def _levels(given: Arguments, model: Model, source: Source, features: ClassifierModel | None) -> int:
    from tqdm import tqdm

    from mezzotint.checkpoint.joining import set_stage
    from mezzotint.pipelines.cascade import Cascade
    from mezzotint.tasks.levels import best, sweep_levels

    try:
        levels = [float(part) for part in given.levels.split(",")]
    except ValueError:
        raise ConfigError(f"--levels {given.levels}: give numbers from 0 to 1, as in 0,0.1,0.3") from None
    if not isinstance(model, Cascade) or model.path is None:
        raise ConfigError(f"{given.model} is not a cascade, which alone has levels; join stages with `mezzotint cascade`")
    with tqdm(unit="image", mininterval=1 if sys.stderr.isatty() else 30, delay=0.5, leave=False) as bar:

        def show(images: int, what: str) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update(images)

        wish: dict[str, Any] = {"num": given.num, "seed": given.seed, "batch_size": given.batch_size, "on_images": show}
        trials = sweep_levels(model, source, levels=levels, truncated=given.truncated, features=features, **wish)
    print(f"{'stage':>5}  {'level':>6}  {'distance':>9}")
    for trial in trials:
        print(f"{trial.stage:>5}  {trial.level:>6g}  {trial.distance:>9.4g}")
    for stage in sorted({trial.stage for trial in trials}):
        found = best(trials, stage)
        set_stage(model.path, stage, {"level": found.level, "truncated": given.truncated})
        print(f"stage {stage}: level {found.level:g}, kept with the model")
    return 0


def table(tuned: Tuned) -> list[str]:
    """The best setting of each budget, in lines."""
    lines = [f"{'calls':>5}  {'distance':>9}  setting"]
    for budget, best in sorted(tuned.best.items()):
        words = [best.sampler, f"{best.steps} steps", f"grid {best.grid}", *best.guidance]
        lines.append(f"{budget:>5}  {best.distance:>9.4g}  {', '.join(words)}")
    return lines


def front(tuned: Tuned) -> np.ndarray:
    """A chart of distance against calls: the best of all, and the best of each sampler where all its images were made."""
    from mezzotint.cli.chart import line_chart

    lines = {"best": [(float(budget), best.distance) for budget, best in sorted(tuned.best.items())]}
    for budget, settings in sorted(tuned.tried.items()):
        seen = set()
        for setting in settings:
            if setting.images == tuned.about["images"] and setting.sampler not in seen:
                seen.add(setting.sampler)
                lines.setdefault(setting.sampler, []).append((float(budget), setting.distance))
    return line_chart(lines, x="network calls", y="Frechet distance")
