"""What a model knows of Var[x0 | x_t]: made, and kept in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mezzotint.configs import CovarianceConfig, PixelConfig
from mezzotint.data import Source
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.networks.covariance_head import CovarianceHead
from mezzotint.nn.backbone import Backbone
from mezzotint.noise import Noise
from mezzotint.pipelines.generate import Model
from mezzotint.pipelines.variance_file import FILE, NAME
from mezzotint.types import Cond
from mezzotint.weights.adding import add_weights
from mezzotint.weights.io import SPEC_FILE, WeightSet


def encoded(model: Model, source: Source, ids: Sequence[int], *, batch: int, seed: int = 0) -> Iterator[tuple[Tensor, Cond, Noise]]:
    """Images of a data set as the model's network sees them.

    Args:
        model: The model.
        source: The data set.
        ids: Which images.
        batch: Images in a batch.
        seed: Seed of the random streams.

    Yields:
        Images or latents ``[b, c, h, w]`` on the model's device, conditions, and random streams.

    Raises:
        ConfigError: Images of another shape than the model's.
    """
    if (source.facts.channels, source.facts.size) != (model.facts.channels, model.facts.size):
        channels, (height, width) = source.facts.channels, source.facts.size
        raise ConfigError(
            f"the data has images of {height}x{width}x{channels}, the model {model.facts.size[0]}x{model.facts.size[1]}x"
            f"{model.facts.channels}; give the data that it was trained on"
        )
    for start in range(0, len(ids), batch):
        part = list(ids[start : start + batch])
        held = source.batch(part)
        held = replace(held, images=held.images.to(model.device), label=None if held.label is None else held.label.to(model.device))
        noise = Noise(seed, part, stage=NAME)
        cond = model.stage.conditioner(held, t=torch.zeros(len(part), dtype=torch.float64), noise=noise, training=False)
        with torch.no_grad():
            yield model.stage.codec.encode(held.images, noise=noise.sub("codec")), cond, noise


def fit_to(model: Model, config: CovarianceConfig) -> CovarianceConfig:
    """The settings with what the model decides: the bound of latents, and the features that a head stands on.

    Raises:
        CapabilityError: A head for a network without features.
    """
    if model.spec.recipe.codec != PixelConfig():
        config = replace(config, largest=None)
    if config.method not in ("sn", "npr"):
        return config
    network = model.stage.denoiser.network
    if not isinstance(network, Backbone) or not network.taps:
        raise CapabilityError(f"covariance '{config.method}' needs a network that a second head can stand on; use analytic")
    channels, *size = model.stage.codec.shape(model.shape)
    cond = {"label": torch.zeros(1, dtype=torch.int64, device=model.device)} if "label" in network.accepts else {}
    x = torch.zeros(1, channels, *size, device=model.device)
    with torch.no_grad():
        h = network.features(x, torch.ones(1, device=model.device), cond, [network.taps[-1]])[network.taps[-1]]
    factor = size[0] // h.shape[2]
    if (h.shape[2] * factor, h.shape[3] * factor) != tuple(size):
        raise CapabilityError(f"features of {tuple(h.shape[2:])} for x of {tuple(size)}; a second head needs whole multiples: use analytic")
    return replace(config, features=h.shape[1], factor=factor)


def new_head(model: Model, config: CovarianceConfig) -> CovarianceHead:
    """The second head of settings that ``fit_to`` gave, not trained yet."""
    return CovarianceHead(config, model.stage.codec.shape(model.shape)[0]).to(model.device)


def save_variance(model: Model, config: CovarianceConfig, part: nn.Module | None, *, images: int) -> None:
    """Adds what is known of the variance to a model and to its folder; what was known before is replaced.

    Args:
        model: A model that was loaded from a folder.
        config: How it is known.
        part: The table or the head.
        images: Number of images that it was made from.

    Raises:
        CheckpointError: The folder cannot be written.
        ConfigError: The model has no folder.
    """
    if model.path is None or not (model.path / SPEC_FILE).is_file():
        raise ConfigError("only a model folder can take in its variance, and this model is none; convert it first")
    held = None if part is None else WeightSet(part.state_dict(), NAME, images=images)
    spec = replace(model.spec, covariance=config)
    model.spec = add_weights(model.path, spec, held, of=model.weights, instead=FILE)
    model.variance_part = part
