"""ADM: the class-conditional U-Net of "Diffusion Models Beat GANs on Image Synthesis", and the noisy classifier that guides it."""

from dataclasses import replace
from typing import Any

from mezzotint.configs import (
    ClassifyConfig,
    DataConfig,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EMAConfig,
    EncoderConfig,
    LabelConfig,
    LowResConfig,
    OptimConfig,
    Recipe,
    SampleConfig,
    TrainConfig,
    UNetConfig,
)
from mezzotint.registry import register


@register("recipe", "adm")
def adm() -> Recipe:
    """Class-conditional ADM for 64x64 images; other sizes change ``net.mults`` and ``net.attention``.

    Source: Dhariwal & Nichol 2021, table 11 (ImageNet 64).
    """
    return Recipe(
        name="adm",
        task="generate",
        net=UNetConfig(
            width=192,
            mults=(1, 2, 3, 4),
            blocks=3,
            attention=(2, 4, 8),
            head_channels=64,
            attention_order="new",
            resample="block",
            dropout=0.1,
        ),
        schedule=DiscreteConfig(betas="cosine", steps=1000),
        denoiser=DenoiserConfig(predicts="eps", variance="learned_range"),
        objective=DenoisingConfig(vlb=0.001),
        label=LabelConfig(),
        data=DataConfig(flip=True),
        train=TrainConfig(images=10_000_000, batch=256, precision="bf16"),
        optim=OptimConfig(lr=1e-4, clip=None),
        ema=EMAConfig(decays=(0.9999,)),
        sample=SampleConfig(grid="250"),
        cite=("adm",),
    )


@register("recipe", "adm-uncond")
def adm_uncond() -> Recipe:
    """The same without labels; classifier guidance alone can then ask for a class.

    Source: Dhariwal & Nichol 2021, section 4.3.
    """
    return replace(adm(), name="adm-uncond", label=None)


@register("recipe", "adm-cfg")
def adm_cfg() -> Recipe:
    """ADM trained with dropped labels, for classifier-free guidance.

    Source: Ho & Salimans 2022, section 4.
    """
    return replace(adm(), name="adm-cfg", label=LabelConfig(drop=0.1), cite=("adm", "cfg"))


@register("recipe", "adm-upsampler-64-256")
def adm_upsampler_64_256() -> Recipe:
    """ADM-U: class-conditional, from 64x64 to 256x256, beside the low-resolution image brought to size bilinearly.

    Source: Dhariwal & Nichol 2021, section 4.3 (upsampling) and table 11 (ADM-U, 64 to 256).
    """
    return replace(
        adm(),
        name="adm-upsampler-64-256",
        net=UNetConfig(width=192, mults=(1, 1, 2, 2, 4, 4), blocks=2, attention=(8, 16, 32), heads=4, resample="block"),
        schedule=DiscreteConfig(betas="linear", steps=1000),
        low_res=LowResConfig(scale=4, down="area", up="bilinear"),
        data=DataConfig(size=(256, 256), flip=True),
        train=TrainConfig(images=128_000_000, batch=256, precision="bf16"),
    )


@register("recipe", "adm-upsampler-128-512")
def adm_upsampler_128_512() -> Recipe:
    """ADM-U from 128x128 to 512x512.

    Source: Dhariwal & Nichol 2021, section 4.3 (upsampling) and table 11 (ADM-U, 128 to 512).
    """
    return replace(
        adm_upsampler_64_256(),
        name="adm-upsampler-128-512",
        net=UNetConfig(width=192, mults=(1, 1, 2, 2, 4, 4), blocks=2, attention=(16, 32), head_channels=64, resample="block"),
        data=DataConfig(size=(512, 512), flip=True),
        train=TrainConfig(images=268_800_000, batch=256, precision="bf16"),
    )


@register("recipe", "adm-classifier")
def adm_classifier() -> Recipe:
    """The noisy classifier for the 64x64 ADM.

    Source: Dhariwal & Nichol 2021, table 12.
    """
    return Recipe(
        name="adm-classifier",
        task="classify",
        net=EncoderConfig(width=128, mults=(1, 2, 3, 4), blocks=4, attention=(2, 4, 8), head_channels=64, pool="attention"),
        schedule=DiscreteConfig(betas="cosine", steps=1000),
        objective=ClassifyConfig(),
        data=DataConfig(flip=True),
        train=TrainConfig(images=10_000_000, batch=256, precision="bf16"),
        optim=OptimConfig(lr=3e-4, weight_decay=0.05, decay="linear", clip=None),
        ema=EMAConfig(decays=()),
        cite=("adm",),
    )


