"""Report pages: one HTML file with all pictures inside it, and the same as one PNG beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mezzotint.cli.pictures import grid
from mezzotint.tasks.compare import Result, Table, number, sweep, tabulate
from mezzotint.tasks.figures import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mezzotint.data import Source
    from mezzotint.metrics.statistics import Statistics
    from mezzotint.tasks.evaluate import Evaluation

WIDTH = 1000
"""Pixels of a report picture."""
SHOWN = 64
"""Images of a grid."""
SKETCHED = 1500
"""Images of each set in the sketch of precision and recall."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: .25em .8em; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
img { max-width: 100%; image-rendering: pixelated } .warning { color: #a33 } h2 { margin-top: 2em } .small { color: #666; font-size: 90% }
"""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Its heading.
        text: A remark below it.
        header: Column names of a table.
        rows: Its rows.
        pictures: Pictures, each a title and pixels ``[h, w, c]`` uint8.
        warnings: Sentences that stand out.
    """

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[tuple[str, np.ndarray]] = ()
    warnings: Sequence[str] = ()


def write_report(file: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes a report as HTML, and as a PNG beside it.

    Args:
        file: The HTML file.
        title: Of the page.
        sections: Its parts.

    Returns:
        The PNG.
    """
    from mezzotint.weights.io import write_text

    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *map(_html, sections)])
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    write_text(file, f'<!doctype html>\n<html lang="en">{head}\n{body}\n</html>\n')
    sheets = [_text_sheet([title], size=18), *(sheet for section in sections for sheet in _sheets(section))]
    picture = file.with_suffix(".png")
    Image.fromarray(np.concatenate(sheets)).save(picture)
    return picture


def _html(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f'<p class="small">{html.escape(section.text)}</p>')
    parts += [f'<p class="warning">Warning: {html.escape(words)}</p>' for words in section.warnings]
    if section.rows:
        head = f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in section.header)}</tr>" if section.header else ""
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in section.rows)
        parts.append(f"<table>{head}{rows}</table>")
    for title, pixels in section.pictures:
        data = base64.b64encode(_png(pixels)).decode()
        parts.append(f'<p class="small">{html.escape(title)}</p>\n<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">')
    return "\n".join(parts)


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(_rgb(pixels)).save(out, "PNG")
    return out.getvalue()


def _rgb(pixels: np.ndarray) -> np.ndarray:
    channels = pixels.shape[2]
    if channels in (2, 4):  # laid over white
        cover = pixels[..., -1:] / 255
        pixels = (pixels[..., :-1] * cover + 255 * (1 - cover)).round().astype(np.uint8)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)


def _sheets(section: Section) -> list[np.ndarray]:
    """A section as pictures of one width."""
    sheets = [_text_sheet([section.title], size=14)]
    words = ([section.text] if section.text else []) + [f"Warning: {words}" for words in section.warnings]
    if section.rows:
        table = [tuple(section.header), *section.rows] if section.header else list(section.rows)
        widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
        words += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    if words:
        sheets.append(_text_sheet(words, size=8, mono=True))
    for title, pixels in section.pictures:
        image = Image.fromarray(_rgb(pixels))
        if image.width > WIDTH - 40:
            image = image.resize((WIDTH - 40, round(image.height * (WIDTH - 40) / image.width)))
        sheet = np.full((image.height + 20, WIDTH, 3), 255, np.uint8)
        sheet[: image.height, 20 : 20 + image.width] = np.asarray(image)
        sheets += [_text_sheet([title], size=8), sheet]
    return sheets


def _text_sheet(words: Sequence[str], *, size: float, mono: bool = False) -> np.ndarray:
    import textwrap

    from matplotlib.figure import Figure

    wrapped = [line for text in words for line in (textwrap.wrap(text, 145, replace_whitespace=False, drop_whitespace=False) or [""])]
    height = len(wrapped) * size * 1.22 / 72 + 0.15
    figure = Figure((WIDTH / 100, height), dpi=100)
    figure.text(0.02, 0.98, "\n".join(wrapped), va="top", size=size, family="monospace" if mono else "sans-serif", parse_math=False)
    return _drawn(figure)


def _drawn(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


# --- one evaluation ------------------------------------------------------------------------------------------------------


def evaluation_sections(done: Evaluation) -> list[Section]:
    """The parts of a report on one evaluation."""
    rows = [
        (figure.label, number(figure.value), "" if figure.spread is None else f"± {number(figure.spread)}", figure.spread_of)
        for figure in done.figures.values()
    ]
    sections = [
        Section("Figures", header=("figure", "value", "spread", "what the spread is"), rows=rows, warnings=done.checks.warnings),
        Section("Protocol", "All that the figures depend on; cite it with them.", rows=_flat(done.protocol)),
    ]
    grids = []
    for given, what in ((done.sample_set, "samples"), (done.reference_set, "reference images")):
        if given.source is not None:
            grids.append((f"{what}, evenly spread over {given.path}", _some(given.source)))
    if grids:
        sections.append(Section("Images", pictures=grids))
    if (closest := _closest(done)) is not None:
        sections.append(closest)
    if "pool" in done.samples.vectors and "pool" in done.reference.vectors and len(done.reference.vectors["pool"]) > 3:
        words = "The features' two main directions. Filled: inside a neighbourhood of the other set, as precision and recall count it."
        sections.append(Section("Precision and recall, sketched", words, pictures=[("", sketch(done.samples, done.reference))]))
    return sections


def _flat(held: Any, above: str = "") -> list[tuple[str, str]]:
    if isinstance(held, dict):
        return [row for key, value in held.items() for row in _flat(value, f"{above}.{key}" if above else key)]
    text = (", ".join(map(str, held)) or "none") if isinstance(held, list) else str(held)
    return [] if held is None else [(above, text)]


def _some(source: Source) -> np.ndarray:
    count = min(SHOWN, len(source))
    return grid([source.array(k * len(source) // count) for k in range(count)])


def _closest(done: Evaluation, columns: int = 8) -> Section | None:
    """The samples that are nearest to training images, or to reference images where no training images were given."""
    from mezzotint.tasks.checks import nearest

    others = done.train_set or done.reference_set
    if done.sample_set.source is None or others.source is None:
        return None
    if done.memory is not None:
        pairs, what = list(done.memory.pairs), "training"
        words = (
            f"{done.memory.share_closer:.1%} of the samples are closer to a training image than half of {done.memory.baseline} "
            f"(50 % is what unseen images have), {done.memory.share_copies:.1%} closer than 1 % of them."
        )
    elif "pool" in done.samples.vectors and "pool" in done.reference.vectors:
        distance, row = nearest(done.samples.vectors["pool"][:SKETCHED], done.reference.vectors["pool"])
        assert done.samples.ids is not None
        assert done.reference.ids is not None
        order = distance.argsort()[:16].tolist()
        pairs = [(int(done.samples.ids[i]), int(done.reference.ids[row[i]]), float(distance[i])) for i in order]
        what, words = "reference", "Give the training images by --train to see whether any is repeated."
    else:
        return None
    tiles = []
    for start in range(0, len(pairs), columns):
        part = pairs[start : start + columns]
        blank = [np.zeros_like(done.sample_set.source.array(0))] * (columns - len(part)) if start else []
        tiles += [done.sample_set.source.array(s) for s, _, _ in part] + blank + [others.source.array(t) for _, t, _ in part] + blank
    title = f"samples (first, third row) above the nearest {what} image of each; distances {pairs[0][2]:.4g} to {pairs[-1][2]:.4g}"
    return Section("Nearest neighbours", words, pictures=[(title, grid(tiles, columns=min(columns, len(pairs))))])


def sketch(samples: Statistics, reference: Statistics, k: int = 3) -> np.ndarray:
    """Both sets in the plane of the reference's two main directions, with what precision and recall count. ``[h, w, 3]`` uint8."""
    import torch
    from matplotlib.figure import Figure

    from mezzotint.metrics.precision_recall import neighbour_radii, squared_distances

    ours, theirs = (held.vectors["pool"] for held in (samples, reference))
    ours, theirs = (rows[:: -(-len(rows) // SKETCHED)].float() for rows in (ours, theirs))
    if len(ours) <= k:
        k = max(1, len(ours) - 1)
    k = min(k, len(theirs) - 1)
    table = squared_distances(ours, theirs)
    precise = (table <= neighbour_radii(theirs, k)).any(dim=1).numpy()
    covered = (table <= neighbour_radii(ours, k)[:, None]).any(dim=0).numpy()
    middle = theirs.mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        axes = torch.pca_lowrank(theirs - middle, q=min(2, *theirs.shape), center=False)[2]
    figure = Figure((WIDTH / 100, 4.6), dpi=100)
    plots = figure.subplots(1, 2, sharex=True, sharey=True)
    views = [((rows - middle) @ axes).numpy() for rows in (ours, theirs)]
    views = [np.pad(view, ((0, 0), (0, 2 - view.shape[1]))) for view in views]
    titles = (f"samples: {precise.mean():.1%} among real images", f"real images: {covered.mean():.1%} among samples")
    for plot, front, back, inside, title in ((plots[0], *views, precise, titles[0]), (plots[1], *views[::-1], covered, titles[1])):
        plot.scatter(*back.T, s=4, c="#cccccc", linewidths=0)
        plot.scatter(*front[inside].T, s=9, c="#2866b2", linewidths=0)
        plot.scatter(*front[~inside].T, s=12, facecolors="none", edgecolors="#c0392b", linewidths=0.7)
        plot.set_title(title, size=10)
        plot.set_xticks([])
        plot.set_yticks([])
    figure.tight_layout()
    return _drawn(figure)


# --- several -------------------------------------------------------------------------------------------------------------


def comparison_sections(results: Sequence[Result], table: Table | None = None) -> list[Section]:
    """The parts of a report on several results: table, sweep of the guidance, precision against recall."""
    table = table or tabulate(results)
    sections = [Section("Figures", header=table.columns, rows=table.rows, warnings=table.warnings)]
    pictures = []
    if ordered := sweep(results):
        pictures.append(("figures against the scale of the guidance", _sweep_chart(ordered)))
    both = [r for r in results if {"precision", "recall"} <= r.figures.keys()]
    if len(both) > 1:
        pictures.append(("precision against recall", _plane(both)))
    if pictures:
        sections.append(Section("Charts", pictures=pictures))
    held = [dict(_flat(dict(result.protocol))) for result in results]
    rows = [(key, *(protocol.get(key, "") for protocol in held)) for key in dict.fromkeys(key for protocol in held for key in protocol)]
    sections.append(Section("Protocols", header=("", *(result.name for result in results)), rows=rows))
    return sections


def _sweep_chart(ordered: Sequence[tuple[float, Result]]) -> np.ndarray:
    from matplotlib.figure import Figure

    names = [name for name in METRICS if sum(name in r.figures for _, r in ordered) > 1]
    figure = Figure((WIDTH / 100, 2.6 * -(-len(names) // 3) + 0.2), dpi=100)
    plots = figure.subplots(-(-len(names) // 3), 3, squeeze=False).flat
    for plot in plots:
        plot.set_visible(False)
    for plot, name in zip(figure.axes, names, strict=False):
        plot.set_visible(True)
        points = [(scale, r.figures[name]) for scale, r in ordered if name in r.figures]
        errors = [float(f.get("spread") or 0) for _, f in points]
        plot.errorbar([s for s, _ in points], [f["value"] for _, f in points], errors, marker="o", ms=4, capsize=2, color="#2866b2")
        plot.set_title(f"{points[0][1].get('label', name)} ({'lower' if METRICS[name].lower else 'higher'} is better)", size=9)
        plot.set_xlabel("scale of the guidance", size=8)
        plot.tick_params(labelsize=8)
    figure.tight_layout()
    return _drawn(figure)


def _plane(results: Sequence[Result]) -> np.ndarray:
    from matplotlib.figure import Figure

    figure = Figure((6, 4.4), dpi=100)
    plot = figure.subplots()
    for result in results:
        x, y = (float(result.figures[name]["value"]) for name in ("recall", "precision"))
        plot.plot([x], [y], "o", ms=5)
        plot.annotate(result.name, (x, y), xytext=(5, 4), textcoords="offset points", size=8)
    plot.set_xlabel("recall")
    plot.set_ylabel("precision")
    plot.margins(0.15)
    figure.tight_layout()
    return _drawn(figure)
