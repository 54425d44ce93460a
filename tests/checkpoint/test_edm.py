"""Checkpoints of EDM: arguments, names, pickles."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.pickles import Harm, write_edm
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.checkpoint.official import edm
from mezzotint.configs import DiscreteConfig, LabelConfig, SongUNetConfig, UNetConfig, VEConfig, VPConfig
from mezzotint.denoise import NetworkDenoiser
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.registry import get
from mezzotint.schedules import build_schedule

CIFAR = {"model_channels": 128, "channel_mult": [2, 2, 2], "augment_dim": 9}
DDPMPP = {"embedding_type": "positional", "encoder_type": "standard", "channel_mult_noise": 1, "resample_filter": [1, 1]}
NCSNPP = {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
HIGH = {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "augment_dim": 9, "dropout": 0.05}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "edm-cifar10-32x32-cond-vp": ("EDMPrecond", {"img_resolution": 32, "label_dim": 10, "model_type": "SongUNet", **CIFAR, **DDPMPP}),
    "edm-cifar10-32x32-uncond-ve": ("EDMPrecond", {"img_resolution": 32, "model_type": "SongUNet", **CIFAR, **NCSNPP}),
    "edm-ffhq-64x64-uncond-vp": ("EDMPrecond", {"img_resolution": 64, "model_type": "SongUNet", **HIGH, **DDPMPP}),
    "baseline-cifar10-32x32-uncond-vp": ("VPPrecond", {"img_resolution": 32, **CIFAR, **DDPMPP}),
    "baseline-cifar10-32x32-uncond-ve": ("VEPrecond", {"img_resolution": 32, **CIFAR, **NCSNPP}),
    "edm-imagenet-64x64-cond-adm": ("EDMPrecond", {"img_resolution": 64, "label_dim": 1000}),
    "baseline-imagenet-64x64-cond-adm": ("iDDPMPrecond", {"img_resolution": 64, "label_dim": 1000}),
}
SONG = SongUNetConfig(3, 3, width=8, mults=(1, 2), blocks=1, num_classes=4, augment=3)
SONGS = [
    SONG,
    dataclasses.replace(SONG, embedding="fourier", noise_mult=2, encoder="residual", filter=(1, 3, 3, 1), num_classes=None, augment=0),
    dataclasses.replace(SONG, encoder="skip", decoder="skip", mults=(1, 1, 2), blocks=2, attention=(1, 4), embed_mult=2),
    dataclasses.replace(SONG, mults=(1,), attention=()),
]
ADM = UNetConfig(
    3,
    6,
    num_classes=5,
    width=32,
    mults=(1, 2),
    blocks=1,
    attention=(2,),
    head_channels=64,
    resample="block",
    group_channels=4,
)


def small(name: str = "EDMPrecond", **changes: Any) -> dict[str, Any]:
    song = {"EDMPrecond": {"model_type": "SongUNet"}}.get(name, {})
    shared = {
        "img_resolution": 8,
        "img_channels": 3,
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
    }
    return {**shared, **song, **changes}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_recognised_by_shapes_and_name(name: str) -> None:
    precond, arguments = PUBLISHED[name]
    model = edm.model_from_constructor(precond, {"img_channels": 3, **arguments})
    assert isinstance(model.net, SongUNetConfig | UNetConfig)
    with torch.device("meta"):
        state = get(*model.net.kind)(model.net).state_dict()
    found = {f"model.{key}": shape for key, shape in shapes(edm.to_official(state, model.net, size=model.size)).items()}
    found |= {"u": (1001,)} if precond == "iDDPMPrecond" else {}
    told = edm.recognise(found, f"/cache/{name}.pkl")
    assert told is not None and told.published == name
    net = dataclasses.replace(told.net, dropout=model.net.dropout)  # pyright: ignore[reportArgumentType]
    assert dataclasses.replace(told, net=net, published="") == model
    unnamed = edm.recognise(found)
    assert unnamed is not None and unnamed.net == told.net
    assert unnamed.assumed == (() if precond == "iDDPMPrecond" else ("preconditioning",))


def test_every_manifest_is_recognised_and_built(reference_dir: Path) -> None:
    paths = sorted((reference_dir / "manifests").glob("edm.*.json"))
    if not paths:
        pytest.skip(f"no manifests of EDM in {reference_dir}")
    for path in paths:
        theirs = {k: tuple(v) for k, v in json.loads(path.read_text(encoding="utf-8"))["state_dict"].items()}
        model = edm.recognise(theirs, f"{path.stem.partition('.')[2]}.pkl")
        assert model is not None and isinstance(model.net, SongUNetConfig | UNetConfig), path.name
        with torch.device("meta"):
            state = get(*model.net.kind)(model.net).state_dict()
        ours = shapes(edm.to_official(state, model.net, size=model.size))
        prefix = "model." if any(key.startswith("model.") for key in theirs) else ""
        assert {prefix + key: shape for key, shape in ours.items()} == {k: v for k, v in theirs.items() if k != "u"}, path.name


@pytest.mark.parametrize("config", [*SONGS, ADM, dataclasses.replace(ADM, width=16, attention_middle=False, attention=())], ids=str)
def test_weights_survive_the_way_there_and_back(config: SongUNetConfig | UNetConfig) -> None:
    net = filled(get(*config.kind)(config))
    if config is not SONG and isinstance(config, UNetConfig):
        net.label_embed.weight.data[-1] = 0
    state = net.state_dict()
    there = edm.to_official(state, config, size=32)
    back = edm.to_ours({f"model.{name}": value for name, value in there.items()}, config)
    assert back.keys() == state.keys() == edm.official_keys(config, 32).keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    del there["map_layer0.bias"]
    with pytest.raises(CheckpointError, match=r"1 names are missing \(first: \['map_layer0.bias'\]\)"):
        edm.to_ours(there, config)


def test_no_label_is_a_row_that_the_official_network_does_not_have() -> None:
    state = filled(get(*ADM.kind)(ADM)).state_dict()
    with pytest.raises(CheckpointError, match="'no label'"):
        edm.to_official(state, ADM, size=8)
    with pytest.raises(ConfigError, match="this network differs"):
        edm.to_official(state, dataclasses.replace(ADM, group_channels=1), size=8)


def test_filters_are_those_of_the_settings() -> None:
    there = edm.to_official(filled(get(*SONGS[1].kind)(SONGS[1])).state_dict(), SONGS[1], size=8)
    kernel = there["enc.4x4_aux_residual.resample_filter"]
    assert kernel.shape == (1, 1, 4, 4) and kernel[0, 0, 1].tolist() == [3 / 64, 9 / 64, 9 / 64, 3 / 64]
    assert there["enc.4x4_down.skip.resample_filter"] is kernel


@pytest.mark.parametrize("precond", ["VPPrecond", "VEPrecond", "iDDPMPrecond", "EDMPrecond"])
def test_pickles_give_weights_and_preconditioning(tmp_path: Path, precond: str) -> None:
    arguments = small(precond, label_dim=4, augment_dim=2, use_fp16=False)
    model = edm.model_from_constructor(precond, arguments)
    assert isinstance(model.net, SongUNetConfig | UNetConfig) and model.label == LabelConfig(4)
    net = filled(get(*model.net.kind)(model.net)).eval()
    if isinstance(model.net, UNetConfig):
        net.label_embed.weight.data[-1] = 0
    state = {f"model.{name}": value for name, value in edm.to_official(net.state_dict(), model.net, size=8).items()}
    state |= {"u": torch.zeros(1001)} if precond == "iDDPMPrecond" else {}
    path = tmp_path / "network.pkl"
    write_edm(path, precond, arguments, state)
    got, told = edm.read_pickle(path)
    assert told == model
    assert got.keys() == state.keys() and all(torch.equal(got[name], value) for name, value in state.items())
    assert edm.recognise(shapes(got), "" if precond != "EDMPrecond" else "edm-x.pkl") is not None
    again = get(*model.net.kind)(model.net).eval()
    again.load_state_dict(edm.to_ours(got, model.net))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 1.0], dtype=torch.float64)
    cond = {"label": torch.tensor([1, 4])}
    with torch.no_grad():
        means = [NetworkDenoiser(n, build_schedule(model.schedule), model.denoiser)(x, t, cond).mean for n in (net, again)]
    assert torch.equal(*means) and means[0].isfinite().all()


def test_processes_of_the_preconditioners() -> None:
    def told(name: str, **changes: Any) -> Any:
        return edm.model_from_constructor(name, small(name, **changes))

    assert told("VPPrecond", beta_d=9.9).schedule == VPConfig(beta_min=0.1, beta_max=10.0, t_min=1e-5)
    assert told("VEPrecond", sigma_max=50).schedule == VEConfig(0.02, 50)
    assert told("iDDPMPrecond").schedule == DiscreteConfig(betas="cosine") and told("iDDPMPrecond").net.out_channels == 6
    assert told("EDMPrecond").schedule == VEConfig(0.002, 80.0) and told("EDMPrecond", sigma_max=50.0).schedule == VEConfig(0.002, 50.0)
    assert [told(name).times.law for name in ("VPPrecond", "VEPrecond", "EDMPrecond")] == ["uniform", "loguniform", "lognormal"]
    assert told("EDMPrecond", label_dim=3, label_dropout=0.2).label == LabelConfig(3, 0.2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("EDMPrecondd", {}, "did you mean 'EDMPrecond'"),
        ("EDMPrecond", {"model_type": "UNet"}, "unknown EDM network"),
        ("EDMPrecond", {"encoder": "skip"}, "unknown official argument 'encoder'"),
        ("EDMPrecond", {"encoder_type": "skips"}, "did you mean 'skip'"),
        ("EDMPrecond", {"img_channels": None}, "needs 'img_channels'"),
        ("iDDPMPrecond", {"C_1": 0.1}, "only 0.001 and 0.008"),
        ("iDDPMPrecond", {"channel_mult_emb": 2}, "only 4"),
        ("VPPrecond", {"M": 500}, "only 1000"),
    ],
    ids=str,
)
def test_arguments_without_a_counterpart_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edm.model_from_constructor(name, small(name, **changes))


def test_other_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pkl"
    write_edm(path, "SongUNet", {}, {"map_layer0.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="no preconditioned network of EDM"):
        edm.read_pickle(path)
    write_edm(path, "EDMPrecond", {"img_resolution": 8}, {})
    with pytest.raises(CheckpointError, match="needs 'img_channels'"):
        edm.read_pickle(path)
    witness = tmp_path / "executed"
    path.write_bytes(pickle.dumps({"ema": Harm(exec, f"open({str(witness)!r}, 'w')")}))
    with pytest.raises(CheckpointError, match="no preconditioned network of EDM"):
        edm.read_pickle(path)
    assert not witness.exists()


def test_other_state_dicts_are_nobodys() -> None:
    with torch.device("meta"):
        found = shapes(edm.to_official(get(*SONG.kind)(SONG).state_dict(), SONG, size=8))
    assert edm.recognise(found) is not None
    for missing in ("map_layer0.weight", "enc.8x8_conv.weight", "dec.8x8_aux_conv.weight", "enc.4x4_block0.conv1.weight"):
        assert edm.recognise({name: shape for name, shape in found.items() if name != missing}) is None
    assert edm.recognise({}) is None
