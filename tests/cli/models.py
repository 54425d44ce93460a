"""Small models, trained and untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from mezzotint.checkpoint import fresh
from mezzotint.configs import DataFacts, DenoisingConfig, DiscreteConfig, LabelConfig, Recipe, SampleConfig, Spec, UNetConfig
from mezzotint.pipelines.build import resolve
from mezzotint.pipelines.generate import Model
from mezzotint.weights.io import WeightSet, save_model

TINY = ["--net.width", "16", "--net.mults", "1", "2", "--net.attention", "2", "--net.head-channels", "16", "--schedule.steps", "100"]
"""Options that make a recipe's network small."""
SHORT = ["--train.images", "640", "--train.batch", "64"]
"""Options that make a run short."""


def untrained(
    folder: Path,
    *,
    channels: int = 3,
    size: tuple[int, int] = (8, 8),
    classes: tuple[str, ...] = (),
    bits: Literal[8, 16] = 8,
    steps: int = 6,
    width: int = 8,
    mults: tuple[float, ...] = (1, 1),
) -> Path:
    """Saves a small model with random weights, those that start at zero included."""
    facts = DataFacts(channels=channels, size=size, classes=classes, bits=bits)
    recipe = Recipe(
        name="plain",
        task="generate",
        net=UNetConfig(width=width, mults=mults, blocks=1, attention=()),
        schedule=DiscreteConfig(betas="linear", steps=1000),
        objective=DenoisingConfig(),
        label=LabelConfig(drop=0.1) if classes else None,
        sample=SampleConfig(steps=steps),
    )
    spec = Spec(recipe=resolve(recipe, facts), data=facts)
    model = fresh(spec, device="cpu")
    assert isinstance(model, Model)
    network = model.stage.denoiser.network
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn_like(p)
    save_model(folder, spec, [WeightSet(network.state_dict())])
    return folder
