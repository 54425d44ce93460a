"""Trajectories over numbered levels: the rules of Bao et al.'s codes, and optimal ones by dynamic programming."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import torch

from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.moments import Moments
from mezzotint.process import step_variance
from mezzotint.schedules import Schedule

RULES = ("even", "stride", "quad", "power2", "trailing", "leading", "leading_open", "linspace", "linspace_open")


def is_rule(name: str) -> bool:
    """Whether a name is one of ``RULES``, or "power" or "leading:" with a number."""
    return name in RULES or re.fullmatch(r"power[1-9]\d*|leading(_open)?:\d+", name) is not None


def kept_levels(num_levels: int, steps: int, rule: str) -> list[int]:
    """The levels that a rule keeps, increasing, counted from 0.

    Args:
        num_levels: Levels of the full process, N.
        steps: How many are kept, K.
        rule: "even": evenly spaced, both ends included, rounded; "stride": every (N // K)-th from the first; "quad": evenly spaced
            squares up to 0.8 N; "power2": a square root's inverse, with gaps that shrink towards the noise, both ends included; other
            powers likewise. Those of diffusers: "trailing": in whole strides of N / K from the noisiest level; "leading": in strides of
            N // K from the cleanest, "leading:1" from the one after it; "linspace": evenly spaced, both ends included; "leading_open" and
            "linspace_open": for K + 1, without the cleanest, as its multistep solvers have it.

    Raises:
        ConfigError: An unknown rule, or one that does not give so many different levels.

    Source: Bao et al. 2022 (Analytic-DPM), appendix F (even); Song, Meng & Ermon 2021, appendix D.2 (stride, quad); Lin et al. 2024,
    table 2 (trailing, leading, linspace).

    Example:
        >>> kept_levels(1000, 10, "even")
        [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    """
    if not is_rule(rule):
        raise unknown("trajectory", rule, RULES)
    least = 1 if rule == "trailing" or "_open" in rule else 2
    if not least <= steps <= num_levels:
        raise ConfigError(f"{steps} of {num_levels} levels; keep at least {least} and at most all")
    name, _, offset = rule.partition(":")
    name, is_open, _ = name.partition("_")
    points = steps + bool(is_open)
    if name == "trailing":
        kept = [round(num_levels - k * (num_levels / steps)) - 1 for k in reversed(range(steps))]
    elif name == "leading":
        kept = [k * (num_levels // points) + int(offset or 0) for k in range(points)][points - steps :]
    elif name == "linspace":
        kept = [round(level) for level in np.linspace(0, num_levels - 1, points).tolist()][points - steps :]
    elif rule == "even":
        kept, place = [], 1.0  # a running float counted from 1, as in the official rule: its rounding decides some levels
        for _ in range(steps):
            kept.append(round(place) - 1)
            place += (num_levels - 1) / (steps - 1)
    elif rule == "stride":
        kept = list(range(0, num_levels, num_levels // steps))
    elif rule == "quad":
        kept = [int(root**2) for root in np.linspace(0, math.sqrt(0.8 * num_levels), steps).tolist()]
    else:
        power, kept = 1 / int(rule.removeprefix("power")), []
        for k in reversed(range(steps)):
            level = round((num_levels - 1) * (1 - (k / (steps - 1)) ** power) + 1) - 1
            kept.append(max(level, kept[-1] + 1) if kept else level)
    if len(kept) != steps or any(a >= b for a, b in pairwise(kept)) or kept[-1] >= num_levels:
        raise ConfigError(f"the trajectory '{rule}' does not keep exactly {steps} of {num_levels} levels; use even, or other steps")
    return kept


def least_cost_path(cost: np.ndarray, edges: int) -> list[int]:
    """The cheapest path from the first node to the last in exactly so many edges.

    Args:
        cost: ``[n, n]``: cost of the edge from s to t, for s < t; the rest is not read.
        edges: Number of edges, from 1 to n - 1.

    Returns:
        The nodes, ``edges + 1`` of them, increasing.

    Raises:
        ConfigError: No such path.

    Source: Watson et al. 2021, algorithm 1.

    Example:
        >>> least_cost_path(np.array([[0, 1, 9, 9], [0, 0, 1, 7], [0, 0, 0, 9], [0, 0, 0, 0]]), 2)
        [0, 1, 3]
    """
    size = len(cost)
    if not 1 <= edges < size:
        raise ConfigError(f"a path of {edges} steps over {size} nodes; give 1 to {size - 1}")
    forward = np.where(np.triu(np.ones((size, size), dtype=bool), 1), cost, np.inf)
    best = np.full(size, np.inf)
    best[0] = 0.0
    came = []
    for _ in range(edges):
        total = best[:, None] + forward
        came.append(total.argmin(axis=0))
        best = total.min(axis=0)
    path = [size - 1]
    for before in reversed(came):
        path.append(int(before[path[-1]]))
    return path[::-1]


def path_from_moments(schedule: Schedule, moments: Moments, steps: int) -> list[int]:
    """The levels, counted from 0, that make the bound of the Analytic-DPM smallest; needs no network.

    From the first level on whose moment exceeds 1, which theory forbids, the estimates are not trusted: that tail, doubled, gets evenly
    spaced levels, and the dynamic programme the rest.

    Args:
        schedule: A discrete one.
        moments: What was estimated on it.
        steps: How many levels to keep, K; the first and the last are among them.

    Raises:
        CapabilityError: The schedule has no levels.
        ConfigError: Too many steps, or hardly a moment that can be trusted.

    Source: Bao et al. 2022 (Analytic-DPM), theorem 3 and algorithm 1 of appendix B.
    """
    levels = schedule.levels
    if levels is None:
        raise CapabilityError("an optimal trajectory chooses among numbered levels, which this model has not; use another grid")
    count = len(levels)
    if not 2 < steps <= count:
        raise ConfigError(f"{steps} of {count} levels; keep at least 3 and at most all")
    second = moments.at(schedule, levels)
    bad = (second > 1).nonzero()
    tail = 0 if len(bad) == 0 else 2 * (count - int(bad[0, 0]))
    trusted = count - tail
    if trusted < 2:
        raise ConfigError("the moments exceed 1 at half of the noise levels; estimate them from more images")
    inside = math.ceil((1 - 0.8 * tail / count) * steps)
    inside = max(min(inside, trusted), steps - tail)
    if tail and inside == steps:
        inside -= 1
    t, s = levels[None, :trusted], levels[:trusted, None]
    share = step_variance(schedule, t, s) * second[None, :trusted] / schedule(t)[1] ** 2
    # Into pure noise every step costs the same, and that is no reason to choose one: the limit keeps it finite.
    kept = least_cost_path(torch.log1p(-share.clamp_max(1 - 1e-12)).numpy(), inside - 1)
    outside = steps - inside
    return kept + [round(count - tail / outside * k) - 1 for k in reversed(range(outside))]
