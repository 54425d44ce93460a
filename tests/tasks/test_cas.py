from __future__ import annotations

import numpy as np
import pytest
from tests.tasks.sets import array_of, digits, memory

from mezzotint.errors import ConfigError, DataError
from mezzotint.tasks.cas import accuracy_score
from mezzotint.tasks.evaluate import evaluate

BUDGET = {"recipe": "digits-classifier", "images": 2000}


@pytest.fixture(scope="module")
def real():
    return digits("test")


def labelled(source, labels=None, classes=None):
    return memory(array_of(source), source.labels if labels is None else labels, source.facts.classes if classes is None else classes)


def test_real_images_teach_and_wrong_labels_do_not(real):
    train = digits("train")
    good = evaluate(train, real, metrics=["cas"], cas=BUDGET)
    cas = good.figures["cas"]
    assert cas.value > 0.75
    assert cas.spread == pytest.approx((cas.value * (1 - cas.value) / len(real)) ** 0.5)
    assert good.protocol["settings"]["cas"]["training_images"] == 2000
    assert good.protocol["settings"]["cas"]["tested"] == len(real)
    assert list(good.figures) == ["cas"]
    wrong = accuracy_score(labelled(train, np.random.default_rng(0).permutation(train.labels)), real, **BUDGET | {"images": 800})
    assert wrong.accuracy < 0.3


def test_classes_are_matched_by_name_and_seeds_are_spread(real):
    train = digits("train")
    two = [i for i, k in enumerate(train.labels) if k in (3, 7)]
    pixels, labels = array_of(train)[two], (train.labels[two] == 3).astype(int)
    found = accuracy_score(memory(pixels, labels, ("7", "3")), real, recipe="digits-classifier", images=700, seeds=2, seed=4)
    assert found.accuracy > 0.9
    assert found.settings["seeds"] == [4, 5]
    assert found.settings["classes"] == 2
    assert found.settings["tested"] == sum(k in (3, 7) for k in real.labels)
    assert found.spread_of == "standard deviation of 2 trainings"


def test_mistakes_are_refused(real):
    with pytest.raises(DataError, match="CAS needs labels, and the samples have none"):
        accuracy_score(memory(array_of(real)), real)
    with pytest.raises(DataError, match="the samples are 4x4x1, the real images 8x8x1"):
        accuracy_score(memory(np.zeros((9, 4, 4, 1), np.uint8), np.arange(9) % 2, ("0", "1")), real)
    with pytest.raises(DataError, match="CAS needs two classes or more that samples and real images share; the samples have cat, dog"):
        accuracy_score(memory(array_of(real)[:9], np.arange(9) % 2, ("cat", "dog")), real)
    with pytest.raises(ConfigError, match="recipe 'digits' trains no classifier"):
        accuracy_score(real, real, recipe="digits")
