"""TensorBoard, trackers, and the log of a run."""

import json
import math

import pytest
import torch
from tests.train.comparing import log
from tests.train.toy import Points, draw, trainer

from mezzotint.errors import ConfigError
from mezzotint.train.logging import RunLog


def events(run) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (images, value), as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=True)
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_shows_what_the_log_has(tmp_path):
    out = tmp_path / "run"
    trainer(out, images=480, log_every=5, on_sample=lambda *a: (draw(*a), {"colour_drift": [1.5]})[1], sample_every=240).run()
    shown, lines = events(out), log(out)
    assert [images for images, _ in shown["phases/model/loss"]] == [line["images"] for line in lines]
    for tag in ("gradient_norm", "lr", "loss_by_level/3", "band_low/0", "band_high/3"):
        assert f"phases/model/{tag}" in shown
    assert shown["phases/critic/loss"][-1][1] == pytest.approx(lines[-1]["phases"]["critic"]["loss"], rel=1e-5)
    assert {"images_per_second", "peak_memory", "ema_half_life/0.9"} <= set(shown)
    # After 60 updates the decay that rises to 0.9 is at 60/69.
    assert lines[-1]["ema_half_life"]["0.9"] == pytest.approx(8 * math.log(0.5) / math.log(60 / 69))
    assert shown["grid/colour_drift/0"] == [(240, 1.5), (480, 1.5)]


def test_a_resumed_run_shows_each_step_once(tmp_path):
    class Cut(Points):
        def batch(self, ids, *, noise):
            if noise.step == 11:
                raise KeyboardInterrupt
            return super().batch(ids, noise=noise)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trainer(out, source=Cut(), log_every=1).run()
    trainer(out, resume=True, log_every=1).run()
    assert [images for images, _ in events(out)["phases/model/loss"]] == list(range(8, 97, 8))
    assert [line["images"] for line in log(out)] == list(range(8, 97, 8))


def test_trackers_of_accelerate_get_the_same_figures(tmp_path, monkeypatch):
    from accelerate import tracking
    from accelerate.tracking import GeneralTracker
    from accelerate.utils import LoggerType

    told = {}

    class Fake(GeneralTracker):
        name = "trackio"
        requires_logging_directory = False

        def __init__(self, project, **kwargs):
            super().__init__()
            told["project"] = project

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            told["config"] = values

        def log(self, values, step=None, **kwargs):
            told.setdefault("rows", []).append((step, values))

        def finish(self):
            told["finished"] = True

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", Fake)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.TRACKIO])
    monkeypatch.setattr("mezzotint.train.precision.find_spec", lambda name: True)
    trainer(tmp_path / "run", trackers=("trackio",)).run()
    assert told["project"] == "mezzotint" and told["finished"] and "train" in told["config"]
    lines = log(tmp_path / "run")
    assert [step for step, _ in told["rows"]] == [line["images"] for line in lines]
    assert told["rows"][-1][1]["phases/model/loss"] == lines[-1]["phases"]["model"]["loss"]


def test_trackers_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="unknown tracker 'wandbb'; did you mean 'wandb'"):
        trainer(tmp_path / "run", trackers=("wandbb",))
    with pytest.raises(ConfigError, match="tracker 'aim' is not installed; `pip install aim`"):
        trainer(tmp_path / "run", trackers=("aim",))


def test_damaged_lines_of_a_log_are_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    good = [json.dumps({"event": "train", "step": k, "images": 8 * k}) for k in (1, 2, 3)]
    path.write_bytes("\n".join([good[0], '{"event": "tr', "\udcff", "[1]", "{}", good[1], good[2]]).encode("utf-8", "surrogateescape"))
    RunLog(path, tmp_path / "events", step=2, images=16, budget=80, device=torch.device("cpu")).close()
    assert path.read_text().splitlines() == good[:2]
