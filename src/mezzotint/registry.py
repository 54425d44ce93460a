"""Names of the exchangeable pieces: samplers, guidances, networks, schedules and so on.

A class enters under a kind and a name with ``@register("sampler", "ddim")``, in a module of the package that ``PACKAGES`` gives for
the kind. ``names`` reads the names from the source text, so that the command line can list them without importing torch.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from mezzotint.errors import unknown

PACKAGES = {
    "schedule": "mezzotint.schedules",
    "network": "mezzotint.networks",
    "conditioner": "mezzotint.conditioning",
    "times": "mezzotint.times",
    "objective": "mezzotint.objectives",
    "sampler": "mezzotint.sample",
    "guidance": "mezzotint.guidance",
    "recipe": "mezzotint.recipes",
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
    return {
        name: module
        for module, path in _modules(kind)
        for at, name in _ENTRY.findall(path.read_text(encoding="utf-8"))
        if at == kind
    }


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
