"""Models in the space of a codec, from recipe to images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import mezzotint
from mezzotint.configs import DataFacts, DiTConfig, PixelConfig, Recipe, Spec, UViTConfig, VAELatentConfig
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.build import build_objective, build_stage, resolve
from mezzotint.pipelines.generate import Model
from mezzotint.registry import get
from mezzotint.types import Batch

FACTS = DataFacts(channels=3, size=(16, 8), classes=("a", "b"))


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> VAELatentConfig:
    autoencoders = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl")
    torch.manual_seed(0)
    vae = autoencoders.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=4,
    )
    path: Path = tmp_path_factory.mktemp("vae")
    vae.save_pretrained(path)
    return VAELatentConfig(path=str(path), factor=2)


def tiny(codec: VAELatentConfig | PixelConfig) -> Recipe:
    net = DiTConfig(width=16, depth=1, heads=2)
    return resolve(dataclasses.replace(get("recipe", "dit")(), net=net, codec=codec), FACTS)


def test_a_recipe_takes_channels_and_size_from_the_latents() -> None:
    net: Any = resolve(dataclasses.replace(get("recipe", "dit")(), net=DiTConfig()), DataFacts(3, (256, 128), ("a", "b"))).net
    assert (net.in_channels, net.out_channels, net.image_size, net.num_classes) == (4, 8, (32, 16), 3)
    net = tiny(PixelConfig()).net
    assert (net.in_channels, net.out_channels, net.image_size) == (3, 6, (16, 8))
    with pytest.raises(ConfigError, match="images of 16x8 have no latents at 1/32"):
        tiny(VAELatentConfig(factor=32))
    with pytest.raises(ConfigError, match="net.in_channels 3 and latents of 4 channels"):
        resolve(dataclasses.replace(get("recipe", "dit")(), net=UViTConfig(in_channels=3)), FACTS)


def test_training_sees_latents_and_saves_no_autoencoder(codec: VAELatentConfig) -> None:
    recipe = tiny(codec)
    stage = build_stage(recipe)
    objective = build_objective(recipe, stage)
    plain = build_objective(recipe, dataclasses.replace(stage, codec=build_stage(tiny(PixelConfig())).codec))
    images = torch.rand(2, 3, 16, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch, noise = Batch(images, torch.tensor([3, 4]), torch.tensor([0, 1])), Noise(0, [3, 4])
    loss = objective(batch, phase="denoise", step=0, noise=noise)
    latents = stage.codec.encode(images, noise=noise.sub("codec"))
    assert latents.shape == (2, 4, 8, 4)
    wanted = plain(dataclasses.replace(batch, images=latents), phase="denoise", step=0, noise=noise)
    torch.testing.assert_close(loss.total, wanted.total)
    loss.total.backward()
    assert {id(p) for p in objective.parameters()} == {id(p) for p in stage.denoiser.network.parameters()}
    assert objective.phases == plain.phases and objective.models == plain.models


def test_samples_are_decoded(codec: VAELatentConfig) -> None:
    model = mezzotint.fresh(Spec(tiny(codec), FACTS), device="cpu")
    assert isinstance(model, Model)
    job = model.job(num=2, steps=2, grid="uniform", seed=5)
    (chunk,) = model.run(job, save="all")
    assert chunk.trajectory.x.shape == (2, 3, 16, 8)
    last = chunk.trajectory.xs[-1]
    assert last.shape == (2, 4, 8, 4)
    torch.testing.assert_close(chunk.trajectory.x, model.stage.codec.decode(last))
