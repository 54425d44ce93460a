"""Cascaded diffusion: a class-conditional model of small images, and stages that enlarge what it makes."""

from dataclasses import replace

from mezzotint.configs import (
    DataConfig,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EMAConfig,
    LabelConfig,
    LowResConfig,
    OptimConfig,
    Recipe,
    SampleConfig,
    SR3Config,
    TimesConfig,
    TrainConfig,
    UNetConfig,
)
from mezzotint.registry import register


@register("recipe", "cdm-32")
def cdm_32() -> Recipe:
    """First stage of CDM: class-conditional 32x32 images.

    Source: Ho et al. 2021 (CDM), appendix B (32x32 base model).
    """
    return Recipe(
        name="cdm-32",
        task="generate",
        net=UNetConfig(width=256, mults=(1, 2, 3, 4), blocks=6, attention=(2, 4), heads=4, dropout=0.1),
        schedule=DiscreteConfig(betas="cosine", steps=4000),
        denoiser=DenoiserConfig(predicts="eps", variance="learned_range", time_input="index_1000"),
        objective=DenoisingConfig(vlb=0.001),
        label=LabelConfig(),
        data=DataConfig(size=(32, 32), flip=True),
        train=TrainConfig(images=1_433_600_000, batch=2048, precision="bf16"),
        optim=OptimConfig(lr=1e-4),
        ema=EMAConfig(decays=(0.9999,)),
        cite=("cdm",),
    )


@register("recipe", "cdm-32-64")
def cdm_32_64() -> Recipe:
    """Second stage of CDM, 32x32 to 64x64, with Gaussian noise on the low-resolution images.

    Source: Ho et al. 2021 (CDM), sections 4.1 and 4.2 and appendix B (32x32 to 64x64).
    """
    return replace(
        cdm_32(),
        name="cdm-32-64",
        net=UNetConfig(width=256, mults=(1, 2, 3, 4), blocks=5, attention=(4, 8), heads=4, dropout=0.1),
        low_res=LowResConfig(scale=2, augment="cosine", augment_steps=4000),
        data=DataConfig(size=(64, 64), flip=True),
        train=TrainConfig(images=819_200_000, batch=2048, precision="bf16"),
        sample=SampleConfig(level=0.25),
    )


@register("recipe", "cdm-64-256")
def cdm_64_256() -> Recipe:
    """Third stage of CDM, 64x64 to 256x256: SR3's network with labels, and Gaussian blur on the low-resolution images.

    Source: Ho et al. 2021 (CDM), sections 4.2 and 4.4 and appendix B (64x64 to 256x256).
    """
    return replace(
        cdm_32(),
        name="cdm-64-256",
        net=SR3Config(width=128, mults=(1, 2, 4, 4, 8, 8), blocks=3, attention=(16,), rescale=True, resample="block"),
        schedule=DiscreteConfig(betas="linear", steps=2000, first=1e-6, last=1e-2),
        denoiser=DenoiserConfig(predicts="eps", variance="fixed_large", time_input="alpha"),
        objective=DenoisingConfig(),
        times=TimesConfig(law="noise_level"),
        low_res=LowResConfig(scale=4, blur=0.5),
        data=DataConfig(size=(256, 256), flip=True),
        train=TrainConfig(images=512_000_000, batch=1024, precision="bf16"),
        sample=SampleConfig(steps=100),
        cite=("cdm", "sr3"),
    )


@register("recipe", "cdm-64-128")
def cdm_64_128() -> Recipe:
    """Third stage of CDM, 64x64 to 128x128.

    Source: Ho et al. 2021 (CDM), appendix B (64x64 to 128x128).
    """
    return replace(
        cdm_64_256(),
        name="cdm-64-128",
        net=SR3Config(width=128, mults=(1, 2, 4, 8, 8), blocks=3, attention=(8,), rescale=True, resample="block"),
        low_res=LowResConfig(scale=2, blur=0.5),
        data=DataConfig(size=(128, 128), flip=True),
    )


@register("recipe", "cdm-8")
def cdm_8() -> Recipe:
    """First stage of a cascade for a CPU: class-conditional 8x8 images, about 1 M parameters; set data.size for others.

    Source: Ho et al. 2021 (CDM), section 2.
    """
    return Recipe(
        name="cdm-8",
        task="generate",
        net=UNetConfig(width=32, mults=(1, 2), blocks=2, attention=(2,), heads=4),
        schedule=DiscreteConfig(betas="cosine", steps=1000),
        denoiser=DenoiserConfig(predicts="eps", variance="fixed_large"),
        objective=DenoisingConfig(),
        label=LabelConfig(),
        data=DataConfig(size=(8, 8), flip=True),
        train=TrainConfig(images=500_000, batch=64),
        optim=OptimConfig(lr=1e-3, warmup=6_400, decay="linear"),
        ema=EMAConfig(decays=(0.999,)),
        sample=SampleConfig(steps=50),
        cite=("cdm",),
    )


@register("recipe", "cdm-8-16")
def cdm_8_16() -> Recipe:
    """Second stage for a CPU, 8x8 to 16x16, with Gaussian noise on the low-resolution images.

    Source: Ho et al. 2021 (CDM), section 4.1.
    """
    return replace(
        cdm_8(),
        name="cdm-8-16",
        net=UNetConfig(width=32, mults=(1, 2, 2), blocks=1, attention=(4,), heads=4),
        # Images are brought to half their size by means of squares, those of the stage before as well: any other rule is a change that
        # this stage never sees in training.
        low_res=LowResConfig(scale=2, down="area", augment="cosine", augment_steps=1000),
        data=DataConfig(size=(16, 16), flip=True),
        sample=SampleConfig(steps=50, level=0.1),
    )


@register("recipe", "cdm-16-32")
def cdm_16_32() -> Recipe:
    """Third stage for a CPU, 16x16 to 32x32, with Gaussian noise on the low-resolution images.

    Source: Ho et al. 2021 (CDM), section 4.1.
    """
    return replace(cdm_8_16(), name="cdm-16-32", data=DataConfig(size=(32, 32), flip=True))
