"""Moving averages of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mezzotint.configs import EMAConfig
from mezzotint.errors import CheckpointError
from mezzotint.types import Phase


def decay_at(decay: float, step: int, *, warmup: bool) -> float:
    """The decay of one update.

    Args:
        decay: The decay that is reached in the end, in [0, 1).
        step: Number of updates before this one.
        warmup: Whether to use min(decay, (1 + step) / (10 + step)).
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


class EMA:
    """Averages of the parameters that the phases train, one profile for each decay: e = d e + (1 - d) p after each optimiser step.

    Parameters that no averaged phase trains, and buffers, are as in training. A parameter with several names is averaged once.

    Args:
        models: The networks that are saved: name -> module.
        phases: The phases; those with ``ema`` off are left out.
        config: The decays.

    Source: Nichol and Dhariwal 2021, section 4 (decay 0.9999 per step); the warm-up is TensorFlow's ``num_updates`` rule.
    """

    def __init__(self, models: Mapping[str, nn.Module], phases: Sequence[Phase], config: EMAConfig):
        self.models = models
        self.config = config
        saved = {id(p): p for model in models.values() for p in model.parameters()}
        self._trained: dict[str, list[nn.Parameter]] = {}
        for phase in phases:
            if phase.ema:
                own = {id(p): p for module in phase.modules for p in module.parameters() if p.requires_grad and id(p) in saved}
                self._trained[phase.name] = list(own.values())
        self.counts = dict.fromkeys(self._trained, 0)
        averaged = {id(p): p for own in self._trained.values() for p in own}
        self._averages = {decay: {key: p.detach().clone() for key, p in averaged.items()} for decay in config.decays}
        self._parameters = averaged

    @torch.no_grad()
    def update(self, phase: str) -> None:
        """Takes in the parameters of a phase that has just made an optimiser step."""
        own = self._trained.get(phase)
        if not own:
            return
        for decay, averages in self._averages.items():
            d = decay_at(decay, self.counts[phase], warmup=self.config.warmup)
            held = [averages[id(p)] for p in own]
            torch._foreach_mul_(held, d)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(held, own, alpha=1 - d)  # pyright: ignore
        self.counts[phase] += 1

    def averages_of(self, model: str) -> bool:
        """Whether any parameter of a network is averaged."""
        return any(id(p) in self._parameters for p in self.models[model].parameters())

    def tensors(self, decay: float, model: str = "model") -> dict[str, Tensor]:
        """The state of a network with its averaged parameters; the tensors are not copies."""
        averages = self._averages[decay]
        return {name: averages.get(id(value), value) for name, value in self._named(model)}

    def _named(self, model: str) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.models[model].state_dict(keep_vars=True).items():
            if isinstance(value, Tensor):
                yield name, value

    def load(self, decay: float, model: str, tensors: Mapping[str, Tensor]) -> None:
        """Sets the averages of a network from what ``tensors`` gave.

        Raises:
            CheckpointError: A name is missing or a shape differs.
        """
        averages = self._averages[decay]
        for name, value in self._named(model):
            if name not in tensors or tensors[name].shape != value.shape:
                raise CheckpointError(f"the average of decay {decay:.10g} has no tensor '{name}' of shape {tuple(value.shape)}")
            if id(value) in averages:
                averages[id(value)].copy_(tensors[name])

    @contextmanager
    def swapped(self, decay: float | None = None) -> Iterator[None]:
        """Gives the networks their averages while the block runs; the weights of training come back bit for bit.

        Args:
            decay: Which profile; None: the first one.
        """
        decays = list(self._averages)
        if not decays:
            yield
            return
        averages = self._averages[decays[0] if decay is None else decay]
        buffers = [(b, b.detach().clone()) for model in self.models.values() for b in model.buffers()]
        trained = {key: p.data for key, p in self._parameters.items()}
        for key, p in self._parameters.items():
            p.data = averages[key]
        try:
            yield
        finally:
            for key, p in self._parameters.items():
                p.data = trained[key]
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
