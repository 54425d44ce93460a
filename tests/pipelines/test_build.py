from __future__ import annotations

from dataclasses import replace

import pytest
from tests.pipelines.tiny import CLASSES, classifier_spec, generator_spec

from mezzotint.conditioning import Label, Unconditional
from mezzotint.configs import (
    ClassifyConfig,
    DataFacts,
    DenoiserConfig,
    DenoisingConfig,
    EncoderConfig,
    LabelConfig,
    TimesConfig,
    UNetConfig,
    VLBConfig,
    VPConfig,
)
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.objectives.classify import Classify
from mezzotint.objectives.denoising import Denoising
from mezzotint.objectives.variational import VLB
from mezzotint.pipelines.build import build_classifier, build_objective, build_stage, resolve
from mezzotint.times import Importance, LogNormal, UniformLevels

GENERATOR, CLASSIFIER = generator_spec().recipe, classifier_spec().recipe
OPEN = replace(GENERATOR, net=replace(GENERATOR.net, in_channels=0, out_channels=0, num_classes=None), label=LabelConfig(drop=0.1))
FACTS = DataFacts(channels=3, size=(4, 6), classes=CLASSES)


@pytest.mark.parametrize(
    "changes, out, rows",
    [
        ({}, 6, 4),
        ({"denoiser": DenoiserConfig(variance="fixed_large")}, 3, 4),
        ({"denoiser": DenoiserConfig(variance="learned")}, 6, 4),
        ({"label": LabelConfig()}, 6, 3),
        ({"label": None}, 6, None),
    ],
)
def test_the_data_fills_in_what_a_recipe_leaves_open(changes, out, rows) -> None:
    recipe = resolve(replace(OPEN, **changes), FACTS)
    assert (recipe.net.in_channels, recipe.net.out_channels, recipe.net.num_classes) == (3, out, rows)
    assert recipe.label is None or recipe.label.num_classes == 3
    assert resolve(recipe, FACTS) == recipe


def test_a_classifier_gets_its_classes_and_size() -> None:
    net = CLASSIFIER.net
    recipe = resolve(replace(CLASSIFIER, net=replace(net, in_channels=0, out_channels=0, image_size=(0, 0)), label=LabelConfig()), FACTS)
    assert (recipe.net.in_channels, recipe.net.out_channels, recipe.net.image_size, recipe.label) == (3, 3, (4, 6), None)


@pytest.mark.parametrize(
    "recipe, facts, message",
    [
        (replace(OPEN, net=replace(OPEN.net, in_channels=1)), FACTS, "net.in_channels 1 and images of 3 channels"),
        (replace(OPEN, net=replace(OPEN.net, out_channels=3)), FACTS, "net.out_channels 3, and variance 'learned_range' needs 6"),
        (replace(OPEN, label=LabelConfig(num_classes=5)), FACTS, "label.num_classes 5 and data of 3 classes"),
        (OPEN, replace(FACTS, classes=()), "recipe 'tiny' is class-conditional, and the data has no labels"),
        (replace(OPEN, net=EncoderConfig()), FACTS, "recipe 'tiny' generates"),
        (replace(CLASSIFIER, net=UNetConfig()), FACTS, "recipe 'tiny-classifier' classifies and needs an encoder network"),
        (CLASSIFIER, replace(FACTS, classes=()), "recipe 'tiny-classifier' needs labels, and the data has none"),
        (CLASSIFIER, replace(FACTS, classes=("a", "b")), "net.out_channels 3 and data of 2 classes"),
    ],
)
def test_recipes_that_do_not_fit_the_data(recipe, facts, message) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(recipe, facts)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_stages() -> None:
    stage = build_stage(GENERATOR)
    assert isinstance(stage.conditioner, Label) and stage.conditioner.rows == 4
    assert stage.schedule is stage.denoiser.schedule and stage.schedule.config == GENERATOR.schedule
    assert stage.denoiser.accepts == {"label"} == stage.conditioner.makes and stage.denoiser.variance == "learned_range"
    assert isinstance(build_stage(generator_spec(label=None).recipe).conditioner, Unconditional)


def test_objectives() -> None:
    stage = build_stage(GENERATOR)
    denoising = build_objective(GENERATOR, stage)
    assert isinstance(denoising, Denoising) and denoising.hybrid and isinstance(denoising.law, UniformLevels)
    bound = build_objective(replace(GENERATOR, objective=VLBConfig(), times=TimesConfig(law="importance")), stage)
    assert isinstance(bound, VLB) and isinstance(bound.law, Importance) and bound.denoiser is stage.denoiser
    law = build_objective(replace(GENERATOR, times=TimesConfig(law="lognormal", mean=1.0), objective=DenoisingConfig(vlb=0)), stage).law
    assert isinstance(law, LogNormal) and law.mean == 1
    classify = build_objective(CLASSIFIER, build_classifier(CLASSIFIER))
    assert isinstance(classify, Classify) and classify.num_classes == 3


def test_objectives_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="trains a classifier with the objective 'denoising'; use classify"):
        build_objective(replace(CLASSIFIER, objective=DenoisingConfig()), build_classifier(CLASSIFIER))
    with pytest.raises(ConfigError, match="trains a generator with the objective 'classify'; use denoising or vlb"):
        build_objective(replace(GENERATOR, objective=ClassifyConfig()), build_stage(GENERATOR))
    continuous = replace(GENERATOR, schedule=VPConfig(), denoiser=DenoiserConfig(time_input="t", variance="learned_range"))
    with pytest.raises(CapabilityError, match="a learned variance is trained on numbered levels"):
        build_objective(continuous, build_stage(continuous))
