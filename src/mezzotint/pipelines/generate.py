"""A trained model, and images from it."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mezzotint.classifier import NoisyClassifier
from mezzotint.conditioning import Label, LowRes
from mezzotint.configs import DataFacts, Spec
from mezzotint.denoise import Bound, Denoiser
from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.guidance import Guidance, Site, compose
from mezzotint.moments import KnownVariance
from mezzotint.noise import Noise
from mezzotint.pipelines.build import Stage
from mezzotint.pipelines.tuned import Setting, read_tuned
from mezzotint.pipelines.variance_file import read_variance
from mezzotint.registry import build, call_with, get, parse, with_setting
from mezzotint.sample.ancestral import KNOWN_VARIANCE
from mezzotint.sample.base import Sampler
from mezzotint.sample.grid import BETAS, SPACINGS, snapped
from mezzotint.sample.loop import sample
from mezzotint.types import Cond, Plan, Trajectory

NULL = "null"
EXACT_BATCH = 8
GuidanceLike = str | Callable[[Denoiser], Denoiser]


@dataclass(frozen=True)
class Job:
    """Which images are to be made, and how: all that they are a function of, beside the model.

    Attributes:
        ids: Number of each image.
        labels: Label of each image, or None for an unconditional model; ``num_classes`` is the null class.
        sampler: As in "ddim,eta=0.5".
        steps: Number of steps, or None for what the grid gives.
        grid: Spacing of the times.
        guidance: In order, the innermost first, as in "cfg,scale=2".
        seed: Seed of the random streams.
        clip: Whether x0 is clipped to [-1, 1] at each step; a number is the quantile of dynamic thresholding.
        batch: Images in a pass; without ``exact`` it changes no image by more than 1/255.
        exact: Run the network on aligned blocks of ``batch`` ids, padded, so that results are equal in all bytes.
        level: Noise that the low-resolution images are given; None: the model has no such condition.
        low_res: Hash of each low-resolution image that an image begins from, or None.
        before: For a cascade, the settings of each stage before the last, and the hash of its weights.
        noised: Whether these come with that noise already, from a stage that stopped at it; None: they do not.
        end: Where the images end: "last" for the cleanest time that the network knows, or a time; None: at 0.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...] | None
    sampler: str
    steps: int | None
    grid: str
    guidance: tuple[str, ...]
    seed: int
    clip: bool | float
    batch: int
    exact: bool
    level: float | None = None
    low_res: tuple[str, ...] | None = None
    noised: bool | None = None
    before: tuple[Mapping[str, Any], ...] | None = None
    end: float | Literal["last"] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The job as plain lists, numbers and strings; what may be missing is left out where it is None."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.default is MISSING or getattr(self, f.name) is not None}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in held.items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Job:
        """The job that ``to_dict`` wrote.

        Raises:
            ConfigError: A key is missing.
        """
        given: dict[str, Any] = {}
        for f in fields(cls):
            if f.name not in value:
                if f.default is not MISSING:
                    continue
                raise ConfigError(f"a sampling job without '{f.name}'; it was written by another version or changed by hand")
            held = value[f.name]
            given[f.name] = tuple(held) if isinstance(held, list) else held
        return cls(**given)

    def only(self, ids: Iterable[int]) -> Job:
        """The same job for some of its images."""
        wanted = set(ids)
        keep = [i for i, k in enumerate(self.ids) if k in wanted]
        labels = None if self.labels is None else tuple(self.labels[i] for i in keep)
        low_res = None if self.low_res is None else tuple(self.low_res[i] for i in keep)
        return replace(self, ids=tuple(self.ids[i] for i in keep), labels=labels, low_res=low_res)


