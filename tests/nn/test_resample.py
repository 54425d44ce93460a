from __future__ import annotations

import pytest
import torch

from mezzotint.errors import ConfigError
from mezzotint.nn.resample import Filter, Resample, double, halve


def test_halving_averages_what_is_there() -> None:
    x = torch.tensor([[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 30.0]])[None, None]
    assert halve(x)[0, 0].tolist() == [[4.0, 15.0], [3.0, 30.0]]


def test_doubling_repeats_pixels() -> None:
    x = torch.tensor([[1.0, 2.0]])[None, None]
    assert double(x)[0, 0].tolist() == [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]


@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize(("size", "down"), [((8, 6), (4, 3)), ((7, 1), (4, 1)), ((1, 1), (1, 1))])
def test_sizes(conv: bool, size: tuple[int, int], down: tuple[int, int]) -> None:
    x = torch.randn(2, 4, *size)
    assert Resample(4, "down", conv=conv)(x).shape == (2, 4, *down)
    assert Resample(4, "up", conv=conv)(x).shape == (2, 4, 2 * size[0], 2 * size[1])


def test_without_convolution_there_are_no_parameters() -> None:
    assert not list(Resample(4, "down", conv=False).parameters())
    assert len(list(Resample(4, "up", conv=True).parameters())) == 2


def test_strided_convolution_is_centred_on_even_pixels() -> None:
    down = Resample(1, "down", conv=True)
    assert down.conv is not None
    with torch.no_grad():
        down.conv.weight.zero_()[0, 0, 1, 1] = 1
        torch.nn.init.zeros_(down.conv.bias)  # type: ignore[arg-type]
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert down(x)[0, 0].tolist() == [[0.0, 2.0], [8.0, 10.0]]


def test_corner_padding_is_centred_on_odd_pixels() -> None:
    down = Resample(1, "down", conv=True, corner=True)
    assert down.conv is not None
    with torch.no_grad():
        down.conv.weight.zero_()[0, 0, 1, 1] = 1
        torch.nn.init.zeros_(down.conv.bias)  # type: ignore[arg-type]
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert down(x)[0, 0].tolist() == [[5.0, 7.0], [13.0, 15.0]]
    assert down(torch.randn(1, 1, 7, 5)).shape == (1, 1, 4, 3)


def test_the_shortest_filter_is_the_mean_and_repetition() -> None:
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(Filter((1, 1), "down")(x), halve(x))
    torch.testing.assert_close(Filter((5, 5), "up")(x), double(x))


def test_a_filter_keeps_the_middle_of_a_plane_and_fades_to_zero_outside() -> None:
    x = torch.arange(8.0).expand(1, 1, 8, 8)
    down = Filter((1, 3, 3, 1), "down")(x)
    torch.testing.assert_close(down[0, 0, 1, 1:3], torch.tensor([2.5, 4.5]))
    torch.testing.assert_close(down[0, 0, 1, 0], torch.tensor((0 + 3 * 0 + 3 * 1 + 2) / 8))
    up = Filter((1, 3, 3, 1), "up")(x)
    torch.testing.assert_close(up[0, 0, 4, 3:5], torch.tensor([1.25, 1.75]))


@pytest.mark.parametrize(("size", "down"), [((8, 6), (4, 3)), ((7, 5), (4, 3))])
@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 5, 10, 10, 5, 1)])
def test_sizes_of_filters(taps: tuple[int, ...], size: tuple[int, int], down: tuple[int, int]) -> None:
    x = torch.randn(2, 4, *size)
    assert Filter(taps, "down")(x).shape == (2, 4, *down)
    assert Filter(taps, "up")(x).shape == (2, 4, 2 * size[0], 2 * size[1])


def test_an_odd_filter_is_refused() -> None:
    with pytest.raises(ConfigError, match="a filter of 3 taps"):
        Filter((1, 2, 1), "down")
