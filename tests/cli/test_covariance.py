"""``mezzotint covariance``, and models that it has seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import mezzotint as library
from mezzotint.covariance import reverse_kernel
from mezzotint.errors import CheckpointError
from mezzotint.moments import Moments
from mezzotint.networks.covariance_head import CovarianceHead
from mezzotint.weights.io import read_spec

QUICK = ("--data", "digits", "--images", 8, "--levels", 6, "--train-images", 128, "--batch-size", 64)


@pytest.fixture
def model(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run / "model", tmp_path / "copy"))


@pytest.mark.parametrize("kind, part", [("analytic", Moments), ("npr", CovarianceHead), ("sn", CovarianceHead), ("heuristic", type(None))])
def test_every_kind_is_stored_and_used(mezzotint, model, kind, part) -> None:
    before = {path.name: path.read_bytes() for path in model.glob("*.safetensors")}
    plain = library.load(model, device="cpu").sample(num=2, steps=3)
    said = mezzotint("covariance", model, "--kind", kind, *QUICK)
    assert said.code == 0 and said.out[-1].endswith("--variance optimal"), said
    assert all((model / name).read_bytes() == held for name, held in before.items()), "the weights are as they were"
    loaded = library.load(model, device="cpu")
    known = loaded.with_variance()
    assert isinstance(known.part, part) and read_spec(model).covariance == known.config
    posterior = known(torch.zeros(2, 1, 8, 8), torch.tensor([0.3, 0.9]).double(), {"label": torch.tensor([1, 2])})
    assert posterior.var is not None and bool(((posterior.var >= 0) & (posterior.var <= 1)).all())
    s = torch.tensor([0.2, 0.5]).double()
    assert reverse_kernel(known.schedule, posterior, torch.zeros(2, 1, 8, 8), s + 0.1, s, None, variance="optimal").var.isfinite().all()
    assert not torch.equal(loaded.sample(num=2, steps=3, variance="optimal"), plain)
    assert torch.equal(loaded.sample(num=2, steps=3), plain)
    said = mezzotint("sample", model, "--out", "made", "--num", 2, "--steps", 3, "--sampler", "ddim,cap=1", "--variance", "optimal")
    assert said.code == 0 and Path("made/000001.png").exists()


def test_a_second_kind_replaces_the_first_and_a_trajectory_is_printed(mezzotint, model) -> None:
    assert mezzotint("covariance", model, *QUICK).code == 0
    said = mezzotint("covariance", model, *QUICK, "--trajectory", 5)
    grid = said.out[-1].split("--grid ")[1]
    assert said.code == 0 and grid.startswith("times:1,") and grid.count(",") == 4
    assert mezzotint("sample", model, "--out", "made", "--num", 1, "--variance", "optimal", "--grid", grid).code == 0
    assert mezzotint("covariance", model, "--kind", "heuristic").code == 0
    assert not (model / "model-covariance.safetensors").exists()
    assert "model-covariance.safetensors" not in read_spec(model).weights


def test_what_is_refused(refused, mezzotint, model, classifier_run) -> None:
    sampled = ("sample", model, "--out", "made", "--num", 1, "--variance", "optimal")
    assert "add it by `mezzotint covariance" in refused(*sampled)
    assert "give --data" in refused("covariance", model)
    assert "is a classifier" in refused("covariance", classifier_run, *QUICK)
    assert "unknown setting of dpm_solver" in refused(*sampled, "--sampler", "dpm_solver")
    assert mezzotint("covariance", model, *QUICK).code == 0
    assert "for other weights" in refused(*sampled, "--ema", "off")


def test_a_damaged_table_is_noticed(mezzotint, model) -> None:
    assert mezzotint("covariance", model, *QUICK).code == 0
    file = model / "model-covariance.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="SHA-256"):
        library.load(model, device="cpu").with_variance()
