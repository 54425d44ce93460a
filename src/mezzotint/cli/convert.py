"""``mezzotint convert``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError

_TARGETS = {"guided-diffusion": "guided_diffusion", "diffusers": "diffusers", "dit": "dit", "u-vit": "u_vit"}


@dataclass(frozen=True)
class Arguments:
    """Turns official weights into a model folder, or a model into a file that official code loads.

    What a file is, is read off its tensors. What they do not tell is asked for by name.
    """

    source: tyro.conf.Positional[str]
    """Official file (.pt, .pth, .safetensors, .pkl), diffusers' folder, name of `mezzotint models`, or a model or run."""
    out: Path
    """Folder to be made; a file for --to guided-diffusion, dit and u-vit."""
    to: Literal["mezzotint", "guided-diffusion", "diffusers", "dit", "u-vit"] = "mezzotint"
    """Whose format to write."""
    settings: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="NAME=VALUE")] = field(default=())
    """A fact that an official file does not tell, as in heads=4. May be repeated."""
    dtype: Literal["as-is", "fp32", "bf16", "fp16"] = "as-is"
    """Type of the weights."""
    ema: str = "on"
    """Moving average of a model's weights: its decay, on (the first one) or off (the weights as trained)."""


def run(command: str, words: list[str]) -> int:
    """Converts weights.

    Args:
        command: "convert".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake, or a file that cannot be read.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if given.out.exists():
        raise ConfigError(f"{given.out} already exists; give another --out, or remove it")

    from mezzotint.checkpoint.answers import parse_settings
    from mezzotint.checkpoint.convert import write_official
    from mezzotint.checkpoint.loading import load
    from mezzotint.cli.sample import parse_ema
    from mezzotint.cli.train import summary
    from mezzotint.pipelines.generate import Model
    from mezzotint.weights.io import WeightSet, save_model

    dtype = None if given.dtype == "as-is" else given.dtype
    model = load(given.source, ema=parse_ema(given.ema), device="cpu", dtype=dtype, settings=parse_settings(given.settings))
    network = model.stage.denoiser.network if isinstance(model, Model) else model.classifier.network
    state = network.state_dict()
    held = model.spec.weights[model.weights or ""]
    print(f"{model.path}: {sum(value.numel() for value in state.values()):,} numbers in {len(state)} tensors")
    for name, text in model.spec.provenance.items():
        print(f"  {name}: {text}")
    if given.to == "mezzotint":
        print(summary(model.spec.recipe))
        save_model(
            given.out,
            replace(model.spec, weights={}),
            [WeightSet(state, ema=held["ema"], images=held["images"], profile=held.get("profile", "constant"))],
        )
        print(f"model: {given.out}")
        return 0
    for line in write_official(given.out, state, model.spec, _TARGETS[given.to]):
        print(line)
    size = sum(f.stat().st_size for f in given.out.rglob("*")) if given.out.is_dir() else given.out.stat().st_size
    print(f"{given.to}: {given.out}, {size / 1e6:.1f} MB")
    return 0
