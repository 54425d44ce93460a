"""Errors that a user can cause. Each message is one line: what was given, what is allowed, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MezzotintError(Exception):
    """Base of the errors that the command line prints as one line, with exit code 2."""


class ConfigError(MezzotintError):
    """A setting, flag or combination of settings that cannot work."""


class CapabilityError(MezzotintError):
    """A piece was asked for something that it declares it cannot do."""


class CheckpointError(MezzotintError):
    """A model folder or weight file that is missing, damaged or not understood."""


class DataError(MezzotintError):
    """A data set that is missing, damaged, empty or not what the settings expect."""


class TrainingError(MezzotintError):
    """A run that cannot go on: its numbers are not finite, or memory ran out."""


def unknown(what: str, given: object, allowed: Iterable[object], *, error: type[MezzotintError] = ConfigError) -> MezzotintError:
    """Builds the error for a name that is not in a list, with the nearest match.

    Args:
        what: The kind of thing, as in "sampler".
        given: The name that was given.
        allowed: The names that exist.
        error: The class of the error.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> str(unknown("sampler", "dim", ["ddim", "ancestral"]))
        "unknown sampler 'dim'; did you mean 'ddim'? Known: ancestral, ddim"
    """
    names = sorted(str(name) for name in allowed)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return error(f"unknown {what} '{given}'{hint} Known: {', '.join(names)}")
