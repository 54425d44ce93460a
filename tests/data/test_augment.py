import math

import pytest
import torch

from mezzotint.conditioning import Augmentation
from mezzotint.configs import DataConfig, DataFacts
from mezzotint.data import open_source
from mezzotint.data.augment import NUMBERS, Augmented, _draw, augment
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.build import build_objective, build_stage, resolve
from mezzotint.recipes.small import small
from mezzotint.types import Batch


def picture(h: int = 24, w: int = 32) -> torch.Tensor:
    """A smooth picture without symmetry."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return torch.stack([0.6 * torch.sin(2 * x + y), 0.8 * torch.exp(-8 * ((x - 0.3) ** 2 + (y + 0.2) ** 2)) - 0.4])[None]


def test_without_a_probability_images_are_mirrored_alone_and_the_network_is_told():
    images = picture().repeat(200, 1, 1, 1)
    changed, told = augment(images, noise=Noise(0, range(200)), probability=0.0)
    mirrored = told[:, 0] == 1
    assert 60 < mirrored.sum() < 140
    assert torch.equal(changed[mirrored], images[mirrored].flip(3)) and torch.equal(changed[~mirrored], images[~mirrored])
    assert not told[:, 1:].any()


def test_what_is_told_undoes_what_was_done():
    """The inverse map, made from the nine numbers alone, gives the picture back in its middle."""
    n = 12
    images = picture(48, 48).repeat(n, 1, 1, 1)
    changed, told = augment(images, noise=Noise(3, range(n)), probability=0.6)
    # Shifts and zooms that move the middle out of sight cannot be undone.
    near = [i for i in range(n) if told[i, 7:].abs().max() < 1.2 and told[i, 2].abs() < 1.5 and told[i, 5:7].norm() < 1.5]
    assert len(near) > 5 and told[near][:, 1:].any(dim=1).sum() > 4
    errors = []
    for sign in (1, -1):  # of the stretching, which the numbers do not tell
        back = _draw(changed[near], forward_map(told[near].double(), 48, sign))
        back = torch.where(told[near][:, 1, None, None, None] > 0, back.flip(2), back)
        back = torch.where(told[near][:, 0, None, None, None] > 0, back.flip(3), back)
        middle = (..., slice(18, 30), slice(18, 30))
        errors.append((back[middle] - images[near][middle]).abs().amax((1, 2, 3)))
    assert torch.minimum(*errors).max() < 0.02 < torch.maximum(*errors).max()


def forward_map(told: torch.Tensor, size: int, sign: int) -> torch.Tensor:
    """From a pixel of the picture to where it lies in the changed one, by the definition of the numbers."""
    maps = []
    for row in told.tolist():
        _, _, scale, cosine, sine, along_x, along_y, right, down = row
        s, w, r = 2 ** (0.2 * scale), sign * math.hypot(along_x, along_y), math.atan2(along_y, along_x)
        turn = torch.tensor([[cosine + 1, sine, 0], [-sine, cosine + 1, 0], [0, 0, 1.0]]).double()
        c, d = math.cos(r), math.sin(r)
        axes = torch.tensor([[c, -d, 0], [d, c, 0], [0, 0, 1.0]]).double()
        g = 2 ** (0.2 * w)
        stretch = axes.T @ torch.diag(torch.tensor([g, 1 / g, 1.0]).double()) @ axes
        shift = torch.tensor([[1, 0, right * size / 8], [0, 1, down * size / 8], [0, 0, 1.0]]).double()
        maps.append(shift @ stretch @ turn @ torch.diag(torch.tensor([s, s, 1.0]).double()))
    return torch.stack(maps)


def test_an_image_drawn_anew_without_change_is_the_image():
    images = picture()
    assert (_draw(images, torch.eye(3, dtype=torch.float64)[None]) - images).abs().max() < 0.02
    # A quarter turn, which no resampling can hide behind.
    square = picture(32, 32)
    turn = torch.tensor([[[0, -1, 0], [1, 0, 0], [0, 0, 1]]], dtype=torch.float64)
    assert (_draw(square, turn) - square.rot90(1, (2, 3))).abs().max() < 0.03


def test_a_change_depends_on_seed_image_and_step_alone():
    images = picture().repeat(6, 1, 1, 1)
    whole = augment(images, noise=Noise(1, range(6), step=4), probability=0.5)
    part = augment(images[2:4], noise=Noise(1, [2, 3], step=4), probability=0.5)
    assert torch.equal(part[1], whole[1][2:4])
    torch.testing.assert_close(part[0], whole[0][2:4])
    assert not torch.equal(augment(images, noise=Noise(1, range(6), step=5), probability=0.5)[1], whole[1])
    assert whole[0].abs().max() <= 1


def test_probability_is_that_of_each_change():
    _, told = augment(torch.zeros(2000, 1, 8, 8), noise=Noise(0, range(2000)), probability=0.3)
    shares = (told != 0).double().mean(0)
    assert shares[0] == pytest.approx(0.5, abs=0.05) and shares[1] == pytest.approx(0.15, abs=0.03)
    # Half of the stretchings are along the axes, of which one number is 0.
    assert shares[2:].tolist() == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.15, 0.3, 0.3], abs=0.04)
    assert float(told[:, 7][told[:, 7] != 0].std()) == pytest.approx(1, abs=0.1)


def test_the_network_is_told_in_training_and_not_in_sampling():
    source = open_source(DataConfig(path="digits"))
    batch = Augmented(source, 0.5).batch([3, 4, 5], noise=Noise(0, [3, 4, 5]))
    assert batch.extras["augment"].shape == (3, NUMBERS)
    conditioner, t = Augmentation(), torch.zeros(3)
    assert torch.equal(conditioner(batch, t=t, noise=Noise(0, [3, 4, 5]), training=True)["augment"], batch.extras["augment"])
    assert conditioner(source.batch([3]), t=t[:1], noise=Noise(0, [3]), training=False) == {}
    recipe = resolve(with_augment(small(), 0.12), source.facts)
    assert recipe.net.augment == NUMBERS
    stage, told = build_stage(recipe), []
    objective = build_objective(recipe, stage)
    stage.denoiser.network.augment_embed.register_forward_pre_hook(lambda _, inputs: told.append(inputs[0]))
    objective(batch, phase="denoise", step=0, noise=Noise(0, [3, 4, 5]))
    assert torch.equal(told[0], batch.extras["augment"])
    assert isinstance(batch, Batch) and stage.conditioner.makes == {"label"}


def with_augment(recipe, probability, **changes):
    from dataclasses import replace

    return replace(recipe, data=replace(recipe.data, augment=probability), **changes)


def test_networks_that_cannot_be_told_are_refused():
    from mezzotint.configs import DiTConfig

    facts = DataFacts(channels=1, size=(8, 8), classes=("a", "b"))
    recipe = resolve(with_augment(small(), 0.12, net=DiTConfig(width=32, depth=1, heads=2)), facts)
    with pytest.raises(ConfigError, match="network 'dit' is not told of augmentation and would show it in samples"):
        build_objective(recipe, build_stage(recipe))
    recipe = resolve(with_augment(small(), 1.5), facts)
    with pytest.raises(ConfigError, match="data.augment 1.5 is no probability"):
        build_objective(recipe, build_stage(recipe))
