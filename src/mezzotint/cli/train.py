"""``mezzotint train`` and ``mezzotint train-classifier``."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mezzotint import registry
from mezzotint.cli.arguments import parse
from mezzotint.configs import DataFacts, Recipe, Spec
from mezzotint.errors import ConfigError, unknown

TASKS = {"train": "generate", "train-classifier": "classify"}
FROM_INIT = ("net", "schedule", "denoiser", "codec")
"""Pieces that come from the model of --init; of the network what no weight depends on can still be set."""
PREVIEW_STEPS = 50
FEW = 20_000
"""Images below which a model can learn its data by heart."""
UNREADABLE = "unreadable.jsonl"
"""File of a run that lists the images that cannot be read."""
_FIXED = ("name", "task", "cite", "score")
INIT_HELP = "Begin from a model, run, official file or name of `mezzotint models`: its architecture, and every weight that fits."

FIT_HELP = "auto: choose the micro-batch, and whether activations are recomputed, by the memory that is free."


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run beside its recipe.

    Attributes:
        out: The run folder.
        resume: Go on with the run in it.
        init: What the weights begin from; None: random numbers.
        fit: Choose the micro-batch, and whether activations are recomputed, by the memory that is free.
    """

    out: Path
    resume: bool = False
    init: str | None = None
    fit: bool = False


def run(command: str, words: list[str]) -> int:
    """Trains a model by a recipe.

    Args:
        command: "train" or "train-classifier".
        words: The recipe's name, then the options.

    Raises:
        MezzotintError: A user's mistake.
    """
    known = recipes(TASKS[command])
    if not words or words[0] in ("-h", "--help"):
        if not words:
            raise ConfigError(f"{command} needs a recipe, as in `mezzotint {command} {next(iter(known))} ...`; recipes: {_names(known)}")
        print(_help(command, known))
        return 0
    name = words[0]
    if name.startswith("-"):
        raise ConfigError(f"the recipe comes first, as in `mezzotint {command} {next(iter(known))} {name} ...`; recipes: {_names(known)}")
    if name not in known:
        raise _unknown_recipe(command, name, known)
    recipe, run = arguments(known[name], words[1:], prog=f"mezzotint {command} {name}")
    _train(recipe, run)
    return 0


def recipes(task: str) -> dict[str, Recipe]:
    """The recipes of a task, by name."""
    every = {name: registry.get("recipe", name)() for name in registry.names("recipe")}
    return {name: recipe for name, recipe in every.items() if recipe.task == task}


def _names(known: dict[str, Recipe]) -> str:
    return ", ".join(known)


def _unknown_recipe(command: str, name: str, known: dict[str, Recipe]) -> Exception:
    other = next(c for c in TASKS if c != command)
    if name in recipes(TASKS[other]):
        return ConfigError(f"recipe '{name}' is one of `mezzotint {other}`; recipes of {command}: {_names(known)}")
    return unknown("recipe", name, known)


def _help(command: str, known: dict[str, Recipe]) -> str:
    docs = {name: (registry.get("recipe", name).__doc__ or "").splitlines()[0] for name in known}
    lines = [f"  {name:<20}{doc}" for name, doc in docs.items()]
    return "\n".join(
        [
            f"usage: mezzotint {command} RECIPE --data PATH --out RUN [--resume] [--init MODEL] [--train.images N] [--net.width W] ...",
            "",
            "Recipes:",
            *lines,
            "",
            f"`mezzotint {command} RECIPE --help` lists the settings of a recipe; each can be changed by its name.",
        ]
    )


# --- arguments -----------------------------------------------------------------------------------------------------------


