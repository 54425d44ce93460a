"""What a run tells people: a progress bar, ``log.jsonl`` with one JSON object a line, TensorBoard, and other trackers."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mezzotint.train.history import read_log
from mezzotint.train.levels import Levels
from mezzotint.weights.io import write_text


def peak_memory(device: torch.device) -> int:
    """Most memory that this process has held, in bytes: of the GPU, or resident memory on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage begins with the memory of the process that started this one
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Meter:
    """Collects the figures of one phase between two lines of the log."""

    def __init__(self) -> None:
        self.levels = Levels()
        self._forget()

    def _forget(self) -> None:
        self.t: list[Tensor] = []
        self.loss: list[Tensor] = []
        self.scalars: list[dict[str, float]] = []

    def clear(self) -> None:
        """Ends an interval of the log: its steps are forgotten, and the bands of the noise levels take it in."""
        if self.loss:
            self.levels.commit(torch.cat(self.t), torch.cat(self.loss))
        self._forget()

    def add(self, t: Tensor, loss: Tensor, scalars: dict[str, float]) -> None:
        """Takes in one optimiser step: times ``[b]``, losses ``[b]``, and scalars by name."""
        self.t.append(t)
        self.loss.append(loss)
        self.scalars.append(scalars)

    def summary(self) -> dict[str, Any]:
        """Means since the last ``clear``."""
        if not self.loss:
            return {}
        t, loss = torch.cat(self.t), torch.cat(self.loss)
        names = {name: None for row in self.scalars for name in row}
        means: dict[str, Any] = {"loss": loss.mean().item()}
        for name in names:
            values = [row[name] for row in self.scalars if name in row]
            means[name] = sum(values) / len(values)
        return means | self.levels.summary(t, loss)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that ``restore`` takes."""
        tensors = {"t": torch.cat(self.t), "loss": torch.cat(self.loss)} if self.loss else {}
        return tensors, {"scalars": self.scalars, "levels": self.levels.state()}

    def restore(self, tensors: dict[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Goes on from what ``state`` gave."""
        self._forget()
        if tensors:
            self.t, self.loss, self.scalars = [tensors["t"]], [tensors["loss"]], list(plain["scalars"])
        self.levels.restore(plain["levels"])


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


class RunLog:
    """The log file, TensorBoard's event files, the trackers and the progress bar of a run; only the first rank has them.

    Args:
        path: The log file. Lines of steps after ``step`` are removed, since a resumed run writes them again.
        events: Folder of the event files.
        step: Training step that the run begins with.
        images: Images seen so far.
        budget: Images of the whole run.
        device: Device whose memory is shown.
        rollbacks: How often the run went back to a good state.
        trackers: Accelerate's trackers, set up; they are given what TensorBoard is given.
    """

    def __init__(
        self,
        path: Path,
        events: Path,
        *,
        step: int,
        images: int,
        budget: int,
        device: torch.device,
        rollbacks: int = 0,
        trackers: Sequence[Any] = (),
    ):
        self.path = path
        self.device = device
        self.trackers = trackers
        self._events = events
        self._writer: Any = None
        self._whole = True
        self._since = (time.monotonic(), images)
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=budget,
            initial=images,
            unit="img",
            unit_scale=True,
            smoothing=0.1,
            mininterval=0.3 if terminal else 30,
            dynamic_ncols=terminal,
        )
        if path.exists():
            self.back_to(step, images, rollbacks)

    def back_to(self, step: int, images: int, rollbacks: int) -> None:
        """Removes what was written of the steps after this one, which are done again; lines of earlier rollbacks stay."""

        def stays(line: dict[str, Any]) -> bool:
            return line["times"] <= rollbacks if line["event"] == "rollback" else line["step"] <= step

        if self.path.exists():
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in read_log(self.path) if stays(line)))
        if self._writer is not None:
            self._writer.close()
        # TensorBoard leaves out what earlier files hold of later steps.
        self._writer = _writer(self._events, purge_step=images + 1)
        self._since = (time.monotonic(), images)
        self._bar.n = images

    def progress(self, images: int, loss: float) -> None:
        """Moves the bar, which shows images/s and the time that is left, to a number of images seen."""
        self._bar.set_postfix_str(f"loss {loss:.4g}, peak {peak_memory(self.device) / 2**30:.2f} GiB", refresh=False)
        self._bar.update(images - self._bar.n)

    def train(self, *, step: int, images: int, epoch: float, phases: dict[str, dict[str, Any]], half_lives: dict[str, float]) -> None:
        """Writes the figures of the steps since the last such line.

        Args:
            step: Training steps so far.
            images: Images seen.
            epoch: Passes through the data, with a fraction.
            phases: Phase -> its figures, as ``Meter.summary`` gives them.
            half_lives: Average -> its half-life in images.
        """
        now = time.monotonic()
        then, before = self._since
        self._since = (now, images)
        figures = {
            "phases": phases,
            "ema_half_life": half_lives,
            "images_per_second": (images - before) / max(now - then, 1e-9),
            "peak_memory": peak_memory(self.device),
        }
        self.event("train", step=step, images=images, epoch=epoch, **figures)
        self._track(dict(scalars(figures)), images)

    def look(self, event: str, *, step: int, images: int, figures: dict[str, Any]) -> None:
        """Writes what was found when the run was looked at, such as the loss of held-out images."""
        self.event(event, step=step, images=images, **figures)
        self._track({f"{event}/{name}": value for name, value in scalars(figures)}, images)

    def event(self, event: str, **values: Any) -> None:
        """Appends one line; a full disk costs the line and not the run."""
        line = json.dumps({"event": event, **_plain(values)}) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line if self._whole or _ends_a_line(self.path) else "\n" + line)
            self._whole = True
        except OSError as error:
            if self._whole:
                self.say(f"cannot write {self.path}: {error.strerror}; the run goes on")
            self._whole = False

    def _track(self, figures: dict[str, float], images: int) -> None:
        self._writer = self._writer or _writer(self._events)
        with suppress(OSError):  # as for the log, which has said so
            for name, value in figures.items():
                self._writer.add_scalar(name, value, images)
        for tracker in self.trackers:
            tracker.log(figures, step=images)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text)

    def close(self) -> None:
        """Ends the bar, the event files and the trackers."""
        self._bar.close()
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        for tracker in self.trackers:
            tracker.finish()


def _ends_a_line(path: Path) -> bool:
    content = path.read_bytes()
    return not content or content.endswith(b"\n")


def _writer(folder: Path, *, purge_step: int | None = None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step)


def scalars(figures: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of nested figures, each under the path of its names; lists are counted from 0.

    Example:
        >>> dict(scalars({"phases": {"a": {"loss": 1.0, "levels": [2.0, None]}}, "note": "x"}))
        {'phases/a/loss': 1.0, 'phases/a/levels/0': 2.0}
    """
    for name, value in figures.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from scalars(value, f"{path}/")
        elif isinstance(value, list):
            yield from scalars({str(i): each for i, each in enumerate(value)}, f"{path}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield path, float(value)
