"""Tiles: where they lie, what they weigh, and that a picture in tiles is one picture."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mezzotint.configs import DenoiserConfig, DiscreteConfig
from mezzotint.denoise import Bound, Denoiser, FunctionDenoiser, NetworkDenoiser
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.tiling import Tiled, starts, windows
from mezzotint.registry import build
from mezzotint.sample.loop import sample
from mezzotint.schedules import build_schedule
from mezzotint.types import KernelHead, Posterior

SCHEDULE = build_schedule(DiscreteConfig(betas="linear", steps=100))


class Padded(nn.Module):
    """A network that feels its edges: three convolutions padded by zeros, on x and the low-resolution image."""

    accepts = frozenset({"low_res"})

    def __init__(self, strength: float = 0.3):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((6, 16), (16, 16), (16, 6))))
        self.strength = strength
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, time_input: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.sizes.append(tuple(x.shape))
        value, head = self.layers(torch.cat([x, cond["low_res"]], dim=1)).tanh().chunk(2, dim=1)
        return torch.cat([cond["low_res"] + self.strength * value, head], dim=1)


def padded(**kwargs) -> NetworkDenoiser:
    return NetworkDenoiser(Padded(**kwargs), SCHEDULE, DenoiserConfig(predicts="x0", variance="learned_range"))


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(denoiser: Denoiser, low: Tensor, *, seed: int = 0, steps: int = 5, sampler: str = "ancestral") -> Tensor:
    noise = Noise(seed, range(len(low)))
    law = build("sampler", sampler)
    x = noise.sub("prior").normal(tuple(low.shape), name="prior")
    return sample(Bound(denoiser), law, law.plan(SCHEDULE, steps=steps), x, cond={"low_res": low}, noise=noise).x


@given(st.integers(1, 9), st.integers(1, 8), st.integers(0, 300), st.integers(0, 100))
def test_tiles_cover_the_axis_and_overlap_enough(align, units, extra, share):
    tile = align * units
    length, overlap = tile + align * extra, tile // 2 * share // 100
    begin = starts(length, tile, overlap, align)
    assert begin[0] == 0 and begin[-1] == length - tile and all(a % align == 0 for a in begin)
    assert all(0 < b - a <= max(align, tile - overlap) for a, b in pairwise(begin))


@pytest.mark.parametrize("length", [16, 17, 24, 40, 41, 100])
def test_weights_sum_to_one_and_fall_to_nothing_at_inner_edges(length):
    begin = starts(length, 16, 6)
    weights = windows(begin, 16)
    total = torch.zeros(length, dtype=torch.float64)
    for a, row in zip(begin, weights, strict=True):
        total[a : a + 16] += row
    assert torch.allclose(total, torch.ones(length, dtype=torch.float64)) and bool((weights >= 0).all())
    assert (weights[1:, 0] < 0.05).all() and (weights[:-1, -1] < 0.05).all()
    assert weights[0, 0] == 1 and weights[-1, -1] == 1


def test_a_picture_of_one_tile_is_what_it_is_without_tiles():
    low = 0.5 * pictures(3, 3, 16, 16)
    assert torch.equal(drawn(Tiled(padded(), (16, 16), 4), low), drawn(padded(), low))


def test_a_denoiser_that_looks_at_single_pixels_gives_the_same_in_tiles():
    def mean(x_t, alpha, sigma, cond):
        low = cond["low_res"]
        return low + 0.3 * alpha / (alpha**2 * 0.09 + sigma**2) * 0.3 * (x_t - alpha * low), 0.09 * sigma**2 / (alpha**2 * 0.09 + sigma**2)

    exact = FunctionDenoiser(SCHEDULE, mean, accepts=frozenset({"low_res"}))
    low = 0.5 * pictures(2, 3, 50, 37)
    assert (drawn(Tiled(exact, (16, 16), 4, batch=5), low) - drawn(exact, low)).abs().max() < 1e-5


def test_a_flat_picture_shows_no_seam():
    def made(denoiser: Denoiser, side: int) -> Tensor:
        law = build("sampler", "ddim")  # from a flat start, so that no noise hides what the tiles do
        flat = torch.full((1, 3, side, side), 0.2)
        x = sample(Bound(denoiser), law, law.plan(SCHEDULE, steps=20), torch.zeros_like(flat), cond={"low_res": flat}).x
        return x[..., 8:-8, 8:-8] if side > 32 else x  # the outer edges of the picture are the network's own

    def step(x: Tensor) -> float:
        return max(float(x.diff(dim=dim).abs().max()) for dim in (2, 3)) * 127.5

    assert step(made(padded(strength=4.0), 32)) > 20  # levels of 255: the network feels its edges,
    assert step(made(Tiled(padded(strength=4.0), (32, 32), 0), 96)) > 2  # as the seams of tiles side by side show
    assert step(made(Tiled(padded(strength=4.0), (32, 32), 8), 96)) <= 1


def test_the_order_of_the_tiles_does_not_matter():
    class Backwards(Tiled):
        def corners(self, height, width):
            return super().corners(height, width)[::-1]

    low = 0.5 * pictures(2, 3, 40, 56)
    forward, back = (drawn(kind(padded(), (16, 16), 6, batch=3), low) for kind in (Tiled, Backwards))
    assert (forward - back).abs().max() < 1e-5


def test_no_pass_is_larger_than_the_batch_and_all_tiles_are_counted():
    network, seen = Padded(), []
    denoiser = NetworkDenoiser(network, SCHEDULE, DenoiserConfig(predicts="x0", variance="learned_range"))
    tiled = Tiled(denoiser, (16, 16), 4, batch=5, on_tiles=seen.append)
    tiled(pictures(2, 3, 40, 40), torch.tensor([0.5, 0.5], dtype=torch.float64), {"low_res": pictures(2, 3, 40, 40)})
    assert max(network.sizes) == (5, 3, 16, 16) and sum(seen) == len(tiled.corners(40, 40)) * 2 == 18


def test_all_that_is_said_of_a_tile_is_blended():
    class Says(Denoiser):
        schedule = SCHEDULE

        def forward(self, x_t, t, cond=None, *, noise=None):
            head = KernelHead(frac=3 * x_t, mean=4 * x_t, log_var=5 * x_t, s=t / 2)
            return Posterior(x_t, bounded=2 * x_t, var=cond["label"].to(x_t)[:, None, None, None], kernel=head, score_shift=6 * x_t)

    inner = Says()
    inner.accepts = frozenset({"label"})
    x, t = pictures(2, 3, 40, 24), torch.tensor([0.3, 0.6], dtype=torch.float64)
    said = Tiled(inner, (16, 16), 4, batch=3)(x, t, {"label": torch.tensor([1, 2])})
    assert said.kernel is not None and torch.equal(said.kernel.s, t / 2)
    values = (said.mean, said.bounded, said.kernel.frac, said.kernel.mean, said.kernel.log_var, said.score_shift)
    for factor, value in enumerate(values, start=1):
        assert torch.allclose(value, factor * x, atol=1e-5)
    assert torch.allclose(said.var, torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 1, 40, 24))


def test_each_picture_keeps_its_label_time_and_noise():
    class Draws(Denoiser):
        schedule, accepts = SCHEDULE, frozenset({"label"})

        def forward(self, x_t, t, cond=None, *, noise=None):
            z = noise.normal((len(x_t), 1), name="z").to(x_t.dtype)
            own = cond["label"] + 10 * t + z[:, 0]
            return Posterior(own.to(x_t)[:, None, None, None].expand_as(x_t))

    t, label, noise = torch.tensor([0.25, 0.5], dtype=torch.float64), torch.tensor([3, 7]), Noise(0, [5, 9])
    said = Tiled(Draws(), (16, 16), 4, batch=3)(pictures(2, 3, 40, 40), t, {"label": label}, noise=noise).mean
    wanted = (label + 10 * t).float() + noise.normal((2, 1), name="z")[:, 0]
    assert torch.allclose(said, wanted[:, None, None, None].expand_as(said), atol=1e-5)


@pytest.mark.parametrize(
    "size, overlap, align, words",
    [((16, 16), 9, 1, "overlap from 0 to 8"), ((16, 16), -1, 1, "overlap from 0 to 8"), ((18, 16), 4, 4, "multiples of 4")],
)
def test_tiles_that_cannot_be(size, overlap, align, words):
    with pytest.raises(ConfigError, match=words):
        Tiled(padded(), size, overlap, align=align)


def test_pictures_that_do_not_fit():
    tiled, t = Tiled(padded(), (16, 16), 4, align=4), torch.tensor([0.5], dtype=torch.float64)
    for height, width in ((12, 16), (16, 18)):
        x = pictures(1, 3, height, width)
        with pytest.raises(ConfigError, match="pad it"):
            tiled(x, t, {"low_res": x})
    with pytest.raises(ConfigError, match="bring it to that size"):
        tiled(pictures(1, 3, 16, 16), t, {"low_res": pictures(1, 3, 4, 4)})