@dataclass(frozen=True)
class Chunk:
    """Images that were made together.

    Attributes:
        ids: Number of each image.
        labels: Label of each image, or None.
        trajectory: How they came about; ``trajectory.x`` are the images ``[b, c, h, w]`` in [-1, 1], what it saved on the way is in the
            space of the codec.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...] | None
    trajectory: Trajectory


class Loaded:
    """What every trained model has.

    Attributes:
        spec: The resolved recipe, the facts of the data, and the list of weight files.
        path: The model folder, or None.
        weights: Name of the weight file that was loaded, or None.
        hash: Its SHA-256, or None.
    """

    def __init__(self, spec: Spec, *, path: Path | None = None, weights: str | None = None):
        self.spec, self.path, self.weights = spec, path, weights
        self.hash: str | None = spec.weights[weights]["sha256"] if weights else None

    @property
    def facts(self) -> DataFacts:
        """What the training data was."""
        return self.spec.data

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each label, in order."""
        return self.spec.data.classes


class ClassifierModel(Loaded):
    """A trained classifier of noised images.

    Args:
        spec: What it is.
        classifier: The network on its schedule.
        path: The model folder, or None.
        weights: Name of the weight file.
    """

    def __init__(self, spec: Spec, classifier: NoisyClassifier, *, path: Path | None = None, weights: str | None = None):
        super().__init__(spec, path=path, weights=weights)
        self.classifier = classifier

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.classifier.parameters()).device

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, t: float = 0.0, batch_size: int = 256) -> Tensor:
        """log p(y | x_t) ``[n, K]``.

        Args:
            x: Images ``[n, c, h, w]`` in [-1, 1].
            t: Their noise level, in the schedule's coordinate.
            batch_size: Images in a pass.
        """
        parts = []
        for part in x.split(batch_size):
            times = torch.full((len(part),), t, dtype=torch.float64)
            parts.append(self.classifier(part.to(self.device), times).log_softmax(dim=1).cpu())
        return torch.cat(parts)


