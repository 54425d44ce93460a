"""The demonstration on handwritten digits: how the data are divided, what is trained, what is measured and what must hold."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import mezzotint
from mezzotint.checkpoint import fresh
from mezzotint.configs import Recipe, Spec
from mezzotint.data import Source, split_ids, subset
from mezzotint.data.source import to_images
from mezzotint.metrics.features import pixels
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.metrics.precision_recall import precision_recall
from mezzotint.pipelines.build import build_objective, resolve
from mezzotint.pipelines.generate import ClassifierModel
from mezzotint.train.trainer import Trainer

JUDGE_C, JUDGE_GAMMA = 10.0, 0.04
"""Settings of the judge, a support vector machine on pixels: another kind of classifier than the one that guides."""
LEAST_ACCURACY = 0.95
"""Least accuracy of unguided samples."""
LARGEST_DISTANCE = 0.9
"""Largest Frechet distance of the best row."""


@dataclass(frozen=True)
class Split:
    """Division of the data into three parts that share no image.

    Attributes:
        held_out: Ids that nothing is trained on.
        guide: Ids that the guiding classifier is trained on.
        judge: Ids that the judge is trained on.
    """

    held_out: tuple[int, ...]
    guide: tuple[int, ...]
    judge: tuple[int, ...]

    @property
    def model(self) -> tuple[int, ...]:
        """Ids that the generator is trained on: all but those held out."""
        return tuple(sorted(self.guide + self.judge))


def divide(source: Source, seed: int) -> Split:
    """Divides images into three parts of one size, each class alike."""
    return Split(*split_ids(source, (1 / 3, 1 / 3, 1 / 3), seed))


def train(recipe: Recipe, source: Source, folder: Path, *, seed: int) -> None:
    """Trains a recipe, with a progress bar, and leaves the model alone: no checkpoints, no log.

    Args:
        recipe: What to train.
        source: The images.
        folder: Where the model is put; it must not exist, the folder above it must.
        seed: Seed of the first weights and of all that training draws.
    """
    settings = replace(recipe.train, seed=seed, save_every=recipe.train.images, sample_every=0)
    recipe = resolve(replace(recipe, train=settings), source.facts)
    provenance = {"made_by": f"mezzotint {mezzotint.__version__} demo", "data": recipe.data.path, "fingerprint": source.fingerprint}
    spec = Spec(recipe=recipe, data=source.facts, provenance=provenance)
    torch.manual_seed(seed)
    model = fresh(spec, device="cpu")
    objective = build_objective(recipe, model.classifier if isinstance(model, ClassifierModel) else model.stage)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".run-") as run:
        trainer = Trainer(objective, source, out=Path(run), train=recipe.train, optim=recipe.optim, ema=recipe.ema, spec=spec)
        with redirect_stdout(io.StringIO()):  # the run folder that the trainer names does not last
            finished = trainer.run()
        finished.rename(folder)


@dataclass(frozen=True)
class Figures:
    """How good images are, to four digits.

    Attributes:
        frechet: Frechet distance to the held-out digits, on pixels in [-1, 1].
        precision: Share of the images that lie among held-out digits, in [0, 1].
        recall: Share of the held-out digits that lie among the images, in [0, 1].
        accuracy: Share of the images that the judge reads as the class that was asked for, in [0, 1].
    """

    frechet: float
    precision: float
    recall: float
    accuracy: float


class Yardstick:
    """Held-out digits and a judge.

    Args:
        source: All digits.
        split: Their division.
    """

    def __init__(self, source: Source, split: Split):
        from sklearn.svm import SVC

        self._held_out, self._held_out_labels = _features(source, split.held_out)
        self._others, labels = _features(source, split.judge)
        # The declared types of scikit-learn allow names for gamma only.
        self._judge = SVC(C=JUDGE_C, gamma=JUDGE_GAMMA).fit(self._others.numpy(), labels)  # pyright: ignore[reportArgumentType]

    def figures(self, images: np.ndarray, labels: Sequence[int]) -> Figures:
        """Measures images.

        Args:
            images: ``[n, h, w, c]``, uint8 or uint16.
            labels: The class that was asked for, n of them.
        """
        features = pixels(to_images(images))
        return self._figures(features, self._accuracy(features, np.asarray(labels)))

    @cached_property
    def real(self) -> Figures:
        """The same figures of real digits.

        Distance, precision and recall are those of the judge's digits against the held-out ones; accuracy is that on the held-out ones.
        """
        return self._figures(self._others, self._accuracy(self._held_out, self._held_out_labels))

    def _accuracy(self, features: Tensor, labels: np.ndarray) -> float:
        return float((self._judge.predict(features.numpy()) == labels).mean())

    def _figures(self, features: Tensor, accuracy: float) -> Figures:
        distance = frechet_distance(Moments().add(features), Moments().add(self._held_out))
        found = precision_recall(features, self._held_out)
        return Figures(round(distance, 4), round(found.precision, 4), round(found.recall, 4), round(accuracy, 4))


def _features(source: Source, ids: Sequence[int]) -> tuple[Tensor, np.ndarray]:
    batch = subset(source, ids).batch(range(len(ids)))
    assert batch.label is not None
    return pixels(batch.images), batch.label.numpy()


def claims(unguided: Figures, guided: Figures, best: float) -> dict[str, bool]:
    """What the demonstration claims, and whether it holds.

    Args:
        unguided: Figures at classifier scale 0.
        guided: Figures at the largest classifier scale.
        best: Smallest Frechet distance of all rows.

    Source: Dhariwal & Nichol 2021, figure 4.
    """
    return {
        "precision rises with the classifier's scale": guided.precision > unguided.precision,
        "accuracy rises with the classifier's scale": guided.accuracy > unguided.accuracy,
        "recall falls with the classifier's scale": guided.recall < unguided.recall,
        f"accuracy without guidance is at least {LEAST_ACCURACY}": unguided.accuracy >= LEAST_ACCURACY,
        f"the best Frechet distance is at most {LARGEST_DISTANCE}": best <= LARGEST_DISTANCE,
    }
