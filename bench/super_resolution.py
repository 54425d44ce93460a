"""Super-resolution, 16x16 to 64x64, of photographs: ``python bench/super_resolution.py --data BSDS.zip --features CIFAR.zip --work DIR``.

Trains SR3 and its regression baseline on cuts of the part ``train``, and the network of the features on other, labelled images; enlarges
cuts of the part ``test``; and prints how SR3, regression and bicubic interpolation compare. Each run adds a seed to the results.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features import Features, features
from mezzotint.checkpoint import load
from mezzotint.configs import DataConfig, Recipe
from mezzotint.data import open_source
from mezzotint.data.source import Source
from mezzotint.metrics.fidelity import consistency, psnr, ssim
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.pipelines.upscale import Upscaler
from mezzotint.registry import get
from mezzotint.resolution import enlarge, reduce
from mezzotint.tasks.demo import train
from mezzotint.tasks.distinguish import distinguish

SCALE, SIDE = 4, 64
NOT_COMPARED = ("data", "features", "work", "out", "seed", "sweep", "sweep_cuts")
"""Arguments in which the runs of one table may differ."""
FIGURES = ("psnr", "ssim", "consistency", "frechet", "accuracy")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="images of at least 64x64 with the parts train and test")
    parser.add_argument("--features", required=True, help="labelled 32x32 images, whose classifier gives the features")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models")
    parser.add_argument("--seed", type=int, default=0, help="seed of training, sampling and telling apart")
    parser.add_argument("--crop", type=int, default=32, help="side of the cuts that are trained on; the networks are convolutional")
    parser.add_argument("--images", type=int, default=120_000, help="training images of each of the two models")
    parser.add_argument("--feature-images", type=int, default=60_000, help="training images of the classifier")
    parser.add_argument("--tell-images", type=int, default=8_000, help="training images of each judge that tells real from made")
    parser.add_argument("--width", type=int, default=16, help="width of the two networks, a multiple of 8")
    parser.add_argument("--steps", type=int, default=8, help="sampling steps of SR3")
    parser.add_argument("--sampler", default="unipc", help="sampler of SR3")
    parser.add_argument("--sweep", nargs="*", default=(), help="other samplers and steps, as in ddim@4, measured on some of the cuts")
    parser.add_argument("--sweep-cuts", type=int, default=400, help="cuts that those are measured on")
    parser.add_argument("--cuts", type=int, default=5_000, help="64x64 cuts of the part test")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("super_resolution.json"), help="where the figures go")
    return parser.parse_args()


def cuts_of(source: Source, side: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts on a regular grid, overlapping as much as their number demands: pixels ``[n, side, side, 3]`` and the image of each ``[n]``."""
    rows = math.ceil(math.sqrt(num / len(source)))
    out, owner = [], []
    for k in range(len(source)):
        image = source.array(k)
        free = image.shape[0] - side
        places = [round(i * free / max(1, rows - 1)) for i in range(rows)]
        out += [image[y : y + side, x : x + side] for y in places for x in places]
        owner += [k] * rows**2
    return np.stack(out)[:num], np.array(owner)[:num]


def recipe(name: str, args: argparse.Namespace) -> Recipe:
    base: Recipe = get("recipe", name)()
    # eps, which SR3 predicts, says little of x0 where there is much noise, and needs far longer training until few steps are enough.
    denoiser = replace(base.denoiser, predicts="v") if name == "sr3-small" else base.denoiser
    return replace(
        base,
        net=replace(base.net, width=args.width, mults=(1, 2, 2), attention=()),
        denoiser=denoiser,
        data=replace(base.data, flip=True),
        train=replace(base.train, images=args.images, batch=16),
        optim=replace(base.optim, warmup=1_000, decay="linear"),
    )


def model(name: str, args: argparse.Namespace, source: Source) -> Any:
    """The trained model of a recipe, from the folder or made now."""
    folder = args.work / f"{name}-{args.images}-{args.width}-{args.seed}"
    if not folder.exists():
        begun = time.process_time()
        train(recipe(name, args), source, folder, seed=args.seed)
        print(f"{name}: {args.images} images in {time.process_time() - begun:.0f} CPU seconds", flush=True)
    return load(folder, device="cpu")


def rounded(images: Tensor) -> Tensor:
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def upscaled(loaded: Any, low: Tensor, args: argparse.Namespace, **settings: Any) -> Tensor:
    upscaler = Upscaler(loaded, tile=SIDE, overlap=0, batch_size=32, seed=args.seed, **settings)
    parts = [upscaler(part, range(32 * k, 32 * k + len(part))) for k, part in enumerate(low.split(32))]
    return rounded(torch.cat(parts))


