from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.pipelines.tiny import classifier_spec, generator_spec, model_of, saved

from mezzotint.checkpoint import load
from mezzotint.configs import DataConfig, DiscreteConfig
from mezzotint.data import open_source
from mezzotint.data.worlds import gaussian
from mezzotint.denoise import FunctionDenoiser
from mezzotint.errors import CheckpointError, ConfigError, DataError
from mezzotint.metrics.features import Pixels
from mezzotint.pipelines.tuned import Setting, Tuned, read_tuned, write_tuned
from mezzotint.schedules import build_schedule
from mezzotint.tasks.tune import candidates, features_of, tune_solver

SOLVERS = ("ddim", "dpm_solver,order=2", "heun")


class World(FunctionDenoiser):
    """An exact denoiser with a weight, so that it has a place."""

    def __init__(self, world):
        super().__init__(build_schedule(DiscreteConfig()), lambda x, alpha, sigma, cond: world.posterior(x, alpha, sigma)[0])
        self.register_parameter("none", torch.nn.Parameter(torch.zeros(1)))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Colours of a narrow Gaussian."""
    x = np.random.default_rng(0).normal(128, 20, (400, 2, 2, 3)).clip(0, 255).round().astype(np.uint8)
    file = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(file, arr_0=x)
    return open_source(DataConfig(path=str(file)))


@pytest.fixture(scope="module")
def model(source):
    model = model_of(generator_spec(label=None, classes=(), size=(2, 2)))
    model.stage = replace(model.stage, denoiser=World(gaussian(torch.zeros(3, 2, 2), (20 / 127.5) ** 2)))
    return model


def test_the_best_of_each_budget(model, source) -> None:
    seen = []
    tuned = tune_solver(
        model, source, [3, 9], num=144, samplers=SOLVERS, grids=("uniform", "logsnr"), on_images=lambda n, what: seen.append((n, what))
    )
    assert sorted(tuned.best) == [3, 9]
    for budget in (3, 9):
        tried = tuned.tried[budget]
        assert len(tried) == 6 and {s.sampler for s in tried} == set(SOLVERS)
        assert tuned.best[budget] == tried[0] and tried[0].images == 144
        assert all(s.calls == budget for s in tried)
        last = [s.distance for s in tried if s.images == 144]
        assert last == sorted(last) and len(last) < len(tried)
    # The world is exact, so that more calls come nearer; 144 images of 12 pixels are not quite the data even then.
    assert tuned.best[9].distance < tuned.best[3].distance
    assert seen[0] == (64, "3 calls, round 1 of 3: ddim uniform")
    assert sum(n for n, _ in seen) == 2 * (6 * 64 + 80)  # six candidates get 64 images, the two left keep theirs, and one goes on to 144


def test_a_measured_distance_is_that_of_the_images(model, source) -> None:
    from mezzotint.metrics.features import pixels
    from mezzotint.metrics.frechet import Moments, frechet_distance

    tuned = tune_solver(model, source, [4], num=100, samplers=("ddim",), grids=("uniform", "logsnr"), seed=5)
    best = tuned.best[4]
    images = model.sample(num=100, sampler=best.sampler, steps=best.steps, grid=best.grid, seed=5).clamp(-1, 1)
    data = Moments().add(pixels(source.batch(range(400)).images))
    assert frechet_distance(Moments().add(pixels(images)), data) == pytest.approx(best.distance, rel=1e-4)


def test_large_images_are_compared_by_cuts() -> None:
    images = torch.arange(2 * 3 * 40 * 48, dtype=torch.float32).reshape(2, 3, 40, 48)
    found = features_of(Pixels(), images)
    assert found.shape == (2 * 2 * 3, 3 * 16 * 16)
    assert torch.equal(found[7], images[1, :, :16, 16:32].flatten())
    assert features_of(Pixels(), images[..., :32, :32]).shape == (2, 3 * 32 * 32)


def test_candidates_keep_to_their_budget() -> None:
    model = model_of(generator_spec())
    found = candidates(model, 5, SOLVERS, ("uniform", "karras"), ((), ("cfg,scale=1.5",)))
    assert len(found) == 12 and {c.steps for c in found if c.sampler == "heun"} == {3}
    assert candidates(model, 2, ("dpm_solver,order=3,method=singlestep_fixed",), ("uniform",), ((),)) == []
    with pytest.raises(ConfigError, match="unknown sampler 'ddmi'"):
        candidates(model, 5, ("ddmi",), ("uniform",), ((),))


def test_features_of_a_classifier(source, tmp_path) -> None:
    images = np.stack([source.array(i) for i in range(100)]).repeat(2, axis=1).repeat(2, axis=2)
    np.savez(tmp_path / "larger.npz", arr_0=images)
    data = open_source(DataConfig(path=str(tmp_path / "larger.npz")))
    model, classifier = model_of(generator_spec()), model_of(classifier_spec())
    tuned = tune_solver(model, data, [2], num=64, samplers=("ddim",), grids=("uniform", "logsnr"), features=classifier)
    assert tuned.about["features"].startswith("classifier") and math.isfinite(tuned.best[2].distance)


def setting(distance: float, *guidance: str, sampler: str = "ddim", steps: int = 4) -> Setting:
    return Setting(sampler, steps, "logsnr", guidance, steps, 100, distance)


def test_a_model_samples_as_it_was_tuned(tmp_path) -> None:
    folder = saved(tmp_path / "m", generator_spec())
    model = load(folder, device="cpu")
    with pytest.raises(ConfigError, match="is not tuned; run `mezzotint tune"):
        model.job(calls=4)
    best = {4: setting(3.0, "cfg,scale=2", sampler="heun", steps=3), 8: setting(5.0), 6: setting(2.0, steps=6)}
    write_tuned(folder, Tuned(best, {4: (best[4],)}, model.hash, {"seed": 0}))
    assert read_tuned(folder) == Tuned(best, {4: (best[4],)}, model.hash, {"seed": 0})
    job = model.job(calls=5, num=2)
    assert (job.sampler, job.steps, job.grid, job.guidance) == ("heun", 3, "logsnr", ("cfg,scale=2",))
    assert model.job(calls=9).steps == 6  # more calls are no reason for worse images
    assert model.job(calls=4, guidance="cfg,scale=3").guidance == ("cfg,scale=3",)
    same = model.sample(num=2, sampler="heun", steps=3, grid="logsnr", guidance="cfg,scale=2")
    torch.testing.assert_close(model.sample(num=2, calls=4), same, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="3 network calls, and this model is tuned for 4, 6, 8"):
        model.job(calls=3)
    with pytest.raises(ConfigError, match="leave those out"):
        model.job(calls=4, steps=3)
    value = json.loads((folder / "tuned.json").read_text())
    (folder / "tuned.json").write_text(json.dumps({**value, "weights": "0"}))
    with pytest.warns(UserWarning, match="tuned with other weights"):
        model.job(calls=4)
    for damage in ({**value, "version": 2}, {**value, "best": {"4": {}}}, {**value, "best": []}):
        (folder / "tuned.json").write_text(json.dumps(damage))
        with pytest.raises(CheckpointError, match=r"tuned\.json"):
            model.job(calls=4)


def test_what_cannot_be_searched(model, source) -> None:
    with pytest.raises(ConfigError, match="at least 1 network call"):
        tune_solver(model, source, [0])
    with pytest.raises(ConfigError, match="at least 64"):
        tune_solver(model, source, [4], num=10)
    with pytest.raises(DataError, match="the model generates 3 of"):
        tune_solver(model_of(generator_spec()), source, [4])
    with pytest.raises(ConfigError, match="none of the samplers works with 2"):
        tune_solver(model, source, [2], samplers=("dpm_solver,order=3,method=singlestep_fixed",))
