"""The demonstration: trains on digits, samples with and without guidance, measures, draws a gallery.

DIR/model/, DIR/classifier/     the two models
DIR/samples/NAME/               the images of one row of the table, as ``mezzotint sample`` writes them
DIR/gallery.png                 samples by class, the guidance sweep, one trajectory
DIR/figures.json                protocol, division of the data, figures, claims: the same bytes for the same seed
DIR/timings.json                seconds, which differ from run to run
DIR/check/seed-N/               the same again for the other seeds of ``--check``
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import platform
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mezzotint.checkpoint import load
from mezzotint.cli.folder import SampleFolder, versions
from mezzotint.cli.gallery import Band, draw_gallery
from mezzotint.cli.pictures import write_png
from mezzotint.configs import Recipe
from mezzotint.data import Source, open_source, subset
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.pipelines.generate import Model
from mezzotint.recipes.digits import digits, digits_classifier
from mezzotint.tasks.demo import JUDGE_C, JUDGE_GAMMA, Figures, Split, Yardstick, claims, divide, train
from mezzotint.weights.io import read_json, write_text

FIGURES = "figures.json"
OWN = ("model", "classifier", "samples", "check", "gallery.png", "timings.json", FIGURES)
"""What a demonstration leaves in its folder; nothing else there is ever removed."""
FORMAT = "mezzotint demo 1"
WORKERS = 2
SEEDS = 3
"""Seeds that ``--check`` tries."""
GALLERY_CLASSES, GALLERY_COPIES = (2, 3), 8
"""The guidance sweep of the gallery."""
GALLERY_IMAGE, GALLERY_EVERY = 4, 2
"""Its trajectory: which image, and how many steps lie between two pictures."""


@dataclass(frozen=True)
class Row:
    """One way to sample.

    Attributes:
        name: Its folder.
        sampler: As in "ddim,eta=0.5".
        guidance: As for ``mezzotint sample``; the classifier is the folder ``classifier``.
        title: What the table and the gallery call it.
    """

    name: str
    title: str
    guidance: tuple[str, ...] = ()
    sampler: str = "ancestral"


UNGUIDED, STRONGEST = "unguided", "classifier-10"
ROWS = (
    Row(UNGUIDED, "no guidance"),
    *(Row(f"classifier-{s}", f"classifier, scale {s}", (f"classifier,model=classifier,scale={s}",)) for s in (1, 4, 10)),
    *(Row(f"cfg-{s}", f"classifier-free, scale {s}", (f"cfg,scale={s}",)) for s in (1.5, 2)),
    Row("ddim", "no guidance", sampler="ddim"),
)


@dataclass(frozen=True)
class Size:
    """How much the demonstration does.

    Attributes:
        model: Recipe of the generator.
        classifier: Recipe of the classifier that guides.
        num: Images a row.
        batch: Images in a pass.
        steps: Steps of every sampler.
    """

    model: Recipe = field(default_factory=digits)
    classifier: Recipe = field(default_factory=digits_classifier)
    num: int = 600
    batch: int = 200
    steps: int = 25


@dataclass(frozen=True)
class Drawn:
    """The images of a row, ``[n, h, w, c]``, with their labels, denoiser calls an image, and seconds."""

    images: np.ndarray
    labels: tuple[int, ...]
    calls: int
    seconds: float


def run(out: Path, *, seed: int = 0, check: bool = False, size: Size | None = None) -> int:
    """Runs the demonstration.

    Args:
        out: Its folder. An earlier demonstration there is replaced.
        seed: Seed of the division of the data, of training and of sampling.
        check: Repeat it with the next seeds, and say whether all claims hold on each.
        size: How much to do; None: the whole.

    Returns:
        0; with ``check`` 1 if a claim does not hold.

    Raises:
        ConfigError: The folder holds something else, or cannot be written.
    """
    size = size or Size()
    _prepare(out)
    held = {seed: _once(out, seed, size)}
    print(f"\nmodels, samples, {FIGURES}: {out}\nlook at {out / 'gallery.png'}", flush=True)
    if not check:
        return 0
    for other in range(seed + 1, seed + SEEDS):
        folder = out / "check" / f"seed-{other}"
        print(f"\n--- seed {other} ---", flush=True)
        _prepare(folder)
        held[other] = _once(folder, other, size)
    print()
    for claim in held[seed]:
        failed = [str(s) for s, found in held.items() if not found[claim]]
        print(f"{claim}: " + (f"does not hold on seed {', '.join(failed)}" if failed else f"holds on seeds {', '.join(map(str, held))}"))
    return 0 if all(all(found.values()) for found in held.values()) else 1


def _prepare(out: Path) -> None:
    """Makes the folder, empty of what an earlier demonstration left."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out takes a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not _is_demo(out):
            raise ConfigError(f"{out} is not empty and holds no demo; give another --out, or empty it")
        # Marks the folder first, so that a demo that was interrupted can be replaced as well.
        write_text(out / FIGURES, json.dumps({"format": FORMAT, "complete": False}) + "\n")
        for path in (out / name for name in OWN if name != FIGURES):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {out}: {error.strerror}; give an --out that can be written") from error
    except CheckpointError as error:
        raise ConfigError(f"{error}; give an --out that can be written") from error


