"""Signals: the first is noted, the second obeyed, and none is cut off in the middle of a step."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from modelwright.train.interrupt import Interrupted, interruptible
from modelwright.train.loop import Terms, fit


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    """A process begun in the background of a shell ignores SIGINT; these tests are of one that does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def slope(model: Any, batch: float) -> tuple[Terms, dict[str, Any]]:
    return {"x": (model.weight.sum() * batch, 1.0, 1.0)}, {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_second_obeyed(number: signal.Signals) -> None:
    model, before = nn.Linear(1, 1), signal.getsignal(number)
    steps: list[int] = []

    def after(step: int, metrics: dict[str, Any]) -> None:
        steps.append(step)
        if step == 1:
            os.kill(os.getpid(), number)
        if interrupt.signal:
            raise Interrupted(interrupt.signal)

    with interruptible() as interrupt, pytest.raises(Interrupted, match=number.name) as caught:
        fit(model, [1.0] * 5, slope, torch.optim.SGD(model.parameters(), lr=0.1), steps=5, after_step=after)
    assert steps == [0, 1]
    assert caught.value.signal is number
    assert signal.getsignal(number) is before
    with interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    noted: list[Any] = []

    def run() -> None:
        with interruptible() as interrupt:
            noted.append(interrupt.signal)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert noted == [None]
