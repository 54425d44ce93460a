"""The folder of a run: what was asked for, checkpoints, the log, sample grids, and in the end the model.

RUN/run.json                    the settings, so that a resumed run is the same run
RUN/checkpoints/<images>/       a model folder, with state.safetensors and state.json beside the weights
RUN/latest                      path of the newest checkpoint
RUN/log.jsonl, RUN/samples/<images>.png, RUN/model/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mezzotint.configs import Spec
from mezzotint.errors import CheckpointError, ConfigError
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

_RUN, _CHECKPOINTS, _MODEL, _SAMPLES, _LOG = "run.json", "checkpoints", "model", "samples", "log.jsonl"
_TENSORS, _STATE = "state.safetensors", "state.json"
FREE = {
    "data.path", "data.workers", "train.log_every", "train.keep", "train.save_every", "train.sample_every", "train.sample_num", "cite",
}  # fmt: skip
"""Settings that a resumed run may change, since no weight depends on them."""


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, held in value.items() for k, v in _flat(held, f"{name}.{key}" if name else key).items()}
    return {name: list(value) if isinstance(value, tuple) else value}


class RunFolder:
    """The files of one run.

    Args:
        path: The folder.
        keep: Checkpoints that are kept; 0: all.
    """

    def __init__(self, path: Path | str, *, keep: int = 0):
        self.path = Path(path)
        self.keep = keep

    @property
    def model(self) -> Path:
        """Folder of the finished model."""
        return self.path / _MODEL

    @property
    def log(self) -> Path:
        """The log file."""
        return self.path / _LOG

    def sample(self, images: int) -> Path:
        """File of the sample grid after so many images."""
        return self.path / _SAMPLES / f"{images:09d}.png"

    def start(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder and records the settings.

        Raises:
            ConfigError: The folder holds a run already, or cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            taken = next((n for n in (_RUN, _CHECKPOINTS, _MODEL, _SAMPLES, _LOG) if (self.path / n).exists()), None)
            if taken:
                raise ConfigError(f"{self.path} already holds a run ({taken}); add --resume to go on with it, or give another --out")
            (self.path / _SAMPLES).mkdir()
            write_text(self.path / _RUN, json.dumps(settings, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {self.path}: {error.strerror}; give an --out that can be written") from error
        except CheckpointError as error:
            raise ConfigError(f"{error}; give an --out that can be written") from error

    def resume(self, settings: Mapping[str, Any]) -> Path | None:
        """Finds what a run goes on from, and clears away what a killed process left unfinished.

        A damaged checkpoint is set aside under another name, and the one before it is taken.

        Returns:
            The newest checkpoint that is whole, or None if the run was stopped before its first one.

        Raises:
            ConfigError: There is no run, or its settings differ.
            CheckpointError: All its checkpoints are damaged.
        """
        if not (self.path / _RUN).is_file():
            raise ConfigError(f"there is no run in {self.path} to go on with; leave out --resume to begin one")
        self._compare(settings)
        for folder in (self.path, self.path / _CHECKPOINTS):
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
            return checkpoint
        if problem:
            raise CheckpointError(f"no checkpoint of {self.path} is whole; begin again with another --out (first problem: {problem})")
        return None

    def _compare(self, settings: Mapping[str, Any]) -> None:
        before, now = _flat(read_json(self.path / _RUN)), _flat(json.loads(json.dumps(settings)))
        for name in [*now, *before]:
            if name not in FREE and before.get(name) != now.get(name):
                raise ConfigError(
                    f"cannot resume {self.path} with {name} = {now.get(name)!r}: it began with {before.get(name)!r}; "
                    "give the same value, or another --out for a new run"
                )

    def _checkpoints(self) -> list[Path]:
        """Newest first."""
        found = [p for p in (self.path / _CHECKPOINTS).glob("*") if p.name.isdigit()]
        return sorted(found, key=lambda p: int(p.name), reverse=True)

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
        place = self.path / _CHECKPOINTS / f"{images:09d}"
        with replacing(place) as folder:
            fill_model(folder, spec, sets)
            write_tensors(folder / _TENSORS, tensors, metadata={"mezzotint": "training state", "images": str(images)})
            files = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
            value = {"state": state, "files": files}
            write_text(folder / _STATE, json.dumps(value | {"check": _check(value)}))
        write_text(self.path / LATEST_FILE, f"{_CHECKPOINTS}/{place.name}\n")
        if self.keep:
            for old in self._checkpoints()[self.keep :]:
                # Renamed first, so that a killed process leaves no half of a checkpoint under a checkpoint's name.
                shutil.rmtree(old.rename(old.with_name(f".{old.name}.old-removed")), ignore_errors=True)
        return place


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
