"""What is looked at while a run goes on. A look uses the averages, in evaluation mode, and changes nothing that training depends on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.data.source import Source
from mezzotint.data.split import subset
from mezzotint.errors import ConfigError, DataError
from mezzotint.metrics.features import Extractor
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.pipelines.examples import begun_from
from mezzotint.pipelines.generate import Model
from mezzotint.train.loader import rows
from mezzotint.train.order import stream_key
from mezzotint.train.ranks import Ranks

MOST_FEATURES = 4096
"""Most features whose covariances are compared; images of more pixels are shrunk before."""
REFERENCE = 10_000
"""Images of the data that samples are compared with, spread evenly."""
DRIFT = 4.0
"""Least difference of a channel's mean that is a colour drift, in 1/255."""
ADVICE = (
    "colours drift; what helps: --denoiser.predicts v or x0, a longer --ema.decays, and a schedule whose last level is pure noise "
    "(--schedule.betas cosine)"
)


@dataclass(frozen=True)
class View:
    """What a look is given.

    Attributes:
        models: The networks, with their first average, in evaluation mode.
        images: Images seen.
        file: Where a picture may be put.
        ranks: The ranks; only the first one looks, unless the watcher is ``everywhere``.
        asked: Whether any rank was told to stop; all ranks must ask at the same places.
    """

    models: Mapping[str, nn.Module]
    images: int
    file: Path
    ranks: Ranks
    asked: Callable[[], bool]


class Watcher:
    """Looks at a run at intervals.

    Attributes:
        event: Name of its lines in the log.
        every: Images between two looks; the end of the budget is always looked at.
        everywhere: Whether all ranks take part.
    """

    event: str
    every: int
    everywhere: bool = False

    def look(self, view: View) -> dict[str, Any]:
        """Looks, and gives figures for the log."""
        raise NotImplementedError


class Grids(Watcher):
    """Has somebody draw a grid of samples.

    Args:
        draw: Called with (models, images seen, file to write); may give figures for the log.
        every: Images between two grids.
    """

    event = "grid"

    def __init__(self, draw: Callable[[Mapping[str, nn.Module], int, Path], dict[str, Any] | None], every: int):
        self.draw, self.every = draw, every

    def look(self, view: View) -> dict[str, Any]:
        return self.draw(view.models, view.images, view.file) or {}


# --- held-out images -----------------------------------------------------------------------------------------------------


def hold_out(source: Source, share: float) -> tuple[Source, Source]:
    """Divides images into those to train on and those held out.

    Whether an image is held out depends on its name alone, so that it stays where it is when others are added.

    Args:
        source: The images.
        share: Share that is held out, in (0, 1).

    Raises:
        ConfigError: The share is out of range.
        DataError: One of the two parts would be empty.
    """
    if not 0 < share < 1:
        raise ConfigError(f"--train.held-out is {share:g}; give a share above 0 and below 1, such as 0.02")
    held = [stream_key("held out", source.name(i)) < share * 2**63 for i in range(len(source))]
    if not any(held) or all(held):
        raise DataError(f"--train.held-out {share:g} of {len(source)} images leaves a part empty; give a share nearer to a half")
    parts = [subset(source, [i for i, out in enumerate(held) if out is wanted]) for wanted in (False, True)]
    return parts[0], parts[1]


