"""Class names and labels: from folders, or from a label file. All ways give the same map, class name <-> label."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mezzotint.errors import DataError, unknown

LABEL_FILES = ("dataset.json", "labels.csv", "labels.jsonl", "metadata.csv", "metadata.jsonl")
MAX_CLASSES = 100_000
_FILE_KEYS = ("file_name", "file", "filename", "path", "image")
_LABEL_KEYS = ("label", "class", "class_name")
T = TypeVar("T")


@dataclass(frozen=True)
class Labels:
    """The classes of some images.

    Attributes:
        classes: Class names in label order.
        labels: Label of each image, in the order of the names that were given.
    """

    classes: tuple[str, ...]
    labels: tuple[int, ...]


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: by alphabet, or by value where all are numbers, so that class "10" follows "9"."""
    found = set(names)
    return tuple(sorted(found, key=int) if all(n.isascii() and n.isdigit() and str(int(n)) == n for n in found) else sorted(found))


def top_folder(name: str) -> str:
    """The first folder of a path, in Unicode's composed form, since some systems decompose names; "" where there is none."""
    head, slash, _ = name.partition("/")
    return unicodedata.normalize("NFC", head) if slash else ""


def from_folders(names: Sequence[str], folders: Iterable[str], where: str) -> Labels | None:
    """Reads classes from the first folder of each path; deeper folders make no classes of their own.

    Args:
        names: Paths of the images.
        folders: All first folders, those without images included.
        where: Name of the data set, for messages.

    Returns:
        The labels; None if no image lies in a folder.

    Raises:
        DataError: Some images lie in folders and some do not, or a class folder holds no image.
    """
    tops = [top_folder(name) for name in names]
    found = set(tops) - {""}
    if not found:
        return None
    if "" in tops:
        loose, inside = names[tops.index("")], next(name for name, top in zip(names, tops, strict=True) if top)
        raise DataError(
            f"{where} has images both outside class folders ({loose}) and inside ({inside}); "
            "move all into class folders, or pass --data.no-labels to ignore folders"
        )
    for folder in sorted(unicodedata.normalize("NFC", f) for f in folders):
        if folder not in found:
            raise DataError(f"class folder {folder} of {where} has no images; add some, remove it, or pass --data.no-labels")
    classes = class_order(found)
    index = {name: k for k, name in enumerate(classes)}
    return Labels(classes, tuple(index[top] for top in tops))


def from_file(file: str, text: str, names: Sequence[str], known: Iterable[str], where: str) -> Labels | None:
    """Reads a label file.

    ``dataset.json`` is EDM's: ``{"labels": [["a.png", 0], ...]}``; it holds label numbers. They are named by its entry
    ``"classes"``, a list of names, if it has one; else by the class folders, if these fit the numbers one to one; else "0", "1"
    and so on. The other files hold class names, numbers being names too, in two columns: ``file_name`` (or ``file``) and ``label``.
    A CSV file without such a header is read as these two columns; a ``metadata`` file without labels is not a label file.

    Args:
        file: Name of the file, one of ``LABEL_FILES``.
        text: Its contents.
        names: Paths of the images that need labels, relative to the file.
        known: All paths of images, relative to the file.
        where: Name of the data set, for messages.

    Returns:
        The labels; None if the file holds none.

    Raises:
        DataError: The file cannot be read, names an image that does not exist, or leaves one without a label.
    """
    place = f"{file} of {where}"
    if file == "dataset.json":
        return _from_edm(text, names, known, place)
    rows = _csv_rows(text, place) if file.endswith(".csv") else _jsonl_rows(text, place)
    if not any(label for _, label in rows):
        if file.startswith("metadata"):
            return None
        raise DataError(f"{place} has no labels; give it the columns file_name and label")
    given = _table(rows, names, known, place)
    classes = class_order(unicodedata.normalize("NFC", label) for label in given.values() if label)
    index = {name: k for k, name in enumerate(classes)}
    for name in names:
        if not given[name]:
            raise DataError(f"{place} gives {name} no label; add it")
    return Labels(classes, tuple(index[unicodedata.normalize("NFC", given[name])] for name in names))


def check_labels(labels: Sequence[int], names: Sequence[str], place: str, num_classes: int | None = None) -> tuple[str, ...]:
    """Checks label numbers and names them "0", "1" and so on.

    Args:
        labels: The numbers.
        names: What each belongs to, for messages.
        place: Where they come from, for messages.
        num_classes: Number of classes; None: as many as the largest label says.

    Returns:
        The class names.

    Raises:
        DataError: A label below 0, or at or above the number of classes.
    """
    limit = MAX_CLASSES if num_classes is None else num_classes
    for label, name in zip(labels, names, strict=True):
        if not 0 <= label < limit:
            raise DataError(f"{place} gives {name} the label {label}; labels are whole numbers from 0 to {limit - 1}")
    return tuple(str(k) for k in range(num_classes or max(labels, default=-1) + 1))


