"""``mezzotint doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mezzotint.cli.arguments import parse
from mezzotint.errors import MezzotintError

EXTRAS = {
    "torchdiffeq": ("solvers", "adaptive ODE solvers"),
    "diffusers": ("latent", "models on latents"),
    "transformers": ("features", "DINOv2 and CLIP features"),
    "webdataset": ("sources", "WebDataset shards"),
    "datasets": ("sources", "Hugging Face data sets"),
}
OLDEST = (3, 11)
LITTLE_DISK, LITTLE_MEMORY = 5 * 2**30, 4 * 2**30


@dataclass(frozen=True)
class Arguments:
    """Checks this machine, and a data set if one is given, and says what to mend; exits with 2 if something cannot work."""

    data: str | None = None
    """Folder, ZIP, .npz or other data to check."""
    out: Path = Path()
    """Folder that runs will be written to."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        state: "ok", "note" (works, with less) or "mend" (cannot work).
        what: What was looked at.
        says: What was found, and what to do.
    """

    state: Literal["ok", "note", "mend"]
    what: str
    says: str


def run(command: str, words: list[str]) -> int:
    """Prints the findings.

    Args:
        command: "doctor".
        words: The arguments.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    worst = 0
    for found in findings(data=given.data, out=given.out):
        print(f"{found.state:<6}{found.what:<13}{found.says}", flush=True)
        worst = max(worst, 2 if found.state == "mend" else 0)
    return worst


def findings(*, data: str | None = None, out: Path = Path()) -> Iterator[Finding]:
    """Looks at the machine.

    Args:
        data: Data to check; None: none.
        out: Folder that runs will be written to.
    """
    yield _python()
    yield from _torch()
    yield _memory()
    yield from _disk(out)
    for module, (extra, use) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding("note", module, f'not installed, needed for {use}: pip install "mezzotint[{extra}]"')
        else:
            yield Finding("ok", module, f"{importlib.metadata.version(module)}, for {use}")
    if data is not None:
        yield from _data(data)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < OLDEST:
        return Finding("mend", "python", f"{version}; mezzotint needs 3.11 or newer")
    return Finding("ok", "python", f"{version} on {platform.platform(terse=True)}")


def _torch() -> Iterator[Finding]:
    import torch

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < (2, 11):
        yield Finding("mend", "torch", f"{torch.__version__}; mezzotint needs 2.11 or newer: pip install -U torch")
    else:
        yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16, no bf16"
            says = f"{properties.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {precision}"
            yield Finding(
                "ok" if free > total / 2 else "note", f"cuda:{index}", says + ("" if free > total / 2 else "; other processes use it")
            )
        try:
            torch.ones(8, device="cuda").square().sum().item()
        except RuntimeError as error:
            yield Finding(
                "mend", "cuda", f"does not compute ({str(error).splitlines()[0]}); update the driver, or install torch for this one"
            )
    elif shutil.which("nvidia-smi"):
        says = "there is an NVIDIA driver, and this torch cannot use it: install torch for CUDA (pytorch.org, 'Get started')"
        yield Finding("note", "device", says)
    else:
        yield Finding("note", "device", "no CUDA GPU; training and sampling run on the CPU, in fp32 or bf16")


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    says = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, {os.cpu_count()} CPU cores"
    if memory.available < LITTLE_MEMORY:
        return Finding("note", "memory", f"{says}; close other programs, or use --fit auto")
    return Finding("ok", "memory", says)


def _disk(out: Path) -> Iterator[Finding]:
    folder = out.expanduser().resolve()
    place = next(p for p in (folder, *folder.parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        yield Finding("mend", "disk", f"{place} cannot be written to; choose another --out")
        return
    free = shutil.disk_usage(place).free
    says = f"{free / 2**30:.1f} GiB free in {place}"
    yield (
        Finding("note", "disk", f"{says}; a checkpoint of ADM takes 9 GiB, see --train.keep")
        if free < LITTLE_DISK
        else Finding("ok", "disk", says)
    )


def _data(path: str) -> Iterator[Finding]:
    from mezzotint.configs import DataConfig
    from mezzotint.data import open_source

    try:
        source = open_source(DataConfig(path=path))
    except MezzotintError as error:
        yield Finding("mend", "data", str(error))
        return
    facts = source.facts
    says = f"{len(source)} images of {facts.size[0]}x{facts.size[1]}x{facts.channels}, {facts.bits} bits, {len(facts.classes)} classes"
    yield Finding("ok", "data", says)
    for note in source.notes:
        yield Finding("note", "data", note)
