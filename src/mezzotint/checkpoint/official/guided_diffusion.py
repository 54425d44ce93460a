"""Models of openai/guided-diffusion (ADM) and openai/improved-diffusion: their flags and state dicts in terms of ours, and back.

Official constructor arguments become a config (``unet_from_arguments``, ``superres_from_arguments``, ``encoder_from_arguments``), script
flags a whole description (``model_from_script_flags``, ``classifier_from_script_flags``), state dicts are renamed by ``to_ours`` and
``to_official``. Flags that are left out have the official defaults. ``recognise`` reads the architecture off a state dict; what shapes
cannot tell comes from the published model of the same shapes, and where several have them, from the file name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

from torch import Tensor

from mezzotint.checkpoint.official.base import OfficialModel as OfficialModel
from mezzotint.checkpoint.official.base import Shapes, check_names, labels_of_rows
from mezzotint.configs import (
    ClassifyConfig,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EncoderConfig,
    LowResConfig,
    NetworkConfig,
    UNetConfig,
    VLBConfig,
)
from mezzotint.errors import ConfigError, unknown

NAME = "guided_diffusion"
Family = Literal["guided_diffusion", "improved_diffusion"]
Resampling = Literal["conv", "pool", "block"]
Pool = Literal["adaptive", "attention", "spatial", "spatial_v2"]

NUM_CLASSES = 1000
"""Classes of every class-conditional official model."""

_SIX_LEVELS = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0)
_MULTS: Mapping[int, tuple[float, ...]] = {
    32: (1.0, 2.0, 2.0, 2.0),
    64: (1.0, 2.0, 3.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    256: _SIX_LEVELS,
    512: (0.5, *_SIX_LEVELS),
}
_SUPERRES_MULTS: Mapping[int, tuple[float, ...]] = {64: _MULTS[64], 256: _SIX_LEVELS, 512: _SIX_LEVELS}

_CONSTRUCTOR: Mapping[str, Any] = {
    "image_size": None,
    "in_channels": None,
    "model_channels": None,
    "out_channels": None,
    "num_res_blocks": None,
    "attention_resolutions": None,
    "dropout": 0.0,
    "channel_mult": (1, 2, 4, 8),
    "conv_resample": True,
    "dims": 2,
    "num_classes": None,
    "use_checkpoint": False,
    "use_fp16": False,
    "num_heads": 1,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
}
_REQUIRED = ("in_channels", "model_channels", "out_channels", "num_res_blocks", "attention_resolutions")

_DIFFUSION: Mapping[str, Any] = {
    "learn_sigma": False,
    "sigma_small": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "timestep_respacing": "",
    "use_kl": False,
    "predict_xstart": False,
}
_RESCALE: Mapping[Family, Mapping[str, bool]] = {
    "guided_diffusion": {"rescale_timesteps": False, "rescale_learned_sigmas": False},
    "improved_diffusion": {"rescale_timesteps": True, "rescale_learned_sigmas": True},
}
_MODEL: Mapping[str, Any] = {
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "dropout": 0.0,
    "class_cond": False,
    "use_checkpoint": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_fp16": False,
}
_PLAIN: Mapping[str, Any] = {"image_size": 64, "channel_mult": "", "use_new_attention_order": False}
LOW_RES = LowResConfig(scale=4, down="area", up="bilinear")
"""How upsamplers see low-resolution images; the factor is that of the published ones."""
_SUPERRES: Mapping[str, Any] = {"large_size": 256, "small_size": 64}
_CLASSIFIER: Mapping[str, Any] = {
    "image_size": 64,
    "classifier_use_fp16": False,
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
}

_ADM: Mapping[str, Any] = {
    "class_cond": True,
    "learn_sigma": True,
    "resblock_updown": True,
    "attention_resolutions": "32,16,8",
    "num_channels": 256,
    "num_head_channels": 64,
    "timestep_respacing": "250",
}
_ADM_LSUN: Mapping[str, Any] = {**_ADM, "image_size": 256, "class_cond": False, "dropout": 0.1}
_ADM_UP: Mapping[str, Any] = {**_ADM, "num_channels": 192}
_IMPROVED: Mapping[str, Any] = {"learn_sigma": True, "num_res_blocks": 3, "diffusion_steps": 4000, "noise_schedule": "cosine"}
_IMPROVED_CIFAR: Mapping[str, Any] = {**_IMPROVED, "image_size": 32, "dropout": 0.3}
_AS_THEY_ARE: Mapping[str, Any] = {"rescale_learned_sigmas": False, "rescale_timesteps": False}
_IMPROVED_LSUN: Mapping[str, Any] = {
    "image_size": 256,
    "learn_sigma": True,
    "num_heads": 1,
    "use_scale_shift_norm": False,
    "attention_resolutions": "16",
    **_AS_THEY_ARE,
}
PUBLISHED: Mapping[str, tuple[Family, Mapping[str, Any]]] = {
    "64x64_diffusion": (
        "guided_diffusion",
        {
            **_ADM,
            "num_channels": 192,
            "num_res_blocks": 3,
            "dropout": 0.1,
            "use_new_attention_order": True,
            "noise_schedule": "cosine",
        },
    ),
    "128x128_diffusion": ("guided_diffusion", {**_ADM, "image_size": 128, "num_head_channels": -1}),
    "256x256_diffusion": ("guided_diffusion", {**_ADM, "image_size": 256}),
    "256x256_diffusion_uncond": ("guided_diffusion", {**_ADM, "image_size": 256, "class_cond": False}),
    "512x512_diffusion": ("guided_diffusion", {**_ADM, "image_size": 512}),
    "64_256_upsampler": ("guided_diffusion", {**_ADM_UP, "large_size": 256, "small_size": 64, "num_head_channels": -1}),
    "128_512_upsampler": (
        "guided_diffusion",
        {**_ADM_UP, "large_size": 512, "small_size": 128, "attention_resolutions": "32,16"},
    ),
    "lsun_bedroom": ("guided_diffusion", _ADM_LSUN),
    "lsun_cat": ("guided_diffusion", _ADM_LSUN),
    "lsun_horse": ("guided_diffusion", _ADM_LSUN),
    "lsun_horse_nodropout": ("guided_diffusion", {**_ADM_LSUN, "dropout": 0.0}),
    "64x64_classifier": ("guided_diffusion", {"classifier_depth": 4, "noise_schedule": "cosine"}),
    "128x128_classifier": ("guided_diffusion", {"image_size": 128, "classifier_depth": 2}),
    "256x256_classifier": ("guided_diffusion", {"image_size": 256, "classifier_depth": 2}),
    "512x512_classifier": ("guided_diffusion", {"image_size": 512, "classifier_depth": 2}),
    "cifar10_uncond_50M_500K": ("improved_diffusion", _IMPROVED_CIFAR),
    "cifar10_uncond_vlb_50M_500K": ("improved_diffusion", {**_IMPROVED_CIFAR, "use_kl": True}),
    "imagenet64_uncond_100M_1500K": ("improved_diffusion", _IMPROVED),
    "imagenet64_uncond_vlb_100M_1500K": ("improved_diffusion", {**_IMPROVED, "use_kl": True}),
    "imagenet64_cond_270M_250K": (
        "improved_diffusion",
        {**_IMPROVED, **_AS_THEY_ARE, "num_channels": 192, "class_cond": True},
    ),
    "upsample_cond_500K": (
        "improved_diffusion",
        {
            "large_size": 256,
            "small_size": 64,
            "num_channels": 192,
            "learn_sigma": True,
            "class_cond": True,
            "diffusion_steps": 4000,
            **_AS_THEY_ARE,
        },
    ),
    "lsun_uncond_100M_1200K_bs128": ("improved_diffusion", _IMPROVED_LSUN),
    "lsun_uncond_100M_2400K_bs64": ("improved_diffusion", _IMPROVED_LSUN),
}
"""File name without its ending -> family and script flags of every published model."""


def _filled(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in defaults:
            raise unknown("official flag", name, defaults)
    return {**defaults, **given}


def _shared(arguments: Mapping[str, Any], *, more: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Completes constructor arguments, and translates those that U-Nets and encoders share."""
    flags = _filled(arguments, {**_CONSTRUCTOR, **more})
    for name in _REQUIRED:
        if flags[name] is None:
            raise ConfigError(f"the official constructor needs '{name}'; add it to the arguments")
    if flags["dims"] != 2:
        raise ConfigError(f"dims={flags['dims']}: only 2 is supported")
    fields = {
        "in_channels": flags["in_channels"],
        "out_channels": flags["out_channels"],
        "width": flags["model_channels"],
        "mults": tuple(float(mult) for mult in flags["channel_mult"]),
        "blocks": flags["num_res_blocks"],
        "attention": tuple(flags["attention_resolutions"]),
        "heads": flags["num_heads"],
        "head_channels": None if flags["num_head_channels"] == -1 else flags["num_head_channels"],
        "attention_order": "new" if flags["use_new_attention_order"] else "legacy",
        "scale_shift": flags["use_scale_shift_norm"],
        "resample": "block" if flags["resblock_updown"] else "conv" if flags["conv_resample"] else "pool",
        "dropout": float(flags["dropout"]),
        "checkpointing": flags["use_checkpoint"],
    }
    return flags, fields


