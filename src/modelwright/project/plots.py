"""The report's plots, as SVG that stands in the page: text that can be selected, and colours that the page's CSS gives.

Every plot says in its title and description what it shows, for whoever does not see it. Lengths are in the SVG's units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from modelwright.recipes.watch import moment, thousands

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 220, 16, 44  # margins; on the right stand the names
LOW = 160  # of a plot of one number
LINE = 16  # between the baselines of two names


class Dot(NamedTuple):
    """One rung on one candidate: what it cost and what it reached."""

    name: str
    seconds: float
    value: float
    low: float
    high: float
    lower: float  # the bound that is held against the target
    chosen: bool


class Bar(NamedTuple):
    name: str
    planned: float | None
    actual: float | None


# -- quality against cost ----------------------------------------------------------------------------------------


def scatter(dots: Sequence[Dot], target: float, top: float, metric: str) -> str:
    """Score over seconds, each with its interval and the bound below it, and the line of the target."""
    if not dots:
        return ""
    x = log_scale([max(dot.seconds, 0.01) for dot in dots], LEFT, WIDTH - RIGHT, CLOCK)
    y = linear_scale(0.0, top, HEIGHT - BOTTOM, TOP)
    ticks = [top * i / 5 for i in range(6)]
    parts = [grid_y(ticks, y, WIDTH - RIGHT), axis_x(x, "time, training and measuring (log scale)", clock)]
    parts.append(line(LEFT, y(target), WIDTH - RIGHT, y(target), "target"))
    parts.append(text(LEFT + 4, y(target) - 5, f"target {target:g}", "target-name"))
    heights = apart([y(dot.value) for dot in dots], LINE, TOP + 6, HEIGHT - BOTTOM)
    for dot, height in zip(dots, heights, strict=True):
        at = x(max(dot.seconds, 0.01))
        kind = "dot chosen" if dot.chosen else "dot"
        parts.append(line(at, y(dot.low), at, y(dot.high), "interval"))
        parts.append(line(at - 5, y(dot.lower), at + 5, y(dot.lower), "bound"))
        parts.append(f'<circle class="{kind}" cx="{at:.1f}" cy="{y(dot.value):.1f}" r="{6 if dot.chosen else 4}"/>')
        parts.append(line(at + 8, y(dot.value), WIDTH - RIGHT + 8, height, "leader"))
        weight = "name chosen" if dot.chosen else "name"
        parts.append(text(WIDTH - RIGHT + 12, height + 4, f"{dot.name}  {dot.value:.3g}", weight))
    said = "; ".join(f"{d.name}: {d.value:.3g} ({d.low:.3g} to {d.high:.3g}) for {moment(d.seconds)}" for d in dots)
    return svg(f"{metric} against time", f"Target {target:g}. {said}.", parts)


def apart(heights: Sequence[float], least: float, top: float, bottom: float) -> list[float]:
    """The same heights in the same order, moved so that none is nearer than `least` to the next, if there is room."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    least = min(least, (bottom - top) / max(1, len(heights) - 1))
    placed = [0.0] * len(heights)
    floor = top
    for rank, i in enumerate(order):
        rest = len(order) - 1 - rank  # these must still fit below
        placed[i] = min(max(heights[i], floor), bottom - rest * least)
        floor = placed[i] + least
    return placed


# -- planned against actual ----------------------------------------------------------------------------------------


def bars(rows: Sequence[Bar], title: str, words: Callable[[float], str]) -> str:
    """Planned and actual amounts of each step, one under the other."""
    rows = [row for row in rows if row.planned or row.actual]
    if not rows:
        return ""
    left, step = 190, 34
    most = max(max(row.planned or 0, row.actual or 0) for row in rows)
    scale = linear_scale(0.0, most, left, WIDTH - 110)
    parts = []
    for i, row in enumerate(rows):
        y = TOP + i * step
        parts.append(text(left - 10, y + 16, row.name, "name end"))
        for amount, top, kind in ((row.planned, y, "planned"), (row.actual, y + 12, "actual")):
            if amount:
                parts.append(rect(left, top, scale(amount) - left, 10, kind))
                parts.append(text(scale(amount) + 6, top + 9, words(amount), "small"))
    said = "; ".join(
        f"{row.name}: planned {words(row.planned) if row.planned else 'nothing'}, "
        f"actual {words(row.actual) if row.actual else 'not run'}"
        for row in rows
    )
    return svg(title, said, parts, TOP + len(rows) * step + 4)


# -- the learning curve --------------------------------------------------------------------------------------------


