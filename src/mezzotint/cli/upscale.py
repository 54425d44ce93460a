"""``mezzotint upscale``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.cli.sample import WAIT, parse_ema, stage_settings
from mezzotint.errors import ConfigError, DataError, MezzotintError, TrainingError

if TYPE_CHECKING:
    from mezzotint.cli.upscale_folder import Piece, UpscaleFolder
    from mezzotint.train.ranks import Ranks


@dataclass(frozen=True)
class Arguments:
    """Enlarges pictures with a model that begins from low-resolution images: PNGs, a page with before and after, a manifest.

    Any size, gray or colour, 8 or 16 bits, with or without alpha. Large pictures go through the network in overlapping tiles. The same
    command again goes on with a folder that is not complete. The stages of a cascade enlarge in turn. Several GPUs, which share the
    pictures: torchrun --nproc-per-node 8 -m -- mezzotint upscale ...
    """

    pictures: tyro.conf.Positional[Path]
    """An image file, a folder of images (folders below included) or a ZIP file of them."""
    model: Path
    """Model folder, the folder of a training run, or the name of a published model."""
    out: Path
    """Folder to be made."""
    scale: int | None = None
    """Enlargement: that of the model, or of all stages of a cascade, which is the default, or a power of it."""
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
    stage: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="N.SETTING=VALUE")] = ()
    """For a cascade: how stage N is sampled, as in 2.steps=50, 3.sampler=ddim or 3.level=0.3. May be repeated."""
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

    from mezzotint.train.ranks import Ranks, launched

    ranks = Ranks(launched(WAIT), WAIT)
    try:
        return _run(given, ema, ranks)
    except RuntimeError as error:
        told = ranks.explain(error)
        if told is None:
            raise
        raise told from error
    finally:
        ranks.close()


def _run(given: Arguments, ema: float | bool, ranks: Ranks) -> int:
    from mezzotint.checkpoint.loading import load, locate
    from mezzotint.cli.upscale_folder import UpscaleFolder, open_pictures
    from mezzotint.pipelines.generate import Model
    from mezzotint.pipelines.upscale import Upscaler
    from mezzotint.train.faults import is_out_of_memory

    store, names = open_pictures(given.pictures, given.out)
    ranks.on_main(lambda: locate(given.model))  # which may fetch it
    model = load(given.model, ema=ema, device=ranks.device)
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
        **stage_settings(model, given.stage),
    )
    folder = UpscaleFolder(given.out, upscaler, store, names, num=given.num)
    single = given.pictures.is_file() and len(names) == 1
    wrong = folder.survey()
    if single and wrong:
        raise next(iter(wrong.values()))
    if ranks.main:
        _left_out(wrong)
    _check_any(folder, given)
    ranks.on_main(folder.open)
    ranks.say(f"{model.path or given.model}: {len(names)} pictures, {upscaler.scale} times larger, by {folder.how}")
    pieces = ranks.on_main(folder.missing)
    late: dict[str, MezzotintError] = {}
    if done := len(folder.good) - len({piece.name for piece in pieces}):
        ranks.say(f"{done} of them are in {folder.path} already")
    ranks.at("enlarging pictures")
    try:
        late = _make(folder, folder.share(pieces, ranks.index, ranks.count), ranks)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"out of memory with {upscaler.batch} tiles in a pass: give a smaller --batch-size or --tile") from error
    ranks.at("waiting for the pictures of the others")
    late = {name: error for part in ranks.collect(late) for name, error in part.items()}
    if single and late:
        raise next(iter(late.values()))
    if ranks.main:
        _left_out(late)
    for name in late:
        del folder.good[name]
    _check_any(folder, given)
    ranks.on_main(folder.finish)
    ranks.say(f"{len(folder.good)} pictures, {folder.PAGE}, {folder.SHEET} and {folder.MANIFEST}: {given.out}")
    if wrong | late:
        count = len(wrong | late)
        raise DataError(f"{count} of {len(names)} pictures could not be read and were left out; the others are in {given.out}")
    return 0


def _check_any(folder: UpscaleFolder, given: Arguments) -> None:
    if not folder.good:
        raise DataError(f"none of the {len(folder.names)} pictures in {given.pictures} could be read; give others")


def _left_out(wrong: dict[str, MezzotintError]) -> None:
    for reason in wrong.values():
        print(f"mezzotint: left out: {' '.join(str(reason).split())}", file=sys.stderr, flush=True)


def _make(folder: UpscaleFolder, pieces: Sequence[Piece], ranks: Ranks) -> dict[str, MezzotintError]:
    """Makes this rank's share; returns the pictures whose damage shows only when all of them is read."""
    from tqdm import tqdm

    wrong: dict[str, MezzotintError] = {}
    terminal = sys.stderr.isatty()
    costs = [(folder.work(piece.name), len(piece.samples)) for piece in pieces]
    work = None if any(cost is None for cost, _ in costs) else sum((cost or 0) * count for cost, count in costs)
    every = len({piece.name for piece in pieces})
    of = f" of the first of {ranks.count} ranks" if ranks.count > 1 else ""
    idle = not (ranks.main and pieces)
    begun: set[str] = set()
    with tqdm(total=work, unit="tile", mininterval=0.3 if terminal else 30, dynamic_ncols=terminal, disable=idle) as bar:
        for piece in pieces:
            begun.add(piece.name)
            bar.set_postfix_str(f"{len(begun) - 1}/{every} pictures{of}", refresh=False)
            if piece.name not in wrong:
                try:
                    folder.make(piece, on_work=bar.update)
                except DataError as error:
                    wrong[piece.name] = error
        bar.set_postfix_str(f"{every}/{every} pictures{of}", refresh=False)
    return wrong
