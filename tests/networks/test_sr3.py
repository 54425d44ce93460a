from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.configs import SR3Config
from mezzotint.errors import ConfigError
from mezzotint.networks.sr3 import SR3
from mezzotint.registry import get

SMALL = SR3Config(in_channels=3, out_channels=3, low_res_channels=3, width=8, mults=(1, 2), blocks=1, attention=(2,), groups=4)
CHANGES: list[dict[str, Any]] = [
    {},
    {"num_classes": 5, "low_res_level": True, "out_channels": 6},
    {"rescale": True, "resample": "block", "blocks": 2, "attention": ()},
    {"waves": "index", "low_res_channels": 0, "checkpointing": True},
    {"mults": (1, 2, 1), "attention": (1, 4)},
]
VARIANTS = [dataclasses.replace(SMALL, **change) for change in CHANGES]


def inputs(config: SR3Config, size: tuple[int, int] = (8, 8), b: int = 4) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    cond: dict[str, Tensor] = {}
    if config.low_res_channels:
        cond["low_res"] = torch.randn(b, config.low_res_channels, *size, generator=g)
    if config.num_classes:
        cond["label"] = torch.arange(b) % config.num_classes
    if config.low_res_level:
        cond["low_res_level"] = torch.linspace(0, 1, b, dtype=torch.float64)
    return torch.randn(b, config.in_channels, *size, generator=g), torch.linspace(0.01, 0.99, b), cond


def test_it_is_registered_by_its_config() -> None:
    assert get(*SR3Config.kind) is SR3


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: str(VARIANTS.index(config)))
def test_gradients_reach_every_parameter(config: SR3Config) -> None:
    net = filled(SR3(config))
    x, t, cond = inputs(config)
    net(x, t, cond).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: str(VARIANTS.index(config)))
def test_shapes_rows_and_conditions(config: SR3Config) -> None:
    net = filled(SR3(config)).eval()
    x, t, cond = inputs(config, (5, 7))
    out = net(x, t, cond)
    assert out.shape == (4, config.out_channels, 5, 7) and net.accepts == cond.keys()
    alone = net(x[2:3], t[2:3], {name: value[2:3] for name, value in cond.items()})
    torch.testing.assert_close(alone, out[2:3])
    assert (net(x, t.flip(0), cond) - out).abs().max() > 1e-4
    for key, value in cond.items():
        assert (net(x, t, {**cond, key: value.flip(0)}) - out).abs().max() > 1e-4
        with pytest.raises(ConfigError, match=f"needs the condition '{key}'"):
            net(x, t, {name: value for name, value in cond.items() if name != key})


def test_taps_come_in_order() -> None:
    net = filled(SR3(SMALL)).eval()
    found = net.features(*inputs(SMALL), net.taps)
    assert tuple(found) == net.taps and found["middle"].shape == (4, 16, 4, 4)


def test_the_published_face_model_has_its_size() -> None:
    faces = SR3Config(3, 3, 3, width=64, mults=(1, 2, 4, 8, 8), blocks=2, attention=(8,), dropout=0.2)
    with torch.device("meta"):
        state = SR3(faces).state_dict()
    assert (len(state), sum(value.numel() for value in state.values())) == (362, 97_807_491)


def test_what_cannot_be() -> None:
    x, t, cond = inputs(SMALL)
    small = {"low_res": cond["low_res"][:, :, ::2, ::2]}
    with pytest.raises(ConfigError, match="bring it to the size of x"):
        SR3(SMALL)(x, t, small)
    with pytest.raises(ConfigError, match="groups=5 does not divide"):
        SR3(dataclasses.replace(SMALL, groups=5))
    with pytest.raises(ConfigError, match="num_classes=0"):
        SR3(dataclasses.replace(SMALL, num_classes=0))
