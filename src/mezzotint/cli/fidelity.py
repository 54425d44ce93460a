"""``mezzotint fidelity``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.data.store import Store
    from mezzotint.tasks.distinguish import Distinguished

PATCH = 64
"""Side of the cuts that the classifier sees."""
OWN = {"before-after.png", "grid.png"}
"""Pictures that show other pictures, written by `mezzotint upscale` and `mezzotint sample`."""


@dataclass(frozen=True)
class Arguments:
    """Compares images with the originals that they should resemble: PSNR and SSIM, and with --low-res their consistency.

    Files belong together if their paths agree but for the suffix; of a folder of `mezzotint upscale` all samples are compared.
    """

    outputs: tyro.conf.Positional[Path]
    """Folder or ZIP file of images, such as `mezzotint upscale` writes."""
    reference: Path
    """Folder or ZIP file of the originals."""
    low_res: Path | None = None
    """Folder or ZIP file of the low-resolution images: also measure whether the outputs, reduced, are these."""
    down: Literal["bicubic", "bilinear", "area"] = "bicubic"
    """How outputs are reduced for that."""
    lpips: bool = False
    """Also measure LPIPS, whose weights (244 MB) are fetched into the cache."""
    classifier: bool = False
    """Also train a network to tell outputs from originals, on one half of the pictures, and test it on the other; 50 % is best."""
    images: int = 20_000
    """Training budget of that network, in cuts of at most 64x64 pixels."""
    seed: int = 0
    """Seed of that network."""
    json: Path | None = None
    """Also write all figures, image by image, to this file."""


def run(command: str, words: list[str]) -> int:
    """Measures, and prints what was measured.

    Args:
        command: "fidelity".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if given.images < 1:
        raise ConfigError(f"--images {given.images}; give the network that tells outputs from originals at least 1 cut to learn from")
    if given.json is not None and not given.json.parent.is_dir():
        raise DataError(f"{given.json.parent} does not exist; make it, or give another place for {given.json.name}")

    from tqdm import tqdm

    from mezzotint.metrics.fidelity import WINDOW, consistency, psnr, ssim
    from mezzotint.metrics.lpips import published_lpips
    from mezzotint.weights.io import write_text

    outputs, reference = open_images(given.outputs), open_images(given.reference)
    low = None if given.low_res is None else open_images(given.low_res)
    pairs = pair_images(outputs, reference, low)
    distance = published_lpips() if given.lpips else None
    rows: list[dict[str, Any]] = []
    cuts: list[tuple[Tensor, Tensor]] = []
    for output, original, small in tqdm(pairs, unit="image", delay=0.5, leave=False, mininterval=1 if sys.stderr.isatty() else 30):
        want = _read(reference, original)
        made = _read(outputs, output, like=want)
        if made.shape != want.shape:
            sizes = f"{made.shape[2]}x{made.shape[3]}, {reference.place(original)} {want.shape[2]}x{want.shape[3]}"
            raise DataError(f"{outputs.place(output)} is {sizes}; give originals of the size of the outputs")
        row: dict[str, Any] = {"output": output, "reference": original, "psnr": _number(psnr(made, want))}
        row["ssim"] = _number(ssim(made, want)) if min(made.shape[2:]) >= WINDOW else None
        if distance is not None:
            row["lpips"] = _number(distance(made.float(), want.float()))
        if low is not None and small is not None:
            tiny = _read(low, small, like=want)
            scale = made.shape[2] // tiny.shape[2]
            if scale < 2 or tuple(made.shape[2:]) != tuple(scale * side for side in tiny.shape[2:]):
                sizes = f"{made.shape[2]}x{made.shape[3]}, {low.place(small)} {tiny.shape[2]}x{tiny.shape[3]}"
                raise DataError(f"{outputs.place(output)} is {sizes}; outputs must be 2, 3 or another whole number of times larger")
            row["consistency"] = _number(consistency(made, tiny, scale, down=given.down))
        rows.append(row)
        if given.classifier:
            cuts.append((_cuts(want), _cuts(made)))
    told = _tell(cuts, given) if given.classifier else None
    print(f"{len(rows)} images of {given.outputs} against {given.reference}")
    for line in report(rows, told):
        print(line)
    if given.json is not None:
        figures: dict[str, Any] = {"reduction": given.down if low is not None else None, "images": rows}
        if told is not None:
            figures["classifier"] = {"accuracy": told.accuracy, "interval": told.interval, "cuts": told.total, "seed": given.seed}
        write_text(given.json, json.dumps(figures, indent=2) + "\n")
        print(f"all figures: {given.json}")
    return 0


