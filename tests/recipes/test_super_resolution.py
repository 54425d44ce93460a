"""SR3's steps, and what it claims against a regression of the same network on digits from 2x2 to 8x8, where much is left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint import load
from mezzotint.cli import main
from mezzotint.configs import DataConfig
from mezzotint.data import open_source
from mezzotint.denoise import NetworkDenoiser
from mezzotint.metrics.features import Pixels
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.noise import ReplayNoise
from mezzotint.registry import build, get
from mezzotint.resolution import reduce
from mezzotint.sample.loop import sample
from mezzotint.schedules import build_schedule
from mezzotint.tasks.tune import features_of

IMAGES = 20_000
F64 = torch.float64
NET = ("--low-res.scale", "4", "--net.mults", "1", "2", "--net.attention", "2")


class Stub(nn.Module):
    """A network that keeps what it is told of the noise, and answers with a tenth of x."""

    accepts = frozenset[str]()
    out_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Tensor] = []

    def forward(self, x: Tensor, level: Tensor, cond: Any) -> Tensor:
        self.told.append(level.double())
        return 0.1 * x


@pytest.mark.parametrize("steps", [4, 10])
def test_the_steps_of_sr3_are_those_of_the_paper(steps: int) -> None:
    """Equation 11, with a noise schedule that the training did not have: the large variance, no noise at the end, and gamma is told."""
    recipe = get("recipe", "sr3-64-256")()
    network, schedule = Stub(), build_schedule(recipe.schedule)
    denoiser = NetworkDenoiser(network, schedule, recipe.denoiser)
    sampler = build("sampler", recipe.sample.sampler)
    plan = sampler.plan(schedule, steps=steps, spacing="betas:1e-4,0.5")
    g = torch.Generator().manual_seed(0)
    start, *draws = (torch.randn(2, 3, 4, 4, dtype=F64, generator=g) for _ in range(steps))
    found = sample(denoiser, sampler, plan, start, noise=ReplayNoise(draws)).x
    alphas = 1 - torch.linspace(1e-4, 0.5, steps, dtype=F64)
    gammas, y = alphas.cumprod(0), start
    for t in reversed(range(steps)):
        y = (y - (1 - alphas[t]) / (1 - gammas[t]).sqrt() * 0.1 * y) / alphas[t].sqrt()
        y = y + (1 - alphas[t]).sqrt() * draws.pop(0) if t else y
    torch.testing.assert_close(found, y, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(torch.stack([level[0] for level in network.told]), gammas.flip(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "sides"),
    [("cdm-32", {8, 16}), ("cdm-32-64", {8, 16})]
    + [(name, {16}) for name in ("cdm-64-128", "cdm-64-256", "sr3-16-128", "sr3-64-256", "sr3-64-512", "sr3-256-1024")],
)
def test_attention_acts_where_the_papers_have_it(name: str, sides: set[int]) -> None:
    recipe = get("recipe", name)()
    assert {recipe.data.size[0] // factor for factor in recipe.net.attention} == sides
    assert max(recipe.net.attention) < 2 ** len(recipe.net.mults)


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
