"""The handwritten digits that come with scikit-learn: 1797 real scans, 8x8 gray, ten classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mezzotint.configs import DataConfig
from mezzotint.data.arrays import ArraySource
from mezzotint.data.source import Source
from mezzotint.data.split import split_ids, subset
from mezzotint.errors import DataError

TEST_SHARE = 0.3
SPLIT_SEED = 0


def open_digits(config: DataConfig) -> Source:
    """Opens scikit-learn's digits.

    The sixteen steps of gray are spread over 8 bits: round(v * 255 / 16). ``split`` gives a fixed division, made class by class with
    ``split_ids``: 70 % train, 30 % test. Names are ``digits/0000`` to ``digits/1796``, scikit-learn's order.

    Raises:
        DataError: scikit-learn is not installed.

    Source: UCI "Optical Recognition of Handwritten Digits", test part, as in scikit-learn's ``load_digits``.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits come with scikit-learn, which is missing; run: pip install scikit-learn") from error
    values, labels = load_digits(return_X_y=True)
    images = np.floor(np.asarray(values) * (255 / 16) + 0.5).astype(np.uint8).reshape(-1, 8, 8, 1)
    names = [f"digits/{i:04d}" for i in range(len(images))]
    classes = tuple(str(k) for k in range(10))

    def source(config: DataConfig) -> ArraySource:
        return ArraySource(images, config, names=names, labels=np.asarray(labels), classes=classes)

    whole = source(config)
    if config.split == "all":
        return whole
    # Whoever reads no labels gets the same division.
    train, test = split_ids(source(replace(config, labels=True)), (1 - TEST_SHARE, TEST_SHARE), SPLIT_SEED)
    return subset(whole, train if config.split == "train" else test)
