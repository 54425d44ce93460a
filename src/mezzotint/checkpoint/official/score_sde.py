"""DDPM++ and NCSN++ of yang-song/score_sde_pytorch: their networks are our ``SongUNetConfig``.

The official code keeps its layers in one list, so that their names are numbers. The key map follows the published description of that list;
no published checkpoint has been loaded with it yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.checkpoint.official.base import OfficialModel, Shapes, check_names, count
from mezzotint.configs import DenoiserConfig, SongUNetConfig, TimesConfig, VEConfig, VPConfig
from mezzotint.errors import CheckpointError

NAME = "score_sde"

_RESIDUAL = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "embed": "Dense_0", "norm2": "GroupNorm_1", "conv2": "Conv_1"}
_PREFIXES = ("module.", "all_modules.")


def _layers(config: SongUNetConfig) -> Iterator[tuple[str, str]]:
    """Yields (our layer, official layer) in the official order."""
    place = -1

    def new() -> int:
        nonlocal place
        place += 1
        return place

    def residual(ours: str, changes: bool) -> Iterator[tuple[str, str]]:
        official = new()
        for a, b in _RESIDUAL.items():
            yield f"{ours}.{a}", f"{official}.{b}"
        if changes:
            yield f"{ours}.skip", f"{official}.Conv_2"

    def attention(ours: str) -> Iterator[tuple[str, str]]:
        official = new()
        yield f"{ours}.norm", f"{official}.GroupNorm_0"
        yield f"{ours}.qkv", f"{official}.NIN_0"
        yield f"{ours}.out", f"{official}.NIN_3"

    def head(ours: str) -> Iterator[tuple[str, str]]:
        yield f"{ours}.norm", f"{new()}"
        yield f"{ours}.conv", f"{new()}"

    widths = [mult * config.width for mult in config.mults]
    steps = len(widths) - 1
    if config.embedding == "fourier":
        new()
    yield "time_embed.hidden", f"{new()}"
    yield "time_embed.out", f"{new()}"
    yield "stem", f"{new()}"
    channels, skips = config.width, [config.width]
    for i, width in enumerate(widths):
        for j in range(config.blocks):
            yield from residual(f"down.{i}.blocks.{j}.residual", channels != width)
            if 2**i in config.attention:
                yield from attention(f"down.{i}.blocks.{j}.attention")
            channels = width
            skips.append(width)
        if i < steps:
            yield from residual(f"down.{i}.resample", True)
            skips.append(width)
            if config.encoder == "skip":
                new()
                yield f"sides.{i}.conv", f"{new()}.Conv"
            if config.encoder == "residual":
                yield f"sides.{i}.conv", f"{new()}.Conv2d_0"
    yield from residual("middle.before", False)
    yield from attention("middle.attention")
    yield from residual("middle.after", False)
    for i, width in reversed(list(enumerate(widths))):
        for j in range(config.blocks + 1):
            yield from residual(f"up.{i}.blocks.{j}.residual", channels + skips.pop() != width)
            channels = width
        if 2**i in config.attention:
            yield from attention(f"up.{i}.blocks.{config.blocks}.attention")
        if config.decoder == "skip":
            if i < steps:
                new()
            yield from head(f"heads.{i}")
        if i:
            yield from residual(f"up.{i}.resample", True)
    if config.decoder == "plain":
        yield from head("heads.0")


def official_keys(config: SongUNetConfig) -> dict[str, tuple[str, ...]]:
    """The names of every tensor: ours -> official; q, k and v are one tensor here and three there."""
    keys: dict[str, tuple[str, ...]] = {}
    for ours, official in _layers(config):
        for member in ("weight", "bias"):
            layer, name = official, member
            if "NIN_" in official:
                name = {"weight": "W", "bias": "b"}[member]
            names = [f"{layer.replace('NIN_0', f'NIN_{n}')}.{name}" for n in (range(3) if layer.endswith("NIN_0") else range(1))]
            keys[f"{ours}.{member}"] = tuple(f"all_modules.{name}" for name in names)
    if config.embedding == "fourier":
        keys["time_embed.fourier.frequencies"] = ("all_modules.0.W",)
    return keys


def state_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights of a training checkpoint, under the official names.

    Args:
        checkpoint: The dictionary of a ``.pth``: "model", and "ema" with the averages in the order of the trained parameters.

    Raises:
        CheckpointError: It is no such dictionary.
    """
    model, ema = checkpoint.get("model"), checkpoint.get("ema")
    if not isinstance(model, Mapping) or not isinstance(ema, Mapping):
        raise CheckpointError("a checkpoint of score_sde has 'model' and 'ema', this file lacks one; give the .pth as it was published")
    state = {name.removeprefix("module."): value for name, value in model.items()}
    # Buffers and the frequencies of Fourier waves are not trained, hence not averaged.
    trained = [name for name in state if name.startswith("all_modules.") and name != "all_modules.0.W"]
    averages = list(ema.get("shadow_params", ()))
    if [state[name].shape for name in trained] != [value.shape for value in averages]:
        raise CheckpointError(
            f"the checkpoint has {len(averages)} averages for {len(trained)} parameters; give the .pth as it was published"
        )
    return {**state, **dict(zip(trained, averages, strict=True))}


