"""The low-resolution condition and its augmentation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.analytic import QuickNoise

from mezzotint.conditioning import Label, LowRes, Together
from mezzotint.configs import LabelConfig, LowResConfig
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.resolution import enlarge, reduce
from mezzotint.types import Batch

T = torch.zeros(0)
PLAIN = LowResConfig(scale=2)
NOISY = replace(PLAIN, augment="cosine", augment_steps=100)


class Quick(QuickNoise):
    """One generator, for parts of a draw as well."""

    def sub(self, stage: str) -> Noise:
        return self


def batch(n: int = 3, side: int = 4) -> Batch:
    images = torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    return Batch(images, torch.arange(n), torch.arange(n) % 2)


def test_without_noise_it_is_the_enlarged_reduction_to_the_bit() -> None:
    held = batch()
    wanted = enlarge(reduce(held.images, 2), (4, 4))
    plain = LowRes(PLAIN)(held, t=T, noise=Noise(0, range(3)), training=True)
    assert plain.keys() == {"low_res"} == LowRes(PLAIN).makes and torch.equal(plain["low_res"], wanted)
    tested = LowRes(NOISY)(held, t=T, noise=Noise(0, range(3)), training=False)
    assert tested.keys() == {"low_res", "low_res_level"} == LowRes(NOISY).makes
    assert torch.equal(tested["low_res"], wanted) and tested["low_res_level"].tolist() == [0, 0, 0]
    small = reduce(held.images, 2)
    at_zero = LowRes(NOISY).prepare(small, level=0.0, noise=Noise(0, range(3)))
    mixed = LowRes(NOISY).prepare(small, level=torch.tensor([0.0, 0.5, 0.0]), noise=Noise(0, range(3)))
    assert torch.equal(at_zero["low_res"], wanted)
    assert torch.equal(mixed["low_res"][::2], wanted[::2]) and not torch.equal(mixed["low_res"][1], wanted[1])


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_noise_is_that_of_the_forward_process(level) -> None:
    n = 4000
    conditioner = LowRes(NOISY)
    assert conditioner.schedule is not None
    alpha, sigma = (float(v) for v in conditioner.schedule(torch.tensor([level], dtype=torch.float64)))
    for value, mean in ((0.0, 0.0), (0.8, 0.8 * alpha)):
        z = conditioner.prepare(torch.full((n, 1, 2, 2), value), level=level, noise=Quick(n), size=(2, 2))["low_res"]
        assert z.mean().item() == pytest.approx(mean, abs=4 * sigma / (4 * n) ** 0.5)
        assert z.var().item() == pytest.approx(sigma**2, rel=0.04)


def test_training_draws_levels_evenly_and_says_which() -> None:
    n = 20_000
    held = Batch(torch.zeros(n, 1, 2, 2), torch.arange(n))
    config = replace(NOISY, augment_steps=9)
    cond = LowRes(config)(held, t=T, noise=Quick(n), training=True)
    counts = torch.bincount((cond["low_res_level"] * 9).round().long(), minlength=10)
    assert len(counts) == 10 and counts.min() > 1800 and counts.max() < 2200  # 2000 +- 5 standard deviations
    clean = cond["low_res_level"] == 0
    assert cond["low_res"][clean].abs().max() == 0 and cond["low_res"][~clean].abs().mean() > 0.1


def test_blur_acts_on_half_of_the_training_images() -> None:
    n = 100_000
    dot = torch.zeros(1, 1, 3, 3)
    dot[..., 1, 1] = 1
    images = enlarge(dot, (6, 6), up="bilinear").expand(n, 1, 6, 6)
    conditioner = LowRes(LowResConfig(scale=2, down="area", blur=0.5))
    held = Batch(images, torch.arange(n))
    seen = conditioner(held, t=T, noise=Quick(n), training=True)["low_res"]
    calm = conditioner(held, t=T, noise=Quick(n), training=False)["low_res"]
    blurred = (seen - calm).flatten(1).abs().amax(dim=1) > 0
    assert abs(blurred.float().mean().item() - 0.5) < 0.01
    assert len(seen[blurred].flatten(1)[:, 14].unique()) > 1000  # each has a sigma of its own


def test_the_blur_has_sigmas_from_0_4_to_0_6() -> None:
    """Read from what it makes of a line of one pixel: side over centre is exp(-1 / (2 sigma^2))."""
    n = 4000
    line = torch.zeros(n, 1, 10, 10)
    line[..., 4:6] = 1
    conditioner = LowRes(LowResConfig(scale=2, down="area", up="bilinear", blur=1.0))
    seen = conditioner(Batch(line, torch.arange(n)), t=T, noise=Quick(n), training=True)["low_res"][:, 0, 5].double()
    side = seen[:, 2] / 0.75  # a bilinear pixel is 3/4 of its own and 1/4 of the next
    centre = (seen[:, 4] - 0.25 * side) / 0.75
    sigma = (-1 / (2 * (side / centre).log())).sqrt()
    assert 0.4 <= sigma.min() < 0.401 and 0.599 < sigma.max() <= 0.6
    assert abs(sigma.mean() - 0.5) < 0.005 and abs(sigma.var() - 0.2**2 / 12) < 0.0003


def test_an_image_has_its_own_augmentation() -> None:
    held, conditioner = batch(), LowRes(replace(NOISY, blur=0.5, degrade=("noise,high=0.3",)))
    whole = conditioner(held, t=T, noise=Noise(3, [4, 5, 6]), training=True)
    alone = conditioner(Batch(held.images[2:], torch.tensor([6])), t=T, noise=Noise(3, [6]), training=True)
    assert torch.equal(alone["low_res"], whole["low_res"][2:]) and torch.equal(alone["low_res_level"], whole["low_res_level"][2:])
    other = conditioner(held, t=T, noise=Noise(3, [4, 5, 6]).at(1), training=True)
    assert not torch.equal(other["low_res"], whole["low_res"])


def test_labels_and_images_together() -> None:
    both = Together([Label(LabelConfig(num_classes=2, drop=0.5)), LowRes(NOISY)])
    assert both.makes == {"label", "low_res", "low_res_level"}
    assert both(batch(), t=T, noise=Noise(0, range(3)), training=True).keys() == both.makes
    label, low = both.part(Label), both.part(LowRes)
    assert isinstance(label, Label) and isinstance(low, LowRes) and label.part(LowRes) is None


def test_what_cannot_be() -> None:
    low = torch.zeros(2, 1, 2, 2)
    with pytest.raises(CapabilityError, match="trained without noise"):
        LowRes(PLAIN).prepare(low, level=0.1, noise=Noise(0, [0, 1]))
    with pytest.raises(ConfigError, match="from 0"):
        LowRes(NOISY).prepare(low, level=1.5, noise=Noise(0, [0, 1]))
    with pytest.raises(ConfigError, match="no random streams"):
        LowRes(NOISY).prepare(low, level=0.5)
    with pytest.raises(ConfigError, match="did you mean 'noise'"):
        LowRes(replace(PLAIN, degrade=("blur,nois",)))
    for wrong, message in ((replace(PLAIN, scale=1), "at least 2"), (replace(PLAIN, blur=2.0), "give a probability")):
        with pytest.raises(ConfigError, match=message):
            LowRes(wrong)
