"""Measures a set of images against another: from folders, files or batches to figures with their protocol."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

import mezzotint
from mezzotint import registry
from mezzotint.checkpoint import load
from mezzotint.configs import DataConfig
from mezzotint.data import Source, open_source, subset
from mezzotint.data.arrays import open_npz
from mezzotint.data.samples import open_samples, read_manifest
from mezzotint.data.source import to_images
from mezzotint.errors import ConfigError, DataError, unknown
from mezzotint.metrics.features import Extractor
from mezzotint.metrics.statistics import Collector, Statistics, is_statistics, read_statistics, spread_over
from mezzotint.pipelines.generate import ClassifierModel
from mezzotint.tasks.checks import Checks, Memorisation, check, memorisation
from mezzotint.tasks.figures import METRICS, Figure, Settings, chosen, measure, needed
from mezzotint.tasks.tune import classifier_features
from mezzotint.train.ranks import launched

PROTOCOLS: Mapping[str, tuple[str, tuple[str, ...], bool]] = {
    "adm": ("inception,protocol=adm", ("pool", "spatial"), True),
    "edm": ("inception,protocol=adm", ("pool",), False),
    "clean": ("inception,protocol=clean", ("pool",), True),
    "pytorch_fid": ("inception,protocol=pytorch_fid", ("pool",), False),
}
"""Name -> its feature network, the features whose moments its reference has, and whether vectors of images are kept in it."""
KEPT = 10_000
"""Reference images whose vectors are kept, for precision and recall and the like: as many as ADM's reference batches have."""
MOST = 4.0
"""Size of a pixel from which images are taken for some of another range, rather than clamped to [-1, 1]."""
QUANTISE = ("round", "truncate", "none")


# --- what is measured ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSet:
    """Images, statistics of images, or both.

    Attributes:
        path: As the user gave it.
        source: The images; None for statistics alone.
        held: Statistics that were read from a file; None for images alone.
        manifest: The manifest of a sample folder.
    """

    path: str
    source: Source | None = None
    held: Statistics | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)


def open_set(
    path: str | Path | Source,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    split: Literal["all", "train", "test"] = "all",
    labels: bool = True,
) -> ImageSet:
    """Opens images or statistics.

    Args:
        path: A folder of images or of class folders, a ZIP, an ``.npz`` with ``arr_0``, a folder of `mezzotint sample`, "digits", or a file
            of statistics (``metrics.statistics``); or a source.
        size: Bring images to this height and width.
        channels: Bring them to so many channels.
        split: Part of the data, where it has parts.
        labels: Read classes.

    Raises:
        DataError: It is missing or damaged; the message names the file.
        ConfigError: A source of another size or number of channels.
    """
    if isinstance(path, Source):
        if (size or path.facts.size, channels or path.facts.channels) != (path.facts.size, path.facts.channels):
            raise ConfigError("a source is measured as it was opened; open it with that size and number of channels")
        return ImageSet("images in memory", path)
    text, place = str(path), Path(path).expanduser()
    config = DataConfig(path=text, size=size, channels=channels, split=split, labels=labels, max_unreadable=0.0)
    if is_statistics(place):
        held = read_statistics(place)
        source = None
        with suppress(DataError):  # an ADM file also holds images
            source = open_npz(place, config) if place.suffix == ".npz" else None
        return ImageSet(text, source, held)
    try:
        manifest = read_manifest(place) if place.is_dir() else None
        source = open_source(config) if manifest is None else open_samples(place, manifest, config)
    except DataError as error:
        message = str(error).replace("--data takes", "images may be").replace("--data with ", "").replace("--data.", "--")
        raise DataError(message) from error
    return ImageSet(text, source, None, manifest or {})


