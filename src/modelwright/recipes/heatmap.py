"""Grids of heat maps: what each head looks at, drawn with matplotlib's objects and none of its global state."""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

ENDINGS = (".png", ".svg", ".pdf")
CELL, SMALLEST, LARGEST, ROW = 0.11, 1.1, 4.4, 22.0  # inches: of a token, of a panel, and of a row of panels
FONT, LETTER, LINE, ELIDED = 6, 0.055, 0.095, 12  # points; inches of a letter and a line; letters in a label
GAP, HEADING = 0.14, 0.55  # inches between panels, and above a grid
PIXELS = 5000  # across, at most
SCALE = PowerNorm(0.5, 0.0, 1.0)  # of many tokens each gets little, and a linear scale would show the largest alone


@dataclass(frozen=True)
class Grid:
    """Heads of some layers: a row for each layer, a column for each head."""

    name: str
    queries: Sequence[str]  # T tokens, down each panel
    keys: Sequence[str]  # S tokens, across
    layers: Sequence[int]
    weights: Tensor  # (L, H, T, S)


def check(path: Path) -> None:
    """Raises ValueError for another ending than `ENDINGS`, FileNotFoundError where the directory is missing."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path} has no ending that says what to draw: use {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent} to write {path.name} into: make it first")


def save(figure: Figure, path: Path) -> None:
    """Whole or not at all: into a file beside it, then renamed."""
    beside = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    dpi = min(150, PIXELS / figure.get_figwidth())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
            figure.savefig(beside, dpi=dpi, format=path.suffix[1:].lower())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def draw(grids: Sequence[Grid], title: str) -> Figure:
    """The grids one under the other; one colour scale for all."""
    sizes = [extent(grid) for grid in grids]
    bar = 0.9
    width = max(max(w for w, _ in sizes) + bar, 0.2 + LETTER * 1.5 * len(title))
    height = sum(h for _, h in sizes) + 0.45
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    words(figure, 0.1, height - 0.12, title, size=10, va="top")
    colours = ScalarMappable(SCALE, colormaps["viridis"].with_extremes(bad="white"))
    top = height - 0.45
    for grid, (_, high) in zip(grids, sizes, strict=True):
        panels(figure, grid, top, colours)
        top -= high
    axes = box(figure, width - bar + 0.2, height - 0.45 - HEADING - 1.8, 0.12, 1.8)
    figure.colorbar(colours, cax=axes, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1]).ax.tick_params(labelsize=FONT + 1)
    return figure


def panels(figure: Figure, grid: Grid, top: float, colours: ScalarMappable) -> None:
    wide, high = side(grid, grid.keys), side(grid, grid.queries)
    left = margin(grid.queries) + 0.25
    words(figure, 0.1, top - 0.05, grid.name, size=9, va="top", weight="bold")
    for row, layer in enumerate(grid.layers):
        bottom = top - HEADING - (row + 1) * high - row * GAP
        words(figure, 0.1, bottom + high / 2, f"layer {layer}", size=FONT + 2, rotation=90, va="center")
        for head in range(grid.weights.size(1)):
            axes = box(figure, left + head * (wide + GAP), bottom, wide, high)
            panel(axes, grid.weights[row, head], colours)
            label(axes, grid, first=head == 0, last=row == len(grid.layers) - 1)
            if row == 0:
                axes.set_title(f"head {head}", fontsize=FONT + 2, pad=3)


def panel(axes: Axes, weights: Tensor, colours: ScalarMappable) -> None:
    """White is a weight of nothing at all: what a query may not look at, or what float32 cannot tell from nothing."""
    seen = weights.float().masked_fill(weights == 0, float("nan")).numpy()
    axes.imshow(seen, cmap=colours.get_cmap(), norm=SCALE, aspect="auto", interpolation="nearest")
    axes.tick_params(length=0, pad=1.5)
    for spine in axes.spines.values():
        spine.set(linewidth=0.4, color="0.6")


def label(axes: Axes, grid: Grid, first: bool, last: bool) -> None:
    """Tokens beside the first panel of each row, and under the panels of the last."""
    for axis, tokens, there in ((axes.yaxis, grid.queries, first), (axes.xaxis, grid.keys, last)):
        every = math.ceil(len(tokens) * LINE / side(grid, tokens))
        places = range(0, len(tokens), every) if there else []
        axis.set_ticks([*places], [elided(tokens[at]) for at in places], fontsize=FONT, parse_math=False)
    axes.tick_params(axis="x", rotation=90)


def extent(grid: Grid) -> tuple[float, float]:
    """Inches across and down."""
    heads, rows = grid.weights.size(1), len(grid.layers)
    across = margin(grid.queries) + 0.25 + heads * (side(grid, grid.keys) + GAP)
    return across, HEADING + rows * (side(grid, grid.queries) + GAP) + margin(grid.keys)


def side(grid: Grid, tokens: Sequence[str]) -> float:
    """Inches of a panel: by its tokens, but not more than a row has room for."""
    most = min(LARGEST, max(1.5 * SMALLEST, ROW / grid.weights.size(1)))
    return min(max(CELL * len(tokens), SMALLEST), most)


def margin(tokens: Sequence[str]) -> float:
    return 0.15 + LETTER * max(len(elided(token)) for token in tokens)


def elided(token: str) -> str:
    return token if len(token) <= ELIDED else token[: ELIDED - 1] + "…"


def box(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


def words(figure: Figure, x: float, y: float, text: str, **how: Any) -> None:
    w, h = figure.get_size_inches()
    figure.text(x / w, y / h, text, parse_math=False, **how)
