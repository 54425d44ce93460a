import math

import pytest
import torch
from torch import nn

from mezzotint.configs import OptimConfig
from mezzotint.train.optim import build_optimizer, lr_multiplier


@pytest.mark.parametrize(
    "decay, images, expected",
    [
        ("constant", 0, 0.0),
        ("constant", 50, 0.5),
        ("constant", 100, 1.0),
        ("constant", 999, 1.0),
        ("linear", 100, 1.0),
        ("linear", 550, 0.5),
        ("linear", 1000, 0.0),
        ("linear", 1200, 0.0),
        ("cosine", 325, 0.5 * (1 + math.cos(math.pi / 4))),
        ("cosine", 1000, 0.0),
    ],
)
def test_multiplier(decay, images, expected):
    assert lr_multiplier(OptimConfig(warmup=100, decay=decay), images, 1000) == pytest.approx(expected, abs=1e-12)


def test_without_warmup_the_first_step_has_the_full_rate():
    assert lr_multiplier(OptimConfig(), 0, 1000) == 1.0


def test_adamw_step_is_the_published_one():
    config = OptimConfig(lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.5)
    p = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = build_optimizer(config, [p])
    m = v = torch.zeros(2, dtype=torch.float64)
    expected = p.detach().clone()
    for k in (1, 2, 3):
        p.grad = g = torch.tensor([0.3, -2.0], dtype=torch.float64) * k
        optimizer.step()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        expected = expected - 0.1 * 0.5 * expected - 0.1 * (m / (1 - 0.8**k)) / ((v / (1 - 0.9**k)).sqrt() + 1e-6)
    torch.testing.assert_close(p.detach(), expected)
