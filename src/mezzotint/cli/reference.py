"""``mezzotint reference``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.cli.evaluate import check_places
from mezzotint.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Makes reference statistics of real images, for `mezzotint evaluate --reference`.

    They hold mean and covariance of all images, vectors of some of them, and how all that was measured.
    """

    data: tyro.conf.Positional[str]
    """Images: a folder, a ZIP, an .npz (arr_0) or digits."""
    out: Path
    """File to be made: .safetensors, or .npz with mu and sigma that other code reads (without vectors)."""
    protocol: Literal["adm", "edm", "clean", "pytorch_fid"] = "adm"
    """How images are prepared for Inception: adm and edm agree; adm also has sFID's statistics, and vectors of 10,000 images."""
    features: str | None = None
    """Feature network, as for `mezzotint evaluate`; without it inception."""
    split: Literal["all", "train", "test"] = "all"
    """Part of the data, where it has parts."""
    size: tuple[int, int] | None = None
    """Height and width to bring images to, as training does it."""
    channels: int | None = None
    """Channels to bring images to: 1 gray, 3 colour."""
    keep: int | None = None
    """Images whose vectors are kept, for precision, recall, kid and the like; without it what the protocol says."""
    batch_size: int = 64
    """Images in a pass. No effect beyond rounding; no image is ever left out."""
    workers: int = 2
    """Threads that decode images."""


def run(command: str, words: list[str]) -> int:
    """Measures images and writes their statistics.

    Args:
        command: "reference".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if given.out.suffix not in (".safetensors", ".npz"):
        raise ConfigError(f"--out {given.out}: give a file that ends in .safetensors or .npz")
    if given.out.exists():
        raise ConfigError(f"{given.out} already exists; give another --out, or remove it")
    check_places(given.out)

    from mezzotint.cli.progress import reading
    from mezzotint.metrics.statistics import write_statistics
    from mezzotint.tasks.evaluate import make_reference
    from mezzotint.train.ranks import launched

    main = launched().is_main_process
    with reading(given.batch_size, given.workers, show=main) as reader:
        held = make_reference(
            given.data,
            protocol=given.protocol,
            features=given.features,
            size=given.size,
            channels=given.channels,
            split=given.split,
            keep=given.keep,
            reading=reader,
        )
    if main:
        write_statistics(given.out, held)
        kept = len(held.vectors["pool"]) if given.out.suffix == ".safetensors" and "pool" in held.vectors else 0
        named = held.protocol["features"]["name"]
        print(f"{held.n} images, {named} features ({', '.join(held.moments)}), vectors of {kept} images: {given.out}")
    return 0
