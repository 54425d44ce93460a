from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.networks.filling import filled
from tests.pipelines.tiny import generator_spec, model_of

from mezzotint.conditioning import Unconditional
from mezzotint.configs import (
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    GaussianConfig,
    LowResConfig,
    OneShotConfig,
    RegressionConfig,
    SR3Config,
    TimesConfig,
    VPConfig,
)
from mezzotint.denoise import NetworkDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.objectives.denoising import Denoising
from mezzotint.pipelines.build import build_objective, build_stage
from mezzotint.schedules import build_schedule
from mezzotint.times import UniformLevels
from mezzotint.types import Batch

NET = SR3Config(width=8, mults=(1, 1), blocks=1, attention=(), groups=4)
SETTINGS = {
    "net": NET,
    "low_res": LowResConfig(scale=2),
    "label": None,
    "denoiser": DenoiserConfig(),
    "prior": OneShotConfig(),
    "objective": RegressionConfig(),
}
IMAGES = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_the_error_of_the_image_that_is_given_at_once(loss) -> None:
    spec = generator_spec(**{**SETTINGS, "objective": RegressionConfig(loss=loss)})
    stage = build_stage(spec.recipe)
    filled(stage.denoiser.network)
    objective = build_objective(spec.recipe, stage).eval()
    found = objective(Batch(IMAGES, torch.arange(3)), phase="regress", step=0, noise=Noise(0, range(3)))
    low = stage.conditioner(Batch(IMAGES, torch.arange(3)), t=torch.zeros(0), noise=Noise(0, range(3)), training=False)
    given = stage.denoiser.network(torch.zeros_like(IMAGES), torch.zeros(3), low)
    error = (given - IMAGES).square() if loss == "l2" else (given - IMAGES).abs()
    torch.testing.assert_close(found.per_sample, error.flatten(1).mean(dim=1))
    torch.testing.assert_close(found.total, error.mean())
    assert found.t.tolist() == [0, 0, 0] and list(found.logs) == ["mse" if loss == "l2" else "mae"]


def test_its_model_takes_no_step_and_draws_nothing() -> None:
    model = model_of(generator_spec(**SETTINGS))
    low = IMAGES[:, :, ::2, ::2]
    made = model.sample(low_res=low)
    assert made.shape == IMAGES.shape and torch.equal(made, model.sample(low_res=low, seed=5))
    job = model.job(num=3)
    assert model.num_steps(job) == 0
    (chunk,) = model.run(job, low_res=low)
    assert (chunk.trajectory.steps, chunk.trajectory.calls, chunk.trajectory.t.tolist()) == (0, 0, [0, 0, 0])


def test_the_prior_and_the_objective_belong_together() -> None:
    for change in ({"prior": GaussianConfig()}, {"objective": DenoisingConfig()}):
        with pytest.raises(ConfigError, match="belong together"):
            generator_spec(**{**SETTINGS, **change})


def test_the_absolute_error_of_denoising() -> None:
    spec = generator_spec(label=None, denoiser=DenoiserConfig())
    schedule = build_schedule(DiscreteConfig(steps=100))
    network = filled(build_stage(spec.recipe).denoiser.network)
    law = UniformLevels(schedule.levels)
    denoiser = NetworkDenoiser(network, schedule, DenoiserConfig())
    square, absolute = (Denoising(denoiser, Unconditional(), law, DenoisingConfig(loss=loss)) for loss in ("l2", "l1"))
    eps = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    times = law.draw(3, Noise(0, range(3)))
    mean_square, mean_absolute = (objective.terms(IMAGES, eps, times, {}) for objective in (square, absolute))
    assert mean_square.keys() == {"mse", "loss"} and mean_absolute.keys() == {"mae", "loss"}
    assert bool((mean_absolute["mae"] ** 2 < mean_square["mse"]).all()) and bool((mean_absolute["mae"] > 0).all())
    with pytest.raises(ConfigError, match="l1 has the weighting simple alone"):
        Denoising(denoiser, Unconditional(), law, replace(DenoisingConfig(loss="l1"), weighting="snr"))


def test_noise_levels_need_levels() -> None:
    spec = generator_spec(label=None, denoiser=DenoiserConfig())
    recipe = replace(spec.recipe, schedule=VPConfig(), denoiser=DenoiserConfig(time_input="t"), times=TimesConfig(law="noise_level"))
    with pytest.raises(CapabilityError, match="discrete schedule"):
        build_objective(recipe, build_stage(recipe))
