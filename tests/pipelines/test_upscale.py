"""Enlarging pictures of any size and kind."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.pipelines.tiny import generator_spec
from tests.pipelines.tiny import model_of as generator
from tests.pipelines.upscalers import UNET, model_of, model_that_knows

from mezzotint.configs import DenoiserConfig, DiscreteConfig, LabelConfig, LowResConfig, SampleConfig
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.pipelines import upscale as module
from mezzotint.pipelines.cascade import Cascade
from mezzotint.pipelines.upscale import Upscaler, mirrored, upscale
from mezzotint.resolution import enlarge, reduce


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth images, as photographs are."""
    few = torch.rand(*shape[:2], -(-shape[2] // 3) + 1, -(-shape[3] // 3) + 1, generator=torch.Generator().manual_seed(seed))
    return enlarge(few * 1.8 - 0.9, shape[2:]).clamp(-1, 1)


def pixels(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    x = images(1, shape[2], *shape[:2], seed=seed)[0].permute(1, 2, 0).numpy()
    return np.round((x + 1) / 2 * np.iinfo(dtype).max).astype(dtype)


def decibels(made: np.ndarray, low: np.ndarray, scale: int, down: str = "bicubic") -> float:
    top = np.iinfo(low.dtype).max
    x, y = (torch.from_numpy(a.astype(np.float64) / top * 2 - 1).permute(2, 0, 1)[None] for a in (made, low))
    return -10 * math.log10(float((reduce(x, scale, down=down) - y).square().mean()) / 4)


# --- images of one size ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (4, 9), (13, 7), (11, 11)])
def test_what_the_network_is_told_covers_the_picture(size):
    low = images(2, 3, *size)
    made = upscale(model_that_knows(), low)
    assert made.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert torch.allclose(made, enlarge(low, made.shape[2:]).clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 30)])
def test_pictures_below_a_tile_are_continued_by_mirroring(size):
    low = images(1, 3, *size)
    tall, wide = max(4, size[0]), max(4, size[1])
    wanted = enlarge(mirrored(low, tall, wide), (4 * tall, 4 * wide)).clamp(-1, 1)[..., : 4 * size[0], : 4 * size[1]]
    assert torch.allclose(upscale(model_that_knows(), low), wanted, atol=1e-4)


def test_one_tile_is_what_the_model_itself_makes():
    model, low = model_of(), images(3, 3, 4, 4)
    assert torch.equal(upscale(model, low, seed=3), model.sample(low_res=low, seed=3).clamp(-1, 1))
    large = images(1, 3, 9, 7)
    assert torch.equal(Tall(model)(large, [0]), model.sample(low_res=large, ids=[0]).clamp(-1, 1))


class Tall(Upscaler):
    """One tile for all of a picture of 9x7."""

    def __init__(self, model):
        super().__init__(model)
        self.passes = (replace(self.passes[0], tile=(36, 28), overlap=0),)


def test_an_image_depends_on_its_id_and_nothing_beside_it():
    model, low = model_of(), images(3, 3, 5, 6)
    every = upscale(model, low, ids=[7, 8, 9], batch_size=2)
    for k, name in enumerate((7, 8, 9)):
        assert (upscale(model, low[k : k + 1], ids=[name], batch_size=5) - every[k]).abs().max() < 1 / 255
    assert (upscale(model, low[:1], ids=[8]) - every[0]).abs().max() > 0.05
    assert (upscale(model, low[:1], ids=[7], seed=1) - every[0]).abs().max() > 0.05


def test_samples_of_one_image_differ_and_stand_together():
    model, low = model_of(), images(2, 3, 4, 4)
    two = upscale(model, low, num=2)
    assert torch.allclose(two[0::2], upscale(model, low), atol=1e-5)
    assert (two[0] - two[1]).abs().max() > 0.05


def test_several_passes():
    low = images(1, 3, 5, 5)
    made = upscale(model_that_knows(), low, scale=16)
    once = enlarge(low, (20, 20)).clamp(-1, 1)
    assert torch.allclose(made, enlarge(once, (80, 80)).clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize("scale", [0, -4, 2, 8, 12])
def test_scales_that_are_no_power_of_the_models(scale):
    with pytest.raises(ConfigError, match="give 4, 16, 64 or another power of 4"):
        Upscaler(model_of(), scale=scale)


def test_a_model_that_gives_the_image_at_once_goes_in_tiles_too():
    model, low = model_of(regression=True), images(2, 3, 9, 6)
    got: list[float] = []
    upscaler = Upscaler(model, tile=16, overlap=8, batch_size=3)
    made = upscaler(low, [0, 1], on_work=got.append)
    assert made.shape == (2, 3, 36, 24) and sum(got) == 2 * upscaler.work(9, 6, 3)
    assert torch.equal(made, upscaler(low, [5, 6]))


def test_the_class_reaches_the_network():
    model = model_that_knows(net=UNET, classes=("ant", "bee"))
    network = model.stage.denoiser.network
    for given, label in (("bee", 1), ("0", 0), ("null", 2), (None, 2)):
        network.seen.clear()
        upscale(model, images(1, 3, 6, 4), class_=given)
        assert {int(x) for cond in network.seen for x in cond["label"]} == {label}
    without = model_that_knows(net=UNET, classes=("ant", "bee"), label=LabelConfig())
    with pytest.warns(UserWarning, match="enlarging as 'ant'"):
        Upscaler(without)
    with pytest.raises(ConfigError, match="unknown class 'cow'"):
        Upscaler(model, class_="cow")


def test_noise_on_the_low_resolution_image():
    model = model_that_knows(net=UNET, low_res=LowResConfig(scale=4, augment="linear", augment_steps=100))
    network, low = model.stage.denoiser.network, images(1, 3, 4, 4)
    clean, noisy = (upscale(model, low, level=level) for level in (0.0, 0.5))
    assert (clean - noisy).abs().max() > 0.1
    assert {float(cond["low_res_level"][0]) for cond in network.seen} == {0.0, 0.5}
    with pytest.raises(CapabilityError, match="without noise"):
        Upscaler(model_of(), level=0.5)


def test_guidance_sees_tiles():
    model = model_of(net=UNET, classes=("ant", "bee"))
    low = images(1, 3, 6, 6)
    plain, guided = (upscale(model, low, class_="ant", guidance=g) for g in ((), ("cfg,scale=3",)))
    assert guided.shape == plain.shape and (guided - plain).abs().max() > 0.01


def test_models_that_enlarge_nothing():
    with pytest.raises(CapabilityError, match="begins from no low-resolution image"):
        Upscaler(generator(generator_spec()))


# --- cascades --------------------------------------------------------------------------------------------------------------


NOISY = LowResConfig(scale=2, augment="cosine", augment_steps=1000)


def stages(*, base: bool = False, level: float = 0.0, truncated: bool = False, low_res: LowResConfig = NOISY) -> Cascade:
    """From 4x4 to 16x16 by 4 and to 32x32 by 2, perhaps after a model that makes the 4x4 images."""
    first = [generator(generator_spec(size=(4, 4), label=None, classes=()))] if base else []
    sample = SampleConfig(steps=3, level=level, truncated=truncated)
    low = replace(NOISY, scale=4)
    own = {"net": UNET, "denoiser": DenoiserConfig()}
    middle = model_of(side=16, low_res=low, schedule=DiscreteConfig(betas="cosine", steps=1000), sample=sample, **own)
    return Cascade([*first, middle, model_of(side=32, low_res=low_res, sample=sample, **own)])


@pytest.mark.parametrize("settings", [{}, {"level": 0.3}, {"stages": {2: {"level": 0.4, "truncated": True}}}, {"steps": 2}])
def test_one_tile_of_a_cascade_is_what_it_makes_itself(settings):
    whole, low = stages(), images(2, 3, 4, 4)
    made = upscale(whole, low, seed=3, **settings)
    assert made.shape == (2, 3, 32, 32)
    assert torch.equal(made, whole.sample(low_res=low, seed=3, **settings).clamp(-1, 1))


def test_stages_have_tiles_of_their_own():
    upscaler = Upscaler(stages(), batch_size=3)
    assert [one.tile for one in upscaler.passes] == [(16, 16), (32, 32)] and upscaler.scale == 8
    got: list[float] = []
    made = list(upscaler.pixels(pixels(9, 5, 3), 1, samples=range(2), on_work=got.append))
    assert made[0].shape == (72, 40, 3) and sum(got) == 2 * upscaler.work(9, 5, 3)
    assert upscaler.settings["tile"] == [[16, 16], [32, 32]] and len(upscaler.settings["before"]) == 1


def test_a_stage_that_makes_images_is_left_out_and_so_is_the_noise_against_its_flaws():
    whole, low = stages(base=True, level=0.5), images(1, 3, 6, 4)
    plain, rest = upscale(whole, low), Cascade(whole.stages[1:])
    assert torch.equal(plain, upscale(rest, low, stages={1: {"level": 0.0}}))
    assert torch.equal(upscale(whole, low, stages={2: {"level": 0.5}}), upscale(rest, low))
    assert torch.equal(upscale(whole, low, level=0.5), upscale(rest, low))
    two = Cascade(whole.stages[:2])
    assert torch.equal(upscale(two, low), upscale(whole.stages[1], low, level=0.0))
    assert torch.equal(upscale(two, low, stages={2: {"steps": 2, "truncated": True}}), upscale(whole.stages[1], low, level=0.0, steps=2))


def test_less_and_more_than_all_stages():
    whole, low = stages(), images(1, 3, 5, 4)
    assert torch.equal(upscale(whole, low, scale=4), upscale(whole.stages[0], low))
    more = Upscaler(whole, scale=16)
    assert [(one.scale, one.repeat) for one in more.passes] == [(4, 0), (2, 0), (2, 1)]
    assert more(low, [0]).shape == (1, 3, 80, 64)
    for scale in (1, 2, 12):
        with pytest.raises(ConfigError, match=f"scale {scale}, and this model enlarges 8 times; give 4, 8, 16, 32"):
            Upscaler(whole, scale=scale)


def test_every_stage_of_a_cascade_is_consistent():
    low = pixels(9, 7, 3)
    free, bound = (Upscaler(stages(), consistent=c) for c in (False, True))
    assert decibels(next(bound.pixels(low, 1)), low, 8) > 45 > decibels(next(free.pixels(low, 1)), low, 8)
    # The second stage begins from a picture that is consistent.
    network = bound.passes[1].model.stage.denoiser.network
    network.register_forward_pre_hook(lambda _, args: told.append(args[2]["low_res"]))
    told: list[torch.Tensor] = []
    small = images(1, 3, 4, 4)
    bound(small, [0])
    assert (reduce(reduce(told[0], 2), 4) - small).abs().max() < 0.1
    with pytest.raises(ConfigError, match="truncated stage hands on noise"):
        Upscaler(stages(), consistent=True, stages={2: {"level": 0.4, "truncated": True}})


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"stages": {1: {"steps": 2}}}, "stage 1, which makes its images from nothing"),
        ({"stages": {4: {"steps": 2}}}, "stages are 1 to 3"),
        ({"scale": 4, "stages": {3: {"steps": 2}}}, "stage 3, which takes no part in enlarging 4 times"),
        ({"calls": 4}, "not tuned as a whole"),
    ],
)
def test_settings_of_stages_that_cannot_be(settings, words):
    with pytest.raises(ConfigError, match=words):
        Upscaler(stages(base=True), **settings)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"tile": 18}, "multiples of 4"),
        ({"tile": 0}, "at least 1"),
        ({"overlap": 9}, "overlap from 0 to 8"),
        ({"batch_size": 0}, "at least 1"),
        ({"sampler": "dim"}, "did you mean"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ConfigError, match=words):
        Upscaler(model_of(), **settings)


