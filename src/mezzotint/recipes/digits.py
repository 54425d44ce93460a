"""Recipes of the demo: the handwritten digits, 8x8 gray, in a minute or two on an ordinary computer."""

from mezzotint.configs import (
    ClassifyConfig,
    DataConfig,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EMAConfig,
    EncoderConfig,
    LabelConfig,
    OptimConfig,
    Recipe,
    SampleConfig,
    TrainConfig,
    UNetConfig,
)
from mezzotint.registry import register


@register("recipe", "digits")
def digits() -> Recipe:
    """A class-conditional U-Net of 0.8 M parameters with dropped labels, for images up to 8x8.

    Source: Dhariwal & Nichol 2021 (network); Salimans & Ho 2022 (v); Ho & Salimans 2022 (dropped labels).
    """
    return Recipe(
        name="digits",
        task="generate",
        net=UNetConfig(width=32, mults=(1, 2), blocks=1, attention=(2,), heads=4),
        schedule=DiscreteConfig(betas="cosine", steps=1000),
        denoiser=DenoiserConfig(predicts="v", variance="fixed_large"),
        objective=DenoisingConfig(weighting="simple"),
        label=LabelConfig(drop=0.1),
        data=DataConfig(path="digits"),
        train=TrainConfig(images=50_000, batch=64),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.99), warmup=2_000, decay="linear", clip=1.0),
        ema=EMAConfig(decays=(0.999,)),
        sample=SampleConfig(steps=25),
        cite=("adm", "cfg"),
    )


@register("recipe", "digits-classifier")
def digits_classifier() -> Recipe:
    """The noisy classifier to match.

    Source: Dhariwal & Nichol 2021, section 4.
    """
    return Recipe(
        name="digits-classifier",
        task="classify",
        net=EncoderConfig(width=32, mults=(1, 2), blocks=1, attention=(2,), heads=4, head_channels=None, pool="attention"),
        schedule=DiscreteConfig(betas="cosine", steps=1000),
        objective=ClassifyConfig(),
        data=DataConfig(path="digits"),
        train=TrainConfig(images=20_000, batch=64),
        optim=OptimConfig(lr=1e-3, weight_decay=0.05, decay="linear", clip=None),
        ema=EMAConfig(decays=()),
        cite=("adm",),
    )
