"""Model folders: ``model.safetensors``, one ``ema-<decay>`` or ``ema-std<length>.safetensors`` for each average, and ``spec.json``.

A folder is written whole or not at all, under a temporary name beside its place. Nothing is ever unpickled. This module moves tensors
and specs; it knows no model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mezzotint.configs import SPEC_VERSION, Spec, from_dict, to_dict
from mezzotint.errors import CheckpointError, ConfigError

SPEC_FILE = "spec.json"
LATEST_FILE = "latest"
"""Text file of a run folder that holds the relative path of its newest checkpoint."""


@dataclass(frozen=True)
class WeightSet:
    """The tensors of one weight file.

    Attributes:
        tensors: Name -> tensor, as in a ``state_dict``.
        model: Name of the network among those of its objective; "model" is the main one.
        ema: Length of the moving average: its decay an optimiser step, or the relative standard deviation of a power-function profile;
            None for the weights as trained.
        images: Number of training images seen.
        profile: Kind of the average: "constant", "warmup" (a decay that rises to its value) or "power".
        updates: Optimiser steps that it averages over.
        half_life: Images in which its weight of the past falls to a half, at this point.
    """

    tensors: Mapping[str, Tensor]
    model: str = "model"
    ema: float | None = None
    images: int = 0
    profile: str = "constant"
    updates: int = 0
    half_life: float | None = None

    @property
    def file(self) -> str:
        """Name of the file that holds them."""
        return weight_file(self.model, self.ema, self.profile)

    @property
    def about(self) -> dict[str, Any]:
        """What the spec says of the file, beside its hash."""
        about: dict[str, Any] = {"model": self.model, "ema": self.ema, "images": self.images}
        return about if self.ema is None else {**about, "profile": self.profile, "updates": self.updates, "half_life": self.half_life}


def weight_file(model: str = "model", ema: float | None = None, profile: str = "constant") -> str:
    """Name of a weight file.

    Example:
        >>> weight_file(), weight_file("critic"), weight_file(ema=0.9999), weight_file("critic", 0.99)
        ('model.safetensors', 'model-critic.safetensors', 'ema-0.9999.safetensors', 'ema-0.99-critic.safetensors')
        >>> weight_file(ema=0.1, profile="power")
        'ema-std0.1.safetensors'
    """
    start = "model" if ema is None else f"ema-{'std' if profile == 'power' else ''}{ema:.10g}"
    return f"{start}.safetensors" if model == "model" else f"{start}-{model}.safetensors"


# --- writing -------------------------------------------------------------------------------------------------------------


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses while the block writes into a ``CheckpointError``.

    Args:
        path: What is written, for the message.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(
            f"cannot write {path}: {reason}; what was there before is unchanged: free some space or choose a folder that can be written"
        ) from error


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    if path.is_dir():
        if os.name == "nt":  # folders cannot be opened there
            return
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Fills a folder under a temporary name and puts it in its place when the block ends without an error.

    What stood in its place is there until the new folder is complete on the disk; an error or a killed process leaves it as it was.

    Args:
        folder: The place of the folder.

    Yields:
        The temporary folder, beside the place.

    Raises:
        CheckpointError: The disk is full, the place cannot be written, or another failure of the file system.
    """
    temporary = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            for path in temporary.rglob("*"):
                _flush(path)
            _flush(temporary)
            if folder.exists():
                folder.rename(old)
            try:
                temporary.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
            _flush(folder.parent)
    finally:
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all.

    Raises:
        CheckpointError: The file system refuses.
    """
    temporary = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        with writing(path):
            temporary.write_text(text, encoding="utf-8")
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> str:
    """Writes one safetensors file; a tensor that has several names is stored once.

    Args:
        path: The file.
        tensors: Name -> tensor, on any device.
        metadata: What the file is, for its header.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        CheckpointError: The file system refuses.
    """
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    place: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach()
        where = (flat.data_ptr(), flat.shape, flat.stride(), flat.dtype, flat.device)
        if flat.numel() and where in place:
            tied[name] = place[where]
            continue
        storage = flat.untyped_storage().data_ptr()
        # Tensors that share memory only in part are stored each by itself.
        kept[name] = flat.clone() if flat.numel() and storage in storages else flat
        place[where] = name
        storages.add(storage)
    header = {"format": "pt", **metadata}
    if tied:
        header["tied"] = json.dumps(tied)
    with writing(path):
        save_file({name: tensor.cpu().contiguous() for name, tensor in kept.items()}, path, metadata=header)
        _order_header(path)
        return file_hash(path)


def _order_header(path: Path) -> None:
    """Sorts the metadata of a safetensors file in place, since the library writes them in another order each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # the rest of a header is spaces
            file.seek(8)
            file.write(text.ljust(length))


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fill_model(folder: Path, spec: Spec, sets: list[WeightSet]) -> Spec:
    """Writes weight files and the spec into a folder that exists; ``replacing`` makes that atomic.

    Returns:
        The spec as written, with the list of weight files filled in.

    Raises:
        CheckpointError: The file system refuses.
    """
    weights: dict[str, dict[str, Any]] = {}
    for held in sets:
        header = {
            "mezzotint": "weights",
            "model": held.model,
            "ema": "none" if held.ema is None else f"{held.ema:.10g}",
            **({} if held.ema is None else {"profile": held.profile, "updates": str(held.updates)}),
            "images": str(held.images),
            "recipe": spec.recipe.name,
        }
        digest = write_tensors(folder / held.file, held.tensors, metadata=header)
        weights[held.file] = {**held.about, "sha256": digest}
    spec = replace(spec, weights=weights)
    write_text(folder / SPEC_FILE, json.dumps(to_dict(spec), indent=2) + "\n")
    return spec