def test_images_that_cannot_be(monkeypatch):
    upscaler = Upscaler(model_of())
    with pytest.raises(ConfigError, match="of 1 channels"):
        upscaler(images(1, 1, 4, 4), [0])
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="cut the picture into parts"):
        upscaler(images(1, 3, 8, 8), [0])
    with pytest.raises(ConfigError, match="at least 1"):
        upscale(model_of(), images(1, 3, 4, 4), num=0)


@pytest.mark.parametrize("settings", [{"sampler": "heun"}, {"sampler": "ddim"}, {"scale": 16}, {"num": 3}])
def test_work_adds_up(settings):
    num, settings = settings.get("num", 1), {k: v for k, v in settings.items() if k != "num"}
    upscaler = Upscaler(model_that_knows(), batch_size=3, **settings)
    got: list[float] = []
    made = list(upscaler.pixels(pixels(9, 5, 3), 1, samples=range(num), on_work=got.append))
    assert len(made) == num and sum(got) == num * upscaler.work(9, 5, 3)


def test_a_sampler_that_chooses_its_steps():
    upscaler = Upscaler(model_that_knows(), sampler="dpm_solver_adaptive")
    low = images(1, 3, 5, 4)
    assert upscaler.work(5, 4, 3) is None and upscaler.passes[0].steps is None
    assert torch.allclose(upscaler(low, [0]), enlarge(low, (20, 16)).clamp(-1, 1), atol=2e-2)


