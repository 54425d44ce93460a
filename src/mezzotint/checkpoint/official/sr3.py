"""Checkpoints of the common, unofficial implementation of SR3, and of the DDPM in the same repository; the authors published none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mezzotint.checkpoint.official.base import OfficialModel, Shapes, check_names
from mezzotint.configs import (
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    LowResConfig,
    SR3Config,
    TimesConfig,
)
from mezzotint.errors import ConfigError, unknown

NAME = "sr3"
PREFIX = "denoise_fn."
_ARGUMENTS: Mapping[str, Any] = {
    "in_channel": 6,
    "out_channel": 3,
    "inner_channel": 32,
    "norm_groups": 32,
    "channel_mults": (1, 2, 4, 8, 8),
    "attn_res": (8,),
    "res_blocks": 3,
    "dropout": 0,
    "with_noise_level_emb": True,
    "with_time_emb": False,
    "image_size": 128,
}
_FACES: Mapping[str, Any] = {"inner_channel": 64, "channel_mults": (1, 2, 4, 8, 8), "res_blocks": 2, "dropout": 0.2}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "I640000_E37_gen": {**_FACES, "attn_res": (16,), "image_size": 128},
    "I830000_E32_gen": {
        "inner_channel": 64,
        "norm_groups": 16,
        "channel_mults": (1, 2, 4, 8, 16),
        "attn_res": (),
        "res_blocks": 1,
        "image_size": 512,
    },
}
"""Name of a published file, without its ending -> the constructor's arguments."""
SCALE = 8
"""Factor of both published models."""


