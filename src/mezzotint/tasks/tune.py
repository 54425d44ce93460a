"""The search for the best way of sampling a model with so many network calls."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mezzotint.data import Source
from mezzotint.denoise import time_input
from mezzotint.errors import CapabilityError, ConfigError, DataError
from mezzotint.metrics.features import ClassifierFeatures, Extractor, Pixels
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.pipelines.examples import begun_from
from mezzotint.pipelines.generate import ClassifierModel, Model
from mezzotint.pipelines.tuned import Setting, Tuned
from mezzotint.sample.grid import SPACINGS

SAMPLERS = (
    "ancestral",
    "ddim",
    "lms",
    "heun",
    "dpm_solver,order=2",
    "dpm_solver,order=3",
    "dpm_solver,order=2,eta=1",
    "dpm_solver,order=2,method=singlestep",
    "dpm_solver,order=3,method=singlestep",
    "unipc,order=2",
    "unipc,order=3",
)
"""The samplers that are tried, unless told otherwise."""
GRIDS = (*SPACINGS, "trailing")
"""The spacings that are tried; models without numbered levels do without the last."""
TWO_CALLS = ("heun", "dpm2", "dpmpp_sde")
"""Samplers of two calls a step, but for the last; the others count theirs in steps."""
KEEP = 3
"""One of so many candidates goes into the next round."""
ROUNDS = 3
LEAST = 64
"""Fewest images of a round."""
CUT = 16
"""Side of the cuts that stand for images of more pixels than features are compared."""
MOST_FEATURES = 4096
"""Most features whose covariances are compared."""


@dataclass
class _Candidate:
    sampler: str
    steps: int
    grid: str
    guidance: tuple[str, ...]
    calls: int = 0
    images: int = 0
    distance: float = math.inf
    moments: Moments = field(default_factory=Moments)

    @property
    def setting(self) -> Setting:
        return Setting(self.sampler, self.steps, self.grid, self.guidance, self.calls, self.images, self.distance)


def tune_solver(
    model: Model,
    source: Source,
    calls: Sequence[int],
    *,
    num: int = 1024,
    samplers: Sequence[str] = SAMPLERS,
    grids: Sequence[str] | Callable[[int], Sequence[str]] = GRIDS,
    guidance: Sequence[tuple[str, ...]] = ((),),
    features: ClassifierModel | None = None,
    seed: int = 0,
    batch_size: int = 64,
    on_images: Callable[[int, str], None] | None = None,
) -> Tuned:
    """Searches sampler, grid and guidance for each budget of network calls, by successive halving on the Frechet distance.

    All candidates begin from the same noise and are given the same classes. In each of three rounds the best third goes on with three
    times as many images; images of earlier rounds are used again.

    Args:
        model: The generator.
        source: The images that its own should be like.
        calls: Budgets of network calls an image.
        num: Images of the last round.
        samplers: Samplers with their settings.
        grids: Spacings of the times, or those for a number of steps.
        guidance: Guidances, each the tuple that ``Model.job`` takes. One pass that is doubled for classifier-free guidance is one call,
            and the passes of a classifier are not counted.
        features: A classifier whose features are compared; None: the pixels, of large images those of 16x16 cuts.
        seed: Seed of the samples.
        batch_size: Images in a pass.
        on_images: Called after each batch with its number of images and a word on what is tried.

    Returns:
        The table. Nothing is saved; ``write_tuned`` does that.

    Raises:
        ConfigError: Budgets or numbers that cannot be, or none of the candidates fits a budget.
        DataError: Too few images, or images of another kind.
        CapabilityError: Too many features to compare.

    Source: Karnin et al. 2013 (successive halving); Heusel et al. 2017 (the distance).
    """
    if not calls or min(calls) < 1:
        raise ConfigError("give budgets of at least 1 network call, as in 4,6,8,10")
    if num < LEAST:
        raise ConfigError(f"{num} images are too few to compare samplers; give at least {LEAST}")
    own, facts = model.facts, source.facts
    if (own.channels, own.size) != (facts.channels, facts.size):
        raise DataError(f"the data has {facts.channels} channels of {facts.size}, and the model generates {own.channels} of {own.size}")
    compared: Extractor = Pixels(model.device) if features is None else classifier_features(features)
    device = model.device
    reference = Moments()
    for start in range(0, len(source), 256):
        images = source.batch(range(start, min(start + 256, len(source)))).images
        reference.add(features_of(compared, images.to(device)))
    rounds = [max(LEAST, num // KEEP ** (ROUNDS - 1 - k)) for k in range(ROUNDS)]
    best: dict[int, Setting] = {}
    tried: dict[int, tuple[Setting, ...]] = {}
    for budget in sorted(set(calls)):
        field_ = candidates(model, budget, samplers, grids(budget) if callable(grids) else grids, guidance)
        if not field_:
            raise ConfigError(f"none of the samplers works with {budget} network calls; give more calls, or other samplers")
        out: list[_Candidate] = []
        for k, images in enumerate(rounds):
            for candidate in field_:
                what = f"{budget} calls, round {k + 1} of {ROUNDS}: {candidate.sampler} {candidate.grid}"
                report = None if on_images is None else partial(_report, on_images, what)
                _advance(model, source, candidate, images, compared, reference, seed, batch_size, report)
            field_.sort(key=lambda c: c.distance)
            if k < len(rounds) - 1:
                kept = max(1, len(field_) // KEEP)
                out[:0], field_ = field_[kept:], field_[:kept]
        ranked = [*field_, *out]
        best[budget] = ranked[0].setting
        tried[budget] = tuple(c.setting for c in ranked if math.isfinite(c.distance))
        if not tried[budget]:
            raise ConfigError(f"no sampler gave finite images with {budget} network calls; is the model trained?")
    large = own.channels * own.size[0] * own.size[1] > MOST_FEATURES
    name = f"pixels of {CUT}x{CUT} cuts" if features is None and large else "pixels" if features is None else f"classifier {features.hash}"
    about = {"data": source.fingerprint, "features": name, "seed": seed, "images": num, "reference_images": len(source)}
    return Tuned(best, tried, model.hash, about)


def candidates(
    model: Model, budget: int, samplers: Sequence[str], grids: Sequence[str], guidance: Sequence[tuple[str, ...]]
) -> list[_Candidate]:
    """All combinations that this model can be sampled by within a budget, each with as many steps as it allows."""
    found = []
    for sampler in samplers:
        steps = (budget + 1) // 2 if sampler.partition(",")[0] in TWO_CALLS else budget
        for grid in grids:
            for wraps in guidance:
                try:
                    model.job(num=1, sampler=sampler, steps=steps, grid=grid, guidance=wraps)
                except CapabilityError:
                    continue
                except ConfigError as error:
                    if "too few" in str(error):  # such as 2 calls for order 3
                        continue
                    raise
                found.append(_Candidate(sampler, steps, grid, tuple(wraps)))
    return found


def _advance(
    model: Model,
    source: Source,
    candidate: _Candidate,
    images: int,
    compared: Extractor,
    reference: Moments,
    seed: int,
    batch_size: int,
    report: Callable[[int], None] | None,
) -> None:
    """Makes the images that a candidate lacks, and measures all."""
    wish = {"sampler": candidate.sampler, "steps": candidate.steps, "grid": candidate.grid, "guidance": candidate.guidance}
    job = model.job(num=images, seed=seed, batch_size=batch_size, **wish).only(range(candidate.images, images))
    if job.ids:
        job, low_res = begun_from(model, job, source)
        for chunk in model.run(job, low_res=low_res):
            x = chunk.trajectory.x
            candidate.calls = max(candidate.calls, chunk.trajectory.calls)
            if report is not None:
                report(len(chunk.ids))
            if not bool(torch.isfinite(x).all()):
                candidate.distance = math.inf
                return
            candidate.moments.add(features_of(compared, x.clamp(-1, 1)))
    candidate.images = images
    with warnings.catch_warnings():  # few images compare candidates well enough, since they share their noise
        warnings.filterwarnings("ignore", message="Frechet distance from")
        candidate.distance = frechet_distance(candidate.moments, reference)


def _report(on_images: Callable[[int, str], None], what: str, images: int) -> None:
    on_images(images, what)


def classifier_features(model: ClassifierModel) -> ClassifierFeatures:
    """The features of a classifier, told that there is no noise."""
    schedule = model.classifier.schedule
    label = time_input(schedule, torch.zeros(1, dtype=torch.float64), model.classifier.time_input)
    return ClassifierFeatures(model.classifier.network, float(label), hash=model.hash)


def features_of(compared: Extractor, images: Tensor) -> Tensor:
    """The features that are compared, ``[n, d]``; of images too large to compare pixel by pixel, those of small cuts of them.

    Raises:
        CapabilityError: Too many features of another kind.
    """
    if compared.name == "pixels" and images[0].numel() > MOST_FEATURES:
        cuts = images.unfold(2, CUT, CUT).unfold(3, CUT, CUT)  # [n, c, rows, columns, CUT, CUT]
        images = cuts.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    found = compared(images)["pool"]
    if found.shape[1] > MOST_FEATURES:
        raise CapabilityError(f"{found.shape[1]} features are too many to compare; give another classifier by --features MODEL")
    return found
