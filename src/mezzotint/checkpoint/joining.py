"""Joins models into a cascade, in one model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mezzotint.checkpoint.loading import load
from mezzotint.configs import Spec, to_dict
from mezzotint.errors import ConfigError
from mezzotint.pipelines.cascade import Cascade, StageSettings, with_settings
from mezzotint.pipelines.generate import Model
from mezzotint.weights.io import SPEC_FILE, WeightSet, fill_model, read_spec, replacing, write_text

FOLDER = "stage-{}"
"""Subfolder of a stage before the last, by its number."""


def join(paths: Sequence[str | Path], out: str | Path, *, settings: StageSettings | None = None, ema: float | bool = True) -> Cascade:
    """Writes a cascade: the folder of its last stage, with the stages before it in subfolders.

    Args:
        paths: What ``load`` takes, in order: model folders, runs, official files, or names of published models.
        out: The folder to be made.
        settings: Settings by which single stages are sampled, to be kept with them.
        ema: Which weights to check and, where only these can be kept, to keep; as for ``load``.

    Returns:
        The cascade, on the CPU.

    Raises:
        ConfigError: Stages that do not go together, or a folder that exists.
        CheckpointError: A model cannot be read, or the folder cannot be written.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"{out} already exists; give another --out")
    models = []
    for path in paths:
        model = load(path, ema=ema, device="cpu")
        if not isinstance(model, Model):
            raise ConfigError(f"{path} is a classifier, which makes no images; a cascade is made of models of `mezzotint train`")
        models.append(model)
    for number, own in (settings or {}).items():
        if not 1 <= number <= len(models):
            raise ConfigError(f"settings of stage {number}, and the stages are 1 to {len(models)}")
        models[number - 1].spec = with_settings(models[number - 1].spec, own)
    Cascade(models).job(num=1)  # stages that do not go together are found here
    before = tuple(FOLDER.format(k) for k in range(1, len(models)))
    with replacing(out) as temporary:
        for name, model in zip(before, models[:-1], strict=True):
            _write(temporary / name, model, model.spec)
        _write(temporary, models[-1], replace(models[-1].spec, before=before))
    done = load(out, ema=ema, device="cpu")
    assert isinstance(done, Cascade)
    return done


def set_stage(folder: Path, number: int, settings: dict[str, object]) -> None:
    """Changes how a stage of a cascade on disk is sampled.

    Args:
        folder: The cascade.
        number: The stage, from 1.
        settings: Names and values of ``SampleConfig``.

    Raises:
        CheckpointError: The file system refuses.
    """
    before = read_spec(folder).before
    place = folder / before[number - 1] if number <= len(before) else folder
    _write_spec(place, with_settings(read_spec(place), settings))


def _write(place: Path, model: Model, spec: Spec) -> None:
    """All files of a model folder, or the weights alone of a model of other code."""
    place.mkdir(exist_ok=True)
    if model.path is None:
        network = model.stage.denoiser.network.state_dict()
        fill_model(place, spec, [WeightSet({name: value.contiguous() for name, value in network.items()})])
        return
    for file in model.path.iterdir():
        if file.is_file() and file.name != SPEC_FILE:
            shutil.copyfile(file, place / file.name)
    _write_spec(place, spec)


def _write_spec(place: Path, spec: Spec) -> None:
    write_text(place / SPEC_FILE, json.dumps(to_dict(spec), indent=2) + "\n")
