"""The figures of two sets of images: which there are, what each needs, how each is called, and by how much it is uncertain."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mezzotint.errors import CapabilityError, ConfigError, DataError, unknown
from mezzotint.metrics.features import Extractor
from mezzotint.metrics.frechet import frechet_distance, frechet_error
from mezzotint.metrics.inception_score import inception_score
from mezzotint.metrics.infinity import Extrapolation, fid_infinity, inception_score_infinity
from mezzotint.metrics.kernel import cmmd, kid
from mezzotint.metrics.precision_recall import Precision, density_coverage, precision_recall
from mezzotint.metrics.spread import density_error, discrepancy_error, score_error, share_error
from mezzotint.metrics.statistics import Statistics

FULL = 50_000
"""Images of the published protocols; figures of fewer are named after their number, as in fid5k."""
IS_SPLIT = 5_000
INFINITY = (15, 5_000)
"""Number of subsets, and images of the smallest, of the extrapolated figures."""


@dataclass(frozen=True)
class Settings:
    """Settings of the metrics.

    Attributes:
        neighbours: Which neighbour gives the radius, of precision and recall.
        density_neighbours: The same of density and coverage.
        kid_subsets: Number of pairs of subsets of KID.
        kid_size: Images in each; at most half of the smaller set.
        seed: Seed of subsets, and of the first training of CAS.
        official: Distances of precision and recall in half precision, as in ADM's evaluator.
    """

    neighbours: int = 3
    density_neighbours: int = 5
    kid_subsets: int = 100
    kid_size: int = 1000
    seed: int = 2020
    official: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        value: The figure.
        spread: How far it is uncertain; None where that is not known.
        spread_of: What the spread is.
        label: How it is to be called: "fid5k", not "fid", where 5,000 images were measured.
        settings: The settings that it depends on.
    """

    value: float
    spread: float | None
    spread_of: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; its settings stand in the protocol."""
        return {"value": self.value, "spread": self.spread, "spread_of": self.spread_of, "label": self.label}


@dataclass(frozen=True)
class Metric:
    """What a metric needs.

    Attributes:
        words: What it measures, in one line.
        lower: Whether less is better.
        moments: The feature whose mean and covariance it needs of both sets, if any.
        vectors: The feature whose vectors it needs of the samples, if any.
        vectors_of_both: Whether it needs vectors of the reference as well.
        biased: Whether its value depends on the number of images, which is then part of its label.
    """

    words: str
    lower: bool
    moments: str | None = None
    vectors: str | None = None
    vectors_of_both: bool = False
    biased: bool = True


METRICS: Mapping[str, Metric] = {
    "fid": Metric("Frechet distance of the features", True, moments="pool"),
    "sfid": Metric("Frechet distance of the spatial features", True, moments="spatial"),
    "is": Metric("Inception score", False, vectors="logits"),
    "precision": Metric("share of the samples that lie among real images", False, vectors="pool", vectors_of_both=True),
    "recall": Metric("share of the real images that lie among samples", False, vectors="pool", vectors_of_both=True),
    "kid": Metric("kernel distance of the features, unbiased", True, vectors="pool", vectors_of_both=True, biased=False),
    "density": Metric("real neighbourhoods that a sample lies in, over k", False, vectors="pool", vectors_of_both=True),
    "coverage": Metric("share of real neighbourhoods that hold a sample", False, vectors="pool", vectors_of_both=True),
    "cmmd": Metric("Gaussian kernel distance of normed features, times 1000", True, vectors="pool", vectors_of_both=True),
    "fid_infinity": Metric("Frechet distance extrapolated to infinitely many samples", True, moments="pool", vectors="pool", biased=False),
    "is_infinity": Metric("Inception score extrapolated to infinitely many samples", False, vectors="logits", biased=False),
}
"""Metric -> what it needs; "cas", which trains a classifier, is beside them."""
NAMES = (*METRICS, "cas")
DEFAULTS = ("fid", "sfid", "is", "precision", "recall")


def chosen(metrics: Sequence[str] | None, features: Extractor, held: Sequence[Any] = ()) -> tuple[str, ...]:
    """The metrics that a wish means.

    Args:
        metrics: Names; None: those of ``DEFAULTS`` that network and sets can give.
        features: The feature network.
        held: The two sets, each with ``held`` and ``source`` (``evaluate.ImageSet``), where they are known.

    Raises:
        ConfigError: An unknown name.
        CapabilityError: The network does not give what a metric needs.
    """
    if metrics is None:
        names = [name for name in DEFAULTS if not _lacks(name, features)]
        return tuple(name for name in names if all(_gives(given, name, i == 1) for i, given in enumerate(held)))
    for name in metrics:
        if name not in METRICS:
            raise unknown("metric", name, NAMES)
        if lacks := _lacks(name, features):
            raise CapabilityError(
                f"{name} needs {lacks} features, which '{features.name}' does not give; use --features inception, or leave it out"
            )
    return tuple(dict.fromkeys(metrics))


def _lacks(name: str, features: Extractor) -> str:
    metric = METRICS[name]
    return next((part for part in (metric.moments, metric.vectors) if part is not None and part not in features.outputs), "")


def _gives(given: Any, name: str, is_reference: bool) -> bool:
    metric = METRICS[name]
    if given.held is None:
        return True
    wants = metric.vectors if (metric.vectors_of_both or not is_reference) else None
    has_vectors = wants is None or wants in given.held.vectors or (is_reference and given.source is not None)
    return has_vectors and (metric.moments is None or metric.moments in given.held.moments)


def needed(metrics: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Features whose moments, and features whose vectors, some metrics need.

    Moments of Frechet distances come with vectors of the samples: their spread needs them.
    """
    moments = dict.fromkeys(METRICS[name].moments for name in metrics)
    vectors = dict.fromkeys([METRICS[name].vectors for name in metrics] + [METRICS[name].moments for name in metrics])
    return tuple(m for m in moments if m is not None), tuple(v for v in vectors if v is not None)


