"""Official files become models, and models official files, in any precision."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tests.checkpoint.files import ANSWERS, CLASSIFIER, NET, PLAIN, network, official_file
from tests.checkpoint.pickles import write_edm
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.checkpoint import answers
from mezzotint.checkpoint.convert import official_of, script_flags, spec_of, write_official
from mezzotint.checkpoint.families import open_official
from mezzotint.checkpoint.loading import load
from mezzotint.checkpoint.official import edm, guided_diffusion, score_sde, u_vit
from mezzotint.configs import (
    ClassifyConfig,
    DataFacts,
    DenoisingConfig,
    DiscreteConfig,
    LabelConfig,
    Recipe,
    SongUNetConfig,
    Spec,
    UNetConfig,
    UViTConfig,
    VEConfig,
)
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.networks.song_unet import SongUNet
from mezzotint.networks.uvit import UViT
from mezzotint.pipelines.generate import ClassifierModel, Model

ASKED = {name: value for name, value in ANSWERS.items() if name != "label.drop"}


def generator(path: Path, **settings: object) -> Model:
    model = load(path, device="cpu", **settings)  # pyright: ignore[reportArgumentType]
    assert isinstance(model, Model)
    return model


def told() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([3.0, 700.0]), {"label": torch.tensor([0, 3])}


def test_an_official_file_is_a_model(tmp_path: Path) -> None:
    model = generator(official_file(tmp_path / "x.pt"), settings=ANSWERS)
    assert torch.equal(model.stage.denoiser.network(*told()), network(NET)(*told()))
    recipe = model.spec.recipe
    assert recipe.net == NET and recipe.schedule == DiscreteConfig(betas="cosine") and recipe.label == LabelConfig(4, 0.0)
    assert model.facts == DataFacts(3, (8, 8), ("0", "1", "2", "3"))
    assert model.spec.provenance["family"] == "guided_diffusion" and model.spec.provenance["sha256"] == model.hash
    assert model.sample(num=2, steps=2).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("wrap", ["ema", "state_dict", "module."])
def test_weights_are_found_in_training_checkpoints(tmp_path: Path, wrap: str) -> None:
    state = torch.load(official_file(tmp_path / "x.pt"), weights_only=True)
    wrapped = {f"module.{name}": value for name, value in state.items()} if wrap == "module." else {wrap: state, "step": 7}
    torch.save(wrapped, tmp_path / "y.pt")
    model = generator(tmp_path / "y.pt", settings=ANSWERS)
    assert torch.equal(model.stage.denoiser.network(*told()), network(NET)(*told()))


def test_what_is_not_told_is_asked_for_by_name(tmp_path: Path) -> None:
    path = official_file(tmp_path / "x.pt")
    with pytest.raises(ConfigError) as found:
        load(path, device="cpu", settings={"heads": 2, "size": 8})
    text = str(found.value)
    assert "does not tell: attention_order, schedule, time_input, label.drop; say each" in text and "\n" not in text
    usual = dict(word.split("=") for word in text.split() if "=" in word)
    assert usual == {"attention_order": "legacy", "schedule": "linear", "time_input": "index", "label.drop": "0.0"}
    assert generator(path, settings={"heads": 2, "size": 8, **usual}).spec.recipe.label == LabelConfig(4, 0.0)
    dropped = generator(path, settings={**ANSWERS, "label.drop": "0.1"})
    assert dropped.spec.recipe.label == LabelConfig(3, 0.1) and len(dropped.classes) == 3


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"hads": 3}, "unknown setting 'hads'; did you mean 'net.heads'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"heads": "two"}, "expected int"),
        ({"size": "big"}, "expected int"),
        ({"sde": "vq"}, "unknown value of sde 'vq'"),
    ],
    ids=str,
)
def test_wrong_answers_are_refused(tmp_path: Path, wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load(official_file(tmp_path / "x.pt"), device="cpu", settings={**ANSWERS, **wrong})


def test_answers_are_texts_of_any_type(tmp_path: Path) -> None:
    given = answers.parse_settings(("schedule.steps=4000", "net.mults=1,2", "head_channels=16", "time_input=index_1000"))
    model = open_official(official_file(tmp_path / "x.pt"), {**ANSWERS, **given}).model
    assert model.schedule == DiscreteConfig(betas="cosine", steps=4000)
    assert model.net == dataclasses.replace(NET, head_channels=16) and model.denoiser.time_input == "index_1000"
    with pytest.raises(ConfigError, match="--set heads: write it as name=value"):
        answers.parse_settings(("heads",))


def test_answers_that_cannot_be_built_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="heads=3 does not divide"):
        load(official_file(tmp_path / "x.pt"), device="cpu", settings={**ANSWERS, "heads": 3})


def test_a_card_answers(tmp_path: Path) -> None:
    config = u_vit.config_from_arguments(u_vit.PUBLISHED["cifar10_uvit_small"])
    with torch.device("meta"):
        state = u_vit.to_official(UViT(config).state_dict(), config)
    path = tmp_path / "cifar10_uvit_small.pth"
    torch.save({name: torch.zeros(value.shape, dtype=torch.float16) for name, value in state.items()}, path)
    spec = spec_of(open_official(path), sha256="0")
    assert isinstance(spec.recipe.net, UViTConfig)
    assert (spec.recipe.name, spec.recipe.sample.sampler, spec.recipe.sample.steps) == ("cifar10_uvit_small", "euler_maruyama", 1000)
    assert spec.provenance["card"] == "cifar10_uvit_small" and spec.provenance["scores"] == "FID 3.11"
    renamed = path.rename(tmp_path / "mine.pth")
    assert spec_of(open_official(renamed), sha256="0").provenance["taken_for"] == "cifar10_uvit_small"


def test_a_name_that_promises_another_model_is_not_believed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no published model, and does not tell: heads"):
        load(official_file(tmp_path / "DiT-XL-2-256x256.pt"), device="cpu")


def test_edm_is_asked_for_its_preconditioning(tmp_path: Path) -> None:
    arguments = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "model_channels": 16, "channel_mult": (1, 1), "num_blocks": 1}
    config = edm.network_from_arguments("SongUNet", {**arguments, "attn_resolutions": (4,)})
    torch.save(edm.to_official(SongUNet(config).state_dict(), config, size=8), tmp_path / "x.pt")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"does not tell: preconditioning; .* --set preconditioning=edm\|vp\|ve"):
        load(tmp_path / "x.pt", device="cpu")
    kinds = {name: generator(tmp_path / "x.pt", settings={"preconditioning": name}) for name in ("edm", "vp", "ve")}
    assert [model.spec.recipe.denoiser.predicts for model in kinds.values()] == ["edm", "eps", "scaled_score"]
    assert kinds["edm"].spec.recipe.sample.sampler == "heun"
    assert torch.isfinite(kinds["edm"].sample(num=1, steps=2)).all()


def test_pickles_of_edm_load(tmp_path: Path) -> None:
    arguments = {"img_resolution": 8, "img_channels": 3, "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}
    arguments |= {"attn_resolutions": [4], "model_type": "SongUNet"}
    described = edm.model_from_constructor("EDMPrecond", arguments)
    assert isinstance(described.net, SongUNetConfig)
    net = filled(SongUNet(described.net)).eval()
    state = {f"model.{name}": value for name, value in edm.to_official(net.state_dict(), described.net, size=8).items()}
    write_edm(tmp_path / "edm-cifar10-32x32-uncond-vp.pkl", "EDMPrecond", arguments, state)
    model = generator(tmp_path / "edm-cifar10-32x32-uncond-vp.pkl")
    x, t, _ = told()
    assert torch.equal(model.stage.denoiser.network(x, t, {}), net(x, t, {}))
    assert (model.spec.recipe.sample.sampler, model.spec.recipe.sample.steps, model.spec.recipe.sample.clip) == ("heun", 18, False)
    assert model.spec.recipe.denoiser.predicts == "edm" and model.spec.provenance["card"] == "edm-cifar10-32x32-uncond-vp"


def test_checkpoints_of_score_sde_load_their_averages_by_the_card_of_their_folder(tmp_path: Path) -> None:
    net = SongUNetConfig(3, 3, width=16, mults=(1, 1), blocks=2, attention=(1,), embedding="fourier", noise_mult=2, encoder="residual")
    net = dataclasses.replace(net, filter=(1, 3, 3, 1), decoder="plain")
    ours = filled(SongUNet(net)).state_dict()
    state = score_sde.to_official(ours, net)
    names = sorted(state, key=lambda name: int(name.split(".")[1]))
    trained = [state[name] for name in names if name != "all_modules.0.W"]
    zeros = {f"module.{name}": state[name] if name == "all_modules.0.W" else torch.zeros_like(state[name]) for name in names}
    path = tmp_path / "cifar10_ncsnpp_continuous" / "checkpoint_1.pth"
    path.parent.mkdir()
    torch.save({"model": zeros, "ema": {"shadow_params": trained, "decay": 0.999}, "step": 1}, path)
    model = generator(path, settings={"size": 8})
    assert all(torch.equal(value, ours[name]) for name, value in model.stage.denoiser.network.state_dict().items())
    assert model.spec.recipe.schedule == VEConfig(0.02, 100.0) and "unproven" in model.spec.provenance


def test_classifiers_load(tmp_path: Path) -> None:
    given = {"heads": 1, "net.head_channels": 8, "attention_order": "legacy", "schedule": "linear", "time_input": "index"}
    model = load(official_file(tmp_path / "c.pt", CLASSIFIER), device="cpu", settings=given)
    assert isinstance(model, ClassifierModel) and len(model.classes) == 5 and isinstance(model.spec.recipe.objective, ClassifyConfig)
    x, t, _ = told()
    assert torch.equal(model.classifier.network(x, t, {}), network(CLASSIFIER)(x, t, {}))


# --- precision -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bf16", "fp16", torch.float32])
def test_weights_load_in_any_precision(tmp_path: Path, dtype: str | torch.dtype) -> None:
    path = official_file(tmp_path / "x.pt")
    model = generator(path, settings=ANSWERS, dtype=dtype)
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(str(dtype), torch.float32)
    assert {p.dtype for p in model.stage.denoiser.network.parameters()} == {wanted}
    exact = network(NET)(*told()).detach()
    torch.testing.assert_close(model.stage.denoiser.network(*told()), exact, atol=0.03 * exact.abs().max().item(), rtol=0)
    with pytest.raises(ConfigError, match="unknown dtype 'bf61'; did you mean 'bf16'"):
        load(path, device="cpu", settings=ANSWERS, dtype="bf61")


def test_loaded_weights_do_not_depend_on_the_file_any_more(tmp_path: Path) -> None:
    path = official_file(tmp_path / "x.pt")
    model = generator(path, settings=ANSWERS)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(model.stage.denoiser.network(*told()), network(NET)(*told()))


def test_settings_are_for_official_files_alone(tmp_path: Path) -> None:
    from tests.cli.models import untrained

    with pytest.raises(ConfigError, match="is a model folder, which tells everything; leave out the settings: heads"):
        load(untrained(tmp_path / "m"), settings={"heads": 4})
    with pytest.raises(CheckpointError, match="it does not exist, did you mean '64x64_diffusion'"):
        load("64x64_difusion")


# --- the way back ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [NET, PLAIN, CLASSIFIER], ids=["conditional", "plain", "classifier"])
def test_guided_diffusion_gets_back_what_it_gave(tmp_path: Path, config: UNetConfig) -> None:
    given = {k: v for k, v in ASKED.items() if k != "heads" or config is not PLAIN} | ({"heads": 1} if config is PLAIN else {})
    given |= {"label.drop": 0} if config is NET else {}
    if config is CLASSIFIER:
        given = {"heads": 1, "net.head_channels": 8, "attention_order": "legacy", "schedule": "cosine", "time_input": "index"}
    path = official_file(tmp_path / "x.pt", config)
    model = load(path, device="cpu", settings=given)
    network = model.stage.denoiser.network if isinstance(model, Model) else model.classifier.network
    lines = write_official(tmp_path / "y.pt", network.state_dict(), model.spec, "guided_diffusion")
    before, after = (torch.load(p, weights_only=True) for p in (path, tmp_path / "y.pt"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], value) for name, value in after.items())
    assert lines[0].startswith("flags: --image_size 8 ")


def test_the_flags_describe_the_model(tmp_path: Path) -> None:
    names = ["64x64_diffusion", "128x128_diffusion", "64_256_upsampler", "cifar10_uncond_50M_500K", "lsun_uncond_100M_1200K_bs128"]
    for name in names:
        model = guided_diffusion.published(name)
        flags = script_flags(model)
        family = guided_diffusion.PUBLISHED[name][0]
        back = guided_diffusion.model_from_script_flags(flags, family=family)
        assert (back.net, back.schedule, back.denoiser, back.size) == (model.net, model.schedule, model.denoiser, model.size), name
    classifier = guided_diffusion.published("256x256_classifier")
    assert guided_diffusion.classifier_from_script_flags(script_flags(classifier)).net == classifier.net


def test_diffusers_runs_what_we_write(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline

    given = {"heads": 1, "attention_order": "legacy", "schedule": "linear", "time_input": "index", "size": 8}
    model = generator(official_file(tmp_path / "x.pt", PLAIN), settings=given)
    state = model.stage.denoiser.network.state_dict()
    assert "DDPMPipeline" in write_official(tmp_path / "pipe", state, model.spec, "diffusers")[0]
    pipe = DDPMPipeline.from_pretrained(tmp_path / "pipe")
    x, t, _ = told()
    with torch.no_grad():
        theirs, ours = pipe.unet(x, t).sample, model.stage.denoiser.network(x, t, {})
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(batch_size=2, num_inference_steps=3, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert images.shape == (2, 8, 8, 3)
    again = generator(tmp_path / "pipe")
    assert again.spec.recipe.schedule == model.spec.recipe.schedule and again.spec.provenance["family"] == "diffusers"
    torch.testing.assert_close(again.stage.denoiser.network(x, t, {}), ours, atol=1e-5, rtol=1e-4)
    assert json.loads((tmp_path / "pipe" / "unet" / "config.json").read_text())["sample_size"] == 8


def test_what_the_other_side_has_not_is_refused(tmp_path: Path) -> None:
    net = dataclasses.replace(NET, group_channels=4)
    recipe = Recipe("x", "generate", net, DiscreteConfig(), DenoisingConfig(), label=LabelConfig(4))
    spec = Spec(recipe, DataFacts(3, (8, 8), ("a", "b", "c", "d")))
    state = network(net).state_dict()
    for family, text in (
        ("guided_diffusion", "no U-Net with EDM's settings"),
        ("dit", "no network of kind 'unet'"),
        ("did", "did you mean 'dit'"),
    ):
        with pytest.raises(ConfigError, match=text):
            write_official(tmp_path / "y", state, spec, family)
    with pytest.raises(ConfigError, match="8x16; official code takes square ones alone"):
        official_of(dataclasses.replace(spec, data=DataFacts(3, (8, 16))))
    assert not list(tmp_path.iterdir())
