"""Trains the toy objective in processes that are killed at given points, resuming each time: ``kills.py OUT POINT...``.

A point is ``step:K`` (in training step K), ``file:N`` (before the Nth tensor file is written) or ``folder:N`` (before the Nth finished
folder gets its name). The last process runs to the end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.train.toy import Points, trainer

from mezzotint.train import trainer as trainer_module
from mezzotint.weights import io


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


def main() -> None:
    out, points = sys.argv[1], sys.argv[2:]
    for number, point in enumerate([*points, ""]):
        child = os.fork()
        if child == 0:
            if point:
                arm(point)
            trainer(out, source=Points(), resume=number > 0).run()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) != bool(point):
            sys.exit(f"point '{point}' was not reached")


if __name__ == "__main__":
    main()