def report(rows: Sequence[dict[str, Any]], told: Distinguished | None) -> list[str]:
    """The figures in lines: means over images with their standard errors.

    Args:
        rows: Figures of each image.
        told: What the classifier found.
    """
    lines = []
    for name, unit in (("psnr", " dB"), ("ssim", ""), ("lpips", "")):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            mean, error = _mean(values)
            note = "" if len(values) == len(rows) else f"; {len(rows) - len(values)} images have none"
            lines.append(f"  {name.upper():<12}{mean:.4f}{unit} ± {error:.4f}{note}")
    if "consistency" in rows[0]:
        mean, error = _mean([row["consistency"] for row in rows])
        decibels = "exact" if mean == 0 else f"{-10 * math.log10(mean):.2f} dB"
        lines.append(f"  {'consistency':<12}{1e5 * mean:.4f} ± {1e5 * error:.4f} (MSE times 1e5 on the scale of [0, 1]; {decibels})")
    if told is not None:
        low, high = told.interval
        lines.append(f"  {'classifier':<12}{told.accuracy:.1%} told right ({low:.1%} to {high:.1%}) of {told.total} cuts; 50 % is chance")
    return lines


def _mean(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def _number(value: Tensor) -> float:
    return float(value[0])


def open_images(path: Path) -> Store:
    """A folder or ZIP file.

    Raises:
        DataError: Neither, or one that cannot be read.
    """
    from mezzotint.data.store import FolderStore, ZipStore

    if path.is_dir():
        return FolderStore(path)
    if path.is_file() and path.suffix.lower() == ".zip":
        return ZipStore(path)
    raise DataError(f"{path} is neither a folder nor a ZIP file; give one of images")


def pair_images(outputs: Store, reference: Store, low: Store | None) -> list[tuple[str, str, str | None]]:
    """Images that belong together: output, original and low-resolution image, or None where there is no store of those.

    Args:
        outputs: Where a manifest of `mezzotint upscale` lies, it tells which files belong to a picture; else their names do.
        reference: The originals.
        low: The low-resolution images.

    Raises:
        DataError: Nothing belongs together, or a low-resolution image is missing.
    """
    made = _by_stem(outputs)
    if not made:
        raise DataError(f"{outputs.path} holds no images; give a folder or ZIP file of some")
    if "manifest.json" in outputs.files:
        try:
            entries = json.loads(outputs.read("manifest.json")).get("pictures", ())
            named = {str(PurePosixPath(entry["source"]).with_suffix("")): list(entry["files"]) for entry in entries}
            made = named or made
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{outputs.place('manifest.json')} is damaged; make the folder again, or remove that file") from error
    wanted, small = _by_stem(reference), {} if low is None else _by_stem(low)
    pairs: list[tuple[str, str, str | None]] = []
    for stem, files in made.items():
        if stem not in wanted:
            continue
        if low is not None and stem not in small:
            raise DataError(
                f"{low.path} has no low-resolution image '{stem}' for {outputs.place(files[0])}; add it, or leave out --low-res"
            )
        pairs += [(file, wanted[stem][0], small[stem][0] if low is not None else None) for file in files]
    if not pairs:
        example = next(iter(made))
        raise DataError(f"no image of {outputs.path} has an original of the same name in {reference.path}; one is called '{example}'")
    if len(made) > len({pair[1] for pair in pairs}):
        print(f"{len(made) - len({pair[1] for pair in pairs})} images of {outputs.path} have no original and are left out")
    return pairs


def _by_stem(store: Store) -> dict[str, list[str]]:
    from mezzotint.data.images import SUFFIXES

    found: dict[str, list[str]] = {}
    for name in store.files:
        if name.lower().endswith(SUFFIXES) and name not in OWN:
            found.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    return found


def _read(store: Store, name: str, *, like: Tensor | None = None) -> Tensor:
    import numpy as np
    import torch

    from mezzotint.data.images import decode
    from mezzotint.data.transforms import to_channels

    pixels = decode(store.read(name), store.place(name))
    pixels = to_channels(pixels, like.shape[1] if like is not None else 1 if pixels.shape[2] < 3 else 3)
    return torch.from_numpy(pixels.astype(np.float64) / np.iinfo(pixels.dtype).max * 2 - 1).permute(2, 0, 1)[None]


def _cuts(image: Tensor) -> Tensor:
    side = min(PATCH, *image.shape[2:])
    rows = image[0].unfold(1, side, side).unfold(2, side, side)
    return rows.flatten(1, 2).transpose(0, 1).float()


def _tell(cuts: Sequence[tuple[Tensor, Tensor]], given: Arguments) -> Distinguished:
    import torch
    from tqdm import tqdm

    from mezzotint.tasks.distinguish import distinguish

    shapes = {tuple(part.shape[1:]) for part, _ in cuts}
    if len(shapes) > 1:
        raise DataError(
            "the classifier needs cuts of one size, and some images are smaller than 64x64 or of other channels; leave them out"
        )
    groups = [k for k, (part, _) in enumerate(cuts) for _ in range(len(part))]
    real, made = (torch.cat([pair[side] for pair in cuts]) for side in (0, 1))
    with tqdm(unit="step", delay=0.5, leave=False, mininterval=1 if sys.stderr.isatty() else 30) as bar:

        def step(number: int, total: int) -> None:
            bar.total = total
            bar.update()

        return distinguish(real, made, seed=given.seed, images=given.images, groups=groups, on_step=step)