def label(name: str, n: int, features: str) -> str:
    """How a figure is to be called.

    Args:
        name: The metric.
        n: Number of samples; 0 if unknown.
        features: Name of the feature network.

    Example:
        >>> label("fid", 50_000, "inception"), label("fid", 5_000, "inception"), label("kid", 5_000, "inception")
        ('fid', 'fid5k', 'kid')
        >>> label("fid", 5_000, "dinov2"), label("recall", 1_797, "pixels"), label("fid", 0, "inception")
        ('fd_dinov2_5k', 'recall_pixels_1797', 'fid_of_unknown_n')
    """
    usual = {"cmmd": "clip"}.get(name, "inception")
    base = name if features == usual else f"{'fd' if name == 'fid' else 'mmd' if name == 'cmmd' else name}_{features}"
    if not METRICS[name].biased or n >= FULL:
        return base
    count = "of_unknown_n" if n == 0 else f"{n // 1000}k" if n % 1000 == 0 else str(n)
    return f"{base}{'' if features == usual and n else '_'}{count}"


# --- measuring -----------------------------------------------------------------------------------------------------------


def measure(
    samples: Statistics,
    reference: Statistics,
    metrics: Sequence[str],
    settings: Settings | None = None,
    *,
    features: str = "inception",
    device: torch.device | str = "cpu",
) -> dict[str, Figure]:
    """The figures of samples against a reference.

    Args:
        samples: With all vectors, where a metric needs vectors.
        reference: The same, or with vectors of some of its images.
        metrics: Names of ``METRICS``.
        settings: Their settings.
        features: Name of the feature network.
        device: Where to compute.

    Returns:
        Metric -> figure, in the order of ``METRICS``.

    Raises:
        DataError: A set lacks what a metric needs, or has too few images.
    """
    found: dict[str, Figure] = {}
    job = _Job(samples, reference, settings or Settings(), features, torch.device(device))
    for name in METRICS:
        if name in metrics and name not in found:
            job.check(name)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Frechet distance from")  # said by the checks, once for both sets
                found |= {key: figure for key, figure in _MEASURES[name](job).items() if key in metrics}
    return {name: found[name] for name in METRICS if name in found}


@dataclass(frozen=True)
class _Job:
    samples: Statistics
    reference: Statistics
    settings: Settings
    features: str
    device: torch.device

    def check(self, name: str) -> None:
        metric = METRICS[name]
        for held, what, is_sample in ((self.samples, "samples", True), (self.reference, "reference", False)):
            if metric.moments is not None and metric.moments not in held.moments:
                raise DataError(
                    f"{name} needs moments of the {metric.moments} features, which the {what} lack; give images, or leave it out"
                )
            wants = metric.vectors if is_sample or metric.vectors_of_both else None
            if wants is not None and wants not in held.vectors:
                raise DataError(f"{name} needs vectors of the {what}, and these statistics hold none; give images, or leave it out")
            if wants is not None and len(held.vectors[wants]) < 2:
                raise DataError(f"{name} needs at least 2 {what}")

    def figure(self, name: str, value: float, spread: float | None, spread_of: str, **settings: Any) -> dict[str, Figure]:
        text = label(name, self.samples.n, self.features)
        return {name: Figure(float(value), None if spread is None else float(spread), spread_of, text, settings)}

    def vectors(self, name: str = "pool") -> tuple[torch.Tensor, torch.Tensor]:
        return self.samples.vectors[name].to(self.device), self.reference.vectors[name].to(self.device)


