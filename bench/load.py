"""Time and peak memory of loading weights of the size of ADM's 256x256 model, against ``torch.load``; each in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

SETTINGS = {"heads": 4, "head_channels": 64, "attention_order": "legacy", "schedule": "linear", "time_input": "index", "size": 256}
CASES = ("torch.load", "official", "official bf16", "official fp16", "folder", "folder bf16")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256, help="channels; 256 is ADM's 550 M parameters")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make(folder: Path, width: int) -> None:
    """Writes random weights as an official file and as a model folder."""
    import torch

    from mezzotint.checkpoint import load
    from mezzotint.checkpoint.official import guided_diffusion
    from mezzotint.networks.unet import UNet
    from mezzotint.pipelines.generate import Model
    from mezzotint.weights.io import WeightSet, save_model

    net = replace(guided_diffusion.published("256x256_diffusion_uncond").net, width=width)
    with torch.device("meta"):
        shapes = guided_diffusion.to_official(UNet(net).state_dict(), net)  # pyright: ignore[reportArgumentType]
    torch.save({name: torch.randn(value.shape) for name, value in shapes.items()}, folder / "x.pt")
    model = load(folder / "x.pt", device="cpu", settings=SETTINGS)
    assert isinstance(model, Model)
    save_model(folder / "model", replace(model.spec, weights={}), [WeightSet(model.stage.denoiser.network.state_dict())])


def memory(field: str) -> int:
    """Bytes of this process, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(case: str, folder: Path) -> dict[str, Any]:
    """Loads once; seconds, and the peak above what the program needed before, in bytes and as a share of the loaded weights."""
    import torch

    import mezzotint
    from mezzotint.checkpoint.official import guided_diffusion
    from mezzotint.networks.unet import UNet  # noqa: F401  (so that its import is not measured)
    from mezzotint.pipelines import generate  # noqa: F401

    guided_diffusion.published("64x64_diffusion")
    kind, _, dtype = case.partition(" ")
    calls: dict[str, Callable[[], Any]] = {
        "torch.load": lambda: torch.load(folder / "x.pt", weights_only=True),
        "official": lambda: mezzotint.load(folder / "x.pt", device="cpu", dtype=dtype or None, settings=SETTINGS),
        "folder": lambda: mezzotint.load(folder / "model", device="cpu", dtype=dtype or None),
    }
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    before, begin = memory("VmRSS"), time.perf_counter()
    held = calls[kind]()
    seconds, peak = time.perf_counter() - begin, memory("VmHWM") - before
    tensors = list(held.values()) if isinstance(held, dict) else list(held.stage.denoiser.network.state_dict().values())
    weights = sum(value.numel() * value.element_size() for value in tensors)
    return {"seconds": seconds, "peak_bytes": peak, "weights_bytes": weights, "peak_over_weights": peak / weights}


def main() -> int:
    args = arguments()
    if args.case:
        found = make(args.folder, args.width) if args.case == "make" else measure(args.case, args.folder)
        print(json.dumps(found))
        return 0
    results: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        own = [sys.executable, __file__, "--width", str(args.width), "--folder", folder, "--case"]
        subprocess.run([*own, "make"], check=True, stdout=subprocess.DEVNULL)
        for _ in range(args.repeats):
            for case in CASES:
                done = subprocess.run([*own, case], check=True, capture_output=True, text=True)
                results[case].append(json.loads(done.stdout.splitlines()[-1]))
    print("| | seconds, best | weights, MB | peak, MB | peak / weights |\n|---|---|---|---|---|")
    for case, runs in results.items():
        best, worst = min(run["seconds"] for run in runs), max(runs, key=lambda run: run["peak_bytes"])
        sizes = f"{worst['weights_bytes'] / 1e6:.0f} | {worst['peak_bytes'] / 1e6:.0f} | {worst['peak_over_weights']:.3f}"
        print(f"| {case} | {best:.2f} | {sizes} |")
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
