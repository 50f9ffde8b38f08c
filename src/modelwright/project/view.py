"""The climb while it runs: a table that fills, on a terminal; elsewhere a line for each thing that happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from modelwright.project.ladder import BASE, Cost, Entry
from modelwright.project.report import number, short
from modelwright.recipes.watch import Screen, moment, size

STYLES = {"waiting": "dim", "running": "bold", "done": "", "skipped": "dim", "spared": "dim"}
EVERY = 10.0  # seconds between two lines of progress where there is no terminal


class View(Screen):
    """A screen for the recipes, whose progress becomes a line under the ladder's table."""

    def __init__(self, target: float, metric: str, *, plain: bool = False):
        super().__init__()
        self.target, self.metric = target, metric
        self.entries: tuple[Entry, ...] = ()
        self.progress = ""
        self.live: Live | None = None
        if self.console.is_terminal and not plain:
            self.live = Live(console=self.console, refresh_per_second=4, get_renderable=self.drawn)

    @contextmanager
    def shown(self) -> Iterator[View]:
        if self.live is None:
            yield self
            return
        with self.live:
            yield self
            self.progress = ""

    def tell(self, entries: tuple[Entry, ...]) -> None:
        """What `climb` tells: the table as it is now."""
        before, self.entries = self.entries, entries
        self.progress = ""
        if self.live is not None:
            return
        old = {(entry.rung, entry.candidate): entry for entry in before}
        for entry in entries:
            known = old.get((entry.rung, entry.candidate))
            if entry.state != "waiting" and (known is None or (known.state, known.met) != (entry.state, entry.met)):
                self.say(line(entry, self.target))

    def drawn(self) -> Group:
        """The table and, under it, how far the running step is; asked for four times a second."""
        return Group(table(self.entries, self.target, self.metric), Text(self.progress, style="dim"))

    # -- what a recipe says: its tables are for whoever calls it alone

    def say(self, text: str) -> None:
        if self.live is None or not self.live.is_started:
            super().say(text)

    def table(self, title: str, lines: dict[str, str]) -> None:
        """A recipe's own plan and result stand in its run directory."""

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        def told(documents: int, size: int) -> None:
            self.progress = f"{what}: {documents:,} documents, {size / 1e6:,.1f} MB"

        yield told

    @contextmanager
    def bar(self, what: str, total: int, done: int) -> Iterator[Callable[[int, str], None]]:
        last = time.monotonic()

        def told(at: int, said: str) -> None:
            nonlocal last
            self.progress = f"{what}: {100 * at // max(1, total)}%  {said}"
            if self.live is None and time.monotonic() - last > EVERY:
                last = time.monotonic()
                self.say(f"  {self.progress}")

        yield told


def table(entries: Sequence[Entry], target: float, metric: str) -> Table:
    """The ladder: what was planned, what came of it."""
    found = Table(title=f"{metric}, target {target:g}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("rung", "model", "score", "interval", "lower bound", "time (planned)", "memory (planned)", ""):
        found.add_column(name, justify="left" if name in ("rung", "model", "") else "right", overflow="fold")
    for entry in entries:
        found.add_row(*cells(entry), style="green" if entry.met else STYLES[entry.state])
    return found


def cells(entry: Entry) -> list[Text]:
    score = entry.score
    said = [
        "base, pretrained" if entry.rung == BASE else entry.rung,
        "" if entry.rung == BASE else short(entry.candidate),
        number(score.value) if score else "",
        f"{number(score.low)} to {number(score.high)}" if score else "",
        number(entry.lower) if entry.lower is not None else "",
        both(entry, lambda cost: moment(cost.seconds)),
        both(entry, lambda cost: size(cost.memory)),
        state(entry),
    ]
    return [Text(cell) for cell in said]


def both(entry: Entry, words: Callable[[Cost], str]) -> str:
    """What it took, and in brackets what was planned."""
    actual = words(entry.actual) if entry.actual else ""
    planned = f"({words(entry.planned)})" if entry.planned else ""
    return f"{actual} {planned}".strip()


def state(entry: Entry) -> str:
    said: dict[str, Any] = {"waiting": "", "running": "running", "spared": "not needed"}
    if entry.state in said:
        return str(said[entry.state])
    if entry.state == "skipped":
        return f"skipped: {entry.reason}"
    verdict = "meets the target" if entry.met else entry.reason or ("below" if entry.score else "done")
    return "; ".join([f"{verdict}, from an earlier run" if entry.cached else verdict, *entry.notes])


def line(entry: Entry, target: float) -> str:
    """One entry in one line."""
    name = " ".join(cell.plain for cell in cells(entry)[:2] if cell.plain)
    if entry.state == "running":
        planned = (
            f", planned {both(entry, lambda c: moment(c.seconds) + ', ' + size(c.memory))}" if entry.planned else ""
        )
        return f"{name}: running{planned}"
    if entry.score is None:
        return f"{name}: {state(entry)}"
    score = entry.score
    return (
        f"{name}: {number(score.value)} ({number(score.low)} to {number(score.high)}), lower bound "
        f"{number(entry.lower or 0.0)}, target {target:g}: {state(entry)}"
    )
