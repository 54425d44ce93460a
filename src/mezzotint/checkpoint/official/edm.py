"""Models of NVlabs/edm: constructor arguments, pickles and state dicts in terms of ours, and back.

SongUNet (DDPM++, NCSN++) is our ``SongUNetConfig``; DhariwalUNet is our ``UNetConfig`` with groups of at least four channels. The four
preconditioners are noise schedules and parameterisations of ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.checkpoint.official.base import OfficialModel, Shapes, check_names, count
from mezzotint.checkpoint.restricted_pickle import Record, read
from mezzotint.configs import (
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    LabelConfig,
    SongUNetConfig,
    TimesConfig,
    UNetConfig,
    VEConfig,
    VPConfig,
)
from mezzotint.errors import CheckpointError, ConfigError, unknown

NAME = "edm"

SIGMA_RANGE = (0.002, 80.0)
"""What EDM's own preconditioning is sampled between; it is defined for every sigma."""

_NETWORK: Mapping[str, Any] = {
    "img_resolution": None,
    "in_channels": None,
    "out_channels": None,
    "label_dim": 0,
    "augment_dim": 0,
    "channel_mult_emb": 4,
    "dropout": 0.1,
    "label_dropout": 0.0,
}
_SONG: Mapping[str, Any] = {
    **_NETWORK,
    "model_channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "num_blocks": 4,
    "attn_resolutions": (16,),
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": (1, 1),
}
_DHARIWAL: Mapping[str, Any] = {
    **_NETWORK,
    "model_channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "num_blocks": 3,
    "attn_resolutions": (32, 16, 8),
}
_PRECOND: Mapping[str, Any] = {"img_resolution": None, "img_channels": None, "label_dim": 0, "use_fp16": False}
_PRECONDS: Mapping[str, Mapping[str, Any]] = {
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5, "model_type": "SongUNet"},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100.0, "model_type": "SongUNet"},
    "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008, "M": 1000, "model_type": "DhariwalUNet"},
    "EDMPrecond": {"sigma_min": 0.0, "sigma_max": math.inf, "sigma_data": 0.5, "model_type": "DhariwalUNet"},
}
_HEAD_CHANNELS = 64  # of DhariwalUNet, where narrower levels have no attention
_WORDS: Mapping[str, Mapping[str, str]] = {
    "embedding_type": {"positional": "sinusoidal", "fourier": "fourier"},
    "encoder_type": {"standard": "plain", "skip": "skip", "residual": "residual"},
    "decoder_type": {"standard": "plain", "skip": "skip"},
}


