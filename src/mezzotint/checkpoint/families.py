"""Every family of official checkpoints: opens a file of any of them, and says of a strange one which known model it is nearest to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mezzotint.checkpoint import answers
from mezzotint.checkpoint.cards import Card, card_of_path
from mezzotint.checkpoint.official import ddpm, diffusers, dit, edm, guided_diffusion, score_sde, sr3, u_vit
from mezzotint.checkpoint.official.base import OfficialModel, Shapes
from mezzotint.configs import EncoderConfig, NetworkConfig
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.registry import get
from mezzotint.weights.foreign import AGAIN, read_foreign

FAMILIES: Mapping[str, ModuleType] = {m.NAME: m for m in (guided_diffusion, dit, u_vit, edm, diffusers, ddpm, score_sde, sr3)}
"""Name -> adapter."""
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl")
"""Endings of the files that can be opened."""
_INSIDE = ("ema", "ema_state_dict", "state_dict", "model", "net", "params")
"""Where training checkpoints keep their weights, averages first."""


@dataclass
class Official:
    """An official checkpoint, opened.

    Attributes:
        path: The file, or the folder.
        file: The file that the weights are in.
        family: Name of its adapter.
        model: What it is.
        state: The state dict of our network; large tensors are still on the disk. Whoever fills a network takes them out.
        card: What is known of it, where it is named after a published model.
    """

    path: Path
    file: Path
    family: str
    model: OfficialModel
    state: dict[str, Tensor]
    card: Card | None


def is_official(path: Path) -> bool:
    """Whether a path looks like a file or folder of other code."""
    return path.suffix in SUFFIXES if path.is_file() else diffusers.is_folder(path)


def open_official(path: str | Path, settings: Mapping[str, Any] | None = None) -> Official:
    """Opens a checkpoint of other code, and finds out what it is.

    Args:
        path: A ``.pt``, ``.pth``, ``.ckpt``, ``.bin``, ``.safetensors`` or EDM ``.pkl`` file, or a folder of diffusers.
        settings: Answers to what it does not tell, by name.

    Raises:
        CheckpointError: The file is damaged, would run code, or is of no known family; the message names the nearest known model.
        ConfigError: Something can be neither inferred nor found on a card; the message names it.
    """
    path, settings = Path(path), dict(settings or {})
    card = card_of_path(path)
    facts = {**(card.settings if card else {}), **settings}
    known: OfficialModel | None = None
    file = path
    if path.is_dir() or (path.name in diffusers.WEIGHTS and diffusers.is_folder(path.parent)):
        folder = path if path.is_dir() else path.parent
        state, known = diffusers.read_folder(folder)
        unet = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
        file = next(unet / name for name in diffusers.WEIGHTS if (unet / name).is_file())
    elif path.suffix == ".pkl":
        state, known = edm.read_pickle(path)
    else:
        state = state_of(read_foreign(path), path)
    family, model, ours = identify(state, str(answers.hint(facts) or path), known=known, settings=settings, card=card, where=path)
    if card is not None and (card.family != family or (model.published and model.published != card.name)):
        card = None  # the name promises another model than the file holds
    if not model.size and not isinstance(model.net, EncoderConfig):
        model = replace(model, assumed=(*(name for name in model.assumed if name != "size"), "size"))
    if model.assumed:
        beside = " (or give its folder, with config.json and scheduler_config.json)" if family == diffusers.NAME else ""
        raise ConfigError(
            f"{path} is a '{model.net.kind[1]}' of {family} and no published model, and does not tell: {', '.join(model.assumed)}; "
            f"say each{beside}, usually {answers.ask(model)}"
        )
    return Official(path, file, family, model, ours, card)


def state_of(tree: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds: itself, or that of a training checkpoint, its averages first.

    Raises:
        CheckpointError: There is none.
    """
    if isinstance(tree, Mapping) and isinstance(tree.get("ema"), Mapping) and "shadow_params" in tree["ema"]:
        return score_sde.state_of(tree)
    inner = [tree[name] for name in _INSIDE if name in tree] if isinstance(tree, Mapping) else []
    for candidate in (tree, *inner):
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {str(name).removeprefix("module."): value for name, value in candidate.items()}
    held = f"a table of {', '.join(map(str, list(tree)[:5])) or 'nothing'}" if isinstance(tree, Mapping) else f"a {type(tree).__name__}"
    raise CheckpointError(f"{path} holds {held} and no state dict; {AGAIN}")