def _inner(state: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: name.removeprefix("module.") for name in state}
    return {new: state[old] for old, new in names.items() if new != "sigmas"}


def to_ours(state: Mapping[str, Tensor], config: SongUNetConfig) -> dict[str, Tensor]:
    """Renames an official state dict and brings its weights to our layout.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    state, keys = _inner(state), official_keys(config)
    check_names(state, [name for names in keys.values() for name in names], "a score_sde checkpoint")
    out = {}
    for ours, official in keys.items():
        values = [state[name].t() if "NIN_" in name and name.endswith(".W") else state[name] for name in official]
        out[ours] = values[0] if len(values) == 1 else torch.cat(values)
    return out


def to_official(state: Mapping[str, Tensor], config: SongUNetConfig) -> dict[str, Tensor]:
    """The inverse of ``to_ours``.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    keys = official_keys(config)
    check_names(state, keys, "a state dict")
    out = {}
    for ours, names in keys.items():
        for name, part in zip(names, state[ours].chunk(len(names)), strict=True):
            out[name] = part.t() if "NIN_" in name and name.endswith(".W") else part
    return out


def recognise(shapes: Shapes, filename: str = "") -> OfficialModel | None:
    """Reads the architecture off a state dict.

    Args:
        shapes: Name -> shape.
        filename: Path; a folder "ve" or "vp" in it tells the process, as in the published folders.

    Returns:
        The model, or None where it is of another family.

    Source: Song et al. 2021, appendix H.
    """
    inner = _inner(shapes)
    total = count(inner, "all_modules.")
    fourier = "all_modules.0.W" in inner
    first = 3 if fourier else 2
    hidden, stem = inner.get(f"all_modules.{first - 2}.weight", ()), inner.get(f"all_modules.{first}.weight", ())
    if total < 8 or len(hidden) != 2 or len(stem) != 4:
        return None
    width = stem[0]
    has = {name.removeprefix("all_modules.").rpartition(".")[0] for name in inner}

    # Walks the list as the network was built: residual blocks, attention, then what leads to the next level.
    mults: list[int] = []
    attention: list[int] = []
    blocks, encoder, place, here = 0, "plain", first + 1, 0
    while f"{place}.Conv_0" in has:
        out = inner[f"all_modules.{place}.Conv_0.weight"][0]
        shortcut, attends = f"{place}.Conv_2" in has, f"{place + 1}.NIN_0" in has
        cin = inner[f"all_modules.{place}.Conv_0.weight"][1]
        if shortcut and cin == out:  # a residual block that shrinks the map ends the level
            mults.append(out // width)
            blocks, here, place = here, 0, place + 1
            if f"{place}.Conv2d_0" in has:
                encoder, place = "residual", place + 1
            elif f"{place + 1}.Conv" in has:
                encoder, place = "skip", place + 2
            continue
        if attends and here == blocks and mults:  # the first block of the middle, after as many as in other levels
            break
        if attends and 2 ** len(mults) not in attention:
            attention.append(2 ** len(mults))
        here, place = here + 1, place + 1 + attends
    mults.append(inner.get(f"all_modules.{place}.Conv_0.weight", (0,))[0] // width)
    config = SongUNetConfig(
        in_channels=stem[1],
        out_channels=stem[1],
        width=width,
        mults=tuple(mults),
        blocks=blocks,
        attention=tuple(attention),
        embedding="fourier" if fourier else "sinusoidal",
        noise_mult=hidden[1] // width,
        embed_mult=hidden[0] // width,
        encoder=encoder,  # pyright: ignore[reportArgumentType]
        filter=(1, 3, 3, 1) if fourier else (1, 1),
    )
    if not blocks or not all(mults):
        return None
    for candidate in (config, SongUNetConfig(**{**vars(config), "decoder": "skip"})):
        wanted = {name for names in official_keys(candidate).values() for name in names}
        if wanted == inner.keys():
            return _model(candidate, filename)
    return None


def _model(config: SongUNetConfig, filename: str) -> OfficialModel:
    folders = Path(filename.lower()).parts
    ve = config.embedding == "fourier" if {"ve", "vp"}.isdisjoint(folders) else "ve" in folders
    assumed = ("sde",) if config.embedding == "fourier" and {"ve", "vp"}.isdisjoint(folders) else ()
    process: dict[str, Any] = (
        {  # the official images of VE are in [0, 1], so that its sigmas are half of ours
            "schedule": VEConfig(0.02, 100.0),
            "denoiser": DenoiserConfig(predicts="scaled_score", time_input="log_half_sigma"),
            "times": TimesConfig("loguniform"),
            "assumed": (*assumed, "sigma_max"),
        }
        if ve
        else {
            "schedule": VPConfig(t_min=1e-5),
            "denoiser": DenoiserConfig(predicts="eps", time_input="t_999"),
            "assumed": assumed,
        }
    )
    # Attention is at 16x16 whatever the size of the images.
    size = 16 * config.attention[0] if len(config.attention) == 1 else 0
    return OfficialModel(net=config, size=size, clip=False, **process)
