from functools import partial

import numpy as np
import pytest
import torch

from mezzotint.errors import ConfigError
from mezzotint.metrics import kernel as module
from mezzotint.metrics.kernel import Estimator, cmmd, draw_subsets, gaussian, kid, polynomial, squared_mmd


def points(seed: int, n: int, d: int = 8) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((n, d)))


def by_hand(a: np.ndarray, b: np.ndarray, estimator: str) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / len(x) + 1) ** 3

    def mean(x: np.ndarray, y: np.ndarray, skip: bool) -> float:
        return float(np.mean([k(p, q) for i, p in enumerate(x) for j, q in enumerate(y) if not (skip and i == j)]))

    apart = estimator != "biased"
    return mean(a, a, apart) + mean(b, b, apart) - 2 * mean(a, b, estimator == "u_statistic")


@pytest.mark.parametrize("estimator", module.ESTIMATORS)
@pytest.mark.parametrize("tile", [1, 40, 10**6])
def test_estimators_are_those_of_a_plain_sum(estimator: Estimator, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE", tile)
    a, b = points(0, 13), points(1, 13) + 0.3
    assert squared_mmd(a, b, estimator=estimator) == pytest.approx(by_hand(a.numpy(), b.numpy(), estimator))
    if estimator != "u_statistic":
        assert squared_mmd(a[:9], b, estimator=estimator) == pytest.approx(by_hand(a[:9].numpy(), b.numpy(), estimator))


def test_kernels() -> None:
    a, b = points(0, 4), points(1, 5)
    expected = np.exp(-((a[:, None] - b[None]) ** 2).sum(-1).numpy() / (2 * 1.7**2))
    np.testing.assert_allclose(gaussian(a, b, sigma=1.7).numpy(), expected)
    torch.testing.assert_close(polynomial(a, b, degree=2, gamma=0.1, offset=0.5), (0.1 * a @ b.T + 0.5) ** 2)


def test_sets_at_a_known_distance() -> None:
    # With a linear kernel the squared discrepancy is that of the means.
    linear = partial(polynomial, degree=1, gamma=1.0, offset=0.0)
    a = points(0, 40)
    assert squared_mmd(a, a + 0.5, linear, estimator="biased") == pytest.approx(8 * 0.25)
    assert squared_mmd(a, a, estimator="biased") == pytest.approx(0, abs=1e-12)


def test_kid_has_no_bias_whatever_the_size_of_its_subsets() -> None:
    a, b = points(0, 4000), points(1, 4000)
    for size in (20, 100):
        same = kid(a, b, subsets=300, size=size)
        standard_error = same.spread / np.sqrt(300)
        assert abs(same.value) < 3 * standard_error
        assert min(same.parts) < 0 < max(same.parts)
    small, large = (kid(a, b + 0.3, subsets=300, size=size) for size in (20, 100))
    assert large.value > 10 * large.spread / np.sqrt(300)
    assert abs(small.value - large.value) < 2 * np.hypot(small.spread, large.spread) / np.sqrt(300)


def test_kid_takes_small_sets_whole_and_orders_as_it_should() -> None:
    real = points(0, 60)
    whole = kid(points(1, 50), real, subsets=1, seed=5)
    assert whole.spread == 0 and len(whole.parts) == 1
    near, far = kid(points(1, 50) + 0.2, real, subsets=20, size=40), kid(points(1, 50) + 0.8, real, subsets=20, size=40)
    assert near.value < far.value
    assert near == kid(points(1, 50) + 0.2, real, subsets=20, size=40) != kid(points(1, 50) + 0.2, real, subsets=20, size=40, seed=1)


def test_subsets_have_no_image_twice() -> None:
    first, second = draw_subsets(30, 20, subsets=4, size=15, seed=0)
    assert first.shape == second.shape == (4, 15)
    assert all(len(set(rows)) == 15 for rows in (*first, *second))
    assert first.max() < 30 and second.max() < 20
    assert not np.array_equal(first[0], first[1])


def test_cmmd_is_of_directions_and_never_negative() -> None:
    a, b = points(0, 30) + 1, points(1, 25) + 1
    x, y = (z / z.norm(dim=1, keepdim=True) for z in (a, b))

    def mean(p: torch.Tensor, q: torch.Tensor) -> float:
        return float(torch.exp(-(torch.cdist(p, q) ** 2) / 200).mean())

    assert cmmd(a, b) == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-6)
    assert cmmd(a, 7 * b) == pytest.approx(cmmd(a, b)) == pytest.approx(cmmd(b, a))
    assert 0 <= cmmd(a, a) < 1e-9
    assert cmmd(a, -b) > 10 * cmmd(a, b)


def test_sets_that_cannot_be_compared() -> None:
    a = points(0, 9)
    with pytest.raises(ConfigError, match=r"\(9, 8\) and \(9, 3\) cannot be compared"):
        squared_mmd(a, points(0, 9, 3))
    with pytest.raises(ConfigError, match="not of 9 and 8"):
        squared_mmd(a, a[:8], estimator="u_statistic")
    with pytest.raises(ConfigError, match="sets of 1 and 9 images"):
        cmmd(a[:1], a)
    with pytest.raises(ConfigError, match="did you mean 'unbiased'"):
        squared_mmd(a, a, estimator="unbaised")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0 subsets of 9"):
        kid(a, a, subsets=0)
