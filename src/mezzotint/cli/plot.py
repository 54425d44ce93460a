"""``mezzotint plot``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError
from mezzotint.train.history import RUN, History, read_history

LEVELS = ("cleanest quarter", "second quarter", "third quarter", "noisiest quarter")


@dataclass(frozen=True)
class Arguments:
    """Draws loss and distance of training runs against the images seen; for a single run also the loss by noise level with its band."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of training runs."""
    out: Path
    """PNG file to be written."""
    against: Literal["images", "flops"] = "images"
    """Images seen, or the floating-point operations of training, on logarithmic axes: to compare models of several sizes."""


def run(command: str, words: list[str]) -> int:
    """Draws the curves of some runs.

    Args:
        command: "plot".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if not given.runs:
        raise ConfigError("plot needs the folder of a run, as in `mezzotint plot runs/a runs/b --out curves.png`")
    if given.out.suffix.lower() != ".png":
        raise ConfigError(f"--out {given.out}: the chart is a PNG; give a name that ends in .png")
    runs = [read_history(folder) for folder in given.runs]
    if not any(each.losses() for each in runs):
        raise ConfigError(f"{', '.join(str(each.path) for each in runs)}: nothing is logged yet; wait for --train.log-every steps")
    draw(runs, given.out, flops=[_flops(each) for each in runs] if given.against == "flops" else None)
    print(f"curves of {', '.join(str(each.path) for each in runs)}: {given.out}")
    return 0


def _flops(each: History) -> float:
    """Operations of training, for each image."""
    from mezzotint.configs import DataFacts, Recipe, from_dict
    from mezzotint.tasks.plan import needs

    held = json.loads((each.path / RUN).read_text(encoding="utf-8"))
    recipe = from_dict(Recipe, {f.name: held[f.name] for f in fields(Recipe) if f.name in held})
    facts = from_dict(DataFacts, held["facts"])
    return float(needs(replace(recipe, data=replace(recipe.data, size=facts.size))).flops)


def _scaled(each: History, factor: float) -> History:
    """A run whose lines count operations where they counted images."""
    return replace(each, lines={e: [{**line, "images": line["images"] * factor} for line in held] for e, held in each.lines.items()})


def draw(runs: Sequence[History], out: Path, *, flops: Sequence[float] | None = None) -> list[str]:
    """Writes the chart.

    Args:
        runs: What is compared.
        out: The PNG file.
        flops: Operations an image of each run, to draw against operations on logarithmic axes; None: against images.

    Source: Nichol & Dhariwal 2021, figure 10 (loss against compute, over sizes of the model).

    Returns:
        Title of each panel.
    """
    from matplotlib.figure import Figure

    if flops:
        runs = [_scaled(each, factor) for each, factor in zip(runs, flops, strict=True)]
    panels = [_loss]
    panels += [_levels] if len(runs) == 1 and any(runs[0].bands(phase) for phase in runs[0].losses()) else []
    panels += [_distance] if any(each.distances() for each in runs) else []
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes, runs)
        axes.set_xlabel("floating-point operations" if flops else "images seen")
        if flops:
            axes.set(xscale="log", yscale="log")
            axes.autoscale()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return [axes.get_title() for axes in figure.axes]


def _named(each: History, what: str, runs: Sequence[History]) -> str:
    return what if len(runs) == 1 else f"{each.path.name}: {what}"


def _line(axes: Any, points: Sequence[tuple[float, float]], name: str, **style: Any) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), label=name, **style)


def _loss(axes: Any, runs: Sequence[History]) -> None:
    for each in runs:
        for phase, points in each.losses().items():
            _line(axes, points, _named(each, phase, runs), linewidth=1.2)
        for key, name in (("loss", "held-out images"), ("trained_loss", "the same on training images")):
            _line(axes, each.curve("held_out", key), _named(each, name, runs), marker="o", markersize=3, linestyle="--")
    axes.set_title("loss")


def _levels(axes: Any, runs: Sequence[History]) -> None:
    for phase in runs[0].losses():
        rows = runs[0].bands(phase)
        for level, name in enumerate(LEVELS):
            known = [(images, loss[level], low[level], high[level]) for images, loss, low, high in rows if loss[level] is not None]
            if known:
                images, loss, low, high = zip(*known, strict=True)
                (line,) = axes.plot(images, loss, label=f"{phase}, {name}", linewidth=1.2)
                axes.fill_between(images, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_title("loss by noise level, and the band in which it was")


def _distance(axes: Any, runs: Sequence[History]) -> None:
    for each in runs:
        for name, points in each.distances().items():
            _line(axes, points, _named(each, name, runs), marker="o", markersize=3)
    axes.set_ylim(bottom=0)
    axes.set_title("Frechet distance")
