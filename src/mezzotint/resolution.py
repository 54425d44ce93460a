"""Between resolutions: images made smaller, larger, blurred and degraded."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mezzotint.configs import LowResConfig
from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.registry import call_with, parse


def shrink(images: Tensor, scale: int, *, down: str = "bicubic") -> Tensor:
    """The linear part of ``reduce``: what overshoots is not clamped. Arguments as there."""
    size = tuple(-(-side // scale) for side in images.shape[2:])
    return _resize(images, size, mode=down, antialias=down != "area")


def reduce(images: Tensor, scale: int, *, down: str = "bicubic") -> Tensor:
    """Images at 1 / scale of their size.

    Args:
        images: ``[b, c, h, w]`` in [-1, 1]; the sides are rounded up where the scale does not divide them.
        scale: The factor.
        down: "bicubic" (antialiased; what overshoots is clamped), "bilinear" (antialiased), or "area" (means of squares).

    Returns:
        ``[b, c, ceil(h / scale), ceil(w / scale)]`` in [-1, 1].

    Source: Keys 1981 (bicubic, a = -1/2, as Pillow has it).
    """
    return shrink(images, scale, down=down).clamp(-1, 1)


def _resize(images: Tensor, size: Sequence[int], *, mode: str, antialias: bool) -> Tensor:
    if size[1] == 1 < size[0]:  # PyTorch 2.13 gives the first row in the place of all where it antialiases to a width of 1
        return _resize(images.mT.contiguous(), size[::-1], mode=mode, antialias=antialias).mT
    return F.interpolate(images, tuple(size), mode=mode, align_corners=None if mode == "area" else False, antialias=antialias)


def enlarge(images: Tensor, size: Sequence[int], *, up: str = "bicubic") -> Tensor:
    """Images at another, larger size; at their own size they stay as they are.

    Args:
        images: ``[b, c, h, w]``.
        size: Height and width.
        up: "bicubic" or "bilinear".

    Returns:
        ``[b, c, *size]``, not clamped.

    Source: Keys 1981 (bicubic, a = -1/2, as Pillow has it).
    """
    if tuple(size) == tuple(images.shape[2:]):
        return images
    # Antialiasing changes nothing here but the cubic's parameter, which becomes that of Pillow.
    return _resize(images, size, mode=up, antialias=up == "bicubic")


def gaussian_kernel(sigma: Tensor, radius: int) -> Tensor:
    """One-dimensional Gaussian weights that sum to 1.

    Args:
        sigma: Standard deviation in pixels, ``[b]``, above 0.
        radius: The kernel has 2 radius + 1 weights.

    Returns:
        ``[b, 2 radius + 1]``.

    Source: Ho et al. 2021 (CDM), section 4.2.
    """
    place = torch.arange(-radius, radius + 1, dtype=sigma.dtype, device=sigma.device)
    return torch.softmax(-(place**2) / (2 * sigma[:, None] ** 2), dim=1)


def blur(images: Tensor, sigma: Tensor, *, radius: int) -> Tensor:
    """Images convolved with a Gaussian each; edge pixels are repeated outside.

    Args:
        images: ``[b, c, h, w]``.
        sigma: Standard deviation in pixels of each image, ``[b]``; images with 0 stay as they are.
        radius: Radius of the kernel.
    """
    b, c, h, w = images.shape
    kernel = gaussian_kernel(sigma.clamp_min(1e-3), radius).to(images).repeat_interleave(c, dim=0)
    x = F.pad(images.reshape(1, b * c, h, w), (radius,) * 4, mode="replicate")
    x = F.conv2d(x, kernel[:, None, :, None], groups=b * c)
    x = F.conv2d(x, kernel[:, None, None, :], groups=b * c)
    return torch.where((sigma > 0).to(images.device)[:, None, None, None], x.reshape(images.shape), images)


# --- degradations --------------------------------------------------------------------------------------------------------


def _between(low: float, high: float, noise: Noise, name: str) -> Tensor:
    if not 0 <= low <= high:
        raise ConfigError(f"degradation {name} from {low} to {high}; give 0 <= low <= high")
    return low + (high - low) * noise.uniform((len(noise.ids),), name=name)


def _blur(images: Tensor, noise: Noise, *, low: float = 0.2, high: float = 2.0) -> Tensor:
    sigma = _between(low, high, noise, "blur")
    return blur(images, sigma, radius=max(1, round(3 * high)))


def _noise(images: Tensor, noise: Noise, *, low: float = 0.0, high: float = 0.1) -> Tensor:
    """Low and high are standard deviations on the scale of [-1, 1]."""
    std = _between(low, high, noise, "noise").to(images)[:, None, None, None]
    eps = noise.normal(tuple(images.shape), name="noise", dtype=images.dtype, device=images.device)
    return (images + std * eps).clamp(-1, 1)


def _jpeg(images: Tensor, noise: Noise, *, low: int = 50, high: int = 95) -> Tensor:
    """Low and high are qualities of libjpeg, 1 to 95."""
    from PIL import Image

    if images.shape[1] not in (1, 3):
        raise CapabilityError(f"JPEG holds images of 1 or 3 channels, not {images.shape[1]}; leave the degradation jpeg out")
    quality = _between(low, high + 1, noise, "jpeg").clamp_max(high).int().tolist()
    pixels = ((images.detach().cpu().double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    out = []
    for array, q in zip(pixels, quality, strict=True):
        file = io.BytesIO()
        Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(file, "JPEG", quality=max(1, q))
        read = np.asarray(Image.open(file)).reshape(array.shape)
        out.append(torch.from_numpy(read.copy()))
    return (torch.stack(out).permute(0, 3, 1, 2).to(images) / 127.5 - 1).contiguous()


DEGRADATIONS: dict[str, tuple[Callable[..., Tensor], bool]] = {"blur": (_blur, True), "noise": (_noise, False), "jpeg": (_jpeg, False)}
"""Name -> its function (images, noise, settings) -> images, and whether it comes before the reduction."""


def parse_degradations(texts: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Names of degradations and their settings, in order.

    Args:
        texts: As in "blur,high=1.5"; one text may list several, as in "blur,noise,high=0.05,jpeg".

    Raises:
        ConfigError: An unknown degradation, or a text that cannot be read.

    Example:
        >>> parse_degradations(["blur,noise,high=0.05"])
        [('blur', {}), ('noise', {'high': '0.05'})]
    """
    listed: list[str] = []
    for text in texts:
        first, *rest = text.split(",")
        listed.append(first)
        for part in rest:
            if "=" in part:
                listed[-1] += f",{part}"
            else:
                listed.append(part)
    found = [parse(text) for text in listed]
    for name, _ in found:
        if name not in DEGRADATIONS:
            raise unknown("degradation", name, DEGRADATIONS)
    return found


def degraded(images: Tensor, config: LowResConfig, *, noise: Noise) -> Tensor:
    """Low-resolution images as a camera and a file would make them: blur, reduction, noise, JPEG, as the settings say.

    Args:
        images: ``[b, c, h, w]`` in [-1, 1].
        config: Scale, rule of the reduction, and degradations.
        noise: Random streams; the strength of each degradation is drawn for each image.

    Returns:
        ``[b, c, ceil(h / scale), ceil(w / scale)]`` in [-1, 1].

    Raises:
        ConfigError: An unknown degradation or setting.
    """
    steps = parse_degradations(config.degrade)
    for before in (True, False):
        for number, (name, settings) in enumerate(steps):
            function, first = DEGRADATIONS[name]
            if first == before:
                images = call_with(function, settings, images, noise.sub(f"degrade {number}"), what=name)
        if before:
            images = reduce(images, config.scale, down=config.down)
    return images
