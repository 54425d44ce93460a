"""From a recipe to the pieces that it names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from mezzotint.classifier import NoisyClassifier
from mezzotint.codecs import Codec, Pixel
from mezzotint.conditioning import Augmentation, Conditioner, Together, Unconditional
from mezzotint.configs import (
    ClassifyConfig,
    DataFacts,
    DiTConfig,
    EncoderConfig,
    NetworkConfig,
    OneShotConfig,
    PixelConfig,
    Recipe,
    RegressionConfig,
    SongUNetConfig,
    SR3Config,
    UNetConfig,
    UViTConfig,
)
from mezzotint.data.augment import NUMBERS as AUGMENT_NUMBERS
from mezzotint.denoise import NetworkDenoiser
from mezzotint.errors import ConfigError
from mezzotint.objectives.base import Objective
from mezzotint.objectives.classify import Classify
from mezzotint.objectives.encoded import Encoded
from mezzotint.priors import Prior
from mezzotint.registry import get
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.times import build_law

LOW_RES_NETWORKS = (UNetConfig, SR3Config)
"""Networks that take a low-resolution image."""
AUGMENT_NETWORKS = (UNetConfig, SongUNetConfig)
"""Networks that can be told how an image was changed."""


@dataclass(frozen=True)
class Stage:
    """The pieces of one generator.

    Attributes:
        denoiser: The network with its parameterisation.
        conditioner: Makes its conditions.
        prior: Where sampling starts.
        codec: The space that the denoiser works in.
    """

    denoiser: NetworkDenoiser
    conditioner: Conditioner
    prior: Prior
    codec: Codec

    @property
    def schedule(self) -> Schedule:
        """The denoiser's schedule."""
        return self.denoiser.schedule


def resolve(recipe: Recipe, facts: DataFacts) -> Recipe:
    """Fills in what a recipe leaves to the data: channels, size and number of classes.

    Args:
        recipe: As written, with zeros for "that of the data".
        facts: What the data is.

    Raises:
        ConfigError: The recipe and the data contradict each other.
    """
    net, label = recipe.net, recipe.label
    channels, *size = build_codec(recipe).shape((facts.channels, *facts.size))
    what = "images" if recipe.codec == PixelConfig() else "latents"
    if net.in_channels not in (0, channels):
        raise ConfigError(f"net.in_channels {net.in_channels} and {what} of {channels} channels; leave the setting out")
    if isinstance(net, EncoderConfig | DiTConfig | UViTConfig):
        net = replace(net, image_size=(size[0], size[1]) if net.image_size == (0, 0) else net.image_size)
    if recipe.task == "classify":
        if not isinstance(net, EncoderConfig):
            raise ConfigError(f"recipe '{recipe.name}' classifies and needs an encoder network")
        if not facts.classes:
            raise ConfigError(f"recipe '{recipe.name}' needs labels, and the data has none; use class folders or an .npz with arr_1")
        if net.out_channels not in (0, len(facts.classes)):
            raise ConfigError(f"net.out_channels {net.out_channels} and data of {len(facts.classes)} classes; leave the setting out")
        net = replace(net, in_channels=channels, out_channels=len(facts.classes))
        return replace(recipe, net=net, label=None)
    if isinstance(net, EncoderConfig):
        raise ConfigError(f"recipe '{recipe.name}' generates, and an encoder network only classifies; use another network")
    rows = None
    if label is not None:
        if not facts.classes:
            raise ConfigError(
                f"recipe '{recipe.name}' is class-conditional, and the data has no labels; use class folders, or add --label none"
            )
        if label.num_classes not in (0, len(facts.classes)):
            raise ConfigError(f"label.num_classes {label.num_classes} and data of {len(facts.classes)} classes; leave the setting out")
        label = replace(label, num_classes=len(facts.classes))
        rows = get(*label.kind)(label).rows
    learned = recipe.denoiser.variance in ("learned", "learned_range")
    wanted = channels * (2 if learned else 1)
    if net.out_channels not in (0, wanted):
        raise ConfigError(f"net.out_channels {net.out_channels}, and variance '{recipe.denoiser.variance}' needs {wanted}; leave it out")
    if (recipe.prior == OneShotConfig()) != isinstance(recipe.objective, RegressionConfig):
        raise ConfigError("prior one_shot and objective regression belong together; give both --prior one_shot and --objective regression")
    net = replace(net, in_channels=channels, out_channels=wanted, num_classes=rows)
    if recipe.data.augment and isinstance(net, AUGMENT_NETWORKS) and net.augment == 0:
        net = replace(net, augment=AUGMENT_NUMBERS)
    return replace(recipe, net=_with_low_res(net, recipe, facts), label=label)


