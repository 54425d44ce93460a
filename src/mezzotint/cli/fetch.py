"""``mezzotint fetch``."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from mezzotint.cli.arguments import parse


@dataclass(frozen=True)
class Arguments:
    """Fetches a published model into the user's cache; what broke off goes on where it stopped.

    The cache is $MEZZOTINT_CACHE, or mezzotint in the user's cache folder. A file that changed since its first use is refused.
    """

    name: tyro.conf.Positional[str]
    """A name of `mezzotint models`."""


def run(command: str, words: list[str]) -> int:
    """Fetches a model.

    Args:
        command: "fetch".
        words: The arguments.

    Raises:
        MezzotintError: There is no such model, its address cannot be reached, or its file changed.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")

    from mezzotint.checkpoint.cards import card, fetch_card
    from mezzotint.weights.hub import progress_bar

    place = fetch_card(card(given.name), bar=progress_bar)
    print(f"{given.name}: {place}")
    return 0
