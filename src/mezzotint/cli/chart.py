"""A chart of a few lines, drawn by Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 900, 600
LEFT, RIGHT, TOP, BOTTOM = 90, 300, 30, 70
COLOURS = (
    *((200, 40, 40), (40, 90, 180), (40, 140, 70), (150, 80, 170), (220, 130, 30), (60, 160, 170)),
    *((120, 120, 120), (160, 110, 60), (230, 120, 170), (150, 170, 40), (100, 180, 240), (60, 60, 60)),
)
INK, FAINT = (20, 20, 20), (220, 220, 220)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high.

    Example:
        >>> ticks(0, 10)
        [0, 2, 4, 6, 8, 10]
    """
    raw = (high - low) / 5 or 1.0
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, points: bool = True) -> np.ndarray:
    """Draws lines in one plane that begins at 0 on both axes.

    Args:
        lines: Name -> points (x, y), all at least 0; the first stands out.
        x: What the horizontal axis shows, with its unit.
        y: What the vertical axis shows.
        points: Mark the points.

    Returns:
        Pixels ``[h, w, 3]`` uint8.
    """
    every = [p for line in lines.values() for p in line]
    far, top = max(p[0] for p in every) or 1.0, max(p[1] for p in every) or 1.0
    image = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + point[0] / far * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - point[1] / top * (HEIGHT - TOP - BOTTOM)

    for value in ticks(0, far):
        across, down = place((value, 0))
        draw.line([(across, TOP), (across, down)], fill=FAINT)
        draw.text((across, down + 8), f"{value:g}", fill=INK, font=font, anchor="ma")
    for value in ticks(0, top):
        across, down = place((0, value))
        draw.line([(across, down), (WIDTH - RIGHT, down)], fill=FAINT)
        draw.text((across - 8, down), f"{value:g}", fill=INK, font=font, anchor="rm")
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 20), x, fill=INK, font=font, anchor="ms")
    draw.text((LEFT, TOP - 8), y, fill=INK, font=font, anchor="ls")
    for k, (name, line) in reversed(list(enumerate(lines.items()))):
        colour, width = COLOURS[k % len(COLOURS)], 4 if k == 0 else 2
        where = [place(p) for p in line]
        if len(where) > 1:
            draw.line(where, fill=colour, width=width, joint="curve")
        if points:
            for across, down in where:
                draw.ellipse([across - 2 - width, down - 2 - width, across + 2 + width, down + 2 + width], fill=colour)
        row = TOP + 22 * k + 10
        draw.line([(WIDTH - RIGHT + 14, row), (WIDTH - RIGHT + 34, row)], fill=colour, width=width)
        draw.text((WIDTH - RIGHT + 40, row), name, fill=INK, font=ImageFont.load_default(12), anchor="lm")
    return np.asarray(image)
