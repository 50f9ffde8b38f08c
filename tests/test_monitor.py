"""The monitor of a policy's run: what it makes of the numbers that steps and tests tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelwright.recipes.monitor import Hacked, Monitor
from modelwright.recipes.watch import Screen
from modelwright.train.alarms import Limits


def run(directory: Path, golds: list[float], error: float) -> Monitor:
    """Rounds of two steps whose score rises; gold is measured after each."""
    with Monitor(directory, 2 * len(golds), 4, Screen(quiet=True), 0, Limits(), True) as watch:
        for at, gold in enumerate(golds):
            told: dict[str, Any] = {"score": float(at), "entropy": 1.0, "length": 5.0, "ratio": 1.0, "loss": 0.0}
            watch.tick()
            watch.step(2 * at + 1, told | {"minibatch": 0})
            watch.tick()
            watch.step(2 * at + 2, told | {"minibatch": 1, "select_gold": gold, "select_gold_error": error})
    return watch


FALLING = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9]


def test_gold_that_falls_beyond_its_noise_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(Hacked, match="gold reward fell from 1 to") as end:
        run(tmp_path, FALLING, 0.01)
    assert end.value.alarm.best == 2  # the steps that the weights of the best gold had made


def test_gold_that_falls_within_its_noise_does_not(tmp_path: Path) -> None:
    watch = run(tmp_path, FALLING, 0.1)
    assert not watch.rung
    assert [row["step"] for row in watch.history] == [0, 2, 4, 6, 8, 10]
    assert "gold" not in watch.history[0]
    assert [row["gold"] for row in watch.history[1:]] == FALLING[:-1]
