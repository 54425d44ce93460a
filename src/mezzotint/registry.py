"""Names of the exchangeable pieces: samplers, guidances, networks, schedules and so on.

A class enters under a kind and a name with ``@register("sampler", "ddim")``, in a module of the package that ``PACKAGES`` gives for
the kind. ``names`` reads the names from the source text, so that the command line can list them without importing torch.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from mezzotint.errors import ConfigError, unknown

PACKAGES = {
    "schedule": "mezzotint.schedules",
    "network": "mezzotint.networks",
    "codec": "mezzotint.codecs",
    "conditioner": "mezzotint.conditioning",
    "objective": "mezzotint.objectives",
    "sampler": "mezzotint.sample",
    "guidance": "mezzotint.guidance",
    "prior": "mezzotint.priors",
    "recipe": "mezzotint.recipes",
    "features": "mezzotint.metrics",
}
_ENTRY = re.compile(r"""^@register\(\s*["'](\w+)["']\s*,\s*["']([\w+-]+)["']""", re.MULTILINE)
_found: dict[tuple[str, str], Any] = {}
T = TypeVar("T")


def register(kind: str, name: str) -> Callable[[T], T]:
    """Enters a class or function under a kind and a name.

    Raises:
        ValueError: The kind is not in ``PACKAGES``, or the name is taken by something else.
    """
    if kind not in PACKAGES:
        raise ValueError(f"no kind '{kind}' in mezzotint.registry.PACKAGES")

    def enter(entry: T) -> T:
        held = _found.setdefault((kind, name), entry)
        if held is not entry and getattr(held, "__qualname__", None) != getattr(entry, "__qualname__", None):
            raise ValueError(f"{kind} '{name}' is registered twice")
        _found[kind, name] = entry
        return entry

    return enter


def _modules(kind: str) -> list[tuple[str, Path]]:
    package = PACKAGES[kind]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return []
    if spec.submodule_search_locations is None:
        return [(package, Path(spec.origin))]
    found = [(package, Path(spec.origin))]
    for folder in spec.submodule_search_locations:
        found += [(f"{package}.{m.name}", Path(folder) / f"{m.name}.py") for m in pkgutil.iter_modules([folder]) if not m.ispkg]
    return found


@lru_cache
def _where(kind: str) -> dict[str, str]:
    return {name: module for module, path in _modules(kind) for at, name in _ENTRY.findall(path.read_text(encoding="utf-8")) if at == kind}


def names(kind: str) -> list[str]:
    """The names of a kind, sorted, without importing the modules that define them."""
    return sorted(set(_where(kind)) | {name for at, name in _found if at == kind})


def get(kind: str, name: str) -> Any:
    """The class or function of a name.

    Raises:
        ConfigError: There is no such name; the message has the nearest match.
    """
    if (kind, name) not in _found:
        if name not in _where(kind):
            raise unknown(kind, name, names(kind))
        importlib.import_module(_where(kind)[name])
    return _found[kind, name]


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Splits "name,key=value,..." into the name and its settings.

    Raises:
        ConfigError: A part without "=".

    Example:
        >>> parse("ddim,eta=0.5")
        ('ddim', {'eta': '0.5'})
    """
    name, *parts = (part.strip() for part in text.split(","))
    settings = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{part}' in '{text}' is not key=value; write settings as in 'ddim,eta=0.5'")
        settings[key] = value
    return name, settings


def with_setting(text: str, key: str, value: str | None) -> str:
    """A text with one of its settings replaced or added; None: the text as it is.

    Example:
        >>> with_setting("ddim,eta=0.5", "eta", "1"), with_setting("ancestral", "variance", "optimal")
        ('ddim,eta=1', 'ancestral,variance=optimal')
    """
    if value is None:
        return text
    name, settings = parse(text)
    return ",".join([name, *(f"{k}={v}" for k, v in {**settings, key: value}.items())])


def call_with(function: Callable[..., T], settings: dict[str, str], *args: Any, what: str) -> T:
    """Calls a function with settings given as text, cast to the types of its keyword-only arguments.

    Args:
        function: A class or function whose keyword-only arguments are int, float, bool or str, or one of these or None.
        settings: Argument -> text. A Python keyword is written without the underscore that its argument ends in.
        args: Positional arguments, passed on.
        what: What is being built, for messages.

    Raises:
        ConfigError: An unknown or missing setting, or text that is not of its type.
    """
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
    options = {p.name.rstrip("_"): p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    given = {}
    for key, text in settings.items():
        if key not in options:
            raise unknown(f"setting of {what}", key, options or ["none"])
        given[options[key].name] = cast(text, hints[options[key].name], f"{what}: {key}")
    for key, option in options.items():
        if option.default is option.empty and option.name not in given:
            raise ConfigError(f"{what} needs '{key}'; write {what},{key}=...")
    return function(*args, **given)


def cast(text: str, hint: Any, where: str) -> Any:
    """A setting's text as a value of its type.

    Args:
        text: What was given.
        hint: int, float, bool, str, or several of these, with or without None; the first that fits is taken.
        where: What is being set, for the message.

    Raises:
        ConfigError: It fits none of them.
    """
    options = [o for o in (typing.get_args(hint) or (hint,)) if o is not type(None)]
    for option in options:
        if option is bool:
            if text.lower() in ("true", "yes", "1", "on", "false", "no", "0", "off"):
                return text.lower() in ("true", "yes", "1", "on")
            raise ConfigError(f"{where}={text}: expected true or false")
        try:
            return option(text)
        except ValueError:
            continue
    raise ConfigError(f"{where}={text}: expected {' or '.join(o.__name__ for o in options)}")


def build(kind: str, text: str, *args: Any) -> Any:
    """The piece of a text such as "ddim,eta=0.5".

    Raises:
        ConfigError: An unknown name or setting.
    """
    name, settings = parse(text)
    return call_with(get(kind, name), settings, *args, what=name)
