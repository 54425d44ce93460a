"""Improved DDPM: learned variances, the cosine schedule and the hybrid loss."""

from dataclasses import replace

from mezzotint.configs import (
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
