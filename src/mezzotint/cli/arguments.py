"""Typed arguments: tyro reads them, and what it says of a mistake becomes one line."""

from __future__ import annotations

import ast
import inspect
import io
import linecache
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TypeVar

import tyro

from mezzotint.errors import ConfigError

T = TypeVar("T")
_RULE = "\u2500"  # tyro draws boxes around what it says


def parse(kind: Callable[..., T], words: Sequence[str], *, prog: str, description: str | None = None) -> T:
    """Reads the arguments of a command.

    Args:
        kind: A dataclass whose fields are the arguments.
        words: The words after the command.
        prog: The command as the user types it.
        description: First lines of the help; None: the docstring of ``kind``.

    Returns:
        The arguments.

    Raises:
        ConfigError: An unknown option (the message has the nearest one), a missing one, or a value that does not fit.
        SystemExit: With code 0, after ``--help`` was printed.
    """
    said = io.StringIO()
    wants_help = any(word in ("-h", "--help") for word in words)
    try:
        with redirect_stderr(said), _columns(None if wants_help else 1000), _modules_parsed_once():
            # Mirrored flags (--no-x) are listed only for settings that are on by default.
            return tyro.cli(kind, args=list(words), prog=prog, description=description, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(f"{_reason(said.getvalue())}; see {prog} --help") from None


@contextmanager
def _modules_parsed_once() -> Iterator[None]:
    """Lets tyro, which reads help texts from the source of each settings class, have its lines without a new parse of the whole module.

    That is what ``inspect`` does for each class up to Python 3.12, and took most of the time of ``--help``.
    """
    find, known = inspect.findsource, dict[str, tuple[list[str], dict[str, int]]]()

    def findsource(thing: object) -> tuple[list[str], int]:
        if not isinstance(thing, type) or (file := inspect.getsourcefile(thing)) is None:
            return find(thing)  # pyright: ignore[reportArgumentType]
        if file not in known:
            lines = linecache.getlines(file)
            classes = [node for node in ast.parse("".join(lines)).body if isinstance(node, ast.ClassDef)]
            known[file] = lines, {node.name: min(d.lineno for d in (*node.decorator_list, node)) - 1 for node in classes}
        lines, starts = known[file]
        return (lines, starts[thing.__qualname__]) if thing.__qualname__ in starts else find(thing)

    inspect.findsource = findsource
    try:
        yield
    finally:
        inspect.findsource = find


@contextmanager
def _columns(width: int | None) -> Iterator[None]:
    """Tells tyro of a wide terminal, so that its messages are not wrapped."""
    before = os.environ.get("COLUMNS")
    if width is not None:
        os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is not None:
            os.environ["COLUMNS"] = before
        elif width is not None:
            del os.environ["COLUMNS"]


def _reason(box: str) -> str:
    """The gist of one of tyro's boxes."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    body = [line.strip("\u2502").rstrip() for line in plain.splitlines() if line.startswith("\u2502")]
    sections = "\n".join(body).split(_RULE * 3)
    first = sections[0].strip("\n")
    if found := re.search(r"Unrecognized options: (.*)", first):
        wrong = found[1].split(", ")
        near = re.search(r"Perhaps you meant:\s+(--\S+)", plain.replace("\u2502", " "))
        what = "option" if wrong[0].startswith("-") else "argument"
        return f"unknown {what} {wrong[0]}" + (f"; did you mean {near[1].split(',')[0]}?" if near else "")
    if "Missing from" in first:
        missing = [line.split(", ")[0].strip() for line in first.splitlines()[1:] if re.match(r" {5}\S", line)]
        return f"missing: {', '.join(missing)}" if missing else " ".join(first.split())
    text = " ".join(first.split("\n \n")[0].split())
    text = re.split(r" Got errors:", text)[0]
    text = re.sub(r"Error parsing (\S+): no type matching (.*) could be instantiated from \[(.*)\]\.?", r"\1 \3: expected \2", text)
    text = re.sub(r"[Ii]nvalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)", r"\2 '\1': expected one of \3", text)
    return text.rstrip(".;") or "the arguments cannot be understood"
