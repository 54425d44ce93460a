"""``mezzotint sample``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from mezzotint.cli.folder import SampleFolder
    from mezzotint.pipelines.generate import Job, Model
    from mezzotint.train.ranks import Ranks

WAIT = 24 * 3600
"""Seconds that a rank that has made its images waits for the others."""


@dataclass(frozen=True)
class Arguments:
    """Makes images with a model: PNGs named by image number, each with its recipe, a grid and a manifest.

    Image k depends on the model, the settings, its class, the seed and k alone. The same command again goes on with a folder that is
    not complete. Several GPUs: torchrun --nproc-per-node 8 -m -- mezzotint sample ...
    """

    model: tyro.conf.Positional[Path]
    """Model folder, or the folder of a training run."""
    out: Path | None = None
    """Folder to be made."""
    num: int | None = None
    """Number of images; without it 64, or what --classes or --ids give."""
    classes: str | None = None
    """How many of each class, by name or label, as in 3=8,cat=8."""
    ids: str | None = None
    """Only these images of the job, as in 5,17-20."""
    sampler: str | None = None
    """Sampler with its settings, as in ddim,eta=0.5; without it the model's own. `mezzotint list samplers` shows all."""
    variance: str | None = None
    """Replaces the setting variance of the sampler, as in optimal, for models that `mezzotint covariance` has seen."""
    steps: int | None = None
    """Number of steps; without it what the grid gives, or the model's own."""
    grid: str | None = None
    """Spacing of the steps: uniform, quadratic, or a respacing rule such as 250, ddim25 or 10,15,20."""
    end: str = "0"
    """Where the images end: 0, last (the cleanest noise level that the network knows), or a time in the schedule's own coordinate."""
    clip: str | None = None
    """Bound x0 at each step: on (to [-1, 1]), off, or a quantile for dynamic thresholding, as in 0.995; without it the model's own."""
    print_grid: bool = False
    """Print the times that would be visited, with what the network is told of each, and make no images."""
    calls: int | None = None
    """Sample as `mezzotint tune` found best within so many network calls; replaces --sampler, --steps and --grid."""
    guidance: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """As in classifier,model=PATH,scale=4, cfg,scale=2,from=0.2,to=0.8 or auto,model=PATH,scale=2. May be repeated; the first is the
    innermost. `mezzotint list guidances` shows all."""
    stage: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="N.SETTING=VALUE")] = ()
    """For a cascade: how stage N is sampled, as in 1.steps=50, 2.sampler=ddim, 2.level=0.3 or 2.truncated=true. May be repeated."""
    seed: int = 0
    """Another seed gives other images."""
    batch_size: int | None = None
    """Images in a pass; without it 64. No effect with --exact, which fixes it at 8."""
    exact: bool = False
    """Promise equal bytes whatever else is made (on one machine), by running fixed, padded batches."""
    ema: str = "on"
    """Moving average of the weights: its decay, on (the first one) or off (the weights as trained)."""
    npz: Path | None = None
    """Also write all images as arr_0 and their labels as arr_1 to this file."""
    every: Annotated[int, tyro.conf.arg(metavar="K")] = 0
    """Also write a strip of each K-th step of every image; 0: none."""


