"""Reads folders of reference cases, runs them through adapters, and compares.

A reference folder holds one folder a system, each with ``cases.json``, one ``.npz`` a case and ``state_dicts/``. An adapter is a function
``case -> {output name: array}`` in ``adapters/<system>.py`` that maps names and settings and calls the product. It is entered with
``@adapter(system, kind)`` and must give every output of the case, and no other.
"""

from __future__ import annotations

import importlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mezzotint.noise import ReplayNoise

Outputs = Mapping[str, Any]
Adapter = Callable[["Case"], Outputs]
A = TypeVar("A", bound=Adapter)

OWN = Path(__file__).with_name("own")
_adapters: dict[tuple[str, str], Adapter] = {}


class Unsupported(Exception):
    """The product has no counterpart yet to what the case asks for; the message names it."""


def adapter(system: str, *kinds: str) -> Callable[[A], A]:
    """Enters a function as the adapter of one or more kinds of case."""

    def enter(function: A) -> A:
        for kind in kinds:
            _adapters[system, kind] = function
        return function

    return enter


def load_adapters() -> None:
    """Imports all files of ``adapters/``."""
    for path in sorted(Path(__file__).with_name("adapters").glob("*.py")):
        importlib.import_module(f"tests.parity.adapters.{path.stem}")


class Case:
    """One reference case.

    Attributes:
        system: Whose code made the figures.
        name: Unique within the system.
        kind: Which official function was run.
        config: Its settings, under their official names.
        inputs: The arrays that it was given, as tensors.
        wanted: Names of its outputs.
    """

    def __init__(self, folder: Path, system: str, row: Mapping[str, Any]):
        self.folder, self.system, self.row = folder, system, row
        self.name: str = row["name"]
        self.kind: str = row["kind"]
        self.config: Mapping[str, Any] = row["config"]
        self.wanted = frozenset(row["outputs"])
        self._replayed: list[ReplayNoise] = []

    def __repr__(self) -> str:
        return f"{'own/' if OWN in self.folder.parents else ''}{self.system}/{self.name}"

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / self.row["npz"]) as arrays:
            return {name: arrays[name] for name in arrays.files}

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return {name[3:]: torch.from_numpy(value) for name, value in self._arrays.items() if name.startswith("in_")}

    @property
    def expected(self) -> dict[str, np.ndarray]:
        """The results of the official code; for the comparison alone."""
        return {name[4:]: value for name, value in self._arrays.items() if name.startswith("out_")}

    @cached_property
    def draws(self) -> list[Tensor]:
        """The random draws of the run, in order."""
        if "noise" in self._arrays:
            return list(torch.from_numpy(self._arrays["noise"]))
        return [torch.from_numpy(self._arrays[name]) for name in sorted(self._arrays) if name.startswith("noise_")]

    def replay(self, keep: Iterable[int] | None = None) -> ReplayNoise:
        """The draws as random streams; the case fails unless the run takes every one of them, and all are taken by the case.

        Args:
            keep: Numbers of the draws that have an effect, where the official run made others as well; None: all.
        """
        picked = self.draws if keep is None else [self.draws[i] for i in keep]
        self._replayed.append(ReplayNoise(picked))
        return self._replayed[-1]

    def fill(self, state: Mapping[str, Tensor], tag: str | None = None) -> dict[str, Tensor]:
        """Our state dict under official names, with its weights replaced by those of the reference run.

        Args:
            state: Of the newly built network.
            tag: Which network of the case; None: the only one.

        Raises:
            AssertionError: Names or shapes differ from the official ones, or the filled numbers have not the recorded sums.
        """
        rows = json.loads((self.folder / self.row["weights"]["file"]).read_text(encoding="utf-8"))
        (row,) = [row for row in rows if tag in (None, row["tag"])]
        listed = {key: tuple(shape) for key, shape, _ in row["state_dict"]}
        kept = {key for key, _, what in row["state_dict"] if what == "kept"}
        ours = {key: tuple(value.shape) for key, value in state.items()}
        differ = sorted({key for key, _ in set(listed.items()) ^ set(ours.items())} - (kept - ours.keys()))
        assert not differ, f"{self}: parameters that one side lacks or that differ in shape: {differ}"
        filled = {key: weight(key, shape, row["scale"]) for key, shape in listed.items() if key not in kept}
        flat = np.concatenate([np.zeros(0), *(value.numpy().astype(np.float64).ravel() for value in filled.values())])
        assert flat.size == row["filled_values"], f"{self}: {flat.size} filled values, {row['filled_values']} recorded"
        np.testing.assert_allclose([flat.sum(), (flat**2).sum()], [row["sum"], row["sum_of_squares"]], rtol=1e-9, err_msg=str(self))
        return {key: filled.get(key, value) for key, value in state.items()}


