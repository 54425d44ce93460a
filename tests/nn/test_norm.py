from __future__ import annotations

import pytest
import torch

from mezzotint.nn.norm import GroupNorm, groups_for

GROUPS = [(1, 1), (7, 7), (10, 10), (32, 32), (48, 24), (62, 31), (64, 32), (74, 2), (101, 1), (192, 32)]
TOLERANCES = [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float32, 1e-4), (torch.float64, 1e-12)]


@pytest.mark.parametrize(("channels", "groups"), GROUPS)
def test_groups_are_the_largest_divisor_up_to_32(channels: int, groups: int) -> None:
    assert groups_for(channels) == groups


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_statistics_keep_their_precision(dtype: torch.dtype, tolerance: float) -> None:
    # Squares of these numbers overflow float16, and their spread is lost in sums of bfloat16.
    x = (300 + 20 * torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))).to(dtype)
    norm = GroupNorm(64).to(dtype)
    groups = x.double().view(2, 32, -1)
    exact = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    got = norm(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact.view(x.shape), rtol=tolerance, atol=tolerance)


def test_epsilon_shows_in_small_inputs() -> None:
    x = 1e-3 * torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(GroupNorm(1)(x).flatten()[0], torch.tensor(1e-3 / (1e-6 + 1e-5) ** 0.5))
