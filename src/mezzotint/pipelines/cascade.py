"""Cascades: a model of small images, and models that enlarge what the one before them made; together one model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mezzotint.codecs import Pixel
from mezzotint.conditioning import Label, LowRes
from mezzotint.configs import SampleConfig, Spec, from_dict
from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.pipelines.generate import Chunk, GuidanceLike, Job, Model
from mezzotint.schedules import SNAP

SHARED = ("ids", "labels", "seed", "batch", "exact")
"""What of a job is the same for all stages."""
StageSettings = Mapping[int, Mapping[str, Any]]
"""Number of a stage, from 1 -> its settings, as in ``SampleConfig``."""


class Cascade(Model):
    """Several models in a row, used like one.

    The images of a stage go to the next as they are: neither clipped nor rounded, and only the last stage's become pixels. Each stage has
    random streams of its own; those of the first are the ones that it has by itself, so that it makes the same images there.

    Args:
        stages: The models, in order. All but the first begin from low-resolution images, of the size that the one before makes.
        spec: What the whole is; None: what the last stage is.
        path: The model folder, or None.

    Raises:
        ConfigError: Stages that do not go together.

    Source: Ho et al. 2021 (CDM), section 2.3 and algorithms 1 and 2.
    """

    def __init__(self, stages: Sequence[Model], *, spec: Spec | None = None, path: Path | None = None):
        last = stages[-1]
        super().__init__(last.spec if spec is None else spec, last.stage, load=last._load, path=path, weights=last.weights)
        self.stages = tuple(stages)
        if len(self.stages) < 2:
            raise ConfigError("a cascade of a single model; give at least two")
        for k, (small, large) in enumerate(zip(self.stages, self.stages[1:], strict=False), start=1):
            _check(k, small, large)
        named = [model for model in self.stages if model.stage.conditioner.part(Label) is not None]
        self._leads = named[0] if named else self.stages[0]
        if any(model.classes != self._leads.classes for model in named):
            raise ConfigError("the stages know other classes; train all of them on data with the same class folders")

    @property
    def classes(self) -> tuple[str, ...]:
        return self._leads.classes

    @property
    def null(self) -> Callable[..., Any] | None:
        return self._leads.null

    def reduced(self, images: Tensor, ids: Sequence[int], *, seed: int = 0) -> dict[int, Tensor] | None:
        if self.stages[0].stage.conditioner.part(LowRes) is None:
            return None
        found = dict(zip(ids, images, strict=True))
        for number, model in reversed(list(enumerate(self.stages, start=1))):
            found = model.reduced(torch.stack([found[k] for k in ids]), ids, seed=stage_seed(seed, number)) or {}
        return found

    def check_low_res(self, job: Job, low_res: Tensor | Mapping[int, Tensor] | None) -> None:
        self.stages[0].check_low_res(job, low_res)

    # --- planning --------------------------------------------------------------------------------------------------------

    def job(self, *, stages: StageSettings | None = None, **wish: Any) -> Job:
        """Checks a wish and fills in what the stages' own settings say.

        Args:
            stages: Settings of single stages, as in ``{1: {"steps": 50}, 2: {"level": 0.2, "truncated": True}}``.
            wish: As for ``Model.job``. Sampler, steps, grid, clip and guidance are those of every stage that has no setting of its own in
                ``stages``, the level that of every stage that was trained with noise on its low-resolution images.

        Raises:
            ConfigError: Contradictions, unknown names, or settings that no sampler has.
            CapabilityError: What a stage cannot do.
        """
        given = {number: dict(settings) for number, settings in (stages or {}).items()}
        for number in given:
            if not 1 <= number <= len(self.stages):
                raise ConfigError(f"settings of stage {number}, and the stages are 1 to {len(self.stages)}")
        if wish.get("calls") is not None:
            raise ConfigError("a cascade is not tuned as a whole; leave out calls, and give the settings of its stages")
        shared = {
            name: wish.pop(name) for name in ("sampler", "variance", "steps", "grid", "clip", "guidance") if wish.get(name) is not None
        }
        level, end, low_res = wish.pop("level", None), wish.pop("end", 0.0), wish.pop("low_res", None)
        with _guided_alike(self.stages.index(self._leads) + 1, len(self.stages), "guidance" in shared):
            lead = self._leads.job(**wish, **({"guidance": shared["guidance"]} if "guidance" in shared else {}))
        alike = {"ids": lead.ids, "seed": lead.seed, "batch_size": None if lead.exact else lead.batch, "exact": lead.exact}
        jobs: list[Job] = []
        for number, model in enumerate(self.stages, start=1):
            own = {**shared, **given.get(number, {})}
            truncated = own.pop("truncated", model.spec.recipe.sample.truncated)
            low = model.stage.conditioner.part(LowRes)
            if level is not None and low is not None and low.schedule is not None:
                own.setdefault("level", level)
            if number == len(self.stages):
                own["end"] = end
            classes = wish.get("classes") if model.stage.conditioner.part(Label) is not None else None
            with _guided_alike(number, len(self.stages), "guidance" in shared and "guidance" not in given.get(number, {})):
                job = model.job(**alike, **own, classes=classes, low_res=low_res if number == 1 else None)
            if number > 1 and truncated and job.level:
                assert low is not None
                jobs[-1] = _stopped(self.stages[number - 2], jobs[-1], low, job.level)
                job = replace(job, noised=True)
            jobs.append(job)
        before = tuple(
            {**{name: value for name, value in job.to_dict().items() if name not in SHARED}, "weights": model.hash}
            for job, model in zip(jobs[:-1], self.stages[:-1], strict=True)
        )
        return replace(jobs[-1], labels=lead.labels, before=before)

    def parts(self, job: Job) -> list[Job]:
        """The job of each stage.

        Raises:
            ConfigError: The job is that of another cascade.
        """
        before = job.before or ()
        if len(before) != len(self.stages) - 1 or any(e.get("weights") != m.hash for e, m in zip(before, self.stages, strict=False)):
            raise ConfigError("the job is that of another cascade: its stages or their weights differ; give the model that it was made for")
        shared = {name: value for name, value in job.to_dict().items() if name in SHARED}
        held = [Job.from_dict({**{k: v for k, v in entry.items() if k != "weights"}, **shared}) for entry in before]
        out = []
        for number, (model, part) in enumerate(zip(self.stages, [*held, replace(job, before=None)], strict=True), start=1):
            labels = job.labels if "label" in model.denoiser(part).accepts else None
            out.append(replace(part, labels=labels, seed=stage_seed(job.seed, number)))
        return out

    def num_steps(self, job: Job) -> int | None:
        counts = [model.num_steps(part) for model, part in zip(self.stages, self.parts(job), strict=True)]
        return None if None in counts else sum(count for count in counts if count is not None)

    # --- sampling --------------------------------------------------------------------------------------------------------

    def run(
        self,
        job: Job,
        *,
        guidance: Sequence[GuidanceLike] | None = None,
        low_res: Tensor | Mapping[int, Tensor] | None = None,
        save: int | Literal["all"] = 0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Chunk]:
        if guidance is not None and not all(isinstance(wrap, str) for wrap in guidance):
            raise ConfigError("the stages of a cascade take guidances by name alone, as in cfg,scale=2")
        parts = self.parts(job)
        given = dict(zip(job.ids, job.labels or [None] * len(job.ids), strict=True))
        for block in _blocks(job):
            images: Tensor | Mapping[int, Tensor] | None = low_res
            chunk: Chunk | None = None
            for model, part in zip(self.stages, parts, strict=True):
                last = model is self.stages[-1]
                (chunk,) = model.run(part.only(block), low_res=images, save=save if last else 0, on_step=on_step)
                images = dict(zip(chunk.ids, chunk.trajectory.x, strict=True))
            assert chunk is not None
            yield replace(chunk, labels=None if job.labels is None else tuple(given[k] or 0 for k in chunk.ids))


def stage_seed(seed: int, number: int) -> int:
    """Seed of a stage, counted from 1: the job's own for the first, independent ones for the others."""
    if number == 1:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}|stage {number}".encode(), digest_size=8).digest(), "little")


