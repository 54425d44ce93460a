"""Network calls that samplers need, on the digits: ``mezzotint demo --out DIR --check``, then ``python bench/solvers.py DIR``.

Prints tables and writes ``bench/solvers.json``; docs/solvers.md says what they mean.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mezzotint
from clock import CPU, WALL, between, median, now
from mezzotint.cli.covariance import run as add_covariance
from mezzotint.data import open_source, subset
from mezzotint.denoise import Bound, Denoiser
from mezzotint.metrics.features import pixels
from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.noise import Noise
from mezzotint.pipelines.generate import Model
from mezzotint.recipes.digits import digits
from mezzotint.registry import build, names
from mezzotint.sample.loop import sample
from mezzotint.tasks.demo import divide
from mezzotint.tasks.likelihood import likelihood

PARTS = ("calls", "peers", "variance")
CLOSE = 1.05
"""Near enough to the distance of the reference, as a factor."""
REFERENCE_STEPS = 1000
BUDGETS = (4, 5, 6, 8, 10, 12, 15, 20, 30)
PEER_BUDGETS = (4, 5, 6, 8, 10, 15, 20)
SAME = 1.002
"""Distances within this factor are the same: both sides round."""
GRID = "trailing"
TWO_CALLS = {"heun": 1, "dpm2": 1, "dpmpp_sde": 1, "predictor_corrector": 0}
"""Samplers of two calls a step, and the calls that their last step does not make."""
VARIANTS = {
    "dpm_solver": ("", "order=3", "order=3,method=singlestep", "eta=1"),
    "unipc": ("", "order=2"),
}
"""Settings that are tried; other samplers run as they come."""
TOLERANCES = {"dpm_solver_adaptive": ("rtol=1", "rtol=0.5", "rtol=0.2", "rtol=0.05"), "ode": ("0.3", "0.1", "0.03", "0.01")}
"""Of the samplers that choose their own steps, the loosest first; "ode" takes one number for both of its tolerances."""
OURS = ("dpm_solver", "dpm_solver,order=3", "unipc", "unipc,order=2")
OUR_GRIDS = ("linspace_open", "beta")
KINDS = ("fixed_small", "fixed_large", "analytic", "sn", "npr")
BITS_STEPS, DISTANCE_STEPS = (10, 25), (5, 7, 10)
BITS_IMAGES = 300
CAP = 1
BATCH = 250


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `mezzotint demo --check` left; its other seeds are used by the variance part")
    parser.add_argument("--num", type=int, default=500, help="images a figure")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="what is measured")
    parser.add_argument("--reference-steps", type=int, default=REFERENCE_STEPS, help="ancestral steps of the reference")
    parser.add_argument("--head-images", type=int, default=40_000, help="images that each second head is trained on")
    parser.add_argument("--rounds", type=int, default=30, help="alternations of the timing")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("solvers.json"), help="where the figures go")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a claim does not hold")
    return parser.parse_args()


def generator(folder: Path) -> Model:
    model = mezzotint.load(folder)
    assert isinstance(model, Model)
    return model


class Digits:
    """The model of one demonstration, and the digits that it was not trained on.

    Args:
        folder: Of the demonstration.
        num: Images a figure.
    """

    def __init__(self, folder: Path, num: int):
        self.model = generator(folder / "model")
        self.seed: int = self.model.spec.recipe.train.seed
        self.source = open_source(digits().data)
        self.split = divide(self.source, self.seed)
        self.held_out = subset(self.source, self.split.held_out)
        self.reference = Moments().add(pixels(self.held_out.batch(range(len(self.held_out))).images))
        self.noise = Noise(self.seed, range(num), stage="bench")
        self.start = self.noise.sub("start").normal((num, *self.model.shape), name="x")
        self.cond = {"label": torch.arange(num) % len(self.model.classes)}

    def distance(self, x: Tensor) -> float:
        with warnings.catch_warnings():  # all are of one number of images
            warnings.filterwarnings("ignore", message="Frechet distance from")
            return frechet_distance(Moments().add(pixels(x.clamp(-1, 1))), self.reference)

    def parts(self) -> Iterator[tuple[Tensor, dict[str, Tensor], Noise]]:
        """Starting points, conditions and random streams, in batches."""
        for rows in torch.arange(len(self.start)).split(BATCH):
            yield self.start[rows], {"label": self.cond["label"][rows]}, self.noise.rows(rows)

    def ours(self, text: str, steps: int | None, grid: str, denoiser: Denoiser | None = None) -> tuple[float, int]:
        """Distance and network calls of one of our samplers."""
        denoiser = denoiser or Bound(self.model.stage.denoiser).eval()
        sampler, calls, out = build("sampler", text), 0, []
        plan = sampler.plan(denoiser.schedule) if steps is None else sampler.plan(denoiser.schedule, steps=steps, spacing=grid)
        for x, cond, noise in self.parts():
            done = sample(denoiser, sampler, plan, x, cond=cond, noise=noise)
            out.append(done.x)
            calls = max(calls, done.calls)
        return self.distance(torch.cat(out)), calls

    @torch.no_grad()
    def theirs(self, make: Callable[[], Any], calls: int) -> float:
        """Distance of one of diffusers' schedulers on the same network."""
        out = []
        for x, cond, _ in self.parts():
            out.append(drive(make(), self.model, x, cond, calls))
        return self.distance(torch.cat(out))


