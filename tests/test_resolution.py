from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.configs import LowResConfig
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.resolution import blur, degraded, enlarge, gaussian_kernel, reduce


def images(n: int = 2, side: int = 16, channels: int = 3) -> torch.Tensor:
    # Smooth and well within the range, so that nothing overshoots.
    x = torch.nn.functional.interpolate(
        torch.randn(n, channels, 4, 4, generator=torch.Generator().manual_seed(0)) / 4, (side, side), mode="bilinear"
    )
    return x.clamp(-0.9, 0.9)


@pytest.mark.parametrize("down, scale", [("bicubic", 4), ("bilinear", 4), ("bicubic", 2)])
def test_reducing_and_enlarging_are_those_of_pillow(down, scale) -> None:
    x = images()
    methods = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

    def pillow(plane: torch.Tensor, side: int) -> torch.Tensor:
        picture = Image.fromarray(plane.numpy(), mode="F").resize((side, side), methods[down])
        return torch.from_numpy(np.asarray(picture).copy())

    small = reduce(x, scale, down=down)
    assert small.shape == (2, 3, 16 // scale, 16 // scale)
    torch.testing.assert_close(small[1, 2], pillow(x[1, 2], 16 // scale), atol=2e-6, rtol=0)
    large = enlarge(small, (16, 16), up=down)
    torch.testing.assert_close(large[1, 2], pillow(small[1, 2], 16), atol=2e-6, rtol=0)


@pytest.mark.parametrize("down", ["bicubic", "bilinear", "area"])
def test_pictures_of_any_size_become_what_pillow_makes_of_them(down) -> None:
    """8-bit gray and colour, with sides that the scale need not divide: within 1.2 levels of 255, since Pillow rounds twice.

    The grays stay away from black and white, at which it also cuts off in between.
    """
    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "area": Image.Resampling.BOX}[down]
    for (height, width), channels, scale in itertools.product([(37, 53), (40, 24), (9, 6), (5, 1)], (1, 3), (2, 3, 4, 8)):
        if down == "area" and (height % scale or width % scale):
            continue  # means of whole squares alone are the same
        pixels = np.random.default_rng(0).integers(60, 196, (height, width, channels), dtype=np.uint8)
        small = (-(-width // scale), -(-height // scale))
        picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        wanted = torch.from_numpy(np.array(picture.resize(small, method), dtype=np.float32).reshape(*small[::-1], channels))
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
        got = (reduce(x, scale, down=down)[0].permute(1, 2, 0) + 1) * 127.5
        assert got.shape == wanted.shape and (got - wanted).abs().max() < 1.2, (height, width, channels, scale)


def test_area_means_and_odd_sizes() -> None:
    x = images()
    torch.testing.assert_close(reduce(x, 4, down="area"), x.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(4, 5)))
    assert reduce(x[:, :, :13, :1], 4).shape == (2, 3, 4, 1)
    assert enlarge(x, (16, 16)) is x
    assert reduce(torch.eye(8)[None, None] * 2 - 1, 2).abs().max() <= 1  # the cubic overshoots


def test_the_kernel_of_the_blur() -> None:
    sigma = torch.tensor([0.4, 0.5, 0.6])
    kernel = gaussian_kernel(sigma, 1)
    side = torch.exp(-1 / (2 * sigma**2))
    wanted = torch.stack([side, torch.ones(3), side], dim=1)
    torch.testing.assert_close(kernel, wanted / wanted.sum(dim=1, keepdim=True))
    torch.testing.assert_close(kernel.sum(dim=1), torch.ones(3))
    dot = torch.zeros(3, 1, 5, 5)
    dot[:, :, 2, 2] = 1
    torch.testing.assert_close(blur(dot, sigma, radius=1)[:, 0, 1:4, 1:4], kernel[:, :, None] * kernel[:, None])
    torch.testing.assert_close(blur(torch.full((1, 2, 3, 3), 0.7), sigma[:1], radius=1), torch.full((1, 2, 3, 3), 0.7))
    assert torch.equal(blur(dot, torch.tensor([0.0, 0.5, 0.0]), radius=1)[::2], dot[::2])


def test_degradations_are_drawn_for_each_image() -> None:
    x, noise = images(4), Noise(0, range(4))
    clean = degraded(x, LowResConfig(scale=2), noise=noise)
    assert torch.equal(clean, reduce(x, 2))
    config = LowResConfig(scale=2, degrade=("jpeg,low=20,high=60", "blur,low=0.5,high=1", "noise,low=0.01,high=0.1"))
    whole = degraded(x, config, noise=noise)
    assert whole.shape == clean.shape and whole.abs().max() <= 1 and (whole - clean).abs().mean() > 0.005
    torch.testing.assert_close(degraded(x[2:3], config, noise=Noise(0, [2])), whole[2:3])
    assert not torch.equal(degraded(x[2:3], config, noise=Noise(1, [2])), whole[2:3])
    listed = LowResConfig(scale=2, degrade=(",".join(config.degrade),))
    assert torch.equal(degraded(x, listed, noise=noise), whole)  # one text may list several
    for text in config.degrade:
        assert not torch.equal(degraded(x, LowResConfig(scale=2, degrade=(text,)), noise=noise), clean)


def test_degradations_that_cannot_be() -> None:
    x, noise = images(1, channels=2), Noise(0, [0])
    with pytest.raises(ConfigError, match="did you mean 'blur'"):
        degraded(x, LowResConfig(degrade=("blurr",)), noise=noise)
    with pytest.raises(ConfigError, match="degradation noise from 0.5 to 0.1"):
        degraded(x, LowResConfig(degrade=("noise,low=0.5,high=0.1",)), noise=noise)
    with pytest.raises(CapabilityError, match="1 or 3 channels, not 2"):
        degraded(x, LowResConfig(degrade=("jpeg",)), noise=noise)
