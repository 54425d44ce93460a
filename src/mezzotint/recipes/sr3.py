"""SR3: super-resolution by repeated refinement, and the regression that it is compared with.

The paper gives widths, multipliers and numbers of blocks, but neither the resolutions of attention nor how the blocks resample. With
attention at 16x16, resampling residual blocks and an embedding as wide as the finest level, its four networks have 550.0, 604.6, 603.5 and
148.0 M parameters; the paper says 550, 625, 625 and 150 M. What makes the difference is not known: of 11,520 combinations of such choices
that were counted, none comes within 1.7 % of all four.
"""

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
    """SR3 from 64x64 to 256x256, 605 M parameters (the paper says 625 M); it needs high-resolution images alone.

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


def _faces(name: str, scale: int, size: int, net: SR3Config) -> Recipe:
    return replace(sr3_64_256(), name=name, net=net, low_res=LowResConfig(scale=scale), data=DataConfig(size=(size, size), labels=False))


@register("recipe", "sr3-16-128")
def sr3_16_128() -> Recipe:
    """SR3 from 16x16 to 128x128, for faces, 550 M parameters (the paper says 550 M).

    Source: Saharia et al. 2021 (SR3), table A.1 (faces 16 to 128) and section 4.
    """
    net = SR3Config(width=128, mults=(1, 2, 4, 8, 8), blocks=3, attention=(8,), rescale=True, resample="block", dropout=0.2)
    return _faces("sr3-16-128", 8, 128, net)


@register("recipe", "sr3-64-512")
def sr3_64_512() -> Recipe:
    """SR3 from 64x64 to 512x512, for faces, 603 M parameters (the paper says 625 M).

    Source: Saharia et al. 2021 (SR3), table A.1 (faces 64 to 512) and section 4.
    """
    net = SR3Config(width=64, mults=(1, 2, 4, 8, 8, 16, 16), blocks=3, attention=(32,), rescale=True, resample="block")
    return _faces("sr3-64-512", 8, 512, net)


@register("recipe", "sr3-256-1024")
def sr3_256_1024() -> Recipe:
    """SR3 from 256x256 to 1024x1024, for faces, 148 M parameters (the paper says 150 M).

    Source: Saharia et al. 2021 (SR3), table A.1 (faces 256 to 1024) and section 4.
    """
    mults = (1, 2, 4, 8, 16, 32, 32, 32)
    net = SR3Config(width=16, mults=mults, blocks=2, attention=(64,), groups=16, rescale=True, resample="block")
    return _faces("sr3-256-1024", 4, 1024, net)


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


@register("recipe", "sr3-regression-16-128")
def sr3_regression_16_128() -> Recipe:
    """The regression baseline of sr3-16-128.

    Source: Saharia et al. 2021 (SR3), section 4.
    """
    return _regression(sr3_16_128(), 1e-5)


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
