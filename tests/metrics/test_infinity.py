import math

import numpy as np
import pytest
import torch

from mezzotint.errors import ConfigError
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.metrics.inception_score import inception_score
from mezzotint.metrics.infinity import extrapolate, fid_infinity, inception_score_infinity

D = 48
EXACT = D * 0.1**2 + D * 0.1**2  # of N(0.1, 1.1^2) and N(0, 1)


def features(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(0.1 + 1.1 * np.random.RandomState(seed).standard_normal((n, D)))


STANDARD = (torch.zeros(D), torch.eye(D))


def test_a_line_is_met_exactly() -> None:
    found = extrapolate(lambda rows: 3 + 50 / len(rows), torch.zeros(400, 1))
    assert found.value == pytest.approx(3) and found.slope == pytest.approx(50) and found.spread < 1e-9
    assert found.sizes[0] == 40 and found.sizes[-1] == 400 and len(found.sizes) == 15
    assert np.ptp(np.diff(found.sizes)) <= 1


def test_the_distance_of_gaussians_is_found_better_than_by_the_plain_one() -> None:
    plain, extrapolated = [], []
    for seed in range(8):
        generated = features(2000, seed)
        plain.append(frechet_distance(Moments().add(generated), STANDARD) - EXACT)
        extrapolated.append(fid_infinity(generated, STANDARD, smallest=500, seed=seed).value - EXACT)
    assert np.mean(plain) > 0.3  # the bias of 2000 images
    assert abs(np.mean(extrapolated)) < 0.25 * np.mean(plain)
    assert np.mean(np.square(extrapolated)) < 0.2 * np.mean(np.square(plain))


def test_its_spread_is_that_of_the_intercept() -> None:
    rng = np.random.RandomState(0)
    found = [extrapolate(lambda rows: 3 + 50 / len(rows) + 0.1 * rng.standard_normal(), torch.zeros(400, 1)) for _ in range(300)]
    measured = np.std([one.value for one in found])
    assert np.sqrt(np.mean([one.spread**2 for one in found])) == pytest.approx(measured, rel=0.15)


def test_real_images_may_be_given_as_moments() -> None:
    real = Moments().add(torch.from_numpy(np.random.RandomState(9).standard_normal((500, D))))
    generated = features(300)
    found = fid_infinity(generated, real, smallest=100, points=5)
    assert found == fid_infinity(generated, (real.mean, real.cov), smallest=100, points=5)
    assert found.values[-1] == pytest.approx(frechet_distance(Moments().add(generated), real))
    assert found.value < found.values[-1] < found.values[0]


def test_the_inception_score_grows_with_the_images() -> None:
    logits = torch.from_numpy(np.random.RandomState(0).standard_normal((2000, 50)))
    found = inception_score_infinity(logits, smallest=100)
    # For logits N(0, 1) the mean of p log p is known: exp(1/2) * (1/2) over exp(1/2), less log E exp, up to the spread of the sum.
    large = torch.from_numpy(np.random.RandomState(1).standard_normal((40000, 50)))
    exact = inception_score(large, splits=1).value
    assert abs(found.value - exact) < abs(inception_score(logits[:300], splits=1).value - exact)
    assert math.isfinite(found.spread) and found.slope != 0


def test_too_few_images() -> None:
    with pytest.warns(UserWarning, match="subsets of 12 images of 48 features: its line is bent"):
        fid_infinity(features(120), STANDARD)
    for settings in ({"points": 2}, {"smallest": 1}, {"smallest": 119}):
        with pytest.raises(ConfigError, match="cannot be extrapolated"):
            fid_infinity(features(120), STANDARD, **settings)
