from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.configs import DiTConfig
from mezzotint.errors import ConfigError
from mezzotint.networks.dit import DiT
from mezzotint.nn.tokens import grid_positions, patchify, unpatchify
from mezzotint.registry import get

SMALL = DiTConfig(in_channels=3, out_channels=6, num_classes=5, image_size=(8, 8), width=16, depth=2, heads=2)


def inputs(config: DiTConfig, size: tuple[int, int] = (8, 8), b: int = 5) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    cond = {} if config.num_classes is None else {"label": torch.arange(b) % config.num_classes}
    return torch.randn(b, config.in_channels, *size, generator=g), torch.linspace(0, 999, b), cond


def test_it_is_registered_by_its_config() -> None:
    assert get(*DiTConfig.kind) is DiT


@pytest.mark.parametrize(
    ("size", "depth", "width", "heads", "patch", "parameters"),
    [
        ("S/2", 12, 384, 6, 2, 32_963_360),
        ("S/8", 12, 384, 6, 8, 33_148_160),
        ("B/4", 12, 768, 12, 4, 130_475_648),
        ("L/2", 24, 1024, 16, 2, 458_102_816),
        ("XL/2", 28, 1152, 16, 2, 675_129_632),
    ],
)
def test_the_published_sizes(size: str, depth: int, width: int, heads: int, patch: int, parameters: int) -> None:
    config = DiTConfig(4, 8, 1001, (32, 32), patch=patch, width=width, depth=depth, heads=heads)
    with torch.device("meta"):
        state = DiT(config).state_dict()
    assert sum(value.numel() for value in state.values()) == parameters, size


def test_a_new_network_answers_zero_and_its_blocks_do_nothing() -> None:
    torch.manual_seed(0)
    net = DiT(SMALL)
    x, t, cond = inputs(SMALL)
    assert torch.equal(net(x, t, cond), torch.zeros(5, 6, 8, 8))
    got = net.features(x, t, cond, ["stem", "blocks.1"])
    assert got["stem"].shape == (5, 16, 4, 4)
    assert torch.equal(got["stem"], got["blocks.1"])
    assert 0.015 < net.label_embed.weight.std() < 0.025


@pytest.mark.parametrize(
    "change", [{}, {"num_classes": None}, {"patch": 4, "mlp_ratio": 2.0}, {"patch": 1, "depth": 1}, {"checkpointing": True}], ids=str
)
def test_gradients_reach_every_parameter(change: dict[str, Any]) -> None:
    config = dataclasses.replace(SMALL, **change)
    net = filled(DiT(config))
    out = net(*inputs(config))
    assert out.shape == (5, 6, 8, 8)
    out.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


def test_time_and_label_and_place_matter() -> None:
    net = filled(DiT(SMALL))
    x, t, cond = inputs(SMALL, b=2)
    out = net(x, t, cond)
    assert (net(x, t + 1, cond) - out).abs().max() > 1e-4
    assert (net(x, t, {"label": cond["label"] + 1}) - out).abs().max() > 1e-4
    # Without positions, moving the patches would move the output.
    moved = net(x.roll(2, 3), t, cond).roll(-2, 3)
    assert (moved - out).abs().max() > 1e-4


def test_positions_are_those_of_the_paper_for_any_grid() -> None:
    table = grid_positions(1152, (16, 16))
    assert table.dtype == torch.float64
    row0 = table[1]
    expected = [0.84147098, 0.82405135, 0.80640167]
    torch.testing.assert_close(row0[:3], torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(row0[288:290], torch.tensor([0.54030231, 0.56651512], dtype=torch.float64), atol=1e-8, rtol=0)
    assert row0[576:864].abs().max() == 0 and (row0[864:] == 1).all()
    flat = grid_positions(8, (2, 5)).view(2, 5, 8)
    torch.testing.assert_close(flat[0, :, :4], flat[1, :, :4])
    assert flat[1, 3, 0] == math.sin(3) and flat[1, 3, 4] == math.sin(1)
    with pytest.raises(ConfigError, match="width=10 is no multiple of 4"):
        grid_positions(10, (2, 2))


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (16, 8)])
def test_other_sizes_and_rectangles(size: tuple[int, int]) -> None:
    net = filled(DiT(SMALL))
    trained_there = filled(DiT(dataclasses.replace(SMALL, image_size=size)))
    x, t, cond = inputs(SMALL, size, b=2)
    assert torch.equal(net(x, t, cond), trained_there(x, t, cond))


def test_patches_go_back_to_their_place() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    cut = patchify(x, 2)
    assert cut.shape == (2, 6, 12)
    assert torch.equal(cut[0, 1], torch.stack([x[0, :, r, c] for r in (0, 1) for c in (2, 3)]).flatten())
    assert torch.equal(unpatchify(cut, 2, (2, 3)), x)


def test_autocast_and_half_precision_stay_close() -> None:
    net = filled(DiT(SMALL))
    x, t, cond = inputs(SMALL)
    out = net(x, t, cond)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(x, t, cond)
    assert mixed.dtype == torch.float32
    assert (mixed - out).abs().max() < 0.03 * out.abs().max()
    half = net.to(torch.bfloat16)(x, t, cond)
    assert half.dtype == torch.float32
    assert (half - out).abs().max() < 0.05 * out.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads=3 does not divide 16"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"depth": 0}, "depth=0"),
        ({"patch": 3}, "patches of side 3 do not tile 8x8"),
    ],
)
def test_settings_that_cannot_be_built(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DiT(dataclasses.replace(SMALL, **change))


def test_wrong_inputs_are_refused() -> None:
    net = DiT(SMALL)
    x, t, cond = inputs(SMALL)
    with pytest.raises(ConfigError, match="patches of side 2 do not tile 7x8"):
        net(x[:, :, :7], t, cond)
    with pytest.raises(ConfigError, match="DiT needs the condition 'label'"):
        net(x, t, {})
    with pytest.raises(ConfigError, match="unknown condition of DiT 'lable'"):
        net(x, t, {"lable": cond["label"]})
    with pytest.raises(ConfigError, match="unknown tap 'block.0'"):
        net.features(x, t, cond, ["block.0"])
