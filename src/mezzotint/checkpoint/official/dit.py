"""Models of facebookresearch/DiT: constructor arguments, ``create_diffusion``'s arguments and state dicts in terms of ours, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mezzotint.checkpoint.official.base import (
    OfficialModel,
    Shapes,
    count,
    labels_of_rows,
    linear_from_patch,
    patch_from_linear,
    renamed,
)
from mezzotint.checkpoint.official.guided_diffusion import process_from_flags
from mezzotint.configs import DiTConfig, LabelConfig, PixelConfig, VAELatentConfig
from mezzotint.errors import unknown

NAME = "dit"
SIZES: Mapping[str, tuple[int, int, int]] = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
"""Name -> depth, width and heads."""
BETAS: Mapping[str, str] = {"squaredcos_cap_v2": "cosine"}
"""Official names of tables of betas that are not ours."""

_ARGUMENTS: Mapping[str, Any] = {
    "input_size": 32,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 1152,
    "depth": 28,
    "num_heads": 16,
    "mlp_ratio": 4.0,
    "class_dropout_prob": 0.1,
    "num_classes": 1000,
    "learn_sigma": True,
}
_DIFFUSION: Mapping[str, Any] = {
    "timestep_respacing": "",
    "noise_schedule": "linear",
    "use_kl": False,
    "sigma_small": False,
    "predict_xstart": False,
    "learn_sigma": True,
    "rescale_learned_sigmas": False,
    "diffusion_steps": 1000,
}


def _filled(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in defaults:
            raise unknown("official argument", name, defaults)
    return {**defaults, **given}


def config_from_arguments(arguments: Mapping[str, Any]) -> DiTConfig:
    """Translates the arguments of the official constructor; those that are left out are those of DiT-XL/2.

    Raises:
        ConfigError: An unknown argument.
    """
    flags = _filled(arguments, _ARGUMENTS)
    return DiTConfig(
        in_channels=flags["in_channels"],
        out_channels=flags["in_channels"] * (2 if flags["learn_sigma"] else 1),
        num_classes=flags["num_classes"] + (flags["class_dropout_prob"] > 0),
        image_size=(flags["input_size"],) * 2,
        patch=flags["patch_size"],
        width=flags["hidden_size"],
        depth=flags["depth"],
        heads=flags["num_heads"],
        mlp_ratio=float(flags["mlp_ratio"]),
    )


def model_from_arguments(arguments: Mapping[str, Any], diffusion: Mapping[str, Any]) -> OfficialModel:
    """Translates the arguments of the constructor and of ``create_diffusion``.

    Raises:
        ConfigError: An unknown argument.
    """
    net = config_from_arguments(arguments)
    flags, process = _filled(arguments, _ARGUMENTS), _filled(diffusion, _DIFFUSION)
    betas = BETAS.get(process["noise_schedule"], process["noise_schedule"])
    return OfficialModel(
        net=net,
        size=net.image_size[0],
        label=LabelConfig(num_classes=flags["num_classes"], drop=float(flags["class_dropout_prob"])),
        codec=VAELatentConfig() if net.in_channels == 4 else PixelConfig(),
        clip=False,
        **process_from_flags({**process, "noise_schedule": betas, "rescale_timesteps": False}),
    )


def recognise(shapes: Shapes, filename: str = "") -> OfficialModel | None:
    """Reads the architecture off a state dict.

    Args:
        shapes: Name -> shape.
        filename: Not used; it makes the call that of other families.

    Returns:
        The model, or None where it is of another family. The number of heads is known for the published widths, and assumed for others.
    """
    patches, table = shapes.get("x_embedder.proj.weight", ()), shapes.get("y_embedder.embedding_table.weight", ())
    final, hidden = shapes.get("final_layer.linear.weight", ()), shapes.get("blocks.0.mlp.fc1.weight", ())
    positions = shapes.get("pos_embed", ())
    if [len(shape) for shape in (patches, table, final, hidden, positions)] != [4, 2, 2, 2, 3]:
        return None
    width, channels, patch, _ = patches
    heads = {w: h for _, w, h in SIZES.values()}
    label, assumed = labels_of_rows(table[0], 0.1, null=True)
    learned = final[0] == 2 * channels * patch**2
    model = model_from_arguments(
        {
            "input_size": math.isqrt(positions[1]) * patch,
            "patch_size": patch,
            "in_channels": channels,
            "hidden_size": width,
            "depth": count(shapes, "blocks."),
            "num_heads": heads.get(width, max(1, width // 64)),
            "mlp_ratio": hidden[0] / width,
            "class_dropout_prob": 0.0,
            "num_classes": table[0],
            "learn_sigma": learned,
        },
        {"timestep_respacing": "250", "learn_sigma": learned},
    )
    known = model.size in (32, 64) and model.net == config_from_arguments({"input_size": model.size})
    return replace(
        model,
        label=label,
        assumed=(() if width in heads else ("heads",)) + assumed,
        published=f"DiT-XL-2-{8 * model.size}x{8 * model.size}" if known else "",
    )


def _layers(config: DiTConfig) -> Iterable[tuple[str, str]]:
    """Yields (our layer, official layer) in the official order."""
    yield "stem", "x_embedder.proj"
    yield "time_embed.hidden", "t_embedder.mlp.0"
    yield "time_embed.out", "t_embedder.mlp.2"
    for i in range(config.depth):
        for ours, official in (
            ("attention.qkv", "attn.qkv"),
            ("attention.out", "attn.proj"),
            ("mlp.hidden", "mlp.fc1"),
            ("mlp.out", "mlp.fc2"),
            ("modulation", "adaLN_modulation.1"),
        ):
            yield f"blocks.{i}.{ours}", f"blocks.{i}.{official}"
    yield "head.linear", "final_layer.linear"
    yield "head.modulation", "final_layer.adaLN_modulation.1"


def official_keys(config: DiTConfig) -> dict[str, str]:
    """The name of every tensor: ours -> official, one to one."""
    keys = {"positions": "pos_embed"}
    for ours, official in _layers(config):
        keys[f"{ours}.weight"], keys[f"{ours}.bias"] = f"{official}.weight", f"{official}.bias"
    if config.num_classes is not None:
        keys["label_embed.weight"] = "y_embedder.embedding_table.weight"
    return keys


def to_ours(state: Mapping[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
    """Renames an official state dict and brings its weights to our layout.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    out = renamed(state, official_keys(config), "an official checkpoint")
    return {**out, "stem.weight": linear_from_patch(out["stem.weight"])}


def to_official(state: Mapping[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
    """The inverse of ``to_ours``.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    out = renamed(state, {official: ours for ours, official in official_keys(config).items()}, "a state dict")
    return {**out, "x_embedder.proj.weight": patch_from_linear(state["stem.weight"], config.patch)}
