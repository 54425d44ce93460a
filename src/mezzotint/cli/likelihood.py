"""``mezzotint likelihood``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.cli.sample import parse_ema
from mezzotint.errors import ConfigError

if TYPE_CHECKING:
    from mezzotint.pipelines.generate import Model
    from mezzotint.tasks.likelihood import Likelihood
    from mezzotint.tasks.rate_distortion import Decoded, Point


@dataclass(frozen=True)
class Arguments:
    """Measures bits/dim of images under a model.

    By the variational bound of the reverse chain (vlb), or by the density of the probability-flow ODE (ode).
    """

    model: tyro.conf.Positional[Path]
    """Model folder, or the folder of a training run."""
    data: str
    """Images: a folder, a ZIP, an .npz or digits. They are brought to size and channels as those of the training were."""
    split: Literal["all", "train", "test"] = "all"
    """Part of the data, where it has parts."""
    num: int | None = None
    """Number of images, evenly spread over the data; without it all."""
    method: Literal["vlb", "ode"] = "vlb"
    steps: int | None = None
    """Steps; without it all levels of the model (vlb) or 50 (ode)."""
    grid: str | None = None
    """Spacing of the steps; without it uniform (vlb) or logsnr (ode)."""
    trace: Literal["exact", "hutchinson"] = "hutchinson"
    """Divergence of the ODE: one backward pass a dimension, or one for a vector of random signs."""
    solver: Literal["rk4", "heun", "dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"] = "rk4"
    """Integrator of the ODE: rk4 makes 4 calls a step, heun 2; the others (pip install mezzotint[solvers]) choose their own steps."""
    rtol: float = 1e-5
    """Relative tolerance of a solver that chooses its own steps."""
    atol: float = 1e-5
    """Absolute tolerance of a solver that chooses its own steps."""
    norm: Literal["image", "batch"] = "image"
    """Error norm of a solver that chooses its own steps: of each image, or of the whole batch, which is quicker."""
    variance: str | None = None
    """Reverse variance of the chain (vlb), as in fixed_large, or optimal after `mezzotint covariance`; without it that of the training."""
    official: bool = False
    """Use the approximate integral of the official ADM code in the decoder (vlb)."""
    seed: int = 0
    """Seed of noise, dequantisation and random signs."""
    batch_size: int = 64
    """Images in a pass. No effect on the figures beyond rounding."""
    ema: str = "on"
    """Moving average of the weights: its decay, on (the first one) or off (the weights as trained)."""
    json: Path | None = None
    """Also write all figures, image by image and step by step, to this file."""
    rate_distortion: Path | None = None
    """Write the curve of progressive coding to this file: a .json, or a .png with a plot."""
    progressive: Path | None = None
    """Write progressive decodings of eight images to this folder."""


def run(command: str, words: list[str]) -> int:
    """Measures, and prints what was measured.

    Args:
        command: "likelihood".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    curve = given.rate_distortion
    if curve is not None and curve.suffix not in (".json", ".png"):
        raise ConfigError(f"--rate-distortion {curve}: give a file that ends in .json or .png")
    if given.method == "ode" and (curve is not None or given.progressive is not None):
        raise ConfigError("progressive coding follows from the variational bound; leave out --method ode")
    if given.method == "ode" and (given.variance is not None or given.official):
        raise ConfigError("the ODE has no reverse variance and no decoder; leave out --variance and --official, or --method ode")
    if given.progressive is not None and given.progressive.exists() and any(given.progressive.iterdir()):
        raise ConfigError(f"{given.progressive} is not empty; give another folder for --progressive")
    for file in (given.json, curve):
        if file is not None and not file.parent.is_dir():
            raise ConfigError(f"{file.parent} does not exist; make it, or give another place for {file.name}")

    from tqdm import tqdm

    from mezzotint.checkpoint import load
    from mezzotint.data import open_source
    from mezzotint.pipelines.generate import Model
    from mezzotint.tasks.likelihood import likelihood
    from mezzotint.tasks.rate_distortion import progressive, rate_distortion
    from mezzotint.weights.io import write_text

    model = load(given.model, ema=parse_ema(given.ema))
    if not isinstance(model, Model):
        raise ConfigError(f"{given.model} is a classifier, which has no likelihood; give a model of `mezzotint train`")
    source = open_source(replace(model.spec.recipe.data, path=given.data, split=given.split, flip=False))
    with tqdm(
        total=len(source) if given.num is None else given.num,
        unit="image",
        mininterval=1 if sys.stderr.isatty() else 30,
        delay=0.5,
        leave=False,
    ) as bar:
        found = likelihood(
            model,
            source,
            num=given.num,
            method=given.method,
            steps=given.steps,
            grid=given.grid,
            trace=given.trace,
            solver=given.solver,
            rtol=given.rtol,
            atol=given.atol,
            norm=given.norm,
            variance=given.variance,
            official=given.official,
            seed=given.seed,
            batch_size=given.batch_size,
            on_batch=bar.update,
        )
    for line in report(found):
        print(line)
    if given.json is not None:
        write_text(given.json, json.dumps({"model": model.hash, **found.to_dict()}, indent=2) + "\n")
        print(f"all figures: {given.json}")
    if curve is not None:
        _write_curve(curve, rate_distortion(found))
        print(f"rate and distortion: {curve}")
    if given.progressive is not None:
        _write_strips(given.progressive, progressive(model, source, steps=given.steps, grid=given.grid, seed=given.seed), model)
        print(f"progressive decodings: {given.progressive}")
    return 0


