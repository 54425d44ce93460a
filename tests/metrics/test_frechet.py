import math
import warnings

import numpy as np
import pytest
import torch

from mezzotint.errors import ConfigError, DataError
from mezzotint.metrics.frechet import Moments, frechet_distance


def random_moments(seed: int, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.RandomState(seed)
    root = torch.tensor(rng.standard_normal((d, d)))
    return torch.tensor(rng.standard_normal(d)), root @ root.T


def test_diagonal_gaussians_have_the_closed_form():
    rng = np.random.RandomState(0)
    m1, m2, s1, s2 = (torch.tensor(rng.uniform(0.1, 2, 5)) for _ in range(4))
    got = frechet_distance((m1, torch.diag(s1**2)), (m2, torch.diag(s2**2)))
    assert got == pytest.approx(float(((m1 - m2) ** 2 + (s1 - s2) ** 2).sum()), rel=1e-12)


def test_rotating_both_gaussians_changes_nothing():
    (m1, c1), (m2, c2) = random_moments(1), random_moments(2)
    q, _ = torch.linalg.qr(torch.tensor(np.random.RandomState(3).standard_normal((6, 6))))
    turned = frechet_distance((q @ m1, q @ c1 @ q.T), (q @ m2, q @ c2 @ q.T))
    assert turned == pytest.approx(frechet_distance((m1, c1), (m2, c2)), rel=1e-10)


def test_a_linear_map_of_one_gaussian_has_the_known_distance():
    # y = T x with symmetric positive T is the optimal transport, so that the distance is E|x - T x|^2.
    _, cov = random_moments(4)
    _, transport = random_moments(5)
    zero, eye = torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    expected = float(((eye - transport) @ cov @ (eye - transport)).trace())
    assert frechet_distance((zero, cov), (zero, transport @ cov @ transport)) == pytest.approx(expected, rel=1e-9)


def test_swapping_the_sets_changes_nothing():
    a, b = random_moments(1), random_moments(2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_a_set_has_no_distance_to_itself():
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    a, b = Moments().add(features), Moments().add(features)
    assert frechet_distance(a, b) < 1e-9


def test_rank_deficient_sets():
    # Two sets in orthogonal planes of 40 dimensions: S_a S_b = 0, and only the means and traces are left.
    rng = np.random.RandomState(0)
    x, y = np.zeros((30, 40)), np.zeros((30, 40))
    x[:, :2], y[:, 2:4] = rng.standard_normal((30, 2)), rng.standard_normal((30, 2))
    a, b = Moments().add(torch.tensor(x)), Moments().add(torch.tensor(y))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.cov(x.T).trace() + np.cov(y.T).trace()
    with pytest.warns(UserWarning, match="30 images of 40 features"):
        distance = frechet_distance(a, b)
    assert distance == pytest.approx(expected, rel=1e-12)
    assert frechet_distance((a.mean, a.cov), (a.mean, a.cov)) < 1e-9
    point = (torch.ones(3), torch.zeros(3, 3))
    assert frechet_distance(point, (torch.zeros(3), torch.zeros(3, 3))) == pytest.approx(3)


def test_enough_images_do_not_warn():
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(Moments().add(features), Moments().add(features + 1))


def test_moments_are_those_of_numpy_in_any_order():
    x = np.random.RandomState(0).standard_normal((103, 7)) * 3 + 5
    whole = Moments().add(torch.tensor(x))
    parts = [Moments().add(torch.tensor(part)) for part in np.split(x, [1, 40, 90])]
    forth, back = Moments(), Moments()
    for part in parts:
        forth.merge(part)
    for part in reversed(parts):
        back.merge(part)
    back.merge(Moments())
    for moments in (whole, forth, back):
        assert moments.n == 103
        np.testing.assert_allclose(moments.mean.numpy(), x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.cov.numpy(), np.cov(x.T), rtol=1e-10, atol=1e-12)
    assert parts[0].n == 1  # merging leaves the merged part as it was
    assert torch.equal(parts[0].mean, torch.tensor(x[0]))


def test_single_precision_features_are_summed_in_double():
    x = torch.full((1000, 1), 100.1)
    x[::2] += 1e-1
    moments = Moments()
    for part in x.split(10):
        moments.add(part)
    assert float(moments.cov) == pytest.approx(float(np.var(x.double().numpy(), ddof=1)), rel=1e-8)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (torch.ones(3), "give a matrix"),
        (torch.tensor([[1.0, 2.0], [math.nan, 0.0], [math.inf, 0.0]]), "2 of 3 feature vectors"),
        (torch.ones(3, 5), "5 features an image were given after 2"),
    ],
)
def test_bad_features_are_refused(features: torch.Tensor, words: str):
    moments = Moments().add(torch.ones(4, 2))
    with pytest.raises(DataError, match=words):
        moments.add(features)
    assert moments.n == 4


def test_bad_moments_are_refused():
    with pytest.raises(DataError, match="add at least 2"):
        frechet_distance(Moments(), Moments())
    with pytest.raises(DataError, match="1 image"):
        _ = Moments().add(torch.ones(1, 2)).cov
    with pytest.raises(ConfigError, match="6 and of 5 features"):
        frechet_distance(random_moments(0), random_moments(0, d=5))
    with pytest.raises(ConfigError, match="give a mean"):
        frechet_distance((torch.zeros(3), torch.eye(2)), random_moments(0))


def plain_distance(a: Moments, b: Moments) -> float:
    """From the eigenvalues of the product, which is not symmetric."""
    values = np.linalg.eigvals(a.cov.numpy() @ b.cov.numpy())
    root = np.sqrt(values.astype(complex)).real.sum()
    return float(((a.mean - b.mean) ** 2).sum() + a.cov.trace() + b.cov.trace()) - 2 * root


@pytest.mark.filterwarnings("ignore:Frechet distance from")
@pytest.mark.parametrize("counts", [(400, 500), (60, 500), (30, 50), (20, 20), (41, 40)])
def test_any_rank_agrees_with_the_plain_way_and_can_be_swapped(counts: tuple[int, int]):
    rng = np.random.RandomState(1)
    mix = rng.standard_normal((40, 40)) * np.logspace(0, -4, 40)
    a, b = (Moments().add(torch.tensor(rng.standard_normal((n, 40)) @ mix.T + shift)) for n, shift in zip(counts, (0, 0.1), strict=True))
    distance = frechet_distance(a, b)
    assert distance == pytest.approx(plain_distance(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a, a) < 1e-6 * float(a.cov.trace())


def test_small_eigenvalues_are_not_lost():
    # Two diagonal Gaussians with deviations over six orders of magnitude: the small ones add up too.
    deviations = torch.logspace(0, -6, 300, dtype=torch.float64)
    zero = torch.zeros(300, dtype=torch.float64)
    a, b = torch.diag(deviations**2), torch.diag((1.5 * deviations) ** 2)
    q, _ = torch.linalg.qr(torch.tensor(np.random.RandomState(0).standard_normal((300, 300))))
    expected = float((0.25 * deviations**2).sum())
    assert frechet_distance((zero, q @ a @ q.T), (zero, q @ b @ q.T)) == pytest.approx(expected, rel=1e-9)


def test_a_constant_feature_does_not_matter():
    x, y = (torch.tensor(np.random.RandomState(seed).standard_normal((200, 5))) for seed in (0, 1))
    padded = [Moments().add(torch.cat([z, torch.full((200, 1), 3.0)], dim=1)) for z in (x, y)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(Moments().add(x), Moments().add(y)), rel=1e-9)
