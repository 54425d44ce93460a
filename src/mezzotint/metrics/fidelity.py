"""How near images are to given ones: PSNR, SSIM, and consistency with the low-resolution image. Image by image, in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mezzotint.errors import DataError
from mezzotint.resolution import reduce

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation of the Gaussian window of the SSIM, in pixels."""
K1, K2 = 0.01, 0.03


def mean_square(images: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each image on the scale of [0, 1], ``[b]`` float64.

    Args:
        images: ``[b, c, h, w]`` in [-1, 1].
        reference: The same shape.

    Raises:
        DataError: Another shape.
    """
    if images.shape != reference.shape:
        raise DataError(f"images of shape {tuple(images.shape)} and references of {tuple(reference.shape)}; give one of each size")
    return ((images.double() - reference.double()) / 2).square().flatten(1).mean(dim=1)


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, ``[b]`` float64, in dB; infinite for equal images.

    Arguments and errors as for ``mean_square``.

    Example:
        >>> round(float(psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.2))), 4)
        20.0

    Source: Wang et al. 2004, section II.
    """
    return -10 * mean_square(images, reference).log10()


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image, ``[b]`` float64, at most 1: the mean over channels and all places where the window fits.

    Args:
        images: ``[b, c, h, w]`` in [-1, 1], sides of at least 11.
        reference: The same shape.

    Raises:
        DataError: Another shape, or images smaller than the window.

    Source: Wang et al. 2004, equation 13, with their constants and window.
    """
    if images.shape != reference.shape:
        raise DataError(f"images of shape {tuple(images.shape)} and references of {tuple(reference.shape)}; give one of each size")
    if min(images.shape[2:]) < WINDOW:
        raise DataError(f"images of {images.shape[2]}x{images.shape[3]} have no SSIM, whose window is {WINDOW}x{WINDOW}; give larger ones")
    x, y = ((v.double() + 1) / 2 for v in (images, reference))
    place = torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2
    line = torch.softmax(-(place**2) / (2 * SIGMA**2), dim=0)

    def mean(v: Tensor) -> Tensor:
        v = F.conv2d(v.flatten(0, 1)[:, None], line[None, None, :, None])
        return F.conv2d(v, line[None, None, None, :]).unflatten(0, x.shape[:2])[:, :, 0]

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    same = (2 * mean_x * mean_y + K1**2) * (2 * cov + K2**2) / ((mean_x**2 + mean_y**2 + K1**2) * (var_x + var_y + K2**2))
    return same.flatten(1).mean(dim=1)


def consistency(images: Tensor, low: Tensor, scale: int, *, down: str = "bicubic") -> Tensor:
    """Mean squared error of each reduced image against its low-resolution image, on the scale of [0, 1], ``[b]`` float64.

    Tables of super-resolution print it times 1e5; ``-10 log10`` of it is a PSNR.

    Args:
        images: ``[b, c, scale h, scale w]`` in [-1, 1].
        low: ``[b, c, h, w]`` in [-1, 1].
        scale: Pixels of an image along a pixel of ``low``.
        down: Rule of the reduction, as for ``resolution.reduce``.

    Raises:
        DataError: Another shape.

    Source: Saharia et al. 2021 (SR3), table 1.
    """
    return mean_square(reduce(images.double(), scale, down=down), low)