# --- consistency -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down, up", [("bicubic", "bicubic"), ("area", "bilinear")])
@pytest.mark.parametrize("shape", [(4, 4, 3), (9, 7, 3), (1, 1, 3), (1, 6, 1), (12, 5, 1)])
def test_reduced_again_the_picture_is_the_one_that_was_given(shape, down, up):
    low = pixels(*shape)
    model = model_of(low_res=LowResConfig(scale=4, down=down, up=up))
    free, bound = (next(Upscaler(model, consistent=c).pixels(low, 1)) for c in (False, True))
    assert decibels(bound, low, 4, down) > 45 > decibels(free, low, 4, down)


def test_consistency_of_pictures_that_have_none_is_admitted():
    noise = np.random.default_rng(0).integers(0, 2, (8, 8, 3)).astype(np.uint8) * 255
    with pytest.warns(UserWarning, match="no picture reduces to the given one exactly"):
        next(Upscaler(model_of(), consistent=True).pixels(noise, 1))


def test_consistency_changes_the_picture_on_the_way_and_not_only_at_its_end():
    model, low = model_of(), images(1, 3, 4, 4)
    free, bound = (upscale(model, low, consistent=c) for c in (False, True))
    project = module.BackProjection(lambda x: module.shrink(x, 4), low, 4)
    assert (project.bounded(free) - bound).abs().max() > 0.05


