"""Grids of sampling times.

A spacing is a name ("uniform", "quadratic") that goes with a number of steps, or one of the official respacing rules of the ADM line,
which give the number themselves: "250", "10,15,20" (sections) and "ddim25" (fixed stride).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.schedules import Schedule

DEFAULT_STEPS = 50
SPACINGS = ("uniform", "quadratic")


def respaced(num_levels: int, rule: str) -> list[int]:
    """The levels kept by an official respacing rule, increasing, counted from 0.

    Args:
        num_levels: Levels of the full process.
        rule: "ddimN": the smallest whole stride from 0 that keeps N levels. "n1,n2,...": equal sections of the process, from each of
            which so many levels are kept, both ends included.

    Raises:
        ConfigError: No stride gives N levels, or a section is shorter than its count.

    Source: Nichol & Dhariwal 2021, section 4; Dhariwal & Nichol 2021, section 4.3 (uneven sections).

    Example:
        >>> respaced(1000, "ddim5"), respaced(10, "3,2")
        ([0, 200, 400, 600, 800], [0, 2, 4, 5, 9])
    """
    if match := re.fullmatch(r"ddim(\d+)", rule):
        wanted = int(match[1])
        for stride in range(1, num_levels):
            if len(range(0, num_levels, stride)) == wanted:
                return list(range(0, num_levels, stride))
        raise ConfigError(f"no whole stride keeps exactly {wanted} of {num_levels} levels; use '{wanted}' in place of 'ddim{wanted}'")
    if not re.fullmatch(r"\d+(,\d+)*", rule):
        raise unknown("grid", rule, [*SPACINGS, "250", "ddim25", "10,15,20"])
    counts = [int(n) for n in rule.split(",")]
    size, extra = divmod(num_levels, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < extra)
        if length < count:
            raise ConfigError(f"cannot keep {count} of the {length} levels of section {section + 1} of '{rule}'; ask for at most {length}")
        stride = 1.0 if count <= 1 else (length - 1) / (count - 1)
        place = 0.0  # a running float, as in the official rule: its rounding decides some levels
        for _ in range(count):
            kept.append(start + round(place))
            place += stride
        start += length
    return sorted(set(kept))


def make_grid(
    schedule: Schedule, spacing: str, steps: int | None, *, t_start: Tensor | float | None = None, t_end: Tensor | float = 0.0
) -> Tensor:
    """The times of a sampling run.

    The network is evaluated at all but the last time. Named spacings put the last evaluation at ``schedule.t_min`` (the first level of a
    discrete schedule) and then jump to ``t_end``; with another end than 0 they run straight to it.

    Args:
        schedule: Coordinate of the times.
        spacing: "uniform" or "quadratic" in t, or an official respacing rule.
        steps: Number of steps; None: what the rule gives, all levels of a discrete schedule, or 50.
        t_start: A number, or one for each image ``[b]``; None: ``schedule.t_max``.
        t_end: Where the run ends, likewise.

    Returns:
        ``[steps + 1, b or 1]`` float64, strictly decreasing.

    Raises:
        ConfigError: An unknown spacing, or steps that contradict it.
        CapabilityError: A respacing rule for a schedule without levels.
    """
    end = torch.as_tensor(t_end, dtype=torch.float64).reshape(-1)
    levels = schedule.levels
    if spacing not in SPACINGS:
        if levels is None:
            if re.fullmatch(r"(ddim)?\d+(,\d+)*", spacing):
                raise CapabilityError(f"grid '{spacing}' is a rule for numbered levels, which this model has not; use uniform with --steps")
            raise unknown("grid", spacing, SPACINGS)
        kept = respaced(len(levels), spacing)
        if steps is not None and steps != len(kept):
            raise ConfigError(f"grid '{spacing}' has {len(kept)} steps, and {steps} were asked for; leave out one of the two")
        if t_start is not None or bool((end != 0).any()):
            raise ConfigError(f"grid '{spacing}' runs over the whole process; use uniform or quadratic with other ends")
        return torch.cat([levels[kept].flip(0), end])[:, None]
    if steps is None:
        steps = DEFAULT_STEPS if levels is None or t_start is not None else len(levels)
    if steps < 1:
        raise ConfigError(f"{steps} steps; give at least 1")
    start = torch.as_tensor(schedule.t_max if t_start is None else t_start, dtype=torch.float64).reshape(-1)
    start, end = torch.broadcast_tensors(start, end)
    if not bool((end < start).all()):
        raise ConfigError("sampling must end at a smaller time than it starts at")
    last = torch.where(end == 0, torch.minimum(torch.full_like(start, schedule.t_min), start / 2), end)
    points = steps if bool((end == 0).all()) else steps + 1
    share = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    if spacing == "uniform":
        inner = start + share * (last - start)
    else:
        inner = (start.sqrt() + share * (last.sqrt() - start.sqrt())) ** 2
    inner[0] = start  # exact, whatever the square root rounds to
    return torch.cat([inner, end[None]]) if points == steps else inner
