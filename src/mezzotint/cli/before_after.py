"""Before and after: a page with a slider over each pair of pictures, and a sheet of pairs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

LONGEST = 1600
"""Longest side of a picture on the page; larger ones are made smaller."""
CELL = 384
"""Side of a cell of the sheet."""


@dataclass(frozen=True)
class Pair:
    """A picture and what became of it.

    Attributes:
        name: Its name.
        before: ``[h, w, c]`` uint8 or uint16.
        after: The samples, ``[H, W, c]`` each.
        profile: ICC profile of both.
    """

    name: str
    before: np.ndarray
    after: Sequence[np.ndarray]
    profile: bytes = b""


def shown(pixels: np.ndarray) -> Image.Image:
    """A picture of any kind as one of 8 bits that every browser shows."""
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def slider_page(pairs: Iterable[Pair], *, title: str) -> str:
    """A self-contained page: each pair lies one over the other, and a slider moves the border between them.

    Args:
        pairs: The pictures.
        title: Heading of the page.
    """
    figures = "\n".join(_figure(pair) for pair in pairs)
    return _PAGE.replace("{{title}}", html.escape(title)).replace("{{figures}}", figures)


def _figure(pair: Pair) -> str:
    height, width, _ = pair.after[0].shape
    name, before = html.escape(pair.name), _data(pair.before, pair.profile)
    buttons = (
        "".join(f'<button type="button" data-k="{k}">sample {k}</button>' for k in range(len(pair.after))) if len(pair.after) > 1 else ""
    )
    after = "".join(f'<img class="after" alt="{name}, enlarged" src="{_data(x, pair.profile)}">' for x in pair.after)
    small = f"{pair.before.shape[1]} x {pair.before.shape[0]}"
    return (
        f'<figure><div class="pair" style="aspect-ratio:{width}/{height};max-width:{max(width, 256)}px">'
        f'<img class="before" alt="{name}" src="{before}">{after}'
        f'<input type="range" min="0" max="100" value="50" aria-label="border between before and after"></div>'
        f"<figcaption>{name}: {small} to {width} x {height} {buttons}"
        f'<label><input type="checkbox" class="square"> show pixels</label></figcaption></figure>'
    )


def _data(pixels: np.ndarray, profile: bytes) -> str:
    image = shown(pixels)
    out = io.BytesIO()
    if max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    image.save(out, "PNG", icc_profile=profile or None)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def sheet(pairs: Sequence[Pair]) -> np.ndarray:
    """Pairs side by side, two pairs a row: bicubic enlargement at the left, the first sample at the right.

    Args:
        pairs: The pictures.

    Returns:
        ``[H, W, 3]`` uint8.
    """
    gap, columns = 4, min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    paper = Image.new("RGB", (columns * (2 * CELL + 3 * gap), rows * (CELL + gap)), (255, 255, 255))
    for k, pair in enumerate(pairs):
        row, column = divmod(k, columns)
        small, large = shown(pair.before).convert("RGB"), shown(pair.after[0]).convert("RGB")
        factor = CELL / max(large.size)
        size = (max(1, round(large.width * factor)), max(1, round(large.height * factor)))
        x, y = column * (2 * CELL + 3 * gap), row * (CELL + gap)
        paper.paste(small.resize(large.size, Image.Resampling.BICUBIC).resize(size, Image.Resampling.BICUBIC), (x, y))
        paper.paste(large.resize(size, Image.Resampling.BICUBIC), (x + CELL + gap, y))
    return np.asarray(paper)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{title}}</title>
<style>
body { font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; background: #fafafa }
figure { margin: 0 0 2rem }
.pair { position: relative; width: 100%; --at: 50% }
.pair img { position: absolute; inset: 0; width: 100%; height: 100% }
.pair .after { clip-path: inset(0 0 0 var(--at)); display: none }
.pair .after.on { display: block }
.pair::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; background: #fff; box-shadow: 0 0 3px #000 }
.pair input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; z-index: 1 }
.pair:focus-within { outline: 2px solid #47f }
.square .before { image-rendering: pixelated }
figcaption { display: flex; gap: 1rem; flex-wrap: wrap }
</style>
<h1>{{title}}</h1>
<p>Left of the border: before, as a browser enlarges it. Right of it: after.</p>
{{figures}}
<script>
for (const figure of document.querySelectorAll("figure")) {
  const pair = figure.querySelector(".pair"), after = figure.querySelectorAll(".after");
  after[0].classList.add("on");
  pair.querySelector("input").addEventListener("input", e => pair.style.setProperty("--at", e.target.value + "%"));
  figure.querySelector(".square").addEventListener("change", e => pair.classList.toggle("square", e.target.checked));
  for (const button of figure.querySelectorAll("button"))
    button.addEventListener("click", () => after.forEach((image, k) => image.classList.toggle("on", k == button.dataset.k)));
}
</script>
</html>
"""
