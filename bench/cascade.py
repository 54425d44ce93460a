"""Cascades with and without conditioning augmentation: ``python bench/cascade.py --data CIFAR-TRAIN.zip --test CIFAR-TEST.zip --work DIR``.

Trains a first stage, and each later stage twice on the same number of images: with Gaussian noise on its low-resolution images, and
without. The first stage is sampled in too few steps, which makes it weak. Levels are tuned on samples of one seed against training
images; the figures are those of another seed against test images. Each run adds to the results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features import Features, features
from mezzotint.checkpoint import load
from mezzotint.configs import DataConfig, Recipe
from mezzotint.data import Source, open_source, subset
from mezzotint.data.arrays import ArraySource
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.pipelines.cascade import Cascade, with_settings
from mezzotint.pipelines.generate import Model
from mezzotint.registry import get
from mezzotint.resolution import enlarge
from mezzotint.tasks.cas import accuracy_score
from mezzotint.tasks.demo import train
from mezzotint.tasks.levels import best, sweep_levels

REPORT = 1000
"""Added to the seed for the images that are measured."""
TENTH = 10
"""Levels are tuned by every tenth training image."""
FEATURE_SIDE = 32
ENLARGED, TUNED = "first stage, enlarged", "with, tuned level"
TRUE = "reduced test images"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled 32x32 images to train on")
    parser.add_argument("--test", required=True, help="labelled 32x32 images of the same classes, to measure against")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models")
    parser.add_argument("--seed", type=int, default=0, help="seed of training; the images have others")
    parser.add_argument("--sides", type=int, nargs="+", default=(8, 16), help="sides of the stages' images, as in 8 16 32")
    parser.add_argument("--base-images", type=int, default=20_000, help="training images of the first stage")
    parser.add_argument("--images", type=int, default=40_000, help="training images of each later stage")
    parser.add_argument("--feature-images", type=int, default=60_000, help="training images of the classifier whose features are compared")
    parser.add_argument("--width", type=int, default=24, help="width of the networks of the later stages")
    parser.add_argument("--base", nargs="*", default=("ancestral:6", "ancestral:16"), help="sampler:steps of the first stage")
    parser.add_argument("--sampler", default="ddim", help="sampler of the later stages")
    parser.add_argument("--steps", type=int, default=8, help="sampling steps of the later stages")
    parser.add_argument("--levels", type=float, nargs="+", default=(0, 0.05, 0.1, 0.2, 0.4, 0.6), help="levels that are tried")
    parser.add_argument("--tune", type=int, default=1_000, help="images a level")
    parser.add_argument("--num", type=int, default=2_000, help="images that are measured")
    parser.add_argument("--cas-images", type=int, default=0, help="training images of each classifier of the CAS; 0: without it")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("cascade.json"), help="where the figures go")
    return parser.parse_args()


def recipe(side: int, args: argparse.Namespace, *, noisy: bool) -> Recipe:
    """The recipe of a stage, cut to what a CPU trains in minutes."""
    first = side == args.sides[0]
    base: Recipe = get("recipe", "cdm-8" if first else "cdm-8-16" if side <= 16 else "cdm-16-32")()
    base = replace(
        base,
        # eps says little of x0 where there is much noise, and needs far longer training until few steps are enough.
        denoiser=replace(base.denoiser, predicts="v"),
        net=replace(base.net, attention=()) if first else replace(base.net, width=args.width, attention=()),
        train=replace(base.train, images=args.base_images if first else args.images, batch=32 if first else 16),
        optim=replace(base.optim, warmup=2_000),
    )
    if noisy or base.low_res is None:
        return base
    return replace(base, low_res=replace(base.low_res, augment="none"), sample=replace(base.sample, level=0.0))


def stage(side: int, args: argparse.Namespace, source: Source, *, noisy: bool = True) -> Model:
    """The trained model of a stage, from the folder or made now."""
    made = recipe(side, args, noisy=noisy)
    kind = "first" if made.low_res is None else "noisy" if noisy else "plain"
    folder = args.work / f"{kind}-{side}-{made.train.images}-{args.width}-{args.seed}"
    if not folder.exists():
        begun = time.process_time()
        train(made, source, folder, seed=args.seed)
        print(f"{folder.name}: {time.process_time() - begun:.0f} CPU seconds", flush=True)
    model = load(folder, device="cpu")
    assert isinstance(model, Model)
    return model


class Compared:
    """The features of images of any side, brought to that of the classifier; as the tuning of levels takes them."""

    def __init__(self, extractor: Features):
        self._extractor = extractor
        self.name, self.resize, self.outputs = "bench", "bicubic", frozenset({"pool"})
        self.hash: str | None = None

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return {"pool": self._extractor(rounded(enlarge(images, (FEATURE_SIDE, FEATURE_SIDE))))}

    def moments(self, images: Tensor) -> Moments:
        moments = Moments()
        for part in images.split(256):
            moments.add(self(rounded(part))["pool"])
        return moments


def rounded(images: Tensor) -> Tensor:
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def distance(a: Moments, b: Moments) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return frechet_distance(a, b)


def evenly(classes: Sequence[str], num: int) -> dict[str | int, int]:
    return dict.fromkeys(classes, num // len(classes))


def compare(
    args: argparse.Namespace, stages: Mapping[str, Cascade], base: str, data: Source, compared: Compared, real: Moments
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The distances of all systems that begin from a first stage sampled one way, and their images."""
    noisy, plain = fixed(stages["noisy"], args, base), fixed(stages["plain"], args, base)
    numbers = range(2, len(noisy.stages) + 1)
    chosen: dict[bool, dict[int, float]] = {}
    found: dict[str, Any] = {}
    for truncated, form in ((False, "tuning"), (True, "tuning, truncated")):
        trials = sweep_levels(noisy, data, levels=args.levels, truncated=truncated, num=args.tune, features=compared, seed=args.seed)
        chosen[truncated] = {k: best(trials, k).level for k in numbers}
        found[form] = {f"stage {t.stage}, level {t.level:g}": t.distance for t in trials}
    wish: dict[str, Any] = {"classes": evenly(noisy.classes, args.num), "seed": REPORT + args.seed, "batch_size": 100}

    def at(levels: Mapping[int, float], truncated: bool) -> Tensor:
        return noisy.sample(**wish, stages={k: {"level": level, "truncated": truncated} for k, level in levels.items()})

    images = {
        ENLARGED: enlarge(noisy.stages[0].sample(**wish), noisy.stages[-1].facts.size),
        "without augmentation": plain.sample(**wish),
        "with, level 0": at(dict.fromkeys(numbers, 0.0), False),
        TUNED: at(chosen[False], False),
        f"{TUNED}, truncated": at(chosen[True], True),
    }
    return found | {name: distance(compared.moments(made), real) for name, made in images.items()}, images


