"""Tiny generators and classifiers whose every weight counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.networks.filling import filled

from mezzotint.checkpoint import fresh
from mezzotint.configs import (
    ClassifyConfig,
    DataFacts,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EncoderConfig,
    LabelConfig,
    Recipe,
    SampleConfig,
    Spec,
    UNetConfig,
)
from mezzotint.pipelines.build import resolve
from mezzotint.pipelines.generate import ClassifierModel, Model
from mezzotint.weights.io import WeightSet, save_model

CLASSES = ("cat", "dog", "7")


def generator_spec(*, size: tuple[int, int] = (4, 4), label: LabelConfig | None = LabelConfig(drop=0.1), **changes: Any) -> Spec:
    """The spec of a class-conditional U-Net with a null class, unless told otherwise."""
    classes = changes.pop("classes", CLASSES)
    recipe = Recipe(
        name="tiny",
        task="generate",
        net=UNetConfig(width=8, mults=(1, 1), blocks=1, attention=(2,), heads=2),
        schedule=DiscreteConfig(betas="cosine", steps=1000),
        objective=DenoisingConfig(),
        denoiser=DenoiserConfig(variance="learned_range"),
        label=label,
        sample=SampleConfig(grid="10"),
    )
    facts = DataFacts(channels=3, size=size, classes=classes)
    return Spec(resolve(replace(recipe, **changes), facts), facts)


def classifier_spec(*, size: tuple[int, int] = (4, 4), classes: tuple[str, ...] = CLASSES) -> Spec:
    """The spec of a noisy classifier for the same images."""
    recipe = Recipe(
        name="tiny-classifier",
        task="classify",
        net=EncoderConfig(width=8, mults=(1, 1), blocks=1, attention=(), head_channels=8, pool="adaptive"),
        schedule=DiscreteConfig(betas="linear", steps=100),
        objective=ClassifyConfig(),
    )
    facts = DataFacts(channels=3, size=size, classes=classes)
    return Spec(resolve(recipe, facts), facts)


def network_of(model: Model | ClassifierModel):
    """The network of a model."""
    return model.stage.denoiser.network if isinstance(model, Model) else model.classifier.network


def model_of(spec: Spec) -> Any:
    """A model in memory, with filled weights."""
    model = fresh(spec, device="cpu")
    filled(network_of(model))
    return model


def saved(folder: Path, spec: Spec) -> Path:
    """A model folder with filled weights."""
    model = model_of(spec)
    save_model(folder, spec, [WeightSet(network_of(model).state_dict(), images=5)])
    return folder
