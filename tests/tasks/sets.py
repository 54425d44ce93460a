"""Small sets of images on disk, in every form that can be measured."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from mezzotint.configs import DataConfig
from mezzotint.data import Source, open_source
from mezzotint.data.arrays import ArraySource


def digits(split: str = "test") -> Source:
    return open_source(DataConfig(path="digits", split=split))  # pyright: ignore[reportArgumentType]


def array_of(source: Source) -> np.ndarray:
    return np.stack([source.array(i) for i in range(len(source))])


def memory(pixels: np.ndarray, labels: np.ndarray | None = None, classes: tuple[str, ...] = ()) -> Source:
    """Images in memory."""
    return ArraySource(pixels, DataConfig(), names=[str(i) for i in range(len(pixels))], labels=labels, classes=classes)


def write_folder(folder: Path, pixels: np.ndarray, *, folders: list[str] | None = None, suffix: str = "png", **options) -> Path:
    """One file an image, in class folders if there are any."""
    for i, image in enumerate(pixels):
        place = folder / folders[i] if folders else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(place / f"{i:05d}.{suffix}", **options)
    return folder


def write_zip(file: Path, folder: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    return file


def write_samples(
    folder: Path, pixels: np.ndarray, labels: list[int] | None, *, guidance: tuple[str, ...] = (), seed: int = 0, complete: bool = True
) -> Path:
    """A folder as `mezzotint sample` leaves it."""
    write_folder(folder, pixels)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "grid.png")
    held = labels or [None] * len(pixels)
    entries = [
        {"id": i, "file": f"{i:05d}.png", "label": k, "class": None if k is None else f"class {k}"}
        for i, k in zip(range(len(pixels)), held, strict=True)
    ]
    manifest = {
        "complete": complete,
        "format": 1,
        "model": {"path": "runs/x/model", "weights": "ema-0.999.safetensors", "sha256": "ab" * 32},
        "job": {"sampler": "ddim", "steps": 25, "grid": "uniform", "guidance": list(guidance), "seed": seed, "clip": True, "exact": False},
        "images": entries if complete else [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
