from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.pipelines.tiny import CLASSES, classifier_spec, generator_spec, model_of, network_of, saved

import mezzotint
from mezzotint.checkpoint import fresh, load
from mezzotint.configs import VEConfig
from mezzotint.errors import CheckpointError
from mezzotint.pipelines.generate import ClassifierModel, Model
from mezzotint.weights.io import WeightSet, read_spec, save_model


@pytest.fixture
def folder(tmp_path) -> Path:
    return saved(tmp_path / "model", generator_spec())


@pytest.fixture
def averaged(tmp_path) -> Path:
    """A model with the weights as trained and two averages, told apart by their scale."""
    spec = generator_spec()
    state = network_of(model_of(spec)).state_dict()
    sets = [
        WeightSet(state),
        WeightSet({k: 2 * v for k, v in state.items()}, ema=0.9),
        WeightSet({k: 3 * v for k, v in state.items()}, ema=0.99),
    ]
    save_model(tmp_path / "averaged", spec, sets)
    return tmp_path / "averaged"


@pytest.mark.parametrize(
    "spec, kind", [(generator_spec(), Model), (generator_spec(label=None), Model), (classifier_spec(), ClassifierModel)]
)
def test_a_folder_rebuilds_its_model(tmp_path, spec, kind) -> None:
    folder = saved(tmp_path / "model", spec)
    model, own = load(folder, device="cpu"), model_of(spec)
    assert isinstance(model, kind) and model.spec.recipe == spec.recipe and model.facts == spec.data and model.classes == CLASSES
    assert not network_of(model).training
    for (name, a), (other, b) in zip(network_of(model).state_dict().items(), network_of(own).state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    assert model.path == folder and model.weights == "model.safetensors"
    assert model.hash == read_spec(folder).weights["model.safetensors"]["sha256"]


def test_a_loaded_model_makes_the_same_images(folder) -> None:
    own = model_of(generator_spec())
    images = load(folder, device="cpu").sample(num=3, guidance="cfg,scale=2", seed=5)
    assert torch.equal(images, own.sample(num=3, guidance="cfg,scale=2", seed=5))
    assert own.hash is own.path is own.weights is None


@pytest.mark.parametrize(
    "ema, scale, name", [(True, 2, "ema-0.9.safetensors"), (False, 1, "model.safetensors"), (0.99, 3, "ema-0.99.safetensors")]
)
def test_the_average_is_a_choice(averaged, ema, scale, name) -> None:
    model = load(averaged, ema=ema, device="cpu")
    assert model.weights == name
    plain = network_of(model_of(generator_spec())).state_dict()
    assert all(torch.equal(v, scale * plain[k]) for k, v in network_of(model).state_dict().items())


def test_an_average_that_is_not_there(averaged) -> None:
    with pytest.raises(CheckpointError, match=r"no average of decay 0.5 for 'model'; the folder holds: .*ema-0.99.safetensors"):
        load(averaged, ema=0.5)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:1000]), "is cut short or damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "spec.json").unlink(), "it holds no spec.json"),
        (lambda f: (f / "spec.json").write_text((f / "spec.json").read_text()[:200]), "cannot read .*spec.json"),
        (lambda f: edit(f, lambda v: {**v, "version": 99}), "has version 99; this mezzotint reads up to"),
        (lambda f: edit(f, lambda v: {**v, "weights": {}}), "no weight file for 'model'; the folder holds: no weights"),
        (lambda f: edit(f, lambda v: put(v, "recipe", "net", "width", "wide")), "cannot understand .*width: expected int, got 'wide'"),
        (lambda f: edit(f, lambda v: put(v, "recipe", "net", "width", 16)), "does not fit the model: '.*' has shape"),
        (lambda f: edit(f, lambda v: put(v, "recipe", "net", "blocks", 2)), "does not fit the model: it lacks '"),
        (lambda f: edit(f, lambda v: put(v, "recipe", "net", "kind", "unte")), "unknown kind of .* 'unte'; did you mean 'unet'"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(folder, damage, message) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def edit(folder: Path, change) -> None:
    path = folder / "spec.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def put(value, *path):
    *keys, last, new = path
    at = value
    for key in keys:
        at = at[key]
    at[last] = new
    return value


def test_a_folder_that_does_not_exist(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no model at .*: it does not exist; give a model folder"):
        load(tmp_path / "nothing")


def test_a_run_folder_stands_for_its_model(folder) -> None:
    assert load(folder.parent, device="cpu").path == folder


def test_a_fresh_model_starts_at_zero() -> None:
    torch.manual_seed(0)
    model = fresh(
        generator_spec(schedule=VEConfig(), denoiser=generator_spec().recipe.denoiser.__class__(time_input="log_sigma")), device="cpu"
    )
    x = torch.randn(2, 3, 4, 4)
    posterior = model.stage.denoiser(x, torch.ones(2, dtype=torch.float64), {"label": torch.tensor([0, 3])})
    torch.testing.assert_close(posterior.mean, x)  # eps = 0


def test_the_package_offers_it() -> None:
    assert mezzotint.load is load and mezzotint.fresh is fresh and mezzotint.Model is Model
    assert {"load", "fresh", "Model", "Recipe"} <= set(dir(mezzotint))
    with pytest.raises(AttributeError, match="module 'mezzotint' has no attribute 'lod'"):
        mezzotint.lod  # noqa: B018
