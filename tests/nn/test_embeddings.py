from __future__ import annotations

import math

import torch

from mezzotint.nn.embeddings import TimeEmbedding, sinusoidal


def test_cosines_come_first_and_frequencies_fall_geometrically() -> None:
    got = sinusoidal(torch.tensor([0.0, 2.5]), 4, max_period=100.0)
    expected = [[1, 1, 0, 0], [math.cos(2.5), math.cos(0.25), math.sin(2.5), math.sin(0.25)]]
    torch.testing.assert_close(got, torch.tensor(expected))


def test_odd_widths_end_in_zero() -> None:
    t = torch.tensor([3.0, 700.0])
    got = sinusoidal(t, 7)
    assert got.shape == (2, 7)
    assert (got[:, 6] == 0).all()
    torch.testing.assert_close(got[:, :6], sinusoidal(t, 6))


def test_default_period_and_integer_or_double_times() -> None:
    expected = math.cos(500 * math.exp(-math.log(10_000) * 15 / 16))
    for dtype in (torch.int64, torch.float64):
        got = sinusoidal(torch.tensor([500], dtype=dtype), 32)
        assert got.dtype == torch.float32
        assert abs(got[0, 15].item() - expected) < 1e-6


def test_neighbouring_times_stay_apart_under_autocast() -> None:
    torch.manual_seed(0)
    embed = TimeEmbedding(32, 64)
    t = torch.tensor([998.0, 998.1])
    plain = embed(t)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embed(t), plain)
    assert (plain[0] - plain[1]).abs().max() > 1e-4