def build_features(text: str, device: torch.device | str = "cpu") -> Extractor:
    """The feature network of a text.

    Args:
        text: A name with its settings, as in "inception,weights=FILE", or the path of a classifier.
        device: Where it runs.

    Raises:
        ConfigError: No such name and no such classifier.
    """
    name = text.partition(",")[0]
    if name in registry.names("features"):
        return registry.build("features", text, device)
    if not Path(text).expanduser().exists():
        raise unknown("features", text, [*registry.names("features"), "the folder of a classifier"])
    model = load(Path(text).expanduser(), device=device)
    if not isinstance(model, ClassifierModel):
        raise ConfigError(f"--features {text} is a generator; give a model of `mezzotint train-classifier`, or one of "
                          f"{', '.join(registry.names('features'))}")  # fmt: skip
    return classifier_features(model)


# --- the accumulator -----------------------------------------------------------------------------------------------------


class Evaluator:
    """Takes batches of images, wherever they come from, and measures them.

    Args:
        features: The feature network, or its name, or the path of a classifier.
        metrics: Names of ``figures.METRICS``; None: what the network can give.
        kept: Numbers of the images whose vectors are kept; None: all.
        quantise: What becomes of floating-point images, which files of 8 bits could not hold: "round" (to the nearest level), "truncate"
            (as ADM's code does) or "none".
        device: Where the network runs, if it is given by name.
        settings: Settings of the metrics.

    Example:
        evaluator = Evaluator("inception")
        for images in batches:  # [b, c, h, w] in [-1, 1]
            evaluator.add(images)
        figures = evaluator.gather().measure(reference_of("REF.npz", evaluator))
    """

    def __init__(
        self,
        features: Extractor | str = "inception",
        metrics: Sequence[str] | None = None,
        *,
        kept: Collection[int] | None = None,
        quantise: str = "round",
        device: torch.device | str | None = None,
        settings: Settings | None = None,
    ):
        if quantise not in QUANTISE:
            raise unknown("way to quantise", quantise, QUANTISE)
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
        self.features = build_features(features, where) if isinstance(features, str) else features
        self.metrics = chosen(metrics, self.features)
        self.settings = settings or Settings()
        self.quantise = quantise
        moments, vectors = needed(self.metrics)
        self.collector = Collector(self.features, moments=moments, vectors=vectors, kept=kept)

    def add(self, images: Tensor, ids: Sequence[int] | None = None, *, names: Sequence[str] | None = None) -> None:
        """Counts a batch.

        Args:
            images: ``[b, c, h, w]`` in [-1, 1], or uint8 from 0 to 255, on any device.
            ids: Number of each image in its set, the same whatever rank sees it; None: counted on from the last.
            names: What to call each image in messages.

        Raises:
            DataError: An image is not finite or leaves the range, or has another shape than those before.
        """
        if images.dtype == torch.uint8:
            images = images.float() / 127.5 - 1
        elif self.quantise != "none" and images.is_floating_point():
            if bool((images.abs() > MOST).any()):
                raise DataError(f"images have pixels of {float(images.abs().max()):.3g}; bring them to [-1, 1]")
            levels = (images.float() + 1) * 127.5
            images = (levels.round() if self.quantise == "round" else levels.floor()).clamp(0, 255) / 127.5 - 1
        self.collector.add(images, ids, names=names)

    def gather(self) -> Evaluator:
        """Brings together what all ranks have counted, through Accelerate; every rank then has all. Without ranks nothing is done.

        Returns:
            This object.
        """
        extractor = self.collector.extractor
        parts: list[Collector] = gather_object([self.collector])
        if len(parts) > 1:
            whole, *others = parts
            for other in others:
                whole.merge(other)
            whole.extractor = extractor
            self.collector = whole
        return self

    def statistics(self, protocol: Mapping[str, Any] | None = None) -> Statistics:
        """All that was counted, for ``measure`` or ``write_statistics``."""
        known = {"features": {"name": self.features.name, "sha256": self.features.hash}, "resize": self.features.resize}
        return self.collector.statistics({"images": self.collector.n, **known, "content": self.collector.content, **(protocol or {})})

    def measure(self, reference: Statistics) -> dict[str, Figure]:
        """The figures of all images counted so far, against statistics of the same network."""
        return measure(
            self.statistics(), reference, self.metrics, self.settings, features=self.features.name, device=device_of(self.features)
        )


