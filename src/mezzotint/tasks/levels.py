"""The search for the noise that each stage of a cascade gives to what the stage before it made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mezzotint.conditioning import LowRes
from mezzotint.data import Source
from mezzotint.errors import CapabilityError, ConfigError, DataError
from mezzotint.metrics.features import Extractor, Pixels
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.pipelines.cascade import Cascade
from mezzotint.pipelines.examples import begun_from
from mezzotint.pipelines.generate import ClassifierModel
from mezzotint.tasks.tune import LEAST, classifier_features, features_of

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
"""The levels that are tried, unless told otherwise."""


@dataclass(frozen=True)
class Trial:
    """One level of one stage.

    Attributes:
        stage: Number of the stage, from 1.
        level: The level.
        distance: Frechet distance of the last stage's images to the data.
    """

    stage: int
    level: float
    distance: float


def sweep_levels(
    model: Cascade,
    source: Source,
    *,
    levels: Sequence[float] = LEVELS,
    truncated: bool = False,
    num: int = 1024,
    features: ClassifierModel | Extractor | None = None,
    seed: int = 0,
    batch_size: int = 64,
    on_images: Callable[[int, str], None] | None = None,
) -> list[Trial]:
    """Tries every level at each stage that was trained with noise on its low-resolution images, stage by stage.

    Stages that come later have their own settings, those before the best level that was found for them. All levels are compared on the
    same noise and classes, by the images of the last stage.

    Args:
        model: The cascade.
        source: The images that its own should be like.
        levels: Levels from 0 to 1.
        truncated: Let the stage before stop at the level, rather than finish its images.
        num: Images a level.
        features: What is compared: features, or a classifier for its own; None: the pixels.
        seed: Seed of the samples.
        batch_size: Images in a pass.
        on_images: Called after each batch with its number of images and a word on what is tried.

    Returns:
        All trials, in order; ``best`` picks.

    Raises:
        ConfigError: No levels, or too few images.
        CapabilityError: No stage was trained with noise on its low-resolution images.
        DataError: Images of another kind.

    Source: Ho et al. 2021 (CDM), section 4.1 (levels are searched after training).
    """
    if not levels or num < LEAST:
        raise ConfigError(f"{len(levels)} levels of {num} images each; give at least one level and {LEAST} images")
    own, facts = model.facts, source.facts
    if (own.channels, own.size) != (facts.channels, facts.size):
        raise DataError(f"the data has {facts.channels} channels of {facts.size}, and the model generates {own.channels} of {own.size}")
    stages = [
        k for k, m in enumerate(model.stages, 1) if (low := m.stage.conditioner.part(LowRes)) is not None and low.schedule is not None
    ]
    if not stages:
        raise CapabilityError("no stage was trained with noise on its low-resolution images; train one with --low-res.augment cosine")
    compared: Extractor = classifier_features(features) if isinstance(features, ClassifierModel) else features or Pixels()
    reference = Moments()
    for start in range(0, len(source), 256):
        images = source.batch(range(start, min(start + 256, len(source)))).images
        reference.add(features_of(compared, images.to(model.device)))
    trials: list[Trial] = []
    for stage in stages:
        for level in levels:
            settings = {k: {"level": best(trials, k).level, "truncated": truncated} for k in stages if k < stage}
            settings[stage] = {"level": level, "truncated": truncated}
            job, low_res = begun_from(model, model.job(num=num, seed=seed, batch_size=batch_size, stages=settings), source)
            moments = Moments()
            for chunk in model.run(job, low_res=low_res):
                moments.add(features_of(compared, chunk.trajectory.x.clamp(-1, 1)))
                if on_images is not None:
                    on_images(len(chunk.ids), f"stage {stage}, level {level:g}")
            with warnings.catch_warnings():  # few images compare levels well enough, since they share their noise
                warnings.filterwarnings("ignore", message="Frechet distance from")
                trials.append(Trial(stage, float(level), frechet_distance(moments, reference)))
    return trials


def best(trials: Sequence[Trial], stage: int) -> Trial:
    """The trial of a stage with the smallest distance."""
    return min((trial for trial in trials if trial.stage == stage), key=lambda trial: trial.distance)
