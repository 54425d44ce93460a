"""``mezzotint evaluate``."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError

if TYPE_CHECKING:
    from mezzotint.tasks.evaluate import Evaluation


@dataclass(frozen=True)
class Arguments:
    """Measures images against others: FID, sFID, Inception score, precision, recall, KID and more, with all that they depend on.

    Images are a folder, class folders, a ZIP, an .npz (arr_0), a folder of `mezzotint sample` or "digits"; statistics are files of
    `mezzotint reference`, ADM, pytorch-fid, EDM or clean-fid. Several GPUs: torchrun --nproc-per-node 8 -m -- mezzotint evaluate ...
    """

    samples: tyro.conf.Positional[str]
    """What is measured: images or statistics."""
    reference: str
    """What it is measured against: real images or statistics of them."""
    metrics: str | None = None
    """Names with commas between: fid, sfid, is, precision, recall, kid, density, coverage, cmmd, fid_infinity, is_infinity, cas.
    Without it those of the first five that network and data can give."""
    features: str | None = None
    """Feature network: inception, dinov2, clip or pixels with its settings, as in inception,weights=FILE; or a model of
    `mezzotint train-classifier`. Without it that of the reference's statistics, else inception."""
    protocol: Literal["adm", "edm", "clean", "pytorch_fid"] = "adm"
    """How images are prepared for Inception; adm and edm agree."""
    json: Path | None = None
    """Write the figures and their protocol to this file; `mezzotint compare` puts several into one table."""
    report: Path | None = None
    """Write a page with figures, images, nearest neighbours and a sketch to this .html file, and a .png beside it."""
    train: str | None = None
    """Images that the model was trained on, to see whether it repeats them."""
    test: str | None = None
    """Real images that it was not trained on, for that check and for cas; without it the reference."""
    split: Literal["all", "train", "test"] = "all"
    """Part of the reference, where it has parts."""
    size: tuple[int, int] | None = None
    """Height and width to bring all images to, as training does it; without it each set must have one size."""
    channels: int | None = None
    """Channels to bring all images to: 1 gray, 3 colour."""
    num: int | None = None
    """Number of samples, evenly spread over them; without it all."""
    keep: int = 10_000
    """Reference images that precision, recall, kid and the like see, evenly spread over the reference."""
    k: int = 3
    """Neighbour that gives the radius of precision and recall."""
    official: bool = False
    """Distances of precision and recall in half precision, as in ADM's evaluator."""
    seed: int = 2020
    """Seed of subsets and of the classifier of cas; the samples are what they are."""
    cas_recipe: str = "small-classifier"
    """Recipe of the classifier of cas."""
    cas_images: int | None = None
    """Its budget of training images; without it that of the recipe."""
    cas_seeds: int = 1
    """Trainings of it."""
    batch_size: int = 64
    """Images in a pass. No effect on the figures beyond rounding."""
    workers: int = 2
    """Threads that decode images."""


def run(command: str, words: list[str]) -> int:
    """Measures, prints the figures and writes what is asked for.

    Args:
        command: "evaluate".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if given.report is not None and given.report.suffix != ".html":
        raise ConfigError(f"--report {given.report}: give a file that ends in .html; its picture is written beside it")
    check_places(given.json, given.report)
    if given.cas_seeds < 1:
        raise ConfigError(f"--cas-seeds {given.cas_seeds}; give at least 1")

    from mezzotint.cli.progress import reading
    from mezzotint.tasks.evaluate import evaluate
    from mezzotint.tasks.figures import Settings
    from mezzotint.train.ranks import launched

    main = launched().is_main_process
    with reading(given.batch_size, given.workers, show=main) as reader:
        done = evaluate(
            given.samples,
            given.reference,
            metrics=None if given.metrics is None else [name.strip() for name in given.metrics.split(",") if name.strip()],
            features=given.features,
            protocol=given.protocol,
            size=given.size,
            channels=given.channels,
            split=given.split,
            num=given.num,
            keep=given.keep,
            settings=Settings(neighbours=given.k, seed=given.seed, official=given.official),
            train=given.train,
            test=given.test,
            cas={"recipe": given.cas_recipe, "images": given.cas_images, "seeds": given.cas_seeds},
            reading=reader,
        )
    if not main:
        return 0
    for line in lines(done):
        print(line)
    for words_ in done.checks.warnings:
        warnings.warn(words_, stacklevel=1)
    if given.json is not None:
        from mezzotint.weights.io import write_text

        write_text(given.json, json.dumps(done.to_dict(), indent=2, ensure_ascii=False) + "\n")
        print(f"figures and protocol: {given.json}")
    if given.report is not None:
        from mezzotint.cli.report import evaluation_sections, write_report

        picture = write_report(given.report, f"Evaluation of {given.samples}", evaluation_sections(done))
        print(f"report: {given.report}, {picture}")
    sys.stdout.flush()
    return 0


def check_places(*files: Path | None) -> None:
    """Checks that files can be written where they are wanted, before the work is done.

    Raises:
        ConfigError: A folder does not exist.
    """
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise ConfigError(f"{file.parent} does not exist; make it, or give another place for {file.name}")


def lines(done: Evaluation) -> list[str]:
    """The figures, and in short what they depend on."""
    from mezzotint.tasks.compare import number

    how, width = done.protocol, max(len(f.label) for f in done.figures.values())
    out = [
        f"{f.label:<{width}}  {number(f.value)}" + ("" if f.spread is None else f" ± {number(f.spread)} ({f.spread_of})")
        for f in done.figures.values()
    ]
    reference = how["reference"]
    digest = how["features"]["sha256"]
    named = how["features"]["name"] + ("" if digest is None else f" {digest[:8]}")
    of = f"{reference['images']} images" if reference["images"] else "statistics of an unknown number of images"
    out.append(f"{how['images'] or 'statistics of unknown'} samples against {reference['path']} ({of}, {str(reference['hash'])[:8]})")
    out.append(f"features {named}, resize {how['resize']}")
    if how["sampler"] is not None:
        guidance = " + ".join(how["guidance"] or []) or "no guidance"
        steps = how["steps"] or how["grid"]
        out.append(f"sampled by {how['sampler']}, {steps} steps, {guidance}, EMA {how['ema']}, seed {how['seeds']['samples']}")
    if done.memory is not None:
        found = done.memory
        out.append(
            f"memorisation: {found.share_closer:.1%} of the samples are closer to a training image than half of {found.baseline}, "
            f"{found.share_copies:.1%} closer than 1 % of them"
        )
    return out
