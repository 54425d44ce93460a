"""What every registered piece promises; a new one is tested by being registered."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from tests.analytic import F64, MIXTURE, SCHEDULES, denoiser_of
from tests.networks.filling import filled
from tests.recipes.test_recipes import NAMES as RECIPES
from tests.recipes.test_recipes import objective_of, tiny

from mezzotint import configs
from mezzotint.configs import from_dict, to_dict
from mezzotint.denoise import FunctionDenoiser
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.registry import build, get, names
from mezzotint.sample.base import Sampler
from mezzotint.sample.loop import sample
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.types import Batch, Plan

# --- networks ------------------------------------------------------------------------------------------------------------

CONFIGS: dict[str, Any] = {
    cls.kind[1]: cls for cls in vars(configs).values() if dataclasses.is_dataclass(cls) and getattr(cls, "kind", ("",))[0] == "network"
}
TINY: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 6,
    "num_classes": 4,
    "image_size": (8, 8),
    "width": 16,
    "widths": (16, 16),
    "mults": (1, 1),
    "blocks": 1,
    "attention": (2,),
    "heads": 2,
    "head_channels": 8,
    "groups": 4,
    "depth": 3,
    "patch": 2,
    "dropout": 0.0,
}
NETWORKS = sorted(CONFIGS)


def network_config(name: str) -> Any:
    cls = CONFIGS[name]
    return cls(**{f.name: TINY[f.name] for f in dataclasses.fields(cls) if f.name in TINY})


def network(name: str):
    return filled(get("network", name)(network_config(name))).eval()


def inputs(name: str, b: int = 4) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    cond = {"label": torch.arange(b) % 4} if "num_classes" in {f.name for f in dataclasses.fields(CONFIGS[name])} else {}
    return torch.randn(b, 3, 8, 8, generator=g), torch.linspace(0, 900, b), cond


def test_every_network_has_a_config() -> None:
    assert set(names("network")) == set(CONFIGS)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_in_shape_and_learn_everywhere(name) -> None:
    net, (x, t, cond) = network(name), inputs(name)
    assert net.accepts >= set(cond)
    out = net(x, t, cond)
    assert out.shape == ((4, 6) if name == "encoder" else (4, 6, 8, 8)) and bool(out.isfinite().all()) and out.std() > 0
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not missing, missing


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_hear_what_they_are_told(name) -> None:
    net, (x, t, cond) = network(name), inputs(name)
    with torch.no_grad():
        out = net(x, t, cond)
        assert (net(x + 0.1, t, cond) - out).abs().amax() > 1e-5
        assert (net(x, t + 50, cond) - out).abs().amax() > 1e-6
        for key, value in cond.items():
            assert (net(x, t, {**cond, key: value.flip(0)}) - out).abs().amax() > 1e-6
    with pytest.raises(configs.ConfigError, match="unknown condition"):
        net(x, t, {**cond, "colour": t})


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_rebuilt_from_json_and_their_tensors(name) -> None:
    net, (x, t, cond) = network(name), inputs(name)
    config = from_dict(CONFIGS[name], json.loads(json.dumps(to_dict(network_config(name)))))
    again = get("network", name)(config).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x, t, cond), net(x, t, cond))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_example_does_not_see_its_neighbours(name) -> None:
    """Equal in all bits whatever the other rows hold, and alike in batches of another size."""
    net, (x, t, cond) = network(name), inputs(name)
    with torch.no_grad():
        out = net(x, t, cond)
        other = torch.cat([x[:1], 3 * x[1:].flip(0)])
        changed = net(other, torch.cat([t[:1], t[1:].flip(0)]), {k: torch.cat([v[:1], v[1:].flip(0)]) for k, v in cond.items()})
        assert torch.equal(changed[0], out[0])
        for i in range(4):
            alone = net(x[i : i + 1], t[i : i + 1], {k: v[i : i + 1] for k, v in cond.items()})
            torch.testing.assert_close(alone[0], out[i], rtol=1e-4, atol=1e-5)


# --- samplers ------------------------------------------------------------------------------------------------------------

LINEAR = build_schedule(SCHEDULES["linear"])
DENOISER = denoiser_of(MIXTURE, LINEAR)
SAMPLERS = names("sampler")
REVERSE = [name for name in SAMPLERS if name != "ddim_inversion"]
IDS = [11, 4, 7, 0, 9]


def start(ids: list[int]) -> torch.Tensor:
    return Noise(0, ids).normal((len(ids), 2), name="start", dtype=F64)


def short(sampler: Sampler, **settings: Any) -> Plan:
    steps = {} if sampler.adaptive else {"steps": 3 if type(sampler).__name__ == "AdaptiveODE" else 8}  # the latter takes many in each
    return sampler.plan(LINEAR, **steps, **settings)


def run(name: str, ids: list[int], seed: int = 0) -> torch.Tensor:
    sampler = build("sampler", name)
    return sample(DENOISER, sampler, short(sampler), start(ids), noise=Noise(seed, ids, stage="sample")).x


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_seed_gives_one_result(name) -> None:
    whole = run(name, IDS)
    assert torch.equal(whole, run(name, IDS))
    assert bool(whole.isfinite().all())
    assert torch.equal(whole, run(name, IDS, seed=1)) != build("sampler", name).stochastic


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_depends_on_its_id_alone(name) -> None:
    whole = run(name, IDS)
    for subset in ([3], [4, 0, 2], [1, 3, 4, 2, 0]):
        torch.testing.assert_close(run(name, [IDS[i] for i in subset]), whole[subset], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_say_whether_they_draw(name) -> None:
    sampler = build("sampler", name)
    if sampler.stochastic:
        with pytest.raises(ValueError, match="this sampler draws noise"):
            sample(DENOISER, sampler, short(sampler), start(IDS))
    else:
        assert torch.equal(sample(DENOISER, sampler, short(sampler), start(IDS)).x, run(name, IDS))


@pytest.mark.parametrize("name", REVERSE)
def test_plans_fall_from_the_start_to_the_end(name) -> None:
    sampler = build("sampler", name)
    assert sampler.requires <= {"uniform"}
    for settings in ({}, {"t_start": 0.6}, {"t_end": "last"}, {"t_end": 0.1}):
        grid = short(sampler, **settings).grid
        assert grid.dtype == F64 and grid.ndim == 2 and bool((grid.diff(dim=0) < 0).all())
        assert grid[0] == settings.get("t_start", 1.0)
        end = settings.get("t_end", 0.0)
        assert grid[-1] == (LINEAR.t_min if end == "last" else end)
        done = sample(DENOISER, sampler, short(sampler, **settings), start(IDS), noise=Noise(0, IDS))
        assert torch.equal(done.t, grid[-1].expand(5)) and bool(done.x.isfinite().all())


@pytest.mark.parametrize("name", REVERSE)
def test_each_image_may_start_at_its_own_time(name) -> None:
    sampler, times = build("sampler", name), torch.tensor([1.0, 0.7, 0.3], dtype=F64)
    ids = IDS[:3]
    whole = sample(DENOISER, sampler, short(sampler, t_start=times), start(ids), noise=Noise(0, ids)).x
    for i in range(3):
        plan = short(sampler, t_start=times[i].item())
        alone = sample(DENOISER, sampler, plan, start(ids[i : i + 1]), noise=Noise(0, ids[i : i + 1])).x
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SAMPLERS)
def test_images_keep_their_shape_and_type(name) -> None:
    sampler = build("sampler", name)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    denoiser = FunctionDenoiser(LINEAR, lambda x_t, alpha, sigma, cond: alpha * x_t / (alpha**2 + sigma**2))
    done = sample(denoiser, sampler, short(sampler), x, noise=Noise(0, [0, 1]), save="all")
    assert done.x.shape == x.shape and done.x.dtype == torch.float32
    assert all(v.shape == x.shape and v.dtype == torch.float32 for v in (*done.xs, *done.x0s))
    assert len(done.xs) == len(done.x0s) == len(done.ts) == done.steps and done.calls >= done.steps - 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_memory_is_in_the_state_not_in_the_sampler(name) -> None:
    """A run of the same sampler within another does not disturb it."""
    sampler = build("sampler", name)
    ids, plan = IDS[:2], short(sampler)
    alone = sample(DENOISER, sampler, plan, start(ids), noise=Noise(0, ids)).x
    calls = []

    def intrude(x_t, alpha, sigma, cond):
        calls.append(1)
        if len(calls) == 4:
            sample(DENOISER, sampler, plan, start([1, 2]) + 1, noise=Noise(5, [1, 2]))
        return DENOISER.function(x_t, alpha, sigma, cond)

    assert torch.equal(sample(FunctionDenoiser(LINEAR, intrude), sampler, plan, start(ids), noise=Noise(0, ids)).x, alone)
    assert len(calls) >= 4


# --- schedules -----------------------------------------------------------------------------------------------------------


def test_every_schedule_is_among_those_that_are_tested() -> None:
    assert {config.kind[1] for config in SCHEDULES.values()} == set(names("schedule"))
    assert all(issubclass(get("schedule", name), Schedule) for name in names("schedule"))


# --- objectives ----------------------------------------------------------------------------------------------------------


def test_every_objective_is_used_by_a_recipe() -> None:
    assert {tiny(name).objective.kind[1] for name in RECIPES} >= {"denoising", "vlb", "classify"}
    assert all(issubclass(get("objective", name), Objective) for name in names("objective"))


def examples(recipe: configs.Recipe, ids: list[int]) -> Batch:
    images = Noise(0, ids).uniform((len(ids), 3, 8, 8), name="image") * 2 - 1
    labelled = recipe.label is not None or recipe.task == "classify"
    return Batch(images, torch.tensor(ids), torch.tensor(ids) % 2 if labelled else None)


@pytest.mark.parametrize("name", RECIPES)
def test_objectives_keep_their_word(name) -> None:
    """Names, saved state, and losses that depend on the example, its streams and the step alone."""
    recipe = tiny(name)
    objective = filled(objective_of(recipe)).eval()
    phases = [phase.name for phase in objective.phases]
    assert len(phases) == len(set(phases)) >= 1 and "model" in objective.models
    trained = {id(p) for phase in objective.phases for module in phase.modules for p in module.parameters()}
    assert trained >= {id(p) for p in objective.models["model"].parameters()}
    for phase in phases:
        whole = objective(examples(recipe, IDS), phase=phase, step=3, noise=Noise(1, IDS).at(3))
        again = objective(examples(recipe, IDS), phase=phase, step=3, noise=Noise(1, IDS).at(3))
        assert torch.equal(whole.total, again.total) and whole.total.ndim == 0 and whole.total.requires_grad
        some = objective(examples(recipe, IDS[1:3]), phase=phase, step=3, noise=Noise(1, IDS[1:3]).at(3))
        torch.testing.assert_close(some.per_sample, whole.per_sample[1:3], rtol=1e-4, atol=1e-5)
        assert torch.equal(some.t, whole.t[1:3])
        other = objective(examples(recipe, IDS), phase=phase, step=4, noise=Noise(1, IDS).at(4))
        draws = recipe.prior == configs.GaussianConfig()  # a regression draws nothing
        assert torch.equal(other.per_sample, whole.per_sample) != draws
    copy = objective_of(recipe).eval()
    copy.load_state_dict(objective.state_dict())
    totals = [o(examples(recipe, IDS), phase=phases[0], step=3, noise=Noise(1, IDS).at(3)).total for o in (objective, copy)]
    assert torch.equal(*totals)
