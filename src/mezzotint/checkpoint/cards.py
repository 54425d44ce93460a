"""What is known of published models: the contents of ``cards.toml``; free of torch."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from mezzotint.configs import SampleConfig, from_dict
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.weights.hub import Progress, cache_folder, fetch

DATA = Path(__file__).with_name("cards.toml")


@dataclass(frozen=True)
class Card:
    """A published model.

    Attributes:
        name: Its name here: that of its file without the ending, or of its folder.
        family: The adapter that reads it.
        what: What it makes, in words.
        url: Address of the file, or of the folder that ``files`` are in; empty: it can only be fetched by hand.
        files: Names of its files, where it has several.
        page: Where to fetch it by hand.
        file: Name of the file to be fetched by hand.
        bytes: Size of the file; None: not known.
        sha256: Hash of the file; None: not known.
        parameters: Number of its weights; None: not known.
        schedule: Noise levels of training, in words.
        steps: Their number; None: a continuum.
        sampling: The settings of the published scores, or None for what makes no images.
        guidance: The guidance of the best score; empty: none.
        scores: The published scores, in words; empty: none.
        cite: Papers to cite.
        settings: What neither weights nor file names tell.
        proven: False: no published file has been loaded with its adapter yet.
    """

    name: str
    family: str
    what: str
    url: str = ""
    files: tuple[str, ...] = ()
    page: str = ""
    file: str = ""
    bytes: int | None = None
    sha256: str | None = None
    parameters: int | None = None
    schedule: str = ""
    steps: int | None = None
    sampling: SampleConfig | None = None
    guidance: str = ""
    scores: str = ""
    cite: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    proven: bool = True

    @property
    def place(self) -> Path:
        """Where it is in the cache: a file, or a folder where it has several."""
        folder = cache_folder() / "models" / self.name
        return folder if self.files else folder / PurePath(self.url or self.file).name


@cache
def cards() -> Mapping[str, Card]:
    """Every card, by name."""
    table = tomllib.loads(DATA.read_text(encoding="utf-8"))
    return {name: from_dict(Card, {"name": name, **entry}) for name, entry in table.items()}


def card(name: str) -> Card:
    """A card by its name.

    Raises:
        ConfigError: There is no such card; the message has the nearest name.
    """
    if name not in cards():
        raise ConfigError(f"no published model '{name}'{nearest(name)}; `mezzotint models` lists them")
    return cards()[name]


def nearest(name: str) -> str:
    """A question after the nearest name, to be put into a message; empty where none is near."""
    near = difflib.get_close_matches(name, cards(), n=1, cutoff=0.6)
    return f", did you mean '{near[0]}'?" if near else ""


def card_of_path(path: str | Path) -> Card | None:
    """The card that a file or one of the two folders above it is named after."""
    path = Path(path).absolute()
    for name in (path.name, path.stem, path.parent.name, path.parent.parent.name):
        if name in cards():
            return cards()[name]
    return None


def fetch_card(wanted: Card, *, bar: Any = None) -> Path:
    """Fetches a published model into the cache, or finds it there.

    Args:
        wanted: The model.
        bar: Makes a progress display for the name of a file; None: none is shown.

    Returns:
        Its file, or the folder of its files.

    Raises:
        CheckpointError: It can only be fetched by hand, its address cannot be reached, or its file changed.
    """
    if not wanted.url:
        if wanted.place.exists():
            return wanted.place
        raise CheckpointError(
            f"'{wanted.name}' cannot be fetched by a program: take {wanted.file} from {wanted.page}, put it into a folder named "
            f"'{wanted.name}', and give its path"
        )
    for name in wanted.files or (wanted.place.name,):
        url = wanted.url + name if wanted.files else wanted.url
        show: Progress | None = None if bar is None else bar(name)
        fetch(url, f"models/{wanted.name}/{name}", sha256=wanted.sha256, size=wanted.bytes, progress=show)
    return wanted.place
