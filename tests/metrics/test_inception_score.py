import numpy as np
import pytest
import torch

from mezzotint.errors import ConfigError, DataError
from mezzotint.metrics.inception_score import inception_score


def by_hand(logits: np.ndarray) -> float:
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return float(np.exp(np.mean((p * np.log(p / p.mean(0))).sum(1))))


def test_sure_and_varied_images_score_the_number_of_classes() -> None:
    sure = 60 * torch.eye(10).repeat(30, 1)
    assert inception_score(sure, splits=3).value == pytest.approx(10)
    assert inception_score(sure, splits=3).spread == pytest.approx(0, abs=1e-12)
    assert inception_score(torch.zeros(100, 10)).value == pytest.approx(1)
    assert inception_score(sure[:1].repeat(50, 1)).value == pytest.approx(1)  # one class only


def test_parts_are_contiguous_and_take_all_images() -> None:
    logits = torch.from_numpy(np.random.RandomState(0).standard_normal((107, 6))) * 2
    rows = logits.numpy()
    by_number, by_size = inception_score(logits, splits=4), inception_score(logits, split_size=40)
    assert by_number.parts == pytest.approx([by_hand(rows[a:b]) for a, b in ((0, 26), (26, 53), (53, 80), (80, 107))])
    assert by_size.parts == pytest.approx([by_hand(rows[a:b]) for a, b in ((0, 40), (40, 80), (80, 107))])
    assert by_number.value == pytest.approx(np.mean(by_number.parts))
    assert by_number.spread == pytest.approx(np.std(by_number.parts))


def test_a_random_order_is_that_of_its_seed() -> None:
    ordered = 5 * torch.eye(5).repeat_interleave(20, dim=0)  # each contiguous part has one class
    assert inception_score(ordered, splits=5).value == pytest.approx(1)
    shuffled = inception_score(ordered, splits=5, shuffle=1)
    assert shuffled.value > 2
    assert shuffled == inception_score(ordered, splits=5, shuffle=1) != inception_score(ordered, splits=5, shuffle=2)
    assert inception_score(ordered, splits=1, shuffle=1).value == pytest.approx(inception_score(ordered, splits=1).value)


def test_what_cannot_be_scored() -> None:
    logits = torch.zeros(6, 3)
    with pytest.raises(ConfigError, match="6 images cannot be split into 10 parts"):
        inception_score(logits)
    with pytest.raises(ConfigError, match="parts of 0 images out of 6"):
        inception_score(logits, split_size=0)
    with pytest.raises(DataError, match="give a matrix"):
        inception_score(logits[0])
    logits[2, 1] = torch.nan
    with pytest.raises(DataError, match="1 of 6 images are not finite"):
        inception_score(logits, splits=2)
