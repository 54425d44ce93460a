"""A network that tells made images from real ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mezzotint.errors import DataError
from mezzotint.tasks.distinguish import Distinguished, distinguish


def textures(n: int, *, seed: int) -> torch.Tensor:
    return torch.randn(n, 1, 12, 12, generator=torch.Generator().manual_seed(seed)).mul(0.4).clamp(-1, 1)


def test_blurred_images_are_found_out_and_equal_ones_are_not():
    real = textures(120, seed=0)
    blurred = F.avg_pool2d(real, 3, stride=1, padding=1)
    steps: list[int] = []
    found = distinguish(real, blurred, images=3200, width=8, on_step=lambda i, n: steps.append(i))
    assert found.accuracy > 0.95 and found.total == 240 and steps == list(range(1, 101))
    same = distinguish(real, textures(120, seed=1), images=3200, width=8)
    assert same.interval[0] < 0.55 and abs(same.accuracy - 0.5) < 0.12


def test_contents_that_were_seen_do_not_help():
    # Each made image is the real one of its number: a network that learned images by heart would be no better at the other half.
    real = textures(60, seed=0)
    assert abs(distinguish(real, real.clone(), images=3200, width=8).accuracy - 0.5) < 1e-9


def test_cuts_of_one_picture_stay_together():
    # Each picture has a mark of its own on the made side, so that a network that saw other cuts of it would tell them all.
    real, groups = textures(64, seed=0), [k // 8 for k in range(64)]
    marks = textures(8, seed=2).repeat_interleave(8, dim=0)
    apart, together = (distinguish(real, marks, images=3200, width=8, groups=g) for g in (groups, None))
    assert together.accuracy > 0.95 > apart.accuracy
    with pytest.raises(DataError, match="cuts of one picture"):
        distinguish(real, marks, groups=[0] * 64)


def test_it_repeats_itself():
    real, made = textures(20, seed=0), textures(20, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    runs = {distinguish(real, made, images=640, width=8, seed=s) for s in (3, 3)}
    assert len(runs) == 1 and torch.equal(torch.get_rng_state(), before)


def test_accuracy_and_interval():
    found = Distinguished(right=60, total=100, recognised=0.7)
    assert found.accuracy == 0.6 and found.interval[0] < 0.6 < found.interval[1]


@pytest.mark.parametrize(
    "shape, other", [((7, 1, 12, 12), (7, 1, 12, 12)), ((8, 1, 12, 12), (8, 1, 12, 13)), ((8, 1, 7, 12), (8, 1, 7, 12))]
)
def test_images_that_cannot_be_told(shape, other):
    with pytest.raises(DataError, match="at least 8"):
        distinguish(torch.zeros(shape), torch.zeros(other))
