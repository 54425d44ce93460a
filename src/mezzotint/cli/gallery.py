"""The picture of the demonstration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN = 1000, 20
LABEL = 190
"""Width of the words before a band."""
ROWS = 5
"""Images of each class."""
PAPER, INK, FAINT = 255, 20, 105


@dataclass(frozen=True)
class Band:
    """One line of images: what it is, in a few words, a remark, and groups of images ``[h, w, 1]`` uint8 with space between them."""

    title: str
    remark: str
    groups: Sequence[Sequence[np.ndarray]]


class _Sheet:
    """A white sheet that is filled from above."""

    def __init__(self, height: int):
        self.image = Image.new("L", (WIDTH, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self.y = MARGIN

    def write(self, text: str, *, size: float, x: float = MARGIN, down: float = 0, ink: int = INK, anchor: str = "la") -> None:
        self._draw.text((x, self.y + down), text, fill=ink, font=ImageFont.load_default(size), anchor=anchor)

    def heading(self, text: str, remark: str, *, x: float = MARGIN) -> None:
        self.write(text, size=21, x=x)
        self.write(remark, size=14, x=x, down=28, ink=FAINT)

    def tile(self, pixels: np.ndarray, x: float, y: float, side: int) -> None:
        """An image as ink on paper. So few pixels are easier to read without their corners."""
        small = Image.fromarray(255 - pixels[..., 0])
        self.image.paste(small.resize((side, side), Image.Resampling.BICUBIC), (round(x), round(y)))

    def band(self, band: Band, side: int, gap: int) -> list[float]:
        """Draws a band; returns where its images begin."""
        self.write(band.title, size=15, down=side / 2 - 1, anchor="ld")
        self.write(band.remark, size=12, down=side / 2 + 2, ink=FAINT)
        places, x = [], float(MARGIN + LABEL)
        for group in band.groups:
            for pixels in group:
                self.tile(pixels, x, self.y, side)
                places.append(x)
                x += side + gap
            x += 4 * gap
        self.y += side + gap
        return places


def draw_gallery(
    *,
    classes: Sequence[str],
    real: Sequence[Sequence[np.ndarray]],
    sampled: Sequence[Sequence[np.ndarray]],
    sweep: Sequence[Band],
    trajectory: Sequence[Band],
    steps: Sequence[int],
) -> np.ndarray:
    """Draws the gallery.

    Args:
        classes: Names of the classes.
        real: Real images of each class.
        sampled: Samples of each class.
        sweep: The same samples under several guidances.
        trajectory: One sample as it comes about.
        steps: Number of the step of each image of the trajectory.

    Returns:
        ``[H, W, 1]`` uint8.
    """
    sheet = _Sheet(1600)
    middle = WIDTH // 2 + MARGIN
    sheet.heading("Samples by class", "8x8 pixels, made from noise, without guidance")
    sheet.heading("Real digits", "scans that no network was trained on", x=middle)
    sheet.y += 56
    gap = 6
    side = (WIDTH - middle - MARGIN + gap) // len(classes) - gap
    for left, groups in ((MARGIN, sampled), (middle, real)):
        for k, group in enumerate(groups):
            x = left + k * (side + gap)
            sheet.write(classes[k], size=14, x=x + side / 2, ink=FAINT, anchor="ma")
            for row, pixels in enumerate(group[:ROWS]):
                sheet.tile(pixels, x, sheet.y + 24 + row * (side + gap), side)
    sheet.y += 24 + ROWS * (side + gap) + 24
    sheet.heading(
        "Guidance", "each column begins with the same noise; the stronger the guidance, the clearer the images, and the more alike"
    )
    sheet.y += 60
    groups = sweep[0].groups
    side = (WIDTH - 2 * MARGIN - LABEL - 4 * gap * (len(groups) - 1)) // sum(map(len, groups)) - gap
    for band in sweep:
        sheet.band(band, side, gap)
    sheet.y += 24
    sheet.heading(
        "From noise to image", "one sample after some of the sampler's steps, and the image that the network expects at each of them"
    )
    sheet.y += 60
    places: list[float] = []
    side = (WIDTH - 2 * MARGIN - LABEL) // len(steps) - gap
    for band in trajectory:
        places = sheet.band(band, side, gap)
    for x, step in zip(places, steps, strict=True):
        sheet.write(f"step {step}" if step == steps[0] else str(step), size=13, x=x + side / 2, ink=FAINT, anchor="ma")
    sheet.y += 18 + MARGIN
    return np.asarray(sheet.image)[: sheet.y, :, None]
