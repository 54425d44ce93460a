"""``mezzotint models``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from mezzotint.cli.arguments import parse

if TYPE_CHECKING:
    from mezzotint.checkpoint.cards import Card


@dataclass(frozen=True)
class Arguments:
    """Lists published models that can be fetched and loaded by name."""

    name: tyro.conf.Positional[str | None] = None
    """A model, to print all that is known of it; without it a line on each."""


def run(command: str, words: list[str]) -> int:
    """Prints the cards of published models.

    Args:
        command: "models".
        words: The arguments.

    Raises:
        ConfigError: There is no model of that name.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")

    from mezzotint.checkpoint.cards import card, cards

    if given.name is not None:
        for line in describe(card(given.name)):
            print(line)
        return 0
    width = max(len(name) for name in cards())
    family = ""
    for name, entry in cards().items():
        if entry.family != family:
            family = entry.family
            print(f"{family}:")
        marks = [
            mark for mark, holds in (("fetched", entry.place.exists()), ("by hand", not entry.url), ("unproven", not entry.proven)) if holds
        ]
        notes = f" [{', '.join(marks)}]" if marks else ""
        print(f"  {name:<{width}}  {entry.what}{f'; {entry.scores}' if entry.scores else ''}{notes}")
    return 0


def describe(entry: Card) -> list[str]:
    """A card in lines."""
    sampling = entry.sampling
    how = "" if sampling is None else f"--sampler {sampling.sampler} --grid {sampling.grid}"
    if sampling is not None and sampling.steps is not None:
        how += f" --steps {sampling.steps}"
    facts = {
        "what": entry.what,
        "family": entry.family + ("" if entry.proven else " (its adapter has not been tried on a published file)"),
        "address": entry.url or f"{entry.page} (by hand: {entry.file})",
        "files": ", ".join(entry.files),
        "bytes": f"{entry.bytes:,}" if entry.bytes else "",
        "sha256": entry.sha256 or "",
        "parameters": f"{entry.parameters:,}" if entry.parameters else "",
        "schedule": entry.schedule + (f", {entry.steps} steps" if entry.steps else ""),
        "sampling": how,
        "guidance": f"--guidance {entry.guidance}" if entry.guidance else "",
        "scores": entry.scores,
        "cite": ", ".join(entry.cite),
        "cache": f"{entry.place}{'' if entry.place.exists() else ' (not fetched yet)'}",
    }
    return [entry.name, *(f"  {name}: {text}" for name, text in facts.items() if text)]