class HeldOut(Watcher):
    """The loss of held-out images, and of as many training images, always with the same noise and times.

    Both are measured without dropout, with the average of the weights, so that their difference is what the model has learned by heart.

    Args:
        objective: What is minimised.
        held: The held-out images.
        trained: The images that are trained on.
        every: Images between two looks.
        batch: Images in a pass.
        seed: Seed of noise and times.
        most: Most images of each kind.
    """

    event = "held_out"
    everywhere = True

    def __init__(
        self, objective: Objective, held: Source, trained: Source, *, every: int, batch: int, seed: int = 0, most: int = REFERENCE
    ):
        self.objective, self.every, self.batch, self.seed = objective, every, batch, seed
        count = min(len(held), most)
        self.parts = {"loss": (held, spread(len(held), count)), "trained_loss": (trained, spread(len(trained), count))}
        # Laws of times learn; the first state of theirs is used throughout, so that the times stay the same.
        self._first = {name: b.detach().clone() for name, b in self._beside()}

    def _beside(self) -> Iterator[tuple[str, Tensor]]:
        models = {id(b) for model in self.objective.models.values() for b in model.buffers()}
        return ((name, b) for name, b in self.objective.named_buffers() if id(b) not in models)

    @contextmanager
    def _as_at_first(self) -> Iterator[None]:
        now = {name: b.detach().clone() for name, b in self._beside()}
        try:
            for name, b in self._beside():
                b.copy_(self._first[name])
            yield
        finally:
            for name, b in self._beside():
                b.copy_(now[name])

    @torch.no_grad()
    def look(self, view: View) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        with self._as_at_first():
            for name, (source, ids) in self.parts.items():
                for phase in self.objective.phases:
                    figures.setdefault(phase.name, {})[name] = self._loss(source, ids, phase.name, view)
        return figures if len(figures) > 1 else next(iter(figures.values()))

    def _loss(self, source: Source, ids: Sequence[int], phase: str, view: View) -> float:
        device = next(self.objective.parameters()).device
        mine = [ids[i] for i in view.ranks.share(len(ids))]
        total = torch.zeros(2, dtype=torch.float64)
        for start in range(0, len(mine), self.batch):
            part = readable_places(source, mine[start : start + self.batch])
            if not part:
                continue
            noise = Noise(self.seed, part, stage=f"held out/{phase}")
            batch = rows(source.batch(part), slice(None), device)
            loss = self.objective(batch, phase=phase, step=0, noise=noise).per_sample.double().cpu()
            total += torch.tensor([loss.sum().item(), float(len(loss))], dtype=torch.float64)
        (summed,) = view.ranks.add_up(total)
        return float(summed[0] / summed[1])


# --- distance ------------------------------------------------------------------------------------------------------------


