import pytest
import torch

from mezzotint.errors import ConfigError
from mezzotint.metrics.frechet import Moments, frechet_distance, frechet_error
from mezzotint.metrics.inception_score import inception_score
from mezzotint.metrics.kernel import cmmd
from mezzotint.metrics.precision_recall import density_coverage
from mezzotint.metrics.spread import density_error, discrepancy_error, score_error, share_error

DRAWS = 60


def draws(n, d, shift=0.1, scale=1.2, count=DRAWS):
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(n, d, generator=generator) + shift for _ in range(count)]


def agree(errors, values):
    """The mean error that is claimed is the standard deviation over draws, within its own chance (9 % for 60 draws)."""
    claimed, true = torch.tensor(errors).mean(), torch.tensor(values).std()
    assert 0.7 < claimed / true < 1.4, (claimed, true)


def moments(rows):
    counted = Moments().add(rows)
    return counted.mean, counted.cov


@pytest.mark.parametrize("n, d", [(300, 4), (40, 16), (12, 16)])
def test_frechet_error_is_the_standard_deviation_over_draws(n, d):
    reference = (torch.zeros(d), torch.eye(d) * torch.linspace(0.5, 2, d))
    sets = draws(n, d)
    errors = [frechet_error(rows, moments(rows), reference) for rows in sets]
    agree(errors, [frechet_distance(moments(rows), reference) for rows in sets])


def test_frechet_error_is_finite_whatever_the_rank():
    for n, m, d in ((6, 40, 9), (40, 6, 9), (5, 5, 9)):
        a, b = draws(n, d, count=1)[0], draws(m, d, -0.3, 0.7, count=1)[0]
        assert 0 < frechet_error(a, moments(a), moments(b)) < frechet_distance(moments(a), moments(b))


def test_frechet_error_vanishes_for_the_set_itself():
    rows = draws(80, 6, count=1)[0]
    assert frechet_error(rows, moments(rows), moments(rows)) < 1e-4


def test_frechet_error_refuses_other_features():
    rows = draws(9, 3, count=1)[0]
    with pytest.raises(ConfigError, match="moments of 3 and of 2 features"):
        frechet_error(rows, moments(rows), (torch.zeros(2), torch.eye(2)))


def test_error_of_a_share():
    assert share_error(0.0, 10) == share_error(1.0, 10) == 0
    assert share_error(0.2, 400) == pytest.approx(0.02)


def test_error_of_the_score_is_the_standard_deviation_over_draws():
    # Mean logits differ between two kinds of image, so that the divergence varies from image to image.
    def logits(rows):
        return torch.cat([2 * rows, torch.zeros(len(rows), 2)], dim=1)

    sets = [logits(rows) for rows in draws(400, 3)]
    agree([score_error(x) for x in sets], [inception_score(x, splits=1).value for x in sets])


def test_error_of_the_discrepancy_is_the_standard_deviation_over_draws():
    real = draws(150, 8, -0.4, count=1)[0]
    sets = draws(150, 8)
    agree([discrepancy_error(x, real, sigma=0.7) for x in sets], [cmmd(x, real, sigma=0.7) for x in sets])


def test_error_of_the_density_is_the_standard_deviation_over_draws():
    real = draws(200, 3, 0.0, 1.0, count=1)[0]
    sets = draws(200, 3)
    agree([density_error(x, real) for x in sets], [density_coverage(x, real).density for x in sets])