def identify(
    state: Mapping[str, Tensor],
    filename: str,
    *,
    known: OfficialModel | None = None,
    settings: Mapping[str, Any] | None = None,
    card: Card | None = None,
    where: Path | str = "",
) -> tuple[str, OfficialModel, dict[str, Tensor]]:
    """The family and architecture of a state dict.

    Args:
        state: Official names -> tensors; only their shapes are looked at.
        filename: Its file, which tells what shapes cannot.
        known: What its settings say, where it came with some.
        settings: Answers to what it does not tell, by name.
        card: What its name says it is; counts where the family is the same.
        where: The file, for messages.

    Returns:
        Name of the family, the model, and the state dict of our network.

    Raises:
        CheckpointError: It is of no family, or differs from the architecture that the rest of it describes.
        ConfigError: An answer does not fit.
    """
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    taken: list[tuple[str, OfficialModel]] = []
    for name, family in FAMILIES.items():
        try:
            found = family.recognise(shapes, filename)
        except Exception:  # a state dict that is no model may break any assumption
            found = None
        if found is None:
            continue
        taken.append((name, known or found))
        told = card.settings if card is not None and card.family == name else {}
        model = answers.apply(known or found, {**told, **(settings or {})})
        try:
            ours = family.to_ours(state, model.net)
        except Exception:  # as above: the message below names the difference
            continue
        try:
            with torch.device("meta"):
                wanted = get(*model.net.kind)(model.net).state_dict()
        except ConfigError:
            if not model.assumed:
                raise
            return name, model, ours  # what is asked for next may mend it, as the number of heads
        if {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in wanted.items()}:
            return name, model, ours
    raise CheckpointError(f"{where or filename}: {difference(shapes, taken)}; {AGAIN}")


# --- files that fit nothing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Known:
    """A model to compare with."""

    name: str
    family: str
    net: NetworkConfig
    size: int = 32

    @property
    def names(self) -> set[str]:
        keys = _keys(self)
        return {part for names in keys.values() for part in ((names,) if isinstance(names, str) else names)}


def _keys(known: _Known) -> dict[str, Any]:
    family = FAMILIES[known.family]
    return family.official_keys(known.net, known.size) if known.family == edm.NAME else family.official_keys(known.net)


def _shapes(known: _Known) -> dict[str, tuple[int, ...]]:
    family = FAMILIES[known.family]
    with torch.device("meta"):
        state = get(*known.net.kind)(known.net).state_dict()
        given = {"size": known.size} if known.family == edm.NAME else {}
        return {name: tuple(value.shape) for name, value in family.to_official(state, known.net, **given).items()}


def _published() -> Iterator[_Known]:
    for name in guided_diffusion.PUBLISHED:
        yield _Known(name, guided_diffusion.NAME, guided_diffusion.published(name).net)
    for size in (256, 512):
        yield _Known(f"DiT-XL-2-{size}x{size}", dit.NAME, dit.config_from_arguments({"input_size": size // 8}))
    for name, arguments in u_vit.PUBLISHED.items():
        yield _Known(name, u_vit.NAME, u_vit.config_from_arguments(arguments))
    for name in sr3.PUBLISHED:
        yield _Known(name, sr3.NAME, sr3.published(name).net)
    shared: dict[str, Any] = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "augment_dim": 9, "channel_mult": (2, 2, 2)}
    skips = {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": (1, 3, 3, 1)}
    adm = {"img_resolution": 64, "in_channels": 3, "out_channels": 3, "label_dim": 1000}
    ddpm_cifar10 = {
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", *["DownBlock2D"] * 2),
    }
    ddpm_cifar10 |= {"up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": None}
    yield _Known("edm-cifar10-32x32-uncond-vp", edm.NAME, edm.network_from_arguments("SongUNet", shared))
    yield _Known("edm-cifar10-32x32-uncond-ve", edm.NAME, edm.network_from_arguments("SongUNet", {**shared, **skips}))
    yield _Known("edm-imagenet-64x64-cond-adm", edm.NAME, edm.network_from_arguments("DhariwalUNet", adm), 64)
    yield _Known("ddpm-cifar10-32", diffusers.NAME, diffusers.network_from_config(ddpm_cifar10))


def difference(shapes: Shapes, taken: list[tuple[str, OfficialModel]]) -> str:
    """Which known model a state dict is nearest to, and its first differing tensor.

    Args:
        shapes: Official name -> shape.
        taken: Families that recognised it, and as what.
    """
    stripped = {name.removeprefix("model.").removeprefix(sr3.PREFIX): shape for name, shape in shapes.items()}
    candidates = [_Known("", family, model.net, model.size) for family, model in taken]
    ranked = sorted(_published(), key=lambda known: -_overlap(known.names, stripped.keys()))
    best, best_count, text = ranked[0], -1, ""
    nearest, nearest_count = ranked[0].name, -1
    for known in (*ranked[:3], *candidates):
        try:
            wanted = _shapes(known)
        except (ConfigError, CheckpointError):
            continue
        agree = sum(stripped.get(name) == shape for name, shape in wanted.items())
        if known.name and agree > nearest_count:
            nearest, nearest_count = known.name, agree
        if agree > best_count:
            best, best_count, text = known, agree, _first(stripped, wanted)
    start = "it is of no known family" if not taken else f"it is nearly a '{best.net.kind[1]}' of {best.family}, but not quite"
    return f"{start}: {text}; nearest known model: {nearest}, with which {nearest_count} of {len(shapes)} tensors agree"


def _overlap(a: set[str], b: Any) -> float:
    return len(a & b) / max(1, len(a | b))


def _first(found: Shapes, wanted: Shapes) -> str:
    for name, shape in wanted.items():
        if name not in found:
            return f"'{name}' is missing"
        if found[name] != shape:
            return f"'{name}' has shape {found[name]} and should have {shape}"
    extra = next((name for name in found if name not in wanted), None)
    return f"'{extra}' is unknown" if extra else "its layout differs"
