"""What the folder of a run tells of it: its state and its figures. Free of torch, for the commands that only look."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mezzotint.errors import ConfigError

RUN, STATUS, CHECKPOINTS, MODEL, SAMPLES, LOG = "run.json", "status.json", "checkpoints", "model", "samples", "log.jsonl"
State = Literal["running", "stopped", "failed", "finished"]


def whoami() -> dict[str, Any]:
    """This process: machine, number, and when it began, since numbers are given out again."""
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "began": psutil.Process().create_time()}


@dataclass(frozen=True)
class History:
    """A run, as its folder tells it.

    Attributes:
        path: The folder.
        name: Name of the recipe.
        state: What it is doing, or how it ended.
        reason: Why it failed or stopped; "" where nothing is to be said.
        budget: Images asked for.
        images: Images seen, by the last line of the log.
        checkpoints: Images of each checkpoint, ascending.
        lines: The lines of the log, by event.
    """

    path: Path
    name: str
    state: State
    reason: str
    budget: int
    images: int
    checkpoints: tuple[int, ...]
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """Loss of the last line of the log: that of the last phase."""
        points = next(iter(reversed(self.losses().values())), [])
        return points[-1][1] if points else None

    def losses(self) -> dict[str, list[tuple[float, float]]]:
        """Phase -> (images, mean loss of the steps since the line before)."""
        found: dict[str, list[tuple[float, float]]] = {}
        for line in self.lines.get("train", []):
            for phase, figures in line["phases"].items():
                if isinstance(loss := figures.get("loss"), int | float):
                    found.setdefault(phase, []).append((line["images"], loss))
        return found

    def bands(self, phase: str) -> list[tuple[float, list[float | None], list[float], list[float]]]:
        """(images, loss, low, high) of a phase by noise level, where the reference band is known."""
        found = []
        for line in self.lines.get("train", []):
            figures = line["phases"].get(phase, {})
            if "band_low" in figures:
                found.append((line["images"], figures["loss_by_level"], figures["band_low"], figures["band_high"]))
        return found

    def curve(self, event: str, key: str) -> list[tuple[float, float]]:
        """(images, figure) of what was looked at during the run, such as ("held_out", "loss")."""
        lines = self.lines.get(event, [])
        return [(line["images"], line[key]) for line in lines if isinstance(line.get(key), int | float)]

    def distances(self) -> dict[str, list[tuple[float, float]]]:
        """Name, such as "fd2k pixels" -> (images, distance)."""
        found: dict[str, list[tuple[float, float]]] = {}
        for line in self.lines.get("distance", []):
            if isinstance(line.get("distance"), int | float):
                found.setdefault(f"{line['name']} {line['features']}", []).append((line["images"], line["distance"]))
        return found


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / RUN).is_file()


def read_history(folder: Path | str) -> History:
    """Reads what a run folder tells.

    Raises:
        ConfigError: It is no run folder, or its settings are damaged.
    """
    path = Path(folder)
    if not is_run(path):
        raise ConfigError(f"{path} is not the folder of a run: it holds no {RUN}; give the --out of a training")
    settings = _object(path / RUN)
    if settings is None:
        raise ConfigError(f"{path / RUN} is damaged; copy it again")
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in read_log(path / LOG):
        lines.setdefault(line["event"], []).append(line)
    checkpoints = sorted(int(p.name) for p in (path / CHECKPOINTS).glob("*") if p.name.isdigit())
    seen = [line["images"] for line in lines.get("train", [])] + checkpoints
    status = _object(path / STATUS) or {}
    state, reason = _state(path, status)
    budget = settings.get("train", {}).get("images", 0)
    return History(path, str(settings.get("name")), state, reason, budget, max(seen, default=0), tuple(checkpoints), lines)


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; those that a killed process did not finish, or that are damaged, are left out."""
    if not file.is_file():
        return
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("event"), str) and isinstance(line.get("step"), int):
            yield line


def _object(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _state(path: Path, status: dict[str, Any]) -> tuple[State, str]:
    state, reason = status.get("state"), str(status.get("reason", ""))
    if state in ("stopped", "failed", "finished"):
        return state, reason
    if state != "running":
        return ("finished", "") if (path / MODEL).is_dir() else ("stopped", "")
    if status.get("host") != socket.gethostname():
        return "running", f"on {status.get('host')}, by its own account"
    return ("running", "") if _alive(status) else ("stopped", "its process was killed")


def _alive(status: dict[str, Any]) -> bool:
    import psutil

    try:
        return abs(psutil.Process(status["pid"]).create_time() - status["began"]) < 1
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
