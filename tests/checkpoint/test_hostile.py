"""Files that are damaged, malicious or of something else: one line each, and nothing is executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.files import ANSWERS, official_file

from mezzotint.checkpoint.families import FAMILIES, identify
from mezzotint.checkpoint.loading import load
from mezzotint.checkpoint.official import dit, guided_diffusion
from mezzotint.errors import CheckpointError, MezzotintError
from mezzotint.registry import get


class Bomb:
    """Leaves a file behind when it is unpickled by ordinary means."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> Any:
        return (open, (str(self.trace), "w"))


def refused(path: Path) -> str:
    with pytest.raises(MezzotintError) as found:
        load(path, device="cpu", settings=ANSWERS)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.pkl"])
def test_pickles_that_would_run_code_are_refused(tmp_path: Path, name: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / name
    pickle.loads(pickle.dumps(Bomb(trace))).close()
    assert trace.exists(), "the bomb is none"
    trace.unlink()
    path.write_bytes(pickle.dumps({"ema": Bomb(trace)}))
    assert refused(path)
    assert not trace.exists()
    torch.save({"model": Bomb(trace)}, path)
    assert refused(path)
    assert not trace.exists()


def test_what_would_have_run_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2), "more": Bomb(tmp_path / "trace")}, tmp_path / "x.pt")
    assert re.search(r"would run '_?io\.open' when read; nothing was executed", refused(tmp_path / "x.pt"))


@pytest.mark.parametrize("part", [0, 3, 200, 0.5, 0.999])
def test_cut_files_are_refused(tmp_path: Path, part: float) -> None:
    whole = official_file(tmp_path / "whole.pt").read_bytes()
    path = tmp_path / "x.pt"
    path.write_bytes(whole[: part if isinstance(part, int) else int(part * len(whole))])
    assert "cut short or damaged" in refused(path)


def test_cut_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1000)}, tmp_path / "whole.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    assert "cut short or damaged" in refused(tmp_path / "x.safetensors")


def test_packed_archives_are_refused_before_they_grow(tmp_path: Path) -> None:
    official_file(tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.writestr("whole/data/bomb", bytes(50_000_000))
    assert "is packed: its" in refused(tmp_path / "x.pt")


def test_tensors_larger_than_their_data_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "x.pt")
    assert "larger than its data" in refused(tmp_path / "x.pt")


def test_one_wrong_shape_is_named(tmp_path: Path) -> None:
    state = torch.load(official_file(tmp_path / "x.pt"), weights_only=True)
    name = "output_blocks.0.0.in_layers.2.weight"
    wrong = torch.zeros(64, 128, 1, 3)
    torch.save({**state, name: wrong}, tmp_path / "x.pt")
    text = refused(tmp_path / "x.pt")
    assert f"'{name}' has shape (64, 128, 1, 3) and should have (64, 128, 3, 3); nearest known model: " in text
    assert text.startswith(f"{tmp_path / 'x.pt'}: it is nearly a 'unet' of guided_diffusion, but not quite")


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_missing_and_unknown_tensors_are_named(tmp_path: Path, change: str) -> None:
    state = torch.load(official_file(tmp_path / "x.pt"), weights_only=True)
    if change == "missing":
        del state["out.0.bias"]
    else:
        state["out.9.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "x.pt")
    assert {"missing": "'out.0.bias' is missing", "extra": "'out.9.bias' is unknown"}[change] in refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("name", "tensor"), [("64x64_classifier", "input_blocks.5.0.emb_layers.1.weight"), ("DiT", "blocks.3.attn.proj.weight")]
)
def test_the_published_model_that_is_nearest_is_named(name: str, tensor: str) -> None:
    net = dit.config_from_arguments({}) if name == "DiT" else guided_diffusion.published(name).net
    family = FAMILIES["dit" if name == "DiT" else "guided_diffusion"]
    with torch.device("meta"):
        state = dict(family.to_official(get(*net.kind)(net).state_dict(), net))
        state[tensor] = torch.zeros(7, 7)
    with pytest.raises(CheckpointError) as found:
        identify(state, "x.pt")
    known = "DiT-XL-2-256x256" if name == "DiT" else name
    assert f"'{tensor}' has shape (7, 7) and should have" in str(found.value)
    assert f"nearest known model: {known}, with which {len(state) - 1} of {len(state)} tensors agree" in str(found.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet.pt")
    text = refused(tmp_path / "resnet.pt")
    assert "it is of no known family: " in text and "nearest known model: " in text and "0 of 2 tensors agree" in text
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list and no state dict" in refused(tmp_path / "list.pt")
    torch.save({"step": 3}, tmp_path / "step.pt")
    assert "holds a table of step and no state dict" in refused(tmp_path / "step.pt")
    (tmp_path / "text.pt").write_text("hello")
    assert "no weight file" in refused(tmp_path / "text.pt")
