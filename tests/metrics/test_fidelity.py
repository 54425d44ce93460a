"""PSNR, SSIM and consistency, against small computations of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mezzotint.errors import DataError
from mezzotint.metrics.fidelity import consistency, mean_square, psnr, ssim
from mezzotint.metrics.proportion import wilson


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of one channel in [0, 1], window by window: weighted moments with weights of a Gaussian of 11x11 that sum to 1."""
    place = np.arange(-5, 6)
    weights = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb, cov = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum(), (weights * (a - ma) * (b - mb)).sum()
            c1, c2 = 0.01**2, 0.03**2
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_ssim_is_that_of_its_definition():
    x, y = drawn(2, 3, 15, 13), drawn(2, 3, 15, 13, seed=1)
    y = 0.7 * x + 0.3 * y
    got = ssim(x, y)
    for k in range(2):
        wanted = np.mean([by_loops(((x[k, c].double() + 1) / 2).numpy(), ((y[k, c].double() + 1) / 2).numpy()) for c in range(3)])
        assert abs(float(got[k]) - wanted) < 1e-9


def integers(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images that are alike, uint8 ``[h, w, c]``."""
    y, x, k = np.mgrid[0:height, 0:width, 0:channels]
    one = (37 * y + 91 * x + 53 * k + (y * x) % 17 * 9) % 256
    return one.astype(np.uint8), np.clip(one + (29 * y + 13 * x + 7 * k) % 41 - 20, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "decibels", "similarity"),
    [((24, 31, 3), 26.86395411454644, 0.9870634538321529), ((17, 13, 1), 26.869151493357467, 0.9886713092825232)],
)
def test_figures_are_those_of_scikit_image(shape, decibels, similarity):
    """The numbers are those of scikit-image 0.26: the Gaussian window of 1.5 pixels, covariances not of a sample, colour by channel."""
    arrays = integers(*shape)
    one, two = (torch.from_numpy(a).permute(2, 0, 1)[None].double() / 127.5 - 1 for a in arrays)
    assert abs(float(psnr(one, two)) - decibels) < 1e-9 and abs(float(ssim(one, two)) - similarity) < 1e-9
    try:
        from skimage.metrics import structural_similarity  # type: ignore[import-not-found]
    except ImportError:
        return
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert abs(structural_similarity(*arrays, data_range=255, channel_axis=2, **window) - similarity) < 1e-9


def test_ssim_of_special_images():
    x = drawn(1, 3, 20, 20)
    assert torch.allclose(ssim(x, x), torch.ones(1, dtype=torch.float64))
    assert torch.allclose(ssim(x, 0.5 * x), ssim(0.5 * x, x))
    assert ssim(x, -x) < 0 < ssim(x, x + 0.1) < 1
    # Two flat images differ in their means alone, which leaves the first factor.
    a, b = torch.full((1, 1, 11, 11), 0.0), torch.full((1, 1, 11, 11), 0.5)
    assert torch.allclose(ssim(a, b), torch.tensor([(2 * 0.5 * 0.75 + 1e-4) / (0.25 + 0.5625 + 1e-4)], dtype=torch.float64))


def test_psnr_is_that_of_its_definition():
    x, y = drawn(2, 3, 8, 6), drawn(2, 3, 8, 6, seed=1)
    for k in range(2):
        levels = ((x[k] - y[k]).double().numpy() * 127.5) ** 2
        assert abs(float(psnr(x, y)[k]) - 10 * math.log10(255**2 / levels.mean())) < 1e-9
    assert psnr(x, x).isinf().all()


def test_consistency_reduces_as_pillow_does():
    picture = (np.asarray(drawn(1, 3, 24, 32)[0].permute(1, 2, 0)) * 40 + 128).round().astype(np.uint8)
    small = np.asarray(Image.fromarray(picture).resize((8, 6), Image.Resampling.BICUBIC))
    x, low = (torch.from_numpy(a.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1 for a in (picture, small))
    assert consistency(x, low, 4) < (0.6 / 255) ** 2  # Pillow rounds
    assert consistency(x, low, 4, down="area") > 4 * consistency(x, low, 4)
    shifted = consistency((x + 0.02).clamp(-1, 1), low, 4)
    assert abs(float(shifted) - 1e-4) < 1e-5


def test_images_that_cannot_be_compared():
    with pytest.raises(DataError, match="one of each size"):
        psnr(drawn(1, 3, 8, 8), drawn(1, 3, 8, 9))
    with pytest.raises(DataError, match="one of each size"):
        ssim(drawn(1, 3, 18, 18), drawn(2, 3, 18, 18))
    with pytest.raises(DataError, match="have no SSIM"):
        ssim(drawn(1, 3, 10, 18), drawn(1, 3, 10, 18))
    with pytest.raises(DataError, match="one of each size"):
        consistency(drawn(1, 3, 16, 16), drawn(1, 3, 5, 5), 4)
    assert mean_square(drawn(1, 3, 4, 4), drawn(1, 3, 4, 4)) == 0


@given(st.integers(1, 500), st.data())
def test_wilsons_interval(total, data):
    count = data.draw(st.integers(0, total))
    low, high = wilson(count, total)
    assert 0 <= low <= count / total <= high <= 1
    # Its ends are the shares that lie just z standard deviations from what was counted.
    for end in (low, high):
        if 0 < end < 1:
            assert abs(abs(count / total - end) - 1.959964 * math.sqrt(end * (1 - end) / total)) < 1e-9
    mirrored = wilson(total - count, total)
    assert math.isclose(mirrored[0], 1 - high, abs_tol=1e-12) and math.isclose(mirrored[1], 1 - low, abs_tol=1e-12)


def test_proportions_that_cannot_be():
    for count, total in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(DataError, match="a proportion of"):
            wilson(count, total)
