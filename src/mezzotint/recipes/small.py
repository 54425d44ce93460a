"""Recipes that finish on a laptop: for first runs, small images and tests of an idea."""

from mezzotint.configs import (
    ClassifyConfig,
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


@register("recipe", "small")
def small() -> Recipe:
    """A class-conditional U-Net of about 3 M parameters with dropped labels, for images up to 32x32.

    Source: Dhariwal & Nichol 2021 (network); Ho & Salimans 2022 (dropped labels).
    """
    return Recipe(
        name="small",
        task="generate",
        net=UNetConfig(width=64, mults=(1, 2, 2), blocks=1, attention=(4,), head_channels=32),
        schedule=DiscreteConfig(betas="cosine", steps=1000),
        denoiser=DenoiserConfig(predicts="eps", variance="learned_range"),
        objective=DenoisingConfig(vlb=0.001),
        label=LabelConfig(drop=0.1),
        train=TrainConfig(images=1_000_000, batch=64),
        optim=OptimConfig(lr=3e-4, warmup=20_000, clip=1.0),
        ema=EMAConfig(decays=(0.999,)),
        sample=SampleConfig(grid="100"),
        cite=("adm", "cfg"),
    )


@register("recipe", "small-classifier")
def small_classifier() -> Recipe:
    """A noisy classifier to match, of about 1 M parameters.

    Source: Dhariwal & Nichol 2021, section 4.
    """
    return Recipe(
        name="small-classifier",
        task="classify",
        net=EncoderConfig(width=32, mults=(1, 2, 2), blocks=1, attention=(4,), head_channels=32),
        schedule=DiscreteConfig(betas="cosine", steps=1000),
        objective=ClassifyConfig(),
        train=TrainConfig(images=500_000, batch=64),
        optim=OptimConfig(lr=3e-4, weight_decay=0.05, decay="linear", clip=1.0),
        ema=EMAConfig(decays=()),
        cite=("adm",),
    )