def learning(
    points: Sequence[tuple[int, float]], band: Sequence[tuple[int, float, float, float]], target: float, top: float
) -> str:
    """Scores over the size of the training part, and the band of what more would bring: (n, value, low, high)."""
    x = log_scale([n for n, *_ in band], LEFT, WIDTH - RIGHT)
    y = linear_scale(0.0, top, HEIGHT - BOTTOM, TOP)
    edge = [(x(n), y(high)) for n, _, _, high in band] + [(x(n), y(low)) for n, _, low, _ in reversed(band)]
    parts = [
        grid_y([top * i / 5 for i in range(6)], y, WIDTH - RIGHT),
        axis_x(x, "training examples (log scale)", thousands),
    ]
    parts.append(f'<polygon class="band" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in edge)}"/>')
    middle = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value, _, _ in band)
    parts.append(f'<polyline class="curve" points="{middle}"/>')
    parts.append(line(LEFT, y(target), WIDTH - RIGHT, y(target), "target"))
    parts.append(text(LEFT + 4, y(target) - 5, f"target {target:g}", "target-name"))
    parts += [f'<circle class="dot" cx="{x(n):.1f}" cy="{y(value):.1f}" r="4"/>' for n, value in points]
    said = "; ".join(f"{n:,} examples: {value:.3g}" for n, value in points)
    n, value, low, high = band[-1]
    return svg("Learning curve", f"{said}. Predicted for {n:,}: {value:.3g} ({low:.3g} to {high:.3g}).", parts)


# -- a course ------------------------------------------------------------------------------------------------------


def course(name: str, points: Sequence[tuple[float, float]]) -> str:
    """A number of a training run over its steps."""
    if len(points) < 2:
        return ""
    low, high = (round(end(value for _, value in points), 3) for end in (min, max))
    x = linear_scale(points[0][0], points[-1][0], LEFT, WIDTH - RIGHT)
    y = linear_scale(low, high, LOW - BOTTOM, TOP)
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    parts = [grid_y((low, high), y, WIDTH - RIGHT), f'<polyline class="curve" points="{path}"/>']
    parts += [text(x(step), LOW - BOTTOM + 18, f"{step:,.0f}", "tick middle") for step, _ in (points[0], points[-1])]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, LOW - 8, "steps", "axis-name middle"))
    parts.append(text(WIDTH - RIGHT + 12, y(points[-1][1]) + 4, f"{name}  {points[-1][1]:.3g}", "name"))
    return svg(name, f"From {points[0][1]:.3g} to {points[-1][1]:.3g}.", parts, LOW)


# -- pieces --------------------------------------------------------------------------------------------------------


class Scale(NamedTuple):
    """A number -> a place, with the numbers that are marked."""

    place: Callable[[float], float]
    ticks: tuple[float, ...]

    def __call__(self, number: float) -> float:
        return self.place(number)


def linear_scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return Scale(lambda number: start + (min(max(number, low), high) - low) / span * (end - start), (low, high))


ROUND = tuple(10.0**power * lead for power in range(-3, 12) for lead in (1, 3))
CLOCK = (*(at for at in ROUND if at < 60), *(unit * n for unit in (60.0, 3600.0) for n in (1, 3, 10, 30)), 3.6e5, 3.6e6)


def log_scale(numbers: Iterable[float], start: float, end: float, marked: Iterable[float] = ROUND) -> Scale:
    """Room for all numbers and a little more; ticks at those of `marked` that lie among them."""
    found = list(numbers)
    low, high = math.log10(min(found)) - 0.15, math.log10(max(found)) + 0.15
    return Scale(
        lambda number: start + (math.log10(number) - low) / (high - low) * (end - start),
        tuple(tick for tick in marked if low <= math.log10(tick) <= high),
    )


def clock(seconds: float) -> str:
    """A round time in one unit: 600 -> '10 min'."""
    unit, name = (1, "s") if seconds < 60 else (60, "min") if seconds < 3600 else (3600, "h")
    return f"{seconds / unit:g} {name}"


def grid_y(ticks: Iterable[float], y: Scale, right: float) -> str:
    return "".join(
        line(LEFT, y(t), right, y(t), "grid") + text(LEFT - 8, y(t) + 4, f"{t:.3g}", "tick end") for t in ticks
    )


def axis_x(x: Scale, name: str, words: Callable[[float], str]) -> str:
    def marks() -> Iterator[str]:
        for tick in x.ticks:
            yield line(x(tick), HEIGHT - BOTTOM, x(tick), HEIGHT - BOTTOM + 5, "axis")
            yield text(x(tick), HEIGHT - BOTTOM + 18, words(tick), "tick middle")

    axis = line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis")
    return axis + "".join(marks()) + text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, name, "axis-name middle")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}" rx="2"/>'


def text(x: float, y: float, said: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(said)}</text>'


def svg(title: str, said: str, parts: Iterable[str], height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img"><title>{escape(title)}</title>'
        f"<desc>{escape(said)}</desc>{''.join(parts)}</svg>"
    )
