from __future__ import annotations

import pytest
import torch

from mezzotint.nn.resample import Resample, double, halve


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
