"""``mezzotint compare``."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.cli.evaluate import check_places
from mezzotint.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Puts results of `mezzotint evaluate --json` into one table, and warns where they were not measured alike."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Files of results."""
    report: Path | None = None
    """Write a page with the table and charts, such as a sweep of the guidance, to this .html file, and a .png beside it."""
    json: Path | None = None
    """Write the table to this file."""


def run(command: str, words: list[str]) -> int:
    """Prints the table.

    Args:
        command: "compare".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    if not given.results:
        raise ConfigError("no results; give files that `mezzotint evaluate --json` wrote")
    if given.report is not None and given.report.suffix != ".html":
        raise ConfigError(f"--report {given.report}: give a file that ends in .html; its picture is written beside it")
    check_places(given.report, given.json)

    from mezzotint.tasks.compare import lines, read_result, tabulate
    from mezzotint.weights.io import write_text

    results = [read_result(file) for file in given.results]
    table = tabulate(results)
    for line in lines(table):
        print(line)
    for words_ in table.warnings:
        warnings.warn(words_, stacklevel=1)
    if given.json is not None:
        held = {"columns": table.columns, "rows": table.rows, "warnings": table.warnings}
        write_text(given.json, json.dumps(held, indent=2, ensure_ascii=False) + "\n")
        print(f"table: {given.json}")
    if given.report is not None:
        from mezzotint.cli.report import comparison_sections, write_report

        picture = write_report(given.report, "Comparison", comparison_sections(results, table))
        print(f"report: {given.report}, {picture}")
    return 0
