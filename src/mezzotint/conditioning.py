"""Conditioners: what of a batch the denoiser is told."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mezzotint.configs import LabelConfig
from mezzotint.errors import ConfigError, DataError
from mezzotint.noise import Noise
from mezzotint.registry import register
from mezzotint.types import Batch, Cond


class Conditioner(nn.Module):
    """Batch -> Cond.

    Attributes:
        makes: Names of the conditions that it makes.
    """

    makes: frozenset[str] = frozenset()

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        """The conditions of a batch; with ``training``, dropped and augmented as the settings say."""
        raise NotImplementedError


class Unconditional(Conditioner):
    """No conditions."""

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        return {}


@register("conditioner", "label")
class Label(Conditioner):
    """Class labels; in training each is replaced by the null class with probability ``drop``, independently.

    The null class has the number ``num_classes``; the network's table then needs ``rows`` = num_classes + 1 rows.

    Source: Ho & Salimans 2022, algorithm 1.
    """

    makes = frozenset({"label"})

    def __init__(self, config: LabelConfig):
        super().__init__()
        if config.num_classes < 1:
            raise ConfigError("class labels need at least one class; use data with class folders, or an unconditional recipe")
        if not 0 <= config.drop < 1:
            raise ConfigError(f"label.drop {config.drop} is not in [0, 1)")
        self.num_classes, self.drop = config.num_classes, config.drop

    @property
    def rows(self) -> int:
        """Rows that the network's label table needs."""
        return self.num_classes + (self.drop > 0)

    def null(self, cond: Cond) -> Cond:
        """The conditions with each label replaced by the null class.

        Raises:
            ConfigError: The model was trained without a null class.
        """
        if self.drop == 0:
            raise ConfigError("this model was trained without a null class (label.drop 0)")
        return {**cond, "label": torch.full_like(cond["label"], self.num_classes)}

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        label = batch.label
        if label is None:
            raise DataError("the data has no labels, and the recipe needs them; use class folders, or an unconditional recipe")
        if training and self.drop > 0:
            dropped = noise.uniform((len(label),), name="label drop") < self.drop
            label = torch.where(dropped.to(label.device), self.num_classes, label)
        return {"label": label}