class Model(Loaded):
    """A trained generator.

    Args:
        spec: What it is.
        stage: Its pieces.
        load: Loads another model by path, for guidances that need one.
        path: The model folder, or None.
        weights: Name of the weight file.

    Example:
        model = mezzotint.load("runs/digits")
        images = model.sample(num=16, classes="3=8,8=8", guidance=["cfg,scale=2"], steps=50, seed=1)
    """

    def __init__(self, spec: Spec, stage: Stage, *, load: Callable[..., Any], path: Path | None = None, weights: str | None = None):
        super().__init__(spec, path=path, weights=weights)
        self.stage, self._load = stage, load
        self._guides: dict[tuple[str, object], Any] = {}
        self.variance_part: nn.Module | None = None

    def with_variance(self) -> KnownVariance:
        """The network together with what the model knows of Var[x0 | x_t].

        Raises:
            CapabilityError: It knows nothing of it, or only for other weights.
        """
        config, add = self.spec.covariance, f"`mezzotint covariance {self.path} --data DIR`"
        if config is None:
            raise CapabilityError(f"this model does not know Var[x0 | x_t], which the optimal variance needs; add it by {add}")
        if self.variance_part is None and config.method != "heuristic":
            channels = self.stage.codec.shape(self.shape)[0]
            self.variance_part = read_variance(self.path, self.spec, weights=self.weights, channels=channels, device=self.device)
        if self.variance_part is None and config.method != "heuristic":
            raise CapabilityError(f"Var[x0 | x_t] is known for other weights than {self.weights}; load those with --ema, or run {add}")
        return KnownVariance(self.stage.denoiser, config, self.variance_part)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.stage.denoiser.parameters()).device

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (self.facts.channels, *self.facts.size)

    # --- planning --------------------------------------------------------------------------------------------------------

    def job(
        self,
        *,
        num: int | None = None,
        classes: str | Mapping[str | int, int] | None = None,
        ids: Sequence[int] | None = None,
        guidance: GuidanceLike | Sequence[GuidanceLike] = (),
        sampler: str | None = None,
        variance: str | None = None,
        steps: int | None = None,
        grid: str | None = None,
        calls: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        exact: bool = False,
        clip: bool | float | None = None,
        end: float | Literal["last"] = 0.0,
        level: float | None = None,
        low_res: Tensor | Mapping[int, Tensor] | None = None,
    ) -> Job:
        """Checks a wish and fills in what the model's own settings say.

        Args:
            num: Number of images; None: 16, or what ``classes`` or ``ids`` give.
            classes: How many of each class, as in "3=8,cat=8" or {"cat": 8}: class names, or label numbers where no class has that name;
                "null" is the null class. Without it image k of a conditional model has the label k mod K.
            ids: Make only these images of the job.
            guidance: In order, the innermost first: texts, or functions from denoiser to denoiser; empty: the model's own.
            sampler: As in "ddim,eta=0.5"; None: the model's own.
            variance: Replaces the sampler's setting "variance", as in "optimal".
            steps: Number of steps; None: the model's own, unless the grid gives it.
            grid: Spacing of the times; None: the model's own, or "uniform" where that is a rule and steps are given.
            calls: Use the sampler, steps, grid and, unless one is given, guidance that a search found best within so many network calls.
            seed: Seed of the random streams.
            batch_size: Images in a pass; None: 64. No effect with ``exact``, which fixes it at 8.
            exact: Promise equal bytes, not 1/255.
            clip: Clip x0 at each step; a number in (0, 1] thresholds it at that quantile of its values instead (dynamic thresholding);
                None: the model's own setting.
            end: Where the images end: 0, "last" for the cleanest time that the network knows, or a time in the schedule's own coordinate,
                from which they can go on elsewhere.
            level: Noise that the low-resolution images are given, from 0 to 1; None: the model's own setting.
            low_res: The low-resolution images that ``run`` will be given, by id; the job then holds their hashes.

        Raises:
            ConfigError: Contradictions, unknown names, or settings that no sampler has.
            CapabilityError: A guidance or grid that this model cannot have.
        """
        own = self.spec.recipe.sample
        if calls is not None:
            if not (sampler is None and steps is None and grid is None):
                raise ConfigError("calls chooses sampler, steps and grid; leave those out, or leave out calls")
            found = self.tuned(calls)
            sampler, steps, grid, guidance = found.sampler, found.steps, found.grid, guidance or found.guidance
        guidance = guidance or own.guidance
        if grid is None and steps is None:
            steps = own.steps
        if grid is None:  # a respacing rule fixes the number of steps, so it gives way to one that was asked for
            grid = own.grid if steps is None or own.grid.partition(":")[0] in (*SPACINGS, BETAS) else "uniform"
        labels: list[int] | None = None
        if classes is not None:
            counts = self._counts(classes)
            labels = [label for label, count in counts for _ in range(count)]
            if num is not None and num != len(labels):
                raise ConfigError(f"classes fix the number at {len(labels)}, and num is {num}; leave out one of the two")
            if ids is not None and (bad := [k for k in ids if k >= len(labels)]):
                raise ConfigError(f"id {bad[0]} is not among the {len(labels)} images of the classes; ids run from 0 to {len(labels) - 1}")
        if ids is not None:
            if num is not None and num != len(ids):
                raise ConfigError(f"{len(ids)} ids, and num is {num}; leave out one of the two")
            if not ids or min(ids) < 0 or len(set(ids)) < len(ids):
                raise ConfigError("ids must be different numbers from 0 on, at least one")
            chosen = tuple(int(k) for k in ids)
        else:
            count = len(labels) if labels is not None else (16 if num is None else num)
            if count < 1:
                raise ConfigError(f"{count} images; ask for at least 1")
            chosen = tuple(range(count))
        picked = None
        if labels is not None:
            picked = tuple(labels[k] for k in chosen)
        elif self.stage.conditioner.part(Label) is not None or (self.classes and guidance):
            picked = tuple(k % len(self.classes) for k in chosen)
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"a batch of {batch_size}; give at least 1")
        if exact and batch_size not in (None, EXACT_BATCH):
            warnings.warn(f"a batch of {batch_size} has no effect with exact, which always runs on batches of {EXACT_BATCH}", stacklevel=2)
        wraps = (guidance,) if isinstance(guidance, str) or callable(guidance) else tuple(guidance)
        job = Job(
            ids=chosen,
            labels=picked,
            sampler=with_setting(own.sampler if sampler is None else sampler, "variance", variance),
            steps=steps,
            grid=grid,
            guidance=tuple(w if isinstance(w, str) else getattr(w, "__qualname__", repr(w)) for w in wraps),
            seed=int(seed),
            clip=own.clip if clip is None else _bounds(clip),
            batch=EXACT_BATCH if exact else batch_size or 64,
            exact=exact,
            level=self._level(own.level if level is None else level, asked=level is not None),
            low_res=None if low_res is None else tuple(image_hash(low_res[k]) for k in chosen),
            end=None if end == 0 else end,
        )
        visited = self.plan(job).grid
        if bool((visited[-1] > visited[0]).any()):
            raise ConfigError(f"sampler '{job.sampler}' runs from images to noise; use it with mezzotint.sample.loop, and ddim to sample")
        denoiser = self.denoiser(job, wraps)
        if picked is not None and "label" not in denoiser.accepts:
            raise ConfigError("this model is unconditional; leave out classes, or add classifier guidance")
        return job

    def _level(self, level: float, *, asked: bool) -> float | None:
        low = self.stage.conditioner.part(LowRes)
        if low is None:
            if asked:
                raise ConfigError("this model begins from no low-resolution image; leave out the level")
            return None
        if not 0 <= level <= 1:
            raise ConfigError(f"augmentation level {level}; levels are from 0 (no noise) to 1")
        if level and low.schedule is None:
            raise CapabilityError("this model was trained without noise on its low-resolution images; leave out the level")
        return float(level)

    def tuned(self, calls: int) -> Setting:
        """The best setting within so many network calls that a search found for this model.

        Raises:
            ConfigError: There was no search, or none for so few calls.
        """
        found = None if self.path is None else read_tuned(self.path)
        if found is None:
            raise ConfigError(f"this model is not tuned; run `mezzotint tune {self.path} --data DIR --calls {calls}`, or give steps")
        if found.weights != self.hash:
            warnings.warn(f"{self.path} was tuned with other weights than {self.weights}", stacklevel=3)
        return found.setting(calls)

    def _counts(self, classes: str | Mapping[str | int, int]) -> list[tuple[int, int]]:
        if not self.classes:
            raise ConfigError("this model knows no classes; leave out classes, and give num")
        pairs = parse_classes(classes) if isinstance(classes, str) else [(str(k), v) for k, v in classes.items()]
        out = []
        for name, count in pairs:
            if count < 1:
                raise ConfigError(f"{count} images of class '{name}'; ask for at least 1")
            out.append((self.label_of(name), count))
        if repeated := [label for label, times in Counter(label for label, _ in out).items() if times > 1]:
            raise ConfigError(f"class '{self.class_name(repeated[0])}' stands twice; give one number for each class")
        return out

    def label_of(self, name: str) -> int:
        """The label of a class name, or of a label written as a number where no class has that name.

        Raises:
            ConfigError: No such class.
        """
        if name in self.classes:
            return self.classes.index(name)
        if name == NULL and self.null is not None:
            return len(self.classes)
        if name.isdecimal() and int(name) < len(self.classes):
            return int(name)
        raise unknown("class", name, self.classes)

    def class_name(self, label: int) -> str:
        """The name of a label."""
        return NULL if label == len(self.classes) else self.classes[label]

    @property
    def null(self) -> Callable[..., Any] | None:
        """Turns conditions into those of the null class; None where the model has none."""
        label = self.stage.conditioner.part(Label)
        return label.null if label is not None and label.drop > 0 else None

    def denoiser(self, job: Job, guidance: Sequence[GuidanceLike] | None = None) -> Denoiser:
        """The network with the job's guidance and bounds around it.

        The models that guide are kept until they are no longer asked for, so that a job reads them once.

        Args:
            job: What ``job`` gave.
            guidance: The guidances themselves, where some are functions; None: those that the job names.
        """
        kept, self._guides = self._guides, {}

        def load(path: str, *, ema: float | bool = True) -> Any:
            key = path, ema
            self._guides[key] = kept[key] if key in kept else self._load(path, ema=ema)
            return self._guides[key]

        site = Site(self.null, load, self.classes, self.spec.recipe.codec)

        def wrap(text: str) -> Callable[[Denoiser], Denoiser]:
            name, settings = parse(text)
            kind: type[Guidance] = get("guidance", name)
            return lambda inner: call_with(kind.attach, settings, inner, site, what=name)

        wraps = [wrap(w) if isinstance(w, str) else w for w in (job.guidance if guidance is None else guidance)]
        known = self.sampler(job).requires >= KNOWN_VARIANCE
        guided = compose(self.with_variance() if known else self.stage.denoiser, wraps)
        if isinstance(job.clip, bool):
            return (Bound(guided) if job.clip else guided).eval()
        return Bound(guided, quantile=job.clip).eval()

    def sampler(self, job: Job) -> Sampler:
        """The job's sampler."""
        return build("sampler", job.sampler)

    def num_steps(self, job: Job) -> int | None:
        """Number of steps to an image; None where the sampler chooses."""
        plan = self.plan(job)
        return None if plan.adaptive else plan.steps

    def plan(self, job: Job, *, t_start: Tensor | None = None) -> Plan:
        """The times that the job will visit: those that the network knows, where it knows only some.

        Args:
            job: What ``job`` gave.
            t_start: Where the images are, ``[b]``, as a prior says; None: at the noisiest time.

        Raises:
            ConfigError: Contradictions between steps, grid and ends.
        """
        schedule, end = self.stage.schedule, 0.0 if job.end is None else job.end
        if self.stage.prior.clean:
            return Plan(torch.zeros(1, 1, dtype=torch.float64))
        if t_start is not None and bool((t_start == schedule.t_max).all()):
            t_start = None
        if t_start is not None and bool((t_start <= (schedule.t_min if isinstance(end, str) else end)).all()):
            return Plan(t_start[None])  # they are there already
        plan = self.sampler(job).plan(schedule, steps=job.steps, spacing=job.grid, t_start=t_start, t_end=end)
        return snapped(plan, schedule, self.stage.denoiser.snap)

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
        """Makes the images of a job, a batch at a time.

        Args:
            job: What ``job`` gave, or a part of it (``Job.only``).
            guidance: The guidances themselves, where some are functions.
            low_res: For models that begin from a low-resolution image: that of each id, ``[c, h, w]`` in [-1, 1], all of one size.
            save: As for ``mezzotint.sample.loop.sample``.
            on_step: Called after each step of each batch with its number and the number of steps.

        Yields:
            Batches, in the order of the ids; with ``exact`` in the order of blocks.

        Raises:
            CapabilityError: The model begins from low-resolution images, and there are none.
            ConfigError: Low-resolution images that the model has no use for, or others than the job names.
        """
        self.check_low_res(job, low_res)
        denoiser, sampler = self.denoiser(job, guidance), self.sampler(job)
        given = dict(zip(job.ids, job.labels or [None] * len(job.ids), strict=True))
        for block, wanted in _blocks(job):
            noise = Noise(job.seed, block, stage="sample")
            cond: dict[str, Tensor] = {}
            if job.labels is not None:
                known = next(label for label in given.values() if label is not None)
                labels = [known if (label := given.get(k)) is None else label for k in block]  # padding takes any class
                cond = {"label": torch.tensor(labels, device=self.device)}
            shape = self.shape
            if low_res is not None:
                given_low = [low_res[k if k in wanted else job.ids[0]] for k in block]  # padding takes any image
                cond |= self._low_res(torch.stack(given_low), job, noise)
                _, _, height, width = cond["low_res"].shape
                shape = (shape[0], height, width)
            x, t = self.stage.prior.sample(self.stage.codec.shape(shape), cond=cond, noise=noise.sub("prior"))
            plan = self.plan(job, t_start=t)
            done = sample(denoiser, sampler, plan, x.to(self.device), cond=cond, noise=noise, save=save, on_step=on_step)
            with torch.no_grad():
                done = replace(done, x=self.stage.codec.decode(done.x))
            keep = [i for i, k in enumerate(block) if k in wanted]
            if len(keep) < len(block):
                done = _rows(done, keep)
            ids = tuple(block[i] for i in keep)
            yield Chunk(ids, None if job.labels is None else tuple(given[k] or 0 for k in ids), done)

    def reduced(self, images: Tensor, ids: Sequence[int], *, seed: int = 0) -> dict[int, Tensor] | None:
        """Low-resolution images as training would make them, by id; None for a model that begins from none.

        Args:
            images: ``[n, c, h, w]`` in [-1, 1].
            ids: Their ids.
            seed: Of the random strength of degradations.
        """
        part = self.stage.conditioner.part(LowRes)
        if part is None:
            return None
        return dict(zip(ids, part.reduce(images, noise=Noise(seed, ids, stage="reduced")), strict=True))

    def check_low_res(self, job: Job, low_res: Tensor | Mapping[int, Tensor] | None) -> None:
        """Whether a job is given the low-resolution images that it needs; arguments and errors as for ``run``."""
        if self.stage.conditioner.part(LowRes) is None:
            if low_res is not None:
                raise ConfigError("this model begins from no low-resolution image; leave out low_res")
            return
        if low_res is None:
            raise CapabilityError(
                "this model begins from low-resolution images: give it some with `mezzotint upscale`, or join it to the model that makes "
                "them with `mezzotint cascade`"
            )
        if isinstance(low_res, Tensor) and max(job.ids) >= len(low_res):
            raise ConfigError(f"image {max(job.ids)} has no low-resolution image among {len(low_res)}; give one for each id")
        if job.low_res is not None and any(image_hash(low_res[k]) != held for k, held in zip(job.ids, job.low_res, strict=True)):
            raise ConfigError("the low-resolution images are not those of the job (a hash differs); give the same images again")

    def _low_res(self, low: Tensor, job: Job, noise: Noise) -> Cond:
        """The condition from low-resolution images ``[b, c, h, w]``."""
        part = self.stage.conditioner.part(LowRes)
        assert part is not None
        if low.shape[1] != self.facts.channels:
            raise ConfigError(f"low-resolution images of {low.shape[1]} channels, and the model makes {self.facts.channels}; convert them")
        return part.prepare(low.to(self.device, torch.float32), level=job.level, noise=noise, noised=bool(job.noised))

    def sample(
        self,
        *,
        guidance: GuidanceLike | Sequence[GuidanceLike] = (),
        low_res: Tensor | Mapping[int, Tensor] | None = None,
        progress: bool = False,
        **wish: Any,
    ) -> Tensor:
        """Images, in the order of their ids; arguments as for ``job``.

        Args:
            guidance: As for ``job``.
            low_res: As for ``run``; a tensor ``[n, c, h, w]`` makes n images unless their number is given.
            progress: Show a progress bar.
            wish: The other arguments of ``job``.

        Returns:
            ``[n, c, h, w]`` float32 in [-1, 1], on the CPU.
        """
        wraps = (guidance,) if isinstance(guidance, str) or callable(guidance) else tuple(guidance)
        if low_res is not None and not {"num", "ids", "classes"} & wish.keys():
            wish["num"] = len(low_res)
        job = self.job(guidance=wraps, low_res=low_res, **wish)
        bar = None
        if progress:
            from tqdm import tqdm

            bar = tqdm(total=len(job.ids), unit="image", desc="sampling")
        found: dict[int, Tensor] = {}
        for chunk in self.run(job, guidance=wraps or None, low_res=low_res):
            found.update(zip(chunk.ids, chunk.trajectory.x.float().cpu(), strict=True))
            if bar is not None:
                bar.update(len(chunk.ids))
        if bar is not None:
            bar.close()
        return torch.stack([found[k] for k in job.ids])

    def pixels(self, x: Tensor, *, official: bool = False) -> np.ndarray:
        """Turns images into pixels of the bit depth of the training data; arguments as for ``to_pixels``."""
        return to_pixels(x, bits=self.facts.bits, official=official)


