import numpy as np
import pytest
import torch

from mezzotint.errors import ConfigError
from mezzotint.metrics import precision_recall as module
from mezzotint.metrics.precision_recall import density_coverage, neighbour_radii, precision_recall, realism, squared_distances


def points(seed: int, n: int, d: int = 2) -> torch.Tensor:
    return torch.tensor(np.random.RandomState(seed).standard_normal((n, d)))


def brute_force(generated: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float]:
    def covered(queries: np.ndarray, centres: np.ndarray) -> float:
        reach = [sorted(np.linalg.norm(np.delete(centres, i, 0) - c, axis=1))[k - 1] for i, c in enumerate(centres)]
        return float(np.mean([any(np.linalg.norm(q - c) <= r for c, r in zip(centres, reach, strict=True)) for q in queries]))

    return covered(generated, real), covered(real, generated)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_a_plain_count(k: int):
    generated, real = points(0, 60) * 0.7 + 1.0, points(1, 50)
    got = precision_recall(generated, real, k=k, dtype="float64")
    assert (got.precision, got.recall) == pytest.approx(brute_force(generated.numpy(), real.numpy(), k))
    assert 0.2 < got.recall < 1
    assert 0.2 < got.precision < 1


@pytest.mark.parametrize("tile", [1, 130, 10**6])
def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch, tile: int):
    generated, real = points(2, 41, 5), points(3, 37, 5)
    whole = precision_recall(generated, real, dtype="float64")
    ratios, nearest = realism(generated, real, dtype="float64")
    monkeypatch.setattr(module, "_TILE", tile)
    assert precision_recall(generated, real, dtype="float64") == whole
    blocked, index = realism(generated, real, dtype="float64")
    torch.testing.assert_close(blocked, ratios)
    assert torch.equal(index, nearest)


def test_radii_leave_the_vector_itself_out_and_count_duplicates():
    line = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    assert neighbour_radii(line, 1).tolist() == [1, 1, 0, 0]
    assert neighbour_radii(line, 2).tolist() == [9, 4, 4, 4]


def test_the_surface_of_a_ball_belongs_to_it():
    real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    assert precision_recall(torch.tensor([[2.0], [9.0]]), real, k=1).precision == 1
    assert precision_recall(torch.tensor([[2.01], [8.9]]), real, k=1).precision == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_set_covers_itself(dtype: module.Precision):
    features = points(4, 50, 8)
    same = precision_recall(features, features, dtype=dtype)
    assert (same.precision, same.recall, same.f_score) == (1, 1, 1)


def test_swapping_the_sets_swaps_the_two():
    a, b = points(5, 40) * 0.6, points(6, 45) + 0.4
    one, other = precision_recall(a, b), precision_recall(b, a)
    assert (one.precision, one.recall) == (other.recall, other.precision)
    assert one.f_score == pytest.approx(other.f_score)
    assert one.precision != one.recall


def test_mode_collapse_is_precise_and_recalls_nothing():
    real = points(7, 200, 4)
    collapsed = precision_recall(real[:1] + 1e-4 * points(8, 100, 4), real, dtype="float64")
    assert collapsed.precision == 1
    assert collapsed.recall <= 1 / 200


def test_noise_is_not_precise():
    real = points(9, 200, 8) * 0.1
    noise = precision_recall(points(10, 100, 8) * 5, real)
    assert noise.precision == 0
    assert noise.f_score == 0


def test_half_precision_rounds_and_falls_back_where_it_overflows():
    small, large = points(11, 20, 4), points(11, 20, 4) * 300
    exact = torch.cdist(small, small) ** 2
    rounded = squared_distances(small, small, dtype="float16")
    assert 1e-4 < float((rounded - exact).abs().max()) < 0.05
    assert torch.equal(squared_distances(large, large, dtype="float16"), squared_distances(large, large, dtype="float32"))


def test_realism_compares_with_each_ball_and_names_the_nearest():
    real = torch.tensor([[0.0], [1.0], [10.0]])
    ratios, nearest = realism(torch.tensor([[2.0], [0.5], [19.0]]), real, k=1)
    assert nearest.tolist() == [1, 0, 2]
    assert ratios.tolist() == pytest.approx([81 / 64, 4, 1])


def test_bad_sets_are_refused():
    with pytest.raises(ConfigError, match="neighbour 3 of a set of 3 images"):
        precision_recall(points(0, 3), points(0, 9))
    with pytest.raises(ConfigError, match=r"\(9, 2\) and \(9, 3\)|\(9, 3\) and \(9, 2\)"):
        precision_recall(points(0, 9), points(0, 9, 3))
    with pytest.raises(ConfigError, match="did you mean 'float16'"):
        squared_distances(points(0, 3), points(0, 3), dtype="flaot16")  # type: ignore[arg-type]


@pytest.mark.parametrize("tile", [1, 130, 10**6])
def test_density_and_coverage_are_those_of_a_plain_count(monkeypatch: pytest.MonkeyPatch, tile: int):
    generated, real = points(0, 60) * 0.7 + 0.6, points(1, 50)
    x, y = generated.numpy(), real.numpy()
    reach = [sorted(np.linalg.norm(np.delete(y, i, 0) - c, axis=1))[3] for i, c in enumerate(y)]
    inside = np.array([[np.linalg.norm(q - c) < r for c, r in zip(y, reach, strict=True)] for q in x])
    monkeypatch.setattr(module, "_TILE", tile)
    got = density_coverage(generated, real, k=4, dtype="float64")
    assert got.density == pytest.approx(inside.sum() / (4 * 60))
    assert got.coverage == pytest.approx(inside.any(axis=0).mean())
    assert 0 < got.coverage < 1 and 0 < got.density < 1


def test_density_and_coverage_of_known_cases():
    real = points(2, 300, 4)
    same = density_coverage(points(3, 300, 4), real)
    assert same.density == pytest.approx(1, abs=0.15) and same.coverage > 0.9  # 1 - 1/2^5 for equal laws
    assert density_coverage(real, real).coverage == 1
    noise = density_coverage(points(4, 100, 4) + 50, real)
    assert (noise.density, noise.coverage) == (0, 0)
    collapsed = density_coverage(real[:1] + 1e-4 * points(5, 100, 4), real, dtype="float64")
    assert collapsed.density >= 1 / 5 and collapsed.coverage < 0.1


def test_density_does_not_trust_an_outlier():
    # One real image far away has a ball that holds all others; to precision all within it is real.
    real = torch.cat([points(6, 200, 3), torch.full((1, 3), 40.0, dtype=torch.float64)])
    far = points(7, 100, 3) + 15
    assert precision_recall(far, real).precision == 1
    assert density_coverage(far, real).density < 0.25


def test_dropped_modes_cost_recall_and_coverage_alone():
    modes = 20 * points(8, 10, 6)
    real, other = (torch.cat([mode + points(seed + i, 40, 6) for i, mode in enumerate(modes)]) for seed in (100, 200))
    whole, half = precision_recall(other, real), precision_recall(other[:200], real)
    assert half.precision == pytest.approx(whole.precision, abs=0.05)
    assert half.recall < 0.7 * whole.recall
    assert density_coverage(other[:200], real).coverage < 0.7 * density_coverage(other, real).coverage


def test_the_surface_of_a_ball_does_not_belong_to_it_for_density():
    real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    on = density_coverage(torch.tensor([[2.0], [9.0]]), real, k=1)
    assert (on.density, on.coverage) == (0, 0)
    assert density_coverage(torch.tensor([[1.9], [0.5]]), real, k=1).coverage == 0.5