def weight(key: str, shape: Sequence[int], scale: float) -> Tensor:
    """The filled value of one entry of a state dict, float32, from its official name alone."""
    value = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(tuple(shape))
    value = np.asarray(value, dtype=np.float32) * np.float32(scale)
    if key.rpartition(".")[2] == "running_var":
        value = 1 + np.abs(value)
    elif len(shape) == 1 and key.endswith("weight"):
        value = value + np.float32(1)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def discover(folder: Path) -> list[Case]:
    """All cases of a reference folder, or of the folder of one system."""
    found = []
    for path in sorted([*folder.glob("cases.json"), *folder.glob("*/cases.json")]):
        listed = json.loads(path.read_text(encoding="utf-8"))
        found += [Case(path.parent, listed["system"], row) for row in listed["cases"]]
    return found


def run(case: Case) -> dict[str, Any]:
    """What our code gives for a case.

    Raises:
        Unsupported: There is no adapter for the case, or the product lacks what it asks for.
    """
    if (case.system, case.kind) not in _adapters:
        raise Unsupported(f"kind {case.kind} of system {case.system} is not supported yet")
    case._replayed.clear()
    return dict(_adapters[case.system, case.kind](case))


def problems(case: Case) -> list[str]:
    """Runs a case and says where it disagrees; empty: it agrees.

    Raises:
        Unsupported: As for ``run``.
    """
    got = run(case)
    expected = case.expected
    out = [f"output {name} is missing" for name in expected.keys() - got.keys()]
    out += [f"output {name} is not one of the case" for name in got.keys() - expected.keys()]
    for name in sorted(expected.keys() & got.keys()):
        out += compare(case, name, got[name])
    out += [f"{noise.left} of the draws were not taken" for noise in case._replayed if noise.left]
    if case.draws and not case._replayed:
        out.append(f"none of the {len(case.draws)} draws was taken")
    return out


def compare(case: Case, name: str, got: Any) -> list[str]:
    """Says how one output disagrees; empty: it agrees."""
    expected = case.expected[name]
    rtol, atol = case.row["tolerance"]["rtol"], case.row["tolerance"]["atol"][name]
    ours = got.detach().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
    if ours.shape != expected.shape:
        return [f"{name}: shape {ours.shape}, expected {expected.shape}"]
    if expected.dtype.kind in "iub":
        if ours.dtype.kind not in "iub":
            return [f"{name}: type {ours.dtype}, expected whole numbers"]
        wrong = ours.astype(np.int64) != expected.astype(np.int64)
        return [f"{name}: {int(wrong.sum())} of {wrong.size} whole numbers differ"] if wrong.any() else []
    a, b = ours.astype(np.float64), expected.astype(np.float64)
    limit = np.asarray(atol, dtype=np.float64)
    limit = limit.reshape(limit.shape + (1,) * (b.ndim - limit.ndim))
    finite = np.isfinite(b)
    with np.errstate(invalid="ignore"):
        ratio = np.abs(a - b) / (limit + rtol * np.abs(b) + np.finfo(np.float64).tiny)
    excess = np.where(finite, ratio, np.where(np.isfinite(a), np.inf, 0.0))
    excess = np.where(np.isnan(excess), np.inf, excess)
    if excess.size == 0 or excess.max() <= 1:
        return []
    at = np.unravel_index(excess.argmax(), excess.shape)
    worst = f"worst {a[at]:.9g} for {b[at]:.9g} at {[int(i) for i in at]}, {excess[at]:.3g} times the limit"
    return [f"{name}: {int((excess > 1).sum())} of {excess.size} off, {worst}"]