def to_pixels(x: Tensor, *, bits: Literal[8, 16] = 8, official: bool = False) -> np.ndarray:
    """Turns images into pixels.

    Args:
        x: ``[n, c, h, w]`` in [-1, 1]; values outside are clamped.
        bits: Bits a channel.
        official: Truncate, as the official ADM code does, rather than round.

    Returns:
        ``[n, h, w, c]`` uint8 or uint16.
    """
    top = 2**bits - 1
    scaled = ((x.detach().to("cpu", torch.float64) + 1) * (top / 2)).clamp(0, top)
    whole = scaled.floor() if official else scaled.round()
    return whole.permute(0, 2, 3, 1).numpy().astype(np.uint8 if bits == 8 else np.uint16)


def image_hash(image: Tensor) -> str:
    """Short hash of an image ``[c, h, w]``: its numbers in float32."""
    held = image.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.sha256(repr(held.shape).encode() + held.tobytes()).hexdigest()[:16]


def parse_classes(text: str) -> list[tuple[str, int]]:
    """Reads "3=8,cat=8" as pairs of class and number.

    Raises:
        ConfigError: A part that is not class=number.

    Example:
        >>> parse_classes("3=8,cat=8")
        [('3', 8), ('cat', 8)]
    """
    pairs = []
    for part in text.split(","):
        name, equals, count = part.rpartition("=")
        if not equals or not name.strip() or not count.strip().isdecimal():
            raise ConfigError(f"'{part}' in classes '{text}' is not class=number; write them as in 3=8,cat=8")
        pairs.append((name.strip(), int(count)))
    return pairs


