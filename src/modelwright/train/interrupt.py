"""Leaving a run between two steps when a signal asks for it, so that a resumable checkpoint stays behind."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType


class Interrupted(Exception):
    """For a recipe to raise once it has saved: it ends `fit`, and carries the signal that asked for it."""

    def __init__(self, number: Signals):
        super().__init__(f"stopped by {number.name}")
        self.signal = number


class Interrupt:
    """The signal that has asked the run to end, or None."""

    signal: Signals | None = None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Note the first SIGINT or SIGTERM instead of obeying it; a second one acts as it would have without us.

    A step is then never cut in half: after each, the recipe looks at `.signal`, saves, and raises
    `Interrupted`. Outside the main thread, where Python delivers no signals, nothing is ever noted.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupt.signal = Signals(number)
        restore()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield interrupt
    finally:
        restore()
