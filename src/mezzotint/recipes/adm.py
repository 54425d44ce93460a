"""ADM: the class-conditional U-Net of "Diffusion Models Beat GANs on Image Synthesis", and the noisy classifier that guides it."""

from dataclasses import replace

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
