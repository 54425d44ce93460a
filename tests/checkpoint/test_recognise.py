"""Official checkpoints are recognised from names and shapes alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.networks.filling import filled

from mezzotint.checkpoint.official import dit, guided_diffusion, u_vit
from mezzotint.checkpoint.official.base import OfficialModel
from mezzotint.configs import (
    ClassifyConfig,
    DiscreteConfig,
    DiTConfig,
    EncoderConfig,
    LabelConfig,
    NetworkConfig,
    UNetConfig,
    UViTConfig,
    VAELatentConfig,
    VPConfig,
)
from mezzotint.denoise import time_input
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.registry import get
from mezzotint.schedules import build_schedule

FAMILIES: tuple[ModuleType, ...] = (guided_diffusion, dit, u_vit)
MANIFESTS = {"guided-diffusion": guided_diffusion, "improved-diffusion": guided_diffusion, "dit": dit, "u-vit": u_vit}
UNET = UNetConfig(in_channels=3, out_channels=6, width=16, mults=(1, 2, 2), blocks=1, attention=(2,), num_classes=4)
ENCODER = EncoderConfig(3, 5, (8, 8), width=16, mults=(1, 2), blocks=2, attention=(2,), head_channels=8)
DIT = DiTConfig(4, 8, 11, (8, 8), width=64, depth=3, heads=1, mlp_ratio=2.0)
UVIT = UViTConfig(3, 3, 10, (8, 8), width=64, depth=4, heads=1)


def official(family: ModuleType, config: NetworkConfig) -> dict[str, torch.Tensor]:
    """The official state dict of a network, without numbers."""
    with torch.device("meta"):
        return family.to_official(get(*config.kind)(config).state_dict(), config)


def shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def recognised(found: Mapping[str, tuple[int, ...]], filename: str = "") -> tuple[ModuleType, OfficialModel]:
    """The only family that knows the shapes, and what it says."""
    ((family, model),) = [(family, model) for family in FAMILIES if (model := family.recognise(found, filename)) is not None]
    return family, model


def test_every_manifest_is_recognised_and_built(reference_dir: Path) -> None:
    paths = [path for path in sorted((reference_dir / "manifests").glob("*.json")) if path.name.split(".")[0] in MANIFESTS]
    assert len(paths) >= 30
    for path in paths:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        theirs = {name: tuple(shape) for name, shape in manifest["state_dict"].items()}
        for filename in ("", f"{path.stem.partition('.')[2]}.pt"):
            family, model = recognised(theirs, filename)
            assert family is MANIFESTS[path.name.split(".")[0]], path.name
            assert model.assumed == (), path.name
        ours = official(family, model.net)
        assert shapes(ours) == theirs, path.name
        assert sum(value.numel() for value in ours.values()) == manifest["parameters"]
        if family is guided_diffusion:
            name = path.stem.partition(".")[2]
            flags = {k: v for k, v in manifest["config"].items() if k != "readme_flags"}
            if "classifier_width" in flags:
                wanted: Any = guided_diffusion.classifier_from_script_flags(flags)
                assert isinstance(model.objective, ClassifyConfig)
            else:
                wanted = guided_diffusion.model_from_script_flags(flags, family=guided_diffusion.PUBLISHED[name][0])
                assert (model.schedule, model.objective) == (wanted.schedule, wanted.objective), path.name
            assert (model.net, model.denoiser, model.size, model.published) == (wanted.net, wanted.denoiser, wanted.size, name)
        elif family is u_vit:
            wanted = u_vit.config_from_arguments({**manifest["config"], "use_checkpoint": False})
            assert (model.net, model.published) == (wanted, path.stem.partition(".")[2])


def test_published_models_of_equal_shapes_are_sampled_alike() -> None:
    facts = {}
    for name in guided_diffusion.PUBLISHED:
        model = guided_diffusion.published(name)
        found = shapes(official(guided_diffusion, model.net))
        facts[name] = found, dataclasses.replace(model.net, dropout=0.0), model.schedule, model.denoiser, model.size
    twins = [(a, b) for a, b in itertools.combinations(facts, 2) if facts[a][0] == facts[b][0]]
    assert ("256x256_diffusion_uncond", "lsun_cat") in twins
    for a, b in twins:
        assert facts[a][1:] == facts[b][1:], (a, b)


def test_the_file_name_tells_twins_apart() -> None:
    found = shapes(official(guided_diffusion, guided_diffusion.published("lsun_cat").net))
    for name, dropout in (("256x256_diffusion_uncond", 0.0), ("lsun_horse", 0.1), ("lsun_horse_nodropout", 0.0)):
        _, model = recognised(found, f"/models/{name}.pt")
        assert (model.published, model.net.dropout) == (name, dropout)
    assert recognised(found, "renamed.pt")[1].net.dropout == 0.0
    with pytest.raises(ConfigError, match="did you mean 'lsun_cat'"):
        guided_diffusion.published("lsun_cats")


UNETS = [
    *(dataclasses.replace(UNET, resample=resample) for resample in ("conv", "pool", "block")),
    dataclasses.replace(UNET, low_res_channels=3, num_classes=None, scale_shift=False),
    dataclasses.replace(UNET, in_channels=1, out_channels=2, low_res_channels=1, blocks=3, attention=(1, 4)),
    dataclasses.replace(UNET, mults=(0.5, 1, 1, 3), blocks=2, resample="block", out_channels=3, attention=()),
]
ENCODERS = [
    *(dataclasses.replace(ENCODER, resample=resample) for resample in ("conv", "pool", "block")),
    dataclasses.replace(ENCODER, mults=(1, 1, 2, 3, 4), image_size=(32, 32), attention=(4, 8, 16)),
]


@pytest.mark.parametrize("net", [*UNETS, *ENCODERS], ids=lambda net: f"{net.kind[1]}-{net.resample}")
def test_architectures_of_the_adm_family_show_in_shapes(net: UNetConfig | EncoderConfig) -> None:
    family, model = recognised(shapes(official(guided_diffusion, net)))
    assert family is guided_diffusion
    assert guided_diffusion._visible(model.net) == guided_diffusion._visible(net)
    assert {"heads", "attention_order", "schedule", "time_input"} <= set(model.assumed)
    assert "mults" not in model.assumed
    learned = isinstance(net, UNetConfig) and net.out_channels == 2 * net.in_channels
    assert model.denoiser.variance == ("learned_range" if learned else "fixed_large")


@pytest.mark.parametrize("pool", ["adaptive", "spatial", "spatial_v2"])
def test_pooling_shows_in_shapes(pool: Any) -> None:
    # Classifiers with other pooling do not show the size of their images; the multipliers of one for 64 pixels do.
    net = dataclasses.replace(ENCODER, pool=pool, mults=(1, 2, 3, 4), image_size=(64, 64))
    _, model = recognised(shapes(official(guided_diffusion, net)))
    assert guided_diffusion._visible(model.net) == guided_diffusion._visible(net)


def test_levels_of_equal_width_without_attention_are_a_guess_and_said_to_be_one() -> None:
    net = dataclasses.replace(ENCODER, mults=(1, 1, 1, 1), blocks=5, attention=(), resample="block")
    _, model = recognised(shapes(official(guided_diffusion, net)))
    assert "mults" in model.assumed


def test_dit_shows_in_shapes() -> None:
    family, model = recognised(shapes(official(dit, DIT)))
    assert (family, model.net) == (dit, DIT)
    assert model.assumed == ("heads", "label.drop")
    assert model.label == LabelConfig(num_classes=10, drop=0.1)
    assert isinstance(model.codec, VAELatentConfig) and not model.clip
    assert (model.denoiser.variance, model.schedule, model.size) == ("learned_range", DiscreteConfig(), 8)
    published = dit.config_from_arguments({"input_size": 64})
    _, model = recognised(shapes(official(dit, published)))
    assert (model.net, model.published, model.assumed) == (published, "DiT-XL-2-512x512", ())
    assert model.respacing == "250"
    pixels = dataclasses.replace(DIT, in_channels=3, out_channels=3)
    _, model = recognised(shapes(official(dit, pixels)))
    assert (model.net, model.denoiser.variance) == (pixels, "fixed_large")


@pytest.mark.parametrize(
    ("change", "assumed"),
    [
        ({}, ["heads", "schedule", "label.drop"]),
        ({"num_classes": None, "conv": False, "skip": "none", "qkv_bias": True, "time_mlp": True}, ["heads", "schedule"]),
        ({"num_classes": None, "text_tokens": 77, "text_channels": 12}, ["heads", "schedule"]),
        ({"num_classes": None, "text_tokens": 6, "width": 512, "heads": 8}, ["schedule", "text_tokens"]),
        ({"in_channels": 4, "out_channels": 4, "patch": 4, "num_classes": 1001}, ["heads", "schedule"]),
    ],
    ids=str,
)
def test_uvit_shows_in_shapes(change: dict[str, Any], assumed: list[str]) -> None:
    net = dataclasses.replace(UVIT, **change)
    family, model = recognised(shapes(official(u_vit, net)))
    assert (family, model.net) == (u_vit, net)
    assert set(model.assumed) == set(assumed)


def test_processes_of_the_published_uvits() -> None:
    def told(name: str) -> OfficialModel:
        return recognised(shapes(official(u_vit, u_vit.config_from_arguments(u_vit.PUBLISHED[name]))))[1]

    pixels, large, huge, text = (
        told(f"{name}") for name in ("imagenet64_uvit_mid", "imagenet256_uvit_large", "imagenet512_uvit_huge", "mscoco_uvit_small")
    )
    assert [model.schedule for model in (pixels, large)] == [VPConfig(), VPConfig()]
    assert [model.schedule for model in (huge, text)] == [DiscreteConfig(betas="scaled_linear")] * 2
    assert [model.denoiser.time_input for model in (pixels, large, huge, text)] == ["t_999", "t_999", "t_1000", "t_1000"]
    assert [model.label for model in (pixels, large, huge, text)] == [
        LabelConfig(1000),
        LabelConfig(1000, 0.15),
        LabelConfig(1000, 0.1),
        None,
    ]
    levels = build_schedule(huge.schedule)
    alpha, _ = levels(torch.tensor([0.001, 1.0]))
    torch.testing.assert_close(alpha**2, torch.tensor([0.99915, 0.00466010], dtype=torch.float64), atol=1e-8, rtol=1e-5)
    assert time_input(levels, torch.tensor([0.001, 0.5, 1.0]), huge.denoiser.time_input).tolist() == [1.0, 500.0, 1000.0]
    assert isinstance(text.codec, VAELatentConfig) and text.codec.scale == 0.2301
    assert isinstance(huge.codec, VAELatentConfig) and huge.codec.scale is None


@pytest.mark.parametrize("name", list(u_vit.PUBLISHED))
def test_published_uvits_are_told_by_their_names(name: str) -> None:
    found = shapes(official(u_vit, u_vit.config_from_arguments(u_vit.PUBLISHED[name])))
    assert recognised(found)[1].published == name


@pytest.mark.parametrize(("family", "config"), [(dit, DIT), (u_vit, UVIT), (u_vit, dataclasses.replace(UVIT, qkv_bias=True, conv=False))])
def test_weights_survive_the_way_there_and_back(family: ModuleType, config: NetworkConfig) -> None:
    state = filled(get(*config.kind)(config)).state_dict()
    there = family.to_official(state, config)
    back = family.to_ours(there, config)
    assert back.keys() == state.keys() == family.official_keys(config).keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    del there["pos_embed"]
    with pytest.raises(CheckpointError, match=r"1 names are missing \(first: \['pos_embed'\]\)"):
        family.to_ours(there, config)


def test_the_patch_embedding_is_the_official_convolution() -> None:
    net = filled(get(*UVIT.kind)(UVIT))
    there = u_vit.to_official(net.state_dict(), UVIT)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.nn.functional.conv2d(x, there["patch_embed.proj.weight"], there["patch_embed.proj.bias"], stride=2)
    ours = net.features(x, torch.zeros(2), {"label": torch.zeros(2, dtype=torch.long)}, ["stem"])["stem"]
    positions = net.positions[0, net.extras :].t().view(-1, 4, 4)
    torch.testing.assert_close(tokens + positions, ours)


@pytest.mark.parametrize("missing", ["time_embed.0.weight", "out.2.weight", "input_blocks.1.0.out_layers.3.weight"])
def test_other_state_dicts_are_nobodys(missing: str) -> None:
    found = shapes(official(guided_diffusion, UNET))
    del found[missing]
    assert all(family.recognise(found) is None for family in FAMILIES)
    assert all(family.recognise({}) is None for family in FAMILIES)
    assert all(family.recognise({"conv.weight": (3, 3, 3, 3), "pos_embed": (1, 4, 8)}) is None for family in FAMILIES)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown official argument 'input_siz'; did you mean 'input_size'"):
        dit.config_from_arguments({"input_siz": 8})
    with pytest.raises(ConfigError, match="unknown official argument 'cfg'"):
        dit.model_from_arguments({}, {"cfg": 1})
    with pytest.raises(ConfigError, match="unknown official argument 'img'"):
        u_vit.config_from_arguments({"img": 8})
