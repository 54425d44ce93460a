"""The folder of ``mezzotint sample``: one PNG an image, a grid, and a manifest; a job that was killed goes on where it stopped.

DIR/000005.png       image 5, which carries its recipe (``.npy`` for more than 4 channels)
DIR/trajectory/      how each image came about, if asked for: the states above, the estimates of x0 below
DIR/grid.png         the first images side by side
DIR/manifest.json    the job, and class and SHA-256 of each image's pixels
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mezzotint
from mezzotint.checkpoint.loading import weights_hash
from mezzotint.cli.pictures import KEY, grid, read_png, read_recipe, replacing_file, write_png
from mezzotint.errors import CheckpointError, ConfigError, MezzotintError
from mezzotint.pipelines.generate import Chunk, Job, Model
from mezzotint.registry import cast, parse
from mezzotint.weights.io import read_json, write_text

MANIFEST, GRID, TRAJECTORY = "manifest.json", "grid.png", "trajectory"
FORMAT = 1
MAX_GRID = 256
"""Images that the grid shows at most."""


class SampleFolder:
    """The images of one job on disk.

    Args:
        path: The folder.
        model: The model.
        job: All images of the job.
        every: Save every so many steps of each trajectory; 0: none.

    Raises:
        ConfigError: Trajectories of images that no PNG can hold.
    """

    def __init__(self, path: Path, model: Model, job: Job, *, every: int = 0):
        channels = model.facts.channels
        if every and channels > 4:
            raise ConfigError(f"trajectories are PNG files of at most 4 channels, and the images have {channels}; leave out --every")
        self.path, self.model, self.job, self.every = path, model, job, every
        self.suffix = "png" if channels <= 4 else "npy"
        self._labels = dict(zip(job.ids, job.labels or [None] * len(job.ids), strict=True))
        self._settings = {
            "model": {"path": str(model.path), "weights": model.weights, "sha256": model.hash},
            "guidance_models": guidance_hashes(job),
            "job": job_settings(job),
            "versions": versions(model),
        }

    def file(self, k: int) -> Path:
        """The file of image k."""
        return self.path / f"{k:06d}.{self.suffix}"

    def _strip(self, k: int) -> Path:
        return self.path / TRAJECTORY / f"{k:06d}.png"

    def recipe(self, k: int) -> dict[str, Any]:
        """What image k is made from: model, settings, seed, class and id."""
        label = self._labels[k]
        name = None if label is None else self.model.class_name(label)
        return {"format": FORMAT, "id": k, "label": label, "class": name, **self._settings}

    # --- before ----------------------------------------------------------------------------------------------------------

    def open(self) -> tuple[int, ...]:
        """Makes the folder, or checks that it holds a part of this very job.

        Returns:
            The ids of the images that are still to be made.

        Raises:
            ConfigError: The folder holds something else, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            found = [p for p in self.path.iterdir() if not _is_rest(p)]
            rests = [*filter(_is_rest, self.path.iterdir()), *filter(_is_rest, (self.path / TRAJECTORY).glob(".*"))]
            if found:
                self._compare()
            for rest in rests:  # of a process that was killed
                rest.unlink()
            if self.every:
                (self.path / TRAJECTORY).mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make {self.path}: {error.strerror}; give an --out that can be written") from error
        if not found:
            try:
                self._write_manifest([], complete=False)
            except CheckpointError as error:
                raise ConfigError(f"{error}; give an --out that can be written") from error
        return tuple(k for k in self.job.ids if not self._has(k))

    def _compare(self) -> None:
        file = self.path / MANIFEST
        if not file.is_file():
            raise ConfigError(f"{self.path} is not empty and holds no {MANIFEST}; give another --out, or empty it")
        before, now = read_json(file), {**self._manifest([]), "complete": False}
        for name, value in _comparable(now).items():
            old = _comparable(before).get(name)
            if old != value:
                raise ConfigError(
                    f"{self.path} holds samples of another job ({name} is {_brief(old)} there, {_brief(value)} now); "
                    "give another --out, or the same settings to go on with it"
                )

    def _has(self, k: int) -> bool:
        file = self.file(k)
        if not file.exists() or (self.every and not self._strip(k).exists()):
            return False
        try:
            if self.suffix == "png" and _same(read_recipe(file)) != _same(self.recipe(k)):
                return False
            self.pixels(k)
        except (MezzotintError, OSError, ValueError):
            return False
        return True

    def passes(self, missing: Sequence[int], *, rank: int = 0, ranks: int = 1) -> Job:
        """The part of the job that makes the missing images in the very batches in which the whole job would make them.

        Args:
            missing: Their ids.
            rank: Number of the rank that is to make them; ranks take whole batches in turn.
            ranks: Number of ranks.
        """
        wanted, size, ids = set(missing), self.job.batch, self.job.ids
        if self.job.exact:
            mine = set(sorted({k // size for k in wanted})[rank::ranks])
            return self.job.only(k for k in missing if k // size in mine)
        blocks = [ids[start : start + size] for start in range(0, len(ids), size)]
        return self.job.only(k for block in [b for b in blocks if wanted & set(b)][rank::ranks] for k in block)

    # --- while it runs ---------------------------------------------------------------------------------------------------

    def write(self, chunk: Chunk, missing: set[int]) -> None:
        """Writes those images of a batch that are missing, each whole or not at all."""
        images = self.model.pixels(chunk.trajectory.x)
        states = [self.model.pixels(x) for x in (*chunk.trajectory.xs, *chunk.trajectory.x0s)] if self.every else []
        for row, k in enumerate(chunk.ids):
            if k not in missing:
                continue
            if states:
                write_png(self._strip(k), grid([x[row] for x in states], columns=len(states) // 2), {})
            if self.suffix == "png":
                write_png(self.file(k), images[row], {KEY: json.dumps(self.recipe(k), ensure_ascii=False)})
            else:
                with replacing_file(self.file(k)) as temporary, temporary.open("wb") as file:
                    np.save(file, images[row])

    def pixels(self, k: int) -> np.ndarray:
        """The pixels of image k as they are on disk, ``[h, w, c]``."""
        return read_png(self.file(k)) if self.suffix == "png" else np.load(self.file(k), allow_pickle=False)

    # --- after -----------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Writes the grid and the complete manifest."""
        entries, shown = [], []
        for k in self.job.ids:
            pixels = self.pixels(k)
            label = self._labels[k]
            entry = {"id": k, "file": self.file(k).name, "label": label, "class": None if label is None else self.model.class_name(label)}
            entries.append({**entry, "sha256": pixel_hash(pixels)})
            if len(shown) < MAX_GRID:
                shown.append(pixels)
        write_png(self.path / GRID, grid(shown), {})
        self._write_manifest(entries, complete=True)

    def write_npz(self, file: Path) -> None:
        """Writes all images and labels in the form of ADM's evaluation: arr_0 ``[n, h, w, c]``, arr_1 ``[n]``; one image at a time.

        Raises:
            ConfigError: The file exists with other contents.
        """
        first = self.pixels(self.job.ids[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file) as temporary:
            with zipfile.ZipFile(temporary, "w") as archive:
                with archive.open(_entry("arr_0.npy"), "w", force_zip64=True) as out:
                    _npy_header(out, first.dtype, (len(self.job.ids), *first.shape))
                    for k in self.job.ids:
                        out.write(self.pixels(k).tobytes())
                if self.job.labels is not None:
                    with archive.open(_entry("arr_1.npy"), "w") as out:
                        labels = np.array(self.job.labels, np.int64)
                        _npy_header(out, labels.dtype, labels.shape)
                        out.write(labels.tobytes())
            if file.exists() and _file_hash(file) != _file_hash(temporary):
                raise ConfigError(f"{file} already exists with other contents; give another --npz, or remove it")

    def _manifest(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **self._settings,
            "every": self.every,
            "num": len(self.job.ids),
            "ids": _ranges(self.job.ids),
            "labels_sha256": hashlib.sha256(json.dumps(self.job.labels).encode()).hexdigest(),
            "images": entries,
        }

    def _write_manifest(self, entries: list[dict[str, Any]], *, complete: bool) -> None:
        # One line an image: readable, and small even for many.
        head = json.dumps({"complete": complete, **self._manifest([])}, indent=2, ensure_ascii=False)
        lines = ",\n    ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        write_text(self.path / MANIFEST, (head.replace('"images": []', f'"images": [\n    {lines}\n  ]') if entries else head) + "\n")


def job_settings(job: Job) -> dict[str, Any]:
    """The settings that all images of a job share."""
    return {name: value for name, value in job.to_dict().items() if name not in ("ids", "labels")}


def guidances(job: Job) -> list[str]:
    """All guidances of a job, those of the stages before the last included."""
    return [text for part in (*(job.before or ()), {"guidance": job.guidance}) for text in part["guidance"]]


def guidance_hashes(job: Job) -> dict[str, str]:
    """SHA-256 of the weights of each model that guides, by its path and, where it was chosen, its average."""
    found = {}
    for text in guidances(job):
        settings = parse(text)[1]
        if "model" in settings:
            path, ema = settings["model"], settings.get("ema")
            name = path if ema is None else f"{path},ema={ema}"
            found[name] = weights_hash(path, ema=True if ema is None else cast(ema, float | bool, "ema"))
    return found


def versions(model: Model) -> dict[str, Any]:
    """What equal bytes depend on beside the recipe."""
    device = model.device.type
    threads = torch.get_num_threads() if device == "cpu" else None
    return {"mezzotint": mezzotint.__version__, "torch": torch.__version__, "device": device, "threads": threads}


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of pixels ``[h, w, c]``, row by row, 16-bit ones with the low byte first."""
    return hashlib.sha256(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()).hexdigest()


def single(job: dict[str, Any], k: int, label: int | None) -> Job:
    """The job of one image, from the settings that it shares with others.

    Raises:
        ConfigError: A setting is missing.
    """
    return replace(Job.from_dict({**job, "ids": [k], "labels": None}), labels=None if label is None else (label,))


def _same(recipe: dict[str, Any] | None) -> dict[str, Any]:
    """What of a recipe must agree for images to be of one job: without paths, versions and, unless it matters, the batch."""
    if recipe is None:
        return {}
    job = {k: v for k, v in recipe.get("job", {}).items() if k != "batch" or recipe["job"].get("exact")}
    if "before" in job:
        job["before"] = [_without_models(part) for part in job["before"]]
    return {
        "model": recipe.get("model", {}).get("sha256"),
        "guidance_models": sorted(recipe.get("guidance_models", {}).values()),
        "job": _without_models(job),
        **{name: recipe.get(name) for name in ("id", "label")},
    }


def _without_models(job: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose guidances are compared without the places of their models, which hashes stand for."""
    texts = [parse(text) for text in job.get("guidance", ())]
    return {**job, "guidance": [[name, sorted(item for item in own.items() if item[0] != "model")] for name, own in texts]}


def _comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    same = _same(manifest)
    whole = {name: manifest.get(name) for name in ("every", "num", "ids", "labels_sha256")}
    return {"model": same["model"], "guidance models": same["guidance_models"], **stage_by_stage(same["job"]), **whole}


def stage_by_stage(settings: Mapping[str, Any], what: str = "stage") -> dict[str, Any]:
    """Settings of which those of each stage before the last stand by themselves, so that a difference can be named."""
    before: list[dict[str, Any]] = settings.get("before", [])
    apart = {f"{what} {k} {name}": value for k, part in enumerate(before, start=1) for name, value in part.items()}
    return {**apart, **{name: value for name, value in settings.items() if name != "before"}}


def _brief(value: Any, most: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _is_rest(path: Path) -> bool:
    return path.name.startswith(".") and ".new-" in path.name


def _ranges(ids: Sequence[int]) -> str:
    """Numbers as in "5,17-20", in their order."""

    def runs() -> Iterator[str]:
        start = end = ids[0]
        for k in [*ids[1:], -1]:
            if k == end + 1:
                end = k
                continue
            yield str(start) if start == end else f"{start}-{end}"
            start = end = k

    return ",".join(runs())


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # equal contents give equal files


def _npy_header(out: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(out, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})


def _file_hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
