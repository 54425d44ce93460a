"""Cascades with and without conditioning augmentation: ``python bench/cascade.py --data CIFAR-TRAIN.zip --test CIFAR-TEST.zip --work DIR``.

Trains a first stage, and each later stage twice on the same number of images: with Gaussian noise on its low-resolution images, and
without. The first stage is sampled in too few steps, which makes it weak. Levels are tuned on samples of one seed against held-out training
images; the figures are those of another seed against test images. Each run adds a seed to the results.
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
from mezzotint.data import Source, open_source, split_ids, subset
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.pipelines.cascade import Cascade, with_settings
from mezzotint.pipelines.generate import Model
from mezzotint.registry import get
from mezzotint.resolution import enlarge
from mezzotint.tasks.cas import accuracy_score
from mezzotint.tasks.demo import train
from mezzotint.tasks.levels import best, sweep_levels

HELD_OUT = 0.1
"""Share of the training images that levels are tuned by."""
REPORT = 1000
"""Added to the seed for the images that are measured."""
FEATURE_SIDE = 32


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled 32x32 images to train on")
    parser.add_argument("--test", required=True, help="labelled 32x32 images of the same classes, to measure against")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models")
    parser.add_argument("--seed", type=int, default=0, help="seed of training; the images have others")
    parser.add_argument("--sides", type=int, nargs="+", default=(8, 16), help="sides of the stages' images: 8 16, or 8 16 32")
    parser.add_argument("--base-images", type=int, default=20_000, help="training images of the first stage")
    parser.add_argument("--images", type=int, default=40_000, help="training images of each later stage")
    parser.add_argument("--feature-images", type=int, default=60_000, help="training images of the classifier whose features are compared")
    parser.add_argument("--width", type=int, default=24, help="width of the networks of the later stages")
    parser.add_argument("--base", nargs="+", default=("ancestral:6", "ddim:8", "ancestral:25"), help="sampler:steps of the first stage")
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
    base: Recipe = get("recipe", f"cdm-{side}" if first else f"cdm-{side // 2}-{side}")()
    base = replace(
        base,
        # eps says little of x0 where there is much noise, and needs far longer training until few steps are enough.
        denoiser=replace(base.denoiser, predicts="v"),
        net=replace(base.net, width=base.net.width if first else args.width, attention=()),
        train=replace(base.train, images=args.base_images if first else args.images, batch=32 if first else 16),
        optim=replace(base.optim, warmup=2_000),
    )
    if noisy or base.low_res is None:
        return base
    return replace(base, low_res=replace(base.low_res, augment="none"), sample=replace(base.sample, level=0.0))


class Data:
    """Images of one side: those that are trained on, those that levels are tuned by, and those that are measured against."""

    def __init__(self, side: int, args: argparse.Namespace):
        whole = open_source(DataConfig(path=args.data, size=(side, side), flip=True))
        kept, held = split_ids(whole, (1 - HELD_OUT, HELD_OUT), 0)
        self.train, self.held = subset(whole, kept), subset(whole, held)
        self.test = open_source(DataConfig(path=args.test, size=(side, side)))


def stage(side: int, args: argparse.Namespace, source: Source, *, noisy: bool = True) -> Model:
    """The trained model of a stage, from the folder or made now."""
    made = recipe(side, args, noisy=noisy)
    kind = "first" if made.low_res is None else "noisy" if noisy else "plain"
    folder = args.work / f"{kind}-{side}-{made.train.images}-{made.net.width}-{args.seed}"  # type: ignore[union-attr]
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
        self.name, self.hash, self.resize, self.outputs = "bench", None, "bicubic", frozenset({"pool"})

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


def settings(
    model: Cascade, args: argparse.Namespace, base: str, levels: Mapping[int, float] | None = None, truncated: bool = False
) -> dict:
    """What stages are sampled by; ``levels``: that of each stage, 0 where it says nothing."""
    sampler, steps = base.rsplit(":", 1)
    found: dict[int, dict[str, Any]] = {1: {"sampler": sampler, "steps": int(steps)}}
    for k in range(2, len(model.stages) + 1):
        found[k] = {"sampler": args.sampler, "steps": args.steps, "level": (levels or {}).get(k, 0.0), "truncated": truncated}
    return found


def compare(args: argparse.Namespace, stages: Mapping[str, Cascade], base: str, held: Source, compared: Compared, real: Moments) -> dict:
    """The distances of all systems that begin from a first stage sampled one way."""
    noisy, plain = stages["noisy"], stages["plain"]
    wish: dict[str, Any] = {"classes": evenly(noisy.classes, args.num), "seed": REPORT + args.seed, "batch_size": 100}
    numbers = range(2, len(noisy.stages) + 1)
    chosen: dict[bool, dict[int, float]] = {}
    tried: dict[str, dict[str, float]] = {}
    for truncated in (False, True):
        trials = sweep_levels(
            fixed(noisy, args, base), held, levels=args.levels, truncated=truncated, num=args.tune, features=compared, seed=args.seed
        )
        chosen[truncated] = {k: best(trials, k).level for k in numbers}
        tried["truncated" if truncated else "not truncated"] = {f"stage {t.stage}, level {t.level:g}": t.distance for t in trials}
    found: dict[str, Any] = {"levels": {str(k): v for k, v in chosen.items()}, "tuning": tried}
    side = noisy.stages[-1].facts.size
    first = noisy.stages[0].sample(**wish, **settings(noisy, args, base)[1])
    found["first stage, enlarged"] = distance(compared.moments(enlarge(first, side)), real)
    found["without augmentation"] = distance(compared.moments(plain.sample(**wish, stages=settings(plain, args, base))), real)
    for name, levels, truncated in (
        ("with, level 0", None, False),
        ("with, tuned level", chosen[False], False),
        ("with, tuned level, truncated", chosen[True], True),
    ):
        made = noisy.sample(**wish, stages=settings(noisy, args, base, levels, truncated))
        found[name] = distance(compared.moments(made), real)
    return found


def fixed(model: Cascade, args: argparse.Namespace, base: str) -> Cascade:
    """The cascade, sampled that way unless a job says otherwise."""
    for part, own in zip(model.stages, settings(model, args, base).values(), strict=True):
        part.spec = with_settings(part.spec, own)
    return model


def true_low_res(
    model: Model, args: argparse.Namespace, source: Source, compared: Compared, real: Moments, levels: Sequence[float]
) -> dict:
    """The distance at each level where a stage enlarges reduced test images rather than made ones."""
    wanted = [k for c in range(len(model.classes)) for k in np.flatnonzero(np.array(source.labels) == c)[: args.num // len(model.classes)]]
    low = torch.stack(list((model.reduced(source.batch(wanted).images, range(len(wanted))) or {}).values()))
    wish = {"classes": evenly(model.classes, len(wanted)), "seed": REPORT + args.seed, "sampler": args.sampler, "steps": args.steps}
    return {
        f"{level:g}": distance(compared.moments(model.sample(low_res=low, level=level, batch_size=100, **wish)), real) for level in levels
    }


def accuracy(images: Tensor, classes: Sequence[str], real: Source, args: argparse.Namespace, name: str) -> dict[str, float]:
    """The CAS of images that stand class by class."""
    file = args.work / f"{name}.npz"
    pixels = ((rounded(images) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(file, arr_0=pixels, arr_1=np.repeat(classes, len(images) // len(classes)))
    score = accuracy_score(open_source(DataConfig(path=str(file))), real, images=args.cas_images, seed=args.seed)
    return {"accuracy": score.accuracy, "standard error": score.spread}


def main() -> None:
    args = arguments()
    args.sides, args.base, args.levels = tuple(args.sides), tuple(args.base), tuple(args.levels)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    extractor, right = features(args.data, args.work, args.feature_images)
    print(f"the network of the features reads {right:.1%} of the images that it was not trained on right", flush=True)
    compared = Compared(extractor)
    data = {side: Data(side, args) for side in args.sides}
    first, last = args.sides[0], args.sides[-1]
    base = stage(first, args, data[first].train)
    later = {kind: [stage(side, args, data[side].train, noisy=kind == "noisy") for side in args.sides[1:]] for kind in ("noisy", "plain")}
    test = data[last].test
    images = torch.cat([test.batch(range(k, min(k + 500, len(test)))).images for k in range(0, len(test), 500)])
    real = compared.moments(images)
    halves = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))].chunk(2)
    run: dict[str, Any] = {"floor": distance(*(compared.moments(half) for half in halves)), "features_accuracy": right}
    run["true low-res, without augmentation"] = true_low_res(later["plain"][-1], args, test, compared, real, (0.0,))
    run["true low-res, with"] = true_low_res(later["noisy"][-1], args, test, compared, real, args.levels)
    stages = {kind: Cascade([base, *parts]) for kind, parts in later.items()}
    run["base"] = {}
    for way in args.base:
        run["base"][way] = compare(args, stages, way, data[last].held, compared, real)
        print(json.dumps({way: run["base"][way]}, indent=2), flush=True)
    setting = {name: value for name, value in vars(args).items() if name not in ("data", "test", "work", "out", "seed")}
    setting = json.loads(json.dumps(setting))
    held = json.loads(args.out.read_text()) if args.out.exists() else {}
    if held.get("setting") != setting:
        held = {"setting": setting, "seeds": {}}
    held["seeds"][str(args.seed)] = run
    args.out.write_text(json.dumps(held, indent=2) + "\n")
    show(held)


def cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def show(held: Mapping[str, Any]) -> None:
    """The distances as tables: mean over seeds, and their standard deviation where there are several."""
    runs = list(held["seeds"].values())
    ways = held["setting"]["base"]
    print(f"\n{held['setting']['num']} images a system, {len(runs)} seed(s); Frechet distance\n")
    print(f"| first stage | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
    for name, figure in runs[0]["base"][ways[0]].items():
        if isinstance(figure, float):
            print(f"| {name} | {' | '.join(cell([run['base'][way][name] for run in runs]) for way in ways)} |")
    for name in ("true low-res, without augmentation", "true low-res, with"):
        print(f"\n{name}: " + ", ".join(f"{level}: {cell([run[name][level] for run in runs])}" for level in runs[0][name]))


if __name__ == "__main__":
    main()
