"""Checkpoints of score_sde: names in their list of layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.checkpoint.official import score_sde
from mezzotint.configs import SongUNetConfig, VEConfig, VPConfig
from mezzotint.errors import CheckpointError
from mezzotint.networks.song_unet import SongUNet

DDPMPP = SongUNetConfig(3, 3, width=128, mults=(1, 2, 2, 2))
NCSNPP = dataclasses.replace(DDPMPP, embedding="fourier", noise_mult=2, encoder="residual", filter=(1, 3, 3, 1))
SKIPS = dataclasses.replace(NCSNPP, encoder="skip", decoder="skip", blocks=2, attention=(16,), mults=(1, 1, 2, 2, 2, 2))
SMALL = SongUNetConfig(
    3, 3, width=8, mults=(1, 2), blocks=1, embedding="fourier", noise_mult=2, encoder="skip", decoder="skip", filter=(1, 3, 3, 1)
)


def official(config: SongUNetConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return score_sde.to_official(SongUNet(config).state_dict(), config)


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [(DDPMPP, 406, 61_804_419), (dataclasses.replace(NCSNPP, blocks=8), None, 107_587_075), (SKIPS, None, None), (SMALL, None, None)],
    ids=["ddpm++", "ncsn++ deep", "skips", "small"],
)
def test_architectures_show_in_shapes(config: SongUNetConfig, tensors: int | None, parameters: int | None) -> None:
    state = official(config)
    if parameters:
        assert sum(value.numel() for value in state.values()) == parameters
    shapes = {f"module.{name}": tuple(value.shape) for name, value in state.items()}
    model = score_sde.recognise({**shapes, "module.sigmas": (1000,)})
    assert model is not None and model.net == config
    shapes.popitem()
    assert score_sde.recognise(shapes) is None
    assert score_sde.recognise({}) is None


def test_layers_are_numbered_in_the_official_order() -> None:
    keys = score_sde.official_keys(DDPMPP)
    assert keys["stem.weight"] == ("all_modules.2.weight",)
    assert keys["down.0.blocks.0.residual.norm1.weight"] == ("all_modules.3.GroupNorm_0.weight",)
    assert keys["down.1.blocks.0.attention.qkv.bias"] == tuple(f"all_modules.9.NIN_{i}.b" for i in range(3))
    assert keys["heads.0.conv.weight"] == ("all_modules.54.weight",)
    keys = score_sde.official_keys(NCSNPP)
    assert keys["time_embed.fourier.frequencies"] == ("all_modules.0.W",)
    assert keys["sides.0.conv.weight"] == ("all_modules.9.Conv2d_0.weight",)


def test_processes_follow_from_waves_and_folders() -> None:
    def told(config: SongUNetConfig, filename: str = "") -> Any:
        return score_sde.recognise({name: tuple(value.shape) for name, value in official(config).items()}, filename)

    plain, waves = told(DDPMPP), told(NCSNPP)
    assert (plain.schedule, plain.denoiser.predicts, plain.assumed, plain.size) == (VPConfig(t_min=1e-5), "eps", (), 32)
    assert (waves.schedule, waves.denoiser.predicts, waves.assumed) == (VEConfig(0.02, 100.0), "scaled_score", ("sde", "sigma_max"))
    assert told(NCSNPP, "exp/ve/cifar10_ncsnpp_continuous/checkpoint_24.pth").assumed == ("sigma_max",)
    assert told(NCSNPP, "exp/vp/cifar10_ncsnpp_continuous/checkpoint.pth").denoiser.time_input == "t_999"


def test_weights_survive_the_way_there_and_back() -> None:
    state = filled(SongUNet(SMALL)).state_dict()
    there = score_sde.to_official(state, SMALL)
    back = score_sde.to_ours({f"module.{name}": value for name, value in there.items()}, SMALL)
    assert back.keys() == state.keys() == score_sde.official_keys(SMALL).keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    qkv = state["middle.attention.qkv.weight"]
    (w,) = [value for name, value in there.items() if name.endswith("NIN_1.W") and torch.equal(value.t(), qkv[16:32])]
    assert w.shape == (16, 16)
    there.popitem()
    with pytest.raises(CheckpointError, match="a score_sde checkpoint"):
        score_sde.to_ours(there, SMALL)


def test_averages_take_the_place_of_the_trained_weights() -> None:
    state = score_sde.to_official(filled(SongUNet(SMALL)).state_dict(), SMALL)
    # In the official order, the layers count upwards.
    names = sorted(state, key=lambda name: int(name.split(".")[1]))
    model = {f"module.{name}": state[name] for name in ("all_modules.0.W", *(n for n in names if n != "all_modules.0.W"))}
    averages = [value + 1 for name, value in model.items() if not name.endswith(".0.W")]
    got = score_sde.state_of({"model": {**model, "module.sigmas": torch.ones(3)}, "ema": {"shadow_params": averages}, "step": 1})
    assert torch.equal(got["all_modules.0.W"], state["all_modules.0.W"])
    assert torch.equal(got["all_modules.3.weight"], state["all_modules.3.weight"] + 1)
    assert score_sde.to_ours(got, SMALL).keys() == SongUNet(SMALL).state_dict().keys()
    with pytest.raises(CheckpointError, match="averages for"):
        score_sde.state_of({"model": model, "ema": {"shadow_params": averages[1:]}})
    with pytest.raises(CheckpointError, match="lacks one"):
        score_sde.state_of(model)
