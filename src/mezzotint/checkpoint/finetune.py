"""Training that begins from another model: its architecture, and every weight that fits.

The rule: the network, the schedule and what the output stands for are those of the other model; data, loss and training are the recipe's.
A tensor of the same name and shape is kept. Where the data has other channels or classes,

- input convolutions begin with the mean over the old channels, scaled so that gray images give what they gave before;
- output convolutions begin with the mean over the old channels, for the prediction and the variance each;
- label embeddings begin with the mean of the old classes, the null class as it was; where there were none, with zeros;
- everything else of another shape, such as the last layer of a classifier, begins as in a fresh network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.checkpoint.loading import load
from mezzotint.configs import DataFacts, EncoderConfig, NetworkConfig, Recipe
from mezzotint.errors import ConfigError
from mezzotint.pipelines.build import resolve
from mezzotint.pipelines.generate import ClassifierModel, Model

FREE = ("dropout", "checkpointing")
"""Settings of a network that no weight depends on: they are the recipe's."""


@dataclass(frozen=True)
class Start:
    """Where training begins.

    Attributes:
        source: What it begins from.
        recipe: The recipe with the architecture of the source, resolved for the data.
        model: The source.
    """

    source: str
    recipe: Recipe
    model: Model | ClassifierModel


def begin(source: str | Path, recipe: Recipe, facts: DataFacts) -> Start:
    """Opens the model that training begins from, and gives its architecture to a recipe.

    Args:
        source: What ``load`` takes: a model, run, official file or published name.
        recipe: The recipe as written.
        facts: What the data is.

    Raises:
        ConfigError: The model does something else than the recipe, or does not go with the data.
        CheckpointError: It cannot be loaded.
    """
    model = load(source, device="cpu", dtype=torch.float32)
    old = model.spec.recipe
    if old.task != recipe.task:
        other = "train-classifier" if old.task == "classify" else "train"
        raise ConfigError(f"{source} is a model of `mezzotint {other}`, and recipe '{recipe.name}' is not; give a model of the same kind")
    if getattr(old.net, "text_tokens", 0):
        raise ConfigError(f"{source} needs text, which training on images alone does not have; give another model")
    if (old.low_res is None) != (recipe.low_res is None):
        without, with_ = (source, f"recipe '{recipe.name}'") if old.low_res is None else (f"recipe '{recipe.name}'", source)
        raise ConfigError(f"{with_} begins from low-resolution images, and {without} does not; give a model and a recipe of the same kind")
    cleared: NetworkConfig = replace(old.net, in_channels=0, out_channels=0)
    if hasattr(cleared, "low_res_channels"):
        cleared = replace(cleared, low_res_channels=0)  # pyright: ignore[reportCallIssue]
    if not isinstance(cleared, EncoderConfig):
        cleared = replace(cleared, num_classes=None)
    if hasattr(cleared, "image_size"):
        cleared = replace(cleared, image_size=(0, 0))  # pyright: ignore[reportCallIssue]
    own = {name: getattr(recipe.net, name) for name in FREE if hasattr(recipe.net, name) and hasattr(cleared, name)}
    adopted = replace(recipe, net=replace(cleared, **own), schedule=old.schedule, denoiser=old.denoiser, codec=old.codec)
    return Start(str(source), resolve(adopted, facts), model)


def take_over(start: Start, model: Model | ClassifierModel) -> list[str]:
    """Gives a fresh model the weights of the one that training begins from.

    Args:
        start: Where it begins.
        model: A fresh model of ``start.recipe``; its weights are replaced.

    Returns:
        What was kept, what was made anew and what was left out, in lines.
    """
    old, new = _network(start.model).state_dict(), _network(model).state_dict()
    was, now = start.model.spec.recipe, start.recipe
    kept, lines = 0, []
    with torch.no_grad():
        for name, value in new.items():
            label = name == "label_embed.weight" and _rows(was) != _rows(now)
            if name in old and old[name].shape == value.shape and not label:
                value.copy_(old[name])
                kept += 1
                continue
            begun, how = _begin(name, value, old, was, now)
            if begun is not None:
                value.copy_(begun)
            shape = list(old[name].shape) if name in old else "absent"
            lines.append(f"made anew: {name} {list(value.shape)} (was {shape}), {how}")
    lines += [f"left out: {name} {list(value.shape)}" for name, value in old.items() if name not in new]
    return [f"begins from {start.source}: {kept} of {len(new)} tensors kept", *lines]


def _network(model: Model | ClassifierModel) -> nn.Module:
    return model.stage.denoiser.network if isinstance(model, Model) else model.classifier.network


def _rows(recipe: Recipe) -> tuple[int, bool]:
    """Number of classes, and whether there is a null class."""
    return (0, False) if recipe.label is None else (recipe.label.num_classes, recipe.label.drop > 0)


def _begin(name: str, value: Tensor, old: Mapping[str, Tensor], was: Recipe, now: Recipe) -> tuple[Tensor | None, str]:
    """What a tensor that cannot be kept begins with; None: what it has."""
    held = old.get(name)
    if name.startswith("label_embed."):
        if held is None or name.endswith("bias"):
            return torch.zeros_like(value), "as zeros"
        classes, null = _rows(was)
        begun = held[:classes].mean(dim=0).expand_as(value).clone()
        if null and _rows(now)[1] and len(held) > classes:
            begun[-1] = held[classes]
            return begun, "each class as the mean of the old ones, the null class as it was"
        return begun, "each row as the mean of the old classes"
    if held is not None and held.ndim == value.ndim:
        ins = (was.net.in_channels, now.net.in_channels)
        if name.startswith(("stem.", "sides.")) and held.ndim == 4 and (held.shape[1], value.shape[1]) == ins:
            return held.mean(dim=1, keepdim=True).expand_as(value) * (ins[0] / ins[1]), "each channel as the mean of the old ones"
        parts = 2 if now.denoiser.variance in ("learned", "learned_range") else 1
        outs = (was.net.out_channels, now.net.out_channels)
        if name.startswith(("head.conv.", "heads.")) and (len(held), len(value)) == outs and held.shape[1:] == value.shape[1:]:
            mean = held.unflatten(0, (parts, -1)).mean(dim=1, keepdim=True)
            return mean.expand(parts, len(value) // parts, *value.shape[1:]).flatten(0, 1), "each channel as the mean of the old ones"
    return None, "as in a fresh network"
