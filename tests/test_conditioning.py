from __future__ import annotations

import pytest
import torch

from mezzotint.conditioning import Label, Unconditional
from mezzotint.configs import LabelConfig
from mezzotint.errors import ConfigError, DataError
from mezzotint.noise import Noise
from mezzotint.types import Batch

T = torch.zeros(0)


def batch(n: int, label: bool = True) -> Batch:
    return Batch(torch.zeros(n, 1, 1, 1), torch.arange(n), torch.arange(n) % 7 if label else None)


@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_labels_are_dropped_as_often_as_asked(drop) -> None:
    n = 100_000
    conditioner = Label(LabelConfig(num_classes=7, drop=drop))
    label = conditioner(batch(n), t=T, noise=Noise(0, range(n)), training=True)["label"]
    dropped = label == 7
    assert abs(dropped.float().mean().item() - drop) < 0.003
    assert torch.equal(label[~dropped], batch(n).label[~dropped])


def test_labels_are_dropped_by_the_image_and_the_step() -> None:
    conditioner, noise = Label(LabelConfig(num_classes=7, drop=0.5)), Noise(0, range(64))
    once = conditioner(batch(64), t=T, noise=noise, training=True)["label"]
    assert torch.equal(once, conditioner(batch(64), t=T, noise=noise, training=True)["label"])
    assert not torch.equal(once, conditioner(batch(64), t=T, noise=noise.at(1), training=True)["label"])


def test_labels_stay_outside_training_and_without_a_null_class() -> None:
    for drop, training in ((0.5, False), (0.0, True)):
        conditioner = Label(LabelConfig(num_classes=7, drop=drop))
        assert torch.equal(conditioner(batch(20), t=T, noise=Noise(0, range(20)), training=training)["label"], batch(20).label)


def test_the_null_class_is_the_row_after_the_last() -> None:
    conditioner = Label(LabelConfig(num_classes=7, drop=0.1))
    assert conditioner.rows == 8 and Label(LabelConfig(num_classes=7)).rows == 7
    other = torch.ones(3)
    null = conditioner.null({"label": torch.tensor([0, 3, 6]), "level": other})
    assert null["label"].tolist() == [7, 7, 7] and null["level"] is other
    with pytest.raises(ConfigError, match="trained without a null class"):
        Label(LabelConfig(num_classes=7)).null({"label": torch.tensor([0])})


def test_bad_settings_and_missing_labels() -> None:
    with pytest.raises(ConfigError, match="need at least one class"):
        Label(LabelConfig(num_classes=0))
    with pytest.raises(ConfigError, match=r"label.drop 1.0 is not in \[0, 1\)"):
        Label(LabelConfig(num_classes=3, drop=1.0))
    with pytest.raises(DataError, match="the data has no labels"):
        Label(LabelConfig(num_classes=3))(batch(2, label=False), t=T, noise=Noise(0, [0, 1]), training=False)


def test_each_declares_what_it_makes() -> None:
    for conditioner in (Label(LabelConfig(num_classes=7)), Unconditional()):
        assert set(conditioner(batch(2), t=T, noise=Noise(0, [0, 1]), training=True)) == conditioner.makes
