"""Reads weight files of other programs: PyTorch's ``.pt`` and safetensors. Nothing in them is executed, and none can grow in memory."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.errors import CheckpointError
from mezzotint.weights.io import read_tensors

AGAIN = "fetch it again, from a source you trust"
_ZIP = b"PK\x03\x04"


def read_foreign(path: str | Path) -> Any:
    """Reads a file of ``torch.save`` or safetensors, to the CPU; large tensors stay on the disk until they are used.

    Args:
        path: The file.

    Returns:
        What was saved: as a rule names and tensors, perhaps in further dictionaries.

    Raises:
        CheckpointError: The file is missing, cut short, would run code, or holds more than its size.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    zipped = start == _ZIP
    if zipped:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # damage shows in any of a dozen errors
        raise CheckpointError(f"{path} {_what_is_wrong(error)}; {AGAIN}") from None
    _check_tensors(path, tree)
    return tree


def _check_archive(path: Path) -> None:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(f"{path} is cut short or damaged: it has {size:,} bytes and no end; {AGAIN}") from None
    held = sum(entry.file_size for entry in entries)
    if held > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} is packed: its {size:,} bytes become {held:,}, which torch.save never writes; {AGAIN}")


def _check_tensors(path: Path, tree: Any, depth: int = 0) -> None:
    """A tensor of strides 0 takes a few bytes of the file and as much memory as it likes."""
    if isinstance(tree, Tensor):
        if tree.numel() * tree.element_size() > tree.untyped_storage().nbytes():
            raise CheckpointError(f"{path} has a tensor of shape {tuple(tree.shape)} that is larger than its data; {AGAIN}")
    elif depth < 8 and isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            _check_tensors(path, value, depth + 1)


def _what_is_wrong(error: Exception) -> str:
    text = " ".join(str(error).split())
    for mark in ("Unsupported global: GLOBAL ", "Unsupported class ", "Trying to call reduce for unrecognized function "):
        if mark in text:
            name = text.split(mark, 1)[1].split(" ")[0].rstrip(".,")
            return f"would run '{name}' when read; nothing was executed"
    return f"is cut short or damaged, or no weight file ({text[:120] or type(error).__name__})"