# --- pictures of any kind --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("own", [1, 3])
def test_every_kind_of_pixel(own, channels, dtype):
    given = pixels(5, 7, channels, dtype=dtype)
    made = next(Upscaler(model_that_knows(channels=own)).pixels(given, 1))
    top = np.iinfo(dtype).max
    x = torch.from_numpy(given.astype(np.float32) / top * 2 - 1).permute(2, 0, 1)[None]
    wanted = (enlarge(x, (20, 28)).clamp(-1, 1)[0].permute(1, 2, 0).numpy() + 1) * top / 2
    assert made.shape == (20, 28, channels) and made.dtype == dtype
    assert np.abs(made - wanted).max() <= 1 + 1e-4 * top


def test_gray_and_alpha_are_no_matter_of_chance():
    upscaler = Upscaler(model_of())
    a, b = upscaler.pixels(pixels(5, 5, 4), 1, samples=(0, 1))
    assert np.array_equal(a[..., 3], b[..., 3]) and not np.array_equal(a[..., :3], b[..., :3])
    assert next(upscaler.pixels(pixels(5, 5, 1), 1)).shape == (20, 20, 1)


def test_a_gray_model_gives_all_channels_the_same_noise():
    gray = np.repeat(pixels(5, 5, 1), 3, axis=2)
    made = next(Upscaler(model_of(channels=1)).pixels(gray, 1))
    assert np.abs(np.diff(made.astype(int), axis=2)).max() <= 1


def test_models_of_other_channels_make_no_pictures():
    with pytest.raises(CapabilityError, match="of 2 channels"):
        next(Upscaler(model_of(channels=2)).pixels(pixels(4, 4, 3), 1))


def test_settings_tell_all():
    held = Upscaler(model_of(denoiser=DenoiserConfig(variance="fixed_large", time_input="alpha_bar")), tile=32, seed=4, steps=2).settings
    assert held["tile"] == [32, 32] and held["overlap"] == 8 and held["seed"] == 4 and held["steps"] == 2 and held["scale"] == 4
