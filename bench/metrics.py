"""Time and figures of the metrics on the same features as pytorch-fid, torch-fidelity and plain implementations, and their peak memory.

Packages to compare with that are absent are left out with a line; those in a folder of their own are found by ``--peers FOLDER``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import json
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clock import now
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.metrics.inception_score import inception_score
from mezzotint.metrics.kernel import kid
from mezzotint.metrics.precision_recall import density_coverage, precision_recall

CASES = ("frechet", "precision_recall", "kid", "inception_score", "memory")
Figures = tuple[float, ...]
Way = Callable[[], Figures]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=10_000, help="images in each set")
    parser.add_argument("--features", type=int, default=2048, help="features of an image")
    parser.add_argument("--memory-num", type=int, default=50_000, help="images of the memory case")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--peers", type=Path, help="folder with pytorch-fid and torch-fidelity")
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def features(num: int, width: int, seed: int) -> Tensor:
    """Vectors that are like Inception's in what matters here: at least 0, correlated, and with a falling spectrum; float32."""
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(0)) / width**0.5
    mix *= torch.logspace(0, -2, width)[:, None]
    draws = torch.Generator().manual_seed(1 + seed)
    parts = [(torch.randn(min(1000, num - at), width, generator=draws) @ mix) for at in range(0, num, 1000)]
    return torch.cat([(0.1 * seed * mix.sum(dim=0) + 2 * part).clamp_min_(0) for part in parts])


# --- others ----------------------------------------------------------------------------------------------------------------


