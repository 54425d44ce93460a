"""Classification accuracy score: how well a classifier that saw generated images alone reads real ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mezzotint.checkpoint import load
from mezzotint.configs import ClassifyConfig, Recipe
from mezzotint.data import Source, subset
from mezzotint.errors import ConfigError, DataError
from mezzotint.metrics.spread import share_error
from mezzotint.pipelines.generate import ClassifierModel
from mezzotint.registry import get
from mezzotint.tasks.demo import train

RECIPE = "small-classifier"


@dataclass(frozen=True)
class Score:
    """Accuracy on real images of classifiers that were trained on generated ones.

    Attributes:
        accuracy: Mean over the trainings, in [0, 1].
        spread: Standard deviation over the trainings, or for one training the standard error of a share of the test images.
        spread_of: Which of the two.
        settings: Recipe, budget, seeds, numbers of images and classes.
    """

    accuracy: float
    spread: float
    spread_of: str
    settings: dict[str, Any]


def accuracy_score(
    generated: Source,
    real: Source,
    *,
    recipe: str = RECIPE,
    images: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    on_training: Callable[[int], object] | None = None,
) -> Score:
    """Trains a classifier on generated images, without noise, and tests it on real ones.

    Args:
        generated: Images with labels.
        real: Real images with labels, of classes with the same names; those of other classes are left out.
        recipe: Recipe of the classifier.
        images: Its budget of training images; None: that of the recipe.
        seeds: Number of trainings.
        seed: Seed of the first training; the others follow it.
        on_training: Called before each training with its number.

    Raises:
        DataError: Images without labels, without a class in common, or of another size than the real ones.
        ConfigError: No such recipe, or one that trains no classifier.

    Source: Ravuri and Vinyals 2019, section 3.
    """
    if generated.labels is None or real.labels is None:
        which = "the samples have" if generated.labels is None else "the real images have"
        raise DataError(f"CAS needs labels, and {which} none; use class folders, an .npz with arr_1, or a folder of `mezzotint sample`")
    if (generated.facts.channels, generated.facts.size) != (real.facts.channels, real.facts.size):
        raise DataError(
            f"CAS compares images of one size, and the samples are {_shape(generated)}, the real images {_shape(real)}; "
            "give --size and --channels"
        )
    known = {name: k for k, name in enumerate(generated.facts.classes)}
    tested = [i for i, label in enumerate(real.labels) if real.facts.classes[label] in known]
    if not tested or len(known) < 2:
        raise DataError(f"CAS needs two classes or more that samples and real images share; the samples have {', '.join(known) or 'none'}")
    base: Recipe = get("recipe", recipe)()
    if not isinstance(base.objective, ClassifyConfig):
        raise ConfigError(f"recipe '{recipe}' trains no classifier; give one of `mezzotint train-classifier`, such as {RECIPE}")
    settings = replace(base.train, images=images or base.train.images, batch=min(base.train.batch, len(generated)))
    base = replace(base, objective=replace(base.objective, noised=False), train=settings)
    truth = np.array([known[real.facts.classes[real.labels[i]]] for i in tested])
    part = subset(real, tested)
    accuracies = []
    for k in range(seeds):
        if on_training is not None:
            on_training(k)
        with tempfile.TemporaryDirectory(prefix="mezzotint-cas-") as folder:
            train(base, generated, Path(folder) / "classifier", seed=seed + k)
            model = load(Path(folder) / "classifier")
        assert isinstance(model, ClassifierModel)
        accuracies.append(float((_read(model, part) == truth).mean()))
    mean = float(np.mean(accuracies))
    over = {"recipe": recipe, "training_images": settings.images, "seeds": [seed + k for k in range(seeds)]}
    return Score(
        accuracy=mean,
        spread=float(np.std(accuracies, ddof=1)) if seeds > 1 else share_error(mean, len(tested)),
        spread_of=f"standard deviation of {seeds} trainings" if seeds > 1 else f"standard error of a share of {len(tested)} test images",
        settings={**over, "generated": len(generated), "tested": len(tested), "classes": len(known)},
    )


def _read(model: ClassifierModel, source: Source, size: int = 256) -> np.ndarray:
    parts = [model.log_prob(source.batch(range(k, min(k + size, len(source)))).images).argmax(dim=1) for k in range(0, len(source), size)]
    return torch.cat(parts).numpy()


def _shape(source: Source) -> str:
    return "x".join(map(str, (*source.facts.size, source.facts.channels)))
