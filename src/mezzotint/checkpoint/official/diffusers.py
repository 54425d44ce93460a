"""Unconditional and class-conditional models of diffusers: its ``UNet2DModel`` and the folders of its pipelines, read and written.

``model_from_configs`` translates the JSON of a network and its scheduler, ``to_ours`` and ``to_official`` the state dict, ``read_folder``
and ``write_folder`` whole folders. A folder that was written can be run by diffusers, without this package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mezzotint.checkpoint.official.base import OfficialModel, Shapes, check_names, count
from mezzotint.configs import (
    DenoiserConfig,
    DiscreteConfig,
    LabelConfig,
    NetworkConfig,
    ScheduleConfig,
    UNet2DConfig,
    UNetConfig,
    VEConfig,
)
from mezzotint.errors import CheckpointError, ConfigError, unknown
from mezzotint.networks.unet import UNet
from mezzotint.nn.attention import head_count
from mezzotint.nn.trunk import level_widths
from mezzotint.schedules import betas
from mezzotint.weights.io import read_json, read_tensors, replacing, write_tensors

NAME = "diffusers"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SCHEDULER = "scheduler_config.json"

_UNET: Mapping[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional", "fourier"),
    "mid_block_type": ("UNetMidBlock2D",),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
}
"""What has a counterpart, of the settings that have one for some values alone."""


@dataclass(frozen=True)
class _Kind:
    """What the name of an official level says."""

    attention: bool = False
    residual: bool | None = False
    """Whether a residual block resamples; None: as another setting says."""
    progressive: bool = False


_KINDS: Mapping[str, _Kind] = {
    "DownBlock2D": _Kind(),
    "AttnDownBlock2D": _Kind(attention=True, residual=None),
    "ResnetDownsampleBlock2D": _Kind(residual=True),
    "SkipDownBlock2D": _Kind(progressive=True),
    "AttnSkipDownBlock2D": _Kind(attention=True, progressive=True),
    "UpBlock2D": _Kind(),
    "AttnUpBlock2D": _Kind(attention=True, residual=None),
    "ResnetUpsampleBlock2D": _Kind(residual=True),
    "SkipUpBlock2D": _Kind(progressive=True),
    "AttnSkipUpBlock2D": _Kind(attention=True, progressive=True),
}

_ASSUMED = ("attention_head_dim", "norm_num_groups", "norm_eps", "freq_shift", "flip_sin_to_cos", "downsample_padding")
"""What a state dict does not tell."""


# --- networks ----------------------------------------------------------------------------------------------------------


def _filled(given: Mapping[str, Any]) -> dict[str, Any]:
    flags = dict(_UNET)
    for name, value in given.items():
        if name.startswith("_"):
            continue
        if name not in flags:
            raise unknown("setting of UNet2DModel", name, flags)
        flags[name] = value
    for name, allowed in _FIXED.items():
        if flags[name] not in allowed:
            raise ConfigError(f"UNet2DModel with {name}={flags[name]!r} is not supported, only with {' or '.join(map(repr, allowed))}")
    return flags


def _levels(names: Sequence[str], residual: bool) -> list[_Kind]:
    found = []
    for name in names:
        kind = _KINDS.get(name.removeprefix("UNetRes"))
        if kind is None:
            raise unknown("block of UNet2DModel", name, _KINDS)
        found.append(replace(kind, residual=residual) if kind.residual is None else kind)
    return found


def network_from_config(given: Mapping[str, Any]) -> UNet2DConfig:
    """Translates the settings of a ``UNet2DModel``; those that are left out have its defaults.

    Raises:
        ConfigError: An unknown setting, or one without a counterpart.
    """
    flags = _filled(given)
    down = _levels(flags["down_block_types"], flags["downsample_type"] == "resnet")
    up = _levels(flags["up_block_types"], flags["upsample_type"] == "resnet")[::-1]
    progressive = {kind.progressive for kind in (*down, *up)}
    if len(progressive) != 1 or len(down) != len(up):
        raise ConfigError("UNet2DModel needs as many blocks down as up, either all with 'Skip' in their names or none")

    def factors(kinds: Sequence[_Kind], name: str) -> tuple[int, ...]:
        return tuple(2**i for i, kind in enumerate(kinds) if getattr(kind, name))

    groups_middle = flags["attn_norm_num_groups"]
    if groups_middle is None and flags["resnet_time_scale_shift"] == "scale_shift":
        groups_middle = 0
    return UNet2DConfig(
        in_channels=flags["in_channels"],
        out_channels=flags["out_channels"],
        num_classes=flags["num_class_embeds"],
        widths=tuple(flags["block_out_channels"]),
        blocks=flags["layers_per_block"],
        attention=factors(down, "attention"),
        attention_up=factors(up, "attention"),
        attention_middle=flags["add_attention"],
        head_channels=flags["attention_head_dim"],
        groups=flags["norm_num_groups"],
        groups_middle=groups_middle,
        eps=float(flags["norm_eps"]),
        scale_shift=flags["resnet_time_scale_shift"] == "scale_shift",
        residual_down=factors(down[:-1], "residual"),
        residual_up=factors([_Kind(), *up[1:]], "residual"),
        corner=flags["downsample_padding"] == 0,
        progressive=progressive.pop(),
        middle_scale=1 / flags["mid_block_scale_factor"],
        waves="fourier" if flags["time_embedding_type"] == "fourier" else "sinusoidal",
        wave_shift=float(flags["freq_shift"]),
        sine_first=flags["time_embedding_type"] == "fourier" or not flags["flip_sin_to_cos"],
        embed=flags["time_embedding_dim"],
        dropout=float(flags["dropout"]),
    )


def network_to_config(config: UNet2DConfig, size: int | None = None) -> dict[str, Any]:
    """The inverse of ``network_from_config``.

    Args:
        config: The network.
        size: Side of the images, which pipelines need to know.
    """
    attention_up = config.attention if config.attention_up is None else config.attention_up

    def name(i: int, direction: str, attention: bool, residual: bool) -> str:
        if config.progressive:
            return f"{'Attn' if attention else ''}Skip{direction}Block2D"
        if residual and not attention:
            return {"Down": "ResnetDownsampleBlock2D", "Up": "ResnetUpsampleBlock2D"}[direction]
        return f"{'Attn' if attention else ''}{direction}Block2D"

    levels = range(len(config.widths))
    kinds = {}
    for direction, attention, residual, ends in (
        ("Down", config.attention, config.residual_down, levels[:-1]),
        ("Up", attention_up, config.residual_up, levels[1:]),
    ):
        with_attention = {2**i in residual for i in ends if 2**i in attention}
        if len(with_attention) > 1:
            raise ConfigError(f"UNet2DModel resamples all levels with attention in one way; residual_{direction.lower()} asks for two")
        kinds[direction] = "resnet" if with_attention == {True} else "conv"
    scale_shift = config.scale_shift
    groups_middle = config.groups_middle
    if groups_middle == 0 and not scale_shift:
        raise ConfigError("UNet2DModel has attention without normalisation in the middle only with scale_shift; set groups_middle")
    if groups_middle is None and scale_shift:
        groups_middle = config.groups
    fourier = config.waves == "fourier"
    return {
        **_UNET,
        "sample_size": size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "time_embedding_type": "fourier" if fourier else "positional",
        "time_embedding_dim": config.embed,
        "freq_shift": config.wave_shift,
        "flip_sin_to_cos": not config.sine_first,
        "down_block_types": [name(i, "Down", 2**i in config.attention, 2**i in config.residual_down) for i in levels],
        "up_block_types": [name(i, "Up", 2**i in attention_up, 2**i in config.residual_up) for i in reversed(levels)],
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "mid_block_scale_factor": 1 / config.middle_scale,
        "downsample_padding": 0 if config.corner else 1,
        "downsample_type": kinds["Down"],
        "upsample_type": kinds["Up"],
        "dropout": config.dropout,
        "attention_head_dim": config.head_channels,
        "norm_num_groups": config.groups,
        "attn_norm_num_groups": groups_middle or None,
        "norm_eps": config.eps,
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        "add_attention": config.attention_middle,
        "num_class_embeds": config.num_classes,
    }


def as_unet2d(config: UNetConfig) -> UNet2DConfig:
    """The ``UNet2DConfig`` that computes the same as a U-Net of ADM.

    Raises:
        ConfigError: There is none; the message names the setting.
    """
    widths = level_widths(config)
    with torch.device("meta"):
        net = UNet(config)
    groups = {module.num_groups for module in net.modules() if isinstance(module, nn.GroupNorm)}
    attended = {w for i, w in enumerate(widths) if 2**i in config.attention} | ({widths[-1]} if config.attention_middle else set())
    heads = {w // head_count(w, config.heads, config.head_channels) for w in attended}
    single = all(head_count(w, config.heads, config.head_channels) == 1 for w in attended)
    for setting, fits in {
        "low_res_channels 0": config.low_res_channels == 0,
        "augment 0": config.augment == 0,
        "resample conv or block": config.resample != "pool",
        "mults that begin with 1": widths[0] == config.width,
        "widths whose group normalisations all have the same number of groups": len(groups) == 1,
        "as many heads up as down": config.heads_up in (None, config.heads),
        "one head_channels for all levels": single or len(heads) == 1,
    }.items():
        if not fits:
            raise ConfigError(f"diffusers' UNet2DModel needs {setting}; this model differs")
    residual = config.resample == "block"
    return UNet2DConfig(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_classes=config.num_classes,
        widths=tuple(widths),
        blocks=config.blocks,
        attention=config.attention,
        attention_middle=config.attention_middle,
        head_channels=None if single else heads.pop(),
        groups=groups.pop(),
        eps=1e-5,
        scale_shift=config.scale_shift,
        residual_down=tuple(2**i for i in range(len(widths) - 1)) if residual else (),
        residual_up=tuple(2**i for i in range(1, len(widths))) if residual else (),
        corner=False,
        wave_shift=0.0,
        sine_first=False,
        dropout=config.dropout,
    )


def state_as_unet2d(state: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """The state dict of a U-Net of ADM as that of the network of ``as_unet2d``."""
    out = {}
    for name, value in state.items():
        if config.attention_order == "legacy" and ".attention.qkv." in name:
            heads = head_count(len(value) // 3, config.heads, config.head_channels)
            value = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        out[re.sub(r"^head\.", "heads.0.", name)] = value
    return out


# --- state dicts -------------------------------------------------------------------------------------------------------

_RESIDUAL = {"norm1": "norm1", "conv1": "conv1", "embed": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of attention in files from before diffusers 0.17."""


