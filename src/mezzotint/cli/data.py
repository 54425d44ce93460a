"""``mezzotint data info``, ``data pack`` and ``data grid``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.configs import DataConfig
from mezzotint.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    from mezzotint.data.survey import Survey

_MOST = 20


@dataclass(frozen=True, kw_only=True)
class _Data:
    path: tyro.conf.Positional[str]
    """Folder, ZIP, .npz, .tar shards, hf:NAME or "digits", as --data of `mezzotint train` takes it."""
    size: tuple[int, ...] | None = None
    """Bring images to this height and width, or to a square of this side; None: as they are."""
    fit: Literal["crop", "squash"] = "crop"
    """How images of other shapes reach the size: shrink the short side and cut the middle, as ADM does; or distort."""
    channels: int | None = None
    """Convert to gray (1) or colour (3); None: as stored."""
    split: Literal["all", "train", "test"] = "all"
    """Part of the data, where it has parts."""
    labels: bool = True
    """Read labels."""
    column: str | None = None
    """Which image, or "image,label", where examples have several."""
    max_unreadable: float = DataConfig.max_unreadable
    """Share of images that may be unreadable and are left out."""

    def config(self) -> DataConfig:
        """The settings, as a source takes them."""
        if self.size is not None and len(self.size) not in (1, 2):
            raise ConfigError(f"--size {' '.join(map(str, self.size))}: give one side, or height and width")
        size = None if self.size is None else (self.size[0], self.size[-1])
        return DataConfig(
            path=self.path,
            size=size,
            fit=self.fit,
            channels=self.channels,
            split=self.split,
            labels=self.labels,
            column=self.column,
            max_unreadable=self.max_unreadable,
        )


@dataclass(frozen=True, kw_only=True)
class InfoArguments(_Data):
    """Decodes every image: counts, sizes, channels, mean and deviation, sigma_data, classes, duplicates, unreadable files."""

    workers: int = 2
    """Threads that decode."""
    json: Path | None = None
    """Write all of it to this file, with every duplicate and unreadable file."""


@dataclass(frozen=True, kw_only=True)
class PackArguments(_Data):
    """Writes a data set as one ZIP or tar, or as tar shards: resized once, labels kept. A killed job goes on by the same command."""

    out: Path
    """X.zip, X.tar, or X-%05d.tar for shards."""
    per_shard: int = 10_000
    """Images a shard."""
    workers: int = 2
    """Threads that decode, resize and encode."""


@dataclass(frozen=True, kw_only=True)
class GridArguments(_Data):
    """Draws images of a data set side by side: spread evenly over it, so that each class is shown."""

    out: Path = Path("grid.png")
    """The picture."""
    num: int = 64
    """Number of images."""
    columns: int | None = None
    """Images a row; None: about as many as rows."""


def run(command: str, words: list[str]) -> int:
    """Looks into a data set, packs it or draws it.

    Args:
        command: "data".
        words: "info", "pack" or "grid", then its arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    if not words or words[0] in ("-h", "--help"):
        if not words:
            raise ConfigError(f"{command} needs one of {', '.join(_COMMANDS)}, as in `mezzotint {command} info PATH`")
        print(_help(command))
        return 0
    if words[0] not in _COMMANDS:
        raise unknown(f"command of `mezzotint {command}`", words[0], _COMMANDS)
    act, kind, _ = _COMMANDS[words[0]]
    given = parse(kind, words[1:], prog=f"mezzotint {command} {words[0]}")
    try:
        act(given)
    except DataError as error:  # the settings have shorter names here than in a training run
        raise DataError(str(error).replace("--data.", "--").replace("--data takes", "PATH is").replace("--data", "PATH")) from error
    return 0


def _help(command: str) -> str:
    lines = [f"  {name:<8}{words}" for name, (_, _, words) in _COMMANDS.items()]
    return "\n".join(
        [f"usage: mezzotint {command} COMMAND PATH ...", "", *lines, "", f"`mezzotint {command} COMMAND --help` lists its settings."]
    )


