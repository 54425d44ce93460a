"""What is looked at during a run, and that a look changes nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.comparing import log

from mezzotint.checkpoint import fresh
from mezzotint.conditioning import LowRes
from mezzotint.configs import DataConfig, EMAConfig, LabelConfig, LowResConfig, Spec, SR3Config, TimesConfig, TrainConfig
from mezzotint.data import open_source, subset
from mezzotint.errors import ConfigError, DataError
from mezzotint.metrics.features import Pixels
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.noise import Noise
from mezzotint.pipelines.build import build_objective, resolve
from mezzotint.recipes.small import small
from mezzotint.recipes.sr3 import sr3_regression_small, sr3_small
from mezzotint.train.trainer import Trainer
from mezzotint.train.watching import Colours, HeldOut, QuickDistance, hold_out
from mezzotint.weights.io import read_tensors

TINY = {"width": 16, "mults": (1, 2), "attention": (2,), "head_channels": 16, "dropout": 0.2}


def recipe(times: str = "importance", **train):
    """Small digits, with what could give a look away: dropout, and times that learn."""
    base = small()
    settings = {"images": 256, "batch": 16, "sample_every": 0, "save_every": 64, "log_every": 4, **train}
    return replace(
        base,
        net=replace(base.net, **TINY),
        schedule=replace(base.schedule, steps=4),
        times=TimesConfig(law=times),
        data=DataConfig(path="digits"),
        train=TrainConfig(**settings),
        ema=EMAConfig(decays=(0.9,)),
    )


@pytest.fixture(scope="module")
def digits():
    return open_source(DataConfig(path="digits"))


def run(out: Path, digits, wish, watch=lambda *pieces: (), resume: bool = False):
    """Trains; ``watch`` makes the watchers from objective, model and source."""
    given = resolve(wish, digits.facts)
    spec = Spec(recipe=given, data=digits.facts)
    torch.manual_seed(0)
    model = fresh(spec, device="cpu")
    objective = build_objective(given, model.stage)
    trainer = Trainer(
        objective,
        digits,
        out=out,
        train=given.train,
        optim=given.optim,
        ema=given.ema,
        spec=spec,
        watchers=watch(objective, model, digits),
        resume=resume,
    )
    trainer.run()
    return model


def everything(objective, model, digits):
    held = subset(digits, range(40))
    return (
        HeldOut(objective, held, subset(digits, range(40, 1797)), every=64, batch=16),
        QuickDistance(model, digits, Pixels(), every=64, num=40, steps=3, batch=16),
    )


def test_looks_leave_training_as_it_is(tmp_path, digits):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    run(plain, digits, recipe())
    run(watched, digits, recipe(), everything)
    assert len(log(watched, "held_out")) == len(log(watched, "distance")) == 4
    for file in ("model/model.safetensors", "model/ema-0.9.safetensors", "checkpoints/000000256/state.safetensors"):
        assert (plain / file).read_bytes() == (watched / file).read_bytes(), file
    assert log(plain) == log(watched)
    # The law of times has learned by then, so that a look could have spoiled it.
    assert int(read_tensors(plain / "checkpoints/000000256/state.safetensors")["objective/law.counts"].min()) == 10


def test_the_held_out_loss_has_fixed_noise_and_times(tmp_path, digits):
    seen = []

    def watch(objective, model, source):
        watcher = everything(objective, model, source)[0]
        inner = watcher.objective.forward

        def forward(batch, **kwargs):
            loss = inner(batch, **kwargs)
            if not objective.training:
                seen.append((tuple(batch.ids.tolist()), tuple(loss.t.tolist())))
            return loss

        objective.forward = forward
        return (watcher,)

    run(tmp_path / "run", digits, recipe(), watch)
    looks = len(log(tmp_path / "run", "held_out"))
    assert looks == 4
    per_look = len(seen) // looks
    assert seen[:per_look] * looks == seen
    lines = log(tmp_path / "run", "held_out")
    assert lines[0]["loss"] != lines[-1]["loss"] and all(line["trained_loss"] > 0 for line in lines)


def test_learning_by_heart_shows(tmp_path, digits):
    few = subset(digits, range(8))

    def watch(objective, model, source):
        return (HeldOut(objective, subset(digits, range(24, 88)), few, every=4096, batch=64),)

    wish = recipe("uniform", images=2400, batch=8, save_every=2400, log_every=100)
    net = replace(wish.net, dropout=0.0, mults=(1,), attention=(), blocks=1, resample="conv")
    wish = replace(wish, net=net, optim=replace(wish.optim, lr=4e-3, warmup=0))
    wish = replace(wish, denoiser=replace(wish.denoiser, variance="fixed_small", predicts="x0"))
    run(tmp_path / "run", few, wish, watch)
    last = log(tmp_path / "run", "held_out")[-1]
    assert last["loss"] > 1.5 * last["trained_loss"]


def test_the_distance_is_that_of_the_samples(tmp_path, digits):
    model = run(tmp_path / "run", digits, recipe(), lambda o, m, s: everything(o, m, s)[1:])
    line = log(tmp_path / "run", "distance")[-1]
    assert (line["name"], line["features"]) == ("fd40", "pixels")
    # The same from the saved average.
    network = model.stage.denoiser.network
    network.load_state_dict(read_tensors(tmp_path / "run/model/ema-0.9.safetensors"))
    network.eval()
    made = model.sample(num=40, steps=3, grid="uniform", seed=0)
    ours, theirs = Moments().add(made.clamp(-1, 1).flatten(1)), Moments().add(digits.batch(range(1797)).images.flatten(1))
    expected = frechet_distance((ours.mean, ours.cov), (theirs.mean, theirs.cov))
    assert line["distance"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("base", [sr3_small, sr3_regression_small])
def test_the_distance_of_a_model_that_enlarges(tmp_path, digits, base):
    """Its samples begin from the held-out images, reduced, and have their classes."""
    own = recipe("noise_level" if base is sr3_small else "uniform", images=64)
    net = SR3Config(width=8, mults=(1,), blocks=1, attention=(), groups=4)
    label = LabelConfig() if base is sr3_small else None
    wish = replace(base(), net=net, low_res=LowResConfig(scale=2), label=label, data=own.data, train=own.train, ema=own.ema)
    held = subset(digits, range(100, 130))

    def watch(objective, model, source):
        return (QuickDistance(model, source, Pixels(), every=64, num=40, steps=3, batch=16, begin_from=held),)

    model = run(tmp_path / "run", digits, wish, watch)
    network = model.stage.denoiser.network
    network.load_state_dict(read_tensors(tmp_path / "run/model/ema-0.9.safetensors"))
    network.eval()
    batch = held.batch([k % 30 for k in range(40)])
    low = model.stage.conditioner.part(LowRes).reduce(batch.images, noise=Noise(0, range(40)))
    job = model.job(num=40, steps=3, grid="uniform")
    job = job if label is None else replace(job, labels=tuple(batch.label.tolist()))
    made = torch.cat([chunk.trajectory.x for chunk in model.run(job, low_res=low)])
    ours, theirs = Moments().add(made.clamp(-1, 1).flatten(1)), Moments().add(digits.batch(range(1797)).images.flatten(1))
    expected = frechet_distance((ours.mean, ours.cov), (theirs.mean, theirs.cov))
    assert log(tmp_path / "run", "distance")[-1]["distance"] == pytest.approx(expected, rel=1e-4)


def test_samples_that_are_no_numbers_do_not_end_the_run(tmp_path, digits):
    def watch(objective, model, source):
        watcher = everything(objective, model, source)[1]
        running = model.run

        def broken(job, **kwargs):
            for chunk in running(job, **kwargs):
                yield replace(chunk, trajectory=replace(chunk.trajectory, x=chunk.trajectory.x * float("nan")))

        model.run = broken
        return (watcher,)

    run(tmp_path / "run", digits, recipe(images=64), watch)
    assert log(tmp_path / "run", "distance")[-1]["distance"] == "inf"


def test_large_images_are_shrunk_before_their_pixels_are_compared(tmp_path, digits):
    model = run(tmp_path / "run", digits, recipe(images=16))
    watcher = QuickDistance(model, digits, Pixels(), every=1, num=2000, steps=3, batch=16)
    assert (watcher.name, watcher.factor) == ("fd2k", 1)
    model.spec = replace(model.spec, data=replace(model.spec.data, channels=3, size=(128, 100)))
    assert QuickDistance(model, digits, Pixels(), every=1, num=500, steps=3, batch=16).factor == 4
    with pytest.raises(ConfigError, match="--train.fd-num 1 and --train.fd-steps 3"):
        QuickDistance(model, digits, Pixels(), every=1, num=1, steps=3, batch=16)


def test_a_wish_to_stop_is_heard_between_the_samples_of_a_distance(tmp_path, digits):
    import os
    import signal

    def watch(objective, model, source):
        watcher = everything(objective, model, source)[1]
        running = model.run

        def interrupted(job, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            return running(job, **kwargs)

        model.run = interrupted
        return (watcher,)

    with pytest.raises(SystemExit):
        run(tmp_path / "run", digits, recipe(), watch)
    assert log(tmp_path / "run", "distance") == []
    assert json.loads((tmp_path / "run/checkpoints/000000064/state.json").read_text())["state"]["step"] == 4


def test_held_out_images_stay_where_they_are_when_others_are_added(digits):
    trained, held = hold_out(digits, 0.1)
    assert len(trained) + len(held) == 1797 and 120 < len(held) < 240
    assert not set(trained.names) & set(held.names)
    fewer, fewer_held = hold_out(subset(digits, range(500)), 0.1)
    assert set(fewer_held.names) <= set(held.names) and set(fewer.names) <= set(trained.names)
    with pytest.raises(ConfigError, match="--train.held-out is 1; give a share"):
        hold_out(digits, 1.0)
    with pytest.raises(DataError, match="--train.held-out 0.001 of 10 images leaves a part empty"):
        hold_out(subset(digits, range(10)), 0.001)


def test_colours_that_drift_are_told_from_chance(digits):
    colours = Colours(digits)
    same = colours.compare(digits.batch(range(5, 69)).images)
    assert not same["drifts"] and abs(same["colour_drift"][0]) < 10
    brighter = colours.compare((digits.batch(range(5, 69)).images + 0.2).clamp(-1, 1))
    assert brighter["drifts"] and brighter["colour_drift"][0] > 10
    # One image proves nothing, whatever its colour.
    assert not colours.compare(torch.ones(1, 1, 8, 8))["drifts"]
    assert np.isfinite(brighter["colour_drift"]).all()
