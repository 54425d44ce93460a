"""Models of baofff/U-ViT: constructor arguments and state dicts in terms of ours, and back."""

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
from mezzotint.configs import (
    CodecConfig,
    DenoiserConfig,
    DiscreteConfig,
    PixelConfig,
    ScheduleConfig,
    UViTConfig,
    VAELatentConfig,
    VPConfig,
)
from mezzotint.errors import unknown

NAME = "u_vit"
HEADS: Mapping[int, int] = {512: 8, 768: 12, 1024: 16, 1152: 16}
"""Width -> heads of the published models."""
TEXT_TOKENS = 77
COCO_SCALE = 0.23010

_SMALL: Mapping[str, Any] = {"patch_size": 2, "embed_dim": 512, "depth": 12, "num_heads": 8}
_LARGE: Mapping[str, Any] = {"embed_dim": 1024, "depth": 20, "num_heads": 16}
_HUGE: Mapping[str, Any] = {"embed_dim": 1152, "depth": 28, "num_heads": 16, "conv": False}
_COCO: Mapping[str, Any] = {**_SMALL, "img_size": 32, "in_chans": 4, "num_clip_token": TEXT_TOKENS}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "cifar10_uvit_small": {**_SMALL, "img_size": 32},
    "celeba64_uvit_small": {**_SMALL, "img_size": 64, "patch_size": 4},
    "imagenet64_uvit_mid": {"img_size": 64, "patch_size": 4, "depth": 16, "num_classes": 1000},
    "imagenet64_uvit_large": {**_LARGE, "img_size": 64, "patch_size": 4, "num_classes": 1000},
    "imagenet256_uvit_large": {**_LARGE, "img_size": 32, "patch_size": 2, "in_chans": 4, "num_classes": 1001},
    "imagenet256_uvit_huge": {**_HUGE, "img_size": 32, "patch_size": 2, "in_chans": 4, "num_classes": 1001},
    "imagenet512_uvit_large": {**_LARGE, "img_size": 64, "patch_size": 4, "in_chans": 4, "num_classes": 1001},
    "imagenet512_uvit_huge": {**_HUGE, "img_size": 64, "patch_size": 4, "in_chans": 4, "num_classes": 1001},
    "mscoco_uvit_small": _COCO,
    "mscoco_uvit_small_deep": {**_COCO, "depth": 16},
}
"""File name without its ending -> constructor arguments of every published model."""

_ARGUMENTS: Mapping[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": False,
    "mlp_time_embed": False,
    "num_classes": -1,
    "use_checkpoint": False,
    "conv": True,
    "skip": True,
    "clip_dim": 768,
    "num_clip_token": 0,
    "name": "uvit",
}


def config_from_arguments(arguments: Mapping[str, Any]) -> UViTConfig:
    """Translates the arguments of the official constructor, of the plain variant or of the one with text tokens.

    Args:
        arguments: By their official names; ``num_clip_token`` among them makes it the variant with text tokens.

    Raises:
        ConfigError: An unknown argument.
    """
    for name in arguments:
        if name not in _ARGUMENTS:
            raise unknown("official argument", name, _ARGUMENTS)
    flags = {**_ARGUMENTS, **arguments}
    return UViTConfig(
        in_channels=flags["in_chans"],
        out_channels=flags["in_chans"],
        num_classes=flags["num_classes"] if flags["num_classes"] > 0 else None,
        image_size=(flags["img_size"],) * 2,
        patch=flags["patch_size"],
        width=flags["embed_dim"],
        depth=flags["depth"],
        heads=flags["num_heads"],
        mlp_ratio=float(flags["mlp_ratio"]),
        qkv_bias=flags["qkv_bias"],
        skip="concat" if flags["skip"] else "none",
        conv=flags["conv"],
        time_mlp=flags["mlp_time_embed"],
        text_tokens=flags["num_clip_token"],
        text_channels=flags["clip_dim"],
        checkpointing=flags["use_checkpoint"],
    )


def describe(net: UViTConfig) -> OfficialModel:
    """The model of a network, with the noise process of the published models of its kind.

    Models of images, and the large ones of latents, know a continuum of times; the huge ones (without a convolution) and the one with
    text tokens were trained on Stable Diffusion's levels.

    Source: Bao et al. 2023, appendix A and table 5.
    """
    huge, text = not net.conv, net.text_tokens > 0
    latent = net.in_channels == 4
    label, assumed = labels_of_rows(net.num_classes, 0.1 if huge else 0.15, null=latent)
    schedule: ScheduleConfig = VPConfig()
    codec: CodecConfig = PixelConfig()
    time_input = "t_999"
    if latent:
        codec = VAELatentConfig(scale=COCO_SCALE if text else None)
        if huge or text:
            schedule, time_input = DiscreteConfig(betas="scaled_linear"), "t_1000"
    alike = [name for name, given in PUBLISHED.items() if replace(config_from_arguments(given), checkpointing=net.checkpointing) == net]
    if not alike:
        assumed = (*(() if net.width in HEADS else ("heads",)), "schedule", *assumed)
    return OfficialModel(
        net=net,
        schedule=schedule,
        denoiser=DenoiserConfig(predicts="eps", variance="fixed_large", time_input=time_input),
        size=net.image_size[0],
        label=label,
        codec=codec,
        clip=False,
        assumed=assumed,
        published=alike[0] if alike else "",
    )