def _blocks(job: Job) -> Iterator[tuple[int, ...]]:
    """Ids that go through all stages together."""
    if not job.exact:
        for start in range(0, len(job.ids), job.batch):
            yield job.ids[start : start + job.batch]
        return
    for number in sorted({k // job.batch for k in job.ids}):
        yield tuple(k for k in job.ids if k // job.batch == number)


def _check(number: int, small: Model, large: Model) -> None:
    """Whether a stage can go on from the one before it, number ``number``."""
    low = large.stage.conditioner.part(LowRes)
    if isinstance(small, Cascade) or isinstance(large, Cascade):
        raise ConfigError("a stage is a cascade itself; give its stages, one by one")
    if low is None:
        raise ConfigError(
            f"stage {number + 1} begins from no low-resolution image; train one with a recipe such as cdm-32-64 or sr3-64-256"
        )
    wanted = tuple(side // low.config.scale for side in large.facts.size)
    if small.facts.size != wanted or small.facts.channels != large.facts.channels:
        has, needs = (
            "x".join(map(str, (*size, c))) for size, c in ((small.facts.size, small.facts.channels), (wanted, large.facts.channels))
        )
        raise ConfigError(f"stage {number} makes images of {has}, and stage {number + 1} begins from {needs}; give stages that fit")


@contextmanager
def _guided_alike(number: int, last: int, guided: bool) -> Iterator[None]:
    """Says how to guide one stage, where a guidance that was meant for all does not fit stage ``number``."""
    try:
        yield
    except (ConfigError, CapabilityError) as error:
        if not guided:
            raise
        raise type(error)(f"stage {number}: {error}; --stage {last}.guidance=... guides stage {last} alone") from None


def _stopped(model: Model, job: Job, low: LowRes, level: float) -> Job:
    """A stage's job that ends at the noise of the next stage's level, by the steps that it would have taken that far."""
    stage, truncated = model.stage, "truncated conditioning augmentation"
    assert low.schedule is not None
    if stage.prior.clean or not isinstance(stage.codec, Pixel):
        raise CapabilityError(f"{truncated} needs a stage before that denoises pixels step by step; leave out truncated")
    wanted = torch.tensor([level], dtype=torch.float64)
    t = wanted if stage.schedule == low.schedule else stage.schedule.time_of(low.schedule.half_log_snr(wanted))
    alpha, sigma = stage.schedule(t)
    if abs(float(alpha**2 + sigma**2) - 1) > SNAP or bool((stage.denoiser.snap(t) - t).abs() > SNAP):
        raise CapabilityError(f"{truncated} needs a stage before that preserves variance and knows every noise level; leave out truncated")
    end = float(t)
    plan = model.plan(job)
    if plan.adaptive:
        return replace(job, end=end)
    times = [time for time in plan.grid[:, 0].tolist() if time > end + SNAP]
    if not times:
        raise ConfigError(f"augmentation level {level} is above the first step of the stage before; give a smaller one")
    return replace(job, grid="times:" + ",".join(map(repr, times)), steps=None, end=end)


# --- settings ------------------------------------------------------------------------------------------------------------


def parse_stages(texts: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Reads settings of stages, as in "1.steps=50" or "2.level=0.3"; guidance may be repeated.

    Raises:
        ConfigError: A text of another form, an unknown setting or a value that does not fit.

    Example:
        >>> parse_stages(["1.steps=50", "2.sampler=ddim,eta=0.5", "2.truncated=true"])
        {1: {'steps': 50}, 2: {'sampler': 'ddim,eta=0.5', 'truncated': True}}
    """
    known = [f.name for f in fields(SampleConfig)]
    out: dict[int, dict[str, Any]] = {}
    for text in texts:
        match = re.fullmatch(r"(\d+)\.(\w+)=(.+)", text)
        if match is None:
            raise ConfigError(f"'{text}' is no setting of a stage; write stage.setting=value, as in 2.level=0.3")
        number, name, value = int(match[1]), match[2], match[3]
        if name not in known:
            raise unknown("setting of a stage", name, known)
        held = out.setdefault(number, {})
        if name == "guidance":
            held[name] = (*held.get(name, ()), value)
            continue
        try:
            held[name] = getattr(from_dict(SampleConfig, {name: _value(name, value)}), name)
        except ConfigError:
            raise ConfigError(f"'{text}': {value!r} does not fit {name}; as in 1.steps=50, 2.level=0.3, 2.truncated=true") from None
    return out


def _value(name: str, text: str) -> Any:
    if name in ("sampler", "grid"):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def with_settings(spec: Spec, settings: Mapping[str, Any]) -> Spec:
    """A spec with some of the settings by which its model is sampled replaced."""
    sample = replace(spec.recipe.sample, **settings)
    return replace(spec, recipe=replace(spec.recipe, sample=sample))
