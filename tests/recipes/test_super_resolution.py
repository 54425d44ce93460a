"""What SR3 claims against a regression of the same network, on digits from 2x2 to 8x8, where much is left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint import load
from mezzotint.cli import main
from mezzotint.configs import DataConfig
from mezzotint.data import open_source
from mezzotint.metrics.features import Pixels
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.resolution import reduce
from mezzotint.tasks.tune import features_of

IMAGES = 20_000
NET = ("--low-res.scale", "4", "--net.mults", "1", "2", "--net.attention", "2")


def trained(folder: Path, recipe: str) -> Any:
    run = folder / recipe
    common = ("--data", "digits", "--data.split", "train", "--train.images", str(IMAGES), "--train.sample-every", "0")
    assert main(["train", recipe, *common, *NET, "--out", str(run)]) == 0
    return load(run, device="cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Frechet distance from")
def test_sr3_looks_real_and_the_regression_is_near(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    refined, regressed = (trained(tmp_path, name) for name in ("sr3-small", "sr3-regression-small"))
    source = open_source(DataConfig(path="digits", split="test"))
    images = source.batch(range(len(source))).images
    low = reduce(images, 4)
    made = {"sr3": refined.sample(low_res=low, seed=1), "regression": regressed.sample(low_res=low)}

    def moments(x: Tensor) -> Moments:
        found = Moments()
        found.add(features_of(Pixels(), x.clamp(-1, 1)))
        return found

    error = {name: (x - images).square().mean().item() for name, x in made.items()}
    distance = {name: frechet_distance(moments(x), moments(images)) for name, x in made.items()}
    consistency = {name: (reduce(x, 4) - low).square().mean().item() for name, x in made.items()}
    assert error["regression"] < error["sr3"], error
    assert distance["sr3"] < distance["regression"], distance
    assert max(consistency.values()) < 0.25 * (low - low.roll(1, 0)).square().mean().item(), consistency
    other = refined.sample(low_res=low[:50], seed=2)
    assert (other - made["sr3"][:50]).square().mean().item() > 0.1 * error["sr3"]
    assert torch.equal(regressed.sample(low_res=low[:50], seed=2), made["regression"][:50])
