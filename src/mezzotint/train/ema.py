"""Moving averages of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mezzotint.configs import EMAConfig
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.train.sharding import like, local
from mezzotint.types import Phase

MAX_STD = 0.28
"""Widest power-function profile; a plain mean of the whole run has a relative standard deviation of 0.289."""


def decay_at(decay: float, step: int, *, warmup: bool) -> float:
    """The decay of one update.

    Args:
        decay: The decay that is reached in the end, in [0, 1).
        step: Number of updates before this one.
        warmup: Whether to use min(decay, (1 + step) / (10 + step)).
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


def gamma_of(std: float) -> float:
    """The exponent of the power-function profile of a relative standard deviation.

    Args:
        std: Standard deviation of the profile as a share of the time averaged over, in (0, 0.28].

    Raises:
        ConfigError: Outside of that.

    Example:
        >>> round(gamma_of(0.05), 2), round(gamma_of(0.1), 2)
        (16.97, 6.94)

    Source: Karras et al. 2024 (EDM2), section 3.1 and appendix C: std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
    """
    if not 0 < std <= MAX_STD:
        raise ConfigError(f"the relative standard deviation of an average is {std:.10g}; it must be above 0 and at most {MAX_STD}")
    return float(np.roots([1, 7, 16 - std**-2, 12 - std**-2]).real.max())


@dataclass(frozen=True)
class Profile:
    """How much of the past an average holds.

    Attributes:
        kind: "constant" decay; "warmup", a decay that rises to its value; or "power", whose width grows with the run.
        length: The decay an update, or for "power" the relative standard deviation.
    """

    kind: Literal["constant", "warmup", "power"]
    length: float

    @cached_property
    def gamma(self) -> float:
        """Exponent of a power-function profile."""
        return gamma_of(self.length)

    def decay(self, step: int) -> float:
        """The decay of an update.

        Args:
            step: Number of updates before it. The first update of a power-function profile has the decay 0.

        Source: Karras et al. 2024 (EDM2), section 3.1: (1 - 1/t)^(gamma + 1) at the t-th update.
        """
        if self.kind == "power":
            return (step / (step + 1)) ** (self.gamma + 1)
        return decay_at(self.length, step, warmup=self.kind == "warmup")

    def half_life(self, updates: int) -> float:
        """Updates in which the weight of the past falls to a half, seen from the end of so many updates."""
        if self.kind == "power":
            return updates * (1 - 0.5 ** (1 / (self.gamma + 1)))
        decay = self.decay(max(updates - 1, 0))
        return math.log(0.5) / math.log(decay) if decay > 0 else 0.0


def profiles(config: EMAConfig) -> tuple[Profile, ...]:
    """The averages of some settings, in order.

    Raises:
        ConfigError: A decay or a standard deviation out of range, or one number twice.
    """
    for decay in config.decays:
        if not 0 <= decay < 1:
            raise ConfigError(f"--ema.decays has {decay:.10g}; a decay must be at least 0 and below 1")
    found = [Profile("warmup" if config.warmup else "constant", decay) for decay in config.decays]
    found += [Profile("power", std) for std in config.stds if gamma_of(std)]
    lengths = [profile.length for profile in found]
    if len(set(lengths)) < len(lengths):
        raise ConfigError(f"--ema.decays and --ema.stds have {max(lengths, key=lengths.count):.10g} twice; give different numbers")
    return tuple(found)


