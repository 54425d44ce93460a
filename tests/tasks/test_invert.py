from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.pipelines.tiny import generator_spec, model_of
from torch import Tensor, nn

from mezzotint.configs import DenoiserConfig, FlowConfig, LabelConfig
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.sample.ancestral import DDIMInversion
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.tasks.invert import invert

LEVEL, SPREAD = 0.5, 0.2
G = torch.Generator().manual_seed(0)
LIGHT = LEVEL + SPREAD * torch.randn(3, 3, 4, 4, generator=G).clamp(-2, 2)
IMAGES = torch.where(torch.rand(LIGHT.shape, generator=G) < 0.5, LIGHT, -LIGHT)


class TwoHumps(nn.Module):
    """The exact eps of pixels that are light or dark, each with some spread; of the first class they are all light."""

    accepts = frozenset({"label"})

    def __init__(self, schedule: Schedule):
        super().__init__()
        self.schedule, self.unused = schedule, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, index: Tensor, cond) -> Tensor:
        alpha, sigma = (v.float().reshape(-1, 1, 1, 1) for v in self.schedule((index.double() + 1) / 1000))
        total = alpha**2 * SPREAD**2 + sigma**2
        side = torch.tanh(alpha * LEVEL * x / total)
        light = (cond["label"] == 0).reshape(-1, 1, 1, 1)
        mean = LEVEL * torch.where(light, 1.0, side)
        x0 = mean + alpha * SPREAD**2 / total * (x - alpha * mean)
        return (x - alpha * x0) / sigma


@pytest.fixture
def model():
    made = model_of(generator_spec(denoiser=DenoiserConfig()))
    made.stage.denoiser.network = TwoHumps(made.stage.schedule)
    return made


def test_images_come_back_the_better_the_more_steps(model) -> None:
    few, many = (invert(model, IMAGES, steps=steps, grid="logsnr") for steps in (20, 80))
    assert many.steps == 80 and many.t == 1 and many.latent.shape == IMAGES.shape == many.reconstruction.shape
    assert bool((many.rmse < 0.3 * few.rmse).all()) and many.rmse.max() < 5 and bool((many.largest >= many.rmse).all())
    torch.testing.assert_close(many.rmse, (127.5 * (many.reconstruction - IMAGES)).square().mean((1, 2, 3)).sqrt())
    assert 0.5 < many.latent.std() < 1.5  # noise, and not the image
    seen = []
    alone = invert(model, IMAGES[1:2], steps=20, grid="logsnr", on_step=lambda i, n: seen.append((i, n)))
    torch.testing.assert_close(alone.latent[0], few.latent[1], rtol=1e-4, atol=1e-4)
    assert seen == [(i, 20) for i in range(1, 21)] * 2


def test_the_label_is_heard_on_both_ways(model) -> None:
    free, light = (invert(model, LIGHT, label=label, steps=40, grid="logsnr") for label in (None, "cat"))
    assert (free.latent - light.latent).abs().max() > 0.1 and light.rmse.max() < 6
    with pytest.raises(ConfigError, match="unknown class 'cow'"):
        invert(model, IMAGES, label="cow")


def test_guidance_is_heard_too(model) -> None:
    plain, guided = (invert(model, IMAGES, label="cat", steps=10, guidance=wraps) for wraps in ((), "cfg,scale=2"))
    assert (plain.latent - guided.latent).abs().max() > 0.01


def test_what_cannot_be_inverted(model) -> None:
    with pytest.raises(ConfigError, match="images of shape"):
        invert(model, IMAGES[:, :1])
    certain = model_of(generator_spec(label=LabelConfig()))
    with pytest.raises(ConfigError, match="has no null class; give the label: cat, dog, 7"):
        invert(certain, IMAGES)
    model.stage = replace(model.stage, prior=type("Done", (), {"clean": True})())
    with pytest.raises(CapabilityError, match="nothing to invert"):
        invert(model, IMAGES)
    model.stage.denoiser.accepts = frozenset({"label", "low_res"})
    with pytest.raises(CapabilityError, match="is told low_res as well"):
        invert(model, IMAGES)


@pytest.mark.parametrize("end, last", [(0.0, 0.1), ("last", 0.1), (0.4, 0.4)])
def test_inversions_begin_at_the_end_of_the_way_back(end, last) -> None:
    schedule = build_schedule(FlowConfig(t_min=0.1))
    plan = DDIMInversion().plan(schedule, steps=5, t_end=end)
    assert plan.grid[0].item() == last and plan.grid[-1].item() == 1 and plan.steps == (4 if end == 0.0 else 5)
