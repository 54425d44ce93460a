from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.configs import SongUNetConfig
from mezzotint.errors import ConfigError
from mezzotint.networks.song_unet import ClassTable, SongUNet
from mezzotint.registry import get

SMALL = SongUNetConfig(in_channels=3, out_channels=3, width=8, mults=(1, 2), blocks=1, attention=(2,))
NCSNPP = dataclasses.replace(SMALL, embedding="fourier", noise_mult=2, encoder="residual", filter=(1, 3, 3, 1))
SKIPS = dataclasses.replace(NCSNPP, encoder="skip", decoder="skip", mults=(1, 1, 2), attention=(4,), num_classes=4, augment=3)
VARIANTS = [
    SMALL,
    NCSNPP,
    SKIPS,
    dataclasses.replace(SMALL, out_channels=6, embed_mult=2, checkpointing=True),
    dataclasses.replace(SMALL, mults=(2,), attention=(1,)),
]


def inputs(config: SongUNetConfig, size: tuple[int, int] = (8, 8), b: int = 5) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    cond = {}
    if config.num_classes is not None:
        cond["label"] = torch.arange(b) % (config.num_classes + 1)
    if config.augment:
        cond["augment"] = torch.randn(b, config.augment, generator=g)
    return torch.randn(b, config.in_channels, *size, generator=g), torch.linspace(-1, 1, b), cond


def test_it_is_registered_by_its_config() -> None:
    assert get(*SongUNetConfig.kind) is SongUNet


def test_ddpmpp_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        net = SongUNet(SongUNetConfig(3, 3))
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == 55.7


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: str(VARIANTS.index(config)))
def test_gradients_reach_every_parameter(config: SongUNetConfig) -> None:
    net = filled(SongUNet(config)).eval()
    x, t, cond = inputs(config)
    out = net(x, t, cond)
    assert out.shape == (5, config.out_channels, 8, 8)
    out.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [SMALL, NCSNPP, SKIPS], ids=["plain", "residual", "skip"])
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (5, 12)])
def test_odd_sizes_and_rectangles(config: SongUNetConfig, size: tuple[int, int]) -> None:
    x, t, cond = inputs(config, size)
    out = filled(SongUNet(config))(x, t, cond)
    assert out.shape == x.shape and out.isfinite().all()


def test_a_new_network_answers_next_to_nothing_and_has_a_feature_for_every_tap() -> None:
    torch.manual_seed(0)
    net = SongUNet(SMALL)
    x, t, cond = inputs(SMALL)
    assert 0 < net(x, t, cond).abs().max() < 1e-3
    assert list(net.features(x, t, cond, net.taps)) == list(net.taps)


def test_labels_beyond_the_last_stand_for_none() -> None:
    table = ClassTable(4, 6)
    torch.nn.init.normal_(table.bias)
    out = table(torch.tensor([0, 3, 4]))
    torch.testing.assert_close(out[:2], 2 * table.weight[[0, 3]] + table.bias)
    torch.testing.assert_close(out[2], table.bias)


def test_an_augmentation_may_be_missing_and_then_is_none() -> None:
    net = filled(SongUNet(SKIPS)).eval()
    x, t, cond = inputs(SKIPS)
    with torch.no_grad():
        told = net(x, t, cond)
        zero = net(x, t, {**cond, "augment": torch.zeros(5, 3)})
        torch.testing.assert_close(net(x, t, {"label": cond["label"]}), zero)
    assert not torch.allclose(told, zero)
    with pytest.raises(ConfigError, match="needs the condition 'label'"):
        net(x, t, {"augment": cond["augment"]})


def test_attention_on_the_way_up_follows_the_last_block_alone() -> None:
    names = {name.rpartition(".attention.")[0] for name in SongUNet(SMALL).state_dict() if ".attention." in name}
    assert names == {"down.1.blocks.0", "middle", "up.1.blocks.1"}


@pytest.mark.parametrize("change", [{"mults": ()}, {"num_classes": 0}, {"filter": (1, 2, 1)}, {"blocks": 0}, {"dropout": 2.0}], ids=str)
def test_impossible_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SongUNet(dataclasses.replace(SMALL, **change))