def parse_ids(text: str) -> list[int]:
    """Reads "5,17-20" as numbers.

    Raises:
        ConfigError: A part that is neither a number nor a range.

    Example:
        >>> parse_ids("5,17-20")
        [5, 17, 18, 19, 20]
    """
    ids: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ConfigError(f"'{part}' in ids '{text}' is neither a number nor a range; write them as in 5,17-20")
        ids.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return ids


def _bounds(clip: bool | float) -> bool | float:
    if not isinstance(clip, bool) and not 0 < clip <= 1:
        raise ConfigError(f"clip {clip:g}: give on, off or a quantile in (0, 1], as in 0.995")
    return clip


def _blocks(job: Job) -> Iterator[tuple[tuple[int, ...], set[int]]]:
    """The ids of each pass, and those of them that are wanted."""
    if not job.exact:
        for start in range(0, len(job.ids), job.batch):
            block = job.ids[start : start + job.batch]
            yield block, set(block)
        return
    # Image k always stands in row k mod batch of a full batch: kernels then see the same shapes and rows whatever is asked for.
    wanted = set(job.ids)
    for number in sorted({k // job.batch for k in job.ids}):
        block = tuple(range(number * job.batch, (number + 1) * job.batch))
        yield block, wanted & set(block)


def _rows(done: Trajectory, keep: list[int]) -> Trajectory:
    def cut(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(v[keep] for v in values)

    return replace(done, x=done.x[keep], t=done.t[keep], xs=cut(done.xs), x0s=cut(done.x0s), ts=cut(done.ts))
