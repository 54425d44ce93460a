"""Images a second of the data loader against bare Pillow decoding of the same JPEG files, taken in turns in one process.

Bare decoding reads the bytes of each file, decodes them and makes an array; nothing is checked, stacked, scaled or mirrored. The loader
hands out batches as training gets them: in the order of the seed, mirrored, scaled, as tensors.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clock import CPU, WALL, now
from mezzotint.configs import DataConfig
from mezzotint.data import Source, open_source
from mezzotint.data.packing import pack
from mezzotint.train.loader import batches
from mezzotint.types import Batch, Phase


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a data set of JPEG files; otherwise noise of two sizes is made")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each")
    parser.add_argument("--per-round", type=int, default=1024, help="images a turn; half as many large ones, four times as many small ones")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    return parser.parse_args()


def made(folder: Path, side: int, num: int) -> Path:
    """A folder of JPEG files of smooth noise."""
    folder.mkdir()
    dice = np.random.default_rng(0)
    for i in range(num):
        coarse = Image.fromarray(dice.integers(0, 256, (side // 8, side // 8, 3)).astype(np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)
    return folder


def bare(files: list[bytes], num: int, start: int) -> np.ndarray:
    """Seconds that bare decoding takes for so many images, by the clock and of the processor."""
    begin = now()
    for k in range(start, start + num):
        np.asarray(Image.open(io.BytesIO(files[k % len(files)])))
    return now() - begin


def loading(source: Source, batch: int, workers: int) -> Iterator[Batch]:
    return batches(source, [Phase("main", ())], seed=0, batch=batch, first_step=0, last_step=10**9, cursor=0, workers=workers)


def taken(loader: Iterator[Batch], num: int, batch: int) -> np.ndarray:
    """The same for the loader; of the processor, this process alone."""
    begin = now()
    for _ in range(num // batch):
        next(loader)
    return now() - begin


def measure(path: Path | str, *, batch: int, rounds: int, num: int, workers: int) -> dict[str, Any]:
    """Both rates, images a second, and the median of their ratio over the rounds."""
    source = open_source(DataConfig(path=str(path), flip=True, max_unreadable=0.1), stand_ins=True)
    store, names = source._store, source._paths  # pyright: ignore[reportAttributeAccessIssue]
    files = [store.read(name) for name in names[: max(num, 1)]]
    pairs = []
    for k in range(rounds):
        # Workers would go on during the other's turn: each round has its own, and what they made before the clock runs is taken away.
        loader = loading(source, batch, workers)
        taken(loader, batch * (1 + 2 * workers), batch)
        own = taken(loader, num, batch)
        del loader
        pairs.append((bare(files, num, k * num), own))
    plain, own = (np.stack(each) for each in zip(*pairs, strict=True))
    return {
        "workers": workers,
        "bare_per_second": num / float(np.median(plain[:, WALL])),
        "loader_per_second": num / float(np.median(own[:, WALL])),
        "ratio": float(np.median(plain[:, WALL] / own[:, WALL])),
        # Decoding in other processes costs this one nothing.
        "cpu_ratio": float(np.median(plain[:, CPU] / own[:, CPU])) if workers == 0 else None,
    }


def main() -> int:
    args = arguments()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folders = {"given": (args.data, args.per_round)} if args.data else {}
        if not args.data:
            folders = {
                f"{s}x{s}": (made(root / str(s), s, n), p) for s, n, p in [(32, 4096, 4 * args.per_round), (256, 256, args.per_round // 2)]
            }
        for name, (path, num) in folders.items():
            pack(DataConfig(path=str(path)), root / f"{name}.tar")
            for kind, place in {"as given": path, "tar": root / f"{name}.tar"}.items():
                for workers in args.workers:
                    found = measure(place, batch=args.batch, rounds=args.rounds, num=num // args.batch * args.batch, workers=workers)
                    results.append({"images": name, "store": kind, **found})
                    cpu = "" if workers else f", of processor time {found['cpu_ratio']:.2f}"
                    rates = f"{found['loader_per_second']:8.0f} images/s, bare Pillow {found['bare_per_second']:8.0f}"
                    print(f"{name:>8} {kind:>9} {workers} workers: {rates}, ratio {found['ratio']:.2f}{cpu}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
