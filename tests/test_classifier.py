from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, MIXTURE, SCHEDULES, ExactClassifier
from torch import Tensor, nn

from mezzotint.classifier import NoisyClassifier, class_gradient
from mezzotint.configs import DiscreteConfig, VEConfig
from mezzotint.denoise import time_input
from mezzotint.schedules import build_schedule

LINEAR, VE = build_schedule(DiscreteConfig()), build_schedule(VEConfig())
X = torch.tensor([[0.3, -0.2], [1.2, 0.9], [0.1, 0.1]], dtype=F64)
T = torch.tensor([0.1, 0.5, 0.9], dtype=F64)


class Told(nn.Module):
    """Logits that show what the network was given."""

    def forward(self, x: Tensor, label: Tensor, cond) -> Tensor:
        assert cond == {}
        return torch.cat([x, label[:, None]], dim=1)


def test_on_its_own_schedule_images_pass_as_they_are() -> None:
    classifier = NoisyClassifier(Told(), LINEAR)
    for schedule in (None, LINEAR, build_schedule(DiscreteConfig())):
        out = classifier(X, T, schedule)
        assert torch.equal(out, torch.cat([X, time_input(LINEAR, T, "index")[:, None]], dim=1))


def test_images_of_another_process_are_scaled_to_the_same_ratio() -> None:
    classifier = NoisyClassifier(Told(), LINEAR)
    sigma = VE.time_of(LINEAR.half_log_snr(T))
    out = classifier(X / LINEAR(T)[0][:, None], sigma, VE)
    torch.testing.assert_close(out[:, :2], X)
    torch.testing.assert_close(out[:, 2], T * 1000 - 1)
    beyond = classifier(X, torch.tensor([0.0005, 1.0, 1e4], dtype=F64), VE)[:, 2]
    assert beyond[0] == 0 and beyond[2] == 999


def test_logits_are_at_least_float32() -> None:
    half = NoisyClassifier(Told(), LINEAR)
    assert half(X.bfloat16(), T).dtype == torch.float32 and half(X.float(), T).dtype == torch.float32


@pytest.mark.parametrize("name", ["linear", "ve", "flow"])
def test_the_gradient_of_the_exact_classifier(name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    label = torch.tensor([0, 1, 2])
    log_p, gradient = class_gradient(ExactClassifier(MIXTURE, schedule), X, T, label)
    alpha, sigma = schedule(T)
    torch.testing.assert_close(log_p, MIXTURE.log_prob(X, alpha, sigma)[[0, 1, 2], [0, 1, 2]])
    h = 1e-6
    for axis in range(2):
        step = torch.zeros(2, dtype=F64)
        step[axis] = h
        ends = [MIXTURE.log_prob(X + sign * step, alpha, sigma)[[0, 1, 2], [0, 1, 2]] for sign in (1, -1)]
        torch.testing.assert_close(gradient[:, axis], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-7)
    assert not log_p.requires_grad and not gradient.requires_grad


def test_the_gradient_is_with_respect_to_the_image_that_was_given() -> None:
    """Also where the classifier sees a scaled copy of it."""
    exact = ExactClassifier(MIXTURE, VE)

    class Network(nn.Module):
        def forward(self, x: Tensor, label: Tensor, cond) -> Tensor:
            return exact(x, (4 * label).exp())

    alpha, _ = LINEAR(T)
    sigma = VE.time_of(LINEAR.half_log_snr(T))
    translated = NoisyClassifier(Network(), VE, "log_sigma")
    label = torch.tensor([0, 1, 2])
    _, gradient = class_gradient(translated, X, T, label, LINEAR)
    _, own = class_gradient(translated, X / alpha[:, None], sigma, label, VE)
    torch.testing.assert_close(gradient, own / alpha[:, None])
    torch.testing.assert_close(gradient, class_gradient(ExactClassifier(MIXTURE, LINEAR), X, T, label)[1])


def test_it_works_within_no_grad_and_leaves_no_gradients() -> None:
    network = nn.Linear(2, 3, dtype=F64)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x, label, cond):
            return self.inner(x)

    with torch.no_grad():
        _, gradient = class_gradient(NoisyClassifier(Network(), LINEAR), X, T, torch.tensor([0, 1, 2]))
    assert gradient.abs().min() > 0 and network.weight.grad is None


def test_any_class_pulls_nowhere() -> None:
    """The null class, whose number is that of the classes, is certain whatever the image."""
    classifier = ExactClassifier(MIXTURE, LINEAR)
    log_p, gradient = class_gradient(classifier, X, T, torch.tensor([3, 1, 3]))
    assert log_p[0] == log_p[2] == 0 and bool((gradient[[0, 2]] == 0).all())
    assert torch.equal(gradient[1], class_gradient(classifier, X, T, torch.tensor([0, 1, 2]))[1][1])
