"""``mezzotint plan``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from mezzotint import registry
from mezzotint.cli.train import FIT_HELP, settings
from mezzotint.configs import DataFacts, Recipe
from mezzotint.errors import ConfigError, unknown

CLASSES = 1000
"""Classes that are assumed where a recipe needs labels and no data is given."""


def run(command: str, words: list[str]) -> int:
    """Prints what training by a recipe will need.

    Args:
        command: "plan".
        words: The recipe's name, then its settings as for ``mezzotint train``, and --steps.

    Raises:
        MezzotintError: A user's mistake.
    """
    names = registry.names("recipe")
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: mezzotint plan RECIPE [--data PATH | --data.size H W] [--steps N] [--fit auto] [--train.batch N] ...\n\n"
            "Parameters, FLOPs and peak memory of a training run; images/s and time by a few steps (--steps 0: not measured).\n"
            f"Recipes: {', '.join(names)}"
        )
        if not words:
            raise ConfigError("plan needs a recipe, as in `mezzotint plan small --data digits`")
        return 0
    if words[0] not in names:
        raise unknown("recipe", words[0], names)
    own: list[Any] = [
        ("steps", Annotated[int, tyro.conf.arg(help="Training steps that are timed; 0: none.")], 3),
        ("fit", Annotated[Literal["no", "auto"], tyro.conf.arg(help=FIT_HELP)], "no"),
    ]
    recipe, given = settings(registry.get("recipe", words[0])(), words[1:], own, prog=f"mezzotint {command} {words[0]}")
    if given.steps < 0:
        raise ConfigError(f"--steps {given.steps}; give 0 or more")
    facts = _facts(recipe)

    from mezzotint.checkpoint.loading import default_device
    from mezzotint.pipelines.build import resolve
    from mezzotint.tasks.plan import fit, free_memory, measure, needs

    recipe = resolve(recipe, facts)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, size=facts.size))
    device = default_device()
    free = free_memory(device)
    if given.fit == "auto":
        recipe = fit(recipe, free=free)
    what = needs(recipe)
    micro = recipe.train.micro_batch or recipe.train.batch
    recomputed = ", activations recomputed" if getattr(recipe.net, "checkpointing", False) else ""
    rows = {
        "images": f"{facts.size[0]}x{facts.size[1]}x{facts.channels}" + (f", {len(facts.classes)} classes" if facts.classes else ""),
        "parameters": f"{what.parameters:,}",
        "FLOPs": f"{what.flops / 1e9:,.2f} G an image and training step",
        "budget": f"{recipe.train.images:,} images, {what.flops * recipe.train.images:.3g} FLOPs",
        "batch": f"{recipe.train.batch} in parts of {micro}, {recipe.train.precision}{recomputed}",
        "memory": f"{what.memory(micro) / 2**30:.2f} GiB at the peak (predicted); {free / 2**30:.2f} GiB free on {device}",
    }
    if recipe.score:
        rows["published"] = recipe.score
    for name, text in rows.items():
        print(f"{name + ':':<12}{text}", flush=True)
    if given.steps:
        found = measure(recipe, device=device, steps=given.steps)
        print(
            f"{'measured:':<12}{found.images_per_second:.3g} images/s, {found.memory / 2**30:.2f} GiB at the peak, over {given.steps} steps"
        )
        print(f"{'time:':<12}{_duration(recipe.train.images / found.images_per_second)} for the budget, on one such device")
    return 0


def _facts(recipe: Recipe) -> DataFacts:
    """What the data is, or would be."""
    if recipe.data.path:
        from mezzotint.data import open_source

        return open_source(recipe.data).facts
    if recipe.data.size is None:
        raise ConfigError(f"recipe '{recipe.name}' takes the size of the images from the data; give --data PATH or --data.size H W")
    labelled = recipe.label is not None or recipe.task == "classify"
    count = (recipe.label.num_classes if recipe.label is not None else 0) or CLASSES
    return DataFacts(recipe.data.channels or 3, recipe.data.size, tuple(str(k) for k in range(count)) if labelled else ())


def _duration(seconds: float) -> str:
    for name, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} seconds"