def arguments(recipe: Recipe, words: list[str], *, prog: str) -> tuple[Recipe, Options]:
    """Reads the options of a training run.

    ``--net.width 96`` changes one setting; ``--objective vlb`` or ``--label none`` puts another piece in place of the recipe's.

    Args:
        recipe: The recipe as written.
        words: The options.
        prog: The command as the user types it.

    Returns:
        The recipe with its changes, and the other options.

    Raises:
        ConfigError: Unknown, missing or wrong options.
    """
    own: list[Any] = [
        ("out", Annotated[Path, tyro.conf.arg(help="Run folder, to be made.")]),
        ("resume", Annotated[bool, tyro.conf.arg(help="Go on with the run in that folder.")], False),
        ("init", Annotated[str | None, tyro.conf.arg(help=INIT_HELP)], None),
        ("fit", Annotated[Literal["no", "auto"], tyro.conf.arg(help=FIT_HELP)], "no"),
    ]
    recipe, given = settings(recipe, words, own, prog=prog)
    if not recipe.data.path:
        raise ConfigError(f"no data was given; pass --data with a folder, a .zip or .npz file, or 'digits'; see {prog} --help")
    if given.init is not None:
        _check_init(words)
    return recipe, Options(given.out, given.resume, given.init, given.fit == "auto")


def settings(recipe: Recipe, words: list[str], own: list[Any], *, prog: str) -> tuple[Recipe, Any]:
    """Reads the settings of a recipe together with the options of a command.

    Args:
        recipe: The recipe as written.
        words: The options.
        own: The command's own options, as ``dataclasses.make_dataclass`` takes fields.
        prog: The command as the user types it.

    Returns:
        The recipe with its changes, and a dataclass with the command's own options.

    Raises:
        ConfigError: Unknown, missing or wrong options.
    """
    words = [_long(word) for word in words]
    for field, kinds in _choices().items():
        held = getattr(recipe, field)
        wanted = _value_of(f"--{field}", words)
        if wanted in kinds and wanted != _kind(held):
            kind = kinds[wanted]
            recipe = dataclasses.replace(recipe, **{field: None if kind is None else kind()})
    given = parse(_form(recipe, own), words, prog=prog, description=f"{recipe.name}: every setting of the recipe, with its value.")
    parts = {f.name: getattr(given, f.name) for f in dataclasses.fields(Recipe) if hasattr(given, f.name)}
    return dataclasses.replace(recipe, **parts), given


def _check_init(words: list[str]) -> None:
    for word in words:
        piece, _, setting = word.removeprefix("--").partition("=")[0].partition(".")
        if word.startswith("--") and piece in FROM_INIT and (piece, setting) not in (("net", "dropout"), ("net", "checkpointing")):
            raise ConfigError(f"{word.partition('=')[0]} has no effect with --init, whose model says it; leave it out")


def _long(word: str) -> str:
    """``--data`` is short for ``--data.path``."""
    return "--data.path" + word.removeprefix("--data") if word == "--data" or word.startswith("--data=") else word


def _value_of(option: str, words: list[str]) -> str | None:
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if word == option:
            return after
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _kind(config: Any) -> str:
    return "none" if config is None else config.kind[1]


def _choices() -> dict[str, dict[str, Any]]:
    """Fields of a recipe that hold one of several kinds of piece: field -> kind -> its config."""
    found = {}
    for name, hint in typing.get_type_hints(Recipe).items():
        if isinstance(hint, types.UnionType):
            options = typing.get_args(hint)
            found[name] = {"none" if o is types.NoneType else o.kind[1]: None if o is types.NoneType else o for o in options}
    return found


def _form(recipe: Recipe, own: list[Any]) -> type:
    """A dataclass of the options: those of the command, then the pieces of the recipe with their values as defaults."""
    fields = list(own)
    for name, kinds in _choices().items():
        option = Annotated[Literal[tuple(kinds)], tyro.conf.arg(name=name, help=f"Kind of piece for {name}.")]
        fields.append((f"{name}_kind", option, _kind(getattr(recipe, name))))
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if f.name not in _FIXED and value is not None:
            fields.append((f.name, type(value), value))
    return dataclasses.make_dataclass("Run", fields, frozen=True)


# --- training ------------------------------------------------------------------------------------------------------------


