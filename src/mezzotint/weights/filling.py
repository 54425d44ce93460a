"""Fills a network that was built without memory, one tensor at a time, so that the weights are in memory once."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.weights.io import check_fit

_DONT_NEED = getattr(mmap, "MADV_DONTNEED", None)


def fill(
    module: nn.Module,
    tensors: dict[str, Tensor],
    *,
    where: Path | str,
    files: Iterable[Path | str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> None:
    """Gives a module its tensors, as copies, and takes them out of the dictionary as it goes.

    Args:
        module: The module, perhaps on the meta device; keys and shapes must be those of ``tensors``.
        tensors: Name -> tensor. Empty afterwards.
        where: Where they come from, for error messages.
        files: Files that the tensors are mapped from; what has been copied leaves memory at once.
        device: Where the module shall be.
        dtype: Type of the parameters; None: as they are. Buffers keep their type.

    Raises:
        CheckpointError: Keys or shapes differ; the first and the count are named.
    """
    check_fit(module, tensors, where=where)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    mapped = _mapped(files)
    made: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in list(tensors):
            value = tensors.pop(name)
            wanted = dtype if dtype is not None and name in parameters and value.is_floating_point() else value.dtype
            made[name] = torch.empty(value.shape, dtype=wanted, device=device).copy_(value)
            _forget(value, mapped)
            del value
    module.load_state_dict(made, assign=True)


def _mapped(files: Iterable[Path | str]) -> list[tuple[int, int]]:
    """The addresses at which files are mapped, where the system tells."""
    names = {str(Path(file).resolve()) for file in files}
    table = Path("/proc/self/maps")
    if not names or _DONT_NEED is None or not table.exists():
        return []
    ranges = []
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] in names:
            start, end = (int(address, 16) for address in parts[0].split("-"))
            ranges.append((start, end))
    return ranges


def _forget(value: Tensor, mapped: list[tuple[int, int]]) -> None:
    """Lets the pages of a mapped file go; they are read again should they be needed. Other memory would lose its contents."""
    if _DONT_NEED is None or value.device.type != "cpu" or not value.numel():
        return
    start = value.data_ptr()
    end = start + value.numel() * value.element_size()
    if not any(low <= start and end <= high for low, high in mapped):
        return
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONT_NEED)
