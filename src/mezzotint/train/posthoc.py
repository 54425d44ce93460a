"""Averages of any length, made after the run from snapshots of power-function averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mezzotint.configs import Spec
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.train.ema import Profile, gamma_of
from mezzotint.train.folder import RunFolder
from mezzotint.weights.io import WeightSet, read_spec, read_weights

FIT_WARNING = 0.05
"""Error of the profile from which on the snapshots are too few for the length."""


@dataclass(frozen=True)
class Snapshot:
    """One stored power-function average.

    Attributes:
        folder: Where it lies.
        spec: The spec of that folder.
        std: Relative standard deviation of its profile.
        updates: Optimiser steps that it averages over.
        images: Images seen.
    """

    folder: Path
    spec: Spec
    std: float
    updates: int
    images: int


def snapshots(run: RunFolder, model: str = "model") -> list[Snapshot]:
    """The snapshots of a network in a run, oldest first.

    Raises:
        CheckpointError: There are none, or a spec is damaged.
    """
    found = []
    for folder in run.snapshots():
        spec = read_spec(folder)
        for info in spec.weights.values():
            if info.get("profile") == "power" and info["model"] == model:
                found.append(Snapshot(folder, spec, info["ema"], info["updates"], info["images"]))
    if not found:
        raise CheckpointError(
            f"{run.path} has no snapshots of power-function averages; train with two of them, as in --ema.stds 0.05 0.1, to choose later"
        )
    return found


def _inner(gamma_a: np.ndarray, t_a: np.ndarray, gamma_b: np.ndarray, t_b: np.ndarray) -> np.ndarray:
    """Integral of the product of two profiles, in powers of ratios that cannot overflow."""
    first = np.minimum(t_a, t_b)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * (first / t_a) ** gamma_a * (first / t_b) ** gamma_b * first / (t_a * t_b)


def coefficients(stored: Sequence[tuple[float, int]], std: float, updates: int) -> tuple[np.ndarray, float]:
    """The linear combination of stored averages that is nearest to one of another length.

    Profiles are compared by the integral of their squared difference; the coefficients sum to 1, so that what never changed stays.

    Args:
        stored: (relative standard deviation, updates) of each stored average.
        std: Relative standard deviation that is wanted.
        updates: Optimiser steps that it should average over.

    Returns:
        A coefficient for each stored average, and the relative error of the profile.

    Raises:
        ConfigError: The standard deviation is out of range.

    Example:
        >>> found, error = coefficients([(0.05, 50), (0.1, 50), (0.05, 100), (0.1, 100)], 0.1, 100)
        >>> (found.round(6) + 0.0).tolist(), round(error, 6)
        ([0.0, 0.0, 0.0, 1.0], 0.0)

    Source: Karras et al. 2024 (EDM2), section 3.2 and appendix C, with the sum held at 1.
    """
    gammas = np.array([gamma_of(s) for s, _ in stored])
    times = np.array([float(t) for _, t in stored]) / updates  # the unit does not matter; this one keeps the system in scale
    gamma, end = np.array(gamma_of(std)), np.array(1.0)
    gram = _inner(gammas[:, None], times[:, None], gammas[None], times[None])
    wanted = _inner(gammas, times, gamma, end)
    n = len(stored)
    system = np.block([[gram, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    found = np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=1e-14)[0][:n]
    norm = float(_inner(gamma, end, gamma, end))
    error = norm - 2 * float(found @ wanted) + float(found @ gram @ found)
    return found, float(np.sqrt(max(error, 0.0) / norm))


def reconstruct(run: Path | str, std: float, *, images: int | None = None, model: str = "model") -> tuple[Spec, WeightSet, float]:
    """Makes the average of a length that was not tracked.

    Beside the sum, those of the newest snapshot and one other are in memory at a time.

    Args:
        run: The folder of a training run that tracked power-function averages.
        std: Relative standard deviation that is wanted.
        images: Images seen at the end of the average, those of a snapshot; None: of the newest.
        model: Name of the network.

    Returns:
        The spec, the weights, and the relative error of the profile.

    Raises:
        ConfigError: No snapshot after so many images, or a standard deviation out of range.
        CheckpointError: There are no snapshots, or one is damaged.

    Source: Karras et al. 2024 (EDM2), section 3.2.
    """
    stored = snapshots(RunFolder(run), model)
    seen = sorted({snapshot.images for snapshot in stored})
    end = seen[-1] if images is None else images
    if end not in seen:
        near = min(seen, key=lambda n: abs(n - end))
        raise ConfigError(f"there is no snapshot after {end} images; the nearest one was taken after {near}")
    stored = [snapshot for snapshot in stored if snapshot.images <= end]
    updates = max(snapshot.updates for snapshot in stored)
    shares, error = coefficients([(s.std, s.updates) for s in stored], std, updates)
    newest, *others = _read([snapshot for snapshot in stored if snapshot.images == end], model)
    # Buffers and frozen parameters are the same whatever the length; they are taken as they are.
    averaged = {name for name, value in newest.items() if any(not value.equal(other[name]) for other in others) or not others}
    averaged = {name for name in averaged if newest[name].is_floating_point()}
    total = {name: torch.zeros_like(newest[name], dtype=torch.float64) for name in averaged}
    for share, tensors in zip(shares.tolist(), _read(stored, model), strict=True):
        for name in averaged:
            total[name].add_(tensors[name].double(), alpha=share)
    weights = {name: total[name].to(value.dtype) if name in averaged else value for name, value in newest.items()}
    half_life = Profile("power", std).half_life(updates) * end / updates
    held = WeightSet(weights, model, std, end, profile="power", updates=updates, half_life=half_life)
    return stored[-1].spec, held, error


def _read(stored: Sequence[Snapshot], model: str) -> Iterator[dict[str, Tensor]]:
    for snapshot in stored:
        yield read_weights(snapshot.folder, snapshot.spec, model=model, ema=snapshot.std)
