"""What is kept of a set of images: moments and vectors of their features, and facts about their pixels; files of such statistics."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mezzotint.errors import DataError
from mezzotint.metrics.features import Extractor
from mezzotint.metrics.frechet import Moments
from mezzotint.weights.io import file_hash, write_tensors, writing

FORMAT = "1"
MOMENTS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""Feature -> names of its mean and covariance in files of other code."""
MOST_FEATURES = 8192
"""Largest number of features that has a covariance here."""
_BLOCK = 8
_TYPES = {"spatial": torch.float16}  # only the spread of sFID needs these vectors


@dataclass(frozen=True)
class Statistics:
    """A set of images as a feature network sees it.

    Attributes:
        n: Number of images.
        moments: Feature -> its mean ``[d]`` and covariance ``[d, d]``, float64.
        vectors: Feature -> vectors ``[k, d]`` of some or all of the images: float32, or float16 for "spatial".
        ids: The images that the vectors are of, ``[k]`` int64.
        protocol: How all this was measured, and of what.
        pixels: Facts about the pixels: ``channels``, ``size``, ``mean`` and ``std`` of each channel in levels of 0 to 255, ``steps`` (see
            ``Collector``); empty if unknown.
        digests: A hash of the pixels of each image, ``[n]`` int64; None if unknown.
    """

    n: int
    moments: Mapping[str, tuple[Tensor, Tensor]]
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    ids: Tensor | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    pixels: Mapping[str, Any] = field(default_factory=dict)
    digests: Tensor | None = None


class _Rows:
    """A matrix that grows by rows: one block, so that its rows never lie in memory twice while its size is foreseen."""

    def __init__(self, dtype: torch.dtype, expected: int):
        self.n, self._dtype, self._expected = 0, dtype, expected
        self._block: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        end = self.n + len(rows)
        if self._block is None:
            self._block = torch.empty(max(end, self._expected), rows.shape[1], dtype=self._dtype)
        elif end > len(self._block):
            larger = torch.empty(max(end, 2 * len(self._block)), rows.shape[1], dtype=self._dtype)
            larger[: self.n] = self._block[: self.n]
            self._block = larger
        self._block[self.n : end] = rows
        self.n = end

    @property
    def rows(self) -> Tensor:
        """``[n, d]``, not copied."""
        return torch.zeros(0, 0) if self._block is None else self._block[: self.n]

    def sort(self, order: Tensor) -> None:
        if self._block is not None and not bool((order[1:] > order[:-1]).all()):
            self._block = self._block[order]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_block": None if self._block is None else self.rows.clone()}


