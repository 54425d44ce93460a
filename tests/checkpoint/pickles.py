"""Pickles such as EDM's, made without its code, and pickles that mean harm."""

from __future__ import annotations

import collections
import pickle
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_PERSISTENCE = "torch_utils.persistence"


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("a pickle's object was built")


class Persistent:
    """An object that is pickled as EDM's classes are: by a function that would run the source that it is given."""

    def __init__(self, name: str, state: Mapping[str, Any], arguments: Mapping[str, Any] | None = None):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('the source in a pickle was run')",
            "class_name": name,
            "state": {"training": False, **state, "_init_args": (), "_init_kwargs": dict(arguments or {})},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


def _tree(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The modules of a state dict."""
    here: dict[str, Any] = {"_parameters": collections.OrderedDict(), "_buffers": {"gone": None}, "_non_persistent_buffers_set": set()}
    inner: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)
    for name, value in state.items():
        first, dot, rest = name.partition(".")
        if dot:
            inner[first][rest] = value
        elif name in ("u", "freqs", "resample_filter"):
            here["_buffers"][name] = value
        else:
            here["_parameters"][name] = nn.Parameter(value)
    modules: dict[str, Any] = {"empty": None}
    for name, entries in inner.items():
        if name in ("enc", "dec"):  # a container of PyTorch's
            holder = nn.ModuleDict()
            holder.__dict__.update(_modules={}, _parameters={}, _buffers={})
            blocks: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)
            for key, value in entries.items():
                block, _, rest = key.partition(".")
                blocks[block][rest] = value
            holder.__dict__["_modules"] = {block: Persistent("UNetBlock", _tree(rest)) for block, rest in blocks.items()}
            modules[name] = holder
        else:
            modules[name] = Persistent("Linear", _tree(entries))
    return {**here, "_modules": modules}


def write_edm(path: Path, name: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor], *, protocol: int = 4) -> None:
    """Writes a preconditioned network as EDM's training does."""
    module = types.ModuleType(_PERSISTENCE)
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    _reconstruct_persistent_obj.__module__ = _PERSISTENCE
    sys.modules |= {_PERSISTENCE.partition(".")[0]: types.ModuleType("torch_utils"), _PERSISTENCE: module}
    try:
        snapshot = {"ema": Persistent(name, _tree(state), arguments), "loss_fn": Persistent("EDMLoss", {}), "dataset_kwargs": {"path": "x"}}
        with path.open("wb") as file:
            pickle.dump(snapshot, file, protocol=protocol)
    finally:
        del sys.modules[_PERSISTENCE], sys.modules["torch_utils"]


class Harm:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *args: Any):
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def weights() -> dict[str, Tensor]:
    """A small state dict."""
    g = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(40, 30, generator=g), "bias": torch.randn(40, generator=g)}