class EMA:
    """Averages of the parameters that the phases train, one for each profile: e = d e + (1 - d) p after each optimiser step.

    Parameters that no averaged phase trains, and buffers, are as in training. A parameter with several names is averaged once.

    Args:
        models: The networks that are saved: name -> module.
        phases: The phases; those with ``ema`` off are left out.
        config: The decays and standard deviations, by which the averages are called.

    Raises:
        ConfigError: Lengths out of range.

    Source: Nichol and Dhariwal 2021, section 4 (decay 0.9999 per step); the warm-up is TensorFlow's ``num_updates`` rule; Karras et al.
    2024 (EDM2), section 3.1 (power functions).
    """

    def __init__(self, models: Mapping[str, nn.Module], phases: Sequence[Phase], config: EMAConfig):
        self.models = models
        self.profiles = {profile.length: profile for profile in profiles(config)}
        saved = {id(p): p for model in models.values() for p in model.parameters()}
        self._trained: dict[str, list[nn.Parameter]] = {}
        for phase in phases:
            if phase.ema:
                own = {id(p): p for module in phase.modules for p in module.parameters() if p.requires_grad and id(p) in saved}
                self._trained[phase.name] = list(own.values())
        self.counts = dict.fromkeys(self._trained, 0)
        averaged = {id(p): p for own in self._trained.values() for p in own}
        self._averages = {length: {key: p.detach().clone() for key, p in averaged.items()} for length in self.profiles}
        self._parameters = averaged

    @torch.no_grad()
    def update(self, phase: str) -> None:
        """Takes in the parameters of a phase that has just made an optimiser step."""
        own = self._trained.get(phase)
        if not own:
            return
        for length, averages in self._averages.items():
            d = self.profiles[length].decay(self.counts[phase])
            held = [averages[id(p)] for p in own]
            torch._foreach_mul_(held, d)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(held, own, alpha=1 - d)  # pyright: ignore
        self.counts[phase] += 1

    def averages_of(self, model: str) -> bool:
        """Whether any parameter of a network is averaged."""
        return any(id(p) in self._parameters for p in self.models[model].parameters())

    def updates_of(self, model: str) -> int:
        """Optimiser steps that the averages of a network are taken over."""
        own = {id(p) for p in self.models[model].parameters()}
        return max((self.counts[phase] for phase, held in self._trained.items() if any(id(p) in own for p in held)), default=0)

    def tensors(self, length: float, model: str = "model") -> dict[str, Tensor]:
        """The state of a network with its averaged parameters; the tensors are not copies."""
        averages = self._averages[length]
        return {name: averages.get(id(value), value) for name, value in self._named(model)}

    def _named(self, model: str) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.models[model].state_dict(keep_vars=True).items():
            if isinstance(value, Tensor):
                yield name, value

    def load(self, length: float, model: str, tensors: Mapping[str, Tensor]) -> None:
        """Sets the averages of a network from what ``tensors`` gave.

        Raises:
            CheckpointError: A name is missing or a shape differs.
        """
        averages = self._averages[length]
        for name, value in self._named(model):
            if name not in tensors or tensors[name].shape != value.shape:
                raise CheckpointError(f"the average of length {length:.10g} has no tensor '{name}' of shape {tuple(value.shape)}")
            if id(value) in averages:
                averages[id(value)].copy_(like(tensors[name], value))

    @contextmanager
    def swapped(self, length: float | None = None) -> Iterator[None]:
        """Gives the networks their averages while the block runs; the weights of training come back bit for bit.

        Args:
            length: Which average; None: the first one.
        """
        lengths = list(self._averages)
        if not lengths:
            yield
            return
        averages = self._averages[lengths[0] if length is None else length]
        buffers = [(b, b.detach().clone()) for model in self.models.values() for b in model.buffers()]
        # Parts of parameters keep their place in memory, which is known to what brings them together.
        parts = {key: local(p).clone() for key, p in self._parameters.items() if isinstance(p, DTensor)}
        trained = {key: p.data for key, p in self._parameters.items() if key not in parts}
        for key, p in self._parameters.items():
            if key in parts:
                local(p).copy_(local(averages[key]))
            else:
                p.data = averages[key]
        try:
            yield
        finally:
            for key, p in self._parameters.items():
                if key in parts:
                    local(p).copy_(parts[key])
                else:
                    p.data = trained[key]
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