class Collector:
    """Counts images in batches, in any order: moments of all, vectors of those that are kept.

    Args:
        extractor: The feature network.
        moments: Features whose mean and covariance are wanted.
        vectors: Features of which vectors are kept.
        kept: Numbers of the images whose vectors are kept; None: all.
        expected: How many vectors there will be, if that is known: saves memory.

    Attributes:
        n: Number of images so far.
    """

    def __init__(
        self,
        extractor: Extractor,
        *,
        moments: Iterable[str] = ("pool",),
        vectors: Iterable[str] = (),
        kept: Collection[int] | None = None,
        expected: int = 0,
    ):
        self.extractor = extractor
        self.n = 0
        self._kept = kept
        self._moments = {name: Moments() for name in moments}
        self._vectors = {name: _Rows(_TYPES.get(name, torch.float32), expected) for name in vectors}
        self._vector_ids: list[int] = []
        self._ids: list[int] = []
        self._digests: list[int] = []
        self._shape: tuple[int, ...] = ()
        self._sums = np.zeros(0)

    @torch.no_grad()
    def add(self, images: Tensor, ids: Sequence[int] | None = None, *, names: Sequence[str] | None = None) -> None:
        """Counts a batch.

        Args:
            images: ``[b, c, h, w]`` in [-1, 1], any device.
            ids: Number of each image in its set; None: counted on from the last.
            names: What to call each image in messages.

        Raises:
            DataError: An image is not finite or leaves the range, has another shape than those before, or too many features.
        """
        ids = range(self.n, self.n + len(images)) if ids is None else ids
        self._check(images, [str(k) for k in ids] if names is None else names)
        self._look(images)
        features = self.extractor(images)
        for name, moments in self._moments.items():
            if features[name].shape[1] > MOST_FEATURES:
                raise DataError(
                    f"{features[name].shape[1]} features an image are too many to compare ({MOST_FEATURES} at most); "
                    "give a feature network by --features, such as inception or a classifier of `mezzotint train-classifier`"
                )
            moments.add(features[name])
        rows = [i for i, k in enumerate(ids) if self._kept is None or k in self._kept]
        if rows and self._vectors:
            every = len(rows) == len(images)
            self._vector_ids += [int(ids[i]) for i in rows]
            for name, held in self._vectors.items():
                held.add(features[name] if every else features[name][rows])
        self._ids += [int(k) for k in ids]
        self._digests += digests(images)
        self.n += len(images)

    def _check(self, images: Tensor, names: Sequence[str]) -> None:
        shape = tuple(images.shape[1:])
        if images.ndim != 4 or not images.is_floating_point():
            raise DataError(f"images are {images.dtype} of shape {tuple(images.shape)}; give floating-point [b, c, h, w] in [-1, 1]")
        if self._shape and self._shape != shape:
            raise DataError(f"image {names[0]} has shape {shape}, those before {self._shape}; bring all to one size")
        flat = images.flatten(1)
        bad = (~flat.isfinite()).any(dim=1)
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            raise DataError(f"image {names[first]} holds NaN or infinite pixels ({int(bad.sum())} of this batch do); make it again")
        if len(flat) and float(flat.abs().max()) > 1.001:
            first = int(flat.abs().amax(dim=1).argmax())
            raise DataError(
                f"image {names[first]} has pixels of {float(flat[first].abs().max()):.3g}; bring images to [-1, 1], or clamp them"
            )

    def _look(self, images: Tensor) -> None:
        """Adds up what the checks ask of pixels."""
        self._shape = tuple(images.shape[1:])
        x = images.float() * 127.5 + 127.5
        steps = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2)).sum(dim=0).double()
        first, second = x.mean(dim=(2, 3)).double().sum(dim=0), x.square().mean(dim=(2, 3)).double().sum(dim=0)
        at = torch.arange(1, len(steps) + 1, device=steps.device) % _BLOCK == 0
        sums = torch.cat([first, second, steps[at].sum()[None], steps[~at].sum()[None]]).cpu().numpy()
        self._sums = sums if self._sums.size == 0 else self._sums + sums

    # --- ranks -----------------------------------------------------------------------------------------------------------

    def merge(self, other: Collector) -> Collector:
        """Counts what another collector of the same kind has counted, such as that of another rank.

        Returns:
            This object.
        """
        if other.n == 0:
            return self
        for name, moments in self._moments.items():
            moments.merge(other._moments[name])
        for name, held in self._vectors.items():
            held.add(other._vectors[name].rows)
        self._vector_ids += other._vector_ids
        self._ids += other._ids
        self._digests += other._digests
        self._shape = self._shape or other._shape
        self._sums = other._sums if self._sums.size == 0 else self._sums + other._sums
        self.n += other.n
        return self

    def __getstate__(self) -> dict[str, Any]:
        # What goes to other ranks: all but the network, and on the CPU.
        for moments in self._moments.values():
            moments.sum = None if moments.sum is None else moments.sum.cpu()
            moments.outer = None if moments.outer is None else moments.outer.cpu()
        return self.__dict__ | {"extractor": None}

    # --- after -----------------------------------------------------------------------------------------------------------

    def statistics(self, protocol: Mapping[str, Any] | None = None) -> Statistics:
        """All that was counted, in the order of the numbers.

        Args:
            protocol: Kept with it.

        Raises:
            DataError: Fewer than two images, or one that was counted twice.
        """
        if self.n < 2:
            raise DataError(f"statistics of {self.n} image(s) were asked for; give at least 2")
        if len(set(self._ids)) < self.n:
            twice = next(k for k, times in zip(*np.unique(self._ids, return_counts=True), strict=True) if times > 1)
            raise DataError(f"image {twice} was counted twice; give each image once, also where ranks pad their last batch")
        order = torch.tensor(self._vector_ids, dtype=torch.int64).argsort()
        for held in self._vectors.values():
            held.sort(order)
        ids = torch.tensor(self._vector_ids, dtype=torch.int64)[order]
        self._vector_ids = ids.tolist()
        return Statistics(
            n=self.n,
            moments={name: (m.mean, m.cov) for name, m in self._moments.items()},
            vectors={name: held.rows for name, held in self._vectors.items()},
            ids=ids,
            protocol=dict(protocol or {}),
            pixels=self._facts(),
            digests=torch.tensor(self._digests, dtype=torch.int64)[torch.tensor(self._ids).argsort()],
        )

    def _facts(self) -> dict[str, Any]:
        channels, height, width = self._shape
        mean = self._sums[:channels] / self.n
        variance = np.maximum(self._sums[channels : 2 * channels] / self.n - mean**2, 0)
        edges = (width - 1) // _BLOCK
        steps = None
        if edges and width > _BLOCK:
            at, between = self._sums[-2] / edges, self._sums[-1] / (width - 1 - edges)
            steps = float(at / between) if between > 0 else None
        return {"channels": channels, "size": [height, width], "mean": mean.tolist(), "std": np.sqrt(variance).tolist(), "steps": steps}

    @property
    def content(self) -> str:
        """Hash of the pixels of all images, in the order of their numbers; 16 hexadecimal digits."""
        return content_hash(self._digests[i] for i in np.argsort(self._ids))


