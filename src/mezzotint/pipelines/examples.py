"""Jobs of models that begin from low-resolution images, with those of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from mezzotint.conditioning import LowRes
from mezzotint.data.source import Source
from mezzotint.pipelines.cascade import Cascade
from mezzotint.pipelines.generate import Job, Model

_BATCH = 256


def begun_from(model: Model, job: Job, source: Source, places: Sequence[int] | None = None) -> tuple[Job, dict[int, Tensor] | None]:
    """Gives each image of a job the reduced image of a data set to begin from, and that image's class.

    Args:
        model: The model; nothing changes for one that begins from no low-resolution image.
        job: A job of it.
        source: The data set, of images as large as those that the model makes.
        places: Positions in the data set: image k begins from the k-th of them, again and again; None: all.

    Returns:
        The job, with the classes of the images where both sides know the same, and the low-resolution images by id, for ``Model.run``.
    """
    first = model.stages[0] if isinstance(model, Cascade) else model
    if first.stage.conditioner.part(LowRes) is None:
        return job, None
    chosen = range(len(source)) if places is None else places
    low: dict[int, Tensor] = {}
    labels: list[int] = []
    for start in range(0, len(job.ids), _BATCH):
        ids = job.ids[start : start + _BATCH]
        batch = source.batch([chosen[k % len(chosen)] for k in ids])
        low |= model.reduced(batch.images, ids, seed=job.seed) or {}
        labels += [] if batch.label is None else batch.label.tolist()
    if job.labels is not None and labels and source.facts.classes == model.classes:
        job = replace(job, labels=tuple(labels))
    return job, low
