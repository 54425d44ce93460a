"""Checkpoints of the common, unofficial SR3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.networks.filling import filled

from mezzotint.checkpoint import load
from mezzotint.checkpoint.families import open_official
from mezzotint.checkpoint.official import guided_diffusion, sr3
from mezzotint.configs import LowResConfig, SR3Config
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.networks.sr3 import SR3
from mezzotint.pipelines.generate import Model

SMALL = SR3Config(3, 3, 3, width=16, mults=(1, 2, 2), blocks=2, attention=(2,), groups=8)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SR3Config(1, 1, 0, width=32, mults=(1, 2), blocks=1, attention=(), waves="index"),
        SR3Config(3, 3, 3, mults=(1, 0.5), attention=(1,)),
    ],
    ids=str,
)
def test_names_are_one_to_one_and_weights_survive_the_way_there_and_back(config: SR3Config) -> None:
    state = filled(SR3(config)).state_dict()
    there = sr3.to_official(state, config)
    back = sr3.to_ours(there, config)
    assert back.keys() == state.keys() and len(there) == len(state)
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize(("name", "parameters"), [("I640000_E37_gen", 97_807_491), ("I830000_E32_gen", None)])
def test_published_models_are_recognised(name: str, parameters: int | None) -> None:
    wanted = sr3.published(name)
    assert isinstance(wanted.net, SR3Config)
    with torch.device("meta"):
        there = sr3.to_official(SR3(wanted.net).state_dict(), wanted.net)
    if parameters:
        assert sum(value.numel() for value in there.values()) == parameters
    shapes = {f"denoise_fn.{key}": tuple(value.shape) for key, value in there.items()}
    found = sr3.recognise({**shapes, "betas": (2000,)}, "")
    assert found == wanted and found.published == name and found.assumed == ()
    assert found.low_res == LowResConfig(scale=8) and found.denoiser.time_input == "alpha" and found.times.official
    assert guided_diffusion.recognise(shapes) is None


def test_a_file_is_opened_with_what_it_does_not_tell(tmp_path: Path) -> None:
    net = filled(SR3(SMALL)).eval()
    file = tmp_path / "some_gen.pth"
    state = {f"denoise_fn.{key}": value.clone() for key, value in sr3.to_official(net.state_dict(), SMALL).items()}
    torch.save({**state, "betas": torch.zeros(2000), "posterior_variance": torch.zeros(2000)}, file)
    with pytest.raises(ConfigError, match="does not tell: groups, schedule, low_res.scale, size"):
        open_official(file)
    settings: dict[str, Any] = {"groups": 8, "size": 16, "schedule": "linear", "low_res.scale": 4}
    model = load(file, settings=settings, device="cpu")
    assert isinstance(model, Model) and model.shape == (3, 16, 16)
    x, low = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    level = torch.tensor([0.3, 0.9])
    torch.testing.assert_close(model.stage.denoiser.network(x, level, {"low_res": low}), net(x, level, {"low_res": low}))
    told: list[torch.Tensor] = []
    model.stage.denoiser.network.register_forward_pre_hook(lambda module, given: told.append(given[1].double()))
    assert model.sample(low_res=torch.zeros(1, 3, 4, 4), steps=2).shape == (1, 3, 16, 16)
    visited = model.plan(model.job(num=1, low_res=torch.zeros(1, 3, 4, 4), steps=2)).grid[:-1, 0]
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-6, 1e-2, 2000, dtype=torch.float64), 0)
    wanted = alpha_bar[(visited * 2000).round().long() - 1].sqrt()  # the root of gamma, of the very step
    torch.testing.assert_close(torch.cat(told), wanted, rtol=1e-6, atol=0)
    del state["denoise_fn.mid.1.res_block.block1.block.0.weight"]
    torch.save(state, file)
    with pytest.raises(CheckpointError, match="nearly a 'sr3' of sr3"):
        load(file, settings=settings)


def test_the_noise_level_itself_is_not_its_square() -> None:
    """Told alpha^2 in place of alpha, such a network gives something else."""
    net = filled(SR3(SMALL)).eval()
    x, cond, level = torch.randn(2, 3, 8, 8), {"low_res": torch.randn(2, 3, 8, 8)}, torch.tensor([0.3, 0.9])
    assert (net(x, level, cond) - net(x, level**2, cond)).abs().max() > 1e-3


def test_arguments_that_mean_nothing() -> None:
    for arguments, message in (({"inner_chanel": 3}, "did you mean 'inner_channel'"), ({"with_noise_level_emb": False}, "no noise level")):
        with pytest.raises(ConfigError, match=message):
            sr3.network_from_arguments(arguments)
    with pytest.raises(ConfigError, match="no labels"):
        sr3.official_keys(SR3Config(3, 3, 3, num_classes=2))
