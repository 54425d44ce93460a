from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor, nn

from mezzotint.configs import UNetConfig
from mezzotint.errors import ConfigError
from mezzotint.networks.unet import UNet
from mezzotint.registry import get

SMALL = UNetConfig(in_channels=3, out_channels=3, width=16, mults=(1, 2), blocks=1, attention=(2,), heads=2)
FULL = dataclasses.replace(SMALL, num_classes=5, low_res_channels=3, low_res_level=True, resample="block")


def inputs(config: UNetConfig, size: tuple[int, int] = (8, 8), b: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    cond = {}
    if config.num_classes is not None:
        cond["label"] = torch.arange(b) % config.num_classes
    if config.low_res_channels:
        cond["low_res"] = torch.randn(b, config.low_res_channels, 3, 4, generator=g)
    if config.low_res_level:
        cond["low_res_level"] = torch.linspace(0.1, 0.8, b, dtype=torch.float64)
    return torch.randn(b, config.in_channels, *size, generator=g), torch.linspace(0, 999, b), cond


def variants() -> list[Any]:
    changes: list[dict[str, Any]] = [
        {"resample": "pool"},
        {"resample": "block"},
        {"scale_shift": False},
        {"attention_order": "new"},
        {"attention": (1, 2), "head_channels": 8},
        {"heads_up": 4},
        {"mults": (0.5, 1, 1), "attention": (4,), "blocks": 2},
        {"num_classes": 5},
        {"low_res_channels": 3, "out_channels": 6},
        {"low_res_channels": 3, "low_res_level": True},
        {"checkpointing": True},
        {"width": 10, "attention": (), "heads": 5},
        {"mults": (1,), "attention": ()},
    ]
    return [pytest.param(dataclasses.replace(SMALL, **change), id=",".join(change)) for change in changes]


def test_it_is_registered_by_its_config() -> None:
    assert get(*UNetConfig.kind) is UNet


@pytest.mark.parametrize("config", variants())
def test_gradients_reach_every_parameter(config: UNetConfig) -> None:
    net = filled(UNet(config))
    x, t, cond = inputs(config, b=5)
    out = net(x, t, cond)
    assert out.shape == (5, config.out_channels, 8, 8)
    out.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.flatten(1).abs().sum(1).min() > 0 if name == "label_embed.weight" else p.grad.abs().max() > 0, name


def test_a_new_network_answers_zero_and_its_branches_do_nothing() -> None:
    torch.manual_seed(0)
    net = UNet(SMALL)
    x, t, cond = inputs(SMALL)
    assert torch.equal(net(x, t, cond), torch.zeros_like(x))
    got = net.features(x, t, cond, ["stem", "down.0.blocks.0"])
    assert torch.equal(got["stem"], got["down.0.blocks.0"])


@pytest.mark.parametrize("size", [(7, 7), (33, 65), (1, 1), (5, 12)])
@pytest.mark.parametrize("resample", ["conv", "pool", "block"])
def test_odd_sizes_and_rectangles(size: tuple[int, int], resample: Any) -> None:
    config = dataclasses.replace(SMALL, mults=(1, 1, 1), attention=(4,), resample=resample)
    x, t, cond = inputs(config, size)
    out = filled(UNet(config))(x, t, cond)
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_what_is_below_and_right_of_an_odd_image_does_not_matter() -> None:
    # Rounding up and cutting must not shift anything: far from the edge an image and its crop give the same output.
    config = dataclasses.replace(SMALL, attention=(), mults=(1, 1))
    net = filled(UNet(config))
    for norm in [m for m in net.modules() if isinstance(m, nn.GroupNorm)]:
        norm.forward = lambda input: input  # statistics over the whole image, as attention in the middle, see the edge
    nn.init.zeros_(net.middle.attention.out.weight)
    x, t, cond = inputs(config, (64, 64))
    a, b = net(x, t, cond), net(x[:, :, :63, :61], t, cond)
    assert (a[:, :, :32, :32] - b[:, :, :32, :32]).abs().max() < 1e-6
    assert (a[:, :, :63, :61] - b).abs().max() > 1e-6


@pytest.mark.parametrize("config", [SMALL, FULL], ids=["conv", "block"])
def test_checkpointing_changes_memory_and_nothing_else(config: UNetConfig) -> None:
    config = dataclasses.replace(config, dropout=0.3)
    x, t, cond = inputs(config)
    runs = {}
    for on in (False, True):
        net = filled(UNet(dataclasses.replace(config, checkpointing=on)))
        calls: dict[str, int] = {}
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_pre_hook(lambda *_, name=name, calls=calls: calls.update({name: calls.get(name, 0) + 1}))
        torch.manual_seed(0)
        net(x, t, cond).square().mean().backward()
        runs[on] = {name: p.grad for name, p in net.named_parameters()}, calls
        outside = ("stem", "time_embed", "level_embed", "head")
        assert {n for name, n in calls.items() if not name.startswith(outside)} == ({2} if on else {1})
    for name, grad in runs[False][0].items():
        torch.testing.assert_close(runs[True][0][name], grad)


def test_checkpointing_is_off_where_no_gradient_is_asked_for() -> None:
    net = filled(UNet(dataclasses.replace(SMALL, checkpointing=True)))
    with torch.no_grad():
        x, t, cond = inputs(SMALL)
        torch.testing.assert_close(net(x, t, cond), filled(UNet(SMALL))(x, t, cond))


def test_dropout_acts_in_training_only() -> None:
    net = filled(UNet(dataclasses.replace(SMALL, dropout=0.5)))
    x, t, cond = inputs(SMALL)
    assert not torch.equal(net(x, t, cond), net(x, t, cond))
    net.eval()
    assert torch.equal(net(x, t, cond), net(x, t, cond))


def test_an_image_does_not_depend_on_its_batch() -> None:
    net = filled(UNet(FULL)).eval()
    x, t, cond = inputs(FULL, b=4)
    whole = net(x, t, cond)
    for k in range(4):
        alone = net(x[k : k + 1], t[k : k + 1], {name: value[k : k + 1] for name, value in cond.items()})
        torch.testing.assert_close(alone, whole[k : k + 1])
    assert (whole[0] - whole[1]).abs().max() > 1e-3


@pytest.mark.parametrize("key", ["label", "low_res", "low_res_level"])
def test_conditions_change_the_output_and_are_checked(key: str) -> None:
    net = filled(UNet(FULL))
    assert net.accepts == {"label", "low_res", "low_res_level"}
    x, t, cond = inputs(FULL)
    other = {**cond, key: cond[key].flip(0)}
    assert (net(x, t, other) - net(x, t, cond)).abs().max() > 1e-4
    with pytest.raises(ConfigError, match=f"needs the condition '{key}'"):
        net(x, t, {name: value for name, value in cond.items() if name != key})
    with pytest.raises(ConfigError, match="unknown condition of UNet 'labels'; did you mean 'label'"):
        net(x, t, {**cond, "labels": cond["label"]})
    assert UNet(SMALL).accepts == frozenset()


def test_low_res_is_blown_up_bilinearly_behind_x() -> None:
    config = dataclasses.replace(SMALL, in_channels=1, out_channels=1, low_res_channels=1)
    net = UNet(config)
    with torch.no_grad():
        net.stem.weight.zero_()[:, 1, 1, 1] = 1
        net.stem.bias.zero_()  # type: ignore[union-attr]
    low = torch.tensor([[0.0, 4.0]])[None, None]
    x = torch.zeros(1, 1, 2, 4)
    stem = net.features(x, torch.zeros(1), {"low_res": low}, ["stem"])["stem"]
    assert stem[0, 0].tolist() == [[0.0, 1.0, 3.0, 4.0]] * 2


def test_taps_name_what_the_modules_compute() -> None:
    config = dataclasses.replace(SMALL, mults=(1, 2, 2), resample="conv")
    net = filled(UNet(config))
    seen: dict[str, Tensor] = {}
    for tap in net.taps:
        net.get_submodule(tap).register_forward_hook(lambda m, args, out, tap=tap: seen.update({tap: out}))
    x, t, cond = inputs(config)
    net(x, t, cond)
    expected, order = dict(seen), list(seen)
    assert order == list(net.taps)
    seen.clear()
    found = net.features(x, t, cond, ["middle", "down.1.resample"])
    assert list(seen) == order[: order.index("middle") + 1], "nothing after the last tap is computed"
    for tap in ("middle", "down.1.resample"):
        assert torch.equal(found[tap], expected[tap])
    with pytest.raises(ConfigError, match="unknown tap 'midle'; did you mean 'middle'"):
        net.features(x, t, cond, ["midle"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_answer_in_the_type_of_x(dtype: torch.dtype) -> None:
    net = filled(UNet(FULL))
    x, t, cond = inputs(FULL)
    expected = net(x, t, cond)
    got = net.to(dtype)(x, t, cond)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < 0.05 * expected.abs().max()


def test_autocast_keeps_the_head_in_float32() -> None:
    net = filled(UNet(SMALL))
    x, t, cond = inputs(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        assert net.features(x, t, cond, ["middle"])["middle"].dtype == torch.bfloat16
        out = net(x, t, cond)
    assert out.dtype == torch.float32
    assert not torch.equal(out, out.bfloat16().float())


def test_it_compiles_without_a_break() -> None:
    net = filled(UNet(FULL))
    x, t, cond = inputs(FULL)
    torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x, t, cond), net(x, t, cond))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 0}, "in_channels=0"),
        ({"out_channels": 0}, "out_channels=0"),
        ({"blocks": 0}, "blocks=0"),
        ({"mults": ()}, "each level needs"),
        ({"mults": (0.01, 1)}, "each level needs"),
        ({"heads": 5}, "heads=5 does not divide 32"),
        ({"heads_up": 3}, "heads=3 does not divide 32"),
        ({"head_channels": 24}, "head_channels=24 does not divide 32"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"dropout": 1.5}, "dropout=1.5"),
    ],
)
def test_settings_that_cannot_work(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        UNet(dataclasses.replace(SMALL, **change))
    assert "\n" not in str(caught.value)


def test_attention_that_acts_nowhere_warns() -> None:
    with pytest.warns(UserWarning, match=r"attention at factors \[8\] has no effect: the levels have the factors \[1, 2\]"):
        UNet(dataclasses.replace(SMALL, attention=(2, 8)))


def test_names_of_the_weights_are_frozen() -> None:
    config = dataclasses.replace(SMALL, mults=(1, 2), num_classes=3)
    residual = ["norm1", "conv1", "embed", "norm2", "conv2"]
    attention = ["norm", "qkv", "out"]
    layers = ["time_embed.hidden", "time_embed.out", "stem", "down.0.resample.conv", "up.1.resample.conv", "head.norm", "head.conv"]
    blocks = [("down.0.blocks.0", False, False), ("down.1.blocks.0", True, True)]
    blocks += [("up.1.blocks.0", True, True), ("up.1.blocks.1", True, True)]
    blocks += [("up.0.blocks.0", False, True), ("up.0.blocks.1", False, True)]
    for name, attends, changes in blocks:
        layers += [f"{name}.residual.{part}" for part in [*residual, *["skip"] * changes]]
        layers += [f"{name}.attention.{part}" for part in attention] * attends
    for part in ("before", "after"):
        layers += [f"middle.{part}.{layer}" for layer in residual]
    layers += [f"middle.attention.{part}" for part in attention]
    keys = {f"{layer}.{member}" for layer in layers for member in ("weight", "bias")} | {"label_embed.weight"}
    assert set(UNet(config).state_dict()) == keys


def test_the_version_of_edm_has_larger_groups_and_perhaps_no_attention_in_the_middle() -> None:
    config = dataclasses.replace(SMALL, group_channels=4, attention_middle=False, attention=())
    net = UNet(config)
    groups = {module.num_channels: module.num_groups for module in net.modules() if isinstance(module, nn.GroupNorm)}
    assert groups == {16: 4, 32: 8, 48: 12, 64: 16}
    assert not any(".attention" in name for name in net.state_dict())


def test_an_augmentation_may_be_missing_and_then_is_none() -> None:
    config = dataclasses.replace(SMALL, augment=3)
    net = filled(UNet(config))
    x, t, _ = inputs(config)
    with torch.no_grad():
        zero, told = (net(x, t, {"augment": value}) for value in (torch.zeros(2, 3), torch.ones(2, 3)))
        torch.testing.assert_close(net(x, t, {}), zero)
    assert not torch.allclose(told, zero, atol=1e-4)