def digests(images: Tensor) -> list[int]:
    """A hash of the pixels of each image ``[b, c, h, w]`` in [-1, 1], rounded to 16 bits a channel: 64-bit numbers."""
    levels = ((images.detach().float() + 1) * 32767.5).round().clamp(0, 65535).to(torch.int32).cpu().numpy().astype("<u2")
    return [int.from_bytes(hashlib.blake2b(x.tobytes(), digest_size=8).digest(), "little", signed=True) for x in levels]


def content_hash(found: Iterable[int]) -> str:
    """One hash of the hashes of images; 16 hexadecimal digits."""
    return hashlib.blake2b(np.fromiter(found, dtype="<i8").tobytes(), digest_size=8).hexdigest()


def spread_over(n: int, keep: int | None) -> Collection[int] | None:
    """Numbers of ``keep`` images evenly spread over n; None, for all, where there are no more.

    Example:
        >>> sorted(spread_over(10, 4))
        [0, 2, 5, 7]
    """
    return None if keep is None or keep >= n else frozenset(k * n // keep for k in range(keep))


# --- files ---------------------------------------------------------------------------------------------------------------


def write_statistics(path: Path, held: Statistics) -> None:
    """Writes statistics: all of them to a ``.safetensors`` file, moments and protocol to an ``.npz`` file.

    The ``.npz`` file has ``mu`` and ``sigma`` (``mu_s`` and ``sigma_s`` for the spatial features), which other code reads.

    Raises:
        DataError: Another suffix.
        CheckpointError: The file system refuses.
    """
    header = json.dumps({"n": held.n, "protocol": dict(held.protocol), "pixels": dict(held.pixels)})
    temporary = path.with_name(f".{path.name}.new")
    try:
        if path.suffix == ".npz":
            arrays = {
                key: value.cpu().numpy() for name, pair in held.moments.items() for key, value in zip(MOMENTS[name], pair, strict=True)
            }
            with writing(path), temporary.open("wb") as file:
                np.savez(file, mezzotint=np.array(header), **arrays)  # pyright: ignore[reportArgumentType]
        elif path.suffix == ".safetensors":
            tensors = {f"{name}.{part}": x for name, pair in held.moments.items() for part, x in zip(("mean", "cov"), pair, strict=True)}
            tensors |= {f"{name}.vectors": rows for name, rows in held.vectors.items()}
            if held.vectors and held.ids is not None:
                tensors["ids"] = held.ids
            write_tensors(temporary, tensors, metadata={"mezzotint": "statistics", "version": FORMAT, "statistics": header})
        else:
            raise DataError(f"statistics are written to .safetensors or .npz files, not to {path.name}; give another --out")
        with writing(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_statistics(path: Path) -> bool:
    """Whether a file holds statistics rather than images alone.

    Raises:
        DataError: An ``.npz`` file that cannot be read.
    """
    if path.suffix == ".safetensors":
        return path.is_file()
    return path.suffix == ".npz" and path.is_file() and bool({"mu", "feats"} & _members(path))


def read_statistics(path: Path) -> Statistics:
    """Reads statistics: ours, or ``mu`` and ``sigma`` of ADM, pytorch-fid, EDM and clean-fid, or ``feats`` of clean-fid.

    Files of other code do not say how they were measured; ``protocol`` then has the file alone. ``arr_0`` of an ADM file is not read.

    Raises:
        DataError: The file is damaged or of another kind.
    """
    if path.suffix == ".safetensors":
        return _read_own(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = {key: arrays[key] for key in arrays.files if key in ("mezzotint", "feats", *sum(MOMENTS.values(), ()))}
    except Exception as error:  # zipfile and numpy raise a dozen kinds of error over damaged files
        raise DataError(f"{path} is damaged ({_reason(error)}); make or fetch it again") from error
    moments = {}
    for name, (mean, cov) in MOMENTS.items():
        if mean in held and cov in held:
            pair = torch.from_numpy(np.asarray(held[mean], np.float64)), torch.from_numpy(np.asarray(held[cov], np.float64))
            _check_pair(path, mean, cov, *pair)
            moments[name] = pair
    header = _header(path, str(held["mezzotint"])) if "mezzotint" in held else {"n": 0, "protocol": {}, "pixels": {}}
    vectors = {}
    if "feats" in held:
        vectors["pool"] = torch.from_numpy(np.asarray(held["feats"], np.float32))
        if not moments:
            counted = Moments().add(vectors["pool"])
            moments["pool"] = (counted.mean, counted.cov)
            header["n"] = counted.n
    if not moments:
        raise DataError(f"{path} holds no mu and sigma; give statistics of ADM, pytorch-fid, EDM, clean-fid or `mezzotint reference`")
    return _statistics(path, header, moments, vectors)


def _read_own(path: Path) -> Statistics:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or no safetensors file ({_reason(error)}); make it again with `mezzotint reference`") from error
    if metadata.get("mezzotint") != "statistics" or metadata.get("version") != FORMAT:
        raise DataError(f"{path} holds no statistics that this version reads; make them with `mezzotint reference`")
    header = _header(path, metadata["statistics"])
    moments = {name: (tensors[f"{name}.mean"], tensors[f"{name}.cov"]) for name in MOMENTS if f"{name}.mean" in tensors}
    vectors = {key.removesuffix(".vectors"): rows for key, rows in tensors.items() if key.endswith(".vectors")}
    return _statistics(path, header, moments, vectors, tensors.get("ids"))


def _statistics(path: Path, header: dict[str, Any], moments: Any, vectors: Mapping[str, Tensor], ids: Tensor | None = None) -> Statistics:
    protocol = {"file": path.name, "file_sha256": file_hash(path), **header["protocol"]}
    return Statistics(header["n"], moments, vectors, ids, protocol, header["pixels"])


def _header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
        return {"n": int(header["n"]), "protocol": dict(header["protocol"]), "pixels": dict(header["pixels"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not say what it holds; make it again with `mezzotint reference`") from error


def _check_pair(path: Path, first: str, second: str, mean: Tensor, cov: Tensor) -> None:
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise DataError(
            f"{first} and {second} of {path} have shapes {tuple(mean.shape)} and {tuple(cov.shape)}; [d] and [d, d] were expected"
        )
    if not (bool(mean.isfinite().all()) and bool(cov.isfinite().all())):
        raise DataError(f"{first} or {second} of {path} holds NaN or infinite values; make or fetch it again")


def _members(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception as error:  # as in ``read_statistics``
        raise DataError(f"{path} is not a readable .npz file ({_reason(error)}); make or fetch it again") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
