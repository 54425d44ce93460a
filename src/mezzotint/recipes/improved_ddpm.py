"""Improved DDPM: learned variances, the cosine schedule and the hybrid loss."""

from dataclasses import replace

from mezzotint.configs import (
    DataConfig,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EMAConfig,
    OptimConfig,
    Recipe,
    SampleConfig,
    TimesConfig,
    TrainConfig,
    UNetConfig,
    VLBConfig,
)
from mezzotint.registry import register


@register("recipe", "improved-ddpm")
def improved_ddpm() -> Recipe:
    """Unconditional Improved DDPM for 32x32 images, trained on the hybrid loss.

    Source: Nichol & Dhariwal 2021, appendix A (CIFAR-10).
    """
    return Recipe(
        name="improved-ddpm",
        task="generate",
        net=UNetConfig(width=128, mults=(1, 2, 2, 2), blocks=3, attention=(2, 4), heads=4, dropout=0.3),
        schedule=DiscreteConfig(betas="cosine", steps=4000),
        denoiser=DenoiserConfig(predicts="eps", variance="learned_range", time_input="index_1000"),
        objective=DenoisingConfig(vlb=0.001),
        train=TrainConfig(images=5_000_000, batch=128),
        optim=OptimConfig(lr=1e-4, clip=None),
        ema=EMAConfig(decays=(0.9999,)),
        sample=SampleConfig(grid="250"),
        cite=("improved_ddpm",),
    )


@register("recipe", "improved-ddpm-vlb")
def improved_ddpm_vlb() -> Recipe:
    """The same trained on the variational bound alone, with importance-sampled times: better likelihoods, worse samples.

    Source: Nichol & Dhariwal 2021, section 3.3.
    """
    return replace(improved_ddpm(), name="improved-ddpm-vlb", objective=VLBConfig(), times=TimesConfig(law="importance"))


@register("recipe", "improved-ddpm-cifar10")
def improved_ddpm_cifar10() -> Recipe:
    """Improved DDPM for CIFAR-10 with the published training.

    Source: Nichol & Dhariwal 2021, table 2.
    """
    return replace(
        improved_ddpm(),
        name="improved-ddpm-cifar10",
        data=DataConfig(size=(32, 32)),
        train=TrainConfig(images=128 * 500_000, batch=128),
        sample=SampleConfig(),
        score="FID 3.19 and 3.17 bits/dim, 4000 steps (50,000 images)",
    )


@register("recipe", "improved-ddpm-imagenet-64")
def improved_ddpm_imagenet_64() -> Recipe:
    """Unconditional Improved DDPM for ImageNet 64x64; ``net.width`` 64, 96, 128 and 192 are the sizes of its scaling study.

    Source: Nichol & Dhariwal 2021, table 1 and figure 10.
    """
    return replace(
        improved_ddpm(),
        name="improved-ddpm-imagenet-64",
        net=UNetConfig(width=128, mults=(1, 2, 3, 4), blocks=3, attention=(4, 8), heads=4),
        data=DataConfig(size=(64, 64)),
        train=TrainConfig(images=128 * 1_500_000, batch=128),
        sample=SampleConfig(),
        score="FID 19.2 (10,000 images) and 3.57 bits/dim, 4000 steps",
    )
