"""huggingface/diffusers: the autoencoder, within our codec."""

from __future__ import annotations

import torch
from tests.parity.harness import Case, Outputs, Unsupported, adapter

from mezzotint.codecs import VAELatent
from mezzotint.configs import VAELatentConfig
from mezzotint.noise import Noise
from mezzotint.objectives.variational import normal_kl


@adapter("diffusers", "autoencoder")
def autoencoder(case: Case) -> Outputs:
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise Unsupported("the autoencoder needs the extra 'latent'") from error
    settings = case.config["AutoencoderKL"]
    vae = AutoencoderKL(**settings)
    vae.load_state_dict(case.fill(vae.state_dict()))
    factor = 2 ** (len(settings["block_out_channels"]) - 1)
    codec = VAELatent(VAELatentConfig(channels=settings["latent_channels"], factor=factor, scale=1.0, posterior="mean"), vae)
    x, z = case.inputs["x"], case.inputs["z"]
    mean, log_var = codec.posterior(x)
    mode = codec.encode(x, noise=Noise(0, range(len(x))))
    zero = torch.zeros(())
    return {
        "mean": mean,
        "logvar": log_var,
        "mode": mode,
        "decoded": codec.decode(z),
        "round_trip": codec.decode(mode),
        "kl": normal_kl(mean, log_var, zero, zero).flatten(1).sum(1),
    }