def fixed(model: Cascade, args: argparse.Namespace, base: str) -> Cascade:
    """The cascade, sampled that way unless a job says otherwise."""
    sampler, steps = base.rsplit(":", 1)
    later: dict[str, Any] = {"sampler": args.sampler, "steps": args.steps, "level": 0.0}
    for k, part in enumerate(model.stages):
        part.spec = with_settings(part.spec, later if k else {"sampler": sampler, "steps": int(steps)})
    return model


def true_low_res(
    model: Model, args: argparse.Namespace, source: Source, compared: Compared, real: Moments, levels: Sequence[float]
) -> dict:
    """The distance at each level where a stage enlarges reduced test images rather than made ones."""
    wanted = class_by_class(source, args.num // len(model.classes))
    low = torch.stack(list((model.reduced(source.batch(wanted).images, range(len(wanted))) or {}).values()))
    wish = {"classes": evenly(model.classes, len(wanted)), "seed": REPORT + args.seed, "sampler": args.sampler, "steps": args.steps}
    return {
        f"{level:g}": distance(compared.moments(model.sample(low_res=low, level=level, batch_size=100, **wish)), real) for level in levels
    }


def accuracies(images: Mapping[str, Tensor], data: Source, test: Source, args: argparse.Namespace) -> dict[str, float]:
    """The CAS of images that stand class by class, and of as many real ones."""
    classes, count = data.facts.classes, args.num // len(data.facts.classes)
    found: dict[str, float] = {}
    for name, made in {"real": data.batch(class_by_class(data, count)).images, **images}.items():
        pixels = ((rounded(made) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        labels, names = np.repeat(np.arange(len(classes)), count), [f"{k:06d}" for k in range(len(pixels))]
        source = ArraySource(pixels, DataConfig(flip=True), names=names, labels=labels, classes=classes)
        found[name] = accuracy_score(source, test, images=args.cas_images, seed=args.seed).accuracy
        print(f"CAS, {name}: {found[name]:.3f}", flush=True)
    return found


def class_by_class(source: Source, count: int) -> list[int]:
    """The first images of each class."""
    return [int(k) for c in range(len(source.facts.classes)) for k in np.flatnonzero(np.array(source.labels) == c)[:count]]


def main() -> None:
    args = arguments()
    args.sides, args.base, args.levels = tuple(args.sides), tuple(args.base), tuple(args.levels)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    extractor, right = features(args.data, args.work, args.feature_images)
    print(f"the network of the features reads {right:.1%} of the images that it was not trained on right", flush=True)
    compared = Compared(extractor)
    data = {side: open_source(DataConfig(path=args.data, size=(side, side), flip=True)) for side in args.sides}
    first, last = args.sides[0], args.sides[-1]
    base = stage(first, args, data[first])
    later = {kind: [stage(side, args, data[side], noisy=kind == "noisy") for side in args.sides[1:]] for kind in ("noisy", "plain")}
    test = open_source(DataConfig(path=args.test, size=(last, last)))
    images = torch.cat([test.batch(range(k, min(k + 500, len(test)))).images for k in range(0, len(test), 500)])
    real = compared.moments(images)
    halves = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))].chunk(2)
    facts = {"floor": distance(*(compared.moments(half) for half in halves)), "features_accuracy": right}
    stages = {kind: Cascade([base, *parts]) for kind, parts in later.items()}
    tuned_by = subset(data[last], range(0, len(data[last]), TENTH))
    for way in args.base:
        figures, made = compare(args, stages, way, tuned_by, compared, real)
        if args.cas_images:
            figures["accuracy"] = accuracies({name: made[name] for name in (TUNED, ENLARGED)}, data[last], test, args)
        keep(args, facts, way, figures)
    true = {"without augmentation": true_low_res(later["plain"][-1], args, test, compared, real, (0.0,))["0"]}
    at = true_low_res(later["noisy"][-1], args, test, compared, real, args.levels)
    show(keep(args, facts, TRUE, true | {f"with, level {level}": value for level, value in at.items()}))