def _is_demo(out: Path) -> bool:
    try:
        return read_json(out / FIGURES).get("format") == FORMAT
    except CheckpointError:
        return False


def _once(out: Path, seed: int, size: Size) -> dict[str, bool]:
    """One demonstration; returns its claims and whether they hold."""
    started = time.monotonic()
    source = open_source(size.model.data)
    split = divide(source, seed)
    seconds: dict[str, float] = {}
    print(f"data: {len(source)} scans of digits, 8x8; {len(split.held_out)} held out, {len(split.model)} to train on", flush=True)
    with _one_thread():
        for name, recipe, ids in (("classifier", size.classifier, split.guide), ("model", size.model, split.model)):
            print(f"\n{name}: training on {len(ids)} digits, {recipe.train.images} images in all", flush=True)
            before = time.monotonic()
            train(recipe, subset(source, ids), out / name, seed=seed)
            seconds[name] = round(time.monotonic() - before, 2)
        yardstick = Yardstick(source, split)
        print(f"\n{size.num} images a row, Frechet distance and neighbours on pixels against {len(split.held_out)} held-out digits\n")
        print(_line("sampler", "guidance", "calls", "seconds", "Frechet", "precision", "recall", "accuracy"))
        print(_line("real digits (1)", "", "", "", *_shown(yardstick.real)), flush=True)
        drawn: dict[str, Drawn] = {}
        figures: dict[str, Figures] = {}
        for row, found in zip(ROWS, _draw_all(out, seed, size), strict=True):
            drawn[row.name], figures[row.name] = found, yardstick.figures(found.images, found.labels)
            seconds[f"samples/{row.name}"] = round(found.seconds, 2)
            print(_line(row.sampler, row.title, found.calls, f"{found.seconds:.1f}", *_shown(figures[row.name])), flush=True)
        write_png(out / "gallery.png", _gallery(out, source, split, seed, size, drawn, figures), {})
    held = claims(figures[UNGUIDED], figures[STRONGEST], min(f.frechet for f in figures.values()))
    print(
        f"(1) {len(split.judge)} training digits against the held-out ones; accuracy: the judge's on the held-out ones.\n"
        "    A call is one evaluation of the model; classifier guidance adds a gradient of the classifier to each,\n"
        "    classifier-free guidance doubles it. Guide and judge share no training images.\n"
    )
    for claim, holds in held.items():
        print(f"{'yes' if holds else 'NO':>4}  {claim}")
    seconds["all"] = round(time.monotonic() - started, 2)
    write_text(out / "timings.json", json.dumps({"seconds": seconds}, indent=2) + "\n")
    calls = {name: found.calls for name, found in drawn.items()}
    write_text(out / FIGURES, json.dumps(_record(out, source, split, seed, size, calls, figures, yardstick.real, held), indent=2) + "\n")
    print(f"\n{seconds['all']:.0f} s in all", flush=True)
    return held


def _shown(figures: Figures) -> tuple[str, ...]:
    return tuple(f"{value:.3f}" for value in dataclasses.astuple(figures))


def _line(sampler: object, guidance: object, *rest: object) -> str:
    return f"{sampler:<16}{guidance:<28}" + "".join(f"{value:>11}" for value in rest)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks as small as these gain nothing from a second thread, and the same thread count gives the same bytes on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- sampling ------------------------------------------------------------------------------------------------------------


def _draw_all(out: Path, seed: int, size: Size) -> Iterator[Drawn]:
    """The images of all rows, in order; two processes draw, each on one core."""
    with ProcessPoolExecutor(
        max_workers=min(WORKERS, os.cpu_count() or 1),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_enter,
        initargs=(out.resolve(),),
    ) as pool:
        yield from pool.map(_draw, ROWS, [seed] * len(ROWS), [size] * len(ROWS))


