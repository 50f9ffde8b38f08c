"""What a run says: to the person at the screen, to metrics.jsonl, and to TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from modelwright.train.meter import Meter, peak_memory

LINE = (
    SpinnerColumn(),
    TextColumn("{task.percentage:>3.0f}%"),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
    TextColumn("{task.fields[said]}"),
)
WIDE = 100  # columns from which there is room for a bar beside the numbers


def thousands(number: float) -> str:
    """1234567 -> '1.2M'."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Rounded before it is parted, or 119.7 would be 1 min 60 s: 75 -> '1 min 15 s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def moment(seconds: float) -> str:
    """The same, short times to two digits: 0.2449 -> '0.24 s'."""
    return f"{seconds:.2g} s" if seconds < 9.95 else duration(seconds)


def size(number: float) -> str:
    """Bytes in a word: 1536000000 -> '1.54 GB'."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


class Screen:
    """The person's side, on standard error. Quiet: nothing at all."""

    def __init__(self, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def table(self, title: str, lines: dict[str, str]) -> None:
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, value in lines.items():
            table.add_row(name, Text(value))
        self.console.print(table)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A line that counts documents and bytes while a stream of unknown length is read."""
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=self.console) as progress:
            task = progress.add_task(what)

            def told(documents: int, size: int) -> None:
                progress.update(task, description=f"{what}: {documents:,} documents, {size / 1e6:,.1f} MB")

            yield told

    @contextmanager
    def bar(self, what: str, total: int, done: int) -> Iterator[Callable[[int, str], None]]:
        """A bar with the time that is left, and a few words at its end."""
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), *LINE)
        shown = columns if self.console.width >= WIDE else LINE
        with Progress(*shown, console=self.console, refresh_per_second=4) as progress:
            task = progress.add_task(what, total=total, completed=done, said="")
            yield lambda at, said: progress.update(task, completed=at, said=said)


class Watch:
    """What is told of every step of one run, from its step `start` on."""

    def __init__(self, directory: Path, steps: int, batch: int, meter: Meter, screen: Screen, start: int):
        self.directory, self.steps, self.batch, self.meter, self.screen = directory, steps, batch, meter, screen
        self.start = start
        self.meter.tokens = start * batch
        self.rates: dict[str, float] = {}
        self.last: dict[str, Any] = {}

    def __enter__(self) -> Watch:
        path = self.directory / "metrics.jsonl"
        forget_after(path, self.start)
        self.file = path.open("a")
        self.events = SummaryWriter(str(self.directory / "tensorboard"), purge_step=self.start + 1)
        self.shown = self.screen.bar("training", self.steps, self.start)
        self.update = self.shown.__enter__()
        self.meter.resume()
        return self

    def __exit__(self, *error: Any) -> None:
        self.shown.__exit__(*error)
        self.events.close()
        self.file.close()

    def tick(self) -> None:
        self.rates = self.meter.step(self.batch)

    def rest(self) -> None:
        """Testing and saving are no training: the next step's time begins here."""
        self.meter.resume()

    def step(self, done: int, metrics: dict[str, Any]) -> None:
        self.last = {"step": done, **metrics, **self.rates, "peak_memory": peak_memory()}
        self.file.write(json.dumps({name: plain(value) for name, value in self.last.items()}) + "\n")
        self.file.flush()
        for name, value in self.last.items():
            if name != "step":
                self.events.add_scalar(name, value, done)
        if not math.isfinite(metrics["loss"]):
            self.screen.warn(f"step {done} was skipped: its loss is no finite number")
        self.update(done, self.words())

    def words(self) -> str:
        said = f"loss {self.last['loss']:.3f} {thousands(self.last['tokens_per_second'])} tok/s"
        said += f" MFU {self.last['mfu']:.0%} norm {self.last['grad_norm']:.2f}"
        return said + f" {self.last['peak_memory'] / 2**20:,.0f} MiB"

    def actual(self) -> dict[str, Any]:
        """What the run really took, to be held against its plan."""
        found = {name: self.last[name] for name in ("loss", "tokens_per_second", "mfu") if name in self.last}
        return found | {"peak_memory": peak_memory()}


def plain(value: Any) -> Any:
    """What JSON can hold: a number that is not finite becomes null, which every reader understands."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def forget_after(path: Path, step: int) -> None:
    """Drop what a run told of steps that it now makes again, and a last line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            kept += [line] if json.loads(line)["step"] <= step else []
        except ValueError:
            continue
    write_whole(path, "".join(line + "\n" for line in kept))


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with part.open("x") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
