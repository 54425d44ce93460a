from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mezzotint.classifier import NoisyClassifier
from mezzotint.configs import ClassifyConfig, DiscreteConfig
from mezzotint.errors import DataError
from mezzotint.noise import Noise
from mezzotint.objectives.classify import Classify
from mezzotint.process import add_noise
from mezzotint.schedules import build_schedule
from mezzotint.times import UniformLevels
from mezzotint.types import Batch

LINEAR = build_schedule(DiscreteConfig())
X0 = torch.linspace(-1, 1, 24).reshape(6, 1, 2, 2)
LABEL = torch.tensor([0, 1, 2, 0, 1, 2])


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor, t: Tensor, cond) -> Tensor:
        self.seen = (x, t)
        return self.out(x.flatten(1))


def piece(noised: bool = True) -> Classify:
    return Classify(NoisyClassifier(Network(), LINEAR), UniformLevels(LINEAR.levels), ClassifyConfig(noised=noised), num_classes=3)


def test_the_loss_is_the_cross_entropy_of_noised_images() -> None:
    objective, noise = piece(), Noise(0, range(6))
    loss = objective(Batch(X0, torch.arange(6), LABEL), phase="classify", step=0, noise=noise)
    x_t = add_noise(LINEAR, X0, noise.normal((6, 1, 2, 2), name="eps"), loss.t)
    network = objective.classifier.network
    assert torch.equal(network.seen[0], x_t) and torch.equal(network.seen[1].round(), (loss.t * 1000 - 1).round().float())
    logits = network.out(x_t.flatten(1))
    expected = nn.functional.cross_entropy(logits, LABEL, reduction="none")
    torch.testing.assert_close(loss.per_sample, expected.detach())
    assert loss.total == expected.mean() and not loss.per_sample.requires_grad
    assert loss.logs["accuracy"] == (logits.argmax(1) == LABEL).float().mean()
    loss.total.backward()
    assert network.out.weight.grad.abs().max() > 0


def test_without_noising_images_pass_as_they_are() -> None:
    objective = piece(noised=False)
    loss = objective(Batch(X0, torch.arange(6), LABEL), phase="classify", step=0, noise=Noise(0, range(6)))
    assert torch.equal(objective.classifier.network.seen[0], X0) and loss.t.tolist() == [0] * 6


@pytest.mark.parametrize(
    "label, message",
    [
        (None, "a classifier needs labels"),
        (torch.full((6,), 3), "label 3 is out of range for 3 classes"),
        (LABEL - 1, "label -1 is out of range"),
    ],
)
def test_labels_are_checked(label, message) -> None:
    with pytest.raises(DataError, match=message):
        piece()(Batch(X0, torch.arange(6), label), phase="classify", step=0, noise=Noise(0, range(6)))


def test_what_the_trainer_is_told() -> None:
    objective = piece()
    (phase,) = objective.phases
    assert phase.name == "classify" and phase.modules == (objective.classifier.network,) == tuple(objective.models.values())