def unet_from_arguments(arguments: Mapping[str, Any]) -> UNetConfig:
    """Translates the arguments of the official ``UNetModel``.

    Args:
        arguments: By their official names; ``image_size`` and ``use_fp16`` have no effect on the config.

    Raises:
        ConfigError: An unknown or missing argument.
    """
    flags, fields = _shared(arguments, more={})
    heads_up = None if flags["num_heads_upsample"] == -1 else flags["num_heads_upsample"]
    return UNetConfig(num_classes=flags["num_classes"], heads_up=heads_up, **fields)


def superres_from_arguments(arguments: Mapping[str, Any]) -> UNetConfig:
    """Translates the arguments of the official ``SuperResModel``, whose ``in_channels`` are those of x alone.

    Raises:
        ConfigError: An unknown or missing argument.
    """
    flags, fields = _shared(arguments, more={})
    heads_up = None if flags["num_heads_upsample"] == -1 else flags["num_heads_upsample"]
    return UNetConfig(num_classes=flags["num_classes"], heads_up=heads_up, low_res_channels=flags["in_channels"], **fields)


def encoder_from_arguments(arguments: Mapping[str, Any]) -> EncoderConfig:
    """Translates the arguments of the official ``EncoderUNetModel``.

    Raises:
        ConfigError: An unknown or missing argument.
    """
    flags, fields = _shared(arguments, more={"pool": "adaptive"})
    if flags["image_size"] is None:
        raise ConfigError("the official constructor needs 'image_size'; add it to the arguments")
    return EncoderConfig(image_size=(flags["image_size"],) * 2, pool=flags["pool"], **fields)


