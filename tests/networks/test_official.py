"""Flags, parameter counts and names of the published ADM and Improved DDPM models."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.filling import filled

from mezzotint.checkpoint.official import guided_diffusion as official
from mezzotint.configs import DenoisingConfig, DiscreteConfig, EncoderConfig, UNetConfig, VLBConfig
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.networks.encoder import Encoder
from mezzotint.networks.unet import UNet

ADM: dict[str, Any] = {"learn_sigma": True, "resblock_updown": True, "attention_resolutions": "32,16,8", "class_cond": True}
IDDPM: dict[str, Any] = {"learn_sigma": True, "num_res_blocks": 3, "diffusion_steps": 4000, "noise_schedule": "cosine"}
SUPERRES: dict[str, Any] = {**ADM, "num_channels": 192}
LSUN: dict[str, Any] = {
    "learn_sigma": True,
    "image_size": 256,
    "num_heads": 1,
    "attention_resolutions": "16",
    "use_scale_shift_norm": False,
}
PUBLISHED: list[tuple[str, official.Family, dict[str, Any], int, int]] = [
    (
        "64",
        "guided_diffusion",
        {**ADM, "num_channels": 192, "num_res_blocks": 3, "num_head_channels": 64, "use_new_attention_order": True},
        295_904_454,
        541,
    ),
    ("128", "guided_diffusion", {**ADM, "image_size": 128, "num_channels": 256}, 421_529_606, 493),
    ("256", "guided_diffusion", {**ADM, "image_size": 256, "num_channels": 256, "num_head_channels": 64}, 553_838_086, 567),
    (
        "256 without classes, LSUN",
        "guided_diffusion",
        {**ADM, "image_size": 256, "num_channels": 256, "num_head_channels": 64, "class_cond": False, "dropout": 0.1},
        552_814_086,
        566,
    ),
    ("512", "guided_diffusion", {**ADM, "image_size": 512, "num_channels": 256, "num_head_channels": 64}, 558_997_638, 645),
    ("64 to 256", "guided_diffusion", {**SUPERRES, "large_size": 256, "small_size": 64}, 311_795_910, 567),
    (
        "128 to 512",
        "guided_diffusion",
        {**SUPERRES, "large_size": 512, "small_size": 128, "attention_resolutions": "32,16", "num_head_channels": 64},
        308_835_270,
        537,
    ),
    ("ImageNet 64", "improved_diffusion", IDDPM, 121_063_942, 450),
    ("CIFAR-10", "improved_diffusion", {**IDDPM, "image_size": 32, "dropout": 0.3}, 52_546_438, 446),
    ("ImageNet 64 with classes", "improved_diffusion", {**IDDPM, "num_channels": 192, "class_cond": True}, 273_049_350, 451),
    (
        "64 to 256, Improved DDPM",
        "improved_diffusion",
        {"learn_sigma": True, "num_channels": 192, "class_cond": True, "large_size": 256},
        279_792_390,
        457,
    ),
    ("LSUN, Improved DDPM", "improved_diffusion", LSUN, 113_676_678, 426),
]


@pytest.mark.parametrize(("name", "family", "flags", "parameters", "tensors"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_published_models_have_their_size(name: str, family: official.Family, flags: dict[str, Any], parameters: int, tensors: int) -> None:
    config = official.model_from_script_flags(flags, family=family).net
    assert isinstance(config, UNetConfig)
    with torch.device("meta"):
        state = UNet(config).state_dict()
    assert len(state) == tensors
    assert sum(value.numel() for value in state.values()) == parameters


@pytest.mark.parametrize(
    ("flags", "parameters", "tensors"),
    [
        ({"classifier_depth": 4}, 65_438_568, 307),
        ({"image_size": 128}, 42_568_040, 221),
        ({"image_size": 256}, 54_096_360, 249),
        ({"image_size": 512}, 54_448_360, 281),
    ],
)
def test_published_classifiers_have_their_size(flags: dict[str, Any], parameters: int, tensors: int) -> None:
    config = official.classifier_from_script_flags(flags).net
    assert isinstance(config, EncoderConfig)
    with torch.device("meta"):
        state = Encoder(config).state_dict()
    assert len(state) == tensors
    assert sum(value.numel() for value in state.values()) == parameters
    assert state["head.attention.position"].shape == (512, 65)


def test_default_flags_of_either_family() -> None:
    ours = official.model_from_script_flags({})
    net = UNetConfig(in_channels=3, out_channels=3, width=128, mults=(1, 2, 3, 4), attention=(4, 8))
    assert ours.net == net
    assert (ours.schedule, ours.size, ours.respacing) == (DiscreteConfig("linear", 1000), 64, "")
    assert (ours.denoiser.predicts, ours.denoiser.variance, ours.denoiser.time_input) == ("eps", "fixed_large", "index")
    improved = official.model_from_script_flags({"image_size": 32}, family="improved_diffusion")
    assert improved.net == dataclasses.replace(net, mults=(1, 2, 2, 2), attention=(2, 4))
    assert improved.denoiser.time_input == "index_1000"


def test_flags_of_the_process() -> None:
    def read(family: official.Family = "guided_diffusion", **flags: Any) -> official.OfficialModel:
        return official.model_from_script_flags(flags, family=family)

    learned = read(learn_sigma=True, diffusion_steps=4000, noise_schedule="cosine", timestep_respacing="ddim50")
    assert (learned.denoiser.variance, learned.net.out_channels, learned.respacing) == ("learned_range", 6, "ddim50")
    assert learned.schedule == DiscreteConfig("cosine", 4000)
    assert learned.objective == DenoisingConfig(vlb=1 / 4000)
    assert read("improved_diffusion", learn_sigma=True, diffusion_steps=4000).objective == DenoisingConfig(vlb=0.001)
    assert read(use_kl=True).objective == VLBConfig()
    assert read(predict_xstart=True).denoiser.predicts == "x0"
    assert read("improved_diffusion", sigma_small=True).denoiser.variance == "fixed_small"
    assert read(rescale_timesteps=True).denoiser.time_input == "index_1000"


def test_flags_of_the_network() -> None:
    def net(**flags: Any) -> UNetConfig | EncoderConfig:
        return official.model_from_script_flags(flags).net

    assert net(image_size=512).mults == (0.5, 1, 1, 2, 2, 4, 4)
    assert net(image_size=48, channel_mult="1,2,3", attention_resolutions="24,12") == dataclasses.replace(
        net(), mults=(1, 2, 3), attention=(2, 4)
    )
    upsampler = net(large_size=512, num_heads_upsample=2, resblock_updown=True, use_checkpoint=True)
    assert isinstance(upsampler, UNetConfig)
    assert (upsampler.mults, upsampler.low_res_channels, upsampler.in_channels) == ((1, 1, 2, 2, 4, 4), 3, 3)
    assert (upsampler.heads_up, upsampler.resample, upsampler.checkpointing) == (2, "block", True)
    classifier = official.classifier_from_script_flags({"classifier_pool": "spatial", "classifier_resblock_updown": False}).net
    assert isinstance(classifier, EncoderConfig)
    assert (classifier.pool, classifier.resample, classifier.head_channels, classifier.out_channels) == ("spatial", "conv", 64, 1000)
    assert classifier.attention == (2, 4, 8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_chanels": 64}, "unknown official flag 'num_chanels'; did you mean 'num_channels'"),
        ({"image_size": 96}, "no official channel multipliers for images of side 96"),
        ({"large_size": 128}, "no official channel multipliers for images of side 128"),
        ({"large_size": 256, "use_new_attention_order": True}, "unknown official flag 'use_new_attention_order'"),
    ],
)
def test_flags_that_mean_nothing(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        official.model_from_script_flags(flags)


def test_constructor_arguments_that_mean_nothing() -> None:
    arguments = {"in_channels": 3, "model_channels": 32, "out_channels": 3, "num_res_blocks": 1, "attention_resolutions": (2,)}
    assert official.unet_from_arguments({**arguments, "conv_resample": False}).resample == "pool"
    for change, message in (({"in_channels": None}, "needs 'in_channels'"), ({"dims": 3}, "dims=3"), ({"pool": "adaptive"}, "flag 'pool'")):
        with pytest.raises(ConfigError, match=message):
            official.unet_from_arguments({**arguments, **change})
    with pytest.raises(ConfigError, match="needs 'image_size'"):
        official.encoder_from_arguments(arguments)


UNET = UNetConfig(in_channels=3, out_channels=6, width=16, mults=(1, 2, 2), blocks=1, attention=(2,), num_classes=4, low_res_channels=3)
ENCODER = EncoderConfig(in_channels=3, out_channels=5, image_size=(8, 8), width=16, mults=(1, 2), blocks=2, attention=(2,), head_channels=8)


@pytest.mark.parametrize(
    "config",
    [
        *(dataclasses.replace(UNET, resample=resample) for resample in ("conv", "pool", "block")),
        dataclasses.replace(UNET, attention=(1, 4), num_classes=None, mults=(2, 1, 2)),
        *(dataclasses.replace(ENCODER, pool=pool) for pool in ("adaptive", "attention", "spatial", "spatial_v2")),
        dataclasses.replace(ENCODER, resample="conv"),
    ],
    ids=lambda config: f"{config.kind[1]}-{config.resample}-{getattr(config, 'pool', '')}",
)
def test_names_are_one_to_one_and_weights_survive_the_way_there_and_back(config: UNetConfig | EncoderConfig) -> None:
    net = filled(UNet(config) if isinstance(config, UNetConfig) else Encoder(config))
    state = net.state_dict()
    keys = official.official_keys(config)
    assert set(keys) == set(state)
    assert len(set(keys.values())) == len(keys)
    there = official.to_official(state, config)
    assert sum(value.numel() for value in there.values()) == sum(value.numel() for value in state.values())
    back = official.to_ours(there, config)
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_linear_layers_are_convolutions_there() -> None:
    there = official.to_official(Encoder(ENCODER).state_dict(), ENCODER)
    assert there["middle_block.1.qkv.weight"].shape == (96, 32, 1)
    assert there["out.2.c_proj.weight"].shape == (5, 32, 1)
    assert there["out.2.positional_embedding"].shape == (32, 17)
    adaptive = dataclasses.replace(ENCODER, pool="adaptive")
    assert official.to_official(Encoder(adaptive).state_dict(), adaptive)["out.3.weight"].shape == (5, 32, 1, 1)


def test_weights_of_other_settings_are_refused() -> None:
    there = official.to_official(UNet(UNET).state_dict(), UNET)
    other = dataclasses.replace(UNET, num_classes=None)
    with pytest.raises(CheckpointError, match=r"0 names are missing \(first: -\), 1 are unknown \(first: \['label_emb.weight'\]\)"):
        official.to_ours(there, other)
    with pytest.raises(CheckpointError, match="not a state dict of these settings: 1 names are missing"):
        official.to_official(UNet(other).state_dict(), UNET)
