from __future__ import annotations

import pytest
import torch

from mezzotint.metrics.inception_score import inception_score
from mezzotint.metrics.infinity import inception_score_infinity
from mezzotint.metrics.statistics import Statistics
from mezzotint.tasks.figures import measure


def test_scores_of_logits_need_nothing_of_the_reference() -> None:
    logits = 2 * torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
    found = measure(Statistics(400, {}, {"logits": logits}), Statistics(0, {}), ["is", "is_infinity"])
    assert found["is"].value == inception_score(logits, splits=1).value
    line = inception_score_infinity(logits, seed=2020)
    assert (found["is_infinity"].value, found["is_infinity"].spread) == (line.value, line.spread)
    assert (found["is"].label, found["is_infinity"].label) == ("is400", "is_infinity")
    assert found["is_infinity"].settings == {"points": 15, "smallest": None, "seed": 2020}
    assert found["is"].spread == pytest.approx(inception_score(logits, splits=20).spread / 20**0.5, rel=0.6)