def _train(recipe: Recipe, run: Options) -> None:
    # What can be wrong with data and settings is found before the model is built.
    from mezzotint.data import check_enough, open_source

    source = open_source(recipe.data, stand_ins=True)
    source.record(run.out / UNREADABLE)
    check_enough(source, recipe.train.batch)
    facts = source.facts
    _say(f"data: {recipe.data.path}, {len(source)} images of {facts.size[0]}x{facts.size[1]}x{facts.channels}, {facts.bits} bits")
    if facts.classes:
        _say(f"classes: {class_map(facts.classes)}")
    for note in source.notes:
        _say(f"note: {note}")

    import torch

    import mezzotint
    from mezzotint.checkpoint import fresh
    from mezzotint.checkpoint.finetune import begin, take_over
    from mezzotint.data.augment import Augmented
    from mezzotint.pipelines.build import build_objective, check_augment, resolve
    from mezzotint.pipelines.generate import ClassifierModel
    from mezzotint.train.trainer import Trainer
    from mezzotint.train.watching import hold_out

    held = None
    if recipe.train.held_out:
        source, held = hold_out(source, recipe.train.held_out)
        source.record(run.out / UNREADABLE)
        check_enough(source, recipe.train.batch)
        _say(f"held out: {len(held)} images; {len(source)} are trained on")

    start = None if run.init is None else begin(run.init, recipe, facts)
    recipe = resolve(recipe, facts) if start is None else start.recipe
    if recipe.data.augment:
        check_augment(recipe)
    if run.fit:
        recipe = _fitted(recipe, facts)
    _say(summary(recipe))
    if recipe.score:
        _say(f"published: {recipe.score}")
    if (words := advice(recipe, len(source))) is not None:
        _say(f"note: {words}")
    provenance = {"made_by": f"mezzotint {mezzotint.__version__}", "data": recipe.data.path, "fingerprint": source.fingerprint}
    if start is not None:
        provenance |= {"init": start.source, "init_sha256": start.model.hash}
    spec = Spec(recipe=recipe, data=facts, provenance=provenance)
    torch.manual_seed(recipe.train.seed)
    model = fresh(spec, device="cpu")  # the trainer puts it where it belongs
    if start is not None:
        for line in take_over(start, model):
            _say(line)
        start = None  # its weights need no memory any more
    objective = build_objective(recipe, model.classifier if isinstance(model, ClassifierModel) else model.stage)
    trainer = Trainer(
        objective,
        Augmented(source, recipe.data.augment) if recipe.data.augment else source,
        out=run.out,
        train=recipe.train,
        optim=recipe.optim,
        ema=recipe.ema,
        spec=spec,
        resume=run.resume,
        on_sample=None if isinstance(model, ClassifierModel) else _previews(model, recipe, source),
        watchers=_watchers(recipe, objective, model, source, held),
    )
    try:
        trainer.run()
    finally:
        source.record(run.out / UNREADABLE)  # what workers found
        if source.unreadable:
            others = f"{len(source.unreadable)} of {len(source)} images could not be read, and others stood in for them"
            _say(f"note: {others}; {run.out / UNREADABLE} lists them")


def advice(recipe: Recipe, images: int) -> str | None:
    """What is to be said of a small data set, or None."""
    if recipe.task == "classify" or images >= FEW:
        return None
    wanted = [] if recipe.train.held_out else ["--train.held-out 0.02 shows whether it does"]
    if not recipe.data.augment and hasattr(recipe.net, "augment"):
        wanted.append("--data.augment 0.12 makes it less likely")
    return f"{images} images are few, and a model may learn them by heart; {', and '.join(wanted)}" if wanted else None