class Absent(types.ModuleType):
    """Stands for torchvision where it is not installed: the functions that are compared do not use it, and their modules ask for it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stand_in(package: str, *parts: str) -> None:
    """Enters a package that is not there, and modules in it."""
    for name in (package, *(f"{package}.{part}" for part in parts)):
        absent = Absent(name)
        absent.__path__ = []
        absent.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = absent
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, absent)


def peer(module: str) -> Any:
    """A module of another package, or None with a line that says so."""
    name = module.partition(".")[0]
    if find_spec(name) is None:
        print(f"{name} is not installed: left out", file=sys.stderr)
        return None
    if "torchvision" not in sys.modules and find_spec("torchvision") is None:
        stand_in("torchvision", "datasets", "transforms", "transforms.functional", "models", "models.inception")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"{module} cannot be imported ({error}): left out", file=sys.stderr)
        return None


def plain_precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> Figures:
    """By whole tables of distances."""

    def radii(rows: Tensor) -> Tensor:
        return torch.cdist(rows, rows).kthvalue(k + 1, dim=1).values

    table = torch.cdist(generated, real)
    precision = (table <= radii(real)).any(dim=1).double().mean()
    return float(precision), float((table <= radii(generated)[:, None]).any(dim=0).double().mean())


# --- cases -----------------------------------------------------------------------------------------------------------------


def frechet(a: Tensor, b: Tensor) -> dict[str, Way]:
    first, second = Moments().add(a), Moments().add(b)
    mu_a, mu_b = (moments.mean.numpy() for moments in (first, second))
    cov_a, cov_b = (moments.cov.numpy() for moments in (first, second))
    ways: dict[str, Way] = {"mezzotint": lambda: (frechet_distance(first, second),)}
    if pytorch_fid := peer("pytorch_fid.fid_score"):
        # Its published form asks SciPy for two results, and newer ones give one.
        import scipy.linalg

        original = scipy.linalg.sqrtm

        def sqrtm(matrix: np.ndarray, disp: bool = True) -> Any:
            return original(matrix) if disp else (original(matrix), 0.0)

        def theirs() -> Figures:
            scipy.linalg.sqrtm = sqrtm
            try:
                return (float(pytorch_fid.calculate_frechet_distance(mu_a, cov_a, mu_b, cov_b)),)
            finally:
                scipy.linalg.sqrtm = original

        ways["pytorch-fid (sqrtm)"] = theirs
    if fidelity := peer("torch_fidelity.metric_fid"):
        one, two = {"mu": mu_a, "sigma": cov_a}, {"mu": mu_b, "sigma": cov_b}
        ways["torch-fidelity (eigvals)"] = lambda: tuple(fidelity.fid_statistics_to_metric(one, two, False).values())
    return ways


def precision_and_recall(a: Tensor, b: Tensor) -> dict[str, Way]:
    def ours() -> Figures:
        found = precision_recall(a, b)
        return found.precision, found.recall

    def density() -> Figures:
        found = density_coverage(a, b)
        return found.density, found.coverage

    ways: dict[str, Way] = {"mezzotint": ours, "plain (cdist, whole tables)": lambda: plain_precision_recall(a, b)}
    if fidelity := peer("torch_fidelity.metric_prc"):
        for word, saving in (("", False), (", save_cpu_ram", True)):
            settings = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "save_cpu_ram": saving, "verbose": False}
            ways[f"torch-fidelity{word}"] = lambda s=settings: tuple(fidelity.prc_features_to_metric(a, b, **s).values())[:2]
    return {**ways, "mezzotint, density and coverage": density}


def kernel_distance(a: Tensor, b: Tensor) -> dict[str, Way]:
    size = min(1000, len(a))

    def ours() -> Figures:
        found = kid(a, b, size=size)
        return found.value, found.spread

    ways: dict[str, Way] = {"mezzotint (float64)": ours}
    if fidelity := peer("torch_fidelity.metric_kid"):
        settings = {"kid_subsets": 100, "kid_subset_size": size, "rng_seed": 2020, "verbose": False}
        ways["torch-fidelity (float32)"] = lambda: tuple(fidelity.kid_features_to_metric(a, b, **settings).values())
    return ways


def score(a: Tensor, b: Tensor) -> dict[str, Way]:
    logits = a @ torch.randn(a.shape[1], 1008, generator=torch.Generator().manual_seed(9)) / b.std() / a.shape[1] ** 0.5

    def ours() -> Figures:
        found = inception_score(logits, shuffle=2020)
        return found.value, found.spread

    ways: dict[str, Way] = {"mezzotint": ours}
    if fidelity := peer("torch_fidelity.metric_isc"):
        ways["torch-fidelity"] = lambda: tuple(fidelity.isc_features_to_metric(logits).values())
    return ways


def memory(num: int, width: int) -> dict[str, float]:
    """Peak of a whole process, MB: with nothing but the program, after the moments, and after precision and recall as well."""

    def peak() -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    out = {"program": peak()}
    moments, kept = Moments(), torch.empty(num, width)
    reference = features(min(num, 10_000), width, 1)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(0)) / width**0.5
    for at in range(0, num, 500):
        rows = torch.randn(min(500, num - at), width, generator=torch.Generator().manual_seed(at)) @ mix
        kept[at : at + len(rows)] = rows.clamp_min_(0)
        moments.add(rows)
    begin = time.perf_counter()
    frechet_distance(moments, Moments().add(reference))
    out["with moments and Frechet distance"] = peak()
    precision_recall(kept, reference)
    out["with precision and recall"] = peak()
    out["seconds"] = time.perf_counter() - begin
    return out


def timed(way: Way, repeats: int) -> tuple[Figures, float, float]:
    """Its figures, and the medians of its seconds by the clock and on the processor."""
    seconds, found = [], ()
    for _ in range(repeats):
        begin = now()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = way()
        seconds.append(now() - begin)
    wall, cpu = np.median(seconds, axis=0)
    return found, float(wall), float(cpu)


def show(case: str, rows: Sequence[tuple[str, Figures, float, float]]) -> None:
    print(f"\n| {case} | figures | seconds | CPU seconds | CPU, times ours | relative difference |\n|---|---|---|---|---|---|")
    (_, ours, _, own), *_ = rows
    for name, found, wall, cpu in rows:
        difference = max(abs(x - y) / max(abs(y), 1e-12) for x, y in zip(ours, found, strict=True))
        said = "" if "density" in name else f"{difference:.1e}"
        print(f"| {name} | {', '.join(f'{x:.9g}' for x in found)} | {wall:.2f} | {cpu:.2f} | {cpu / own:.2f} | {said} |")


def main() -> int:
    args = arguments()
    if args.child:
        print(json.dumps(memory(args.memory_num, args.features)))
        return 0
    if args.peers:
        sys.path.append(str(args.peers))
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "images": args.num, "features": args.features}
    makers = {"frechet": frechet, "precision_recall": precision_and_recall, "kid": kernel_distance, "inception_score": score}
    chosen = [case for case in args.only if case in makers]
    sets = [features(args.num, args.features, seed) for seed in (0, 1)] if chosen else []
    for case in chosen:
        rows = [(name, *timed(way, args.repeats)) for name, way in makers[case](*sets).items()]
        show(case.replace("_", " "), rows)
        results[case] = {name: {"figures": found, "seconds": wall, "cpu_seconds": cpu} for name, found, wall, cpu in rows}
    if "memory" in args.only:
        own = [sys.executable, __file__, "--child", "--memory-num", str(args.memory_num), "--features", str(args.features)]
        done = subprocess.run(own, check=True, capture_output=True, text=True)
        results["memory"] = json.loads(done.stdout.splitlines()[-1])
        print(f"\n| {args.memory_num:,} images of {args.features} features | peak of the process, MB |\n|---|---|")
        for name, value in results["memory"].items():
            print(f"| {name} | {value:.0f} |")
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