def device_of(features: Extractor) -> torch.device:
    """Where to compute with vectors of a network: where it is itself, if it says so and double precision is known there."""
    device = torch.device(getattr(features, "device", "cpu"))
    return torch.device("cpu") if device.type == "mps" else device


# --- from paths to figures -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """Figures, what they depend on, and what was measured.

    Attributes:
        figures: Metric -> figure.
        protocol: All that the figures depend on, as plain values.
        checks: What the checks found.
        samples: Statistics of the samples, with vectors.
        reference: Statistics of the reference.
        sample_set: The samples.
        reference_set: The reference.
        train_set: The training images, where they were given.
        memory: What the memorisation check found, where training images were given.
    """

    figures: dict[str, Figure]
    protocol: dict[str, Any]
    checks: Checks
    samples: Statistics
    reference: Statistics
    sample_set: ImageSet
    reference_set: ImageSet
    train_set: ImageSet | None = None
    memory: Memorisation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Each metric under its name, beside "protocol" and "checks": what ``--json`` writes."""
        figures = {name: figure.to_dict() for name, figure in self.figures.items()}
        return {**figures, "protocol": self.protocol, "checks": {**self.checks.found, "warnings": list(self.checks.warnings)}}


@dataclass(frozen=True)
class Reading:
    """How images are read; no effect on the figures beyond rounding.

    Attributes:
        batch_size: Images in a pass.
        workers: Threads that decode images.
        on_images: Called with the number of images after each pass, and what they are.
    """

    batch_size: int = 64
    workers: int = 2
    on_images: Callable[[int, str], object] | None = None


def evaluate(
    samples: str | Path | Source,
    reference: str | Path | Source,
    *,
    metrics: Sequence[str] | None = None,
    features: str | None = None,
    protocol: str = "adm",
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    split: Literal["all", "train", "test"] = "all",
    num: int | None = None,
    keep: int = KEPT,
    settings: Settings | None = None,
    train: str | Path | Source | None = None,
    test: str | Path | Source | None = None,
    cas: Mapping[str, Any] | None = None,
    reading: Reading | None = None,
) -> Evaluation:
    """Measures samples against a reference, on all ranks that Accelerate or ``torchrun`` started.

    Args:
        samples: Images or statistics, as for ``open_set``.
        reference: The same, of real images.
        metrics: Names of ``figures.METRICS``, and "cas"; None: what network and data can give, without "cas".
        features: The feature network, as for ``build_features``; None: that of the reference, if it says so, or of the protocol.
        protocol: Name of ``PROTOCOLS``: how images are prepared for Inception.
        size: Bring the images of all sets to this height and width.
        channels: Bring them to so many channels.
        split: Part of the reference, where it has parts.
        num: Number of samples, evenly spread over them; None: all.
        keep: Reference images whose vectors are kept, evenly spread over it.
        settings: Settings of the metrics.
        train: Images that the model was trained on, for the memorisation check.
        test: Real images that it was not trained on, for that check and for CAS; None: the reference.
        cas: Settings of ``cas.accuracy_score``.
        reading: How images are read.

    Returns:
        The figures with their protocol.

    Raises:
        ConfigError: Unknown names, or statistics of another feature network.
        DataError: Images are missing, damaged or too few, or the reference lacks what a metric needs.
    """
    reading, settings = reading or Reading(), settings or Settings()
    labels = metrics is not None and "cas" in metrics
    brought = partial(open_set, size=size, channels=channels, labels=labels)
    # Parts of the digits are drawn class by class.
    samples_, reference_ = brought(samples), brought(reference, split=split, labels=labels or split != "all")
    train_, test_ = (None if path is None else brought(path) for path in (train, test))
    names = None if metrics is None else [name for name in metrics if name != "cas"]
    text = "pixels" if features is None and names == [] else features_text(features, protocol, reference_)
    extractor = build_features(text, launched().device or "cpu")
    names = chosen(names, extractor, held=(samples_, reference_))
    if num is not None:
        samples_ = _some(samples_, num)
    pool = () if train_ is None else ("pool",)
    reader = _Reader(extractor, reading)
    made = reader.statistics(samples_, "samples", names, also=pool)
    real = reader.statistics(reference_, "reference", names, keep=keep, also=pool)
    figures = measure(made, real, names, settings, features=extractor.name, device=device_of(extractor))
    memory = None
    if train_ is not None:
        known = reader.statistics(train_, "training images", (), also=pool)
        unseen = real if test_ is None else reader.statistics(test_, "held-out images", (), also=pool)
        memory = memorisation(made, known, unseen, device=device_of(extractor))
    if metrics is not None and "cas" in metrics:
        figures["cas"] = _cas(samples_, test_ or reference_, dict(cas or {}), settings)
    checks = check(made, real, names=_names(samples_), reference_names=_names(reference_), memory=memory)
    protocol_ = _protocol(made, real, samples_, reference_, extractor, text, size, split, figures, settings)
    return Evaluation(figures, protocol_, checks, made, real, samples_, reference_, train_, memory)


