from __future__ import annotations

import pytest
import torch
from tests.analytic import SCHEDULES

from mezzotint.noise import Noise
from mezzotint.priors import Gaussian
from mezzotint.schedules import build_schedule


@pytest.mark.parametrize("name", ["linear", "vp", "ve", "flow"])
def test_pure_noise_at_the_noisiest_time(name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    x, t = Gaussian(schedule).sample((3, 8, 8), cond={}, noise=Noise(0, range(100)))
    assert x.shape == (100, 3, 8, 8) and x.dtype == torch.float32
    assert t.dtype == torch.float64 and t.tolist() == [schedule.t_max] * 100
    assert x.std().item() == pytest.approx(20 if name == "ve" else 1, rel=0.02) and abs(x.mean().item()) < 0.03 * x.std().item()


def test_an_image_starts_where_its_id_says() -> None:
    prior = Gaussian(build_schedule(SCHEDULES["linear"]))
    whole, _ = prior.sample((1, 2, 2), cond={}, noise=Noise(3, [5, 9, 2]))
    part, _ = prior.sample((1, 2, 2), cond={}, noise=Noise(3, [2, 5]))
    assert torch.equal(part, whole[[2, 0]])
