"""The examples of the documentation run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
SELF_CONTAINED = ["nouns.md", "adding-a-sampler.md"]

# The sampler of the page meets the promise that the page makes for it: second order, on a world with an exact answer.
AFTER = {
    "adding-a-sampler.md": """
import torch
from mezzotint.configs import DiscreteConfig
from mezzotint.denoise import FunctionDenoiser
from mezzotint.registry import build
from mezzotint.sample.loop import sample
from mezzotint.schedules import build_schedule

schedule = build_schedule(DiscreteConfig(betas="cosine", steps=1000))
world = FunctionDenoiser(schedule, lambda x_t, alpha, sigma, cond: 0.3 + alpha * 0.04 / (alpha**2 * 0.04 + sigma**2) * (x_t - alpha * 0.3))
x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
start, end = (torch.tensor(t, dtype=torch.float64) for t in (0.9, 0.1))
spread = lambda t: (schedule(t)[0] ** 2 * 0.04 + schedule(t)[1] ** 2).sqrt()
exact = schedule(end)[0] * 0.3 + spread(end) / spread(start) * (x - schedule(start)[0] * 0.3)

def error(steps):
    sampler = build("sampler", "trapezoid")
    return float((sample(world, sampler, sampler.plan(schedule, steps=steps, t_start=0.9, t_end=0.1), x).x - exact).abs().max())

assert 3.4 < error(40) / error(80) < 4.6, (error(40), error(80))
"""
}


@pytest.mark.parametrize("page", SELF_CONTAINED)
def test_examples_run(page):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    code = "\n".join(blocks) + AFTER.get(page, "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
