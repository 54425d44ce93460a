"""U-ViT: "All are Worth Words", on pixels and on latents."""

from dataclasses import replace

from mezzotint.configs import (
    DataConfig,
    DenoiserConfig,
    DenoisingConfig,
    EMAConfig,
    LabelConfig,
    OptimConfig,
    Recipe,
    SampleConfig,
    TrainConfig,
    UViTConfig,
    VAELatentConfig,
    VPConfig,
)
from mezzotint.registry import register


@register("recipe", "uvit")
def uvit() -> Recipe:
    """Unconditional U-ViT-S/2 on 32x32 pixels.

    Source: Bao et al. 2023, table 5 (CIFAR-10).
    """
    return Recipe(
        name="uvit",
        task="generate",
        net=UViTConfig(),
        schedule=VPConfig(),
        denoiser=DenoiserConfig(predicts="eps", time_input="t_999"),
        objective=DenoisingConfig(),
        data=DataConfig(flip=True),
        train=TrainConfig(images=64_000_000, batch=128, precision="bf16"),
        optim=OptimConfig(lr=2e-4, betas=(0.99, 0.999), weight_decay=0.03, warmup=320_000, clip=None),
        ema=EMAConfig(decays=(0.9999,)),
        sample=SampleConfig(sampler="euler_maruyama", steps=1000, clip=False),
        cite=("uvit",),
        score="FID 3.11, 1000 steps of Euler-Maruyama (pytorch-fid, 50,000 images)",
    )


@register("recipe", "uvit-latent")
def uvit_latent() -> Recipe:
    """Class-conditional U-ViT-L/2 on latents of 256x256 images.

    Source: Bao et al. 2023, table 5 (ImageNet 256).
    """
    return replace(
        uvit(),
        name="uvit-latent",
        net=UViTConfig(width=1024, depth=20, heads=16),
        label=LabelConfig(drop=0.15),
        data=DataConfig(size=(256, 256), flip=True),
        train=TrainConfig(images=307_200_000, batch=1024, precision="bf16"),
        optim=OptimConfig(lr=2e-4, betas=(0.99, 0.99), weight_decay=0.03, warmup=5_120_000, clip=None),
        sample=SampleConfig(sampler="dpm_solver", steps=50, clip=False),
        codec=VAELatentConfig(),
        cite=("uvit", "cfg", "latent_diffusion"),
        score="FID 3.40 with cfg, 50 steps of DPM-Solver (pytorch-fid, 50,000 images)",
    )
