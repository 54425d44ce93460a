from __future__ import annotations

import math

import torch

from mezzotint.nn.embeddings import Fourier, TimeEmbedding, sinusoidal


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


def test_fourier_waves_are_fixed_numbers_of_the_state() -> None:
    waves = Fourier(3, scale=2.0)
    assert not list(waves.parameters()) and waves.state_dict().keys() == {"frequencies"}
    waves.frequencies = torch.tensor([0.0, 0.25, 0.5])
    torch.testing.assert_close(waves(torch.tensor([1.0])), torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0, -1.0]]), atol=1e-6, rtol=0)
    assert 100 < Fourier(4000, scale=16.0).frequencies.var() < 400


def test_ddpm_waves_begin_with_sines_and_end_at_the_longest_period() -> None:
    t = torch.tensor([3.0])
    frequencies = 10_000.0 ** -(torch.arange(4) / 3)
    wanted = torch.cat([(t * frequencies).sin(), (t * frequencies).cos()])[None]
    torch.testing.assert_close(sinusoidal(t, 8, shift=1, sine_first=True), wanted)
    torch.testing.assert_close(sinusoidal(t, 8, shift=1, sine_first=True, scale=2), sinusoidal(2 * t, 8, shift=1, sine_first=True))


def test_extra_is_added_to_the_waves() -> None:
    torch.manual_seed(0)
    embed = TimeEmbedding(8, 16, fourier=True)
    t, extra = torch.tensor([0.3, 1.0]), torch.randn(2, 8)
    assert embed.fourier is not None
    wanted = embed.out(torch.nn.functional.silu(embed.hidden(embed.fourier(t) + extra)))
    torch.testing.assert_close(embed(t, extra), wanted)