def measured(made: Tensor, real: Tensor, low: Tensor, owner: np.ndarray, extractor: Features, args: Any, *, tell: bool) -> dict:
    """The figures of one system."""
    found = {"psnr": float(psnr(made, real).mean()), "ssim": float(torch.cat([ssim(*p) for p in _parts(made, real)]).mean())}
    found["consistency"] = 1e5 * float(consistency(made, low, SCALE).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found["frechet"] = frechet_distance(_moments(extractor, made), _moments(extractor, real))
    if tell:
        told = distinguish(real, made, seed=args.seed, images=args.tell_images, width=16, groups=owner.tolist())
        found["accuracy"] = told.accuracy
    return found


def _parts(*tensors: Tensor, size: int = 256) -> list[tuple[Tensor, ...]]:
    return list(zip(*(t.split(size) for t in tensors), strict=True))


def _moments(extractor: Features, images: Tensor) -> Moments:
    moments = Moments()
    for (part,) in _parts(images):
        moments.add(extractor(part))
    return moments


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    npz = args.work / f"cuts-{args.crop}.npz"
    if not npz.exists():
        pixels, _ = cuts_of(open_source(DataConfig(path=args.data, split="train", labels=False)), args.crop, 300 * 64)
        np.savez(npz, arr_0=pixels)
    extractor, right = features(args.features, args.work, args.feature_images)
    print(f"the network of the features reads {right:.1%} of its test images right", flush=True)
    pixels, owner = cuts_of(open_source(DataConfig(path=args.data, split="test", labels=False)), SIDE, args.cuts)
    real = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    low = rounded(reduce(real, SCALE))
    source = open_source(DataConfig(path=str(npz)))
    systems: dict[str, dict] = {}

    def add(name: str, made: Tensor, rows: Tensor | None = None) -> None:
        """Measures images of all cuts, or of those numbered, which are too few to tell apart."""
        of = (real, low, owner) if rows is None else (real[rows], low[rows], owner[rows.numpy()])
        systems[name] = measured(made, *of, extractor, args, tell=rows is None)
        print(f"  {name:<58}" + "  ".join(f"{figure} {value:.4g}" for figure, value in systems[name].items()), flush=True)

    halves = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))].chunk(2)
    floor = frechet_distance(*(_moments(extractor, half) for half in halves))
    print(f"Frechet distance of two halves of the real cuts: {floor:.4g}", flush=True)
    add("bicubic", rounded(enlarge(low, (SIDE, SIDE))))
    regressed = upscaled(model("sr3-regression-small", args, source), low, args)
    add("regression", regressed)
    sr3 = model("sr3-small", args, source)
    begun = time.process_time()
    add(f"SR3, {args.sampler}, {args.steps} steps", upscaled(sr3, low, args, steps=args.steps, sampler=args.sampler))
    print(f"  SR3: {time.process_time() - begun:.0f} CPU seconds for {len(low)} cuts", flush=True)
    if args.sweep:
        some = torch.linspace(0, len(low) - 1, args.sweep_cuts).long()
        add(f"regression, {len(some)} cuts", regressed[some], some)
        for sampler, _, steps in (text.partition("@") for text in args.sweep):
            made = upscaled(sr3, low[some], args, steps=int(steps), sampler=sampler)
            add(f"SR3, {sampler}, {steps} steps, {len(some)} cuts", made, some)
    setting = {name: value for name, value in vars(args).items() if name not in NOT_COMPARED}
    held = json.loads(args.out.read_text()) if args.out.exists() else {}
    if held.get("setting") != setting:
        held = {"setting": setting, "floor": floor, "features_accuracy": right, "seeds": {}}
    held["seeds"][str(args.seed)] = systems
    args.out.write_text(json.dumps(held, indent=2) + "\n")
    show(held)


def show(held: dict[str, Any]) -> None:
    """The figures as a table: mean over seeds, and their standard deviation where there are several."""
    runs = list(held["seeds"].values())
    print(f"\n{held['setting']['cuts']} cuts of 64x64, {len(runs)} seed(s)\n\n| system | {' | '.join(FIGURES)} |")
    print("|---|" + "---|" * len(FIGURES))
    for name in dict.fromkeys(name for run in runs for name in run):
        cells = []
        for figure in FIGURES:
            values = [run[name][figure] for run in runs if figure in run.get(name, {})]
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4g}{spread}" if values else "")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
