from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import nn

from mezzotint.configs import EncoderConfig
from mezzotint.errors import ConfigError
from mezzotint.networks.encoder import Encoder
from mezzotint.registry import get

POOLS = ("adaptive", "attention", "spatial", "spatial_v2")
SMALL = EncoderConfig(
    in_channels=3, out_channels=5, image_size=(8, 8), width=16, mults=(1, 2), blocks=1, attention=(2,), head_channels=8, pool="attention"
)


def test_it_is_registered_by_its_config() -> None:
    assert get(*EncoderConfig.kind) is Encoder


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("resample", ["conv", "pool", "block"])
def test_gradients_reach_every_parameter_and_the_image(pool: Any, resample: Any) -> None:
    net = filled(Encoder(dataclasses.replace(SMALL, pool=pool, resample=resample)))
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = net(x, torch.tensor([0.0, 30.0, 999.0]), {})
    assert logits.shape == (3, 5)
    logits.log_softmax(1)[:, 0].sum().backward()
    assert x.grad is not None and x.grad.flatten(1).abs().amax(1).min() > 0
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


@pytest.mark.parametrize(("pool", "width"), [("adaptive", 32), ("attention", 32), ("spatial", 2048), ("spatial_v2", 2048)])
def test_pooled_features_feed_the_last_layer(pool: Any, width: int) -> None:
    net = filled(Encoder(dataclasses.replace(SMALL, pool=pool)))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    assert net.taps[-1] == "pooled"
    pooled = net.features(x, t, {}, ["pooled", "middle"])["pooled"]
    assert pooled.shape == (2, width)
    torch.testing.assert_close(net.head.out(pooled), net(x, t, {}))


def test_spatial_pooling_sees_every_stage() -> None:
    net = filled(Encoder(dataclasses.replace(SMALL, pool="spatial")))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    maps = net.features(x, t, {}, [tap for tap in net.taps if tap != "pooled"])
    stages = ("stem", "down.0.blocks.0", "down.0.resample", "down.1.blocks.0", "middle")
    means = torch.cat([maps[stage].mean(dim=(2, 3)) for stage in stages], dim=1)
    assert isinstance(net.head.hidden, nn.Linear)
    torch.testing.assert_close(net.features(x, t, {}, ["pooled"])["pooled"], net.head.hidden(means).relu())


def test_only_the_adaptive_head_starts_at_zero() -> None:
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    for pool in POOLS:
        logits = Encoder(dataclasses.replace(SMALL, pool=pool))(x, t, {})
        assert (logits.abs().max() == 0) == (pool == "adaptive"), pool


@pytest.mark.parametrize("pool", POOLS)
def test_odd_sizes_and_rectangles(pool: Any) -> None:
    config = dataclasses.replace(SMALL, mults=(1, 1, 1), pool=pool, image_size=(9, 5))
    assert filled(Encoder(config))(torch.randn(2, 3, 9, 5), torch.zeros(2), {}).isfinite().all()


def test_logits_depend_on_the_time_and_on_nothing_else_of_the_batch() -> None:
    net = filled(Encoder(SMALL))
    x = torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1)
    logits = net(x, torch.tensor([0.0, 900.0]), {})
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    torch.testing.assert_close(net(x[:1], torch.tensor([900.0]), {}), logits[1:])


def test_settings_and_calls_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="attention pooling needs it"):
        Encoder(dataclasses.replace(SMALL, image_size=(0, 0)))
    with pytest.raises(ConfigError, match="unknown condition of Encoder 'label'"):
        Encoder(SMALL)(torch.zeros(1, 3, 8, 8), torch.zeros(1), {"label": torch.zeros(1)})
    with pytest.raises(ConfigError, match="made for 16 pixels, got a 8x4 map"):
        Encoder(SMALL)(torch.zeros(1, 3, 16, 8), torch.zeros(1), {})


@pytest.mark.parametrize("pool", POOLS)
def test_checkpointing_gives_the_same_gradients(pool: Any) -> None:
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    grads = []
    for on in (False, True):
        net = filled(Encoder(dataclasses.replace(SMALL, pool=pool, checkpointing=on)))
        calls: list[int] = []
        net.middle.before.conv1.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        net(x, t, {}).square().sum().backward()
        assert len(calls) == (2 if on else 1)
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(
    ("pool", "keys"),
    [
        ("adaptive", {"norm.weight", "norm.bias", "out.weight", "out.bias"}),
        (
            "attention",
            {"norm.weight", "norm.bias", "attention.position", "attention.qkv.weight", "attention.qkv.bias", "out.weight", "out.bias"},
        ),
        ("spatial", {"hidden.weight", "hidden.bias", "out.weight", "out.bias"}),
        ("spatial_v2", {"hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "out.weight", "out.bias"}),
    ],
)
def test_names_of_the_head_are_frozen(pool: Any, keys: set[str]) -> None:
    state = Encoder(dataclasses.replace(SMALL, pool=pool)).state_dict()
    assert {key.removeprefix("head.") for key in state if key.startswith("head.")} == keys
    assert {key.split(".")[0] for key in state} == {"time_embed", "stem", "down", "middle", "head"}