def drive(scheduler: Any, model: Model, x: Tensor, cond: Mapping[str, Tensor], calls: int) -> Tensor:
    """diffusers' own loop."""
    scheduler.set_timesteps(calls)
    for t in scheduler.timesteps:
        value = model.stage.denoiser.network(scheduler.scale_model_input(x, t), t.expand(len(x)).float(), cond)
        x = scheduler.step(value, t, x).prev_sample
    return x


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row) + " |")
    print(flush=True)


# --- calls to come near the reference ------------------------------------------------------------------------------------


def ladders() -> dict[str, list[tuple[str, int | None, str]]]:
    """Row -> sampler, steps and grid, the fewest calls first."""
    out: dict[str, list[tuple[str, int | None, str]]] = {}
    for name in names("sampler"):
        if name == "ddim_inversion":
            continue
        if name == "ode":
            out[name] = [(f"ode,norm=batch,rtol={number},atol={number}", None, "") for number in TOLERANCES[name]]
        elif name in TOLERANCES:
            out[name] = [(f"{name},{setting}", None, "") for setting in TOLERANCES[name]]
        else:
            for text in (",".join(filter(None, (name, setting))) for setting in VARIANTS.get(name, ("",))):
                each = [(calls + TWO_CALLS[name]) // 2 if name in TWO_CALLS else calls for calls in BUDGETS]
                out[text] = [(text, steps, GRID) for steps in each]
    return out


def calls_to_reference(world: Digits, steps: int) -> dict[str, Any]:
    reference, calls = world.ours("ancestral", steps, "uniform")
    print(
        f"\nCalls to come within {CLOSE - 1:.0%} of {steps} ancestral steps, whose distance is {reference:.3f}; {len(world.start)} images\n"
    )
    found: dict[str, Any] = {}
    rows = []
    for row, ladder in ladders().items():
        tried = []
        for text, count, grid in ladder:
            tried.append(world.ours(text, count, grid)[::-1])
            if tried[-1][1] <= CLOSE * reference:
                break
        at, distance = tried[-1]
        reached = distance <= CLOSE * reference
        found[row] = {"reached": reached, "calls": at, "distance": distance, "tried": tried}
        rows.append((row, at if reached else f"more than {at}", distance))
        print(f"  {row}: {rows[-1][1]}", file=sys.stderr, flush=True)
    table(("sampler", "calls", "distance"), rows)
    return {"distance": reference, "calls": calls, "samplers": found}


# --- against diffusers ---------------------------------------------------------------------------------------------------


def peers() -> dict[str, Callable[[], Any]]:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    given = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    out = {}
    for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler):
        for order in (2, 3):
            name = f"{kind.__name__.removesuffix('MultistepScheduler')}, order {order}"
            out[name] = lambda kind=kind, order=order: kind(**given, solver_order=order)
    return out


