"""``mezzotint info``."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import CheckpointError, DataError

_MOST = 20
_OFFICIAL = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_HEADER_LIMIT = 100_000_000


@dataclass(frozen=True)
class Arguments:
    """Says what a path is: a model, a weight file (of other code too), a training run, a sample folder, an image, or a data set."""

    path: tyro.conf.Positional[Path]
    settings: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="NAME=VALUE")] = field(default=())
    """A fact that a weight file of other code does not tell, as in heads=4. May be repeated."""


def run(command: str, words: list[str]) -> int:
    """Prints what is known of a path.

    Args:
        command: "info".
        words: The path.

    Raises:
        MezzotintError: The path does not exist, or is none of these.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    path = given.path
    if not path.exists() and str(path) != "digits":
        raise DataError(f"{path} does not exist; give a model, weight file, run, sample folder, PNG or data set")
    for line in describe(path, given.settings):
        print(line)
    return 0


def describe(path: Path, settings: tuple[str, ...] = ()) -> list[str]:
    """What is known of a path, in lines.

    Args:
        path: What to describe.
        settings: Facts that a weight file of other code does not tell, as in "heads=4".

    Raises:
        MezzotintError: It cannot be read.
    """
    if path.suffix == ".safetensors":
        return _weight_file(path)
    if path.suffix.lower() == ".png" and path.is_file():
        return _png(path)
    for name, describer in (("spec.json", _model), ("run.json", _run), ("manifest.json", _samples)):
        if (path / name).is_file():
            return describer(path)
    if path.suffix.lower() in _OFFICIAL or (path / "config.json").is_file() or (path / "model_index.json").is_file():
        return _official(path, settings)
    return _data(path)


# --- weights -------------------------------------------------------------------------------------------------------------


