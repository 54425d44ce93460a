"""From a model folder to a model."""

from __future__ import annotations

from pathlib import Path

import torch

from mezzotint.configs import DataFacts, Spec
from mezzotint.errors import ConfigError
from mezzotint.pipelines.build import build_classifier, build_stage
from mezzotint.pipelines.generate import ClassifierModel, Model
from mezzotint.weights.io import choose_weights, find_model, load_into, read_spec, read_weights


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fresh(spec: Spec, *, device: torch.device | str | None = None) -> Model | ClassifierModel:
    """A model with fresh weights.

    Args:
        spec: A resolved recipe with the facts of its data.
        device: Where to put it; None: the accelerator where there is one.
    """
    return _assemble(spec, device, None, None)


def load(path: str | Path, *, ema: float | bool = True, device: torch.device | str | None = None) -> Model | ClassifierModel:
    """Rebuilds a model from its folder, without any flag.

    Args:
        path: A model folder, the folder of a training run (its finished model, or its newest checkpoint), or a checkpoint.
        ema: True for the first moving average, False for the weights as trained, a number for the average of that decay.
        device: Where to put it; None: the accelerator where there is one.

    Returns:
        A generator or a classifier, in evaluation mode.

    Raises:
        CheckpointError: There is no model, or it is damaged.
    """
    folder = find_model(path)
    spec = read_spec(folder)
    name = choose_weights(spec, ema=ema)
    model = _assemble(spec, device, folder, name)
    network = model.stage.denoiser.network if isinstance(model, Model) else model.classifier.network
    load_into(network, read_weights(folder, spec, ema=ema), where=folder / name)
    return model


def _assemble(spec: Spec, device: torch.device | str | None, path: Path | None, weights: str | None) -> Model | ClassifierModel:
    where = default_device() if device is None else torch.device(device)
    if spec.recipe.task == "classify":
        return ClassifierModel(spec, build_classifier(spec.recipe).to(where).eval(), path=path, weights=weights)
    stage = build_stage(spec.recipe)
    stage.denoiser.to(where).eval()
    stage.conditioner.to(where).eval()

    def load_other(name: str) -> Model | ClassifierModel:
        other = load(name, device=where)
        if other.facts.channels != spec.data.channels or other.facts.size != spec.data.size:
            raise ConfigError(
                f"'{name}' is for images of {_size(other.facts)}, this model makes {_size(spec.data)}; train one on the same data"
            )
        return other

    return Model(spec, stage, load=load_other, path=path, weights=weights)


def _size(facts: DataFacts) -> str:
    height, width = facts.size
    return f"{height}x{width}x{facts.channels}"