def _filled(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in defaults:
            raise unknown("official argument", name, defaults)
    out = {**defaults, **given}
    for name, value in out.items():
        if value is None:
            raise ConfigError(f"the official constructor needs '{name}'; add it to the arguments")
    return out


def _word(flags: Mapping[str, Any], name: str) -> Any:
    if flags[name] not in _WORDS[name]:
        raise unknown(f"value of the official argument '{name}'", flags[name], _WORDS[name])
    return _WORDS[name][flags[name]]


def network_from_arguments(name: str, arguments: Mapping[str, Any]) -> SongUNetConfig | UNetConfig:
    """Translates the arguments of a network's constructor.

    Args:
        name: "SongUNet" or "DhariwalUNet".
        arguments: By their official names.

    Raises:
        ConfigError: An unknown network, an unknown or missing argument, or one without a counterpart.
    """
    if name not in ("SongUNet", "DhariwalUNet"):
        raise unknown("EDM network", name, ("SongUNet", "DhariwalUNet"))
    song = name == "SongUNet"
    flags = _filled(arguments, _SONG if song else _DHARIWAL)
    side, width = flags["img_resolution"], flags["model_channels"]
    mults = tuple(flags["channel_mult"])
    attention = tuple(2**i for i in range(len(mults)) if side >> i in flags["attn_resolutions"])
    shared: dict[str, Any] = {
        "in_channels": flags["in_channels"],
        "out_channels": flags["out_channels"],
        "augment": flags["augment_dim"],
        "width": width,
        "blocks": flags["num_blocks"],
        "dropout": float(flags["dropout"]),
    }
    if song:
        return SongUNetConfig(
            num_classes=flags["label_dim"] or None,
            mults=mults,
            attention=attention,
            embedding=_word(flags, "embedding_type"),
            noise_mult=flags["channel_mult_noise"],
            embed_mult=flags["channel_mult_emb"],
            encoder=_word(flags, "encoder_type"),
            decoder=_word(flags, "decoder_type"),
            filter=tuple(flags["resample_filter"]),
            **shared,
        )
    if flags["channel_mult_emb"] != 4:
        raise ConfigError(f"channel_mult_emb={flags['channel_mult_emb']}: of DhariwalUNet only 4 is supported")
    wide = [mult * width >= _HEAD_CHANNELS for mult in mults]
    return UNetConfig(
        num_classes=flags["label_dim"] + 1 if flags["label_dim"] else None,
        mults=tuple(float(mult) for mult in mults),
        attention=tuple(2**i for i in range(len(mults)) if 2**i in attention and wide[i]),
        attention_middle=wide[-1],
        head_channels=_HEAD_CHANNELS,
        attention_order="legacy",
        scale_shift=True,
        resample="block",
        group_channels=4,
        **shared,
    )


def model_from_constructor(name: str, arguments: Mapping[str, Any]) -> OfficialModel:
    """Translates the arguments of a preconditioner's constructor, those of its network among them.

    Args:
        name: "VPPrecond", "VEPrecond", "iDDPMPrecond" or "EDMPrecond".
        arguments: By their official names.

    Raises:
        ConfigError: An unknown preconditioner, an unknown or missing argument, or one without a counterpart.

    Source: Karras et al. 2022, table 1.
    """
    if name not in _PRECONDS:
        raise unknown("EDM preconditioner", name, _PRECONDS)
    own = {**_PRECOND, **_PRECONDS[name]}
    flags = _filled({k: v for k, v in arguments.items() if k in own}, own)
    rest = {k: v for k, v in arguments.items() if k not in own}
    channels, classes = flags["img_channels"], flags["label_dim"]
    rest |= {"img_resolution": flags["img_resolution"], "in_channels": channels, "label_dim": classes}
    net = network_from_arguments(flags["model_type"], {**rest, "out_channels": channels * (2 if name == "iDDPMPrecond" else 1)})
    label = LabelConfig(num_classes=classes, drop=float(rest.get("label_dropout", 0.0))) if classes else None
    if name == "VPPrecond":
        if flags["M"] != 1000:
            raise ConfigError(f"M={flags['M']}: of VPPrecond only 1000 is supported")
        process: dict[str, Any] = {
            "schedule": VPConfig(beta_min=flags["beta_min"], beta_max=flags["beta_min"] + flags["beta_d"], t_min=flags["epsilon_t"]),
            "denoiser": DenoiserConfig(predicts="eps", time_input="t_999"),
        }
    elif name == "VEPrecond":
        process = {
            "schedule": VEConfig(flags["sigma_min"], flags["sigma_max"]),
            "denoiser": DenoiserConfig(predicts="scaled_score", time_input="log_half_sigma"),
            "times": TimesConfig("loguniform"),
        }
    elif name == "iDDPMPrecond":
        if (flags["C_1"], flags["C_2"]) != (0.001, 0.008):
            raise ConfigError(f"C_1={flags['C_1']} and C_2={flags['C_2']}: of iDDPMPrecond only 0.001 and 0.008 are supported")
        process = {
            "schedule": DiscreteConfig(betas="cosine", steps=flags["M"]),
            "denoiser": DenoiserConfig(predicts="eps", variance="learned_range", time_input="nearest"),
        }
    else:
        low, high = flags["sigma_min"] or SIGMA_RANGE[0], min(flags["sigma_max"], SIGMA_RANGE[1])
        process = {
            "schedule": VEConfig(low, high),
            "denoiser": DenoiserConfig(predicts="edm", time_input="log_sigma", sigma_data=flags["sigma_data"]),
            "objective": DenoisingConfig(weighting="edm"),
            "times": TimesConfig("lognormal"),
        }
    return OfficialModel(net=net, size=flags["img_resolution"], label=label, clip=False, **process)


# --- recognition -------------------------------------------------------------------------------------------------------

_RESOLUTION = re.compile(r"^(?:enc|dec)\.(\d+)x\1_")


def _network_part(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the network, without the preconditioner's prefix and its table of noise levels."""
    return {name.removeprefix("model."): value for name, value in shapes.items() if name != "u"}


def _size(names: Iterable[str]) -> int:
    found = [int(match[1]) for name in names if (match := _RESOLUTION.match(name))]
    return max(found, default=0)


def _precond(filename: str, shapes: Shapes) -> tuple[str, tuple[str, ...]]:
    name = Path(filename).name.lower()
    if "u" in shapes:
        return "iDDPMPrecond", ()
    if name.startswith("edm-"):
        return "EDMPrecond", ()
    for word, precond in (("-vp", "VPPrecond"), ("-ve", "VEPrecond")):
        if name.startswith("baseline-") and word in name:
            return precond, ()
    return "EDMPrecond", ("preconditioning",)


def recognise(shapes: Shapes, filename: str = "") -> OfficialModel | None:
    """Reads the architecture off a state dict, of a network or of its preconditioner.

    Args:
        shapes: Name -> shape.
        filename: Tells the preconditioner apart where the published names do: ``edm-*``, ``baseline-*-vp*``, ``baseline-*-ve*``.

    Returns:
        The model, or None where it is of another family. Pickles say more: see ``read_pickle``.
    """
    inner = _network_part(shapes)
    side = _size(inner)
    first, hidden = inner.get(f"enc.{side}x{side}_conv.weight", ()), inner.get("map_layer0.weight", ())
    if len(first) != 4 or len(hidden) != 2:
        return None
    song = "out_conv.weight" not in inner
    sides = sorted({int(match[1]) for name in inner if (match := _RESOLUTION.match(name))}, reverse=True)
    widths = [inner.get(f"enc.{r}x{r}_block0.conv1.weight", (0,))[0] for r in sides]
    last = inner.get(f"dec.{side}x{side}_aux_conv.weight" if song else "out_conv.weight", ())
    width = first[0] if song else hidden[1]
    if not last or not all(widths) or any(w % width for w in widths):
        return None
    labels = inner.get("map_label.weight", (0, 0))
    arguments: dict[str, Any] = {
        "img_resolution": side,
        "img_channels": first[1],
        "label_dim": labels[1],
        "augment_dim": inner.get("map_augment.weight", (0, 0))[1],
        "model_channels": width,
        "channel_mult": tuple(w // width for w in widths),
        "channel_mult_emb": hidden[0] // width,
        "num_blocks": count((name for name in inner if name.startswith(f"enc.{side}x{side}_block")), f"enc.{side}x{side}_block"),
        "attn_resolutions": tuple(r for r in sides if any(name.startswith(f"enc.{r}x{r}_block") and ".qkv." in name for name in inner)),
        "model_type": "SongUNet" if song else "DhariwalUNet",
    }
    if song:
        low = sides[1] if len(sides) > 1 else 0
        taps = inner.get(f"enc.{low}x{low}_down.conv0.resample_filter", (1, 1, 2, 2))[-1]
        arguments |= {
            "embedding_type": "fourier" if "map_noise.freqs" in inner else "positional",
            "channel_mult_noise": hidden[1] // width,
            "encoder_type": "residual"
            if f"enc.{low}x{low}_aux_residual.weight" in inner
            else "skip"
            if f"enc.{low}x{low}_aux_skip.weight" in inner
            else "standard",
            "decoder_type": "skip" if f"dec.{sides[-1]}x{sides[-1]}_aux_conv.weight" in inner and low else "standard",
            "resample_filter": tuple(math.comb(taps - 1, i) for i in range(taps)),
        }
    precond, assumed = _precond(filename, shapes)
    if last[0] == 2 * first[1]:
        precond, assumed = "iDDPMPrecond", ()
    try:
        model = model_from_constructor(precond, arguments)
    except ConfigError:
        return None
    published = re.fullmatch(r"(edm|baseline)-[a-z0-9]+-(\d+)x\2-(un)?cond-(vp|ve|adm)", Path(filename).stem)
    return replace(model, assumed=assumed, published=published[0] if published else "")


# --- state dicts -------------------------------------------------------------------------------------------------------

_RESIDUAL = {"norm1": "norm0", "conv1": "conv0", "embed": "affine", "norm2": "norm1", "conv2": "conv1"}
_ATTENTION = {"norm": "norm2", "qkv": "qkv", "out": "proj"}


def _layers(config: SongUNetConfig | UNetConfig, size: int) -> Iterator[tuple[str, str]]:
    """Yields (our layer, official layer); an official layer that ends in "resample_filter" has no counterpart."""
    song = isinstance(config, SongUNetConfig)

    def residual(ours: str, official: str, *, changes: bool, resamples: bool = False) -> Iterator[tuple[str, str]]:
        for a, b in _RESIDUAL.items():
            yield f"{ours}.{a}", f"{official}.{b}"
        if changes or (resamples and song):
            yield f"{ours}.skip", f"{official}.skip"
        if resamples:
            yield "", f"{official}.conv0.resample_filter"
            yield "", f"{official}.skip.resample_filter"

    def attention(ours: str, official: str) -> Iterator[tuple[str, str]]:
        for a, b in _ATTENTION.items():
            yield f"{ours}.{a}", f"{official}.{b}"

    def at(level: int) -> str:
        return f"{size >> level}x{size >> level}"

    widths = [int(mult * config.width) for mult in config.mults]
    steps = len(widths) - 1
    yield "time_embed.hidden", "map_layer0"
    yield "time_embed.out", "map_layer1"
    yield "stem", f"enc.{at(0)}_conv"
    channels = config.width if song else widths[0]
    skips = [channels]
    for i, width in enumerate(widths):
        for j in range(config.blocks):
            block = f"enc.{at(i)}_block{j}"
            yield from residual(f"down.{i}.blocks.{j}.residual", block, changes=channels != width)
            if 2**i in config.attention:
                yield from attention(f"down.{i}.blocks.{j}.attention", block)
            channels = width
            skips.append(width)
        if i < steps:
            yield from residual(f"down.{i}.resample", f"enc.{at(i + 1)}_down", changes=False, resamples=True)
            skips.append(width)
            if song and config.encoder == "skip":
                yield "", f"enc.{at(i + 1)}_aux_down.resample_filter"
                yield f"sides.{i}.conv", f"enc.{at(i + 1)}_aux_skip"
            if song and config.encoder == "residual":
                yield f"sides.{i}.conv", f"enc.{at(i + 1)}_aux_residual"
                yield "", f"enc.{at(i + 1)}_aux_residual.resample_filter"
    yield from residual("middle.before", f"dec.{at(steps)}_in0", changes=False)
    if song or config.attention_middle:
        yield from attention("middle.attention", f"dec.{at(steps)}_in0")
    yield from residual("middle.after", f"dec.{at(steps)}_in1", changes=False)
    for i, width in reversed(list(enumerate(widths))):
        for j in range(config.blocks + 1):
            block = f"dec.{at(i)}_block{j}"
            yield from residual(f"up.{i}.blocks.{j}.residual", block, changes=channels + skips.pop() != width)
            if 2**i in config.attention and (not song or j == config.blocks):
                yield from attention(f"up.{i}.blocks.{j}.attention", block)
            channels = width
        if i:
            yield from residual(f"up.{i}.resample", f"dec.{at(i - 1)}_up", changes=False, resamples=True)
        if song and (config.decoder == "skip" or i == 0):
            if config.decoder == "skip" and i < steps:
                yield "", f"dec.{at(i)}_aux_up.resample_filter"
            yield f"heads.{i}.norm", f"dec.{at(i)}_aux_norm"
            yield f"heads.{i}.conv", f"dec.{at(i)}_aux_conv"
    if not song:
        yield "head.norm", "out_norm"
        yield "head.conv", "out_conv"


def official_keys(config: SongUNetConfig | UNetConfig, size: int) -> dict[str, str]:
    """The name of every parameter: ours -> official, one to one; the official filters have no counterpart.

    Args:
        config: The network.
        size: Side of the images, which the official names contain.
    """
    keys = {}
    for ours, official in _layers(config, size):
        if ours:
            keys[f"{ours}.weight"], keys[f"{ours}.bias"] = f"{official}.weight", f"{official}.bias"
    if config.num_classes is not None:
        keys["label_embed.weight"] = "map_label.weight"
        if isinstance(config, SongUNetConfig):
            keys["label_embed.bias"] = "map_label.bias"
    if config.augment:
        keys["augment_embed.weight"] = "map_augment.weight"
    if isinstance(config, SongUNetConfig) and config.embedding == "fourier":
        keys["time_embed.fourier.frequencies"] = "map_noise.freqs"
    return keys


def _filters(config: SongUNetConfig | UNetConfig, size: int) -> list[str]:
    return [official for ours, official in _layers(config, size) if not ours]


def _heads(config: SongUNetConfig | UNetConfig, channels: int) -> int:
    return 1 if isinstance(config, SongUNetConfig) else channels // _HEAD_CHANNELS


def to_ours(state: Mapping[str, Tensor], config: SongUNetConfig | UNetConfig) -> dict[str, Tensor]:
    """Renames an official state dict and brings its weights to our layout.

    Args:
        state: The official state dict, of the network or of its preconditioner; the filters may be missing.
        config: The network that it belongs to.

    Returns:
        The state dict of our network; views of the given tensors but for q, k, v and the table of labels.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    inner = _network_part(state)
    size = _size(inner)
    keys = official_keys(config, size)
    filters = set(_filters(config, size))
    check_names(inner.keys() - filters, keys.values(), "an official checkpoint")
    out = {}
    for ours, official in keys.items():
        value = inner[official]
        if official.endswith((".qkv.weight", ".qkv.bias")):
            # Official channels are laid out as (head, channel, q|k|v), ours as (head, q|k|v, channel).
            value = value.unflatten(0, (_heads(config, len(value) // 3), -1, 3)).transpose(1, 2).flatten(0, 2)
        if official.endswith((".qkv.weight", ".proj.weight")):
            value = value.flatten(1)
        if official == "map_label.weight":
            value = value.t()
            if isinstance(config, UNetConfig):  # no label at all is a row of zeros
                value = torch.cat([value, value.new_zeros(1, value.shape[1])])
        out[ours] = value
    return out


def to_official(state: Mapping[str, Tensor], config: SongUNetConfig | UNetConfig, *, size: int) -> dict[str, Tensor]:
    """The inverse of ``to_ours``: the state dict of the official network, without preconditioner.

    Args:
        state: The state dict of our network.
        config: The network.
        size: Side of the images, which the official names contain.

    Raises:
        CheckpointError: Names are missing or left over, or the row that stands for no label is not zero.
        ConfigError: A network that EDM does not have.
    """
    if isinstance(config, UNetConfig) and (config.group_channels, config.head_channels, config.resample) != (4, _HEAD_CHANNELS, "block"):
        raise ConfigError("EDM's DhariwalUNet has group_channels 4, head_channels 64 and resample 'block', this network differs")
    keys = official_keys(config, size)
    check_names(state, keys, "a state dict")
    out = {}
    for ours, official in keys.items():
        value = state[ours]
        if official.endswith((".qkv.weight", ".qkv.bias")):
            value = value.unflatten(0, (_heads(config, len(value) // 3), 3, -1)).transpose(1, 2).flatten(0, 2)
        if official.endswith((".qkv.weight", ".proj.weight")):
            value = value[:, :, None, None]
        if official == "map_label.weight":
            if isinstance(config, UNetConfig):
                if value.device.type != "meta" and value[-1].any():
                    raise CheckpointError("the model learned an embedding for 'no label', which EDM's DhariwalUNet does not have")
                value = value[:-1]
            value = value.t()
        out[official] = value
    taps = torch.tensor(config.filter if isinstance(config, SongUNetConfig) else (1, 1), dtype=torch.float32)
    kernel = (taps[:, None] * taps)[None, None] / taps.sum().square()
    return {**out, **dict.fromkeys(_filters(config, size), kernel)}


# --- pickles -----------------------------------------------------------------------------------------------------------

_PERSISTENT = "_reconstruct_persistent_obj"
_NETWORKS = ("ema", "net", "model")


def _object(value: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Class name and attributes of a pickled object of EDM, or of one of PyTorch's containers."""
    if not isinstance(value, Record):
        return None
    if value.name.endswith(_PERSISTENT) and value.args and isinstance(value.args[0], Mapping):
        meta = value.args[0]
        name, state = meta.get("class_name"), meta.get("state")
    else:
        name, state = value.name.rpartition(".")[2], value.state
    return (name, state) if isinstance(name, str) and isinstance(state, Mapping) else None


def _tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    found = _object(value)
    if found is None or prefix.count(".") > 16:
        raise CheckpointError(f"the pickle has something other than a network at '{prefix}'; give a file of NVlabs/edm")
    _, state = found
    absent = state.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, tensor in (state.get(group) or {}).items():
            if isinstance(tensor, Tensor) and name not in absent:
                yield f"{prefix}{name}", tensor
    for name, module in (state.get("_modules") or {}).items():
        if module is not None:
            yield from _tensors(module, f"{prefix}{name}.")


def read_pickle(path: str | Path) -> tuple[dict[str, Tensor], OfficialModel]:
    """Reads a ``.pkl`` of EDM; nothing in it is executed.

    Args:
        path: A file with a preconditioned network, alone or under "ema".

    Returns:
        The official state dict of the preconditioner, and what its recorded arguments describe.

    Raises:
        CheckpointError: The file is damaged, or holds something else.
    """
    tree = read(path)
    if isinstance(tree, Mapping):
        tree = next((tree[name] for name in _NETWORKS if name in tree), tree)
    found = _object(tree)
    if found is None or found[0] not in _PRECONDS:
        raise CheckpointError(f"{path} holds no preconditioned network of EDM; give one of its published .pkl files")
    name, state = found
    arguments = state.get("_init_kwargs")
    if isinstance(arguments, Record):
        arguments = arguments.items
    if not isinstance(arguments, Mapping) or state.get("_init_args"):
        raise CheckpointError(f"{path} does not record the arguments of its network by name; give one of EDM's published .pkl files")
    try:
        model = model_from_constructor(name, {str(key): value for key, value in arguments.items()})
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return dict(_tensors(tree)), model