def report(found: Likelihood) -> list[str]:
    """The figures in lines, with all that they depend on."""
    how = found.settings
    head = (
        f"{found.bits_per_dim:.4f} bits/dim ± {found.error:.4f} (standard error; {found.std:.4f} between images), {len(found.ids)} images"
    )
    if found.method == "ode":
        solver = how["solver"] + (f" (rtol {how['rtol']:g}, atol {how['atol']:g}, norm {how['norm']})" if "rtol" in how else "")
        calls = f"{how['calls']:g} network calls an image"
        return [
            head,
            f"density of the probability-flow ODE: {solver}, {calls}, trace {how['trace']}, seed {how['seed']}",
            f"pixels of {how['bits']} bits in [-1, 1], dequantised uniformly; an upper bound of the bits of the pixels themselves",
        ]
    return [
        head,
        f"  prior {found.prior:.6f}  steps {found.steps:.4f}  decoder {found.decoder:.4f}",
        f"variational bound: {how['steps_taken']} steps, variance {how['variance']}, {'clipped' if how['clip'] else 'unclipped'} x0, "
        f"seed {how['seed']}; {how['bits']}-bit pixels in [-1, 1]",
    ]


def _write_curve(file: Path, points: tuple[Point, ...]) -> None:
    from mezzotint.weights.io import write_text

    if file.suffix == ".json":
        write_text(file, json.dumps([asdict(point) for point in points], indent=2) + "\n")
        return
    from mezzotint.cli.chart import line_chart
    from mezzotint.cli.pictures import write_png

    line = {"estimate of the image": [(point.rate, point.rmse) for point in points]}
    write_png(file, line_chart(line, x="rate, bits/dim", y="distortion, RMSE on 0 to 255", points=False), {})


def _write_strips(folder: Path, decoded: Decoded, model: Model) -> None:
    from mezzotint.cli.pictures import grid, write_png

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k, estimates, image in zip(decoded.ids, decoded.estimates, decoded.images, strict=True):
        strip = [*model.pixels(estimates), model.pixels(image[None])[0]]
        write_png(folder / f"{k:06d}.png", grid(strip, columns=len(strip)), {"steps": ",".join(map(str, decoded.steps))})
        rows += strip
    write_png(folder / "grid.png", grid(rows, columns=len(decoded.steps) + 1), {"steps": ",".join(map(str, decoded.steps))})
