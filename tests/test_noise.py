from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mezzotint.errors import ConfigError
from mezzotint.noise import Noise, ReplayNoise


def test_streams_are_frozen() -> None:
    """Images that were made with a seed must be made again by later versions."""
    draw = Noise(7, [3, 11], stage="sample", step=5).normal((2, 2), name="step", dtype=torch.float64)
    expected = [[-0.03953432640010299, -1.5746728345170156], [-1.1477077901325103, 1.5194896584597317]]
    assert draw.tolist() == expected


@given(
    st.integers(-(2**70), 2**70),
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5, unique=True),
    st.integers(0, 2**40),
    st.randoms(use_true_random=False),
)
def test_an_image_depends_on_its_id_alone(seed, ids, step, random) -> None:
    noise = Noise(seed, ids, step=step)
    whole = noise.normal((len(ids), 3), name="x")
    order = list(range(len(ids)))
    random.shuffle(order)
    picked = order[: max(1, len(ids) // 2)]
    assert torch.equal(Noise(seed, [ids[i] for i in picked]).at(step).normal((len(picked), 3), name="x"), whole[picked])
    assert torch.equal(noise.rows(picked).normal((len(picked), 3), name="x"), whole[picked])
    assert torch.equal(noise.rows(torch.tensor(picked)).normal((len(picked), 3), name="x"), whole[picked])


def test_every_part_of_the_key_counts() -> None:
    base = Noise(0, [0, 1], stage="a", step=0)
    others = [Noise(1, [0, 1], stage="a"), Noise(0, [2, 3], stage="a"), base.at(1), base.sub("b"), Noise(0, [0, 1], stage="b")]
    draws = [base.normal((2, 500), name="x"), base.normal((2, 500), name="y"), *(n.normal((2, 500), name="x") for n in others)]
    rows = torch.cat(draws)  # rows of ids 0 and 1 are also told apart
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 5 / 500**0.5


def test_neighbouring_steps_do_not_overlap() -> None:
    a = Noise(0, [0], step=0).uniform((1, 4000), name="x", dtype=torch.float64)
    b = Noise(0, [0], step=1).uniform((1, 4000), name="x", dtype=torch.float64)
    assert not set(a.flatten().tolist()) & set(b.flatten().tolist())


def test_a_draw_begins_as_a_shorter_one_does() -> None:
    noise = Noise(0, [4])
    assert torch.equal(noise.normal((1, 2, 5), name="x").flatten()[:3], noise.normal((1, 3), name="x")[0])


def test_laws() -> None:
    noise = Noise(0, range(50))
    z, u = noise.normal((50, 2000), name="z", dtype=torch.float64).flatten(), noise.uniform((50, 2000), name="u").flatten()
    assert abs(z.mean()) < 0.015 and abs(z.var() - 1) < 0.02 and abs((z**4).mean() - 3) < 0.1
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.005 and abs(u.double().var() - 1 / 12) < 0.001


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_uniform_numbers_stay_below_one_in_every_type(dtype) -> None:
    u = Noise(0, [0]).uniform((1, 200_000), name="u", dtype=dtype)
    assert u.dtype == dtype and bool((u < 1).all()) and bool((u >= 0).all())


def test_float32_is_float64_rounded() -> None:
    noise = Noise(0, [0, 1])
    assert torch.equal(noise.normal((2, 9), name="x", dtype=torch.float64).float(), noise.normal((2, 9), name="x"))


def test_the_number_of_images_must_fit() -> None:
    with pytest.raises(ConfigError, match="noise for 3 images was asked of streams for 2"):
        Noise(0, [0, 1]).normal((3, 2), name="x")


def test_replay_hands_out_its_draws_in_order() -> None:
    draws = [torch.full((2, 3), float(k)) for k in range(4)]
    noise = ReplayNoise(draws)
    assert noise.at(3).sub("x").normal((2, 3), name="a", dtype=torch.float64)[0, 0] == 0
    noise.skip()
    assert noise.uniform((2, 3), name="b")[0, 0] == 2
    assert noise.left == 1
    with pytest.raises(ConfigError, match=r"stored draw 4 has shape \(2, 3\), the run asks for \(2, 1\)"):
        noise.normal((2, 1), name="c")
    with pytest.raises(ConfigError, match="all 4 stored draws are used up"):
        noise.normal((2, 3), name="d")