def _layers(config: UNet2DConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (our layer, the official layers that it holds)."""
    attention_up = config.attention if config.attention_up is None else config.attention_up
    widths, steps = config.widths, len(config.widths) - 1

    def residual(ours: str, official: str, changes: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
        for a, b in _RESIDUAL.items():
            yield f"{ours}.{a}", (f"{official}.{b}",)
        if changes:
            yield f"{ours}.skip", (f"{official}.conv_shortcut",)

    def attention(ours: str, official: str, *, norm: bool = True) -> Iterator[tuple[str, tuple[str, ...]]]:
        if norm:
            yield f"{ours}.norm", (f"{official}.group_norm",)
        yield f"{ours}.qkv", tuple(f"{official}.to_{part}" for part in "qkv")
        yield f"{ours}.out", (f"{official}.to_out.0",)

    def resample(ours: str, official: str, direction: str, is_residual: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
        if config.progressive:
            yield from residual(ours, f"{official}.resnet_{direction}", True)
        elif is_residual:
            yield from residual(ours, f"{official}.{direction}samplers.0", False)
        else:
            yield f"{ours}.conv", (f"{official}.{direction}samplers.0.conv",)

    yield "time_embed.hidden", ("time_embedding.linear_1",)
    yield "time_embed.out", ("time_embedding.linear_2",)
    yield "stem", ("conv_in",)
    channels, skips = widths[0], [widths[0]]
    for i, width in enumerate(widths):
        level = f"down_blocks.{i}"
        for j in range(config.blocks):
            yield from residual(f"down.{i}.blocks.{j}.residual", f"{level}.resnets.{j}", channels != width)
            if 2**i in config.attention:
                yield from attention(f"down.{i}.blocks.{j}.attention", f"{level}.attentions.{j}")
            channels = width
            skips.append(width)
        if i < steps:
            yield from resample(f"down.{i}.resample", level, "down", 2**i in config.residual_down)
            skips.append(width)
            if config.progressive:
                yield f"sides.{i}", (f"{level}.skip_conv",)
    yield from residual("middle.before", "mid_block.resnets.0", False)
    if config.attention_middle:
        yield from attention("middle.attention", "mid_block.attentions.0", norm=config.groups_middle != 0)
    yield from residual("middle.after", "mid_block.resnets.1", False)
    for i, width in reversed(list(enumerate(widths))):
        level = f"up_blocks.{steps - i}"
        for j in range(config.blocks + 1):
            yield from residual(f"up.{i}.blocks.{j}.residual", f"{level}.resnets.{j}", channels + skips.pop() != width)
            if 2**i in attention_up and (not config.progressive or j == config.blocks):
                yield from attention(f"up.{i}.blocks.{j}.attention", f"{level}.attentions.{0 if config.progressive else j}")
            channels = width
        if i:
            yield from resample(f"up.{i}.resample", level, "up", 2**i in config.residual_up)
            if config.progressive:
                yield f"heads.{i}.norm", (f"{level}.skip_norm",)
                yield f"heads.{i}.conv", (f"{level}.skip_conv",)
    yield "heads.0.norm", ("conv_norm_out",)
    yield "heads.0.conv", ("conv_out",)


def official_keys(config: UNet2DConfig) -> dict[str, tuple[str, ...]]:
    """The names of every tensor: ours -> official; q, k and v are one tensor here and three there."""
    keys = {}
    for ours, official in _layers(config):
        for member in ("weight", "bias"):
            keys[f"{ours}.{member}"] = tuple(f"{name}.{member}" for name in official)
    if config.num_classes is not None:
        keys["label_embed.weight"] = ("class_embedding.weight",)
    if config.waves == "fourier":
        keys["time_embed.fourier.frequencies"] = ("time_proj.weight",)
    return keys


def _renewed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with the names of attention that newer versions use."""
    out = {}
    for name, value in state.items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        out[name] = value
    return out


def to_ours(state: Mapping[str, Tensor], config: UNet2DConfig) -> dict[str, Tensor]:
    """Renames an official state dict and puts q, k and v together.

    Args:
        state: The official state dict, of any version of diffusers.
        config: The network that it belongs to.

    Returns:
        The state dict of our network; views of the given tensors but for q, k, v.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    state = _renewed(state)
    keys = official_keys(config)
    check_names(state, [name for names in keys.values() for name in names], "a UNet2DModel")
    out = {}
    for ours, official in keys.items():
        values = [state[name] for name in official]
        if ".attention." in ours and ours.endswith("weight") and not ours.endswith("norm.weight"):
            values = [value.flatten(1) for value in values]
        out[ours] = values[0] if len(values) == 1 else torch.cat(values)
    return out


def to_official(state: Mapping[str, Tensor], config: UNet2DConfig | UNetConfig) -> dict[str, Tensor]:
    """The inverse of ``to_ours``; U-Nets of ADM are translated first.

    Raises:
        CheckpointError: Names are missing or left over.
        ConfigError: A network that diffusers does not have.
    """
    if isinstance(config, UNetConfig):
        state, config = state_as_unet2d(state, config), as_unet2d(config)
    keys = official_keys(config)
    check_names(state, keys, "a state dict")
    return {name: part for ours, names in keys.items() for name, part in zip(names, state[ours].chunk(len(names)), strict=True)}


def recognise(shapes: Shapes, filename: str = "") -> OfficialModel | None:
    """Reads the architecture off a state dict, with DDPM's settings for what shapes do not tell.

    Args:
        shapes: Name -> shape.
        filename: Not used; it makes the call that of other families.

    Returns:
        The model, or None where it is of another family. The folder's JSON says more: see ``read_folder``.
    """
    shapes = _renewed(shapes)
    stem, out = shapes.get("conv_in.weight", ()), shapes.get("conv_out.weight", ())
    hidden = shapes.get("time_embedding.linear_1.weight", ())
    if [len(stem), len(out), len(hidden)] != [4, 4, 2] or any(".transformer_blocks." in name for name in shapes):
        return None
    levels = count(shapes, "down_blocks.")
    blocks = count(shapes, "down_blocks.0.resnets.")
    widths = [shapes.get(f"down_blocks.{i}.resnets.0.conv1.weight", (0,))[0] for i in range(levels)]
    if not blocks or not all(widths):
        return None
    has = {name.rpartition(".")[0] for name in shapes}

    def factors(pattern: str, *, up: bool = False) -> tuple[int, ...]:
        return tuple(2**i for i in range(levels) if pattern.format(levels - 1 - i if up else i) in has)

    embed = shapes.get("down_blocks.0.resnets.0.time_emb_proj.weight", (0,))[0]
    progressive = "down_blocks.0.resnet_down.conv1" in has
    fourier = "time_proj.weight" in shapes
    classes = shapes.get("class_embedding.weight", (None,))[0]
    attention = factors("down_blocks.{}.attentions.0.to_q")
    middle = "mid_block.attentions.0.to_q" in has
    base = UNet2DConfig()
    net = UNet2DConfig(
        in_channels=stem[1],
        out_channels=out[0],
        num_classes=classes,
        widths=tuple(widths),
        blocks=blocks,
        attention=attention,
        attention_up=factors("up_blocks.{}.attentions.0.to_q", up=True),
        attention_middle=middle,
        groups_middle=0 if middle and "mid_block.attentions.0.group_norm" not in has else None,
        scale_shift=embed == 2 * widths[0],
        residual_down=factors("down_blocks.{}.downsamplers.0.conv1"),
        residual_up=factors("up_blocks.{}.upsamplers.0.conv1", up=True),
        progressive=progressive,
        middle_scale=0.5**0.5 if progressive else 1.0,
        waves="fourier" if fourier else "sinusoidal",
        sine_first=base.sine_first,
        embed=None if hidden[0] == 4 * widths[0] else hidden[0],
    )
    # DDPM's attention is at 16x16 whatever the size of the images.
    size = 16 * attention[0] if len(attention) == 1 else 0
    learned = out[0] == 2 * stem[1]
    return OfficialModel(
        net=net,
        schedule=VEConfig(0.01, 1348.0) if fourier else DiscreteConfig(),
        denoiser=DenoiserConfig(predicts="score", time_input="t")
        if fourier
        else DenoiserConfig(variance="learned_range" if learned else "fixed_large" if size == 32 else "fixed_small"),
        size=size,
        label=None if classes is None else LabelConfig(num_classes=classes),
        clip=not fourier,
        assumed=(*_ASSUMED, "scheduler"),
    )


# --- schedules ---------------------------------------------------------------------------------------------------------

_PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
    "learned": "learned",
}


def _schedule(given: Mapping[str, Any]) -> DiscreteConfig:
    steps = given.get("num_train_timesteps", 1000)
    low, high = given.get("beta_start", 1e-4), given.get("beta_end", 0.02)
    law = given.get("beta_schedule", "linear")
    if given.get("trained_betas") is not None:
        return DiscreteConfig(steps=steps, custom=tuple(float(beta) for beta in given["trained_betas"]))
    if law == "squaredcos_cap_v2":
        return DiscreteConfig(betas="cosine", steps=steps)
    if law not in ("linear", "scaled_linear"):
        raise unknown("beta_schedule", law, ("linear", "scaled_linear", "squaredcos_cap_v2"))
    usual = (0.1 / steps, 20 / steps) if law == "linear" else (0.00085, 0.012)
    if np.allclose((low, high), usual, rtol=1e-12, atol=0):
        return DiscreteConfig(betas=law, steps=steps)
    table = np.linspace(low, high, steps) if law == "linear" else np.linspace(low**0.5, high**0.5, steps) ** 2
    return DiscreteConfig(steps=steps, custom=tuple(table.tolist()))


def process_from_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Translates the settings of a scheduler to the fields of ``OfficialModel`` of the same meaning.

    Raises:
        ConfigError: A scheduler or a setting without a counterpart.
    """
    if given.get("_class_name") == "ScoreSdeVeScheduler":
        return {
            "schedule": VEConfig(given.get("sigma_min", 0.01), given.get("sigma_max", 1348.0)),
            "denoiser": DenoiserConfig(predicts="score", time_input="t"),
            "clip": False,
        }
    predicts, variance = given.get("prediction_type", "epsilon"), given.get("variance_type", "fixed_small")
    if predicts not in _PREDICTS:
        raise unknown("prediction_type", predicts, _PREDICTS)
    if variance is not None and variance not in _VARIANCES:
        raise unknown("variance_type", variance, _VARIANCES)
    return {
        "schedule": replace(_schedule(given), zero_snr=bool(given.get("rescale_betas_zero_snr"))),
        "denoiser": DenoiserConfig(
            predicts=_PREDICTS[predicts],  # pyright: ignore[reportArgumentType]
            variance=_VARIANCES[variance or "fixed_small"],  # pyright: ignore[reportArgumentType]
        ),
        "clip": bool(given.get("clip_sample", True)),
    }


def process_to_config(model: OfficialModel) -> dict[str, Any]:
    """The settings of a scheduler for a model.

    Raises:
        ConfigError: There is no such scheduler.
    """
    schedule: ScheduleConfig = model.schedule
    denoiser = model.denoiser
    if isinstance(schedule, VEConfig) and (denoiser.predicts, denoiser.time_input) == ("score", "t"):
        return {"_class_name": "ScoreSdeVeScheduler", "sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max}
    names = {ours: theirs for theirs, ours in _PREDICTS.items()}
    if not isinstance(schedule, DiscreteConfig) or denoiser.predicts not in names:
        raise ConfigError(
            f"diffusers' DDPMScheduler needs a discrete schedule and one of {sorted(names)}, "
            f"this model has '{schedule.kind[1]}' and predicts '{denoiser.predicts}'"
        )
    if denoiser.time_input != "index" and (denoiser.time_input, schedule.steps) != ("index_1000", 1000):
        raise ConfigError(f"diffusers tells networks the index of the level, this one needs '{denoiser.time_input}'")
    table = betas(schedule)
    named = schedule.custom is None and schedule.betas in ("linear", "cosine") and not schedule.zero_snr
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(table),
        "beta_start": float(table[0]),
        "beta_end": float(table[-1]),
        "beta_schedule": "squaredcos_cap_v2" if named and schedule.betas == "cosine" else "linear",
        "trained_betas": None if named else table.tolist(),
        "prediction_type": names[denoiser.predicts],
        "variance_type": denoiser.variance,
        "clip_sample": model.clip,
    }


# --- folders -----------------------------------------------------------------------------------------------------------


def model_from_configs(unet: Mapping[str, Any], scheduler: Mapping[str, Any] | None) -> OfficialModel:
    """Translates the JSON of a network and of its scheduler.

    Args:
        unet: Settings of a ``UNet2DModel``.
        scheduler: Settings of its scheduler; None: those of DDPM are assumed.

    Raises:
        ConfigError: A setting without a counterpart.
    """
    net = network_from_config(unet)
    size = unet.get("sample_size") or 0
    label = None if net.num_classes is None else LabelConfig(num_classes=net.num_classes)
    assumed = () if scheduler is not None else ("scheduler",)
    return OfficialModel(
        net=net, size=size if isinstance(size, int) else size[0], label=label, assumed=assumed, **process_from_config(scheduler or {})
    )


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder of a pipeline or of a network of diffusers."""
    return any((Path(path) / name).is_file() for name in ("unet/config.json", "config.json"))


def read_folder(path: str | Path) -> tuple[dict[str, Tensor], OfficialModel]:
    """Reads a pipeline's folder, or that of its network alone.

    Args:
        path: A folder with ``config.json`` and its weights, directly or under ``unet``, and perhaps the scheduler's JSON.

    Returns:
        The official state dict, and what the JSON describes.

    Raises:
        CheckpointError: Files are missing or damaged, or the model is none that is supported.
    """
    path = Path(path)
    unet = path / "unet" if (path / "unet" / "config.json").is_file() else path
    settings = read_json(unet / "config.json")
    if settings.get("_class_name") != "UNet2DModel":
        raise CheckpointError(f"{unet / 'config.json'} describes a {settings.get('_class_name')}; only a UNet2DModel is supported")
    places = [folder / SCHEDULER for folder in (path / "scheduler", path, path.parent / "scheduler")]
    scheduler = next((read_json(place) for place in places if place.is_file()), None)
    try:
        model = model_from_configs(settings, scheduler)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    weights = next((unet / name for name in WEIGHTS if (unet / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{unet} has none of {', '.join(WEIGHTS)}; download the whole folder")
    if weights.suffix == ".safetensors":
        return read_tensors(weights), model
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{weights} cannot be read: {reason}; download it again") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{weights} is no state dict; download it again")
    return state, model


def write_folder(path: str | Path, state: Mapping[str, Tensor], model: OfficialModel) -> None:
    """Writes a folder that diffusers loads: as a ``DDPMPipeline``, or class-conditional models as a ``UNet2DModel`` and a scheduler.

    Args:
        path: The folder; one that is there already is replaced.
        state: The state dict of our network.
        model: What it is.

    Raises:
        ConfigError: A model that diffusers does not have.
        CheckpointError: The folder cannot be written.
    """
    net: NetworkConfig = model.net
    if not isinstance(net, UNetConfig | UNet2DConfig):
        raise ConfigError(f"diffusers' UNet2DModel is a 'unet' or 'unet2d', this model's network is a '{net.kind[1]}'")
    official = to_official(state, net)
    unet = network_to_config(as_unet2d(net) if isinstance(net, UNetConfig) else net, model.size or None)
    scheduler = process_to_config(model)
    pipeline = "ScoreSdeVePipeline" if scheduler["_class_name"] == "ScoreSdeVeScheduler" else "DDPMPipeline"
    with replacing(Path(path)) as folder:
        for part in ("unet", "scheduler"):
            (folder / part).mkdir()
        write_tensors(folder / "unet" / WEIGHTS[0], official, metadata={})
        _write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DModel", **unet})
        _write_json(folder / "scheduler" / SCHEDULER, scheduler)
        if model.label is None:
            index = {"scheduler": ["diffusers", scheduler["_class_name"]], "unet": ["diffusers", "UNet2DModel"]}
            _write_json(folder / "model_index.json", {"_class_name": pipeline, **index})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