def _published(name: str, size: int, *, mults: tuple[float, ...], steps: int, score: str, **net: Any) -> Recipe:
    """ADM as it was trained for one size: 256 channels, attention at 32, 16 and 8 pixels, linear schedule, batches of 256."""
    base = adm()
    return replace(
        base,
        name=name,
        net=UNetConfig(
            width=256,
            mults=mults,
            blocks=2,
            attention=tuple(size // side for side in (32, 16, 8)),
            resample="block",
            **net,
        ),
        schedule=DiscreteConfig(betas="linear", steps=1000),
        data=DataConfig(size=(size, size), flip=True),
        train=TrainConfig(images=256 * steps, batch=256, precision="fp16"),
        score=score,
    )


@register("recipe", "adm-imagenet-64")
def adm_imagenet_64() -> Recipe:
    """ADM for ImageNet 64x64 with the published training.

    Source: Dhariwal & Nichol 2021, table 11.
    """
    return replace(
        adm(),
        name="adm-imagenet-64",
        data=DataConfig(size=(64, 64), flip=True),
        train=TrainConfig(images=2048 * 540_000, batch=2048, precision="fp16"),
        optim=OptimConfig(lr=3e-4, clip=None),
        score="FID 2.07 without guidance, 250 steps (ADM's evaluator, 50,000 images)",
    )


@register("recipe", "adm-imagenet-128")
def adm_imagenet_128() -> Recipe:
    """ADM for ImageNet 128x128 with the published training.

    Source: Dhariwal & Nichol 2021, table 11.
    """
    return _published(
        "adm-imagenet-128",
        128,
        mults=(1, 1, 2, 3, 4),
        heads=4,
        steps=4_360_000,
        score="FID 5.91, with classifier guidance 2.97, 250 steps (ADM's evaluator, 50,000 images)",
    )


@register("recipe", "adm-imagenet-256")
def adm_imagenet_256() -> Recipe:
    """ADM for ImageNet 256x256 with the published training.

    Source: Dhariwal & Nichol 2021, table 11.
    """
    return _published(
        "adm-imagenet-256",
        256,
        mults=(1, 1, 2, 2, 4, 4),
        head_channels=64,
        steps=1_980_000,
        score="FID 10.94, with classifier guidance 4.59, 250 steps (ADM's evaluator, 50,000 images)",
    )


@register("recipe", "adm-imagenet-512")
def adm_imagenet_512() -> Recipe:
    """ADM for ImageNet 512x512 with the published training.

    Source: Dhariwal & Nichol 2021, table 11.
    """
    return _published(
        "adm-imagenet-512",
        512,
        mults=(0.5, 1, 1, 2, 2, 4, 4),
        head_channels=64,
        steps=1_940_000,
        score="FID 23.24, with classifier guidance 7.72, 250 steps (ADM's evaluator, 50,000 images)",
    )


@register("recipe", "adm-lsun-256")
def adm_lsun_256() -> Recipe:
    """Unconditional ADM for LSUN 256x256: bedrooms as they stand, horses with 64 million images, cats with 51 million.

    Source: Dhariwal & Nichol 2021, table 11.
    """
    recipe = _published(
        "adm-lsun-256",
        256,
        mults=(1, 1, 2, 2, 4, 4),
        head_channels=64,
        dropout=0.1,
        steps=500_000,
        score="FID of bedrooms 1.90, horses 2.57, cats 5.57, 1000 steps (ADM's evaluator, 50,000 images)",
    )
    return replace(recipe, label=None, sample=SampleConfig())


@register("recipe", "adm-ablation")
def adm_ablation() -> Recipe:
    """The base of ADM's architecture ablation; each row of its tables switches one thing.

    More depth (``net.width`` 128, ``net.blocks`` 4), more heads (``net.heads`` 4, or ``net.head-channels`` 64), attention at three
    resolutions (``net.attention`` 4 8 16), BigGAN's resampling (``net.resample`` block), additive embeddings (``net.no-scale-shift``).

    Source: Dhariwal & Nichol 2021, tables 1 to 3 (ImageNet 128).
    """
    return replace(
        _published(
            "adm-ablation", 128, mults=(1, 1, 2, 3, 4), steps=1_200_000, score="FID 15.33 after 700,000 steps, 13.21 after 1,200,000"
        ),
        net=UNetConfig(width=160, mults=(1, 1, 2, 3, 4), blocks=2, attention=(8,), heads=1, resample="conv"),
    )
