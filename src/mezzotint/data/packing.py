"""A data set written as one file or as shards: each image brought to its size once, its label beside it."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mezzotint.configs import DataConfig, to_dict
from mezzotint.data.images import ImageSource
from mezzotint.data.opening import open_source
from mezzotint.data.parallel import in_order
from mezzotint.data.png import encode_png
from mezzotint.data.shards import split_key
from mezzotint.data.source import Source
from mezzotint.errors import DataError

PER_SHARD = 10_000
_PART = 1_000
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(
    config: DataConfig,
    out: Path | str,
    *,
    per_shard: int = PER_SHARD,
    workers: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Source:
    """Writes a data set as a ZIP file, a tar file, or tar shards.

    An image whose file already has the right pixels is copied as it is; any other becomes a PNG. Images keep their names, the first
    folder included, but for dots. Labels lie in ``dataset.json`` of a ZIP file, and in members ``.cls`` and ``.json`` of a tar file, as
    WebDataset has them. Unreadable images are left out and listed in ``OUT.unreadable.jsonl``, up to ``config.max_unreadable``. A file
    appears under its name when it is complete; what a killed process had done is not done again. The bytes written depend on data and
    settings alone.

    Args:
        config: The data; ``size``, ``fit`` and ``channels`` say what to bring images to.
        out: ``X.zip``, ``X.tar``, or ``X-%05d.tar`` for shards.
        per_shard: Images a shard.
        workers: Threads that decode, resize and encode.
        progress: Called with the number of images done and of all.

    Returns:
        The data that was packed.

    Raises:
        DataError: Data that cannot be opened, too many unreadable images, or a place that is taken or cannot be written.
    """
    out = Path(out)
    sharded = _is_pattern(out)
    if out.suffix not in (".zip", ".tar") or (sharded and out.suffix != ".tar"):
        raise DataError(f"--out {out} is no place to pack to; give X.zip, X.tar, or X-%05d.tar for shards")
    if per_shard < 1:
        raise DataError(f"--per-shard {per_shard} is no number of images; give at least 1")
    if not sharded and out.exists():
        raise DataError(f"{out} exists already; remove it, or give another --out")
    source = open_source(config, stand_ins=True)
    job = out.with_name(f".{out.name}.packing")
    count = per_shard if sharded else _PART
    parts = [range(start, min(start + count, len(source))) for start in range(0, len(source), count)]
    places = [Path(str(out) % k) if sharded else job / f"{k:05d}.tar" for k in range(len(parts))]
    try:
        _begin(job, places if sharded else [], {"fingerprint": source.fingerprint, "settings": _settings(config), "images": count})
        source.record(out.with_name(f"{out.name.replace('%', '')}.unreadable.jsonl"))
        names = _names(source)
        for ids, place in zip(parts, places, strict=True):
            if not place.exists():
                with _replacing(place) as temporary:
                    _write_part(source, ids, names, temporary, workers, progress)
            progress(ids.stop, len(source))
        if not sharded:
            with _replacing(out) as temporary:
                (_join_zip if out.suffix == ".zip" else _join_tar)(places, source, temporary)
        shutil.rmtree(job)
    except OSError as error:
        raise DataError(f"cannot write {error.filename or out} ({error.strerror}); check the folder and the free space") from error
    return source


def _is_pattern(out: Path) -> bool:
    if "%" not in out.name:
        return False
    try:
        different = out.name % 0 != out.name % 1
    except (TypeError, ValueError):
        different = False
    if not different or "%" in str(out.parent):
        raise DataError(f"--out {out} is no pattern of shards; give a number's place in the file's name, as in X-%05d.tar")
    return True


def _settings(config: DataConfig) -> dict[str, object]:
    free = ("path", "workers", "flip", "max_unreadable")
    return {name: value for name, value in to_dict(config).items() if name not in free}


def _begin(job: Path, shards: list[Path], settings: dict[str, object]) -> None:
    """Makes the folder that marks an unfinished job, or checks that it is the same job."""
    file = job / "job.json"
    if file.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
            raise DataError(f"{job} holds an unfinished job on other data or with other settings; remove it, or give another --out")
        return
    taken = next((shard for shard in shards if shard.exists()), None)
    if taken:
        raise DataError(f"{taken} exists already; remove it, or give another --out")
    job.mkdir(parents=True, exist_ok=True)
    with _replacing(file) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _names(source: Source) -> list[str]:
    """A key for each image: its name without suffix and dots, and with a number where two would be one."""
    taken: set[str] = set()
    names = []
    for i in range(len(source)):
        key, _, _ = source.name(i).rpartition(".")
        folder, slash, stem = (key or source.name(i)).rpartition("/")
        name = folder + slash + stem.replace(".", "_")
        while name in taken:
            name = f"{name}_{i}"
        taken.add(name)
        names.append(name)
    return names


def _write_part(source: Source, ids: range, names: list[str], place: Path, workers: int, progress: Callable[[int, int], object]) -> None:
    def encode(i: int) -> tuple[int, bytes, str] | None:
        pixels = source.attempt(i)
        if pixels is None:
            return None
        kept = source.stored(i) if isinstance(source, ImageSource) else None
        if kept is None and pixels.shape[2] > 4:
            raise DataError(f"images of {pixels.shape[2]} channels cannot be packed as PNG; give --channels 1 or 3, or keep the .npz")
        data, suffix = kept or (encode_png(pixels, {}), ".png")
        return i, data, suffix

    with tarfile.open(place, "w", format=tarfile.PAX_FORMAT) as archive:
        for k, made in enumerate(in_order(encode, ids, workers)):
            progress(ids.start + k, len(source))
            if made is None:
                continue
            i, data, suffix = made
            _add(archive, names[i] + suffix, data)
            for extension, text in _sidecars(source, i).items():
                _add(archive, f"{names[i]}.{extension}", text.encode())


def _sidecars(source: Source, i: int) -> dict[str, str]:
    if source.tagged is not None:
        return {"json": json.dumps({"labels": [tag for tag, has in zip(source.tags, source.tagged[i], strict=True) if has]})}
    label = source.label(i)
    if label is None:
        return {}
    return {"cls": str(label), "json": json.dumps({"label": source.facts.classes[label]})}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _members(parts: list[Path]) -> Iterator[tuple[str, bytes]]:
    for part in parts:
        with tarfile.open(part, "r:") as archive:
            for info in archive:
                file = archive.extractfile(info)
                assert file is not None
                yield info.name, file.read()


def _join_tar(parts: list[Path], source: Source, place: Path) -> None:
    with tarfile.open(place, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in _members(parts):
            _add(archive, name, data)


def _join_zip(parts: list[Path], source: Source, place: Path) -> None:
    """The images, and instead of a label beside each one file of them all."""
    labels: list[tuple[str, object]] = []
    image = ""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
        for name, data in _members(parts):
            extension = split_key(name)[1]
            if extension == "json":
                entry = json.loads(data)
                if source.tagged is not None:
                    labels.append((image, [int(tag in entry["labels"]) for tag in source.tags]))
            elif extension == "cls":
                labels.append((image, int(data)))
            else:
                image = name
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
        if labels:
            titles = source.tags or source.facts.classes
            table = json.dumps({"labels": labels, "classes": titles}, ensure_ascii=False)
            archive.writestr(zipfile.ZipInfo("dataset.json", _EPOCH), table)
