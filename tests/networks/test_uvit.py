from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.configs import UViTConfig
from mezzotint.errors import ConfigError
from mezzotint.networks.uvit import UViT
from mezzotint.registry import get

SMALL = UViTConfig(in_channels=3, out_channels=3, image_size=(8, 4), width=16, depth=4, heads=2)
FULL = dataclasses.replace(SMALL, num_classes=5, text_tokens=3, text_channels=6, time_mlp=True, qkv_bias=True)


def inputs(config: UViTConfig, b: int = 5) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    cond = {}
    if config.num_classes is not None:
        cond["label"] = torch.arange(b) % config.num_classes
    if config.text_tokens:
        cond["text"] = torch.randn(b, config.text_tokens, config.text_channels, generator=g)
    return torch.randn(b, config.in_channels, *config.image_size, generator=g), torch.linspace(0, 999, b), cond


def test_it_is_registered_by_its_config() -> None:
    assert get(*UViTConfig.kind) is UViT


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (UViTConfig(3, 3, None, (32, 32)), 44_255_328),
        (UViTConfig(3, 3, 1000, (64, 64), patch=4, width=768, depth=16, heads=12), 130_940_292),
        (UViTConfig(4, 4, 1001, (32, 32), width=1152, depth=28, heads=16, conv=False), 500_832_016),
        (UViTConfig(4, 4, 1001, (64, 64), patch=4, width=1024, depth=20, heads=16), 286_861_524),
        (UViTConfig(4, 4, None, (32, 32), depth=16, text_tokens=77), 58_345_636),
    ],
    ids=["CIFAR-10", "ImageNet 64 M", "ImageNet 256 H", "ImageNet 512 L", "COCO deep"],
)
def test_the_published_sizes(config: UViTConfig, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in UViT(config).parameters()) == parameters


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        FULL,
        dataclasses.replace(FULL, checkpointing=True, depth=5),
        dataclasses.replace(SMALL, skip="none", conv=False, patch=4),
        dataclasses.replace(SMALL, skip="add", depth=1, out_channels=6),
    ],
    ids=["plain", "full", "checkpointing", "no skip", "add"],
)
def test_gradients_reach_every_parameter(config: UViTConfig) -> None:
    net = filled(UViT(config))
    out = net(*inputs(config))
    assert out.shape == (5, config.out_channels, 8, 4)
    out.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


def test_time_label_and_text_matter() -> None:
    net = filled(UViT(FULL))
    x, t, cond = inputs(FULL, b=2)
    out = net(x, t, cond)
    for other in (net(x, t + 1, cond), net(x, t, {**cond, "label": cond["label"] + 1}), net(x, t, {**cond, "text": -cond["text"]})):
        assert (other - out).abs().max() > 1e-5


def test_the_first_block_is_joined_to_the_last() -> None:
    net = filled(UViT(SMALL))
    x, t, cond = inputs(SMALL, b=1)
    seen = {}
    for i, block in enumerate(net.after):
        block.register_forward_pre_hook(lambda _, args, i=i: seen.update({i: args[1]}))
    before = {}
    for i, block in enumerate(net.before):
        block.register_forward_hook(lambda _, args, out, i=i: before.update({i: out}))
    net(x, t, cond)
    assert torch.equal(seen[0], before[1])
    assert torch.equal(seen[1], before[0])


def test_a_join_that_keeps_the_main_branch_is_no_join() -> None:
    plain = filled(UViT(dataclasses.replace(SMALL, skip="none")))
    joined = filled(UViT(SMALL))
    for block in joined.after:
        block.join.weight.data = torch.cat([torch.eye(16), torch.zeros(16, 16)], dim=1)
        block.join.bias.data.zero_()
    x, t, cond = inputs(SMALL)
    torch.testing.assert_close(joined(x, t, cond), plain(x, t, cond))


def test_features_are_maps_of_the_patches() -> None:
    net = filled(UViT(FULL))
    x, t, cond = inputs(FULL)
    got = net.features(x, t, cond, net.taps)
    assert list(got) == ["stem", "before.0", "before.1", "middle", "after.0", "after.1"]
    assert {value.shape for value in got.values()} == {(5, 16, 4, 2)}


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = UViT(dataclasses.replace(SMALL, width=64, num_classes=50))
    assert 0.018 < net.middle.mlp.hidden.weight.std() < 0.022
    assert 0.018 < net.positions.std() < 0.022
    assert net.middle.mlp.hidden.bias.abs().max() == 0
    assert 0.9 < net.label_embed.weight.std() < 1.1
    assert abs(net.stem.weight.std() - 1 / (3 * 12) ** 0.5) < 0.02  # that of a convolution with 12 inputs


def test_autocast_stays_close() -> None:
    net = filled(UViT(FULL))
    x, t, cond = inputs(FULL)
    out = net(x, t, cond)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(x, t, cond)
    assert mixed.dtype == torch.float32
    assert (mixed - out).abs().max() < 0.05 * out.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"heads": 3}, "heads=3 does not divide 16"), ({"image_size": (0, 0)}, "do not tile 0x0"), ({"mlp_ratio": 0.0}, "mlp_ratio=0")],
)
def test_settings_that_cannot_be_built(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UViT(dataclasses.replace(SMALL, **change))


def test_wrong_inputs_are_refused() -> None:
    net = UViT(FULL)
    x, t, cond = inputs(FULL)
    with pytest.raises(ConfigError, match="positions were learned for 8x4, got 4x4"):
        net(x[:, :, :4], t, cond)
    with pytest.raises(ConfigError, match=r"'text' is \[5, 2, 6\], and the network takes \[b, 3, 6\]"):
        net(x, t, {**cond, "text": cond["text"][:, :2]})
    with pytest.raises(ConfigError, match="UViT needs the condition 'text'"):
        net(x, t, {"label": cond["label"]})
