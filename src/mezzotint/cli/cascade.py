"""``mezzotint cascade``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.cli.sample import parse_ema
from mezzotint.errors import ConfigError

if TYPE_CHECKING:
    from mezzotint.pipelines.cascade import Cascade


@dataclass(frozen=True)
class Arguments:
    """Joins models into one: the first makes small images, each other enlarges what the one before it made.

    `mezzotint sample`, `info` and `mezzotint.load` take the folder like that of any model; it holds copies of the stages.
    `mezzotint upscale` enlarges pictures with the stages that enlarge; a cascade may be made of these alone.
    """

    stages: tyro.conf.Positional[tuple[Path, ...]]
    """Models in order, smallest images first: model folders, runs, official files or names of `mezzotint models`."""
    out: Path
    """Folder to be made."""
    stage: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="N.SETTING=VALUE")] = ()
    """How a stage is sampled, to be kept with it, as in 1.steps=50, 2.sampler=ddim, 2.level=0.3, 2.truncated=true or
    1.guidance=cfg,scale=1.5. May be repeated."""
    ema: str = "on"
    """Moving average of the weights: its decay, on (the first one) or off (the weights as trained)."""


def run(command: str, words: list[str]) -> int:
    """Joins stages.

    Args:
        command: "cascade".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if len(given.stages) < 2:
        raise ConfigError(f"a cascade of {len(given.stages)} models; give at least two, smallest images first")
    ema = parse_ema(given.ema)

    from mezzotint.checkpoint.joining import join
    from mezzotint.pipelines.cascade import parse_stages

    made = join(given.stages, given.out, settings=parse_stages(given.stage), ema=ema)
    for number, model in enumerate(made.stages, start=1):
        own = model.spec.recipe.sample
        steps = "" if own.steps is None else f", {own.steps} steps"
        level = f", level {own.level:g}{' truncated' if own.truncated else ''}" if own.level else ""
        height, width = model.facts.size
        print(f"stage {number}: {model.spec.recipe.name}, {height}x{width}, {own.sampler}, grid {own.grid}{steps}{level}")
    print(f"cascade of {len(made.stages)} stages: {given.out}; {_use(made, given.out)}")
    return 0


def _use(made: Cascade, out: Path) -> str:
    """What can be done with it."""
    from mezzotint.conditioning import LowRes

    parts = [model.stage.conditioner.part(LowRes) for model in made.stages]
    if parts[0] is None:
        return f"make images with `mezzotint sample {out} --out DIR`"
    times = math.prod(part.config.scale for part in parts if part is not None)
    return f"enlarge pictures {times} times with `mezzotint upscale PICTURES --model {out} --out DIR`"