def make_reference(
    images: str | Path | Source,
    *,
    protocol: str = "adm",
    features: str | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    split: Literal["all", "train", "test"] = "all",
    keep: int | None = None,
    reading: Reading | None = None,
) -> Statistics:
    """Statistics of real images, to be written by ``metrics.statistics.write_statistics``. No image is left out, whatever the batch.

    Args:
        images: As for ``open_set``.
        protocol: Name of ``PROTOCOLS``.
        features: The feature network, as for ``build_features``; None: that of the protocol.
        size: Bring images to this height and width.
        channels: Bring them to so many channels.
        split: Part of the data, where it has parts.
        keep: Images whose vectors are kept, evenly spread; None: 10,000, or none where the protocol has no use for them.
        reading: How images are read.

    Raises:
        ConfigError: Unknown names.
        DataError: Images are missing or damaged, or statistics were given.
    """
    opened = open_set(images, size=size, channels=channels, split=split, labels=split != "all")
    if opened.source is None or opened.held is not None:
        raise DataError(f"{opened.path} holds statistics already; give images")
    text = features_text(features, protocol)
    extractor = build_features(text, launched().device or "cpu")
    _, wanted, keeps = PROTOCOLS[protocol]
    keep = (KEPT if keeps else 0) if keep is None else keep
    moments = [name for name in wanted if name in extractor.outputs]
    collector = Collector(extractor, moments=moments, vectors=("pool",) if keep else (), kept=spread_over(len(opened.source), keep))
    done = _Reader(extractor, reading or Reading()).count(opened.source, collector, "images")
    name = protocol if extractor.name == "inception" else None
    said = {"path": opened.path, "split": split, "brought_to": _resized(size), "protocol": name, "extractor": text}
    return replace(done, protocol={**done.protocol, **said})


