"""Class names and labels: from folders, or from a label file. All ways give the same map, class name <-> label."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mezzotint.errors import DataError, unknown

LABEL_FILES = ("dataset.json", "labels.csv", "labels.jsonl", "metadata.csv", "metadata.jsonl")
MAX_CLASSES = 100_000
_FILE_KEYS = ("file_name", "file", "filename", "path", "image")
_LABEL_KEYS = ("label", "class", "class_name")
_TAG_KEYS = ("labels", "tags", "classes")
T = TypeVar("T")


@dataclass(frozen=True)
class Labels:
    """The classes of some images, in the order of the names that were given; or their tags, where an image may have several.

    Attributes:
        classes: Class names in label order.
        labels: Label of each image.
        tags: Names of the tags; empty where each image has one class.
        tagged: Tags of each image, by number.
    """

    classes: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    tagged: tuple[tuple[int, ...], ...] = ()

    def take(self, index: Sequence[int]) -> Labels:
        """Those of some images; all classes and tags are kept."""
        if self.tags:
            return Labels(tags=self.tags, tagged=tuple(self.tagged[i] for i in index))
        return Labels(self.classes, tuple(self.labels[i] for i in index))

    @property
    def matrix(self) -> np.ndarray:
        """``[n, len(tags)]`` float32: 1 where an image has a tag, else 0."""
        table = np.zeros((len(self.tagged), len(self.tags)), np.float32)
        for row, numbers in zip(table, self.tagged, strict=True):
            row[list(numbers)] = 1
        return table


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

    Images that may have several labels have a list of names in ``labels`` (in CSV with semicolons between), or in ``dataset.json`` a
    list of 0 and 1, one for each class.

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
    return from_values([given[name] for name in names], names, place)


def from_values(values: Sequence[str | tuple[str, ...]], names: Sequence[str], place: str) -> Labels:
    """Numbers the class names of images, or their tags.

    Args:
        values: Class name of each image, or a tuple of the names of its tags.
        names: Names of the images, for messages.
        place: Where the values come from, for messages.

    Raises:
        DataError: An image has no class name.
    """
    if any(isinstance(value, tuple) for value in values):
        several = [tuple(map(_composed, value if isinstance(value, tuple) else (value,) if value else ())) for value in values]
        tags = class_order(tag for value in several for tag in value)
        number = {tag: k for k, tag in enumerate(tags)}
        return Labels(tags=tags, tagged=tuple(tuple(sorted({number[tag] for tag in value})) for value in several))
    titles = [_composed(str(value)) for value in values]
    for name, title in zip(names, titles, strict=True):
        if not title:
            raise DataError(f"{place} gives {name} no label; add it")
    classes = class_order(titles)
    index = {name: k for k, name in enumerate(classes)}
    return Labels(classes, tuple(index[title] for title in titles))


def from_numbers(numbers: Sequence[int], titles: Sequence[str], names: Sequence[str], place: str) -> Labels:
    """Labels that are given as numbers; they are called by the class folders if these fit the numbers one to one, else by the numbers.

    Args:
        numbers: Label of each image.
        titles: Class name of each image where one is known, else "".
        names: Names of the images.
        place: Where the numbers come from, for messages.

    Raises:
        DataError: A label out of range, or a name for two numbers or the reverse.
    """
    plain = check_labels(numbers, names, place)
    if any(titles):
        pairs = set(zip(numbers, titles, strict=True))
        named = dict(pairs)
        if "" in named.values() or len(named) != len(pairs) or len(set(named.values())) != len(pairs):
            raise DataError(f"{place} gives one class two names or two numbers; give each class one of both, or leave the names out")
        return Labels(tuple(named.get(k, plain[k]) for k in range(len(plain))), tuple(numbers))
    return Labels(_folder_titles(dict(zip(names, numbers, strict=True))) or plain, tuple(numbers))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


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
    pairs = [_edm_pair(entry, place) for entry in _entries(content["labels"])]
    titles = content.get("classes")
    if titles is not None and (not isinstance(titles, list) or len(set(map(str, titles))) != len(titles)):
        raise DataError(f'{place} has "classes": {titles!r}; it must be a list of different names')
    vectors = [(file, label) for file, label in pairs if isinstance(label, tuple)]
    if vectors:
        return _vectors(vectors, len(pairs), titles, names, known, place)
    plain = [(file, label) for file, label in pairs if isinstance(label, int)]
    numbers = check_labels([k for _, k in plain], [file for file, _ in plain], place, None if titles is None else len(titles))
    given = _table(plain, names, known, place)
    labels = tuple(given[name] for name in names)
    if titles is not None:
        return Labels(tuple(str(t) for t in titles), labels)
    return Labels(_folder_titles(given) or numbers, labels)


def _entries(labels: Any) -> list[Any]:
    if isinstance(labels, dict):
        return list(labels.items())
    return labels if isinstance(labels, list) else [labels]


def _edm_pair(entry: Any, place: str) -> tuple[str, int | tuple[int, ...]]:
    file, label = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (entry, None)
    if isinstance(file, str):
        if isinstance(label, int) and not isinstance(label, bool):
            return file, label
        if isinstance(label, list) and label and all(value in (0, 1) for value in label):
            return file, tuple(int(value) for value in label)
    raise DataError(f'{place} has the entry {entry!r}; each must be ["file.png", whole number] or ["file.png", [0, 1, ...]]')


def _vectors(
    vectors: list[tuple[str, tuple[int, ...]]], num: int, titles: list[Any] | None, names: Sequence[str], known: Iterable[str], place: str
) -> Labels:
    width = len(vectors[0][1]) if titles is None else len(titles)
    if len(vectors) != num or any(len(vector) != width for _, vector in vectors):
        raise DataError(f"{place} has labels of several kinds; give every image a number, or every image a list of {width} zeros and ones")
    given = _table(vectors, names, known, place)
    tags = tuple(str(title) for title in (range(width) if titles is None else titles))
    return Labels(tags=tags, tagged=tuple(tuple(k for k, value in enumerate(given[name]) if value) for name in names))


def _folder_titles(given: dict[str, int]) -> tuple[str, ...] | None:
    pairs = {(label, top_folder(name)) for name, label in given.items()}
    titles = dict(pairs)
    if "" in titles.values() or len(titles) != len(pairs) or len(set(titles.values())) != len(pairs) or max(titles) >= len(pairs):
        return None
    return tuple(titles[k] for k in range(len(titles)))


def _csv_rows(text: str, place: str) -> list[tuple[str, str | tuple[str, ...]]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if any(row)]
    except csv.Error as error:
        raise DataError(f"{place} is not CSV ({error}); repair or remove it") from error
    if not rows:
        return []
    head = [cell.strip().lower() for cell in rows[0]]
    file, label = _column(head, _FILE_KEYS), _column(head, _LABEL_KEYS)
    tags = _column(head, _TAG_KEYS) if label is None else None
    if file is None and len(head) == 2:
        file, label, tags, start = 0, 1, None, 0
    elif file is None:
        raise DataError(f"{place} has the columns {', '.join(rows[0])}; it needs file_name and label")
    else:
        start = 1
    last = max(file, label or 0, tags or 0)
    for number, row in enumerate(rows[start:], start=start + 1):
        if len(row) <= last:
            raise DataError(f"row {number} of {place} has {len(row)} columns; it needs {last + 1}")
    if tags is not None:
        return [(row[file].strip(), tuple(t.strip() for t in row[tags].split(";") if t.strip())) for row in rows[start:]]
    return [(row[file].strip(), "" if label is None else row[label].strip()) for row in rows[start:]]


def _jsonl_rows(text: str, place: str) -> list[tuple[str, str | tuple[str, ...]]]:
    rows: list[tuple[str, str | tuple[str, ...]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {number} of {place} is not JSON ({error}); repair it") from error
        keys = list(row) if isinstance(row, dict) else []
        file = _column(keys, _FILE_KEYS)
        if file is None or not isinstance(row[keys[file]], str):
            raise DataError(f'line {number} of {place} names no file; it must read {{"file_name": "a.png", "label": "cat"}}')
        rows.append((row[keys[file]], label_of(row, f"line {number} of {place}")))
    return rows


def label_of(row: dict[str, Any], place: str) -> str | tuple[str, ...]:
    """The class that an entry of JSON gives an image, its tags, or "".

    Args:
        row: The entry; the label lies under "label", "class" or "class_name", a list of tags under "labels", "tags" or "classes".
        place: Where it is from, for messages.

    Raises:
        DataError: The label is neither a name nor a whole number.
    """
    value = next((row[key] for key in _LABEL_KEYS if row.get(key) is not None), None)
    several = next((row[key] for key in _TAG_KEYS if isinstance(row.get(key), list)), None)
    values = several if value is None and several is not None else [value]
    for each in values:
        if each is not None and (not isinstance(each, str | int) or isinstance(each, bool)):
            raise DataError(f"{place} has the label {each!r}; a label is a name or a whole number")
    if value is None:
        return "" if several is None else tuple(map(str, several))
    return str(value)


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