def _with_low_res(net: NetworkConfig, recipe: Recipe, facts: DataFacts) -> NetworkConfig:
    """The network with what it must know of a low-resolution condition."""
    low = recipe.low_res
    if low is None:
        if isinstance(net, LOW_RES_NETWORKS) and net.low_res_channels:
            raise ConfigError(
                f"net.low_res_channels {net.low_res_channels} without a low-resolution condition; leave it out, or add low_res"
            )
        return net
    if not isinstance(net, LOW_RES_NETWORKS):
        raise ConfigError(f"network '{net.kind[1]}' takes no low-resolution image; use unet or sr3")
    if recipe.codec != PixelConfig():
        raise ConfigError("a low-resolution condition needs pixels, and the recipe works on latents; use --codec pixel")
    if any(side % low.scale for side in facts.size):
        height, width = facts.size
        raise ConfigError(f"images of {height}x{width} have no exact 1/{low.scale}; use --data.size with multiples of {low.scale}")
    return replace(net, low_res_channels=facts.channels, low_res_level=low.augment != "none")


def check_augment(recipe: Recipe) -> None:
    """Checks that a resolved recipe's network can be told of augmentation.

    Raises:
        ConfigError: It cannot, or the probability is none.
    """
    if not 0 < recipe.data.augment <= 1:
        raise ConfigError(f"data.augment {recipe.data.augment:g} is no probability; give one up to 1, such as 0.12")
    if recipe.task == "classify":
        raise ConfigError("a classifier is not told of augmentation; leave out --data.augment")
    if not isinstance(recipe.net, AUGMENT_NETWORKS) or recipe.net.augment != AUGMENT_NUMBERS:
        raise ConfigError(
            f"network '{recipe.net.kind[1]}' is not told of augmentation and would show it in samples; leave out --data.augment, or use "
            "--net unet or song_unet, trained with it from the start"
        )


def build_network(recipe: Recipe) -> nn.Module:
    """The network of a resolved recipe, with fresh weights."""
    return get(*recipe.net.kind)(recipe.net)


def build_stage(recipe: Recipe, network: nn.Module | None = None) -> Stage:
    """The generator of a resolved recipe.

    Args:
        recipe: The recipe.
        network: Its network; None: one with fresh weights.
    """
    schedule = build_schedule(recipe.schedule)
    denoiser = NetworkDenoiser(build_network(recipe) if network is None else network, schedule, recipe.denoiser)
    return Stage(denoiser, build_conditioner(recipe), get(*recipe.prior.kind).of(denoiser), build_codec(recipe))


def build_conditioner(recipe: Recipe) -> Conditioner:
    """What makes a recipe's conditions."""
    parts = [get(*config.kind)(config) for config in (recipe.label, recipe.low_res) if config is not None]
    if not parts:
        return Unconditional()
    return parts[0] if len(parts) == 1 else Together(parts)


def build_codec(recipe: Recipe) -> Codec:
    """The space that a recipe's network works in."""
    return get(*recipe.codec.kind)(recipe.codec)


def build_classifier(recipe: Recipe, network: nn.Module | None = None) -> NoisyClassifier:
    """The classifier of a resolved recipe.

    Args:
        recipe: The recipe.
        network: Its network; None: one with fresh weights.
    """
    return NoisyClassifier(
        build_network(recipe) if network is None else network, build_schedule(recipe.schedule), recipe.denoiser.time_input
    )


def build_objective(recipe: Recipe, piece: Stage | NoisyClassifier) -> Objective:
    """What training minimises, around the pieces that it trains.

    Args:
        recipe: A resolved recipe.
        piece: What ``build_stage`` or ``build_classifier`` gave.
    """
    config = recipe.objective
    times = recipe.times
    if isinstance(piece, NoisyClassifier):
        if not isinstance(config, ClassifyConfig) or not isinstance(recipe.net, EncoderConfig):
            raise ConfigError(f"recipe '{recipe.name}' trains a classifier with the objective '{config.kind[1]}'; use classify")
        law = build_law(times.law, piece.schedule, mean=times.mean, std=times.std)
        return Classify(piece, law, config, num_classes=recipe.net.out_channels)
    if isinstance(config, ClassifyConfig):
        raise ConfigError(f"recipe '{recipe.name}' trains a generator with the objective 'classify'; use denoising or vlb")
    law = build_law(times.law, piece.schedule, mean=times.mean, std=times.std, official=times.official)
    conditioner = piece.conditioner
    if recipe.data.augment:
        check_augment(recipe)
        conditioner = Together([conditioner, Augmentation()])
    objective = get(*config.kind)(piece.denoiser, conditioner, law, config)
    return objective if isinstance(piece.codec, Pixel) else Encoded(objective, piece.codec)
