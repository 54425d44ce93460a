"""Codecs: the space that a model works in. Images themselves, or the latents of an autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.configs import PixelConfig, VAELatentConfig
from mezzotint.errors import CapabilityError, CheckpointError, ConfigError
from mezzotint.noise import Noise
from mezzotint.registry import register


class Codec(nn.Module):
    """Images in [-1, 1] <-> the space that x lives in."""

    def shape(self, images: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape ``(c, h, w)`` of what images of shape ``(c, h, w)`` are encoded as.

        Raises:
            ConfigError: Images that the codec cannot encode.
        """
        raise NotImplementedError

    def encode(self, images: Tensor, *, noise: Noise) -> Tensor:
        """Encodes images ``[b, c, h, w]`` in [-1, 1].

        Args:
            images: The images.
            noise: Random streams, for codecs that draw.
        """
        raise NotImplementedError

    def decode(self, x: Tensor) -> Tensor:
        """The images ``[b, c, h, w]`` of ``x``, about in [-1, 1]."""
        raise NotImplementedError


@register("codec", "pixel")
class Pixel(Codec):
    """Images as they are."""

    def __init__(self, config: PixelConfig):
        super().__init__()

    def shape(self, images: tuple[int, int, int]) -> tuple[int, int, int]:
        return images

    def encode(self, images: Tensor, *, noise: Noise) -> Tensor:
        return images

    def decode(self, x: Tensor) -> Tensor:
        return x


@register("codec", "vae")
class VAELatent(Codec):
    """Latents of an autoencoder with a Gaussian posterior, shifted and scaled to about unit variance.

    The autoencoder is loaded when it is first needed, in float32, and is never trained.

    Args:
        config: Which one, and how its latents are used.
        vae: The autoencoder itself, a diffusers ``AutoencoderKL``, in place of the one that ``config.path`` names.

    Source: Rombach et al. 2022, section 3.1 and appendix G.
    """

    def __init__(self, config: VAELatentConfig, vae: Any = None):
        super().__init__()
        self.config = config
        self._vae = None if vae is None else self._checked(vae)

    @property
    def vae(self) -> Any:
        """The autoencoder.

        Raises:
            CapabilityError: diffusers is not installed.
            CheckpointError: There is no such autoencoder, or its files cannot be read.
            ConfigError: It has other latents than the settings say.
        """
        if self._vae is None:
            self._vae = self._checked(load_vae(self.config.path))
        return self._vae

    def _checked(self, vae: Any) -> Any:
        found = (vae.config["latent_channels"], 2 ** (len(vae.config["block_out_channels"]) - 1))
        wanted = (self.config.channels, self.config.factor)
        if found != wanted:
            raise ConfigError(
                f"the autoencoder has {found[0]} latent channels at 1/{found[1]} of the size, "
                f"the settings say {wanted[0]} at 1/{wanted[1]}; set codec.channels and codec.factor, or another codec.path"
            )
        return vae.eval().requires_grad_(False)

    @property
    def scale(self) -> float:
        """What latents are multiplied by."""
        return float(self.vae.config["scaling_factor"] if self.config.scale is None else self.config.scale)

    @property
    def shift(self) -> float:
        """What is subtracted from latents before."""
        return float((self.vae.config["shift_factor"] or 0.0) if self.config.shift is None else self.config.shift)

    def shape(self, images: tuple[int, int, int]) -> tuple[int, int, int]:
        _, height, width = images
        factor = self.config.factor
        if height % factor or width % factor:
            raise ConfigError(f"images of {height}x{width} have no latents at 1/{factor} of the size; use multiples of {factor}")
        return self.config.channels, height // factor, width // factor

    @torch.no_grad()
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents before shift and scale, each ``[b, channels, h / factor, w / factor]``.

        Args:
            images: ``[b, c, h, w]`` in [-1, 1].

        Source: Kingma & Welling 2014, equation 9.
        """
        found = self._on(images).encode(images.float()).latent_dist
        return found.mean.to(images.dtype), found.logvar.to(images.dtype)

    def encode(self, images: Tensor, *, noise: Noise) -> Tensor:
        mean, log_var = self.posterior(images)
        if self.config.posterior == "sample":
            mean = mean + torch.exp(0.5 * log_var) * noise.normal(mean.shape, name="posterior", dtype=mean.dtype, device=mean.device)
        return (mean - self.shift) * self.scale

    def decode(self, x: Tensor) -> Tensor:
        latents = x.float() / self.scale + self.shift
        # One at a time: a decoder's feature maps are large, and an image then does not depend on its batch.
        return torch.cat([self._on(x).decode(one).sample for one in latents.split(1)]).to(x.dtype)

    def _on(self, x: Tensor) -> Any:
        return self.vae.to(x.device)


def load_vae(path: str) -> Any:
    """Loads a diffusers ``AutoencoderKL``.

    Args:
        path: A local folder with config.json and diffusion_pytorch_model.safetensors, or a name on the Hugging Face hub.

    Raises:
        CapabilityError: diffusers is not installed.
        CheckpointError: There is no such autoencoder, or its files cannot be read.
    """
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise CapabilityError("latents need the extra 'latent'; install it with: pip install 'mezzotint[latent]'") from error
    if not path:
        raise ConfigError("a latent codec without an autoencoder; set codec.path to a folder or a hub name")
    try:
        return AutoencoderKL.from_pretrained(path, use_safetensors=True)
    except Exception as error:  # the hub raises errors of its own, and of several libraries below it
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"no autoencoder at '{path}' ({first}); give a folder with config.json and diffusion_pytorch_model.safetensors, or a hub name"
        ) from error
