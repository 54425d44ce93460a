"""SR3: super-resolution by repeated refinement, and the regression that it is compared with."""

from dataclasses import replace

from mezzotint.configs import (
    DataConfig,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EMAConfig,
    LowResConfig,
    OneShotConfig,
    OptimConfig,
    Recipe,
    RegressionConfig,
    SampleConfig,
    SR3Config,
    TimesConfig,
    TrainConfig,
)
from mezzotint.registry import register


@register("recipe", "sr3-64-256")
def sr3_64_256() -> Recipe:
    """SR3 from 64x64 to 256x256, about 600 M parameters; it needs high-resolution images alone.

    Source: Saharia et al. 2021 (SR3), table A.1 (ImageNet 64 to 256) and section 4.
    """
    return Recipe(
        name="sr3-64-256",
        task="generate",
        net=SR3Config(width=128, mults=(1, 2, 4, 4, 8, 8), blocks=3, attention=(16,), rescale=True, resample="block"),
        schedule=DiscreteConfig(betas="linear", steps=2000, first=1e-6, last=1e-2),
        denoiser=DenoiserConfig(predicts="eps", variance="fixed_large", time_input="alpha_bar"),
        objective=DenoisingConfig(loss="l1"),
        times=TimesConfig(law="noise_level"),
        low_res=LowResConfig(scale=4),
        data=DataConfig(size=(256, 256), labels=False),
        train=TrainConfig(images=256_000_000, batch=256, precision="bf16"),
        optim=OptimConfig(lr=1e-4, warmup=2_560_000),
        ema=EMAConfig(decays=(0.9999,)),
        sample=SampleConfig(steps=100),
        cite=("sr3",),
    )


@register("recipe", "sr3-16-64")
def sr3_16_64() -> Recipe:
    """SR3 from 16x16 to 64x64 with a network of about 90 M parameters: what one GPU trains in a day.

    Source: Saharia et al. 2021 (SR3), section 2 and table A.1 (16 to 128, without its finest level).
    """
    return replace(
        sr3_64_256(),
        name="sr3-16-64",
        net=SR3Config(width=64, mults=(1, 2, 4, 8), blocks=3, attention=(4,), dropout=0.2),
        data=DataConfig(size=(64, 64), labels=False, flip=True),
        train=TrainConfig(images=25_600_000, batch=256, precision="bf16"),
        optim=OptimConfig(lr=1e-4, warmup=256_000),
    )


@register("recipe", "sr3-small")
def sr3_small() -> Recipe:
    """SR3 for small images on a CPU, about 1 M parameters; set low_res.scale, and data.size for images larger than 64x64.

    Source: Saharia et al. 2021 (SR3), section 2.
    """
    return replace(
        sr3_64_256(),
        name="sr3-small",
        net=SR3Config(width=32, mults=(1, 2, 2), blocks=1, attention=(4,), groups=8),
        data=DataConfig(labels=False),
        train=TrainConfig(images=500_000, batch=64),
        optim=OptimConfig(lr=1e-3, warmup=6_400, decay="linear"),
        ema=EMAConfig(decays=(0.999,)),
        sample=SampleConfig(steps=50),
    )


def _regression(recipe: Recipe, lr: float) -> Recipe:
    """The same network, trained to give the image at once."""
    return replace(
        recipe,
        name=recipe.name.replace("sr3-", "sr3-regression-"),
        prior=OneShotConfig(),
        objective=RegressionConfig(loss="l2"),
        times=TimesConfig(),
        optim=replace(recipe.optim, lr=lr),
        sample=SampleConfig(),
    )


@register("recipe", "sr3-regression-64-256")
def sr3_regression_64_256() -> Recipe:
    """The regression baseline of sr3-64-256: the same network without noise, trained on the squared error.

    Source: Saharia et al. 2021 (SR3), section 4.
    """
    return _regression(sr3_64_256(), 1e-5)


@register("recipe", "sr3-regression-16-64")
def sr3_regression_16_64() -> Recipe:
    """The regression baseline of sr3-16-64.

    Source: Saharia et al. 2021 (SR3), section 4.
    """
    return _regression(sr3_16_64(), 1e-5)


@register("recipe", "sr3-regression-small")
def sr3_regression_small() -> Recipe:
    """The regression baseline of sr3-small, with its learning rate.

    Source: Saharia et al. 2021 (SR3), section 4.
    """
    return _regression(sr3_small(), 1e-3)