def _factors(sizes: str, image_size: int) -> tuple[int, ...]:
    return tuple(image_size // int(size) for size in sizes.split(","))


def _mults(image_size: int, table: Mapping[int, tuple[float, ...]], given: str = "") -> tuple[float, ...]:
    if given:
        return tuple(float(int(mult)) for mult in given.split(","))
    if image_size not in table:
        raise ConfigError(f"no official channel multipliers for images of side {image_size}, only for {sorted(table)}; give channel_mult")
    return table[image_size]


def process_from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Translates the flags of the noise process, all of which must be given, to the fields of ``OfficialModel`` of the same meaning."""
    learned, small = flags["learn_sigma"], flags["sigma_small"]
    steps = flags["diffusion_steps"]
    # Without rescaling the official bound term of one level counts as a whole: 1 / steps of the sum over levels.
    weight = 0.001 if flags["rescale_learned_sigmas"] else 1 / steps
    return {
        "schedule": DiscreteConfig(betas=flags["noise_schedule"], steps=steps),
        "denoiser": DenoiserConfig(
            predicts="x0" if flags["predict_xstart"] else "eps",
            variance="learned_range" if learned else "fixed_small" if small else "fixed_large",
            time_input="index_1000" if flags["rescale_timesteps"] else "index",
        ),
        "objective": VLBConfig() if flags["use_kl"] else DenoisingConfig(vlb=weight),
        "respacing": flags["timestep_respacing"],
    }


def model_from_script_flags(flags: Mapping[str, Any], *, family: Family = "guided_diffusion") -> OfficialModel:
    """Translates the flags of the official training and sampling scripts, of plain and super-resolution models.

    Args:
        flags: By their official names. ``large_size`` or ``small_size`` among them makes it a super-resolution model.
        family: Whose defaults fill in what is left out: the two repositories differ in ``rescale_*``.

    Raises:
        ConfigError: An unknown flag, or an image size without a table of multipliers and no ``channel_mult``.
    """
    superres = bool(_SUPERRES.keys() & flags.keys())
    full = _filled(flags, {**_MODEL, **(_SUPERRES if superres else _PLAIN), **_DIFFUSION, **_RESCALE[family]})
    size = full["large_size" if superres else "image_size"]
    passed = ("num_res_blocks", "dropout", "use_checkpoint", "num_heads", "num_head_channels", "num_heads_upsample")
    passed += ("use_scale_shift_norm", "resblock_updown")
    arguments = {name: full[name] for name in passed}
    arguments |= {
        "in_channels": 3,
        "out_channels": 6 if full["learn_sigma"] else 3,
        "model_channels": full["num_channels"],
        "num_classes": NUM_CLASSES if full["class_cond"] else None,
        "attention_resolutions": _factors(full["attention_resolutions"], size),
    }
    if superres:
        net = superres_from_arguments({**arguments, "channel_mult": _mults(size, _SUPERRES_MULTS)})
    else:
        arguments["channel_mult"] = _mults(size, _MULTS, full["channel_mult"])
        net = unet_from_arguments({**arguments, "use_new_attention_order": full["use_new_attention_order"]})
    low_res = replace(LOW_RES, scale=size // full["small_size"]) if superres else None
    return OfficialModel(net=net, size=size, low_res=low_res, **process_from_flags(full))


def classifier_from_script_flags(flags: Mapping[str, Any]) -> OfficialModel:
    """Translates the flags of the official classifier script; the noise process is the one of its training images.

    Raises:
        ConfigError: An unknown flag, or an image size without a table of multipliers.
    """
    full = _filled(flags, {**_CLASSIFIER, **_DIFFUSION, **_RESCALE["guided_diffusion"]})
    size = full["image_size"]
    net = encoder_from_arguments(
        {
            "image_size": size,
            "in_channels": 3,
            "model_channels": full["classifier_width"],
            "out_channels": NUM_CLASSES,
            "num_res_blocks": full["classifier_depth"],
            "attention_resolutions": _factors(full["classifier_attention_resolutions"], size),
            "channel_mult": _mults(size, _MULTS),
            "num_head_channels": 64,
            "use_scale_shift_norm": full["classifier_use_scale_shift_norm"],
            "resblock_updown": full["classifier_resblock_updown"],
            "pool": full["classifier_pool"],
        }
    )
    return OfficialModel(net=net, size=size, **process_from_flags(full))


def recognise(shapes: Shapes, filename: str = "") -> OfficialModel | None:
    """Reads the architecture off a state dict.

    Heads, layout of attention and the noise process show in no shape. They are those of the published model of these shapes; published
    models that share their shapes differ only in what training alone needs, and are told apart by the file name.

    Args:
        shapes: Name -> shape.
        filename: Name of the file.

    Returns:
        The model, or None where it is of another family.
    """
    try:
        found = _net_of(shapes)
    except (KeyError, IndexError, ZeroDivisionError):  # a tensor that the architecture is read from is missing or has another rank
        return None
    if found is None:
        return None
    net, assumed = found
    label, unsure = (None, ()) if isinstance(net, EncoderConfig) else labels_of_rows(net.num_classes, 0.1, null=False)
    alike = {name: model for name in PUBLISHED if _visible((model := published(name)).net) == _visible(net)}
    if alike:
        name = max((name for name in alike if name in filename), key=len, default=next(iter(alike)))
        return replace(alike[name], label=label, published=name)
    low_res = LOW_RES if isinstance(net, UNetConfig) and net.low_res_channels else None
    learned = isinstance(net, UNetConfig) and net.out_channels == 2 * net.in_channels
    size = net.image_size[0] if isinstance(net, EncoderConfig) else _SIZE_OF.get(net.mults, 0)
    assumed += ("heads", "attention_order", "schedule", "time_input")
    return OfficialModel(
        net=net,
        schedule=DiscreteConfig(),
        denoiser=DenoiserConfig(variance="learned_range" if learned else "fixed_large"),
        objective=ClassifyConfig() if isinstance(net, EncoderConfig) else DenoisingConfig(),
        size=size,
        label=label,
        low_res=low_res,
        assumed=assumed + (() if size else ("size",)) + (("low_res.scale",) if low_res else ()) + unsure,
    )


@cache
def published(name: str) -> OfficialModel:
    """A published model by the name of its file, without the ending.

    Raises:
        ConfigError: There is no such model.
    """
    if name not in PUBLISHED:
        raise unknown("published model", name, PUBLISHED)
    family, flags = PUBLISHED[name]
    if name.endswith("classifier"):
        return replace(classifier_from_script_flags(flags), objective=ClassifyConfig())
    return model_from_script_flags(flags, family=family)


_SIZE_OF: Mapping[tuple[float, ...], int] = {mults: size for size, mults in _MULTS.items()}


def _visible(net: NetworkConfig) -> NetworkConfig:
    """A network without the settings that its shapes do not show."""
    if isinstance(net, UNetConfig):
        net = replace(net, heads_up=None)
    if isinstance(net, UNetConfig | EncoderConfig):
        return replace(net, heads=1, head_channels=None, attention_order="legacy", dropout=0.0, checkpointing=False)
    return net


def _net_of(shapes: Shapes) -> tuple[UNetConfig | EncoderConfig, tuple[str, ...]] | None:
    """The network of a state dict, and the names of what is assumed."""
    if not {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.1.qkv.weight"} <= shapes.keys():
        return None
    encoder = not any(name.startswith("output_blocks.") for name in shapes)
    resample, cuts = _levels(shapes, encoder=encoder)
    levels, blocks = cuts[0]
    width, in_channels = shapes["time_embed.0.weight"][1], shapes["input_blocks.0.0.weight"][1]
    widths = [_width(shapes, level * (blocks + 1) + 1) for level in range(levels)]
    attention = tuple(2**level for level in range(levels) if f"input_blocks.{level * (blocks + 1) + 1}.1.qkv.weight" in shapes)
    shared: dict[str, Any] = {
        "width": width,
        "mults": tuple(w / width for w in widths),
        "blocks": blocks,
        "attention": attention,
        "scale_shift": shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * widths[0],
        "resample": resample,
    }
    assumed = () if len(cuts) == 1 else ("mults",)
    if encoder:
        pool, classes = _pool(shapes)
        side = _SIZE_OF.get(shared["mults"], 0)
        if pool == "attention":
            side = math.isqrt(shapes["out.2.positional_embedding"][1] - 1) * 2 ** (levels - 1)
        net = EncoderConfig(in_channels=in_channels, out_channels=classes, image_size=(side, side), pool=pool, **shared)
        return net, assumed
    out_channels = shapes["out.2.weight"][0]
    rows = shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None
    # As many channels in as out for gray or colour images with a learned variance, or half as many out, means a second image beside x.
    superres = in_channels == 2 * out_channels or in_channels == out_channels in (2, 6)
    channels = in_channels // 2 if superres else in_channels
    low = channels if superres else 0
    heads = 4 if all(w % 4 == 0 for w in widths) else 1
    return UNetConfig(
        in_channels=channels, out_channels=out_channels, low_res_channels=low, num_classes=rows, heads=heads, **shared
    ), assumed


def _width(shapes: Shapes, index: int) -> int:
    return shapes[f"input_blocks.{index}.0.out_layers.3.weight"][0]


def _levels(shapes: Shapes, *, encoder: bool) -> tuple[Resampling, list[tuple[int, int]]]:
    """How resolutions change, and the possible pairs of (levels, blocks a level), the likeliest first."""
    total = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks."))
    convs = [i for i in range(total) if f"input_blocks.{i}.0.op.weight" in shapes]
    gaps = [i for i in range(1, total) if f"input_blocks.{i}.0.in_layers.0.weight" not in shapes and i not in convs]
    if convs or gaps:
        levels = len(convs or gaps) + 1
        return "conv" if convs else "pool", [(levels, total // levels - 1)]
    if not encoder:
        ups = [name for name in shapes if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", name)]
        return "block", [(len(ups) + 1, total // (len(ups) + 1) - 1)]

    def fits(blocks: int) -> bool:
        """Whether each level has one width and attention in all blocks or none, and halves without either changing."""
        for start in range(1, total, blocks + 1):
            level = range(start, start + blocks)
            down = start + blocks
            told = {(_width(shapes, i), f"input_blocks.{i}.1.qkv.weight" in shapes) for i in level}
            if len(told) > 1 or any(f"input_blocks.{i}.0.skip_connection.weight" in shapes for i in level[1:]):
                return False
            if down < total and (f"input_blocks.{down}.1.qkv.weight" in shapes or _width(shapes, down) != _width(shapes, start)):
                return False
        return True

    cuts = [(total // (blocks + 1), blocks) for blocks in range(1, total) if total % (blocks + 1) == 0 and fits(blocks)]
    official = [cut for cut in cuts if cut[0] in {len(mults) for mults in _MULTS.values()}]
    return "block", official or cuts


def _pool(shapes: Shapes) -> tuple[Pool, int]:
    """The pooling of a classifier, and its number of classes."""
    if "out.2.positional_embedding" in shapes:
        return "attention", shapes["out.2.c_proj.weight"][0]
    if len(shapes["out.0.weight"]) == 1:
        return "adaptive", shapes["out.3.weight"][0]
    return ("spatial_v2", shapes["out.3.weight"][0]) if "out.3.weight" in shapes else ("spatial", shapes["out.2.weight"][0])


_RESIDUAL = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embed": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3"}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}


def _layers(config: UNetConfig | EncoderConfig) -> Iterable[tuple[str, str]]:
    """Yields (our layer, official layer) in the official order."""

    def block(ours: str, official: str, changes: bool, attention: bool) -> Iterable[tuple[str, str]]:
        for a, b in _RESIDUAL.items():
            yield f"{ours}.residual.{a}", f"{official}.0.{b}"
        if changes:
            yield f"{ours}.residual.skip", f"{official}.0.skip_connection"
        if attention:
            for a, b in _ATTENTION.items():
                yield f"{ours}.attention.{a}", f"{official}.1.{b}"

    def resample(ours: str, official: str, conv: str) -> Iterable[tuple[str, str]]:
        if config.resample == "block":
            for a, b in _RESIDUAL.items():
                yield f"{ours}.{a}", f"{official}.{b}"
        elif config.resample == "conv":
            yield f"{ours}.conv", f"{official}.{conv}"

    widths = [int(mult * config.width) for mult in config.mults]
    yield "time_embed.hidden", "time_embed.0"
    yield "time_embed.out", "time_embed.2"
    if isinstance(config, UNetConfig) and config.num_classes is not None:
        yield "label_embed", "label_emb"
    yield "stem", "input_blocks.0.0"
    index, channels = 1, widths[0]
    for i, width in enumerate(widths):
        for j in range(config.blocks):
            yield from block(f"down.{i}.blocks.{j}", f"input_blocks.{index}", channels != width, 2**i in config.attention)
            index, channels = index + 1, width
        if i < len(widths) - 1:
            yield from resample(f"down.{i}.resample", f"input_blocks.{index}.0", "op")
            index += 1
    for k, part in enumerate(("before", "attention", "after")):
        for a, b in (_ATTENTION if part == "attention" else _RESIDUAL).items():
            yield f"middle.{part}.{a}", f"middle_block.{k}.{b}"
    if isinstance(config, EncoderConfig):
        yield from _head(config)
        return
    index = 0
    for i in reversed(range(len(widths))):
        attention = 2**i in config.attention
        for j in range(config.blocks + 1):
            # Channels grow by those of the skip connection, so that the widths always change.
            yield from block(f"up.{i}.blocks.{j}", f"output_blocks.{index}", True, attention)
            if i and j == config.blocks:
                yield from resample(f"up.{i}.resample", f"output_blocks.{index}.{2 if attention else 1}", "conv")
            index += 1
    yield "head.norm", "out.0"
    yield "head.conv", "out.2"


def _head(config: EncoderConfig) -> Iterable[tuple[str, str]]:
    if config.pool == "adaptive":
        return [("head.norm", "out.0"), ("head.out", "out.3")]
    if config.pool == "attention":
        return [("head.norm", "out.0"), ("head.attention.qkv", "out.2.qkv_proj"), ("head.out", "out.2.c_proj")]
    if config.pool == "spatial":
        return [("head.hidden", "out.0"), ("head.out", "out.2")]
    return [("head.hidden", "out.0"), ("head.norm", "out.1"), ("head.out", "out.3")]


def official_keys(config: UNetConfig | EncoderConfig) -> dict[str, str]:
    """The name of every parameter: ours -> official, one to one.

    Args:
        config: The network, plain or super-resolution, or the classifier.
    """
    keys = {}
    for ours, official in _layers(config):
        keys[f"{ours}.weight"] = f"{official}.weight"
        if ours != "label_embed":
            keys[f"{ours}.bias"] = f"{official}.bias"
    if isinstance(config, EncoderConfig) and config.pool == "attention":
        keys["head.attention.position"] = "out.2.positional_embedding"
    return keys


def _ones(config: UNetConfig | EncoderConfig, official: str) -> int:
    """Number of axes of length 1 at the end of an official weight: it is a 1x1 convolution there, and a linear layer here."""
    layer, _, member = official.rpartition(".")
    if member == "weight" and layer.rpartition(".")[2] in ("qkv", "proj_out", "qkv_proj", "c_proj"):
        return 1
    return 2 if official == "out.3.weight" and isinstance(config, EncoderConfig) and config.pool == "adaptive" else 0


def to_ours(state: Mapping[str, Tensor], config: UNetConfig | EncoderConfig) -> dict[str, Tensor]:
    """Renames an official state dict and brings its weights to our layout.

    Args:
        state: The official state dict.
        config: The network that it belongs to.

    Returns:
        The state dict of our network; views of the given tensors.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    keys = official_keys(config)
    check_names(state, keys.values(), "an official checkpoint")
    return {ours: state[official].flatten(-1 - _ones(config, official)) for ours, official in keys.items()}


def to_official(state: Mapping[str, Tensor], config: UNetConfig | EncoderConfig) -> dict[str, Tensor]:
    """The inverse of ``to_ours``.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    keys = official_keys(config)
    check_names(state, keys, "a state dict")
    return {official: state[ours][(..., *[None] * _ones(config, official))] for ours, official in keys.items()}