def run(command: str, words: list[str]) -> int:
    """Makes the images of a job, or those that are still missing.

    Args:
        command: "sample".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    ema = parse_ema(given.ema)
    if given.every < 0:
        raise ConfigError(f"--every {given.every}; give a number of steps from 1 on")
    if given.out is None and not given.print_grid:
        raise ConfigError(f"missing: --out; see mezzotint {command} --help")
    if given.out is not None and given.out.exists() and not given.out.is_dir():
        raise ConfigError(f"{given.out} is a file; --out takes a folder")

    from mezzotint.train.ranks import Ranks, launched

    ranks = Ranks(launched(WAIT), WAIT)
    try:
        return _run(given, ema, ranks)
    except RuntimeError as error:
        told = ranks.explain(error)
        if told is None:
            raise
        raise told from error
    finally:
        ranks.close()


def _run(given: Arguments, ema: float | bool, ranks: Ranks) -> int:
    import torch

    from mezzotint.checkpoint.loading import load, locate
    from mezzotint.cli.folder import SampleFolder
    from mezzotint.pipelines.generate import Model, parse_ids

    ranks.on_main(lambda: locate(given.model))  # which may fetch it
    model = load(given.model, ema=ema, device=ranks.device)
    if not isinstance(model, Model):
        raise ConfigError(f"{given.model} is a classifier, which makes no images; give a model of `mezzotint train`")
    job = model.job(
        num=64 if given.num is None and given.classes is None and given.ids is None else given.num,
        classes=given.classes,
        ids=None if given.ids is None else parse_ids(given.ids),
        guidance=given.guidance,
        sampler=given.sampler,
        variance=given.variance,
        steps=given.steps,
        grid=given.grid,
        calls=given.calls,
        end=parse_end(given.end),
        clip=None if given.clip is None else parse_clip(given.clip),
        seed=given.seed,
        batch_size=given.batch_size,
        exact=given.exact,
        **stage_settings(model, given.stage),
    )
    if given.print_grid or given.out is None:
        ranks.say("\n".join(grid_lines(model, job)))
        return 0
    model.check_low_res(job, None)
    folder = SampleFolder(given.out, model, job, every=given.every)
    missing = ranks.on_main(lambda: _open(folder, given.npz))
    steps = model.num_steps(job)
    how = ", ".join([job.sampler, "steps of its own choice" if steps is None else f"{steps} steps", *job.guidance, f"seed {job.seed}"])
    ranks.say(f"{model.path}: {len(job.ids)} images by {how}")
    if len(missing) < len(job.ids):
        ranks.say(f"{len(job.ids) - len(missing)} of them are in {given.out} already")
    if folder.suffix == "npy":
        ranks.say(f"no PNG holds {model.facts.channels} channels; the images are written as .npy files")
    if missing:
        ranks.at("making images")
        try:
            _make(folder, missing, ranks, steps=steps)
        except torch.OutOfMemoryError as error:
            raise TrainingError(f"out of memory with batches of {job.batch}: give a smaller --batch-size; what is made stays") from error
    ranks.at("waiting for the images of the others")
    ranks.gather(torch.zeros(1))
    ranks.on_main(lambda: _finish(folder, given.npz))
    return 0


def _open(folder: SampleFolder, npz: Path | None) -> tuple[int, ...]:
    fresh = not folder.path.exists() or not any(folder.path.iterdir())
    if npz is not None and npz.exists() and fresh:
        raise ConfigError(f"{npz} already exists; give another --npz, or remove it")
    return folder.open()


def _finish(folder: SampleFolder, npz: Path | None) -> None:
    folder.finish()
    if npz is not None:
        folder.write_npz(npz)
        print(f"all images: {npz}")
    print(f"{len(folder.job.ids)} images, grid.png and manifest.json: {folder.path}")


def stage_settings(model: Model, texts: Sequence[str]) -> dict[str, Any]:
    """The argument ``stages`` of a cascade's job, from texts as in "2.steps=50"; nothing where there are none.

    Raises:
        ConfigError: The model is no cascade, or a text is no setting.
    """
    from mezzotint.pipelines.cascade import Cascade, parse_stages

    if texts and not isinstance(model, Cascade):
        raise ConfigError(f"{model.path} has a single stage; leave out --stage {texts[0]}")
    return {"stages": parse_stages(texts)} if texts else {}


def _make(folder: SampleFolder, missing: Sequence[int], ranks: Ranks, *, steps: int | None) -> None:
    """Makes this rank's share of the missing images; the first rank shows how far it is with its own."""
    from tqdm import tqdm

    part = folder.passes(missing, rank=ranks.index, ranks=ranks.count)
    if not part.ids:
        return
    size = part.batch
    passes = len({k // size for k in part.ids}) if part.exact else -(-len(part.ids) // size)
    terminal = sys.stderr.isatty()
    wanted = set(missing)
    images, of = len(folder.job.ids), ""
    written = images - len(missing)
    if ranks.count > 1:
        written, images, of = 0, len(wanted & set(part.ids)), f" of the first of {ranks.count} ranks"
    total = None if steps is None else passes * steps
    with tqdm(total=total, unit="step", mininterval=0.3 if terminal else 30, dynamic_ncols=terminal, disable=not ranks.main) as bar:
        bar.set_postfix_str(f"{written}/{images} images{of}", refresh=False)

        def step_done(step: int, steps: int) -> None:
            bar.update()

        for chunk in folder.model.run(part, save=folder.every, on_step=step_done):
            folder.write(chunk, wanted)
            written += len(wanted & set(chunk.ids))
            bar.set_postfix_str(f"{written}/{images} images{of}", refresh=False)


def grid_lines(model: Model, job: Job) -> list[str]:
    """The times that a job visits, as a table: signal, noise, their ratio, and what the network is told."""
    import torch

    from mezzotint.denoise import time_input

    plan, schedule = model.plan(job), model.stage.schedule
    kind = model.stage.denoiser.config.time_input
    names, places = [], []
    for i, t in enumerate(plan.grid[:-1]):
        inner = plan.inner[i] if plan.inner else plan.grid[:0]
        names += [str(i + 1), *(["inside"] * len(inner))]
        places += [t, *inner]
    times = torch.cat([*places, plan.grid[-1]])
    alpha, sigma = schedule(times)
    log_snr = 2 * schedule.half_log_snr(times)
    told = [f"{value:.6g}" for value in time_input(schedule, times[:-1], kind).tolist()]
    how = f"{job.sampler}, grid {job.grid}"
    lines = [f"{how}: the sampler chooses its own times between these" if plan.adaptive else f"{how}: {plan.steps} steps"]
    lines.append(f"{'step':>6}  {'t':>10}  {'alpha':>10}  {'sigma':>10}  {'log-SNR':>9}  {kind:>10}")
    for row in zip([*names, "end"], times.tolist(), alpha.tolist(), sigma.abs().tolist(), log_snr.tolist(), [*told, "-"], strict=True):
        lines.append(f"{row[0]:>6}  {row[1]:>10.6g}  {row[2]:>10.6g}  {row[3]:>10.6g}  {row[4]:>9.4f}  {row[5]:>10}")
    return lines


def parse_end(text: str) -> float | Literal["last"]:
    """Reads where sampling ends: "last" or a time.

    Raises:
        ConfigError: Neither of these.

    Example:
        >>> parse_end("last"), parse_end("0.3")
        ('last', 0.3)
    """
    if text == "last":
        return "last"
    try:
        end = float(text)
    except ValueError:
        end = -1.0
    if not 0 <= end < float("inf"):
        raise ConfigError(f"--end {text}: give 0, last or a time above 0")
    return end


def parse_clip(text: str) -> float | bool:
    """Reads how x0 is bounded: "on", "off" or a quantile.

    Raises:
        ConfigError: None of these.

    Example:
        >>> parse_clip("off"), parse_clip("0.995")
        (False, 0.995)
    """
    if text in ("on", "off"):
        return text == "on"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--clip {text}: give on, off or a quantile in (0, 1], as in 0.995") from None


def parse_ema(text: str) -> float | bool:
    """Reads a choice of weights: "on", "off" or the decay of an average.

    Raises:
        ConfigError: Neither of these.

    Example:
        >>> parse_ema("off"), parse_ema("0.999")
        (False, 0.999)
    """
    if text in ("on", "off"):
        return text == "on"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--ema {text}: give on, off or the decay of an average, as in 0.999") from None
