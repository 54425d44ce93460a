"""Every recipe, made tiny: it trains a step, survives JSON and is what the papers say."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from mezzotint.configs import DataFacts, PixelConfig, Recipe, from_dict, to_dict
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.pipelines.build import build_classifier, build_objective, build_stage, resolve
from mezzotint.registry import build, get, names
from mezzotint.schedules import build_schedule
from mezzotint.types import Batch

NAMES = names("recipe")
FACTS = DataFacts(channels=3, size=(8, 8), classes=("a", "b"))
SMALL = {
    "width": 8,
    "mults": (1, 1),
    "widths": (8, 8),
    "groups": 4,
    "blocks": 1,
    "attention": (2,),
    "heads": 1,
    "head_channels": 8,
    "depth": 2,
    "patch": 2,
    "dropout": 0.0,
}


def recipe_of(name: str) -> Recipe:
    return get("recipe", name)()


def tiny(name: str) -> Recipe:
    """The recipe with a small network and a short process, on pixels; nothing else is changed."""
    recipe = recipe_of(name)
    known = {f.name for f in fields(recipe.net)}
    small = {k: v for k, v in SMALL.items() if k in known}
    if "head_channels" in known:
        small.pop("heads", None)
    schedule = replace(recipe.schedule, steps=100) if hasattr(recipe.schedule, "steps") else recipe.schedule
    return resolve(replace(recipe, net=replace(recipe.net, **small), schedule=schedule, codec=PixelConfig()), FACTS)


def objective_of(recipe: Recipe) -> Objective:
    torch.manual_seed(0)
    piece = build_classifier(recipe) if recipe.task == "classify" else build_stage(recipe)
    return build_objective(recipe, piece)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_json_and_knows_its_name(name) -> None:
    recipe = recipe_of(name)
    assert recipe.name == name and recipe.cite
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(tiny(name))))) == tiny(name)
    assert get("recipe", name).__doc__.strip().splitlines()[-1].strip().startswith("Source: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_a_step(name) -> None:
    """Gradients reach all that a phase trains, and some steps lower the loss of a fixed batch with fixed noise."""
    recipe = tiny(name)
    objective = objective_of(recipe).train()
    g = torch.Generator().manual_seed(0)
    images = (torch.rand(8, 3, 8, 8, generator=g) * 255).round() / 127.5 - 1
    batch = Batch(images, torch.arange(8), torch.arange(8) % 2 if recipe.label is not None or recipe.task == "classify" else None)
    noise = Noise(0, range(8))
    for phase in objective.phases:
        parameters = [p for module in phase.modules for p in module.parameters()]
        assert parameters
        optimiser = torch.optim.Adam(parameters, lr=3e-3)
        losses = []
        for step in range(12):
            loss = objective(batch, phase=phase.name, step=step, noise=noise)
            assert loss.per_sample.shape == loss.t.shape == (8,)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            losses.append(loss.total.item())
        assert losses[-1] < losses[0]
        objective.update(loss.t, loss.per_sample, phase=phase.name)
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)
        still = [p for p in parameters if p.grad.abs().max() == 0]
        assert not still, f"{len(still)} of {len(parameters)} parameters have no gradient after 12 steps"


@pytest.mark.parametrize("name", [n for n in NAMES if recipe_of(n).task == "generate"])
def test_a_generator_s_own_sample_settings_make_a_plan(name) -> None:
    recipe = recipe_of(name)
    sampler = build("sampler", recipe.sample.sampler)
    plan = sampler.plan(build_schedule(recipe.schedule), steps=recipe.sample.steps, spacing=recipe.sample.grid)
    assert plan.steps >= 1 and bool((plan.grid.diff(dim=0) < 0).all()) and plan.grid[-1].item() == 0


@pytest.mark.parametrize(
    "name, parameters, size, classes",
    [
        ("ddpm", None, (32, 32), ()),
        ("improved-ddpm", 52_546_438, (32, 32), ()),
        ("adm", 295_904_454, (64, 64), tuple(f"n{k}" for k in range(1000))),
        ("adm-upsampler-64-256", 311_795_910, (256, 256), tuple(f"n{k}" for k in range(1000))),
        ("adm-upsampler-128-512", 308_835_270, (512, 512), tuple(f"n{k}" for k in range(1000))),
        ("sr3-16-128", 549_979_011, (128, 128), ()),  # the paper says 550 M
        ("sr3-64-256", 604_608_899, (256, 256), ()),  # 625 M
        ("sr3-64-512", 603_461_571, (512, 512), ()),  # 625 M
        ("sr3-256-1024", 148_028_035, (1024, 1024), ()),  # 150 M
        ("adm-classifier", 65_438_568, (64, 64), tuple(f"n{k}" for k in range(1000))),
        ("adm-imagenet-128", 421_529_606, (128, 128), tuple(f"n{k}" for k in range(1000))),
        ("adm-imagenet-256", 553_838_086, (256, 256), tuple(f"n{k}" for k in range(1000))),
        ("adm-imagenet-512", 558_997_638, (512, 512), tuple(f"n{k}" for k in range(1000))),
        ("adm-lsun-256", 552_814_086, (256, 256), ()),
        ("improved-ddpm-imagenet-64", 121_063_942, (64, 64), ()),
        ("ddpm-cifar10", 35_746_307, (32, 32), ()),
    ],
)
def test_networks_have_the_published_number_of_parameters(name, parameters, size, classes) -> None:
    recipe = resolve(recipe_of(name), DataFacts(channels=3, size=size, classes=classes))
    with torch.device("meta"):
        network = get(*recipe.net.kind)(recipe.net)
    count = sum(p.numel() for p in network.parameters())
    assert count == parameters if parameters else 30e6 < count < 40e6
