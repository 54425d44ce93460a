"""Speed figures: ``python bench/run.py``. Prints tables and writes ``bench/results.json``; docs/benchmarks.md says what they mean."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

CASES = ("none", "classifier-free", "classifier")
MAX_OVERHEAD = 0.03
MAX_WATCHING = 0.02
MIN_SPEED_RATIO = 1.0
MAX_FLOPS_DIFFERENCE = 0.05


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="sampling steps")
    parser.add_argument("--train-steps", type=int, default=20, help="training steps that are measured")
    parser.add_argument("--width", type=int, default=64, help="width of the U-Net, a multiple of 32; 64 has about 10 M parameters")
    parser.add_argument("--batch", type=int, default=16, help="images of a batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--only", choices=("sampling", "training", "watching"), help="measure one of them")
    parser.add_argument("--guidance", nargs="+", choices=CASES, default=CASES, help="the guidances that sampling is measured with")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"), help="where the figures go")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bound is missed")
    return parser.parse_args()


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on, without names."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "diffusers", "numpy")},
    }


def bounds(results: dict[str, Any], clock: str) -> dict[str, dict[str, Any]]:
    """Each stated bound: the figure, the bound, and whether it holds."""
    out = {}
    for name, case in results.get("sampling", {}).get("cases", {}).items():
        for way, value in (("accounting", case["accounting"][clock]), ("interleaved", case["interleaved"][clock]["median"])):
            out[f"sampling, guidance {name}: overhead, {way}"] = {"value": value, "at_most": MAX_OVERHEAD, "holds": value <= MAX_OVERHEAD}
    if "training" in results:
        value = results["training"]["speed_ratio"][clock]["median"]
        out["training: speed against diffusers"] = {"value": value, "at_least": MIN_SPEED_RATIO, "holds": value >= MIN_SPEED_RATIO}
        value = abs(results["training"]["flops_ratio"] - 1)
        out["training: difference of FLOPs"] = {"value": value, "at_most": MAX_FLOPS_DIFFERENCE, "holds": value <= MAX_FLOPS_DIFFERENCE}
    if "watching" in results:
        value = results["watching"]["overhead"][clock]
        out["training: log, averages and checkpoints"] = {"value": value, "at_most": MAX_WATCHING, "holds": value <= MAX_WATCHING}
    return out


def show_sampling(found: dict[str, Any]) -> None:
    sizes = f"{found['parameters'] / 1e6:.1f} M parameters, classifier {found['classifier_parameters'] / 1e6:.1f} M"
    print(f"\nSampling: ancestral, {found['steps']} steps, batch {found['batch']}, 3x32x32, U-Net {sizes}")
    print("Milliseconds a step; overhead by accounting, and by interleaved bare calls (median, its 95 % interval; quartiles)\n")
    print("| guidance | networks | all else | overhead, accounting | overhead, interleaved |")
    print("|---|---|---|---|---|")
    for name, case in found["cases"].items():
        for clock in ("cpu", "wall"):
            m = case["interleaved"][clock]
            spread = f"{m['median']:+.2%} ({m['low']:+.2%} to {m['high']:+.2%}; {m['quartile_1']:+.2%}, {m['quartile_3']:+.2%})"
            times = f"{case['ms_per_step_inside'][clock]:.1f} | {case['ms_per_step_outside'][clock]:.2f}"
            print(f"| {name}, {clock} | {times} | {case['accounting'][clock]:.2%} | {spread} |")


def show_training(found: dict[str, Any]) -> None:
    print(f"\nTraining step: batch {found['batch']}, 3x32x32, {found['steps']} steps each, alternating")
    rate = found["gemm_gflops_per_second"]
    print(
        f"Matrix product: {rate['cpu']:.1f} GFLOP/s by CPU time, {rate['wall']:.1f} by wall time; FLOPs ratio {found['flops_ratio']:.4f}\n"
    )
    print("| | parameters | GFLOP a step | ms a step, cpu | wall | images/s, cpu | wall | of the matrix product, cpu | wall |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, side in found["sides"].items():
        ms, speed, part = side["ms_per_step"], side["images_per_second"], side["fraction_of_gemm"]
        sizes = f"{side['parameters'] / 1e6:.2f} M | {side['gflops_per_step']:.1f}"
        times = f"{ms['cpu']:.0f} | {ms['wall']:.0f} | {speed['cpu']:.2f} | {speed['wall']:.2f}"
        print(f"| {name} | {sizes} | {times} | {part['cpu']:.1%} | {part['wall']:.1%} |")
    for clock in ("cpu", "wall"):
        m = found["speed_ratio"][clock]
        print(f"\nSpeed of mezzotint / diffusers, {clock}: median {m['median']:.3f} ({m['low']:.3f} to {m['high']:.3f})", end="")
    print("\n\nCPU ms of a step\n")
    names = list(next(iter(found["sides"].values()))["cpu_ms_of_parts"])
    print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name, side in found["sides"].items():
        print(f"| {name} | {' | '.join(f'{value:.1f}' for value in side['cpu_ms_of_parts'].values())} |")


def show_watching(found: dict[str, Any], clock: str) -> None:
    print(f"\nWhat a run keeps, beside a step of {found['ms_per_step'][clock]:.1f} ms, by {clock} time\n")
    print("| | ms each | share of the run |\n|---|---|---|")
    for name, share in found["shares"].items():
        print(f"| {name} | {found['ms_each'][name][clock]:.2f} | {share[clock]:.3%} |")
    speed = found["images_per_second"]
    print(f"\n{speed['without'][clock]:.2f} images/s without, {speed['with'][clock]:.2f} with")


def main() -> int:
    args = arguments()
    import torch

    torch.set_num_threads(args.threads)
    import sampling
    import training
    import watching

    # With one thread CPU time leaves out what other programs do; with several it would count threads that wait.
    clock = "cpu" if args.threads == 1 else "wall"
    results: dict[str, Any] = {"machine": machine(args.threads), "clock": clock}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    if args.only in (None, "sampling"):
        results["sampling"] = sampling.measure(width=args.width, batch=args.batch, steps=args.steps, cases=args.guidance)
        show_sampling(results["sampling"])
    if args.only in (None, "training"):
        results["training"] = training.measure(width=args.width, batch=args.batch, steps=args.train_steps)
        show_training(results["training"])
    if args.only in (None, "watching"):
        results["watching"] = watching.measure(width=args.width, batch=args.batch, steps=args.train_steps)
        show_watching(results["watching"], clock)
    results["bounds"] = bounds(results, clock)
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\nBounds, by {clock} time\n\n| | value | bound | |\n|---|---|---|---|")
    for name, bound in results["bounds"].items():
        limit = f"at most {bound['at_most']:g}" if "at_most" in bound else f"at least {bound['at_least']:g}"
        print(f"| {name} | {bound['value']:.4f} | {limit} | {'holds' if bound['holds'] else 'MISSED'} |")
    print(f"\nwritten to {args.out}")
    return int(args.check and not all(bound["holds"] for bound in results["bounds"].values()))


if __name__ == "__main__":
    sys.exit(main())