def against_peers(world: Digits, rounds: int) -> dict[str, Any]:
    print(f"\nDistance by number of calls, on the same network and noise; {len(world.start)} images, not clipped on the way\n")
    plain = world.model.stage.denoiser.eval()
    theirs = {name: [world.theirs(make, calls) for calls in PEER_BUDGETS] for name, make in peers().items()}
    ours = {f"{text}, {grid}": [world.ours(text, calls, grid, plain)[0] for calls in PEER_BUDGETS] for grid in OUR_GRIDS for text in OURS}
    best = [min(row[i] for row in ours.values()) for i in range(len(PEER_BUDGETS))]
    rows = [("diffusers " + name, *row) for name, row in theirs.items()] + [(name, *row) for name, row in ours.items()]
    table(("sampler", *map(str, PEER_BUDGETS)), rows)
    needed = {
        name: [next((c for c, d in zip(PEER_BUDGETS, best, strict=True) if d <= SAME * wanted), None) for wanted in row]
        for name, row in theirs.items()
    }
    print("Calls by which the best of ours is as near\n")
    table(("diffusers, with", *map(str, PEER_BUDGETS)), [(name, *(c or "more" for c in row)) for name, row in needed.items()])
    timing = time_per_call(world, rounds)
    rows = [(name, *(f"{m['median']:.3f} ({m['low']:.3f} to {m['high']:.3f})" for m in each.values())) for name, each in timing.items()]
    print(f"Time of a call, ours to theirs: batches of 64, 10 calls, {rounds} alternations; median and its 95 % interval\n")
    table(("sampler", "cpu", "wall"), rows)
    return {"theirs": theirs, "ours": ours, "needed": needed, "time": timing}


@torch.no_grad()
def time_per_call(world: Digits, rounds: int) -> dict[str, Any]:
    """Time of ours over that of theirs, by each clock; the two alternate."""
    x, cond = world.start[:64], {"label": world.cond["label"][:64]}
    plain, out = world.model.stage.denoiser.eval(), {}
    made = peers()
    for ours, name in (("dpm_solver", "DPMSolver, order 2"), ("unipc,order=2", "UniPC, order 2")):
        sampler = build("sampler", ours)

        def once(sampler: Any = sampler) -> None:
            sample(plain, sampler, sampler.plan(plain.schedule, steps=10, spacing="linspace_open"), x, cond=cond)

        def spent(call: Callable[[], object]) -> np.ndarray:
            begin = now()
            call()
            return now() - begin

        def other(make: Callable[[], Any] = made[name]) -> Tensor:
            return drive(make(), world.model, x, cond, 10)

        once()
        outer, inner = [spent(other)], []
        for _ in range(rounds):
            inner.append(spent(once))
            outer.append(spent(other))
        ratios = between(outer, inner)
        out[ours] = {"cpu": median(ratios[:, CPU]), "wall": median(ratios[:, WALL])}
    return out


# --- the optimal variance ------------------------------------------------------------------------------------------------


