"""Image k is a function of (model, settings, class, seed, k): at 32x32 over 250 steps, through files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.models import untrained

from mezzotint.checkpoint import load
from mezzotint.cli.pictures import read_png
from mezzotint.pipelines.generate import Model

WAYS = {
    "batch 32": ["--num", 32, "--batch-size", 32],
    "batch 7": ["--ids", "0-13", "--batch-size", 7],
    "batch 1": ["--ids", "31", "--batch-size", 1],
    "shuffled": ["--ids", "31,5,17-18,0", "--batch-size", 3],
    "subset": ["--ids", "3-5,30", "--batch-size", 64],
}
EXACT = {"whole": ["--num", 8], "shuffled": ["--ids", "7,5,2,0"], "one": ["--ids", 3]}


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    return untrained(tmp_path_factory.mktemp("same") / "model", size=(32, 32), classes=("a", "b", "c"), width=4, mults=(1, 1, 1))


def made(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_png(path) for path in folder.glob("0*.png")}


@pytest.mark.parametrize("guided", [False, True], ids=["ancestral", "guided ddim"])
def test_within_one_level_for_any_batch_order_and_subset(mezzotint, wide_model, guided):
    how = ["--sampler", "ddim,eta=1", "--guidance", "cfg,scale=2", "--steps", 25] if guided else ["--grid", "250"]
    for name, words in WAYS.items():
        assert mezzotint("sample", wide_model, *words, *how, "--out", name).code == 0
    whole = made(Path("batch 32"))
    assert len(whole) == 32 and len({image.tobytes() for image in whole.values()}) == 32
    for name in WAYS:
        for file, image in made(Path(name)).items():
            assert np.abs(image.astype(int) - whole[file].astype(int)).max() <= 1, (name, file)


def test_equal_bytes_with_exact(mezzotint, wide_model):
    for name, words in EXACT.items():
        assert mezzotint("sample", wide_model, *words, "--grid", "250", "--exact", "--out", name).code == 0
    whole = {path.name: path.read_bytes() for path in Path("whole").glob("0*.png")}
    assert len(whole) == 8
    for name in EXACT:
        for path in Path(name).glob("0*.png"):
            assert path.read_bytes() == whole[path.name], (name, path)


def test_python_keeps_the_promise_too(wide_model):
    model = load(wide_model)
    assert isinstance(model, Model)
    whole = model.sample(num=9, steps=20, exact=True)
    some = model.sample(ids=[7, 2], steps=20, exact=True)
    assert torch.equal(some, whole[[7, 2]])
    assert torch.equal(model.sample(ids=[4], steps=20, exact=True, seed=1), model.sample(num=9, steps=20, exact=True, seed=1)[4:5])
    assert not torch.equal(model.sample(num=1, steps=20, seed=1), model.sample(num=1, steps=20, seed=2))
