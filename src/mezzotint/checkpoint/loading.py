"""From a model folder, an official file or the name of a published model to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mezzotint.checkpoint.cards import cards, fetch_card, nearest
from mezzotint.checkpoint.convert import spec_of
from mezzotint.checkpoint.families import is_official, open_official
from mezzotint.configs import DataFacts, Spec
from mezzotint.errors import CheckpointError, ConfigError, unknown
from mezzotint.pipelines.build import build_classifier, build_network, build_stage
from mezzotint.pipelines.cascade import Cascade
from mezzotint.pipelines.generate import ClassifierModel, Model
from mezzotint.weights.filling import fill
from mezzotint.weights.hub import progress_bar
from mezzotint.weights.io import SPEC_FILE, choose_weights, file_hash, find_model, read_spec, read_weights

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name -> type that weights can be loaded in."""


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fresh(spec: Spec, *, device: torch.device | str | None = None) -> Model | ClassifierModel:
    """A model with fresh weights.

    Args:
        spec: A resolved recipe with the facts of its data.
        device: Where to put it; None: the accelerator where there is one.
    """
    where = default_device() if device is None else torch.device(device)
    return _assemble(spec, build_network(spec.recipe), where, None, None)


def load(
    path: str | Path,
    *,
    ema: float | bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Model | ClassifierModel:
    """Rebuilds a model from its folder, from a file of other code, or by the name of a published model, without any flag.

    Args:
        path: A model folder, the folder of a training run (its finished model, or its newest checkpoint), a checkpoint; an official file
            (``.pt``, ``.pth``, ``.safetensors``, EDM's ``.pkl``) or diffusers' folder; or a name of `mezzotint models`, which is fetched
            unless it is in the cache.
        ema: True for the first moving average, False for the weights as trained, a number for the average of that decay. Official files
            have one set of weights.
        device: Where to put it; None: the accelerator where there is one.
        dtype: Type of the weights: "fp32", "bf16", "fp16" or one of torch's; None: that of the file.
        settings: For official files, answers to what they do not tell, such as ``{"heads": 4}``.

    Returns:
        A generator or a classifier, in evaluation mode.

    Raises:
        CheckpointError: There is no model, it is damaged, or it is of no known family.
        ConfigError: The file does not tell something, or the settings do not fit.
    """
    where = default_device() if device is None else torch.device(device)
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        dtype = DTYPES[dtype]
    place = locate(path)
    if is_official(place) and not (place / SPEC_FILE).is_file():
        official = open_official(place, settings)
        digest = file_hash(official.file)
        spec = spec_of(official, sha256=digest)
        name, file, tensors = official.file.name, official.file, official.state
        spec = replace(spec, weights={name: {"model": "model", "ema": None, "images": 0, "sha256": digest}})
    else:
        if settings:
            raise ConfigError(f"{place} is a model folder, which tells everything; leave out the settings: {', '.join(settings)}")
        place = find_model(place)
        spec = read_spec(place)
        name = choose_weights(spec, ema=ema)
        file, tensors = place / name, read_weights(place, spec, ema=ema)
    with torch.device("meta"):
        network = build_network(spec.recipe)
    fill(network, tensors, where=file, files=[file], device=where, dtype=dtype)
    model = _assemble(spec, network, where, place, name)
    if not spec.before:
        return model
    stages = [load(place / stage, ema=ema, device=where, dtype=dtype) for stage in spec.before]
    return Cascade([stage for stage in (*stages, model) if isinstance(stage, Model)], spec=spec, path=place)


def weights_hash(path: str | Path, *, ema: float | bool = True) -> str:
    """SHA-256 of the weights that ``load`` would read; same arguments and errors."""
    place = locate(path)
    if is_official(place) and not (place / SPEC_FILE).is_file():
        return file_hash(open_official(place).file)
    spec = read_spec(find_model(place))
    return spec.weights[choose_weights(spec, ema=ema)]["sha256"]


def locate(path: str | Path) -> Path:
    """Where a model is: the path itself, or where the published model of that name is kept, once it is fetched.

    Raises:
        CheckpointError: Nothing has that path or name, or it cannot be fetched.
    """
    place = Path(path)
    if place.exists():
        return place
    if str(path) in cards():
        return fetch_card(cards()[str(path)], bar=progress_bar)
    hint = nearest(str(path)) if len(place.parts) == 1 else ""
    raise CheckpointError(f"no model at {path}: it does not exist{hint}; give a model folder, a run, an official file or a published name")


def _assemble(spec: Spec, network: nn.Module, where: torch.device, path: Path | None, weights: str | None) -> Model | ClassifierModel:
    if spec.recipe.task == "classify":
        return ClassifierModel(spec, build_classifier(spec.recipe, network).to(where).eval(), path=path, weights=weights)
    stage = build_stage(spec.recipe, network)
    stage.denoiser.to(where).eval()
    stage.conditioner.to(where).eval()

    def load_other(name: str, *, ema: float | bool = True) -> Model | ClassifierModel:
        other = load(name, ema=ema, device=where)
        if other.facts.channels != spec.data.channels or other.facts.size != spec.data.size:
            raise ConfigError(
                f"'{name}' is for images of {_size(other.facts)}, this model makes {_size(spec.data)}; train one on the same data"
            )
        return other

    return Model(spec, stage, load=load_other, path=path, weights=weights)


def _size(facts: DataFacts) -> str:
    height, width = facts.size
    return f"{height}x{width}x{facts.channels}"