def variances(world: Digits, head_images: int) -> dict[str, dict[str, dict[int, float]]]:
    """Bits/dim of held-out digits and distance of samples, by kind of variance and number of steps."""
    out: dict[str, dict[str, dict[int, float]]] = {}
    assert world.model.path is not None
    with tempfile.TemporaryDirectory() as held:
        data = Path(held) / "digits.npz"
        batch = subset(world.source, world.split.model).batch(range(len(world.split.model)))
        assert batch.label is not None
        images = ((batch.images.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
        np.savez(data, images.numpy(), batch.label.numpy())
        folder = Path(held) / "model"
        shutil.copytree(world.model.path, folder)
        for kind in KINDS:
            if not kind.startswith("fixed"):
                words = [str(folder), "--data", str(data), "--kind", kind, "--seed", str(world.seed), "--levels", "100", "--images", "128"]
                words += ["--train-images", str(head_images), "--lr", "3e-3", "--head", "block"]
                with contextlib.redirect_stdout(io.StringIO()):
                    add_covariance("covariance", words)
            model = generator(folder)
            name = kind if kind.startswith("fixed") else "optimal"
            known = model.stage.denoiser if kind.startswith("fixed") else model.with_variance()
            bits, distance = {}, {}
            for steps in BITS_STEPS:
                measured = likelihood(
                    model, world.held_out, num=BITS_IMAGES, steps=steps, grid="even", variance=name, seed=world.seed, batch_size=BATCH
                )
                bits[steps] = measured.bits_per_dim
            for steps in DISTANCE_STEPS:
                distance[steps] = world.ours(f"ancestral,variance={name},cap={CAP}", steps, "even", Bound(known).eval())[0]
            out[kind] = {"bits": bits, "distance": distance}
            print(f"  seed {world.seed}, {kind}: {out[kind]}", file=sys.stderr, flush=True)
    return out


def spread(values: Sequence[float]) -> str:
    """Mean, and smallest and largest."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else f"{values[0]:.3f}"


def optimal_variance(worlds: Sequence[Digits], head_images: int) -> dict[str, Any]:
    seeds = [world.seed for world in worlds]
    found = [variances(world, head_images) for world in worlds]
    print(f"\nReverse variances on even steps, seeds {', '.join(map(str, seeds))}: mean (smallest to largest)\n")
    head = ["variance", *(f"bits/dim, {k} steps" for k in BITS_STEPS), *(f"distance, {k} steps" for k in DISTANCE_STEPS)]
    rows = []
    for kind in KINDS:
        row = [spread([f[kind]["bits"][k] for f in found]) for k in BITS_STEPS]
        rows.append((kind, *row, *(spread([f[kind]["distance"][k] for f in found]) for k in DISTANCE_STEPS)))
    table(head, rows)
    return {str(seed): f for seed, f in zip(seeds, found, strict=True)}


# --- claims --------------------------------------------------------------------------------------------------------------


def claims(results: Mapping[str, Any]) -> dict[str, bool]:
    """What docs/solvers.md claims, and whether it holds."""
    out = {}
    if "peers" in results:
        for name, row in results["peers"]["needed"].items():
            out[f"no more calls than diffusers' {name}, at any budget"] = all(
                c is not None and c <= k for c, k in zip(row, PEER_BUDGETS, strict=True)
            )
        for name, each in results["peers"]["time"].items():
            out[f"{name}: no more time a call than diffusers, within the interval of the ratio"] = each["cpu"]["low"] <= 1
    if "variance" in results:
        each = list(results["variance"].values())
        for kind in ("sn", "npr"):
            for what, steps in (("bits", BITS_STEPS), ("distance", DISTANCE_STEPS)):
                for k in steps:
                    fixed = [min(f[name][what][k] for name in ("fixed_small", "fixed_large")) for f in each]
                    better = [f[kind][what][k] < least for f, least in zip(each, fixed, strict=True)]
                    out[f"{kind}: {what} at {k} steps below both fixed variances on every seed"] = all(better)
    return out


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)  # a network as small as this gains nothing from a second
    worlds = [Digits(args.demo, args.num)]
    results: dict[str, Any] = {"images": args.num, "torch": torch.__version__}
    started = now()
    if "calls" in args.only:
        results["calls"] = calls_to_reference(worlds[0], args.reference_steps)
    if "peers" in args.only:
        results["peers"] = against_peers(worlds[0], args.rounds)
    if "variance" in args.only:
        others = sorted((args.demo / "check").glob("seed-*"))
        results["variance"] = optimal_variance([*worlds, *(Digits(folder, args.num) for folder in others)], args.head_images)
    results["claims"] = claims(results)
    for claim, holds in results["claims"].items():
        print(f"{'yes' if holds else 'NO':>4}  {claim}")
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{(now() - started)[CPU]:.0f} s of one core; written to {args.out}")
    return int(args.check and not all(results["claims"].values()))


if __name__ == "__main__":
    sys.exit(main())