def _from_edm(text: str, names: Sequence[str], known: Iterable[str], place: str) -> Labels | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON ({error}); repair or remove it") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise DataError(f'{place} has no entry "labels"; it must read {{"labels": [["file.png", 0], ...]}}')
    if content["labels"] is None:
        return None
    entries = content["labels"]
    pairs: list[tuple[str, int]] = []
    for entry in entries.items() if isinstance(entries, dict) else entries if isinstance(entries, list) else [entries]:
        file, label = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (entry, None)
        if not isinstance(file, str) or not isinstance(label, int) or isinstance(label, bool):
            raise DataError(f'{place} has the entry {entry!r}; each must be ["file.png", whole number]')
        pairs.append((file, label))
    titles = content.get("classes")
    if titles is not None and (not isinstance(titles, list) or len(set(map(str, titles))) != len(titles)):
        raise DataError(f'{place} has "classes": {titles!r}; it must be a list of different names')
    numbers = check_labels([k for _, k in pairs], [file for file, _ in pairs], place, None if titles is None else len(titles))
    given = _table(pairs, names, known, place)
    labels = tuple(given[name] for name in names)
    if titles is not None:
        return Labels(tuple(str(t) for t in titles), labels)
    return Labels(_folder_titles(given) or numbers, labels)


def _folder_titles(given: dict[str, int]) -> tuple[str, ...] | None:
    pairs = {(label, top_folder(name)) for name, label in given.items()}
    titles = dict(pairs)
    if "" in titles.values() or len(titles) != len(pairs) or len(set(titles.values())) != len(pairs) or max(titles) >= len(pairs):
        return None
    return tuple(titles[k] for k in range(len(titles)))


def _csv_rows(text: str, place: str) -> list[tuple[str, str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if any(row)]
    except csv.Error as error:
        raise DataError(f"{place} is not CSV ({error}); repair or remove it") from error
    if not rows:
        return []
    head = [cell.strip().lower() for cell in rows[0]]
    file, label = _column(head, _FILE_KEYS), _column(head, _LABEL_KEYS)
    if file is None and len(head) == 2:
        file, label, start = 0, 1, 0
    elif file is None:
        raise DataError(f"{place} has the columns {', '.join(rows[0])}; it needs file_name and label")
    else:
        start = 1
    last = max(file, label or 0)
    for number, row in enumerate(rows[start:], start=start + 1):
        if len(row) <= last:
            raise DataError(f"row {number} of {place} has {len(row)} columns; it needs {last + 1}")
    return [(row[file].strip(), "" if label is None else row[label].strip()) for row in rows[start:]]


def _jsonl_rows(text: str, place: str) -> list[tuple[str, str]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {number} of {place} is not JSON ({error}); repair it") from error
        keys = list(row) if isinstance(row, dict) else []
        file, label = _column(keys, _FILE_KEYS), _column(keys, _LABEL_KEYS)
        if file is None or not isinstance(row[keys[file]], str):
            raise DataError(f'line {number} of {place} names no file; it must read {{"file_name": "a.png", "label": "cat"}}')
        value = None if label is None else row[keys[label]]
        if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
            raise DataError(f"line {number} of {place} has the label {value!r}; a label is a name or a whole number")
        rows.append((row[keys[file]], "" if value is None else str(value)))
    return rows


def _column(head: Sequence[str], keys: Sequence[str]) -> int | None:
    return next((list(head).index(key) for key in keys if key in head), None)


def _table(rows: Iterable[tuple[str, T]], names: Sequence[str], known: Iterable[str], place: str) -> dict[str, T]:
    """Checks that the rows and the images fit together; returns file -> label."""
    exists = set(known)
    given: dict[str, T] = {}
    for file, label in rows:
        name = file.replace("\\", "/").removeprefix("./")
        if name not in exists:
            near = str(unknown("image", name, sorted(exists)[:2000])).partition(" Known:")[0].removeprefix("unknown image ").rstrip(";")
            raise DataError(f"{place} names a file that does not exist: {near}; correct or remove the entry")
        if name in given and given[name] != label:
            raise DataError(f"{place} gives {name} two labels; keep one")
        given[name] = label
    for name in names:
        if name not in given:
            raise DataError(f"{place} has no label for {name}; add it, or remove the file to use class folders")
    return given
