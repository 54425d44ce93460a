"""``mezzotint list``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import tyro

from mezzotint import registry
from mezzotint.cli.arguments import parse
from mezzotint.errors import unknown


@dataclass(frozen=True)
class Arguments:
    """Lists the names that other commands take, such as samplers, guidances and recipes."""

    kind: tyro.conf.Positional[str | None] = None
    """What to list, with a line on each name and its settings; without it the names of every kind."""


def run(command: str, words: list[str]) -> int:
    """Prints names.

    Args:
        command: "list".
        words: The arguments.

    Raises:
        ConfigError: There is no such kind.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if given.kind is None:
        for kind in sorted(registry.PACKAGES):
            if found := registry.names(kind):
                print(f"{kind + ':':<14}{', '.join(found)}")
        return 0
    kind = _singular(given.kind)
    for name in registry.names(kind):
        entry = registry.get(kind, name)
        doc = (inspect.getdoc(entry) or "").splitlines()
        print(f"{_with_settings(name, entry)}\n    {doc[0] if doc else ''}")
        if kind == "recipe" and (score := entry().score):
            print(f"    published: {score}")
    return 0


def _singular(word: str) -> str:
    for kind in registry.PACKAGES:
        if word in (kind, f"{kind}s"):
            return kind
    raise unknown("kind", word, registry.PACKAGES)


def _with_settings(name: str, entry: object) -> str:
    """A name with its settings and their defaults, as it is written on the command line."""
    maker = getattr(entry, "attach", entry)
    if not callable(maker):
        return name
    options = [p for p in inspect.signature(maker).parameters.values() if p.kind is p.KEYWORD_ONLY]
    texts = [f"{p.name.rstrip('_')}={'...' if p.default is p.empty else p.default}" for p in options]
    return ",".join([name, *texts])
