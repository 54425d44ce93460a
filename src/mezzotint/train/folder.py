"""The folder of a run: what was asked for, checkpoints, the log, sample grids, and in the end the model.

RUN/run.json                    the settings, so that a resumed run is the same run
RUN/status.json                 whether it runs, and how it ended
RUN/checkpoints/<images>/       a model folder, with state.safetensors and state.json beside the weights
RUN/latest                      path of the newest checkpoint
RUN/snapshots/<images>/         a model folder with the power-function averages
RUN/log.jsonl, RUN/tensorboard/, RUN/samples/<images>.png, RUN/model/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from mezzotint.configs import Spec
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.train.history import CHECKPOINTS, LOG, MODEL, RUN, SAMPLES, STATUS, whoami
from mezzotint.train.order import stream_key
from mezzotint.weights.io import (
    LATEST_FILE,
    WeightSet,
    file_hash,
    fill_model,
    read_json,
    read_tensors,
    replacing,
    write_tensors,
    write_text,
)

_SNAPSHOTS, _EVENTS = "snapshots", "tensorboard"
_TENSORS, _STATE = "state.safetensors", "state.json"
FREE = {
    "cite", "data.max_unreadable", "data.path", "data.workers", "ema.snapshot_every", "net.checkpointing", "train.fd_every",
    "train.fd_features", "train.fd_num", "train.fd_steps", "train.keep", "train.keep_every", "train.log_every", "train.micro_batch",
    "train.on_nan", "train.sample_every", "train.sample_num", "train.save_every", "train.sharding", "train.timeout", "train.trackers",
}  # fmt: skip
"""Settings that a resumed run may change: no weight depends on them, or, as on the micro-batch, only by rounding and dropout."""
BUDGET = "train.images"
"""The setting that a resumed run may raise."""


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, held in value.items() for k, v in _flat(held, f"{name}.{key}" if name else key).items()}
    return {name: list(value) if isinstance(value, tuple) else value}


class RunFolder:
    """The files of one run.

    Args:
        path: The folder.
        keep: Newest checkpoints that are kept; 0: all.
        keep_every: Also keep the first checkpoint after each multiple of so many images; 0: none.
    """

    def __init__(self, path: Path | str, *, keep: int = 0, keep_every: int = 0):
        self.path = Path(path)
        self.keep = keep
        self.keep_every = keep_every

    @property
    def model(self) -> Path:
        """Folder of the finished model."""
        return self.path / MODEL

    @property
    def log(self) -> Path:
        """The log file."""
        return self.path / LOG

    @property
    def events(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / _EVENTS

    def sample(self, images: int) -> Path:
        """File of the sample grid after so many images."""
        return self.path / SAMPLES / f"{images:09d}.png"

    def snapshot(self, images: int) -> Path:
        """Folder of the power-function averages after so many images."""
        return self.path / _SNAPSHOTS / f"{images:09d}"

    def snapshots(self) -> list[Path]:
        """Folders of the power-function averages, oldest first."""
        return _numbered(self.path / _SNAPSHOTS)

    def status(self, state: str, **more: Any) -> None:
        """Records what the run is doing, for `mezzotint runs`; a file system that refuses is no reason to end it.

        Args:
            state: "running", "stopped", "failed" or "finished".
            more: What else is to be known, such as the reason.
        """
        with suppress(CheckpointError):
            write_text(self.path / STATUS, json.dumps({"state": state, **whoami(), **more}) + "\n")

    def start(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder and records the settings.

        Raises:
            ConfigError: The folder holds a run already, or cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            taken = next((n for n in (RUN, CHECKPOINTS, MODEL, SAMPLES, LOG) if (self.path / n).exists()), None)
            if taken:
                raise ConfigError(f"{self.path} already holds a run ({taken}); add --resume to go on with it, or give another --out")
            (self.path / SAMPLES).mkdir()
            write_text(self.path / RUN, json.dumps(settings, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {self.path}: {error.strerror}; give an --out that can be written") from error
        except CheckpointError as error:
            raise ConfigError(f"{error}; give an --out that can be written") from error

    def resume(self, settings: Mapping[str, Any]) -> Path | None:
        """Finds what a run goes on from, and clears away what a killed process left unfinished.

        A damaged checkpoint is set aside under another name, and the one before it is taken. The budget may be larger than before.

        Returns:
            The newest checkpoint that is whole, or None if the run was stopped before its first one.

        Raises:
            ConfigError: There is no run, or its settings differ.
            CheckpointError: All its checkpoints are damaged.
        """
        if not (self.path / RUN).is_file():
            raise ConfigError(f"there is no run in {self.path} to go on with; leave out --resume to begin one")
        self._compare(settings)
        for folder in (self.path, self.path / CHECKPOINTS, self.path / _SNAPSHOTS):
            for rest in [*folder.glob(".*.new-*"), *folder.glob(".*.old-*")]:
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        problem = None
        for checkpoint in self._checkpoints():
            try:
                verify(checkpoint)
            except CheckpointError as error:
                problem = problem or error
                aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
                shutil.rmtree(aside, ignore_errors=True)
                checkpoint.rename(aside)
                print(f"{error}; set aside as {aside.name}", flush=True)
                continue
            self._prune()  # which a killed process may have left to do
            return checkpoint
        if problem:
            raise CheckpointError(f"no checkpoint of {self.path} is whole; begin again with another --out (first problem: {problem})")
        return None

    def _compare(self, settings: Mapping[str, Any]) -> None:
        before, now = _flat(read_json(self.path / RUN)), _flat(json.loads(json.dumps(settings)))
        tables = {name.rpartition(".")[0] for name in before}
        for name in [*now, *before]:
            if name in FREE or before.get(name) == now.get(name):
                continue
            if name not in before and name.rpartition(".")[0] in tables:
                continue  # a setting that did not exist when the run began
            if name == BUDGET and now[name] > before[name]:
                print(f"budget: {now[name]} images, {before[name]} before; the learning rate follows the new one", flush=True)
                continue
            more = "at least as many, to go on" if name == BUDGET else "the same value"
            raise ConfigError(
                f"cannot resume {self.path} with {name} = {now.get(name)!r}: it began with {before.get(name)!r}; "
                f"give {more}, or another --out for a new run"
            )
        if before.get(BUDGET) != now.get(BUDGET):
            write_text(self.path / RUN, json.dumps(settings, indent=2) + "\n")

    def reopen(self, images: int) -> None:
        """Gives the finished model of a run that goes on another name, so that the run is not taken for finished.

        Args:
            images: Images seen so far.
        """
        if self.model.is_dir():
            aside = self.path / f"{MODEL}-{images:09d}"
            shutil.rmtree(aside, ignore_errors=True)
            self.model.rename(aside)
            print(f"the model of this budget stays as {aside.name}", flush=True)

    def _checkpoints(self) -> list[Path]:
        """Newest first."""
        return _numbered(self.path / CHECKPOINTS)[::-1]

    def good(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The whole checkpoints with their plain state, newest first."""
        for checkpoint in self._checkpoints():
            with suppress(CheckpointError):
                yield checkpoint, verify(checkpoint)

    def forget(self, images: int) -> None:
        """Removes checkpoints, snapshots and grids of more than so many images: of steps that are done again."""
        for path in [*_numbered(self.path / CHECKPOINTS), *self.snapshots()]:
            if int(path.name) > images:
                _remove(path)
        for path in (self.path / SAMPLES).glob("*.png"):
            if path.stem.isdigit() and int(path.stem) > images:
                path.unlink()

    def newest(self) -> Path | None:
        """The newest checkpoint, or None."""
        return next(iter(self._checkpoints()), None)

    def save(self, images: int, spec: Spec, sets: list[WeightSet], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Writes a checkpoint, atomically, and removes those that are not kept.

        Args:
            images: Images seen.
            spec: What the model is.
            sets: The weight files.
            tensors: Tensors of the training state.
            state: The rest of the training state, as plain JSON.

        Raises:
            CheckpointError: The file system refuses; the checkpoints before are unchanged.
        """
        place = self.path / CHECKPOINTS / f"{images:09d}"
        with replacing(place) as folder:
            fill_model(folder, spec, sets)
            write_tensors(folder / _TENSORS, tensors, metadata={"mezzotint": "training state", "images": str(images)})
            files = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
            value = {"state": state, "files": files}
            write_text(folder / _STATE, json.dumps(value | {"check": _check(value)}))
        write_text(self.path / LATEST_FILE, f"{CHECKPOINTS}/{place.name}\n")
        self._prune()
        return place

    def _prune(self) -> None:
        """Removes the checkpoints that are neither among the newest nor the first after a multiple of ``keep_every``."""
        found = _numbered(self.path / CHECKPOINTS)
        kept, passed = set(found[-self.keep :] if self.keep else found), 0
        for checkpoint in found:
            if self.keep_every and int(checkpoint.name) // self.keep_every > passed:
                passed = int(checkpoint.name) // self.keep_every
                kept.add(checkpoint)
        for checkpoint in found:
            if checkpoint not in kept:
                _remove(checkpoint)


def _numbered(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))


def _remove(folder: Path) -> None:
    """Removes a folder; renamed first, so that a killed process leaves no half of it under its name."""
    shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.old-removed")), ignore_errors=True)


def _check(value: Any) -> int:
    return stream_key(json.dumps(value, sort_keys=True))


def verify(checkpoint: Path) -> dict[str, Any]:
    """Reads the plain state of a checkpoint after comparing every file with its hash.

    Raises:
        CheckpointError: A file is missing, cut short or changed.
    """
    held = read_json(checkpoint / _STATE)
    check = held.pop("check", None)
    if check != _check(held):
        raise CheckpointError(f"{checkpoint / _STATE} is damaged")
    for name, digest in held["files"].items():
        path = checkpoint / name
        if not path.is_file() or file_hash(path) != digest:
            raise CheckpointError(f"{path} is missing, cut short or damaged")
    return held["state"]


def read_state(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The training state of a checkpoint: tensors and plain values.

    Raises:
        CheckpointError: The checkpoint is damaged.
    """
    return read_tensors(checkpoint / _TENSORS), verify(checkpoint)