def save_model(folder: Path | str, spec: Spec, sets: list[WeightSet]) -> Spec:
    """Writes a model folder, atomically; a folder in its place is replaced.

    Args:
        folder: Where to.
        spec: What the model is. Its ``weights`` are filled in here.
        sets: One entry for each weight file.

    Returns:
        The spec as written.

    Raises:
        CheckpointError: The file system refuses; what was there is unchanged.
    """
    with replacing(Path(folder)) as temporary:
        return fill_model(temporary, spec, sets)


# --- reading -------------------------------------------------------------------------------------------------------------


def find_model(path: Path | str) -> Path:
    """The model folder that a path means: itself, the finished model of a run folder, or the newest checkpoint of a run.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no model at {path}: it does not exist; give a model folder or the folder of a training run")
    candidates = [path, path / "model"]
    pointer = path / LATEST_FILE
    if pointer.is_file():
        candidates.append(path / pointer.read_text(encoding="utf-8", errors="replace").strip().replace("\0", ""))
        # A pointer that is damaged leads nowhere; the checkpoints are named by number.
        candidates += sorted((path / "checkpoints").glob("[0-9]*"), reverse=True)
    for folder in candidates:
        if (folder / SPEC_FILE).is_file():
            return folder
    raise CheckpointError(f"no model at {path}: it holds no {SPEC_FILE}; give a model folder or the folder of a training run")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: The file is missing, damaged, or something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {_reason(error)}; copy it again or use an older checkpoint") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"cannot read {path}: not a table; copy it again or use an older checkpoint")
    return value


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or ["damaged"])[0]


def read_spec(folder: Path | str) -> Spec:
    """Reads the ``spec.json`` of a model folder.

    Raises:
        CheckpointError: It is missing or damaged, or was written by a later version.
    """
    path = Path(folder) / SPEC_FILE
    value = read_json(path)
    version = value.get("version")
    if not isinstance(version, int) or version > SPEC_VERSION:
        raise CheckpointError(f"{path} has version {version}; this mezzotint reads up to {SPEC_VERSION}: install a newer mezzotint")
    try:
        return from_dict(Spec, value)
    except ConfigError as error:
        raise CheckpointError(f"cannot understand {path}: {error}") from error


def choose_weights(spec: Spec, *, model: str = "model", ema: float | bool = True) -> str:
    """The weight file of a folder that fits a wish.

    Args:
        spec: The spec of the folder.
        model: Name of the network.
        ema: True for the first average, or the weights as trained where there is none; False for the weights as trained; a number
            for the average of that decay or relative standard deviation.

    Returns:
        Name of the file.

    Raises:
        CheckpointError: The folder has no such file.
    """
    files = {name: info for name, info in spec.weights.items() if info.get("model", "model") == model}
    averages = [name for name, info in files.items() if info.get("ema") is not None]
    plain = [name for name, info in files.items() if info.get("ema") is None]
    if ema is True:
        found = averages + plain
    elif ema is False:
        found = plain
    else:
        found = [name for name in averages if files[name]["ema"] == ema]
    if not found:
        wish = f"average of decay {ema:.10g}" if isinstance(ema, float) else "weight file"
        raise CheckpointError(f"no {wish} for '{model}'; the folder holds: {', '.join(spec.weights) or 'no weights'}")
    return found[0]


def read_tensors(path: Path | str, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads a safetensors file, to the CPU.

    Args:
        path: The file.
        sha256: What its hash must be; None: not checked.

    Returns:
        Name -> tensor; tied names give the same tensor.

    Raises:
        CheckpointError: The file is missing, cut short or changed.
    """
    path = Path(path)
    again = "copy it again or use an older checkpoint"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {again}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
            tied = json.loads((file.metadata() or {}).get("tied", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is cut short or damaged ({_reason(error)}); {again}") from error
    if sha256 is not None and file_hash(path) != sha256:
        raise CheckpointError(f"{path} is not the file that {SPEC_FILE} describes (its SHA-256 differs); {again}")
    tensors.update({name: tensors[other] for name, other in tied.items()})
    return tensors


def read_weights(folder: Path | str, spec: Spec, *, model: str = "model", ema: float | bool = True) -> dict[str, Tensor]:
    """Reads and verifies a weight file of a model folder; arguments as for ``choose_weights``.

    Raises:
        CheckpointError: There is no such file, or it is damaged.
    """
    name = choose_weights(spec, model=model, ema=ema)
    return read_tensors(Path(folder) / name, sha256=spec.weights[name].get("sha256"))


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], *, where: Path | str) -> None:
    """Checks that tensors have the keys and shapes of a module.

    Args:
        module: The module.
        tensors: Name -> tensor.
        where: The file, for error messages.

    Raises:
        CheckpointError: Keys or shapes differ; the first and the count are named.
    """
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    missing = [name for name in own if name not in tensors]
    extra = [name for name in tensors if name not in own]
    changed = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    for names, what in ((missing, "lacks"), (extra, "has unknown")):
        if names:
            raise CheckpointError(f"{where} does not fit the model: it {what} '{names[0]}' ({len(names)} such tensors of {len(own)})")
    if changed:
        first = changed[0]
        raise CheckpointError(
            f"{where} does not fit the model: '{first}' has shape {tuple(tensors[first].shape)}, "
            f"the model needs {tuple(own[first].shape)} ({len(changed)} such tensors of {len(own)})"
        )


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, where: Path | str) -> None:
    """Copies tensors into a module whose keys and shapes must be the same.

    Args:
        module: The module.
        tensors: Name -> tensor.
        where: The file, for error messages.

    Raises:
        CheckpointError: Keys or shapes differ; the first and the count are named.
    """
    check_fit(module, tensors, where=where)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if isinstance(value, Tensor):
                value.copy_(tensors[name])
