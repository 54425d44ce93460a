"""Models of diffusers: JSON, names, folders; what is written runs in diffusers itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.checkpoint.official import ddpm, diffusers
from mezzotint.checkpoint.official.base import OfficialModel
from mezzotint.configs import DenoiserConfig, DiscreteConfig, DiTConfig, LabelConfig, UNet2DConfig, UNetConfig, VEConfig, VPConfig
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.networks.unet import UNet
from mezzotint.networks.unet2d import UNet2D

SMALL = UNet2DConfig(3, 3, widths=(16, 32), blocks=1, attention=(2,), attention_up=(2,), groups=8)
NCSNPP = dataclasses.replace(SMALL, widths=(32, 64), progressive=True, waves="fourier", middle_scale=0.5)
VARIANTS = [
    SMALL,
    NCSNPP,
    dataclasses.replace(SMALL, num_classes=5, out_channels=6, scale_shift=True, groups_middle=0, head_channels=8, blocks=2),
    dataclasses.replace(SMALL, attention=(1,), attention_up=(2,), attention_middle=False, residual_down=(1,), embed=24, corner=False),
    dataclasses.replace(SMALL, attention=(), attention_up=(), residual_down=(1,), residual_up=(2,), wave_shift=0.0, sine_first=False),
    dataclasses.replace(SMALL, scale_shift=True, groups_middle=4, eps=1e-5, waves="fourier", middle_scale=0.5),
]
DDPM_SIZES = {32: ((128, 256, 256, 256), 2), 256: ((128, 128, 256, 256, 512, 512), 16)}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def meta(config: UNet2DConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return UNet2D(config).state_dict()


def model_of(net: Any, **changes: Any) -> OfficialModel:
    return OfficialModel(**{"net": net, "schedule": DiscreteConfig(), "denoiser": DenoiserConfig(), "size": 8, **changes})


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: str(VARIANTS.index(config)))
def test_settings_survive_the_way_there_and_back(config: UNet2DConfig) -> None:
    there = diffusers.network_to_config(config, 8)
    assert diffusers.network_from_config(json.loads(json.dumps(there))) == dataclasses.replace(
        config, groups_middle=config.groups_middle if config.scale_shift or config.groups_middle else None
    )


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: str(VARIANTS.index(config)))
def test_the_same_weights_give_the_same_output_in_diffusers(config: UNet2DConfig) -> None:
    official = pytest.importorskip("diffusers")
    net = filled(UNet2D(config)).eval()
    theirs = official.UNet2DModel(**diffusers.network_to_config(config, 8)).eval()
    state = diffusers.to_official(net.state_dict(), config)
    theirs.load_state_dict(state)
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 3, 8, 8, generator=g), torch.tensor([3.0, 900.0])
    label = None if config.num_classes is None else torch.tensor([0, 4])
    with torch.no_grad():
        wanted = theirs(x, t, class_labels=label).sample
        torch.testing.assert_close(net(x, t, {} if label is None else {"label": label}), wanted, rtol=1e-4, atol=1e-5 * float(wanted.std()))
    back = diffusers.to_ours(state, config)
    assert back.keys() == diffusers.official_keys(config).keys() == net.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in net.state_dict().items())


ADM = UNetConfig(3, 3, width=32, mults=(1, 2), blocks=1, attention=(2,), heads=2)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"attention_order": "new", "heads": 1, "scale_shift": False, "attention": (1, 2)},
        {"resample": "block", "head_channels": 16, "attention": (1, 2), "num_classes": 5, "out_channels": 6},
        {"resample": "block", "attention": (), "attention_middle": False},
        {"mults": (1, 2, 3), "attention": (4,), "blocks": 2, "head_channels": 32},
    ],
    ids=str,
)
def test_networks_of_adm_are_told_to_diffusers(change: dict[str, Any]) -> None:
    official = pytest.importorskip("diffusers")
    config = dataclasses.replace(ADM, **change)
    net = filled(UNet(config)).eval()
    theirs = official.UNet2DModel(**diffusers.network_to_config(diffusers.as_unet2d(config), 8)).eval()
    theirs.load_state_dict(diffusers.to_official(net.state_dict(), config))
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 900.0])
    label = None if config.num_classes is None else torch.tensor([0, 4])
    with torch.no_grad():
        wanted = theirs(x, t, class_labels=label).sample
        torch.testing.assert_close(net(x, t, {} if label is None else {"label": label}), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"low_res_channels": 3},
        {"augment": 2},
        {"resample": "pool"},
        {"mults": (2, 2)},
        {"width": 24, "mults": (1, 4)},
        {"heads_up": 4},
        {"attention": (1, 2)},
    ],
    ids=str,
)
def test_networks_that_diffusers_lacks_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="UNet2DModel needs"):
        diffusers.as_unet2d(dataclasses.replace(ADM, **change))


def test_a_pipeline_that_was_written_runs_in_diffusers(tmp_path: Path) -> None:
    official = pytest.importorskip("diffusers")
    for config, build in ((SMALL, UNet2D), (ADM, UNet)):
        net = filled(build(config), 0.05).eval()  # type: ignore[arg-type]
        schedule = DiscreteConfig(betas="cosine", steps=20)
        diffusers.write_folder(tmp_path / "out", net.state_dict(), model_of(config, schedule=schedule, denoiser=DenoiserConfig("v")))
        pipeline = official.DDPMPipeline.from_pretrained(tmp_path / "out")
        pipeline.set_progress_bar_config(disable=True)
        x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 19.0])
        with torch.no_grad():
            torch.testing.assert_close(net(x, t, {}), pipeline.unet(x, t).sample, rtol=1e-4, atol=1e-5)
        assert pipeline.scheduler.config.prediction_type == "v_prediction" and len(pipeline.scheduler.betas) == 20
        images = pipeline(batch_size=2, num_inference_steps=4, output_type="np").images
        assert images.shape == (2, 8, 8, 3) and images.std() > 0
        state, model = diffusers.read_folder(tmp_path / "out")
        assert (model.schedule, model.denoiser, model.size, model.assumed) == (schedule, DenoiserConfig("v"), 8, ())
        assert isinstance(model.net, UNet2DConfig)
        again = UNet2D(model.net).eval()
        again.load_state_dict(diffusers.to_ours(state, model.net))
        with torch.no_grad():
            torch.testing.assert_close(net(x, t, {}), again(x, t, {}))


def test_a_pipeline_of_diffusers_is_read(tmp_path: Path) -> None:
    official = pytest.importorskip("diffusers")
    unet = official.UNet2DModel(**diffusers.network_to_config(SMALL, 8)).eval()
    scheduler = official.DDPMScheduler(variance_type="fixed_large", clip_sample=False)
    official.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "whole")
    unet.save_pretrained(tmp_path / "bare", safe_serialization=False)
    for folder in ("whole", "bare", "whole/unet"):
        assert diffusers.is_folder(tmp_path / folder)
        state, model = diffusers.read_folder(tmp_path / folder)
        assert model.net == SMALL
        net = UNet2D(SMALL).eval()
        net.load_state_dict(diffusers.to_ours(state, SMALL))
        x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 900])
        with torch.no_grad():
            torch.testing.assert_close(net(x, t, {}), unet(x, t).sample, rtol=1e-4, atol=1e-5)
        if folder == "bare":
            assert model.assumed == ("scheduler",)
        else:
            assert (model.denoiser.variance, model.clip, model.schedule) == ("fixed_large", False, DiscreteConfig())


def test_class_conditional_models_have_no_pipeline(tmp_path: Path) -> None:
    official = pytest.importorskip("diffusers")
    net = UNet2D(VARIANTS[2])
    diffusers.write_folder(tmp_path / "out", net.state_dict(), model_of(VARIANTS[2], label=LabelConfig(5)))
    assert not (tmp_path / "out" / "model_index.json").exists()
    assert official.UNet2DModel.from_pretrained(tmp_path / "out" / "unet").config.num_class_embeds == 5
    assert diffusers.read_folder(tmp_path / "out")[1].label == LabelConfig(5)


@pytest.mark.parametrize(
    ("scheduler", "schedule", "denoiser"),
    [
        ({}, DiscreteConfig(), DenoiserConfig(variance="fixed_small")),
        (
            {"beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range"},
            DiscreteConfig(betas="cosine"),
            DenoiserConfig(variance="learned_range"),
        ),
        (
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "sample"},
            DiscreteConfig(betas="scaled_linear"),
            DenoiserConfig("x0", "fixed_small"),
        ),
        (
            {"trained_betas": [0.1, 0.2], "num_train_timesteps": 2, "variance_type": None},
            DiscreteConfig(steps=2, custom=(0.1, 0.2)),
            DenoiserConfig(variance="fixed_small"),
        ),
        (
            {"beta_start": 0.1, "beta_end": 0.2, "num_train_timesteps": 2, "variance_type": "fixed_large"},
            DiscreteConfig(steps=2, custom=(0.1, 0.2)),
            DenoiserConfig(),
        ),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 50.0}, VEConfig(0.01, 50.0), DenoiserConfig("score", time_input="t")),
    ],
    ids=str,
)
def test_schedulers(scheduler: dict[str, Any], schedule: Any, denoiser: DenoiserConfig) -> None:
    fields = diffusers.process_from_config(scheduler)
    assert (fields["schedule"], fields["denoiser"]) == (schedule, denoiser)
    there = diffusers.process_to_config(model_of(SMALL, **fields))
    again = diffusers.process_from_config(there)
    assert again["denoiser"] == denoiser and again["clip"] == fields["clip"]
    if isinstance(schedule, DiscreteConfig) and schedule.betas == "scaled_linear":
        schedule = dataclasses.replace(schedule, betas="linear", custom=tuple(there["trained_betas"]))
    assert again["schedule"] == schedule


def test_zero_terminal_snr_goes_both_ways() -> None:
    fields = diffusers.process_from_config({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    assert fields["schedule"] == DiscreteConfig(zero_snr=True)
    there = diffusers.process_to_config(model_of(SMALL, **fields))
    assert there["trained_betas"][-1] == 1
    assert diffusers.process_from_config(there)["schedule"] == DiscreteConfig(custom=tuple(there["trained_betas"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": VPConfig()}, "needs a discrete schedule"),
        ({"denoiser": DenoiserConfig("x_prev")}, "predicts 'x_prev'"),
        ({"denoiser": DenoiserConfig(time_input="alpha")}, "this one needs 'alpha'"),
        ({"net": DiTConfig(3, 3, image_size=(8, 8))}, "network is a 'dit'"),
    ],
    ids=str,
)
def test_models_that_diffusers_lacks_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        diffusers.write_folder(tmp_path / "out", UNet2D(SMALL).state_dict(), dataclasses.replace(model_of(SMALL), **change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_type": ["a"]}, "did you mean 'down_block_types'"),
        ({"down_block_types": ["DownBlock3D", "AttnDownBlock2D"]}, "unknown block of UNet2DModel 'DownBlock3D'"),
        ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "all with 'Skip'"),
        ({"act_fn": "gelu"}, "act_fn='gelu' is not supported"),
        ({"resnet_time_scale_shift": "spatial"}, "not supported"),
    ],
    ids=str,
)
def test_settings_without_a_counterpart_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        diffusers.network_from_config({**diffusers.network_to_config(SMALL), **change})


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    diffusers.write_folder(tmp_path / "out", UNet2D(SMALL).state_dict(), model_of(SMALL))
    unet = tmp_path / "out" / "unet"
    (unet / diffusers.WEIGHTS[0]).write_bytes((unet / diffusers.WEIGHTS[0]).read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cut short"):
        diffusers.read_folder(tmp_path / "out")
    (unet / diffusers.WEIGHTS[0]).rename(unet / diffusers.WEIGHTS[1])
    with pytest.raises(CheckpointError, match="cannot be read"):
        diffusers.read_folder(tmp_path / "out")
    (unet / diffusers.WEIGHTS[1]).unlink()
    with pytest.raises(CheckpointError, match="has none of"):
        diffusers.read_folder(tmp_path / "out")
    (unet / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(CheckpointError, match="describes a UNet2DConditionModel"):
        diffusers.read_folder(tmp_path / "out")
    assert not diffusers.is_folder(tmp_path)


@pytest.mark.parametrize("family", [diffusers, ddpm], ids=["diffusers", "ddpm"])
@pytest.mark.parametrize(("size", "tensors", "parameters"), [(32, 328, 35_746_307), (256, 450, 113_673_219)])
def test_ddpm_is_recognised_by_shapes(family: Any, size: int, tensors: int, parameters: int) -> None:
    widths, attention = DDPM_SIZES[size]
    config = UNet2DConfig(3, 3, widths=widths, attention=(attention,), attention_up=(attention,))
    state = family.to_official(meta(config), config)
    assert (len(state), sum(value.numel() for value in state.values())) == (tensors, parameters)
    model = family.recognise(shapes(state))
    assert model is not None and (model.net, model.size, model.schedule) == (config, size, DiscreteConfig())
    assert model.denoiser.variance == ("fixed_large" if size == 32 else "fixed_small")
    assert model.assumed == (() if family is ddpm else (*diffusers._ASSUMED, "scheduler"))
    assert [other.recognise(shapes(state)) for other in (ddpm, diffusers) if other is not family] == [None]


def test_old_names_of_attention_are_known() -> None:
    state = diffusers.to_official(filled(UNet2D(SMALL)).state_dict(), SMALL)
    old = {}
    for name, value in state.items():
        for here, there in diffusers._OLD_NAMES.items():
            name = name.replace(there, here)
        old[name] = value
    assert "mid_block.attentions.0.proj_attn.weight" in old
    assert all(torch.equal(value, diffusers.to_ours(state, SMALL)[name]) for name, value in diffusers.to_ours(old, SMALL).items())
    model = diffusers.recognise(shapes(old))
    assert model is not None and isinstance(model.net, UNet2DConfig) and model.net.attention == (2,)


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: str(VARIANTS.index(config)))
def test_architectures_show_in_shapes(config: UNet2DConfig) -> None:
    model = diffusers.recognise(shapes(diffusers.to_official(meta(config), config)))
    assert model is not None and isinstance(model.net, UNet2DConfig)
    invisible = ("head_channels", "groups", "eps", "corner", "wave_shift", "sine_first", "middle_scale")
    hidden = {name: getattr(config, name) for name in invisible}
    hidden |= {"groups_middle": config.groups_middle} if config.groups_middle else {}
    assert dataclasses.replace(model.net, **hidden) == config


def test_ddpm_weights_survive_the_way_there_and_back() -> None:
    state = filled(UNet2D(SMALL)).state_dict()
    there = ddpm.to_official(state, SMALL)
    assert there["mid.attn_1.k.weight"].shape == (32, 32, 1, 1)
    torch.testing.assert_close(there["up.1.block.0.nin_shortcut.weight"], state["up.1.blocks.0.residual.skip.weight"])
    assert {"temb.dense.0.weight", "down.0.downsample.conv.bias", "up.1.upsample.conv.bias", "up.1.attn.1.norm.weight"} < there.keys()
    back = ddpm.to_ours(there, SMALL)
    assert back.keys() == state.keys() and all(torch.equal(back[name], value) for name, value in state.items())
    assert {name for names in ddpm.official_keys(SMALL).values() for name in names} == there.keys()
    there.popitem()
    with pytest.raises(CheckpointError, match="a DDPM checkpoint"):
        ddpm.to_ours(there, SMALL)


def test_every_manifest_is_recognised_and_built(reference_dir: Path) -> None:
    found = [(family, path) for family in (ddpm, diffusers) for path in sorted((reference_dir / "manifests").glob(f"{family.NAME}.*.json"))]
    if not found:
        pytest.skip(f"no manifests of DDPM or diffusers in {reference_dir}")
    for _, path in found:
        theirs = {name: tuple(shape) for name, shape in json.loads(path.read_text(encoding="utf-8"))["state_dict"].items()}
        ((family, model),) = [(f, model) for f in (ddpm, diffusers) if (model := f.recognise(theirs, path.stem)) is not None]
        assert isinstance(model.net, UNet2DConfig), path.name
        ours = shapes(family.to_official(meta(model.net), model.net))
        assert ours == diffusers._renewed(theirs) or ours == theirs, path.name


def test_other_state_dicts_are_nobodys() -> None:
    for family in (ddpm, diffusers):
        found = shapes(family.to_official(meta(SMALL), SMALL))
        for missing in ("conv_in.weight", "conv_out.weight"):
            assert family.recognise({name: shape for name, shape in found.items() if name != missing}) is None
        assert family.recognise({}) is None
