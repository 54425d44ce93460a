"""What a run tells people: a progress bar, and ``log.jsonl`` with one JSON object a line."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mezzotint.weights.io import write_text


def peak_memory(device: torch.device) -> int:
    """Most memory that this process has held, in bytes: of the GPU, or resident memory on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def loss_by_level(t: Tensor, loss: Tensor) -> dict[str, list[float]]:
    """Mean loss in each quarter of the examples, sorted by noise level.

    Args:
        t: Time of each example, ``[n]``.
        loss: Unweighted loss of each example, ``[n]``.

    Returns:
        ``loss_by_level``: four means, cleanest quarter first; ``t_edges``: the five times that bound the quarters. Empty where all
        times are equal or there are fewer than four examples.
    """
    if len(t) < 4 or bool((t == t[0]).all()):
        return {}
    t, by_time = t.sort(stable=True)
    means = [quarter.mean().item() for quarter in loss[by_time].tensor_split(4)]
    edges = [quarter[0].item() for quarter in t.tensor_split(4)] + [t[-1].item()]
    return {"loss_by_level": means, "t_edges": edges}


class Meter:
    """Collects the figures of one phase between two lines of the log."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.t: list[Tensor] = []
        self.loss: list[Tensor] = []
        self.scalars: list[dict[str, float]] = []

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
        return means | loss_by_level(t, loss)

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        """Tensors and scalars that ``restore`` takes."""
        if not self.loss:
            return {}, []
        return {"t": torch.cat(self.t), "loss": torch.cat(self.loss)}, self.scalars

    def restore(self, tensors: dict[str, Tensor], scalars: list[dict[str, float]]) -> None:
        """Goes on from what ``state`` gave."""
        self.clear()
        if tensors:
            self.t, self.loss, self.scalars = [tensors["t"]], [tensors["loss"]], list(scalars)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


class RunLog:
    """The log file and the progress bar of a run; only the first rank has them.

    Args:
        path: The log file. Lines of steps after ``step`` are removed, since a resumed run writes them again.
        step: Training step that the run begins with.
        images: Images seen so far.
        budget: Images of the whole run.
        device: Device whose memory is shown.
    """

    def __init__(self, path: Path, *, step: int, images: int, budget: int, device: torch.device):
        self.path = path
        self.device = device
        self._since = (time.monotonic(), images)
        if path.exists():
            write_text(path, "".join(line + "\n" for line in path.read_text(encoding="utf-8").splitlines() if _is_before(line, step)))
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

    def progress(self, images: int, loss: float) -> None:
        """Moves the bar, which shows images/s and the time that is left, to a number of images seen."""
        self._bar.set_postfix_str(f"loss {loss:.4g}, peak {peak_memory(self.device) / 2**30:.2f} GiB", refresh=False)
        self._bar.update(images - self._bar.n)

    def train(self, *, step: int, images: int, epoch: float, phases: dict[str, dict[str, Any]]) -> None:
        """Writes the figures of the steps since the last such line."""
        now = time.monotonic()
        then, before = self._since
        self._since = (now, images)
        self.event(
            "train",
            step=step,
            images=images,
            epoch=epoch,
            phases=phases,
            images_per_second=(images - before) / max(now - then, 1e-9),
            peak_memory=peak_memory(self.device),
        )

    def event(self, event: str, **values: Any) -> None:
        """Appends one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **_plain(values)}) + "\n")

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def _is_before(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):  # a line that a killed process did not finish
        return False