def _enter(out: Path) -> None:
    """Works inside the folder, so that the recipes in the images name their models by paths that move with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is reported by the main process alone
    torch.set_num_threads(1)
    os.chdir(out)


def _draw(row: Row, seed: int, size: Size) -> Drawn:
    """Draws a row and writes it as ``mezzotint sample`` does."""
    model = _generator(Path("model"))
    job = model.job(num=size.num, sampler=row.sampler, steps=size.steps, guidance=row.guidance, seed=seed, batch_size=size.batch)
    folder = SampleFolder(Path("samples") / row.name, model, job)
    missing = set(folder.open())
    started, calls = time.monotonic(), 0
    for chunk in model.run(job):
        calls = chunk.trajectory.calls
        folder.write(chunk, missing)
    seconds = time.monotonic() - started
    folder.finish()
    assert job.labels is not None
    return Drawn(np.stack([folder.pixels(k) for k in job.ids]), job.labels, calls, seconds)


def _generator(folder: Path) -> Model:
    model = load(folder)
    assert isinstance(model, Model)
    return model


# --- what is left --------------------------------------------------------------------------------------------------------


def _gallery(
    out: Path, source: Source, split: Split, seed: int, size: Size, drawn: dict[str, Drawn], figures: dict[str, Figures]
) -> np.ndarray:
    held_out = subset(source, split.held_out)
    model = _generator(out / "model")
    job = model.job(num=size.num, steps=size.steps, seed=seed, batch_size=1).only([GALLERY_IMAGE])
    (chunk,) = model.run(job, save="all")
    shown = range(0, size.steps, GALLERY_EVERY)
    states = [model.pixels(chunk.trajectory.xs[i])[0] for i in shown]
    beliefs = [model.pixels(chunk.trajectory.x0s[i])[0] for i in shown]
    sweep = [
        Band(
            row.title,
            f"precision {figures[row.name].precision:.2f}, recall {figures[row.name].recall:.2f}",
            [[drawn[row.name].images[i] for i in _of_class(drawn[row.name].labels, k)[:GALLERY_COPIES]] for k in GALLERY_CLASSES],
        )
        for row in ROWS
        if row.sampler == "ancestral"
    ]
    unguided = drawn[UNGUIDED]
    return draw_gallery(
        classes=source.facts.classes,
        real=[[held_out.array(i) for i in _of_class(held_out.labels, k)] for k in range(10)],
        sampled=[[unguided.images[i] for i in _of_class(unguided.labels, k)] for k in range(10)],
        sweep=sweep,
        trajectory=[
            Band("the sample", "noise is taken away", [states]),
            Band("what is expected", "the network's belief", [beliefs]),
        ],
        steps=[i + 1 for i in shown],
    )


def _of_class(labels: Any, k: int) -> list[int]:
    return [i for i, label in enumerate(labels) if label == k]


def _record(
    out: Path,
    source: Source,
    split: Split,
    seed: int,
    size: Size,
    calls: dict[str, int],
    figures: dict[str, Figures],
    real: Figures,
    held: dict[str, bool],
) -> dict[str, Any]:
    """What ``figures.json`` holds."""
    parts = {"held_out": split.held_out, "guide": split.guide, "judge": split.judge}
    model = _generator(out / "model")
    return {
        "format": FORMAT,
        "complete": True,
        "seed": seed,
        "claims": held,
        "real": {
            **dataclasses.asdict(real),
            "meaning": "digits of part judge against part held_out; accuracy: the judge's on part held_out",
        },
        "rows": [
            {
                "name": row.name,
                "sampler": row.sampler,
                "steps": size.steps,
                "calls": calls[row.name],
                "guidance": list(row.guidance),
                **dataclasses.asdict(figures[row.name]),
            }
            for row in ROWS
        ],
        "protocol": {
            "data": size.model.data.path,
            "fingerprint": source.fingerprint,
            "features": "pixels in [-1, 1]",
            "neighbours": 3,
            "images_a_row": size.num,
            "images_held_out": len(split.held_out),
            "judge": {"kind": "sklearn.svm.SVC", "C": JUDGE_C, "gamma": JUDGE_GAMMA, "trained_on": "judge"},
            "classifier": {"recipe": size.classifier.name, "images": size.classifier.train.images, "trained_on": "guide"},
            "model": {"recipe": size.model.name, "images": size.model.train.images, "trained_on": "guide and judge"},
        },
        "versions": {
            **versions(model),
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "pillow", "scikit-learn")},
        },
        "split": {name: " ".join(map(str, ids)) for name, ids in parts.items()},
    }
