from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.pipelines.tiny import generator_spec, model_of
from torch import Tensor

from mezzotint.configs import DataConfig, LowResConfig, SampleConfig
from mezzotint.data import open_source
from mezzotint.data.source import Source
from mezzotint.metrics.features import Pixels
from mezzotint.pipelines.cascade import Cascade
from mezzotint.tasks.levels import best, sweep_levels

NOISY = LowResConfig(scale=2, augment="cosine", augment_steps=100)


class Brightness(Pixels):
    """Twice the mean of each half of an image."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return {"pool": 2 * images.unflatten(2, (2, -1)).mean(dim=(1, 3, 4))}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    file = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(file, arr_0=np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8))
    return open_source(DataConfig(path=str(file)))


def test_levels_are_compared_by_the_features_that_are_given(source: Source) -> None:
    small = model_of(generator_spec(label=None, classes=(), sample=SampleConfig(steps=2)))
    large = model_of(generator_spec(label=None, classes=(), size=(8, 8), low_res=NOISY, sample=SampleConfig(steps=2)))
    model = Cascade([small, large])
    wish = {"levels": (0.0, 0.7), "num": 64, "seed": 3}
    trials = sweep_levels(model, source, features=Brightness(), **wish)
    assert [(t.stage, t.level) for t in trials] == [(2, 0.0), (2, 0.7)]
    images = source.batch(range(80)).images
    for trial in trials:
        made = model.sample(num=64, seed=3, level=trial.level).clamp(-1, 1)
        a, b = (Brightness()(x)["pool"].double() for x in (made, images))
        mean = (a.mean(0) - b.mean(0)).square().sum()
        product = a.T.cov() @ b.T.cov()
        root = torch.linalg.eigvals(product).real.clamp_min(0).sqrt().sum()
        expected = mean + a.T.cov().trace() + b.T.cov().trace() - 2 * root
        assert trial.distance == pytest.approx(expected.item(), rel=1e-3)
    assert best(trials, 2) == min(trials, key=lambda t: t.distance)
    plain = sweep_levels(model, source, **wish)
    assert plain == sweep_levels(model, source, features=Pixels(), **wish)
    assert plain != trials and replace(plain[0], distance=0.0) == replace(trials[0], distance=0.0)
