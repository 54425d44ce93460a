"""DDPM: eps with a fixed variance."""

from dataclasses import replace

from mezzotint.configs import (
    DataConfig,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EMAConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
    UNet2DConfig,
    UNetConfig,
)
from mezzotint.registry import register


@register("recipe", "ddpm")
def ddpm() -> Recipe:
    """Unconditional DDPM for 32x32 images, on the U-Net of ADM without its additions.

    Source: Ho et al. 2020, appendix B (CIFAR-10).
    """
    return Recipe(
        name="ddpm",
        task="generate",
        net=UNetConfig(width=128, mults=(1, 2, 2, 2), blocks=2, attention=(2,), heads=1, scale_shift=False, dropout=0.1),
        schedule=DiscreteConfig(betas="linear", steps=1000),
        denoiser=DenoiserConfig(predicts="eps", variance="fixed_large"),
        objective=DenoisingConfig(),
        data=DataConfig(flip=True),
        train=TrainConfig(images=5_000_000, batch=128),
        optim=OptimConfig(lr=2e-4, warmup=640_000, clip=1.0),
        ema=EMAConfig(decays=(0.9999,)),
        cite=("ddpm",),
    )


@register("recipe", "ddpm-cifar10")
def ddpm_cifar10() -> Recipe:
    """DDPM for CIFAR-10 with the published network and training.

    Source: Ho et al. 2020, appendix B.
    """
    return replace(
        ddpm(),
        name="ddpm-cifar10",
        net=UNet2DConfig(dropout=0.1),
        data=DataConfig(size=(32, 32), flip=True),
        train=TrainConfig(images=128 * 800_000, batch=128),
        score="FID 3.17, IS 9.46, 1000 steps (TTUR's evaluator, 50,000 images)",
    )
