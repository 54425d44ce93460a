"""Grids of sampling times.

A spacing is one of five things:

- a name that goes with a number of steps: "uniform" and "quadratic" in t, "logsnr" in log(alpha / sigma), "karras" in
  (sigma / alpha)^(1 / rho), "beta" at quantiles of a beta distribution of t, dense at both ends. "karras:5" sets rho (7), "beta:0.5" both
  parameters (0.6); "logsnr:1.5" raises the place along the grid to that power (1);
- a rule of ``mezzotint.sample.trajectory``, such as "even", "quad" or "trailing", keeps as many numbered levels as there are steps;
- an official respacing rule of the ADM line, which gives the number itself: "250", "10,15,20" (sections), "ddim25" (fixed stride);
- another noise schedule than that of training, "betas:1e-4,0.1": betas from the first number to the second in equal steps, as many as
  there are steps; for networks that know every noise level;
- the times themselves: "times:0.9,0.5,0.1".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.sample.trajectory import RULES, is_rule, kept_levels
from mezzotint.schedules import SNAP, Schedule
from mezzotint.types import Plan

DEFAULT_STEPS = 50
SPACINGS = ("uniform", "quadratic", "logsnr", "karras", "beta")
BETAS = "betas"
POWERS = {"logsnr": 1.0, "karras": 7.0, "beta": 0.6}
End = Tensor | float | Literal["last"]


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
        raise unknown("grid", rule, [*SPACINGS, *RULES, "250", "ddim25", "10,15,20", "times:0.9,0.5"])
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


def make_grid(schedule: Schedule, spacing: str, steps: int | None, *, t_start: Tensor | float | None = None, t_end: End = 0.0) -> Tensor:
    """The times of a sampling run.

    The network is evaluated at all but the last time. With the end 0, named spacings put the last evaluation at ``schedule.t_min`` (the
    first level of a discrete schedule) and then jump to 0; with another end they run straight to it.

    Args:
        schedule: Coordinate of the times.
        spacing: A named spacing, an official respacing rule, or the times at which the network is evaluated.
        steps: Number of steps; None: what the spacing gives, all levels of a discrete schedule, or 50.
        t_start: A number, or one for each image ``[b]``; None: ``schedule.t_max``.
        t_end: Where the run ends, likewise; "last" is ``schedule.t_min``, or the last of the given times.

    Returns:
        ``[steps + 1, b or 1]`` float64, strictly decreasing.

    Raises:
        ConfigError: An unknown spacing, or steps or ends that contradict it.
        CapabilityError: A respacing rule for a schedule without levels.

    Source: Lu et al. 2022 (DPM-Solver), appendix D; Karras et al. 2022, equation 5; Lee et al. 2024 (beta); Saharia et al. 2021 (SR3),
    section 2.4 (betas chosen after training).
    """
    name, _, rest = spacing.partition(":")
    if name == "times":
        return _given(schedule, rest, steps, t_start, t_end)
    if name == BETAS:
        return _of_betas(schedule, rest, steps, t_start, t_end)
    levels = schedule.levels
    if name not in SPACINGS:
        if levels is None:
            if re.fullmatch(r"(ddim)?\d+(,\d+)*", spacing):
                raise CapabilityError(f"grid '{spacing}' is a rule for numbered levels, which this model has not; use uniform with --steps")
            if is_rule(spacing):
                raise CapabilityError(f"grid '{spacing}' keeps numbered levels, which this model has not; use uniform")
            raise unknown("grid", spacing, [*SPACINGS, "times:0.9,0.5"])
        last = levels.new_zeros(1)
        if is_rule(spacing):
            wanted = DEFAULT_STEPS if steps is None else steps
            kept = kept_levels(len(levels), wanted, spacing)
            if isinstance(t_end, str):  # the first level, whether or not the rule keeps it
                kept = kept_levels(len(levels), wanted + 1, spacing)[1:] if kept[0] == 0 else kept
                t_end, last = 0.0, levels[:1]
        else:
            kept = respaced(len(levels), spacing)
        if steps is not None and steps != len(kept):
            raise ConfigError(f"grid '{spacing}' has {len(kept)} steps, and {steps} were asked for; leave out one of the two")
        if t_start is not None or not jumps_to_0(t_end):
            raise ConfigError(f"grid '{spacing}' runs over the whole process; use one of {', '.join(SPACINGS)} with other ends")
        return torch.cat([levels[kept].flip(0), last])[:, None]
    if steps is None:
        steps = DEFAULT_STEPS if levels is None or t_start is not None else len(levels)
    if steps < 1:
        raise ConfigError(f"{steps} steps; give at least 1")
    start = torch.as_tensor(schedule.t_max if t_start is None else t_start, dtype=torch.float64).reshape(-1)
    end = torch.as_tensor(schedule.t_min if isinstance(t_end, str) else t_end, dtype=torch.float64).reshape(-1)
    start, end = torch.broadcast_tensors(start, end)
    if not bool(((end >= 0) & (end < start)).all()):
        raise ConfigError(
            f"sampling must end at a smaller time than it starts at, and not below 0: it starts at {start.min():g}, and {end.max():g} was "
            "asked for; give 0, last or a time between"
        )
    jumps = jumps_to_0(end)
    last = torch.minimum(torch.full_like(start, schedule.t_min), start / 2) if jumps else end
    points = steps if jumps else steps + 1
    share = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    grid = _curve(schedule, name, _power(name, rest), _with_signal(schedule, start), last, share)
    grid[-1], grid[0] = last, start  # exact, whatever the curve rounds to
    grid = grid if levels is None else _apart(grid)
    return torch.cat([grid, end[None]]) if jumps else grid


def check_signal(schedule: Schedule, grid: Tensor, setting: str, instead: str) -> None:
    """For methods that work on eps alone, which says nothing of the image at pure noise.

    Args:
        schedule: Coordinate of the times.
        grid: The times, ``[n + 1, b or 1]``.
        setting: What needs some signal at the start, for the message.
        instead: What does not.

    Raises:
        CapabilityError: The grid starts from pure noise.
    """
    if not bool((schedule(grid[0])[0] > 0).all()):
        raise CapabilityError(f"{setting} cannot start from pure noise; use {instead}, or start below it")


def snapped(plan: Plan, schedule: Schedule, snap: Callable[[Tensor], Tensor]) -> Plan:
    """The plan at those numbered levels that are nearest, for networks that know no times between them.

    Each level is visited once at most; the end stays where it is. Adaptive plans, and those that keep to the levels, are left as they are.

    Args:
        plan: Any plan of a reverse run.
        schedule: Coordinate of its times.
        snap: ``Denoiser.snap``.

    Raises:
        ConfigError: More steps than there are levels on the way.

    Source: Karras et al. 2022, appendix C.3.2 (the grid of networks that know only some noise levels).
    """
    visited, end = plan.grid[:-1], plan.grid[-1:]
    nearest = snap(visited)
    if plan.adaptive or schedule.levels is None or torch.equal(nearest, visited):
        return plan
    count, num = len(visited), len(schedule.levels)
    place = torch.arange(count, dtype=torch.float64)[:, None]
    level = (nearest * num).round()
    least = (end * num + SNAP * num).floor() + 1  # the first level above the end
    level = (level + place).cummin(dim=0).values - place  # one below the one before, at least
    level = torch.maximum(level, least + (count - 1 - place))
    if bool((level[0] > num).any()):
        most = int(num - least.max()) + 1
        raise ConfigError(f"{count} steps, and this network knows {most} noise levels on the way; give at most so many steps")
    return replace(plan, grid=torch.cat([level / num, end]))


def jumps_to_0(t_end: End) -> bool:
    """Whether a run ends at 0, where the network is not evaluated and the log-SNR is infinite.

    Raises:
        ConfigError: Only some of the images end there.
    """
    if isinstance(t_end, str):
        return False
    zero = torch.as_tensor(t_end) == 0
    if bool(zero.any()) and not bool(zero.all()):
        raise ConfigError("some images end at 0 and others do not; sample them apart")
    return bool(zero.all())


def _given(schedule: Schedule, text: str, steps: int | None, t_start: Tensor | float | None, t_end: End) -> Tensor:
    try:
        given = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"grid 'times:{text}' is not a list of numbers; write it as in times:0.9,0.5,0.1") from None
    if t_start is not None:
        raise ConfigError("given times start where they say; leave out the start")
    if not isinstance(t_end, str):
        given.append(float(t_end))
    elif given[-1] <= 0:
        raise ConfigError("the last of the given times must be above 0; use --end 0 to end at 0")
    if given[0] > schedule.t_max or given[-1] < 0 or any(a <= b for a, b in pairwise(given)) or len(given) < 2:
        raise ConfigError(f"grid 'times:{text}' must fall strictly from at most {schedule.t_max:g} to the end; leave out the end itself")
    if steps is not None and steps != len(given) - 1:
        raise ConfigError(f"grid 'times:{text}' has {len(given) - 1} steps, and {steps} were asked for; leave out one of the two")
    return torch.tensor(given, dtype=torch.float64)[:, None]


def _linear_betas(first: float, last: float, steps: int) -> Tensor:
    """log alpha after each of the steps, ``[steps]``."""
    return 0.5 * torch.log1p(-torch.linspace(first, last, steps, dtype=torch.float64)).cumsum(0)


def _of_betas(schedule: Schedule, text: str, steps: int | None, t_start: Tensor | float | None, t_end: End) -> Tensor:
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        first = last = 0.0
    if not 0 < first <= last < 1:
        raise ConfigError(f"grid '{BETAS}:{text}' is not two growing numbers between 0 and 1; write it as in {BETAS}:1e-4,0.1")
    if t_start is not None or not (isinstance(t_end, str) or jumps_to_0(t_end)):
        raise ConfigError(f"grid '{BETAS}:{text}' runs over the whole process; use one of {', '.join(SPACINGS)} with other ends")
    log_alpha = _linear_betas(first, last, DEFAULT_STEPS if steps is None else steps)
    times = schedule.time_of(log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))).flip(0)
    if float(times[0]) > schedule.t_max + SNAP:
        raise ConfigError(
            f"grid '{BETAS}:{text}' goes beyond the noise that the network knows; lower the second number, or take fewer steps"
        )
    times[0] = times[0].clamp_max(schedule.t_max)
    return (times if isinstance(t_end, str) else torch.cat([times, times.new_zeros(1)]))[:, None]


def noise_schedules(schedule: Schedule, steps: int) -> list[str]:
    """Noise schedules of linear betas that go with a number of steps, for a search: several first betas, and several noises at the end.

    The noise at the end is given by the share of log alpha that the schedule has there; more than its own the network does not know.

    Source: Saharia et al. 2021 (SR3), section 2.4.
    """
    most = float(schedule(torch.tensor([schedule.t_max], dtype=torch.float64))[0].log())
    found = []
    for first in (1e-6, 1e-4, 1e-3):
        for share in (0.4, 0.6, 0.8, 1.0):
            low, high = first, 1 - 1e-6
            for _ in range(60):  # bisection for the last beta
                middle = (low + high) / 2
                enough = float(_linear_betas(first, middle, steps)[-1]) > share * most
                low, high = (middle, high) if enough else (low, middle)
            if low > first:
                found.append(f"{BETAS}:{first:g},{low:.9g}")
    return found


def _power(name: str, text: str) -> float:
    if not text:
        return POWERS.get(name, 1.0)
    try:
        power = float(text)
    except ValueError:
        power = 0.0
    if name not in POWERS or not 0 < power < float("inf"):
        raise ConfigError(f"grid '{name}:{text}': only {', '.join(POWERS)} take a number, which must be positive")
    return power


def _with_signal(schedule: Schedule, start: Tensor) -> Tensor:
    """The start; for a discrete schedule whose last step destroys the image altogether, the level below that."""
    if schedule.levels is None:
        return start
    alpha, _ = schedule(schedule.levels)
    return torch.where(schedule(start)[0] > 0, start, schedule.levels[alpha > 0].max())


def _apart(grid: Tensor) -> Tensor:
    """Moves the times of a discrete schedule apart, so that no two are taken for the same knot; the ends stay."""
    count, last = len(grid), grid[-1]
    gap = torch.minimum(torch.full_like(last, 2.5 * SNAP), (grid[0] - last) / count)
    place = torch.arange(count, dtype=torch.float64)[:, None]
    late = grid + place * gap
    grid = grid + (late.cummin(dim=0).values - late)  # exactly as it was where nothing is too close
    return torch.cat([torch.maximum(grid, last + (count - 1 - place) * gap)[:-1], last[None]])


def _curve(schedule: Schedule, name: str, power: float, start: Tensor, last: Tensor, share: Tensor) -> Tensor:
    """Times at shares ``[n, b]`` of the way from start to last, ``[b]`` each."""
    if name == "uniform":
        return start + share * (last - start)
    if name == "quadratic":
        return (start.sqrt() + share * (last.sqrt() - start.sqrt())) ** 2
    if name == "beta":
        from scipy.special import betaincinv  # comes with scikit-learn

        return last + torch.from_numpy(betaincinv(power, power, (1 - share).numpy())) * (start - last)
    to = schedule.half_log_snr(last)
    # Pure noise has no finite log-SNR: the curve then starts as far below 0 as the cleanest level is above it.
    floor = torch.minimum(-schedule.half_log_snr(torch.full_like(last, schedule.t_min)), to - 1)
    from_ = schedule.half_log_snr(start)
    from_ = torch.where(torch.isneginf(from_), floor, from_)
    if name == "logsnr":
        return schedule.time_of(to + (1 - share) ** power * (from_ - to))
    a, b = torch.exp(-from_ / power), torch.exp(-to / power)
    return schedule.time_of(-power * torch.log(a + share * (b - a)))