def keep(args: argparse.Namespace, facts: dict[str, float], way: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Adds figures to those that the file holds of the same setting."""
    other = ("data", "test", "work", "out", "seed", "base")
    setting = json.loads(json.dumps({name: value for name, value in vars(args).items() if name not in other}))
    held = json.loads(args.out.read_text()) if args.out.exists() else {}
    if held.get("setting") != setting:
        held = {"setting": setting, **facts, "first stage": {}}
    held["first stage"].setdefault(way, {})[str(args.seed)] = figures
    args.out.write_text(json.dumps(held, indent=2) + "\n")
    print(json.dumps({way: figures}, indent=2), flush=True)
    return held


def cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def show(held: Mapping[str, Any]) -> None:
    """The distances by first stage: mean over seeds, and their standard deviation where there are several."""
    print(f"\n{held['setting']['num']} images a system; two halves of the real ones: {held['floor']:.3f}")
    for way, seeds in held["first stage"].items():
        print(f"\n| {way}, {len(seeds)} seed(s) | Frechet distance |\n|---|---|")
        runs = list(seeds.values())
        for name, figure in runs[0].items():
            if isinstance(figure, float):
                print(f"| {name} | {cell([run[name] for run in runs])} |")
        for form in ("tuning", "tuning, truncated", "accuracy"):
            for name in runs[0].get(form, ()):
                print(f"| {form}: {name} | {cell([run[form][name] for run in runs])} |")


if __name__ == "__main__":
    main()
