"""Tiny models that begin from low-resolution images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.checkpoint import fresh
from mezzotint.configs import (
    DataFacts,
    DenoiserConfig,
    DiscreteConfig,
    LabelConfig,
    LowResConfig,
    SampleConfig,
    Spec,
    SR3Config,
    UNetConfig,
)
from mezzotint.pipelines.build import resolve
from mezzotint.pipelines.generate import Model
from mezzotint.recipes.sr3 import sr3_regression_small, sr3_small
from mezzotint.weights.io import WeightSet, save_model

SR3 = SR3Config(width=8, mults=(1, 2), blocks=1, attention=(), groups=4)
UNET = UNetConfig(width=8, mults=(1, 1), blocks=1, attention=())


def spec_of(*, channels: int = 3, side: int = 16, classes: tuple[str, ...] = (), regression: bool = False, **changes: Any) -> Spec:
    recipe = sr3_regression_small() if regression else sr3_small()
    low_res = changes.pop("low_res", LowResConfig(scale=4))
    label = changes.pop("label", LabelConfig(drop=0.1) if classes else None)
    recipe = replace(recipe, **{"net": SR3, "sample": SampleConfig(steps=3), "low_res": low_res, "label": label, **changes})
    facts = DataFacts(channels=channels, size=(side, side), classes=classes)
    return Spec(resolve(recipe, facts), facts)


def model_of(**settings: Any) -> Model:
    """A model whose every weight counts."""
    torch.manual_seed(0)
    model = fresh(spec_of(**settings), device="cpu")
    assert isinstance(model, Model)
    with torch.no_grad():
        for p in model.stage.denoiser.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


class Knows(nn.Module):
    """A network that believes in the low-resolution image, as it was brought to size, plus a share of the noise and of the conditions."""

    def __init__(self, accepts: frozenset[str], share: float = 0.0):
        super().__init__()
        self.accepts, self.share = accepts, share
        self.here = nn.Parameter(torch.zeros(()))
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor, time_input: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.seen.append(dict(cond))
        return cond["low_res"] + self.share * x


def model_that_knows(share: float = 0.0, **settings: Any) -> Model:
    schedule = DiscreteConfig(betas="linear", steps=100)
    model = model_of(denoiser=DenoiserConfig(predicts="x0", variance="fixed_large", time_input="alpha_bar"), schedule=schedule, **settings)
    model.stage.denoiser.network = Knows(model.stage.denoiser.accepts, share)
    return model


def saved(folder: Path, **settings: Any) -> Path:
    model = model_of(**settings)
    save_model(folder, model.spec, [WeightSet(model.stage.denoiser.network.state_dict())])
    return folder