def _watchers(recipe: Recipe, objective: Any, model: Any, source: Any, held: Any) -> list[Any]:
    """What is looked at during the run, beside sample grids."""
    from mezzotint.checkpoint.loading import default_device
    from mezzotint.pipelines.generate import Model
    from mezzotint.tasks.evaluate import build_features
    from mezzotint.train.watching import HeldOut, QuickDistance

    train, found = recipe.train, []
    batch = train.micro_batch or train.batch
    if held is not None:
        every = train.save_every or -(-train.images // 10)
        found.append(HeldOut(objective, held, source, every=every, batch=batch, seed=train.seed))
    if train.fd_every:
        if not isinstance(model, Model):
            raise ConfigError("a classifier makes no samples to compare; leave out --train.fd-every")
        features = build_features(train.fd_features, default_device())
        wish = {
            "every": train.fd_every,
            "num": train.fd_num,
            "steps": train.fd_steps,
            "batch": batch,
            "seed": train.seed,
            "begin_from": held,
        }
        found.append(QuickDistance(model, source, features, **wish))
    return found


def _preview(model: Any, recipe: Recipe, source: Any, steps: int) -> tuple[Any, Any]:
    """Samples, and what is shown of them: beside the low-resolution images, where the model begins from such, those of the first images."""
    wish: dict[str, Any] = {"num": recipe.train.sample_num, "steps": steps, "grid": "uniform", "seed": recipe.train.seed}
    if recipe.low_res is None:
        made = model.sample(**wish)
        return made, made
    import torch

    from mezzotint.pipelines.examples import begun_from
    from mezzotint.resolution import enlarge
    from mezzotint.train.watching import readable_places

    places = readable_places(source, range(min(recipe.train.sample_num, len(source))))
    job, found = begun_from(model, model.job(**{**wish, "num": len(places)}), source, places)
    assert found is not None
    made = torch.cat([chunk.trajectory.x.cpu() for chunk in model.run(job, low_res=found)])
    low = enlarge(torch.stack([found[k] for k in job.ids]), made.shape[2:], up=recipe.low_res.up)
    return made, torch.cat([low, made], dim=3)


def _fitted(recipe: Recipe, facts: DataFacts) -> Recipe:
    from mezzotint.checkpoint.loading import default_device
    from mezzotint.tasks.plan import fit, free_memory

    # Processes that share a CPU share its memory; a GPU has its own.
    device, ranks = default_device(), int(os.environ.get("WORLD_SIZE", "1"))
    free = free_memory(device) // (1 if device.type == "cuda" else ranks)
    sized = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, size=facts.size))
    return dataclasses.replace(fit(sized, free=free, ranks=ranks), data=recipe.data)


def _previews(model: Any, recipe: Recipe, source: Any) -> Any:
    """Draws the sample grids of a run, and compares their colours with those of the data.

    They have at most 50 steps, since they are looked at and not measured.
    """
    from mezzotint.cli.pictures import grid, write_png
    from mezzotint.train.watching import ADVICE, Colours

    own = recipe.sample.steps
    steps = PREVIEW_STEPS if own is None else min(own, PREVIEW_STEPS)
    colours, told = Colours(source), False

    def draw(_: Any, images: int, file: Path) -> dict[str, Any]:
        nonlocal told
        made, shown = _preview(model, recipe, source, steps)
        write_png(file, grid(list(model.pixels(shown))), {})
        found = colours.compare(made)
        # Colours come late, so that nothing is said in the first half of a run.
        if found["drifts"] and not told and images >= recipe.train.images / 2:
            told = True
            drift = ", ".join(f"{value:+.1f}" for value in found["colour_drift"])
            _say(f"after {images} images the channel means of the grid differ from the data's by {drift} (of 255): {ADVICE}")
        return found

    return draw


def class_map(classes: tuple[str, ...], most: int = 20) -> str:
    """Labels and names of classes; a name that is its own label stands once."""
    shown = ", ".join(f"{k} {name}" if name != str(k) else name for k, name in enumerate(classes[:most]))
    return shown + (f", ... ({len(classes)} in all)" if len(classes) > most else "")


def summary(recipe: Recipe) -> str:
    """The settings of a recipe, one line a piece."""
    lines = [f"recipe: {recipe.name}"]
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if f.name in _FIXED:
            continue
        kind = f"{value.kind[1]} " if hasattr(value, "kind") else ""
        settings = [f"{g.name}={_short(getattr(value, g.name))}" for g in dataclasses.fields(value)] if value is not None else ["none"]
        lines.append(f"  {f.name}: {kind}{' '.join(settings)}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    return ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
