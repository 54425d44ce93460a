"""What it costs to see a run and to keep it: progress bar, meters, bands, log, TensorBoard, averages to choose from, checkpoints.

A real ``Trainer.run`` is timed from inside, function by function, and the costs of what happens at intervals are spread over the default
intervals: 50 steps for the log, and a tenth and a 32nd of a budget of a million images for checkpoints and snapshots.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clock import Stopwatch, now
from mezzotint.configs import DataFacts, DenoiserConfig, EMAConfig, Spec, TrainConfig
from mezzotint.noise import Noise
from mezzotint.pipelines.build import build_objective, build_stage, resolve
from mezzotint.recipes.ddpm import ddpm
from mezzotint.train.logging import Meter, RunLog
from mezzotint.train.ranks import Ranks
from mezzotint.train.trainer import SNAPSHOTS, Trainer
from mezzotint.types import Batch
from sampling import network

BUDGET = 1_000_000
LOG_EVERY = TrainConfig().log_every
WARM_UP = 3


class Images:
    """The same images at each step; the time of each step lies between two calls.

    Args:
        batch: Images a step.
        watch: Begins to count after the first steps.
    """

    fingerprint = "random"

    def __init__(self, batch: int, watch: Stopwatch):
        self.images = torch.rand(batch, 3, 32, 32) * 2 - 1
        self.watch, self.calls = watch, 0
        self.began = now()

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, ids: list[int], *, noise: Noise) -> Batch:
        """The images; the noise is not used, since nothing is augmented."""
        self.calls += 1
        if self.calls == WARM_UP + 1:
            self.watch.owner, self.began = "run", now()
        return Batch(self.images, torch.tensor(ids))


def measure(*, width: int, batch: int, steps: int) -> dict[str, Any]:
    """Cost of a step, and of what is done beside it, each in seconds of wall and processor."""
    print("measuring what a run keeps", file=sys.stderr, flush=True)
    torch.manual_seed(0)
    facts = DataFacts(channels=3, size=(32, 32))
    calls = 3  # of the log, of checkpoints and of snapshots
    total = steps + WARM_UP
    part = -(-total // calls)
    train = TrainConfig(images=total * batch, batch=batch, log_every=part, save_every=part * batch, sample_every=0)
    ema = EMAConfig(stds=(0.05, 0.1), snapshot_every=part * batch)
    recipe = resolve(replace(ddpm(), net=network(width), denoiser=DenoiserConfig(), train=train, ema=ema), facts)
    watch = Stopwatch()
    source = Images(batch, watch)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer = Trainer(
            build_objective(recipe, build_stage(recipe)),
            source,
            out=Path(folder) / "run",
            train=train,
            optim=recipe.optim,
            ema=ema,
            spec=Spec(recipe, facts),
        )
        with watch.on(
            ("each step", RunLog, "progress"),
            ("each step", Meter, "add"),
            ("each step", Ranks, "at"),
            ("log", Trainer, "_log_figures"),
            ("checkpoint", Trainer, "_save"),
            ("snapshot", Trainer, "_snapshot"),
        ):
            trainer.run()
    spent = {name: watch.seconds["run", name] for name in ("each step", "log", "checkpoint", "snapshot")}
    everything = (now() - source.began - sum(spent.values())) / steps
    logs = (total // part) + (total % part > 0)
    # Images between two checkpoints, as a number of steps.
    interval = {"each step": 1, "log": LOG_EVERY, "checkpoint": BUDGET / 10 / batch, "snapshot": BUDGET / SNAPSHOTS / batch}
    count = {"each step": steps, "log": logs, "checkpoint": logs, "snapshot": logs}
    clocks = ("wall", "cpu")
    share = {name: spent[name] / count[name] / interval[name] / everything for name in spent}
    return {
        "batch": batch,
        "steps": steps,
        "ms_per_step": dict(zip(clocks, (everything * 1e3).tolist(), strict=True)),
        "images_per_second": {
            "without": dict(zip(clocks, (batch / everything).tolist(), strict=True)),
            "with": dict(zip(clocks, (batch / everything / (1 + sum(share.values()))).tolist(), strict=True)),
        },
        "ms_each": {name: dict(zip(clocks, (spent[name] / count[name] * 1e3).tolist(), strict=True)) for name in spent},
        "shares": {name: dict(zip(clocks, value.tolist(), strict=True)) for name, value in share.items()},
        "overhead": dict(zip(clocks, sum(share.values()).tolist(), strict=True)),
    }
