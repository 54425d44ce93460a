"""Trains the toy objective in processes that are killed, resuming each time.

``kills.py OUT POINT...``: a point is ``step:K`` (in training step K), ``file:N`` (before the Nth tensor file is written) or ``folder:N``
(before the Nth finished folder gets its name). The last process runs to the end.

``kills.py OUT random SEED COUNT``: as many kills at random, in runs OUT/0, OUT/1, ...; a run that reaches its end is followed by another.
Two of three kills strike before a random one of all calls that change the disk or make a step, in the middle of a tensor file too; the
third strikes after a random time.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch.utils.tensorboard  # noqa: F401  (so that the processes to come need not)
from tests.train.toy import Points, draw, trainer

from mezzotint.configs import EMAConfig
from mezzotint.train import trainer as trainer_module
from mezzotint.train.logging import RunLog
from mezzotint.train.trainer import Trainer
from mezzotint.weights import io

RANDOM_RUN = {
    "on_sample": draw,
    "sample_every": 24,
    "keep": 2,
    "ema": EMAConfig(decays=(0.9,), stds=(0.1,), snapshot_every=32),
}
"""Settings of the runs that are killed at random."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Makes this process die at a point."""
    kind, _, number = point.partition(":")
    left = int(number)

    def countdown(function):
        def wrapped(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                die()
            return function(*args, **kwargs)

        return wrapped

    if kind == "step":
        update = trainer_module.Trainer._update

        def checked(self, turn, batch, log):
            if turn.step == int(number) and turn.repeat == 2:
                die()
            return update(self, turn, batch, log)

        trainer_module.Trainer._update = checked
    elif kind == "file":
        io.save_file = countdown(io.save_file)
    else:
        rename = Path.rename
        renamed = countdown(rename)
        Path.rename = lambda self, target: (renamed if ".new-" in self.name else rename)(self, target)


class Events:
    """Counts what changes the disk or makes a step, and dies before one of them.

    Args:
        fatal: Number of the event to die at; -1: none.
    """

    places = (
        *((io, "save_file"), (os, "fsync"), (shutil, "rmtree"), (Trainer, "_update"), (RunLog, "event"), (RunLog, "back_to")),
        *((Path, name) for name in ("rename", "replace", "unlink", "write_text", "mkdir")),
    )

    def __init__(self, fatal: int = -1):
        self.seen, self.fatal = 0, fatal
        for place, name in self.places:
            setattr(place, name, self._counted(getattr(place, name), name))

    def _counted(self, function, name):
        def call(*args, **kwargs):
            if self.seen == self.fatal:
                if name == "save_file":  # half a file is on the disk
                    function(*args, **kwargs)
                    os.truncate(args[1], os.path.getsize(args[1]) // 2)
                die()
            self.seen += 1
            return function(*args, **kwargs)

        return call


def child(action) -> int:
    """Does something in a process of its own; its number."""
    number = os.fork()
    if number == 0:
        action()
        os._exit(0)
    return number


def wait(number: int) -> bool:
    """Whether a process was killed; one that fails otherwise ends this one."""
    _, status = os.waitpid(number, 0)
    if not os.WIFSIGNALED(status) and status != 0:
        sys.exit("a run failed")
    return os.WIFSIGNALED(status)


def at_points(out: str, points: list[str]) -> None:
    for number, point in enumerate([*points, ""]):

        def train(number=number, point=point) -> None:
            if point:
                arm(point)
            trainer(out, source=Points(), resume=number > 0).run()

        if wait(child(train)) != bool(point):
            sys.exit(f"point '{point}' was not reached")


def at_random(out: Path, seed: int, count: int) -> None:
    chance = random.Random(seed)
    out.mkdir()

    def measure() -> None:
        events = Events()
        trainer(out / "whole", **RANDOM_RUN).run()
        (out / "events").write_text(str(events.seen))

    began = time.monotonic()
    assert not wait(child(measure))
    duration, events = time.monotonic() - began, int((out / "events").read_text())
    run, kills = 0, 0
    while kills < count:
        place = out / str(run)
        by_clock = kills % 3 == 2
        fatal = -1 if by_clock else chance.randrange(events)

        def train(place=place, fatal=fatal) -> None:
            Events(fatal)
            # A run that was killed before its folder was made begins anew.
            trainer(place, resume=(place / "run.json").exists(), **RANDOM_RUN).run()

        if place.exists() and not (place / "run.json").exists():
            shutil.rmtree(place)
        number = child(train)
        if by_clock:
            time.sleep(chance.uniform(0, duration))
            os.kill(number, signal.SIGKILL)
        if wait(number):
            kills += 1
        else:
            run += 1
    for place in (path for path in out.iterdir() if path.name.isdigit()):
        if not (place / "run.json").exists():
            shutil.rmtree(place)
        resume = (place / "run.json").exists()
        assert not wait(child(lambda place=place, resume=resume: trainer(place, resume=resume, **RANDOM_RUN).run()))


def main() -> None:
    out, words = sys.argv[1], sys.argv[2:]
    if words[0] == "random":
        at_random(Path(out), int(words[1]), int(words[2]))
    else:
        at_points(out, words)


if __name__ == "__main__":
    main()