@contextmanager
def _bar(words: str) -> Iterator[Callable[[int, int], object]]:
    from tqdm import tqdm

    seconds = 0.3 if sys.stderr.isatty() else 30
    with tqdm(unit="image", desc=words, mininterval=seconds, delay=0.5, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _info(given: InfoArguments) -> None:
    from mezzotint.data.survey import survey

    if given.json is not None and not given.json.parent.is_dir():
        raise ConfigError(f"{given.json.parent} does not exist; make it, or give another place for {given.json.name}")
    with _bar("decoding") as show:
        found = survey(given.config(), workers=given.workers, progress=show)
    print("\n".join(describe(given.path, found)))
    if given.json is not None:
        from mezzotint.weights.io import write_text

        table = vars(found) | {"sizes": {f"{h}x{w}": n for (h, w), n in found.sizes.items()}}
        write_text(given.json, json.dumps(table, indent=2, ensure_ascii=False) + "\n")


def describe(path: str, found: Survey) -> list[str]:
    """What a survey found, in lines.

    Args:
        path: The data set.
        found: What was found.
    """
    good = found.images - len(found.unreadable)
    lines = [f"{path}: {found.images:,} images, {found.num_bytes / 1e6:,.1f} MB"]
    lines.append(f"size (height x width): {_counts({f'{h}x{w}': n for (h, w), n in found.sizes.items()}, good)}")
    if len(found.sizes) > 1:
        heights, widths = zip(*found.sizes, strict=True)
        lines[-1] += f"; heights {min(heights)} to {max(heights)}, widths {min(widths)} to {max(widths)}; train with --data.size"
    lines.append(f"channels: {_counts(found.channels, good)}")
    if len(found.channels) > 1:
        lines[-1] += "; train with --data.channels"
    lines.append(f"bits a channel: {_counts(found.bits, good)}")
    if found.sigma_data is not None:
        lines.append(f"mean of each channel, in [-1, 1]: {_figures(found.mean)}; in [0, 255]: {_levels(found.mean, 127.5)}")
        lines.append(f"deviation of each channel, in [-1, 1]: {_figures(found.std)}; in [0, 255]: {_levels(found.std, 0)}")
        lines.append(f"suggested sigma_data: {found.sigma_data:.3f}, the deviation of all values (Karras et al. 2022)")
    if found.sigma_max is not None:
        lines.append(f"largest distance between images: {found.sigma_max:.1f}, a sigma_max that forgets the image (Song & Ermon 2020)")
    if found.classes:
        lines.append(f"classes: {_counts(found.classes, sum(found.classes.values()), alone=True)}")
    if found.tags:
        lines.append(f"tags, several an image: {_counts(found.tags, 0, alone=True)}")
    if not found.classes and not found.tags:
        lines.append("classes: none")
    more = sum(len(group) - 1 for group in found.duplicates)
    lines.append(f"duplicates: {more or 'none'}" + (f" images are copies of {len(found.duplicates)} others" if more else ""))
    lines += [f"  {', '.join(group[:5])}{', ...' if len(group) > 5 else ''}" for group in found.duplicates[:_MOST]]
    lines.append(f"unreadable: {len(found.unreadable) or 'none'}")
    lines += [f"  {why}" for why in list(found.unreadable.values())[:_MOST]]
    if max(len(found.duplicates), len(found.unreadable)) > _MOST:
        lines.append(f"  ... only {_MOST} of each are shown; --json FILE lists all")
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _counts(table: Any, total: int, *, alone: bool = False) -> str:
    """The commonest entries; one that holds for all stands without its number."""
    entries = Counter(table).most_common() if not alone else list(table.items())
    if not entries:
        return "none"
    if len(entries) == 1 and entries[0][1] == total and not alone:
        return str(entries[0][0])
    shown = ", ".join(f"{name} ({count:,})" for name, count in entries[:_MOST])
    return shown + (f", ... ({len(entries)} in all)" if len(entries) > _MOST else "")


def _figures(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _levels(values: tuple[float, ...], middle: float) -> str:
    return " ".join(f"{value * 127.5 + middle:.2f}" for value in values)


def _pack(given: PackArguments) -> None:
    from mezzotint.data.packing import pack

    with _bar("packing") as show:
        source = pack(given.config(), given.out, per_shard=given.per_shard, workers=given.workers, progress=show)
    for note in source.notes:
        print(f"note: {note}")
    facts, done = source.facts, len(source) - len(source.unreadable)
    print(f"{given.out}: {done} images of {facts.size[0]}x{facts.size[1]}x{facts.channels}, {facts.bits} bits")
    if source.unreadable:
        print(f"{len(source.unreadable)} images could not be read and were left out")


def _grid(given: GridArguments) -> None:
    from mezzotint.cli.pictures import grid, write_png
    from mezzotint.data import open_source

    if given.num < 1 or (given.columns is not None and given.columns < 1):
        raise ConfigError("--num and --columns must be at least 1")
    if given.out.suffix.lower() != ".png" or not given.out.parent.is_dir():
        raise ConfigError(f"--out {given.out}: give a file that ends in .png, in a folder that exists")
    source = open_source(given.config())
    order = sorted(range(len(source)), key=lambda i: (source.label(i) or 0, i))
    num = min(given.num, len(source))
    picked = [order[k * len(source) // num] for k in range(num)]
    write_png(given.out, grid([source.array(i) for i in picked], given.columns), {})
    print(f"{given.out}: {num} of {len(source)} images")


_COMMANDS: dict[str, tuple[Callable[[Any], None], type, str]] = {
    "info": (_info, InfoArguments, "decode every image: counts, sizes, mean, sigma_data, classes, duplicates, unreadable files"),
    "pack": (_pack, PackArguments, "write a ZIP, a tar or shards of it: resized once, labels kept"),
    "grid": (_grid, GridArguments, "draw some of its images side by side"),
}
