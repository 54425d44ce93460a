"""Facts that a weight file does not tell, answered by name: ``--set heads=4``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mezzotint.checkpoint.official.base import OfficialModel
from mezzotint.configs import DiscreteConfig, FlowConfig, VEConfig, VPConfig, from_dict, to_dict
from mezzotint.errors import ConfigError, unknown

PARTS = ("net", "schedule", "denoiser", "label", "low_res", "codec")
"""Parts of a model whose settings can be answered, in the order in which a bare name is looked for."""
HINTS: Mapping[str, Mapping[str, str]] = {
    "preconditioning": {"edm": "edm-any.pkl", "vp": "baseline-any-vp.pkl", "ve": "baseline-any-ve.pkl"},
    "sde": {"ve": "ve/any.pth", "vp": "vp/any.pth"},
}
"""Facts that published file names tell: name -> answer -> a file name that says so."""
_SAME = {
    "scheduler": "schedule",
    "attention_head_dim": "head_channels",
    "norm_num_groups": "groups",
    "norm_eps": "eps",
    "freq_shift": "wave_shift",
    "flip_sin_to_cos": "sine_first",
    "downsample_padding": "corner",
    "label.drop": "drop",
}
_INSTEAD = {"heads": "head_channels", "schedule": "betas"}
_CONTINUOUS = {"vp": VPConfig, "ve": VEConfig, "flow": FlowConfig}


def hint(settings: Mapping[str, Any]) -> str | None:
    """The file name that says what the answers say, or None.

    Raises:
        ConfigError: An answer that does not exist.
    """
    for name, answers in HINTS.items():
        if name in settings:
            if settings[name] not in answers:
                raise unknown(f"value of {name}", settings[name], answers)
            return answers[settings[name]]
    return None


def apply(model: OfficialModel, settings: Mapping[str, Any]) -> OfficialModel:
    """A model with facts answered, and no longer listed as assumed.

    Args:
        model: As it was recognised.
        settings: Name -> value, or its text: "heads", "schedule.steps", ...; a bare name is looked for in the network first.

    Raises:
        ConfigError: An unknown name, or a value that does not fit.
    """
    for name, value in settings.items():
        if name in HINTS:
            continue
        if name == "size":
            model = replace(model, size=from_dict(_Size, {"size": _parsed(value)}).size)
        elif name in ("schedule", "scheduler"):
            model = replace(model, schedule=_schedule(model, str(value)))
        else:
            model = _changed(model, name, value)
    if "drop" in {_last(name) for name in settings} and model.label is not None:
        rows = getattr(model.net, "num_classes", None) or 0
        model = replace(model, label=replace(model.label, num_classes=rows - (model.label.drop > 0)))
    given = {_last(name) for name in settings}
    left = tuple(name for name in model.assumed if not given & {name, _last(name), _INSTEAD.get(_last(name), name)})
    return replace(model, assumed=left)


def ask(model: OfficialModel) -> str:
    """The answers that a model still needs, with the usual values, as they are typed."""
    return " ".join(f"--set {_asked(name)}={_usual(model, name)}" for name in model.assumed)


@dataclasses.dataclass(frozen=True)
class _Size:
    size: int


def _asked(name: str) -> str:
    return "label.drop" if name == "label.drop" else _SAME.get(name, name)


def _last(name: str) -> str:
    return _SAME.get(name, name).rpartition(".")[2]


def _usual(model: OfficialModel, name: str) -> str:
    if name in HINTS:
        return "|".join(HINTS[name])
    name = _asked(name)
    if name == "size":
        return str(model.size or 64)
    if name == "schedule":
        return model.schedule.betas if isinstance(model.schedule, DiscreteConfig) else model.schedule.kind[1]
    value = getattr(getattr(model, _part(model, name)), name.rpartition(".")[2])
    return (
        ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value).lower() if value in (None, True, False) else str(value)
    )


def _part(model: OfficialModel, name: str) -> str:
    part, _, field = name.rpartition(".")
    found = [p for p in ([part] if part else PARTS) if p in PARTS and field in _fields(getattr(model, p))]
    if not found:
        known = [f"{p}.{f}" for p in PARTS for f in _fields(getattr(model, p))]
        raise unknown("setting", name, [*known, "size", "schedule", *HINTS])
    return found[0]


def _fields(config: Any) -> list[str]:
    return [] if config is None else [f.name for f in dataclasses.fields(config)]


def _changed(model: OfficialModel, name: str, value: Any) -> OfficialModel:
    name = _SAME.get(name, name) if name != "label.drop" else name
    part = _part(model, name)
    held = getattr(model, part)
    return replace(model, **{part: from_dict(type(held), {**to_dict(held), name.rpartition(".")[2]: _parsed(value)})})


def _schedule(model: OfficialModel, value: str) -> Any:
    if value in _CONTINUOUS:
        return model.schedule if model.schedule.kind[1] == value else _CONTINUOUS[value]()
    held = model.schedule if isinstance(model.schedule, DiscreteConfig) else DiscreteConfig()
    return from_dict(DiscreteConfig, {**to_dict(held), "betas": value, "custom": None})


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if "," in value:
        return [_parsed(part) for part in value.split(",")]
    if value.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[value.lower()]
    try:
        return json.loads(value)
    except ValueError:
        return value


def parse_settings(texts: tuple[str, ...]) -> dict[str, str]:
    """Reads "name=value" texts.

    Raises:
        ConfigError: A text without "=".

    Example:
        >>> parse_settings(("heads=4", "schedule=cosine"))
        {'heads': '4', 'schedule': 'cosine'}
    """
    out = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"--set {text}: write it as name=value, as in --set heads=4")
        out[name.strip()] = value.strip()
    return out
