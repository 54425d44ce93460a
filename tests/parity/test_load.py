"""Reference cases by way of a model folder: written by the product, opened by ``mezzotint.load``, sampled by ``Model.sample``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.parity.adapters import guided_diffusion as adapters
from tests.parity.harness import OWN, Case, compare, discover

import mezzotint
from mezzotint.configs import (
    ClassifyConfig,
    DataFacts,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EncoderConfig,
    LabelConfig,
    Recipe,
    SampleConfig,
    Spec,
    UNetConfig,
)
from mezzotint.pipelines import generate
from mezzotint.registry import build
from mezzotint.weights.io import WeightSet, save_model

SYSTEMS = ("guided_diffusion", "improved_diffusion")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = {"sampling": ("sample_loop",), "network": ("unet_forward", "classifier_forward")}
    for name, wanted in kinds.items():
        if name in metafunc.fixturenames:
            found = [*discover(OWN), *discover(Path(metafunc.config.getoption("--reference")))]
            metafunc.parametrize(name, [c for c in found if c.system in SYSTEMS and c.kind in wanted], ids=repr)


def saved(folder: Path, recipe: Recipe, facts: DataFacts, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """A model folder with given or fresh weights."""
    spec = Spec(recipe, facts)
    if weights is None:
        model = mezzotint.fresh(spec, device="cpu")
        assert isinstance(model, mezzotint.Model)
        weights = model.stage.denoiser.network.state_dict()
    save_model(folder, spec, [WeightSet(weights)])
    return folder


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {k}" for k in range(count))


def test_sampling(sampling: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = sampling
    described, process = adapters.denoiser_of(case, adapters.gaussian(case))
    if process.full is not None or "noise_start" in case.inputs:
        pytest.skip("this case starts or steps in a way that a model folder cannot say")
    _, *size = case.config["shape"]
    channels = size[0]
    config = described.config
    outputs = channels * (2 if config.variance in ("learned", "learned_range") else 1)
    net = UNetConfig(in_channels=channels, out_channels=outputs, width=32, mults=(1.0,), blocks=1, attention=())
    assert isinstance(process.schedule.config, DiscreteConfig)
    recipe = Recipe(
        name="reference",
        task="generate",
        net=net,
        schedule=process.schedule.config,
        objective=DenoisingConfig(),
        denoiser=config,
        sample=SampleConfig(adapters.sampler_text(case), grid=process.spacing or "uniform", clip=case.config["clip_denoised"]),
    )
    classes = names(len(case.inputs["centres"])) if "centres" in case.inputs else ()
    folder = saved(tmp_path / "model", recipe, DataFacts(channels=channels, size=tuple(size[1:]), classes=classes))

    model = mezzotint.load(folder, device="cpu")
    assert isinstance(model, mezzotint.Model)
    model.stage.denoiser.network = adapters.gaussian(case)  # the stand-in has a formula in place of weights
    noise = case.replay()
    monkeypatch.setattr(generate, "Noise", lambda *args, **kwargs: noise)
    if classes:
        asked = {classes[int(k)]: int((case.inputs["y"] == k).sum()) for k in dict.fromkeys(case.inputs["y"].tolist())}
        images = model.sample(classes=asked, guidance=adapters.guides(case, process))
    else:
        images = model.sample(num=case.config["shape"][0])
    assert not compare(case, "sample", images)
    steps = model.plan(model.job(num=1)).steps
    assert noise.left == adapters.without_effect(build("sampler", adapters.sampler_text(case)), steps)


def test_network(network: Case, tmp_path: Path) -> None:
    case = network
    net = adapters.network_config(case)
    weights = adapters.network(case).state_dict()
    schedule = DiscreteConfig()
    if isinstance(net, EncoderConfig):
        facts = DataFacts(channels=net.in_channels, size=net.image_size, classes=names(net.out_channels))
        recipe = Recipe(name="reference", task="classify", net=net, schedule=schedule, objective=ClassifyConfig())
    else:
        variance = "learned_range" if net.out_channels == 2 * net.in_channels else "fixed_large"
        height, width = case.inputs["x"].shape[2:]
        facts = DataFacts(channels=net.in_channels, size=(height, width), classes=names(net.num_classes or 0))
        recipe = Recipe(
            name="reference",
            task="generate",
            net=net,
            schedule=schedule,
            objective=DenoisingConfig(),
            denoiser=DenoiserConfig(variance=variance),
            label=None if net.num_classes is None else LabelConfig(num_classes=net.num_classes),
        )
    model = mezzotint.load(saved(tmp_path / "model", recipe, facts, weights), device="cpu")
    loaded = model.stage.denoiser.network if isinstance(model, mezzotint.Model) else model.classifier.network
    with torch.no_grad():
        out = adapters.forward(case, loaded, case.inputs["x"])
    (name,) = case.wanted
    assert not compare(case, name, out)
