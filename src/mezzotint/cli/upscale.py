"""``mezzotint upscale``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.cli.sample import parse_ema
from mezzotint.errors import ConfigError, DataError, MezzotintError, TrainingError

if TYPE_CHECKING:
    from mezzotint.cli.upscale_folder import UpscaleFolder


@dataclass(frozen=True)
class Arguments:
    """Enlarges pictures with a model that begins from low-resolution images: PNGs, a page with before and after, a manifest.

    Any size, gray or colour, 8 or 16 bits, with or without alpha. Large pictures go through the network in overlapping tiles. The same
    command again goes on with a folder that is not complete.
    """

    pictures: tyro.conf.Positional[Path]
    """An image file, a folder of images (folders below included) or a ZIP file of them."""
    model: Path
    """Model folder, the folder of a training run, or the name of a published model."""
    out: Path
    """Folder to be made."""
    scale: int | None = None
    """Enlargement: that of the model, which is the default, or a power of it."""
    tile: int | None = None
    """Side of a tile, in pixels of the result; without it the size that the model was trained at."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share at least; without it a quarter of a tile."""
    num: int = 1
    """Samples of each picture."""
    consistent: bool = False
    """Make the results such that reduced they are the pictures that were given."""
    level: float | None = None
    """Noise that the pictures are given first, from 0 to 1, for models that were trained with it; without it the model's own."""
    class_: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Class of all pictures, by name or label, for class-conditional models; without it the null class, or the first class."""
    sampler: str | None = None
    """Sampler with its settings, as in ddim,eta=0.5; without it the model's own."""
    steps: int | None = None
    """Number of steps; without it what the grid gives, or the model's own."""
    grid: str | None = None
    """Spacing of the steps: uniform, quadratic, betas:1e-4,0.5, or a respacing rule such as 250 or ddim25."""
    calls: int | None = None
    """Sample as `mezzotint tune` found best within so many network calls; replaces --sampler, --steps and --grid."""
    guidance: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """As in cfg,scale=2. May be repeated; the first is the innermost."""
    seed: int = 0
    """Another seed gives other pictures."""
    batch_size: int = 8
    """Tiles in a pass of the network; memory beyond the pictures themselves is bounded by it."""
    ema: str = "on"
    """Moving average of the weights: its decay, on (the first one) or off (the weights as trained)."""


def run(command: str, words: list[str]) -> int:
    """Enlarges pictures, or those that are still missing.

    Args:
        command: "upscale".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    ema = parse_ema(given.ema)
    if given.num < 1:
        raise ConfigError(f"--num {given.num}; ask for at least 1 sample of each picture")
    if not given.pictures.exists():
        raise DataError(f"{given.pictures} does not exist; give an image file, a folder or a ZIP file of images")
    if given.out.exists() and not given.out.is_dir():
        raise ConfigError(f"{given.out} is a file; --out takes a folder")

    import torch

    from mezzotint.checkpoint import load
    from mezzotint.cli.upscale_folder import UpscaleFolder, open_pictures
    from mezzotint.pipelines.generate import Model
    from mezzotint.pipelines.upscale import Upscaler

    store, names = open_pictures(given.pictures, given.out)
    model = load(given.model, ema=ema)
    if not isinstance(model, Model):
        raise ConfigError(f"{given.model} is a classifier, which enlarges nothing; give a model of a recipe such as sr3-64-256")
    upscaler = Upscaler(
        model,
        scale=given.scale,
        tile=given.tile,
        overlap=given.overlap,
        batch_size=given.batch_size,
        class_=given.class_,
        consistent=given.consistent,
        guidance=given.guidance,
        sampler=given.sampler,
        steps=given.steps,
        grid=given.grid,
        calls=given.calls,
        level=given.level,
        seed=given.seed,
    )
    folder = UpscaleFolder(given.out, upscaler, store, names, num=given.num)
    single = given.pictures.is_file() and len(names) == 1
    wrong = folder.survey()
    if single and wrong:
        raise next(iter(wrong.values()))
    folder.open()
    print(f"{model.path or given.model}: {len(names)} pictures, {upscaler.scale} times larger, by {folder.how}", flush=True)
    for reason in wrong.values():
        _left_out(reason)
    try:
        wrong |= _make(folder)
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"out of memory with {upscaler.batch} tiles in a pass: give a smaller --batch-size or --tile") from error
    if single and wrong:
        raise next(iter(wrong.values()))
    folder.finish()
    print(f"{len(folder.good)} pictures, {folder.PAGE}, {folder.SHEET} and {folder.MANIFEST}: {given.out}")
    if wrong:
        raise DataError(f"{len(wrong)} of {len(names)} pictures could not be read and were left out; the others are in {given.out}")
    return 0


def _left_out(reason: MezzotintError) -> None:
    print(f"mezzotint: left out: {' '.join(str(reason).split())}", file=sys.stderr, flush=True)


def _make(folder: UpscaleFolder) -> dict[str, MezzotintError]:
    """Makes what is missing; returns the pictures whose damage shows only when all of them is read."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    missing, wrong = folder.missing(), {}
    costs = [(folder.work(name), len(samples)) for name, samples in missing.items()]
    work = None if any(cost is None for cost, _ in costs) else sum((cost or 0) * count for cost, count in costs)
    done, every = len(folder.good) - len(missing), len(folder.good)
    if done:
        print(f"{done} of them are in {folder.path} already", flush=True)
    with tqdm(total=work, unit="tile", mininterval=0.3 if terminal else 30, dynamic_ncols=terminal, disable=not missing) as bar:
        for name, samples in missing.items():
            bar.set_postfix_str(f"{done}/{every} pictures", refresh=False)
            try:
                folder.make(name, samples, on_work=bar.update)
            except DataError as error:
                wrong[name] = error
                del folder.good[name]
                if every > 1:
                    _left_out(error)
            done += 1
        bar.set_postfix_str(f"{done}/{every} pictures", refresh=False)
    return wrong