def tensor_shapes(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]:
    """Type and shape of each tensor of a safetensors file, and its metadata; only the header is read.

    Raises:
        CheckpointError: The file is damaged.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _HEADER_LIMIT
        try:
            if length >= _HEADER_LIMIT:
                raise ValueError
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            shapes = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
            end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{path} is damaged: its header cannot be read; copy it again") from error
    if path.stat().st_size != end:
        raise CheckpointError(f"{path} is cut short: it has {path.stat().st_size} bytes, and its header speaks of {end}; copy it again")
    return shapes, metadata


def _count(path: Path) -> int:
    return sum(math.prod(shape) for _, shape in tensor_shapes(path)[0].values())


def _weight_file(path: Path) -> list[str]:
    shapes, metadata = tensor_shapes(path)
    lines = [f"{path}: weights, {len(shapes)} tensors, {_count(path):,} numbers"]
    lines += [f"  {name}: {value}" for name, value in sorted(metadata.items()) if name != "format"]
    return lines + [f"  {name}  {dtype} {list(shape)}" for name, (dtype, shape) in shapes.items()]


def _official(path: Path, settings: tuple[str, ...]) -> list[str]:
    from mezzotint.checkpoint.answers import parse_settings
    from mezzotint.checkpoint.convert import spec_of
    from mezzotint.checkpoint.families import open_official
    from mezzotint.cli.train import summary
    from mezzotint.weights.io import file_hash

    official = open_official(path, parse_settings(settings))
    spec = spec_of(official, sha256=file_hash(official.file))
    numbers = sum(value.numel() for value in official.state.values())
    lines = [
        f"{path}: weights of other code, {len(official.state)} tensors, {numbers:,} numbers; `mezzotint convert` makes a model of them"
    ]
    lines += [f"  {name}: {text}" for name, text in spec.provenance.items()]
    return lines + summary(spec.recipe).splitlines()


# --- models and runs -----------------------------------------------------------------------------------------------------


def _model(path: Path) -> list[str]:
    from mezzotint.cli.train import class_map, summary
    from mezzotint.weights.io import read_spec

    spec = read_spec(path)
    recipe, data = spec.recipe, spec.data
    what = "a generator of images" if recipe.task == "generate" else "a classifier of noisy images"
    lines = [f"{path}: {what}, {data.size[0]}x{data.size[1]} pixels, {data.channels} channels, {data.bits} bits"]
    if recipe.task == "generate":
        conditional = "class-conditional" if recipe.label is not None else "unconditional"
        lines[0] += f", {conditional}"
        sample = recipe.sample
        lines.append(f"sampled by: {sample.sampler}, grid {sample.grid}" + (f", {sample.steps} steps" if sample.steps else ""))
    lines.append(f"classes: {class_map(data.classes) or 'none'}")
    for number, name in enumerate(spec.before, start=1):
        stage = read_spec(path / name)
        height, width = stage.data.size
        lines.append(f"stage {number} of {len(spec.before) + 1}: {stage.recipe.name}, {height}x{width}, in {path / name}")
    for name, info in spec.weights.items():
        file = path / name
        size = f"{_count(file):,} parameters" if file.is_file() else "MISSING"
        average = average_words(info)
        lines.append(f"{name}: {size}, {average}, after {info.get('images', 0):,} images, sha256 {info['sha256'][:16]}")
    lines += [f"{name}: {value}" for name, value in spec.provenance.items()]
    return [*lines, *summary(recipe).splitlines()]


def average_words(info: dict[str, Any]) -> str:
    """What a weight file holds, by its entry in the spec."""
    if info.get("ema") is None:
        return "weights as trained"
    kind = "relative standard deviation" if info.get("profile") == "power" else "decay"
    warm = " (warmed up)" if info.get("profile") == "warmup" else ""
    over = f" over {info['updates']:,} updates" if info.get("updates") else ""
    return f"moving average of {kind} {info['ema']:.10g}{warm}{over}"


def _run(path: Path) -> list[str]:
    from mezzotint.weights.io import find_model, read_json

    settings = read_json(path / "run.json")
    budget = settings.get("train", {}).get("images", 0)
    done = (path / "model" / "spec.json").is_file()
    lines = [f"{path}: a run of recipe '{settings.get('name')}', {'finished' if done else 'not finished'}, {budget:,} images asked for"]
    last = _last_figures(path / "log.jsonl")
    if last:
        lines.append(f"seen so far: {last['images']:,} images in {last['step']:,} steps")
    checkpoints = sorted(p.name for p in (path / "checkpoints").glob("*") if p.name.isdigit())
    lines.append(f"checkpoints: {_listed([str(int(name)) for name in checkpoints]) or 'none yet'}")
    if not done and checkpoints:
        lines.append("go on with it by the same command with --resume")
    return [*lines, *_model(find_model(path))] if done or checkpoints else lines


def _last_figures(log: Path) -> dict[str, Any] | None:
    last = None
    if log.is_file():
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # a line that a killed process did not finish
                continue
            if entry.get("event") == "train":
                last = entry
    return last


# --- images --------------------------------------------------------------------------------------------------------------


def _samples(path: Path) -> list[str]:
    from mezzotint.weights.io import read_json

    manifest = read_json(path / "manifest.json")
    images = manifest.get("images", [])
    state = "complete" if manifest.get("complete") else "not complete; the same command goes on with it"
    if "pictures" in manifest:
        num = manifest.get("num")
        return [f"{path}: {len(manifest['pictures'])} enlarged pictures, {num} samples of each, {state}", *_enlarged(manifest)]
    lines = [f"{path}: {manifest.get('num')} samples (ids {manifest.get('ids')}), {state}", *_settings(manifest)]
    classes = Counter(entry["class"] for entry in images if entry.get("class") is not None)
    return [*lines, f"classes: {_listed([f'{name}={count}' for name, count in classes.items()])}"] if classes else lines


def _settings(recipe: dict[str, Any]) -> list[str]:
    model, job = recipe.get("model", {}), recipe.get("job", {})
    lines = [f"model: {model.get('path')}, {model.get('weights')}, sha256 {str(model.get('sha256'))[:16]}"]
    lines.append(", ".join(f"{name} {value}" for name, value in job.items() if name != "guidance"))
    lines += [f"guidance: {text}" for text in job.get("guidance", [])]
    return [*lines, "made with: " + ", ".join(f"{name} {value}" for name, value in recipe.get("versions", {}).items())]


def _enlarged(recipe: dict[str, Any]) -> list[str]:
    """How `mezzotint upscale` made a picture."""
    model, settings = recipe.get("model", {}), recipe.get("settings", {})
    lines = [f"model: {model.get('weights')}, sha256 {str(model.get('sha256'))[:16]}"]
    lines.append(", ".join(f"{name} {value}" for name, value in settings.items() if name != "guidance"))
    return [*lines, *(f"guidance: {text}" for text in settings.get("guidance", []))]


def _png(path: Path) -> list[str]:
    from mezzotint.cli.pictures import UPSCALED, read_png, read_recipe

    recipe, enlarged = read_recipe(path), read_recipe(path, UPSCALED)
    pixels = read_png(path)
    height, width, channels = pixels.shape
    kind = f"{height}x{width} pixels, {channels} channels, {8 * pixels.itemsize} bits"
    if recipe is None and enlarged is not None:
        source = f"sample {enlarged.get('sample')} of {enlarged.get('source')} (sha256 {str(enlarged.get('source_sha256'))[:16]})"
        return [f"{path}: {source}, enlarged by `mezzotint upscale`, {kind}", *_enlarged(enlarged)]
    if recipe is None:
        return [f"{path}: an image, {kind}; it carries no recipe of mezzotint"]
    label = f", class {recipe['class']} (label {recipe['label']})" if recipe.get("label") is not None else ""
    return [f"{path}: sample {recipe.get('id')}{label}, {kind}", *_settings(recipe), f"make it again with: mezzotint redo {path}"]


def _data(path: Path) -> list[str]:
    from mezzotint.configs import DataConfig
    from mezzotint.data import open_source

    source = open_source(DataConfig(path=str(path)))
    facts = source.facts
    lines = [
        f"{path}: a data set of {len(source)} images, {facts.size[0]}x{facts.size[1]} pixels, {facts.channels} channels, {facts.bits} bits"
    ]
    if source.labels is not None:
        counts = Counter(int(k) for k in source.labels)
        lines.append(f"classes: {_listed([f'{name}={counts[k]}' for k, name in enumerate(facts.classes)])}")
    lines += [f"note: {note}" for note in source.notes]
    return [*lines, f"fingerprint: {source.fingerprint}"]


def _listed(words: list[str]) -> str:
    return ", ".join(words[:_MOST]) + (f", ... ({len(words)} in all)" if len(words) > _MOST else "")
