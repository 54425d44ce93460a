"""Hugging Face data sets, from their hub or a folder: a table with a column of images, read row by row."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mezzotint.configs import DataConfig
from mezzotint.data.images import Listing
from mezzotint.data.labels import Labels, check_labels, from_numbers, from_values
from mezzotint.data.source import one_line
from mezzotint.data.store import TAIL, Ends, Store
from mezzotint.errors import DataError

PREFIX = "hf:"
_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
_LABEL_NAMES = ("label", "labels", "class", "class_name")
_TABLES = {".parquet": "parquet", ".arrow": "arrow"}


class TableStore(Store):
    """The images of one column, each called by the number of its row.

    Args:
        table: A ``datasets.Dataset`` whose image column is not decoded.
        column: The column: encoded images, or structs of bytes and path.
        title: What the data set is called.
    """

    def __init__(self, table: Any, column: str, title: str):
        self._table = table.select_columns([column]).with_format(None)
        self._column = column
        digits = len(str(max(len(table) - 1, 0)))
        self._rows = {f"{i:0{digits}d}": i for i in range(len(table))}
        super().__init__(Path(title), dict(zip(self._rows, _lengths(self._table, column), strict=True)), set(), title)

    def __getstate__(self) -> dict[str, Any]:
        # The names follow from their number; workers make them again.
        return {"_table": self._table, "_column": self._column, "title": self.title}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_table"], state["_column"], state["title"])

    def read(self, name: str) -> bytes:
        try:
            value = self._table[self._rows[name]][self._column]
            if isinstance(value, dict):
                value = value["bytes"] if value.get("bytes") is not None else Path(value["path"]).read_bytes()
        except Exception as error:  # pyarrow and datasets raise many kinds
            raise DataError(f"row {name} of {self.title} cannot be read ({one_line(error)}); check the data set") from error
        if not isinstance(value, bytes):
            raise DataError(f"row {name} of {self.title} has no image in column '{self._column}'; remove the row")
        return value

    def ends(self, name: str) -> Ends:
        data = self.read(name)
        return Ends(data, data[-TAIL:], True)


def open_table(path: str, config: DataConfig) -> Listing:
    """Finds the images and labels of a Hugging Face data set.

    The image column is the one of that type; the label column is one of type ``ClassLabel``, which brings the class names, or a list of
    them for tags, or else numbers or strings in a column called ``label``.

    Args:
        path: What follows ``hf:``: a folder that was saved with ``save_to_disk``, a folder of or file of parquet, or a name on the hub;
            a split may follow after a colon.
        config: ``column``, ``labels`` and ``split`` are heeded.

    Raises:
        DataError: The package ``datasets`` is missing, the data set cannot be loaded, or has no or several such columns.
    """
    title = f"{PREFIX}{path}"
    table = _load(path, config.split, title)
    if len(table) == 0:
        raise DataError(f"{title} has no rows; choose another split")
    features = dict(table.features)
    image, _, label = (config.column or "").partition(",")
    image = _image_column(features, image, title)
    notes: list[str] = []
    labels = _labels(table, features, _label_column(features, label, title, notes), title) if config.labels else None
    from datasets import Image

    if isinstance(features[image], Image):
        table = table.cast_column(image, Image(decode=False))
    store = TableStore(table, image, title)
    names = tuple(store.files)
    return Listing(store, names, names, labels, tuple(notes))


def _load(path: str, split: str, title: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{title} needs the package datasets; run: pip install 'mezzotint[sources]'") from error
    place, _, wanted = path.partition(":")
    local = Path(place).expanduser()
    datasets.disable_progress_bars()
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is said below
    try:
        if local.is_file() and local.suffix in _TABLES:
            held: Any = datasets.load_dataset(_TABLES[local.suffix], data_files=str(local))
        elif any((local / file).is_file() for file in _SAVED):
            held = datasets.load_from_disk(str(local))
        else:
            held = datasets.load_dataset(str(local) if local.is_dir() else place)
    except Exception as error:  # whatever the library, the network or the file brings up
        hint = "check the path" if local.exists() else "give a folder or file that exists, or a name of the hub (which needs a network)"
        raise DataError(f"{title} cannot be loaded ({one_line(error)}); {hint}") from error
    finally:
        datasets.logging.set_verbosity(level)
    if not isinstance(held, dict):
        if wanted:
            raise DataError(f"{title} has no splits; leave out ':{wanted}'")
        return held
    if not wanted and split != "all":
        wanted = split
    if not wanted:
        return datasets.concatenate_datasets(list(held.values())) if len(held) > 1 else next(iter(held.values()))
    if wanted not in held:
        raise DataError(f"{title} has no split '{wanted}'; its splits are {', '.join(held)}")
    return held[wanted]


def _image_column(features: dict[str, Any], wanted: str, title: str) -> str:
    from datasets import Image, Value

    found = [name for name, kind in features.items() if isinstance(kind, Image)]
    found = found or [name for name, kind in features.items() if isinstance(kind, dict) and set(kind) == {"bytes", "path"}]
    found = found or [name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype in ("binary", "large_binary")]
    if wanted:
        if wanted not in found:
            raise DataError(f"{title} has no images in column '{wanted}'; give --data.column one of: {', '.join(found) or 'none'}")
        return wanted
    if not found:
        raise DataError(f"{title} has no column of images; its columns are {', '.join(features)}")
    if len(found) > 1:
        raise DataError(f"{title} has several columns of images ({', '.join(found)}); say which by --data.column {found[0]}")
    return found[0]


def _label_column(features: dict[str, Any], wanted: str, title: str, notes: list[str]) -> str | None:
    from datasets import ClassLabel

    if wanted:
        if wanted not in features:
            raise DataError(f"{title} has no column '{wanted}'; its columns are {', '.join(features)}")
        return wanted
    typed = [name for name, kind in features.items() if isinstance(_inner(kind) or kind, ClassLabel)]
    named = [name for name in _LABEL_NAMES if name in features and name not in typed]
    preferred = [name for name in _LABEL_NAMES if name in typed]
    candidates = [*preferred, *(name for name in typed if name not in preferred)] or named
    if not candidates:
        return None
    if len(candidates) > 1:
        others = ", ".join(candidates[1:])
        notes.append(f"labels are column '{candidates[0]}'; --data.column IMAGE,LABEL chooses another of: {others}")
    return candidates[0]


def _inner(kind: Any) -> Any:
    """The type of a list's elements, or None."""
    if isinstance(kind, list):
        return kind[0]
    return getattr(kind, "feature", None)


