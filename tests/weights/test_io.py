import errno
import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from mezzotint.configs import DataFacts, DenoisingConfig, DiscreteConfig, Recipe, Spec, UNetConfig
from mezzotint.errors import CheckpointError
from mezzotint.weights import io
from mezzotint.weights.io import WeightSet

SPEC = Spec(Recipe("toy", "generate", UNetConfig(), DiscreteConfig(), DenoisingConfig()), DataFacts(classes=("cat", "dog")))


def sets(value: float = 1.0) -> list[WeightSet]:
    tensors = {"a": torch.full((64, 64), value), "b": torch.arange(3), "c": torch.tensor(value)}
    average = {name: tensor * 2 for name, tensor in tensors.items()}
    return [WeightSet(tensors, images=10), WeightSet(average, ema=0.9999, images=10), WeightSet(tensors, model="critic", images=10)]


@pytest.fixture
def folder(tmp_path) -> Path:
    io.save_model(tmp_path / "model", SPEC, sets())
    return tmp_path / "model"


def test_round_trip(folder):
    spec = io.read_spec(folder)
    assert replace(spec, weights={}) == SPEC
    assert sorted(spec.weights) == ["ema-0.9999.safetensors", "model-critic.safetensors", "model.safetensors"]
    assert torch.equal(io.read_weights(folder, spec)["a"], torch.full((64, 64), 2.0))
    assert torch.equal(io.read_weights(folder, spec, ema=False)["a"], torch.ones(64, 64))
    assert torch.equal(io.read_weights(folder, spec, model="critic")["b"], torch.arange(3))


def test_the_header_says_what_a_file_is(folder):
    with safe_open(folder / "ema-0.9999.safetensors", framework="pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "mezzotint": "weights",
            "model": "model",
            "ema": "0.9999",
            "profile": "constant",
            "updates": "0",
            "images": "10",
            "recipe": "toy",
        }


def test_equal_tensors_give_equal_bytes(folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(4):  # the library orders a header at random
        io.save_model(folder, SPEC, sets())
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_tied_tensors_are_stored_once(tmp_path):
    weight = torch.randn(50, 50)
    views = {"one": weight, "two": weight.view(50, 50), "part": weight[:10], "turned": weight.T}
    path = tmp_path / "x.safetensors"
    io.write_tensors(path, views, metadata={})
    assert path.stat().st_size < weight.nbytes * 2.5
    back = io.read_tensors(path)
    assert all(torch.equal(back[name], value) for name, value in views.items())
    assert back["two"] is back["one"]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "cut short or damaged"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x07"), "SHA-256 differs"),
        (lambda p: p.write_bytes(b""), "cut short or damaged"),
        (lambda p: p.unlink(), "is missing"),
    ],
)
def test_damaged_weights_are_refused(folder, damage, message):
    damage(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        io.read_weights(folder, io.read_spec(folder), ema=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda v: {**v, "version": 99}, "version 99; this mezzotint reads up to 1"),
        (lambda v: {**v, "colour": 1}, "unknown setting of Spec 'colour'"),
        (lambda v: {k: v[k] for k in v if k != "recipe"}, "'recipe' is missing"),
        (lambda v: [v], "not a table"),
    ],
)
def test_a_spec_that_is_not_understood(folder, change, message):
    path = folder / "spec.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=message):
        io.read_spec(folder)


def test_a_spec_cut_in_half(folder):
    path = folder / "spec.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(CheckpointError, match="cannot read .*spec.json"):
        io.read_spec(folder)


def test_choosing_what_is_not_there_lists_what_is(folder):
    spec = io.read_spec(folder)
    with pytest.raises(CheckpointError, match="no average of decay 0.5 for 'model'; the folder holds: .*ema-0.9999"):
        io.choose_weights(spec, ema=0.5)
    with pytest.raises(CheckpointError, match="no weight file for 'judge'"):
        io.choose_weights(spec, model="judge")


def test_keys_that_do_not_fit_are_named_and_counted():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    state = {name: value.clone() + 1 for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"x lacks|it lacks '0.weight' \(2 such tensors of 4\)"):
        io.load_into(module, {name: value for name, value in state.items() if "weight" not in name}, where="x")
    with pytest.raises(CheckpointError, match=r"has unknown 'extra' \(1 such"):
        io.load_into(module, {**state, "extra": torch.zeros(1)}, where="x")
    with pytest.raises(CheckpointError, match=r"'1.bias' has shape \(9,\), the model needs \(4,\)"):
        io.load_into(module, {**state, "1.bias": torch.zeros(9)}, where="x")
    io.load_into(module, state, where="x")
    assert torch.equal(module[0].weight, state["0.weight"])


def test_finding_a_model(folder, tmp_path):
    assert io.find_model(folder) == folder
    assert io.find_model(tmp_path) == folder
    run = tmp_path / "run"
    io.save_model(run / "checkpoints/5", SPEC, sets())
    (run / "latest").write_text("checkpoints/5\n")
    assert io.find_model(run) == run / "checkpoints/5"
    with pytest.raises(CheckpointError, match="does not exist"):
        io.find_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no spec.json"):
        io.find_model(run / "checkpoints")


def intact(folder: Path) -> bool:
    alone = [p.name for p in folder.parent.iterdir()] == ["model"]
    return alone and bool((io.read_weights(folder, io.read_spec(folder), ema=False)["a"] == 1).all())


def test_a_second_save_replaces_the_first(folder):
    io.save_model(folder, SPEC, sets(5.0))
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    assert (io.read_weights(folder, io.read_spec(folder), ema=False)["a"] == 5).all()


def test_a_disk_that_fills_up_leaves_the_old_folder(folder):
    """The limit on the size of files makes a real write fail."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot write .*File too large") as caught:
            io.save_model(folder, SPEC, sets(5.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert intact(folder)


@pytest.mark.parametrize("call", ["mkdir", "rename", "write_text"])
def test_a_file_system_that_refuses_leaves_the_old_folder(folder, monkeypatch, call):
    original = getattr(Path, call)

    def refuse(self, *args, **kwargs):
        if ".new-" in self.name:
            raise OSError(errno.EROFS, "Read-only file system")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(CheckpointError, match="Read-only file system"):
        io.save_model(folder, SPEC, sets(5.0))
    monkeypatch.undo()
    assert intact(folder)


def test_small_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "latest"
    io.write_text(path, "one")

    def refuse(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        io.write_text(path, "two")
    assert path.read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["latest"]