def recognise(shapes: Shapes, filename: str = "") -> OfficialModel | None:
    """Reads the architecture off a state dict.

    Args:
        shapes: Name -> shape.
        filename: Not used; it makes the call that of other families.

    Returns:
        The model, or None where it is of another family. The number of heads is known for the published widths, the schedule for the
        published models; for others they are assumed, as is a number of text tokens other than 77.
    """
    patches, positions = shapes.get("patch_embed.proj.weight", ()), shapes.get("pos_embed", ())
    hidden, decoder = shapes.get("mid_block.mlp.fc1.weight", ()), shapes.get("decoder_pred.weight", ())
    labels, text = shapes.get("label_emb.weight"), shapes.get("context_embed.weight", ())
    if [len(shape) for shape in (patches, positions, hidden, decoder)] != [4, 3, 2, 2]:
        return None
    width, channels, patch, _ = patches
    tokens = positions[1] - 1 - (labels is not None)
    words, assumed = 0, ()
    if text:
        words = TEXT_TOKENS
        if tokens <= words or math.isqrt(tokens - words) ** 2 != tokens - words:
            words, assumed = tokens - math.isqrt(tokens) ** 2, ("text_tokens",)
    side = math.isqrt(tokens - words) * patch
    half = count(shapes, "in_blocks.")
    net = UViTConfig(
        in_channels=channels,
        out_channels=decoder[0] // patch**2,
        num_classes=labels[0] if labels else None,
        image_size=(side, side),
        patch=patch,
        width=width,
        depth=2 * half,
        heads=HEADS.get(width, max(1, width // 64)),
        mlp_ratio=hidden[0] / width,
        qkv_bias="mid_block.attn.qkv.bias" in shapes,
        skip="concat" if "out_blocks.0.skip_linear.weight" in shapes else "none",
        conv="final_layer.weight" in shapes,
        time_mlp="time_embed.0.weight" in shapes,
        text_tokens=words,
        text_channels=text[1] if text else 768,
    )
    model = describe(net)
    return replace(model, assumed=assumed + model.assumed)


def _layers(config: UViTConfig) -> Iterable[tuple[str, str]]:
    """Yields (our layer, official layer) in the official order."""
    yield "stem", "patch_embed.proj"
    if config.time_mlp:
        yield "time_mlp.hidden", "time_embed.0"
        yield "time_mlp.out", "time_embed.2"
    if config.text_tokens:
        yield "text_embed", "context_embed"

    def block(ours: str, official: str, *, joins: bool = False) -> Iterable[tuple[str, str]]:
        parts = {"norm1": "norm1", "attention.qkv": "attn.qkv", "attention.out": "attn.proj", "norm2": "norm2"}
        parts |= {"mlp.hidden": "mlp.fc1", "mlp.out": "mlp.fc2"} | ({"join": "skip_linear"} if joins else {})
        for a, b in parts.items():
            yield f"{ours}.{a}", f"{official}.{b}"

    for i in range(config.depth // 2):
        yield from block(f"before.{i}", f"in_blocks.{i}")
    yield from block("middle", "mid_block")
    for i in range(config.depth // 2):
        yield from block(f"after.{i}", f"out_blocks.{i}", joins=config.skip == "concat")
    yield "head.norm", "norm"
    yield "head.linear", "decoder_pred"
    if config.conv:
        yield "head.conv", "final_layer"


def official_keys(config: UViTConfig) -> dict[str, str]:
    """The name of every tensor: ours -> official, one to one."""
    keys = {"positions": "pos_embed"}
    for ours, official in _layers(config):
        keys[f"{ours}.weight"] = f"{official}.weight"
        if config.qkv_bias or not ours.endswith(".qkv"):
            keys[f"{ours}.bias"] = f"{official}.bias"
    if config.num_classes is not None:
        keys["label_embed.weight"] = "label_emb.weight"
    return keys


def to_ours(state: Mapping[str, Tensor], config: UViTConfig) -> dict[str, Tensor]:
    """Renames an official state dict and brings its weights to our layout.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    out = renamed(state, official_keys(config), "an official checkpoint")
    return {**out, "stem.weight": linear_from_patch(out["stem.weight"])}


def to_official(state: Mapping[str, Tensor], config: UViTConfig) -> dict[str, Tensor]:
    """The inverse of ``to_ours``.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    out = renamed(state, {official: ours for ours, official in official_keys(config).items()}, "a state dict")
    return {**out, "patch_embed.proj.weight": patch_from_linear(state["stem.weight"], config.patch)}