def _labels(table: Any, features: dict[str, Any], column: str | None, title: str) -> Labels | None:
    from datasets import ClassLabel

    if column is None:
        return None
    values: Sequence[Any] = list(table[column])
    kind, inner = features[column], _inner(features[column])
    place = f"column '{column}' of {title}"
    names = [f"row {i}" for i in range(len(values))]
    if isinstance(kind, ClassLabel):
        numbers = [-1 if value is None else value for value in values]
        check_labels(numbers, names, place, len(kind.names))
        return Labels(tuple(kind.names), tuple(numbers))
    if isinstance(inner, ClassLabel):
        tagged = tuple(tuple(sorted(set(value or ()))) for value in values)
        for name, numbers in zip(names, tagged, strict=True):
            check_labels(numbers, [name] * len(numbers), place, len(inner.names))
        return Labels(tags=tuple(inner.names), tagged=tagged)
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return from_numbers(values, [""] * len(values), names, place)
    if all(isinstance(value, str) for value in values):
        return from_values(values, names, place)
    if all(isinstance(value, list) and all(isinstance(each, str | int) for each in value) for value in values):
        return from_values([tuple(map(str, value)) for value in values], names, place)
    raise DataError(f"{place} holds neither names nor whole numbers; choose another by --data.column, or pass --data.no-labels")


def _lengths(table: Any, column: str) -> list[int]:
    """Stored size of each image; of a row that has only a path, the size of that file."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes: list[int] = []
    view = table.with_format("arrow")
    for start in range(0, len(table), 1024):
        part = view[start : start + 1024][column].combine_chunks()
        if isinstance(part, pa.ChunkedArray):
            part = pa.concat_arrays(part.chunks)
        paths = [None] * len(part)
        if pa.types.is_struct(part.type):
            names = [part.type.field(k).name for k in range(part.type.num_fields)]
            paths = part.field("path").to_pylist() if "path" in names else paths
            part = part.field("bytes")
        lengths = pc.binary_length(part).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
        sizes += [n if n is not None else _file_size(path) for n, path in zip(lengths, paths, strict=True)]
    return sizes


def _file_size(path: str | None) -> int:
    try:
        return os.path.getsize(path) if path else 0
    except OSError:
        return 0  # reported when the image is read
