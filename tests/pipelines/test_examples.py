"""Jobs that begin from the images of a data set."""

from __future__ import annotations

import torch
from tests.pipelines.tiny import CLASSES, generator_spec, model_of

from mezzotint.configs import DataFacts, LowResConfig, SampleConfig
from mezzotint.data.source import Source
from mezzotint.pipelines.cascade import Cascade
from mezzotint.pipelines.examples import begun_from
from mezzotint.resolution import reduce


class Few(Source):
    """Three images in memory, each of its own colour."""

    def __init__(self, classes: tuple[str, ...] = CLASSES):
        super().__init__(DataFacts(channels=3, size=(16, 16), classes=classes), ["a", "b", "c"], [2, 1, 1], [0, 0, 0])

    def array(self, i, window=None):
        value = torch.arange(16 * 16 * 3).reshape(16, 16, 3) % (60 * (i + 1) + 7)
        return value.numpy().astype("uint8")


def enlarger(side: int):
    return generator_spec(size=(side, side), low_res=LowResConfig(scale=2), sample=SampleConfig(steps=2))


def test_images_and_classes_are_those_of_the_data() -> None:
    source, model = Few(), model_of(enlarger(16))
    job, low = begun_from(model, model.job(num=5), source)
    images = source.batch([0, 1, 2, 0, 1]).images
    assert job.labels == (2, 1, 1, 2, 1) and low is not None and list(low) == [0, 1, 2, 3, 4]
    assert torch.equal(torch.stack(list(low.values())), reduce(images, 2))
    job, low = begun_from(model, model.job(ids=[1, 4]), source, [2, 0])
    assert job.labels == (2, 1)
    assert low is not None and torch.equal(torch.stack([low[1], low[4]]), reduce(images[[0, 2]], 2))


def test_classes_of_other_names_are_not_taken_over() -> None:
    model = model_of(enlarger(16))
    assert begun_from(model, model.job(num=3), Few(("x", "y", "z")))[0].labels == (0, 1, 2)


def test_models_that_begin_from_nothing_are_given_nothing() -> None:
    model, small = model_of(generator_spec(size=(16, 16))), model_of(generator_spec(size=(8, 8)))
    for whole in (model, Cascade([small, model_of(enlarger(16))])):
        job = whole.job(num=3)
        assert begun_from(whole, job, Few()) == (job, None)


def test_a_cascade_of_enlargers_begins_from_what_its_first_stage_needs() -> None:
    whole, source = Cascade([model_of(enlarger(8)), model_of(enlarger(16))]), Few()
    job, low = begun_from(whole, whole.job(num=2), source)
    assert low is not None and low[0].shape == (3, 4, 4)
    assert torch.equal(low[1], reduce(reduce(source.batch([1]).images, 2), 2)[0])
    (chunk,) = whole.run(job, low_res=low)
    assert chunk.labels == (2, 1) and chunk.trajectory.x.shape == (2, 3, 16, 16)
