"""Results side by side: one table, with a warning wherever two of them were not measured alike."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mezzotint.errors import DataError
from mezzotint.tasks.figures import METRICS, NAMES

MEASURED = ("images", "image_size", "channels", "pixels", "brought_to", "resize")
"""Parts of a protocol that must agree for figures to be comparable; beside them feature network, reference and settings."""
SAMPLED = ("sampler", "steps", "grid", "guidance", "ema", "clip")
"""Parts that say how samples were made: what is compared, and no reason for a warning."""


@dataclass(frozen=True)
class Result:
    """A result of `mezzotint evaluate --json`.

    Attributes:
        name: What to call it.
        figures: Metric -> ``value``, ``spread``, ``spread_of``, ``label``.
        protocol: What the figures depend on.
        warnings: What the checks warned of.
    """

    name: str
    figures: Mapping[str, Mapping[str, Any]]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Results side by side.

    Attributes:
        columns: First "samples", then how they were sampled where that differs, then the figures by their labels.
        rows: One a result, and one for each group of results that differ in their seeds alone.
        warnings: Where the protocols differ, one sentence each.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...] = field(default=())


def read_result(file: Path) -> Result:
    """Reads a result.

    Raises:
        DataError: The file is missing, damaged or something else.
    """
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise DataError(f"{file} cannot be read ({reason}); give files that `mezzotint evaluate --json` wrote") from error
    return result_of(held, file.stem, str(file))


def result_of(held: Any, name: str, where: str) -> Result:
    """The result in what ``Evaluation.to_dict`` gave.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(held, dict) or not isinstance(held.get("protocol"), dict):
        raise DataError(f"{where} is no result of `mezzotint evaluate --json`: it has no protocol; measure again, or give another file")
    figures = {key: held[key] for key in NAMES if isinstance(held.get(key), dict) and isinstance(held[key].get("value"), int | float)}
    if not figures:
        raise DataError(f"{where} holds no figure; give a result of `mezzotint evaluate --json`")
    checks = held.get("checks")
    return Result(name, figures, held["protocol"], tuple(checks.get("warnings", ())) if isinstance(checks, dict) else ())


def measured(result: Result, metric: str | None = None) -> dict[str, Any]:
    """How figures were measured: what must agree before they are compared.

    Args:
        result: The result.
        metric: Add the settings of this metric.
    """
    protocol = result.protocol
    reference = protocol.get("reference") or {}
    held = {key: protocol.get(key) for key in MEASURED}
    held |= {"features": protocol.get("features"), "reference": reference.get("hash"), "reference images": reference.get("images")}
    if metric is not None:
        held[f"settings of {metric}"] = (protocol.get("settings") or {}).get(metric)
        if metric in METRICS and METRICS[metric].vectors_of_both:
            held["reference images with vectors"] = reference.get("vectors")
    return held


def differences(results: Sequence[Result]) -> tuple[str, ...]:
    """Where results were measured in different ways, one sentence each; empty where they may stand in one table."""
    found: dict[str, None] = {}
    first = results[0]
    for other in results[1:]:
        shared = [name for name in first.figures if name in other.figures]
        for metric in (None, *shared):
            here, there = measured(first, metric), measured(other, metric)
            for key in here:
                if here[key] != there.get(key):
                    found[
                        f"{other.name} is not comparable with {first.name}: {key} is {_brief(there.get(key))}, not {_brief(here[key])}"
                    ] = None
    return tuple(found)


def tabulate(results: Sequence[Result], *, spreads: bool = True) -> Table:
    """Puts results into one table.

    Results that were sampled alike but for the seed are followed by their mean and standard deviation.

    Args:
        results: At least one.
        spreads: Show them.
    """
    metrics = [name for name in NAMES if any(name in result.figures for result in results)]
    varied = [key for key in SAMPLED if len({json.dumps(result.protocol.get(key)) for result in results}) > 1]
    labels = {
        name: _shared([str(result.figures[name].get("label", name)) for result in results if name in result.figures], name)
        for name in metrics
    }
    rows = []
    for result in results:
        cells = [_cell(result.figures.get(name), labels[name] is None, spreads) for name in metrics]
        rows.append((result.name, *(_plain(result.protocol.get(key)) for key in varied), *cells))
    for group in _seed_groups(results):
        cells = [_mean(group, name) for name in metrics]
        rows.append((f"mean of {len(group)} seeds", *(_plain(group[0].protocol.get(key)) for key in varied), *cells))
    columns = ("samples", *varied, *(labels[name] or name for name in metrics))
    return Table(columns, tuple(rows), differences(results))


def _shared(labels: Sequence[str], name: str) -> str | None:
    """The label that all have; None where they differ, so that each cell must carry its own."""
    return labels[0] if len(set(labels)) == 1 else None


def _cell(figure: Mapping[str, Any] | None, own_label: bool, spreads: bool) -> str:
    if figure is None:
        return "-"
    text = number(figure["value"])
    if spreads and figure.get("spread") is not None:
        text += f" ± {number(figure['spread'])}"
    return f"{text} ({figure.get('label')})" if own_label else text


def _mean(group: Sequence[Result], name: str) -> str:
    if not all(name in result.figures for result in group):
        return "-"
    values = [float(result.figures[name]["value"]) for result in group]
    return f"{number(statistics.fmean(values))} ± {number(statistics.stdev(values))}"


def _seed_groups(results: Sequence[Result]) -> list[list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        model = (result.protocol.get("model") or {}).get("sha256")
        if model is not None:
            alike = {key: result.protocol.get(key) for key in SAMPLED} | {"model": model} | measured(result)
            groups.setdefault(json.dumps(alike, sort_keys=True), []).append(result)
    seeds = {key: {(r.protocol.get("seeds") or {}).get("samples") for r in group} for key, group in groups.items()}
    return [group for key, group in groups.items() if len(group) > 1 and len(seeds[key]) == len(group)]


def sweep(results: Sequence[Result]) -> list[tuple[float, Result]]:
    """Results ordered by the scale of their guidance, where they differ in nothing else of it; empty without such a sweep."""
    scales = []
    for result in results:
        guidance = result.protocol.get("guidance")
        if guidance is None:
            return []
        texts = list(guidance)
        found = [re.search(r"(?:^|,)scale=(-?[\d.]+)", text) for text in texts]
        scale = next((float(m[1]) for m in found if m), None)
        if scale is None:
            scale = 0.0 if not texts else None
        if scale is None:
            return []
        scales.append((scale, result))
    kinds = {tuple(re.sub(r"scale=-?[\d.]+", "", text) for text in r.protocol["guidance"]) for _, r in scales if r.protocol["guidance"]}
    if len({scale for scale, _ in scales}) < 2 or len(kinds) > 1:
        return []
    if kinds and all(text.startswith("cfg") for text in next(iter(kinds))):
        scales = [(1.0 if not r.protocol["guidance"] else scale, r) for scale, r in scales]  # 1 is no classifier-free guidance
    return sorted(scales, key=lambda pair: pair[0])


def number(value: float) -> str:
    """A figure with four significant digits.

    Example:
        >>> number(2.34567), number(0.000123456), number(187)
        ('2.346', '0.0001235', '187')
    """
    return f"{value:.4g}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value)) or "none"
    return "?" if value is None else str(value)


def _brief(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{value.get('name')} ({str(value['sha256'])[:8]})"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def lines(table: Table) -> list[str]:
    """A table as lines of text."""
    widths = [max(len(row[k]) for row in (table.columns, *table.rows)) for k in range(len(table.columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (table.columns, *table.rows)]