def _on(pair: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0].to(device), pair[1].to(device)


def _frechet(name: str, job: _Job) -> dict[str, Figure]:
    part = METRICS[name].moments
    assert part is not None
    ours, theirs = job.samples.moments[part], job.reference.moments[part]
    if len(ours[0]) != len(theirs[0]):
        raise ConfigError(
            f"the samples have {len(ours[0])} {part} features and the reference {len(theirs[0])}; "
            "bring both to one size and number of channels, and use one feature network"
        )
    vectors = job.samples.vectors.get(part)
    value = frechet_distance(_on(ours, job.device), _on(theirs, job.device))
    if vectors is None or len(vectors) != job.samples.n:
        return job.figure(name, value, None, "not known: statistics without vectors of all samples")
    error = frechet_error(vectors, ours, theirs, device=job.device)
    return job.figure(name, value, error, "standard error over the samples (infinitesimal jackknife)")


def _score(job: _Job) -> dict[str, Figure]:
    logits = job.samples.vectors["logits"]
    splits = len(logits) // IS_SPLIT
    if splits < 2:
        value = inception_score(logits, splits=1).value
        return job.figure("is", value, score_error(logits), "standard error over the samples, one split", splits=1)
    found = inception_score(logits, split_size=IS_SPLIT)
    return job.figure("is", found.value, found.spread, f"standard deviation of splits of {IS_SPLIT}", split_size=IS_SPLIT)


def _precision_recall(job: _Job) -> dict[str, Figure]:
    dtype: Precision = "float16" if job.settings.official else "float32"
    samples, real = job.vectors()
    k = job.settings.neighbours
    found = precision_recall(samples, real, k=k, dtype=dtype)
    how = {"k": k, "distances": dtype}
    words = "standard error of a share, balls held fixed"
    return job.figure("precision", found.precision, share_error(found.precision, len(samples)), words, **how) | job.figure(
        "recall", found.recall, share_error(found.recall, len(real)), words, **how
    )


def _density_coverage(job: _Job) -> dict[str, Figure]:
    samples, real = job.vectors()
    k = job.settings.density_neighbours
    found = density_coverage(samples, real, k=k)
    error, words = density_error(samples, real, k=k), "standard error over the samples, balls held fixed"
    return job.figure("density", found.density, error, words, k=k) | job.figure(
        "coverage", found.coverage, share_error(found.coverage, len(real)), "standard error of a share, balls held fixed", k=k
    )


def _kid(job: _Job) -> dict[str, Figure]:
    samples, real = job.vectors()
    size = min(job.settings.kid_size, len(samples) // 2, len(real) // 2)
    if size < 2:
        raise DataError(f"kid needs at least 4 images of each set, not {len(samples)} and {len(real)}; give more, or leave it out")
    subsets, seed = job.settings.kid_subsets, job.settings.seed
    found = kid(samples, real, subsets=subsets, size=size, seed=seed)
    return job.figure("kid", found.value, found.spread, "standard deviation of subsets", subsets=subsets, size=size, seed=seed)


def _cmmd(job: _Job) -> dict[str, Figure]:
    samples, real = job.vectors()
    return job.figure(
        "cmmd", cmmd(samples, real), discrepancy_error(samples, real), "standard error over the samples (infinitesimal jackknife)"
    )


def _infinity(name: str, job: _Job, rows: torch.Tensor, extrapolated: Callable[..., Extrapolation]) -> dict[str, Figure]:
    points, least = INFINITY
    how = {"points": points, "smallest": least if len(rows) >= 2 * least else None, "seed": job.settings.seed}
    found = extrapolated(rows.to(job.device), **how)
    return job.figure(name, found.value, found.spread, "standard error of the line's end, from its residuals", **how)


def _fid_infinity(job: _Job) -> dict[str, Figure]:
    real = _on(job.reference.moments["pool"], job.device)
    return _infinity("fid_infinity", job, job.samples.vectors["pool"], lambda rows, **how: fid_infinity(rows, real, **how))


_MEASURES: Mapping[str, Callable[[_Job], dict[str, Figure]]] = {
    "fid": lambda job: _frechet("fid", job),
    "sfid": lambda job: _frechet("sfid", job),
    "is": _score,
    "precision": _precision_recall,
    "recall": _precision_recall,
    "kid": _kid,
    "density": _density_coverage,
    "coverage": _density_coverage,
    "cmmd": _cmmd,
    "fid_infinity": _fid_infinity,
    "is_infinity": lambda job: _infinity("is_infinity", job, job.samples.vectors["logits"], inception_score_infinity),
}
