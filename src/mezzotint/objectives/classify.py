"""Classification of noised images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mezzotint.classifier import NoisyClassifier
from mezzotint.configs import ClassifyConfig
from mezzotint.errors import DataError
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.process import add_noise
from mezzotint.registry import register
from mezzotint.times import TimeLaw
from mezzotint.types import Batch, Loss, Phase, Times


@register("objective", "classify")
class Classify(Objective):
    """Cross-entropy of the label given x_t, t drawn by the law; without noising an ordinary classifier at t = 0.

    Args:
        classifier: What is trained.
        law: Draws the times.
        config: Whether images are noised.
        num_classes: Labels are 0 .. num_classes - 1.

    Source: Dhariwal & Nichol 2021, section 4 and appendix H.
    """

    def __init__(self, classifier: NoisyClassifier, law: TimeLaw, config: ClassifyConfig, *, num_classes: int):
        super().__init__()
        self.classifier, self.law, self.config, self.num_classes = classifier, law, config, num_classes

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("classify", (self.classifier.network,)),)

    @property
    def models(self) -> Mapping[str, nn.Module]:
        return {"model": self.classifier.network}

    def forward(self, batch: Batch, *, phase: str, step: int, noise: Noise) -> Loss:
        x0, label = batch.images, batch.label
        if label is None:
            raise DataError("a classifier needs labels; use class folders or an .npz with arr_1")
        low, high = (int(value) for value in label.aminmax())
        if low < 0 or high >= self.num_classes:
            bad = low if low < 0 else high
            raise DataError(f"label {bad} is out of range for {self.num_classes} classes; check the class map")
        if self.config.noised:
            times = self.law.draw(len(x0), noise)
            eps = noise.normal(tuple(x0.shape), name="eps", dtype=x0.dtype, device=x0.device)
            x_t = add_noise(self.classifier.schedule, x0, eps, times.t)
        else:
            times = Times(t=torch.zeros(len(x0), dtype=torch.float64), weight=torch.ones(len(x0)))
            x_t = x0
        logits = self.classifier(x_t, times.t)
        loss = nn.functional.cross_entropy(logits, label, reduction="none")
        accuracy = (logits.detach().argmax(dim=1) == label).float().mean()
        return Loss((loss * times.weight.to(loss)).mean(), loss.detach(), times.t, {"accuracy": accuracy})

    def update(self, t: Tensor, per_sample: Tensor, *, phase: str) -> None:
        self.law.update(t, per_sample)
