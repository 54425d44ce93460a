"""Finding out what a data path is, and opening it."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path, PurePosixPath

from mezzotint.configs import DataConfig
from mezzotint.data.arrays import open_npz
from mezzotint.data.digits import open_digits
from mezzotint.data.images import SUFFIXES, ImageSource, Listing
from mezzotint.data.labels import LABEL_FILES, Labels, from_file, from_folders
from mezzotint.data.shards import TarStore, is_shards, open_shards, pick_images, sidecar_labels
from mezzotint.data.source import Source
from mezzotint.data.split import subset
from mezzotint.data.store import FolderStore, Store, ZipStore
from mezzotint.data.tables import PREFIX, open_table
from mezzotint.data.transforms import check_settings
from mezzotint.errors import DataError

PARTS = ("train", "test", "val")
_SIDECARS = (".cls", ".json", ".txt")
_KINDS = "a folder, a .zip, .tar or .npz file, 'hf:NAME', or 'digits'"


def open_source(config: DataConfig, *, stand_ins: bool = False) -> Source:
    """Opens a data set and checks it.

    - A folder of images; a folder of class folders (images may lie deeper; the first folder is the class); a ZIP file of either. A single
      folder around everything is stepped into. Hidden files and those of operating systems are passed over.
    - Tar files, by path, braces, wildcards or address: the same, and labels may lie beside each image as WebDataset has them.
    - If the folders at the top are ``train`` and ``test`` (or ``val``), they are parts, chosen by ``split``; classes are counted over all
      parts, so that labels agree.
    - A label file beside the images (see ``labels.LABEL_FILES``) replaces class folders.
    - A Hugging Face data set, ``hf:NAME_OR_FOLDER[:split]``.
    - An ``.npz`` file with ``arr_0`` and perhaps ``arr_1``; the word "digits".

    No image is converted unless ``size`` or ``channels`` asks for it; ``Source.notes`` says what was done.

    Args:
        config: Path, conversions, labels and part.
        stand_ins: Keep the ids of images that cannot be read, for training, where others stand in for them (see ``Source.batch``).
            Otherwise they are left out.

    Returns:
        The source; ``source.facts`` goes into the model.

    Raises:
        DataError: One line that names the file and says what to do.
    """
    found = find(config)
    if isinstance(found, Source):
        return found
    source = ImageSource(found, config)
    if stand_ins or not source.unreadable:
        return source
    return subset(source, [i for i in range(len(source)) if i not in source.unreadable])


def find(config: DataConfig) -> Listing | Source:
    """Finds out what a data path is, and lists its images without looking into them; arrays and digits are opened.

    Args:
        config: As for ``open_source``.

    Raises:
        DataError: There is no such data, or it has no images or labels that do not fit.
    """
    check_settings(config.size, config.channels)
    if not 0 <= config.max_unreadable < 1:
        raise DataError(f"--data.max-unreadable {config.max_unreadable} is no share of the images; give 0 or more, less than 1")
    if config.path == "digits":
        return open_digits(config)
    if not config.path:
        raise DataError(f"no data was given; pass --data with {_KINDS}")
    if config.path.startswith(PREFIX):
        return open_table(config.path.removeprefix(PREFIX), config)
    path = Path(config.path).expanduser()
    if is_shards(config.path) and not path.is_dir():
        return _list(open_shards(config.path), config)
    if not path.exists():
        raise DataError(f"{path} does not exist{_nearest(path)}; --data takes {_KINDS}")
    if path.is_dir():
        return _list(FolderStore(path), config)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _list(ZipStore(path), config)
    if suffix == ".npz":
        return open_npz(path, config)
    if suffix in SUFFIXES:
        raise DataError(f"{path} is a single image; pass the folder that holds it")
    raise DataError(f"{path} is a file of unknown kind; --data takes {_KINDS}")


def _nearest(path: Path) -> str:
    # The deepest folder that does exist tells which part of the path is wrong.
    wrong = path
    while not wrong.parent.exists() and wrong.parent != wrong:
        wrong = wrong.parent
    try:
        siblings = [p.name for p in wrong.parent.iterdir()]
    except OSError:
        siblings = []
    if path.parent == Path("."):
        siblings.append("digits")
    near = difflib.get_close_matches(wrong.name, siblings, n=1, cutoff=0.5)
    return f"; did you mean '{wrong.parent / near[0]}'?" if near else ""


def _list(store: Store, config: DataConfig) -> Listing:
    images = [name for name in store.files if name.lower().endswith(SUFFIXES)]
    if not images:
        others = f"; it holds {next(iter(store.files))}" if store.files else ""
        raise DataError(f"{store.title} holds no images{others}; images end in {', '.join(SUFFIXES)}")
    labels = None
    if isinstance(store, TarStore):
        images = pick_images(images, config.column, store.title)
        labels = sidecar_labels(store, images, store.title) if config.labels else None
    root, notes = _root(images, store)
    below = {name: name[len(root) :] for name in images}
    tops = {top for name in below.values() for top in [_top(name)]}
    in_parts = tops <= set(PARTS)
    part_of = {name: _top(rest) for name, rest in below.items()} if in_parts else {}
    if labels is None and config.labels:
        labels = _labels(store, root, images, in_parts)
    kept = list(range(len(images)))
    if config.split != "all":
        if config.split not in part_of.values():
            has = f"its parts are {', '.join(sorted(tops))}" if in_parts else "it has no folders 'train' and 'test' at the top"
            raise DataError(f"{store.title} has no part '{config.split}': {has}; pass --data.split all, or the path of the part itself")
        kept = [i for i in kept if part_of[images[i]] == config.split]
    notes += _left_out(store, images)
    return Listing(
        store,
        tuple(images[i] for i in kept),
        tuple(below[images[i]] for i in kept),
        None if labels is None else labels.take(kept),
        tuple(notes),
    )


def _top(name: str) -> str:
    head, slash, _ = name.partition("/")
    return head if slash else ""


def _root(images: list[str], store: Store) -> tuple[str, list[str]]:
    """Steps into folders that hold everything, as ZIP files often have one; "train" or "test" alone is still a part."""
    root = ""
    while True:
        tops = {_top(name[len(root) :]) for name in images} | {f for f in _below(store.folders, root) if "/" not in f}
        top = next(iter(tops))
        if len(tops) != 1 or top in ("", *PARTS):
            break
        root += f"{top}/"
    return root, [f"all images lie in {root}, which is taken as the data set itself and not as a class"] if root else []


def _below(paths: set[str], root: str) -> set[str]:
    return {p[len(root) :] for p in paths if p.startswith(root) and len(p) > len(root)}


def _labels(store: Store, root: str, images: list[str], in_parts: bool) -> Labels | None:
    bases = [root[:k] for k in range(len(root) + 1) if k == 0 or root[k - 1] == "/"]
    found = [base + file for base in bases for file in LABEL_FILES if base + file in store.files]
    if in_parts and not found:
        found = [f"{root}{part}/{file}" for part in PARTS for file in LABEL_FILES if f"{root}{part}/{file}" in store.files]
        if found:
            raise DataError(
                f"{store.title} has {found[0]} inside a part; put one label file for all parts beside the folders train and test, "
                "or pass the path of the part itself"
            )
    read: dict[str, Labels] = {}
    for file in found:
        base = file[: -len(PurePosixPath(file).name)]
        try:
            text = store.read(file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{file} of {store.title} is not UTF-8 text; save it as such") from error
        inside = [name[len(base) :] for name in images]
        labels = from_file(file[len(base) :], text, inside, inside, store.title)
        if labels is not None:
            read[file] = labels
    if len(read) > 1:
        raise DataError(f"{store.title} has several label files, {', '.join(read)}; keep one")
    if read:
        return next(iter(read.values()))
    prefix = [f"{root}{_top(name[len(root) :])}/" if in_parts else root for name in images]
    inside = [name[len(p) :] for name, p in zip(images, prefix, strict=True)]
    folders = {f for p in set(prefix) for f in _below(store.folders, p) if "/" not in f}
    return from_folders(inside, folders, store.title)


def _left_out(store: Store, images: list[str]) -> list[str]:
    taken = set(images)
    known = _SIDECARS if isinstance(store, TarStore) else ()
    others = [n for n in store.files if n not in taken and PurePosixPath(n).name not in LABEL_FILES and not n.endswith(known)]
    if not others:
        return []
    kinds = Counter(PurePosixPath(name).suffix or "no suffix" for name in others)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    return [f"{len(others)} files are not images and are left out ({listed}), such as {others[0]}"]