class QuickDistance(Watcher):
    """The Frechet distance of a few samples to the data, to see where a run goes; it is no FID.

    The samples are those of fixed seeds, so that distances of one run can be compared with each other.

    Args:
        model: The generator, around the network that is trained.
        source: The data.
        features: What is compared.
        every: Images between two looks.
        num: Number of samples.
        steps: Sampling steps.
        batch: Images in a pass.
        seed: Seed of the samples.
        begin_from: Whose images, reduced, samples of a super-resolution model begin from; None: ``source``.

    Source: Heusel et al. 2017, equation 6.
    """

    event = "distance"
    everywhere = True

    def __init__(
        self,
        model: Model,
        source: Source,
        features: Extractor,
        *,
        every: int,
        num: int,
        steps: int,
        batch: int,
        seed: int = 0,
        begin_from: Source | None = None,
    ):
        if num < 2 or steps < 1:
            raise ConfigError(f"--train.fd-num {num} and --train.fd-steps {steps}; give at least 2 samples and 1 step")
        self.model, self.source, self.features = model, source, features
        self.every, self.num, self.steps, self.batch, self.seed = every, num, steps, batch, seed
        self.factor = _shrinking(features, model.shape)
        self.begin_from = source if begin_from is None else begin_from
        self._places = readable_places(self.begin_from, spread(len(self.begin_from), min(len(self.begin_from), num)))
        self._reference: Moments | None = None

    @property
    def name(self) -> str:
        """What the figure is called, such as fd2k."""
        return f"fd{self.num // 1000}k" if self.num % 1000 == 0 else f"fd{self.num}"

    def look(self, view: View) -> dict[str, Any]:
        if self._reference is None:
            ids = spread(len(self.source), min(len(self.source), REFERENCE))
            mine = [ids[i] for i in view.ranks.share(len(ids))]
            parts = (mine[start : start + self.batch] for start in range(0, len(mine), self.batch))
            self._reference = self._together(self._moments(readable(self.source, part) for part in parts), view.ranks)
        steps = self.model.spec.recipe.sample.steps
        wish = {"num": self.num, "steps": min(self.steps, steps or self.steps), "grid": "uniform", "seed": self.seed}
        job = self.model.job(batch_size=self.batch, **wish)
        found, broken = Moments(), torch.zeros(())
        # Every rank makes as many passes, since all must ask at the same places whether to stop.
        for start in range(0, -(-self.num // view.ranks.count), self.batch):
            if view.asked():
                return {}
            part = job.only(list(view.ranks.share(self.num))[start : start + self.batch])
            if part.ids:
                part, low_res = begun_from(self.model, part, self.begin_from, self._places)
                made = torch.cat([chunk.trajectory.x for chunk in self.model.run(part, low_res=low_res)])
                broken += (~made.isfinite()).any().cpu()
                found.merge(self._moments(iter([made.nan_to_num().clamp(-1, 1)])))
        (count,) = view.ranks.add_up(broken)
        whole = self._together(found, view.ranks)
        if count > 0:  # a model that has just begun may well make no images
            return {"name": self.name, "features": self._words(), "distance": math.inf}
        distance = frechet_distance((whole.mean, whole.cov), (self._reference.mean, self._reference.cov))
        return {"name": self.name, "features": self._words(), "distance": distance}

    def _words(self) -> str:
        return self.features.name if self.factor == 1 else f"{self.features.name}/{self.factor}"

    def _moments(self, batches: Iterator[Tensor]) -> Moments:
        found = Moments()
        for images in batches:
            small = nn.functional.avg_pool2d(images, self.factor, ceil_mode=True) if self.factor > 1 else images
            found.add(self.features(small.to(self.model.device))["pool"].cpu())
        return found

    @staticmethod
    def _together(mine: Moments, ranks: Ranks) -> Moments:
        if ranks.count == 1:
            return mine
        assert mine.sum is not None
        assert mine.outer is not None
        n, total, outer = ranks.add_up(torch.tensor([float(mine.n)]), mine.sum, mine.outer)
        whole = Moments()
        whole.n, whole.sum, whole.outer = int(n), total, outer
        return whole


def _shrinking(features: Extractor, shape: tuple[int, int, int]) -> int:
    """By what factor images are shrunk before their pixels are compared; networks are given them as they are."""
    factor = 1
    while features.name == "pixels" and shape[0] * -(-shape[1] // factor) * -(-shape[2] // factor) > MOST_FEATURES:
        factor += 1
    return factor


# --- colours -------------------------------------------------------------------------------------------------------------


class Colours:
    """Compares the mean colour of samples with that of the data.

    Args:
        source: The data.
        most: Images of it that are looked at, spread evenly.
    """

    def __init__(self, source: Source, most: int = 1024):
        self.source, self.most = source, most
        self._mean: Tensor | None = None

    def compare(self, images: Tensor) -> dict[str, Any]:
        """The drift of each channel.

        Args:
            images: Samples ``[n, c, h, w]`` in [-1, 1].

        Returns:
            ``colour_drift``: mean of the samples minus that of the data, for each channel, in 1/255; ``drifts``: whether a channel
            differs by more than 4/255 and by more than three standard errors of the samples' mean.
        """
        if self._mean is None:
            ids = spread(len(self.source), min(len(self.source), self.most))
            parts = [readable(self.source, ids[k : k + 64]).double().mean((2, 3)) for k in range(0, len(ids), 64)]
            self._mean = torch.cat(parts).mean(0)
        own = images.double().clamp(-1, 1).mean((2, 3))
        drift = (own.mean(0) - self._mean) * 127.5
        error = own.std(0) * 127.5 / len(own) ** 0.5 if len(own) > 1 else torch.full_like(drift, torch.inf)
        return {"colour_drift": drift.tolist(), "drifts": bool((drift.abs() > torch.maximum(3 * error, torch.tensor(DRIFT))).any())}


def readable(source: Source, ids: Sequence[int]) -> Tensor:
    """The images at these positions that can be read, as they are; those that cannot are counted by the source."""
    return source.batch(readable_places(source, ids)).images


def readable_places(source: Source, ids: Sequence[int]) -> list[int]:
    """Those of these positions whose images can be read."""
    return [i for i in ids if source.spare == 0 or source.attempt(i) is not None]


def spread(total: int, count: int) -> list[int]:
    """Evenly spaced positions, so that data that is sorted by class is seen as a whole.

    Example:
        >>> spread(10, 4)
        [0, 2, 5, 7]
    """
    return [i * total // count for i in range(count)]
