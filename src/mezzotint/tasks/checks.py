"""What can be wrong with images that are measured: copies, duplicates, too few, compressed, of another brightness."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mezzotint.errors import DataError
from mezzotint.metrics.precision_recall import squared_distances
from mezzotint.metrics.statistics import Statistics

SHOWN = 16
"""Pairs that a memorisation report keeps."""
COPY_QUANTILE, MOST_COPIES = 0.01, 0.05
"""Samples nearer to a training image than this share of unseen images are called copies; more than so many of them are warned of."""
DRIFT = 2.0
"""Difference of a channel's mean, in levels of 0 to 255, that is warned of."""
STEPS = 1.05
"""How much larger than elsewhere the differences across every eighth column are in images that were JPEG-compressed."""
LOSSY = (".jpg", ".jpeg", ".webp")
_TILE = 1 << 24


@dataclass(frozen=True)
class Memorisation:
    """How near samples are to training images, by distance of features.

    Attributes:
        share_closer: Share of samples that are closer to their nearest training image than the median of unseen images is to theirs:
            0.5 is what unseen images have.
        share_copies: Share of samples that are closer than 1 % of the unseen images are: 0.01 is what unseen images have.
        same_pixels: Samples whose pixels are those of a training image; None where pixels were not compared.
        baseline: What the unseen images are: "held-out images", or "training images, each left out in turn".
        pairs: The closest pairs, as (sample, training image, distance), the closest first.
        median: Median distance of samples, and of unseen images, to the nearest training image.
        images: Number of training images that were compared.
    """

    share_closer: float
    share_copies: float
    same_pixels: int | None
    baseline: str
    pairs: tuple[tuple[int, int, float], ...]
    median: tuple[float, float]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain lists, numbers and strings."""
        return {
            "share_closer": self.share_closer,
            "share_copies": self.share_copies,
            "same_pixels": self.same_pixels,
            "baseline": self.baseline,
            "median_distance": {"samples": self.median[0], "unseen": self.median[1]},
            "training_images": self.images,
            "closest": [{"sample": s, "training": t, "distance": d} for s, t, d in self.pairs],
        }


def nearest(a: Tensor, b: Tensor, *, itself: bool = False, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The nearest row of ``b`` for each row of ``a``.

    Args:
        a: ``[n, d]``.
        b: ``[m, d]``.
        itself: Row i of a is row i of b, and is not to be found.
        device: Where to compute.

    Returns:
        Distances ``[n]`` float32, recomputed for the nearest row so that those of equal vectors are 0, and rows ``[n]`` int64, on the CPU.
    """
    b = b.to(device)
    distances, found = [], []
    step = max(1, _TILE // max(1, len(b)))
    for start in range(0, len(a), step):
        rows = a[start : start + step].to(device)
        table = squared_distances(rows, b)
        if itself:
            own = torch.arange(len(rows), device=table.device)
            table[own, start + own] = math.inf
        at = table.argmin(dim=1)
        distances.append((rows - b[at]).square().sum(dim=1).sqrt().cpu())
        found.append(at.cpu())
    return torch.cat(distances), torch.cat(found)


def memorisation(samples: Statistics, train: Statistics, unseen: Statistics | None, *, device: torch.device | str = "cpu") -> Memorisation:
    """Compares samples with the images that a model was trained on.

    Args:
        samples: With vectors.
        train: With vectors: training images.
        unseen: With vectors: images that were not trained on. None, or images that are all among the training images: each training image
            is compared with the others instead.
        device: Where to compute.

    Raises:
        DataError: Fewer than two training images with vectors.

    Source: Meehan et al. 2020, section 2 (samples closer to the training set than unseen images are).
    """
    here, there = samples.vectors["pool"], train.vectors.get("pool")
    if there is None or len(there) < 2:
        raise DataError("the memorisation check needs at least 2 training images; give a folder, ZIP or .npz of images by --train")
    distance, row = nearest(here, there, device=device)
    base, words = None, "held-out images"
    if unseen is not None and "pool" in unseen.vectors:
        found, _ = nearest(unseen.vectors["pool"], there, device=device)
        fresh = found > 1e-6 * float(there.norm(dim=1).mean())  # what lies in the training set as well is not unseen
        base = found[fresh] if int(fresh.sum()) > len(found) // 2 else None
    if base is None:
        base, words = nearest(there, there, itself=True, device=device)[0], "training images, each left out in turn"
    order = distance.argsort()[:SHOWN].tolist()
    ids = samples.ids if samples.ids is not None else torch.arange(len(here))
    train_ids = train.ids if train.ids is not None else torch.arange(len(there))
    same = None
    if samples.digests is not None and train.digests is not None:
        known = set(train.digests.tolist())
        same = sum(digest in known for digest in samples.digests.tolist())
    return Memorisation(
        share_closer=float((distance < base.median()).double().mean()),
        share_copies=float((distance < base.double().quantile(COPY_QUANTILE)).double().mean()),
        same_pixels=same,
        baseline=words,
        pairs=tuple((int(ids[i]), int(train_ids[row[i]]), float(distance[i])) for i in order),
        median=(float(distance.median()), float(base.median())),
        images=len(there),
    )


@dataclass(frozen=True)
class Checks:
    """What was looked at, and what to be warned of.

    Attributes:
        found: Plain numbers and lists, by check.
        warnings: One sentence each.
    """

    found: dict[str, Any]
    warnings: tuple[str, ...]


def check(
    samples: Statistics,
    reference: Statistics,
    *,
    names: Sequence[str] = (),
    reference_names: Sequence[str] = (),
    memory: Memorisation | None = None,
) -> Checks:
    """Looks for what makes figures worthless.

    Args:
        samples: What is measured.
        reference: What it is measured against.
        names: File names of the samples, where there are files.
        reference_names: Those of the reference.
        memory: What ``memorisation`` found.
    """
    found: dict[str, Any] = {}
    warnings: list[str] = []
    for check in (_few, _duplicates, _drift, _steps):
        check(samples, reference, found, warnings)
    _formats(names, reference_names, found, warnings)
    if memory is not None:
        found["memorisation"] = memory.to_dict()
        if memory.share_copies > MOST_COPIES or memory.same_pixels:
            warnings.append(
                f"{memory.share_copies:.1%} of the samples are closer to a training image than 99 % of {memory.baseline}, and "
                f"{memory.same_pixels or 0} have the pixels of one: the model may repeat its training set"
            )
    return Checks(found, tuple(warnings))


def _few(samples: Statistics, reference: Statistics, found: dict[str, Any], warnings: list[str]) -> None:
    d = max((len(mean) for mean, _ in samples.moments.values()), default=0)
    found["features"] = d
    for n, what in ((samples.n, "samples"), (reference.n, "reference images")):
        if 0 < n <= d:
            warnings.append(
                f"{n} {what} are not more than the {d} features: their covariance is rank-deficient, Frechet distances are far too large"
            )


def _duplicates(samples: Statistics, reference: Statistics, found: dict[str, Any], warnings: list[str]) -> None:
    if samples.digests is None:
        return
    groups: dict[int, list[int]] = {}
    for k, digest in enumerate(samples.digests.tolist()):
        groups.setdefault(digest, []).append(k)
    twice = sorted((g for g in groups.values() if len(g) > 1), key=len, reverse=True)
    extra = sum(len(g) - 1 for g in twice)
    found["duplicates"] = {"images": extra, "groups": [g[:SHOWN] for g in twice[:SHOWN]]}
    if extra:
        warnings.append(f"{extra} of {samples.n} samples repeat the pixels of another, such as {' and '.join(map(str, twice[0][:2]))}")


def _drift(samples: Statistics, reference: Statistics, found: dict[str, Any], warnings: list[str]) -> None:
    here, there = samples.pixels, reference.pixels
    if not here or not there or here["channels"] != there["channels"]:
        return
    shifts = [a - b for a, b in zip(here["mean"], there["mean"], strict=True)]
    contrast = [a / b if b else 1.0 for a, b in zip(here["std"], there["std"], strict=True)]
    found["channels"] = {"mean_shift": shifts, "std_ratio": contrast}
    if here["size"] != there["size"]:
        warnings.append(
            f"samples are {_by(here['size'])} and reference images {_by(there['size'])} (height x width); bring both to one size"
        )
    # Whole images are the independent units; their means spread less than pixels do, so this is a cautious error.
    noise = [5 * s / math.sqrt(max(samples.n, 1)) for s in here["std"]]
    if bad := [k for k, shift in enumerate(shifts) if abs(shift) > max(DRIFT, noise[k])]:
        words = ", ".join(f"{shifts[k]:+.1f} in channel {k}" for k in bad)
        warnings.append(f"the mean of the samples is off by {words} of 255 levels: check scaling, clipping and the order of the channels")


def _steps(samples: Statistics, reference: Statistics, found: dict[str, Any], warnings: list[str]) -> None:
    here, there = samples.pixels.get("steps"), reference.pixels.get("steps")
    if here is None:
        return
    found["steps_at_8_pixels"] = {"samples": here, "reference": there}
    if here > STEPS * (there or 1.0):
        warnings.append(
            f"neighbouring pixels of the samples differ {here:.2f} times as much across every eighth column as elsewhere "
            f"({there or 1.0:.2f} in the reference), as JPEG compression leaves it: measure images that were never compressed with loss"
        )


def _formats(names: Sequence[str], reference_names: Sequence[str], found: dict[str, Any], warnings: list[str]) -> None:
    kinds = [Counter(_suffix(name) for name in held) for held in (names, reference_names)]
    if not any(kinds[0]) and not any(kinds[1]):
        return
    found["files"] = {"samples": dict(kinds[0]), "reference": dict(kinds[1])}
    lossy = [sum(count for kind, count in held.items() if kind in LOSSY) for held in kinds]
    if lossy[0]:
        of = "PNG or other files without loss" if reference_names and not lossy[1] else "the reference"
        warnings.append(
            f"{lossy[0]} of {len(names)} samples are JPEG or WebP files, compared with {of}: save samples as PNG, loss changes every figure"
        )
    if 0 < lossy[1] < len(reference_names):
        warnings.append(
            f"{lossy[1]} of {len(reference_names)} reference images are JPEG or WebP files and the others are not: use one kind"
        )


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
