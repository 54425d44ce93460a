"""The folder of ``mezzotint sample`` or ``upscale`` as images to look at: those of its manifest, with their classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mezzotint.configs import DataConfig
from mezzotint.data.images import SUFFIXES, ImageSource, Listing
from mezzotint.data.labels import Labels
from mezzotint.data.source import Source, one_line
from mezzotint.data.store import FolderStore
from mezzotint.errors import DataError

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a sample folder; None where the path is anything else.

    That of ``mezzotint upscale``, which lists pictures, is brought to the form of ``mezzotint sample``: its images, and how they were made.

    Raises:
        DataError: The manifest is damaged, or the job that it describes is not complete.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged ({one_line(error)}); sample again into another folder") from error
    if isinstance(manifest, dict) and isinstance(manifest.get("pictures"), list) and "settings" in manifest:
        try:
            files = [str(name) for picture in manifest["pictures"] for name in picture["files"]]
        except (KeyError, TypeError) as error:
            raise DataError(f"{file} is damaged (a picture without files); upscale again into another folder") from error
        manifest = {**manifest, "images": [{"file": name} for name in files], "job": manifest["settings"]}
    if not isinstance(manifest, dict) or not isinstance(manifest.get("images"), list) or "job" not in manifest:
        return None
    if not manifest.get("complete"):
        raise DataError(f"{folder} is not complete; type the same {_command(manifest)} command again, which goes on with it")
    return manifest


def _command(manifest: dict[str, Any]) -> str:
    return "`mezzotint upscale`" if "pictures" in manifest else "`mezzotint sample`"


def open_samples(folder: Path, manifest: dict[str, Any], config: DataConfig) -> Source:
    """Opens the images of a sample folder; grids and trajectories in it are passed over.

    Args:
        folder: The folder.
        manifest: What ``read_manifest`` gave.
        config: ``size``, ``fit``, ``channels`` and ``labels`` are heeded.

    Returns:
        The source. Its classes are those that were sampled, in the order of the model's labels.

    Raises:
        DataError: An image is missing or damaged, or is no image file.
    """
    entries = manifest["images"]
    store = FolderStore(folder)
    names = [str(entry["file"]) for entry in entries]
    for name in names:
        if name not in store.files:
            raise DataError(f"{folder}/{name} is missing; type the same {_command(manifest)} command again, which makes it again")
        if not name.lower().endswith(SUFFIXES):
            raise DataError(f"{folder}/{name} is no image file; add --npz FILE to the `mezzotint sample` command, and give that file")
    labels = [entry.get("label") for entry in entries]
    if not config.labels or any(label is None for label in labels):
        return ImageSource(Listing(store, tuple(names), tuple(names)), config)
    known = {int(entry["label"]): str(entry.get("class", entry["label"])) for entry in entries}
    order = sorted(known)
    found = Labels(tuple(known[k] for k in order), tuple(order.index(int(label)) for label in labels))
    return ImageSource(Listing(store, tuple(names), tuple(names), found), config)