def network_from_arguments(arguments: Mapping[str, Any]) -> SR3Config:
    """Translates the arguments of the network's constructor.

    Raises:
        ConfigError: An unknown argument, or a network without a noise level.
    """
    full = {**_ARGUMENTS}
    for name, value in arguments.items():
        if name not in full:
            raise unknown("official argument", name, full)
        full[name] = value
    index = bool(full["with_time_emb"])
    if not index and not full["with_noise_level_emb"]:
        raise ConfigError("a network that is told no noise level has no counterpart here; give one with_noise_level_emb")
    channels, levels = full["out_channel"], len(full["channel_mults"])
    low = full["in_channel"] - channels
    resolutions = full["attn_res"] if isinstance(full["attn_res"], list | tuple) else (full["attn_res"],)
    return SR3Config(
        in_channels=channels,
        out_channels=channels,
        low_res_channels=low,
        width=full["inner_channel"],
        mults=tuple(full["channel_mults"]),
        blocks=full["res_blocks"],
        attention=tuple(2**i for i in range(levels) if full["image_size"] // 2**i in resolutions),
        groups=full["norm_groups"],
        waves="index" if index else "level",
        dropout=full["dropout"],
    )


def _model(net: SR3Config, size: int, **more: Any) -> OfficialModel:
    schedule = DiscreteConfig(betas="linear", steps=2000, first=1e-6, last=1e-2)
    level = net.waves == "level"
    return OfficialModel(
        net=net,
        schedule=schedule,
        # The files were made with the small variance, and told sqrt(alpha_bar).
        denoiser=DenoiserConfig(variance="fixed_small", time_input="alpha" if level else "index"),
        objective=DenoisingConfig(loss="l1"),
        times=TimesConfig(law="noise_level", official=True) if level else TimesConfig(),
        low_res=LowResConfig(scale=SCALE) if net.low_res_channels else None,
        size=size,
        **more,
    )


def published(name: str) -> OfficialModel:
    """A published model by the name of its file, without the ending.

    Raises:
        ConfigError: There is no such model.
    """
    if name not in PUBLISHED:
        raise unknown("published model", name, PUBLISHED)
    return _model(network_from_arguments(PUBLISHED[name]), PUBLISHED[name]["image_size"], published=name)


def recognise(shapes: Shapes, filename: str = "") -> OfficialModel | None:
    """Reads the architecture off a state dict, of the network or of the diffusion object around it.

    Args:
        shapes: Name -> shape.
        filename: Not used; it makes the call that of other families.

    Returns:
        The model, or None where it is of another family. Groups, size, factor and noise levels show in no shape: for others than the
        published models they are assumed.
    """
    found = {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}
    index = "time_mlp.1.weight" in found
    if "downs.0.weight" not in found or "final_conv.block.3.weight" not in found or not (index or "noise_level_mlp.1.weight" in found):
        return None
    width, in_channels = found["downs.0.weight"][:2]
    channels = found["final_conv.block.3.weight"][0]
    if in_channels not in (channels, 2 * channels):
        return None
    total = 1 + max(int(name.split(".")[1]) for name in found if name.startswith("downs."))
    levels: list[list[int]] = [[]]
    for i in range(1, total):
        if f"downs.{i}.conv.weight" in found:
            levels.append([])
        else:
            levels[-1].append(i)
    widths = [found[f"downs.{level[-1]}.res_block.block1.block.3.weight"][0] for level in levels]
    net = SR3Config(
        in_channels=channels,
        out_channels=channels,
        low_res_channels=in_channels - channels,
        width=width,
        mults=tuple(w // width if w % width == 0 else w / width for w in widths),
        blocks=len(levels[0]),
        attention=tuple(2**k for k, level in enumerate(levels) if f"downs.{level[0]}.attn.qkv.weight" in found),
        waves="index" if index else "level",
    )
    for name in PUBLISHED:
        model = published(name)
        assert isinstance(model.net, SR3Config)
        if replace(model.net, groups=net.groups, dropout=net.dropout) == net:
            return model
    scale = ("low_res.scale",) if net.low_res_channels else ()
    return _model(net, 0, assumed=("groups", "size", "schedule", *scale))


_ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "out"}


def _residual(ours: str, official: str, *, index: bool, skip: bool) -> Iterable[tuple[str, str]]:
    inner = {"norm1": "block1.block.0", "conv1": "block1.block.3", "norm2": "block2.block.0", "conv2": "block2.block.3"}
    yield f"{ours}.embed", f"{official}.res_block." + ("mlp.1" if index else "noise_func.noise_func.0")
    for a, b in inner.items():
        yield f"{ours}.{a}", f"{official}.res_block.{b}"
    if skip:
        yield f"{ours}.skip", f"{official}.res_block.res_conv"


def _layers(config: SR3Config) -> Iterable[tuple[str, str]]:
    """Yields (our layer, official layer)."""
    index = config.waves == "index"
    widths = [int(mult * config.width) for mult in config.mults]

    def block(ours: str, official: str, skip: bool, attention: bool) -> Iterable[tuple[str, str]]:
        yield from _residual(f"{ours}.residual", official, index=index, skip=skip)
        for a, b in _ATTENTION.items() if attention else ():
            yield f"{ours}.attention.{a}", f"{official}.attn.{b}"

    mlp = "time_mlp" if index else "noise_level_mlp"
    yield "time_embed.hidden", f"{mlp}.1"
    yield "time_embed.out", f"{mlp}.3"
    yield "stem", "downs.0"
    place, channels = 1, config.width
    for i, width in enumerate(widths):
        for j in range(config.blocks):
            yield from block(f"down.{i}.blocks.{j}", f"downs.{place}", channels != width, 2**i in config.attention)
            place, channels = place + 1, width
        if i < len(widths) - 1:
            yield f"down.{i}.resample.conv", f"downs.{place}.conv"
            place += 1
    yield from _residual("middle.before", "mid.0", index=index, skip=False)
    for a, b in _ATTENTION.items():
        yield f"middle.attention.{a}", f"mid.0.attn.{b}"
    yield from _residual("middle.after", "mid.1", index=index, skip=False)
    place = 0
    for i in reversed(range(len(widths))):
        for j in range(config.blocks + 1):
            yield from block(f"up.{i}.blocks.{j}", f"ups.{place}", True, 2**i in config.attention)
            place += 1
        if i:
            yield f"up.{i}.resample.conv", f"ups.{place}.conv"
            place += 1
    yield "head.norm", "final_conv.block.0"
    yield "head.conv", "final_conv.block.3"


def official_keys(config: SR3Config) -> dict[str, str]:
    """The name of every parameter: ours -> official, one to one.

    Raises:
        ConfigError: Settings that the repository's network has not.
    """
    if config.num_classes is not None or config.low_res_level or config.rescale or config.resample != "conv":
        raise ConfigError("the common code of SR3 has no labels, levels of the low-resolution image, rescaled sums or resampling blocks")
    keys = {}
    for ours, official in _layers(config):
        keys[f"{ours}.weight"] = f"{official}.weight"
        if not ours.endswith(".qkv"):
            keys[f"{ours}.bias"] = f"{official}.bias"
    if config.waves == "index":
        keys["time_embed.frequencies"] = "time_mlp.0.inv_freq"
    return keys


def _convolution(official: str) -> bool:
    """Whether an official weight is a 1x1 convolution where ours is a linear layer."""
    return official.endswith((".attn.qkv.weight", ".attn.out.weight"))


def to_ours(state: Mapping[str, Tensor], config: SR3Config) -> dict[str, Tensor]:
    """Renames an official state dict and brings its weights to our layout; tables of the diffusion object are passed over.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    network = {name: value for name, value in state.items() if name.startswith(PREFIX)} or dict(state)
    found = {name.removeprefix(PREFIX): value for name, value in network.items()}
    keys = official_keys(config)
    check_names(found, keys.values(), "an SR3 checkpoint")
    return {ours: found[official].flatten(1) if _convolution(official) else found[official] for ours, official in keys.items()}


def to_official(state: Mapping[str, Tensor], config: SR3Config) -> dict[str, Tensor]:
    """The inverse of ``to_ours``, for the network alone.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    keys = official_keys(config)
    check_names(state, keys, "a state dict")
    return {official: state[ours][:, :, None, None] if _convolution(official) else state[ours] for ours, official in keys.items()}
