from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.configs import UNet2DConfig
from mezzotint.errors import ConfigError
from mezzotint.networks.unet2d import UNet2D
from mezzotint.registry import get

SMALL = UNet2DConfig(in_channels=3, out_channels=3, widths=(16, 32), blocks=1, attention=(2,), groups=8)
NCSNPP = dataclasses.replace(SMALL, widths=(32, 32), progressive=True, waves="fourier", middle_scale=0.7)


def inputs(config: UNet2DConfig, size: tuple[int, int] = (8, 8), b: int = 5) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    cond = {} if config.num_classes is None else {"label": torch.arange(b) % config.num_classes}
    return torch.randn(b, config.in_channels, *size, generator=g), torch.linspace(0.5, 999, b), cond


CHANGES: list[dict[str, Any]] = [
    {},
    {"num_classes": 5, "out_channels": 6},
    {"scale_shift": True, "groups_middle": 0, "head_channels": 8},
    {"attention": (1,), "attention_up": (2,), "attention_middle": False, "blocks": 2},
    {"residual_down": (1,), "residual_up": (2,), "corner": False},
    {"waves": "fourier", "embed": 24, "checkpointing": True},
    {"widths": (8,), "attention": ()},
]
VARIANTS = [dataclasses.replace(SMALL, **change) for change in CHANGES] + [
    NCSNPP,
    dataclasses.replace(NCSNPP, attention=(1,), attention_up=(2,), num_classes=5),
]


def test_it_is_registered_by_its_config() -> None:
    assert get(*UNet2DConfig.kind) is UNet2D


@pytest.mark.parametrize(
    ("widths", "attention", "tensors", "parameters"),
    [((128, 256, 256, 256), 2, 328, 35_746_307), ((128, 128, 256, 256, 512, 512), 16, 450, 113_673_219)],
)
def test_ddpm_has_as_many_parameters_as_published(widths: Any, attention: int, tensors: int, parameters: int) -> None:
    with torch.device("meta"):
        state = UNet2D(UNet2DConfig(3, 3, widths=widths, attention=(attention,))).state_dict()
    # The published files keep q, k and v apart.
    assert len(state) + 4 * sum(name.endswith("qkv.weight") for name in state) == tensors
    assert sum(value.numel() for value in state.values()) == parameters


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: str(VARIANTS.index(config)))
def test_gradients_reach_every_parameter(config: UNet2DConfig) -> None:
    net = filled(UNet2D(config))
    x, t, cond = inputs(config)
    out = net(x, t, cond)
    assert out.shape == (5, config.out_channels, 8, 8)
    out.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [SMALL, NCSNPP, VARIANTS[4]], ids=["plain", "progressive", "residual"])
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (5, 12)])
def test_odd_sizes_and_rectangles(config: UNet2DConfig, size: tuple[int, int]) -> None:
    x, t, cond = inputs(config, size)
    out = filled(UNet2D(config))(x, t, cond)
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize("config", [SMALL, NCSNPP], ids=["plain", "progressive"])
def test_every_tap_has_the_feature_that_the_output_is_made_of(config: UNet2DConfig) -> None:
    net = filled(UNet2D(config))
    x, t, cond = inputs(config)
    found = net.features(x, t, cond, net.taps)
    assert list(found) == list(net.taps)
    assert found["middle"].shape == (5, 32, 4, 4) and found["up.0.blocks.1"].shape == (5, config.widths[0], 8, 8)


def test_fourier_networks_read_the_time_as_sigma() -> None:
    net = filled(UNet2D(NCSNPP))
    x, _, _ = inputs(NCSNPP, b=2)
    with torch.no_grad():
        once, twice = net(x, torch.tensor([2.0, 2.0]), {}), net(x, torch.tensor([2.0, 4.0]), {})
        torch.testing.assert_close(once[0], twice[0])
        assert not torch.allclose(once[1], 2 * twice[1], atol=1e-4)
        assert net.time_embed.fourier is not None
        net.time_embed.fourier.frequencies.zero_()  # now only the division knows of sigma
        torch.testing.assert_close(net(x, torch.tensor([1.0, 1.0]), {}), 3 * net(x, torch.tensor([3.0, 3.0]), {}))


def test_conditions_are_checked() -> None:
    x, t, _ = inputs(SMALL)
    with pytest.raises(ConfigError, match="condition"):
        UNet2D(SMALL)(x, t, {"label": torch.zeros(5, dtype=torch.long)})
    with pytest.raises(ConfigError, match="needs the condition 'label'"):
        UNet2D(VARIANTS[1])(x, t, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": ()}, "give the channels of each level"),
        ({"groups": 7}, "groups=7 does not divide"),
        ({"num_classes": 0}, "at least 1"),
        ({"head_channels": 5}, "does not divide"),
        ({"progressive": True}, "32 divides"),
        ({"in_channels": 0}, "at least 1"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UNet2D(dataclasses.replace(SMALL, **{"widths": (16, 48), **change}))
