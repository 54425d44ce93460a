from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint import registry
from mezzotint.codecs import Pixel, VAELatent, load_vae
from mezzotint.configs import PixelConfig, VAELatentConfig
from mezzotint.errors import CapabilityError, CheckpointError, ConfigError
from mezzotint.noise import Noise

CONFIG = VAELatentConfig(path="", channels=3, factor=2)


@pytest.fixture(scope="module")
def vae() -> Any:
    autoencoders = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl")
    torch.manual_seed(0)
    return autoencoders.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=3,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    )


def images(b: int = 2, size: tuple[int, int] = (8, 12)) -> torch.Tensor:
    return torch.rand(b, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_pixels_are_left_alone() -> None:
    codec = registry.get(*PixelConfig.kind)(PixelConfig())
    assert isinstance(codec, Pixel)
    x = images()
    assert codec.shape((3, 8, 12)) == (3, 8, 12)
    assert codec.encode(x, noise=Noise(0, [0, 1])) is x
    assert codec.decode(x) is x


def test_latents_are_the_posterior_shifted_and_scaled(vae: Any) -> None:
    x, noise = images(), Noise(0, [3, 4])
    codec = registry.get(*VAELatentConfig.kind)(CONFIG, vae)
    mean, log_var = codec.posterior(x)
    eps = noise.normal(mean.shape, name="posterior")
    z = codec.encode(x, noise=noise)
    assert z.shape == (2, *codec.shape((3, 8, 12))) == (2, 3, 4, 6)
    torch.testing.assert_close(z, (mean + (log_var / 2).exp() * eps - 0.25) * 0.5)
    assert (z - (mean - 0.25) * 0.5).abs().max() > 1e-3
    still = VAELatent(VAELatentConfig(path="", channels=3, factor=2, posterior="mean", scale=2.0, shift=1.0), vae)
    torch.testing.assert_close(still.encode(x, noise=noise), (mean - 1) * 2)


def test_decoding_undoes_shift_and_scale_image_by_image(vae: Any) -> None:
    codec = VAELatent(CONFIG, vae)
    z = torch.randn(3, 3, 2, 4, generator=torch.Generator().manual_seed(2))
    out = codec.decode((z - 0.25) * 0.5)
    with torch.no_grad():
        torch.testing.assert_close(out, vae.decode(z).sample, atol=1e-5, rtol=1e-5)
    assert torch.equal(codec.decode(((z - 0.25) * 0.5)[1:2]), out[1:2])
    assert not out.requires_grad
    assert codec.decode(z.half()).dtype == torch.float16


def test_an_autoencoder_is_loaded_from_a_folder_when_it_is_needed(vae: Any, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    codec = VAELatent(VAELatentConfig(path=str(tmp_path), channels=3, factor=2, posterior="mean"))
    assert codec.shape((3, 4, 4)) == (3, 2, 2)
    assert not list(codec.parameters())
    assert (codec.scale, codec.shift) == (0.5, 0.25)
    x = images()
    torch.testing.assert_close(codec.posterior(x), VAELatent(CONFIG, vae).posterior(x))


def test_what_cannot_work_is_refused_in_a_line(vae: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 latent channels at 1/2 of the size, the settings say 4 at 1/8"):
        VAELatent(VAELatentConfig(), vae)
    with pytest.raises(ConfigError, match="images of 7x8 have no latents at 1/2"):
        VAELatent(CONFIG).shape((3, 7, 8))
    with pytest.raises(ConfigError, match="set codec.path"):
        VAELatent(CONFIG).decode(torch.zeros(1, 3, 2, 2))
    with pytest.raises(CheckpointError, match="no autoencoder at") as caught:
        load_vae(str(tmp_path / "none"))
    assert "\n" not in str(caught.value)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(CapabilityError, match=r"pip install 'mezzotint\[latent\]'"):
        load_vae("anything")