def features_text(features: str | None, protocol: str, reference: ImageSet | None = None) -> str:
    """The feature network that settings and a reference ask for.

    Raises:
        ConfigError: An unknown protocol.

    Example:
        >>> features_text(None, "clean"), features_text("inception,weights=w.pth", "clean"), features_text("dinov2", "adm")
        ('inception,protocol=clean', 'inception,weights=w.pth,protocol=clean', 'dinov2')
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    said = None if reference is None or reference.held is None else reference.held.protocol.get("extractor")
    if features is None and said is not None:
        return str(said)
    text = features or PROTOCOLS[protocol][0]
    if text.partition(",")[0] == "inception" and "protocol" not in registry.parse(text)[1]:
        text = registry.with_setting(text, "protocol", registry.parse(PROTOCOLS[protocol][0])[1]["protocol"])
    return text


# --- reading -------------------------------------------------------------------------------------------------------------


def _some(given: ImageSet, num: int) -> ImageSet:
    if given.source is None or given.held is not None:
        raise ConfigError(f"--num has no effect on the statistics {given.path}; leave it out, or give images")
    if not 2 <= num <= len(given.source):
        raise ConfigError(f"--num {num}: there are {len(given.source)} samples; give a number from 2 to that")
    return replace(given, source=subset(given.source, [k * len(given.source) // num for k in range(num)]))


class _Reader:
    """Reads sets of images through one feature network, on all ranks."""

    def __init__(self, extractor: Extractor, reading: Reading):
        if reading.batch_size < 1:
            raise ConfigError(f"a batch of {reading.batch_size}; give at least 1")
        self.extractor, self.reading = extractor, reading

    def statistics(
        self, given: ImageSet, what: str, metrics: Sequence[str], *, keep: int | None = None, also: Sequence[str] = ()
    ) -> Statistics:
        """What some metrics need of a set, read from its file or measured.

        Args:
            given: The set.
            what: What it is: "samples", "reference", ...
            metrics: Names of ``METRICS``.
            keep: Images whose vectors are kept, of a reference; None: all.
            also: Further features whose vectors are needed.
        """
        is_reference = what == "reference"
        must = [METRICS[name].vectors for name in metrics if METRICS[name].vectors_of_both or not is_reference]
        required = [name for name in dict.fromkeys([*must, *also]) if name is not None]
        moments, vectors = needed(metrics)
        if given.held is None:
            assert given.source is not None
            # Moments' vectors, which spreads need, and those of a reference, which the report shows, are kept while they are here.
            wanted: list[str] = [*required, *(["pool"] if metrics else [])] if is_reference else [*vectors, *also]
            kept = spread_over(len(given.source), keep)
            collector = Collector(
                self.extractor, moments=moments, vectors=dict.fromkeys(wanted), kept=kept, expected=_share(given.source, kept)
            )
            return self.count(given.source, collector, what)
        held = self._checked(given)
        missing = [name for name in required if name not in held.vectors]
        if not missing:
            return held
        if given.source is None:
            for_what = ", ".join(name for name in metrics if METRICS[name].vectors in missing) or "the memorisation check"
            raise DataError(
                f"{given.path} holds no vectors of images, which {for_what} needs; make it again with `mezzotint reference`, or give images"
            )
        kept = spread_over(len(given.source), keep)
        collector = Collector(self.extractor, moments=(), vectors=missing, kept=kept, expected=_share(given.source, kept))
        found = self.count(given.source, collector, what)
        return replace(held, vectors={**held.vectors, **found.vectors}, ids=found.ids, pixels=held.pixels or found.pixels)

    def count(self, source: Source, collector: Collector, what: str) -> Statistics:
        """Counts a whole source: this rank's share, then all ranks' together."""
        evaluator = Evaluator(self.extractor, (), quantise="none")
        evaluator.collector = collector
        state, size = launched(), self.reading.batch_size
        shares = [range(k, min(k + size, len(source))) for k in range(0, len(source), size)][state.process_index :: state.num_processes]
        for ids, images in _ahead(source, shares, max(1, self.reading.workers)):
            evaluator.add(images, ids, names=[source.name(k) for k in ids])
            if self.reading.on_images is not None:
                self.reading.on_images(len(ids) * state.num_processes, what)
        return evaluator.gather().statistics()

    def _checked(self, given: ImageSet) -> Statistics:
        """Statistics from a file, once it is sure that they are of this network."""
        held, own = given.held, self.extractor
        assert held is not None
        said = held.protocol.get("features")
        if said is not None and (said["name"], said["sha256"]) != (own.name, own.hash):
            raise ConfigError(
                f"{given.path} was made with the features '{said['name']}' ({_short(said['sha256'])}), and these are '{own.name}' "
                f"({_short(own.hash)}); give the same --features, or make it again"
            )
        rule = held.protocol.get("resize")
        if rule is not None and rule != own.resize:
            raise ConfigError(
                f"{given.path} was made with the resize rule '{rule}', and this one is '{own.resize}'; give the same --protocol"
            )
        return held


def _share(source: Source, kept: Collection[int] | None) -> int:
    """About how many vectors of a source this rank will have."""
    return -(-len(source if kept is None else kept) // launched().num_processes)


def _ahead(source: Source, shares: Sequence[range], workers: int) -> Iterator[tuple[range, Tensor]]:
    """The images of each share, decoded ahead by threads."""

    def images(ids: range) -> Tensor:
        return to_images(np.stack([source.array(k) for k in ids]))

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[range, Future[Tensor]]] = deque()
        try:
            for ids in shares:
                waiting.append((ids, pool.submit(images, ids)))
                if len(waiting) > workers:
                    first, done = waiting.popleft()
                    yield first, done.result()
            while waiting:
                first, done = waiting.popleft()
                yield first, done.result()
        finally:
            for _, rest in waiting:
                rest.cancel()


def _cas(samples: ImageSet, real: ImageSet, wish: dict[str, Any], settings: Settings) -> Figure:
    from mezzotint.tasks.cas import accuracy_score  # brings the trainer, which no other metric needs

    if launched().num_processes > 1:
        raise ConfigError("CAS trains its classifier in one process; leave cas out here, and measure it without torchrun")
    made, tested = samples.source, real.source
    if made is None or tested is None:
        raise DataError(
            f"{(samples if made is None else real).path} holds no images; CAS needs those of samples and of a reference with classes"
        )
    found = accuracy_score(made, tested, **{"seed": settings.seed, **wish})
    return Figure(found.accuracy, found.spread, found.spread_of, "cas", found.settings)


# --- protocol ------------------------------------------------------------------------------------------------------------


def _protocol(
    made: Statistics,
    real: Statistics,
    samples: ImageSet,
    reference: ImageSet,
    extractor: Extractor,
    text: str,
    size: tuple[int, int] | None,
    split: str,
    figures: Mapping[str, Figure],
    settings: Settings,
) -> dict[str, Any]:
    bits = None if samples.source is None else f"files of {samples.source.facts.bits} bits"
    return {
        "images": made.n,
        "image_size": made.pixels.get("size"),
        "channels": made.pixels.get("channels"),
        "pixels": bits,
        "brought_to": _resized(size),
        "resize": extractor.resize,
        "features": {"name": extractor.name, "sha256": extractor.hash},
        "extractor": text,
        "reference": {
            "path": reference.path,
            "split": real.protocol.get("split", split),
            "images": real.n or None,
            "vectors": len(real.vectors["pool"]) if "pool" in real.vectors else 0,
            "hash": real.protocol.get("content") or real.protocol.get("file_sha256"),
        },
        "settings": {name: figure.settings for name, figure in figures.items()},
        "samples": {"path": samples.path, "hash": made.protocol.get("content") or made.protocol.get("file_sha256")},
        **how_sampled(samples.manifest),
        "seeds": {"samples": samples.manifest.get("job", {}).get("seed"), "metrics": settings.seed},
        "versions": {"mezzotint": mezzotint.__version__, "torch": torch.__version__},
    }


def how_sampled(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Model, EMA profile and settings of the sampler, from the manifest of a sample folder; all None without one."""
    job, model = manifest.get("job", {}), manifest.get("model", {})
    weights = model.get("weights")
    found = re.match(r"ema-([\d.e-]+?)(?:-[a-z]+)?\.safetensors", weights or "")
    return {
        "model": {"path": model.get("path"), "weights": weights, "sha256": model.get("sha256")},
        "ema": found[1] if found else "none" if weights else None,
        **{name: job.get(name) for name in ("sampler", "steps", "grid", "guidance", "clip", "exact")},
    }


def _names(given: ImageSet) -> tuple[str, ...]:
    return () if given.source is None else given.source.names


def _resized(size: tuple[int, int] | None) -> str | None:
    return None if size is None else f"{size[0]}x{size[1]}, cut to proportion, box and bicubic"


def _short(digest: str | None) -> str:
    return "no weights" if digest is None else digest[:8]
