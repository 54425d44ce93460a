"""``mezzotint convert``, ``models``, ``fetch`` and ``train --init`` as they are typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.files import ANSWERS, PLAIN, flags, official_file
from tests.cli.conftest import Mezzotint

from mezzotint.checkpoint.cards import cards
from mezzotint.weights.io import read_spec

Refused = Callable[..., str]


def test_there_and_back(mezzotint: Mezzotint, tmp_path: Path) -> None:
    official_file(tmp_path / "x.pt")
    said = mezzotint("convert", "x.pt", "--out", "m", *flags(ANSWERS), "--dtype", "bf16")
    assert said.code == 0 and said.out[-1] == "model: m"
    assert read_spec(tmp_path / "m").provenance["file"] == "x.pt"
    assert mezzotint("info", "m").code == 0
    assert mezzotint("sample", "m", "--num", "1", "--steps", "2", "--out", "s").code == 0
    said = mezzotint("convert", "m", "--to", "guided-diffusion", "--out", "y.pt", "--dtype", "fp32")
    assert said.code == 0 and any(line.startswith("flags: --image_size 8 --num_channels 32") for line in said.out)
    before, after = (torch.load(name, weights_only=True) for name in ("x.pt", "y.pt"))
    assert all(torch.equal(value.bfloat16().float(), after[name]) for name, value in before.items())


def test_diffusers(mezzotint: Mezzotint, tmp_path: Path) -> None:
    official_file(tmp_path / "x.pt", PLAIN)
    given = {"heads": 1, "attention_order": "legacy", "schedule": "linear", "time_input": "index", "size": 8}
    said = mezzotint("convert", "x.pt", "--to", "diffusers", "--out", "pipe", *flags(given))
    assert said.code == 0 and "diffusers loads it by DDPMPipeline.from_pretrained" in said.out
    assert mezzotint("convert", "pipe", "--out", "m").code == 0
    assert "family: diffusers" in " ".join(mezzotint("info", "pipe").out)
    assert "family: guided_diffusion" in " ".join(mezzotint("info", "x.pt", *flags(given)).out)
    assert mezzotint("sample", "pipe", "--num", "1", "--steps", "2", "--out", "s").code == 0


def test_mistakes(refused: Refused, tmp_path: Path) -> None:
    official_file(tmp_path / "x.pt")
    assert "does not tell: heads, " in refused("convert", "x.pt", "--out", "m")
    assert "write it as name=value" in refused("convert", "x.pt", "--out", "m", "--set", "heads")
    assert "already exists" in refused("convert", "x.pt", "--out", "x.pt")
    assert "does not exist, did you mean 'lsun_cat'?" in refused("convert", "lsun_cats", "--out", "m")
    assert not (tmp_path / "m").exists()


def test_models_are_listed(mezzotint: Mezzotint, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path))
    lines = mezzotint("models").out
    assert {line.split()[0] for line in lines if line.startswith("  ")} == set(cards())
    assert any(line.endswith("[by hand, unproven]") for line in lines) and not any("fetched" in line for line in lines)
    about = "\n".join(mezzotint("models", "256x256_diffusion").out)
    for text in ("256x256_diffusion.pt", "553,838,086", "linear, 1000 steps", "--grid 250", "classifier,model=256x256_classifier", "4.59"):
        assert text in about
    assert "did you mean '256x256_diffusion'" in refused("models", "256x256_difusion")


def test_offline(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.error
    import urllib.request

    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    assert "Name or service not known): is this machine offline?" in refused("fetch", "64x64_classifier")
    assert "is this machine offline?" in refused("sample", "64x64_diffusion", "--out", "s")
    assert "did you mean '64x64_diffusion'" in refused("fetch", "64x64_difusion")


def test_training_begins_from_a_file(mezzotint: Mezzotint, refused: Refused, digits_run: Path) -> None:
    short = ["--data", "digits", "--data.channels", "3", "--train.images", "16", "--train.batch", "16", "--train.sample-every", "0"]
    said = mezzotint("train", "small", "--init", digits_run, "--out", "r", *short)
    assert said.code == 0
    assert any(line.startswith(f"begins from {digits_run}: ") for line in said.out)
    assert any(line.startswith("made anew: stem.weight [16, 3, 3, 3] (was [16, 1, 3, 3])") for line in said.out)
    spec = read_spec(Path("r/model"))
    assert spec.recipe.net.width == 16 and spec.provenance["init"] == str(digits_run)  # pyright: ignore[reportAttributeAccessIssue]
    assert "--net.width has no effect with --init" in refused("train", "small", "--init", digits_run, "--out", "q", "--net.width=8", *short)
