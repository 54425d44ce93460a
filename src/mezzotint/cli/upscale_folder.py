"""The folder of ``mezzotint upscale``; a job that was killed goes on where it stopped.

DIR/NAME.png           the enlarged picture, which carries its recipe; NAME.0.png, NAME.1.png, ... where there are several samples
DIR/compare.html       before and after, with a slider; one file that needs no other
DIR/before-after.png   the first pairs side by side
DIR/manifest.json      the settings, and the pictures with their hashes
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import mezzotint
from mezzotint.cli.before_after import Pair, sheet, slider_page
from mezzotint.cli.folder import guidance_hashes, stage_by_stage
from mezzotint.cli.pictures import UPSCALED, read_png, read_recipe, write_png
from mezzotint.data.images import SUFFIXES, Header, read_header
from mezzotint.data.photo import read_photo
from mezzotint.data.store import FolderStore, Store, ZipStore
from mezzotint.errors import ConfigError, DataError, MezzotintError
from mezzotint.pipelines.upscale import SAMPLE_BITS, OnWork, Upscaler
from mezzotint.weights.io import read_json, write_text

FORMAT = 1
ON_PAGE, ON_SHEET = 24, 8
"""Pictures that the page and the sheet show at most."""


class _OneFile(FolderStore):
    """A single file, whatever its suffix."""

    def __init__(self, path: Path):
        Store.__init__(self, path.parent, {path.name: path.stat().st_size}, set())


def open_pictures(path: Path, out: Path) -> tuple[Store, list[str]]:
    """Where pictures lie, and their names in order; the folder that is written to is passed over.

    Raises:
        DataError: No pictures, or a folder or ZIP that cannot be read.
    """
    if path.is_file() and path.suffix.lower() != ".zip":
        return _OneFile(path), [path.name]
    store = FolderStore(path) if path.is_dir() else ZipStore(path)
    names = [name for name in store.files if name.lower().endswith(SUFFIXES)]
    if path.is_dir():
        names = [name for name in names if out.resolve() not in (path / name).resolve().parents]
    if not names:
        raise DataError(f"{path} holds no pictures; their names end in {', '.join(SUFFIXES)}")
    return store, names


@dataclass(frozen=True)
class Piece:
    """Samples of a picture that are made at once, in the very batches in which the whole job makes them.

    Attributes:
        name: The picture.
        samples: Their numbers.
        missing: Those that are not there yet.
    """

    name: str
    samples: tuple[int, ...]
    missing: tuple[int, ...]


class UpscaleFolder:
    """The enlarged pictures of one job on disk.

    Args:
        path: The folder.
        upscaler: The model and all settings.
        store: Where the pictures lie.
        names: Their names.
        num: Samples of each.

    Attributes:
        good: The pictures that can be read, with their headers; known after ``survey``.
    """

    PAGE, SHEET, MANIFEST = "compare.html", "before-after.png", "manifest.json"

    def __init__(self, path: Path, upscaler: Upscaler, store: Store, names: Sequence[str], *, num: int):
        self.path, self.upscaler, self.store, self.names, self.num = path, upscaler, store, tuple(names), num
        self.good: dict[str, Header] = {}
        model = upscaler.model
        self._settings = {
            "model": {"weights": model.weights, "sha256": model.hash},
            "guidance_models": guidance_hashes(upscaler.job),
            "settings": upscaler.settings,
        }
        stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names)
        # Pictures that differ in their suffix alone keep it, so that none takes the place of another.
        self._stems = {n: n if stems[stem := str(PurePosixPath(n).with_suffix(""))] > 1 else stem for n in names}
        self._hashes: dict[str, str] = {}

    @property
    def how(self) -> str:
        """The settings in a few words."""
        stages = [one for one in self.upscaler.passes if not one.repeat]
        words: list[str] = []
        for one in stages:
            steps = "steps of its own choice" if one.steps is None else f"{one.steps} steps"
            how = ["one pass of the network"] if one.model.stage.prior.clean else [one.job.sampler, steps, *one.job.guidance]
            words.append((f"to {one.tile[0]}x{one.tile[1]}: " if len(stages) > 1 else "") + ", ".join(how))
        return ("; " if len(stages) > 1 else ", ").join([*words, f"seed {self.upscaler.job.seed}"])

    def file(self, name: str, sample: int) -> Path:
        """The file of a sample of a picture."""
        return self.path / f"{self._stems[name]}{f'.{sample}' if self.num > 1 else ''}.png"

    # --- before ----------------------------------------------------------------------------------------------------------

    def survey(self) -> dict[str, MezzotintError]:
        """Reads all headers.

        Returns:
            The pictures that cannot be enlarged, and why.
        """
        wrong: dict[str, MezzotintError] = {}
        for name in self.names:
            try:
                header = read_header(self.store, name)
                self.upscaler.check(*header.size)
                self.good[name] = header
            except ConfigError as error:
                wrong[name] = DataError(f"{self.store.place(name)}: {error}")
            except DataError as error:
                wrong[name] = error
        return wrong

    def open(self) -> None:
        """Makes the folder, or checks that it holds a part of a job with these settings.

        Raises:
            ConfigError: It holds something else, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            entries = list(self.path.iterdir())
        except OSError as error:
            raise ConfigError(f"cannot make {self.path}: {error.strerror}; give an --out that can be written") from error
        rests = [entry for entry in self.path.rglob(".*") if ".new-" in entry.name]
        if set(entries) - set(rests):
            self._compare()
        else:
            self._write_manifest(complete=False)
        for rest in rests:  # of a process that was killed
            rest.unlink()

    def _compare(self) -> None:
        file = self.path / self.MANIFEST
        if not file.is_file():
            raise ConfigError(f"{self.path} is not empty and holds no {self.MANIFEST}; give another --out, or empty it")
        old, now = (_comparable(held) for held in (read_json(file), json.loads(json.dumps({**self._settings, "num": self.num}))))
        for name, value in now.items():
            if old.get(name) != value:
                raise ConfigError(
                    f"{self.path} holds pictures of another job ({name} is {json.dumps(old.get(name))} there, {json.dumps(value)} now); "
                    "give another --out, or the same settings to go on with it"
                )

    def missing(self) -> list[Piece]:
        """What is still to be made."""
        found = []
        for name in self.good:
            header, lacking = self.good[name], {k for k in range(self.num) if not self._has(name, k)}
            size = self.upscaler.together(*header.size, header.channels or 3)
            groups = [range(k, min(k + size, self.num)) for k in range(0, self.num, size)]
            found += [Piece(name, tuple(group), tuple(sorted(lacking & set(group)))) for group in groups if lacking & set(group)]
        return found

    def share(self, pieces: Sequence[Piece], rank: int, ranks: int) -> list[Piece]:
        """The pieces that a rank is to make, such that all have about as many pixels to make."""
        loads, own = [0] * ranks, []
        for piece in sorted(pieces, key=self._pixels, reverse=True):
            least = loads.index(min(loads))
            loads[least] += self._pixels(piece)
            own += [piece] if least == rank else []
        return own if ranks > 1 else list(pieces)

    def _pixels(self, piece: Piece) -> int:
        height, width = self.good[piece.name].size
        return height * width * len(piece.samples)

    def _has(self, name: str, sample: int) -> bool:
        file = self.file(name, sample)
        try:
            return file.exists() and read_recipe(file, UPSCALED) == self.recipe(name, sample)
        except MezzotintError:
            return False

    def _hash(self, name: str) -> str:
        if name not in self._hashes:
            self._hashes[name] = hashlib.sha256(self.store.read(name)).hexdigest()
        return self._hashes[name]

    def recipe(self, name: str, sample: int) -> dict[str, Any]:
        """What a sample is made from."""
        made = {"format": FORMAT, "source": name, "source_sha256": self._hash(name), "sample": sample, **self._settings}
        return json.loads(json.dumps(made))

    # --- while it runs ---------------------------------------------------------------------------------------------------

    def work(self, name: str) -> int | None:
        """What a sample of a picture costs, as ``Upscaler.work`` counts it."""
        header = self.good[name]
        return self.upscaler.work(*header.size, header.channels or 3)

    def make(self, piece: Piece, *, on_work: OnWork) -> None:
        """Makes samples of a picture; each is written whole or not at all."""
        name = piece.name
        photo = read_photo(self.store.read(name), self.store.place(name))
        # The key is a hash of the contents: a picture of another name, or in another folder, gives the same result.
        key = int(self._hash(name), 16) % (1 << SAMPLE_BITS)
        made = self.upscaler.pixels(photo.pixels, key, samples=piece.samples, on_work=on_work)
        for sample, pixels in zip(piece.samples, made, strict=True):
            if sample not in piece.missing:
                continue
            file = self.file(name, sample)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_png(file, pixels, {UPSCALED: json.dumps(self.recipe(name, sample), ensure_ascii=False)}, profile=photo.profile)

    # --- after -----------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Writes the page, the sheet and the complete manifest."""
        pairs = []
        for name in list(self.good)[:ON_PAGE]:
            photo = read_photo(self.store.read(name), self.store.place(name))
            try:
                after = [read_png(self.file(name, k)) for k in range(self.num)]
            except DataError:  # larger than what is ever read, as it was made from a picture that is not
                continue
            pairs.append(Pair(name, photo.pixels, after, photo.profile))
        if pairs:
            write_text(self.path / self.PAGE, slider_page(pairs, title=f"{self.upscaler.scale} times larger: before and after"))
            write_png(self.path / self.SHEET, sheet(pairs[:ON_SHEET]), {})
        self._write_manifest(complete=True)

    def _write_manifest(self, *, complete: bool) -> None:
        pictures = []
        for name in self.good if complete else ():
            files = [self.file(name, k).relative_to(self.path).as_posix() for k in range(self.num)]
            pictures.append({"source": name, "sha256": self._hash(name), "size": list(self.good[name].size), "files": files})
        held = {"format": FORMAT, "complete": complete, "mezzotint": mezzotint.__version__, **self._settings, "num": self.num}
        write_text(self.path / self.MANIFEST, json.dumps({**held, "pictures": pictures}, indent=2, ensure_ascii=False) + "\n")


def _comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    own = {"model": manifest.get("model", {}).get("sha256"), "guidance models": manifest.get("guidance_models")}
    return {**own, **stage_by_stage(manifest.get("settings", {}), "pass"), "num": manifest.get("num")}
