"""DiT: "Scalable Diffusion Models with Transformers", on the latents of Stable Diffusion's autoencoder."""

from mezzotint.configs import (
    DataConfig,
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    DiTConfig,
    EMAConfig,
    LabelConfig,
    OptimConfig,
    Recipe,
    SampleConfig,
    TrainConfig,
    VAELatentConfig,
)
from mezzotint.registry import register


@register("recipe", "dit")
def dit() -> Recipe:
    """Class-conditional DiT-XL/2 on latents of 256x256 images; the smaller models change ``net.width``, ``net.depth`` and ``net.heads``.

    Source: Peebles & Xie 2023, section 4.
    """
    return Recipe(
        name="dit",
        task="generate",
        net=DiTConfig(width=1152, depth=28, heads=16),
        schedule=DiscreteConfig(betas="linear", steps=1000),
        denoiser=DenoiserConfig(predicts="eps", variance="learned_range"),
        objective=DenoisingConfig(vlb=0.001),
        label=LabelConfig(drop=0.1),
        data=DataConfig(size=(256, 256), flip=True),
        train=TrainConfig(images=102_400_000, batch=256),
        optim=OptimConfig(lr=1e-4, clip=None),
        ema=EMAConfig(decays=(0.9999,)),
        sample=SampleConfig(grid="250", clip=False),
        codec=VAELatentConfig(),
        cite=("dit", "cfg", "latent_diffusion"),
        score="FID 2.27 with cfg scale 1.5 after 7,000,000 steps, 250 steps of sampling (ADM's evaluator, 50,000 images)",
    )
