"""What is watched while a policy learns from its own answers, and what stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modelwright.recipes.watch import Screen, Watch
from modelwright.train.alarms import Alarm, Limits, alarms
from modelwright.train.meter import Meter

ROW = ("ratio", "ratio_max")  # of an experience's first minibatch, beside what it tells itself


class Hacked(Exception):
    """An alarm that is to end the run rang."""

    def __init__(self, alarm: Alarm):
        super().__init__(alarm.said)
        self.alarm = alarm


class Monitor(Watch):
    """A row of numbers for each experience, and the alarms that ring for them; raises Hacked for one that stops."""

    def __init__(
        self, directory: Path, steps: int, answers: int, screen: Screen, start: int, limits: Limits, heed: bool
    ):
        """answers: to an optimizer step. heed: whether an alarm ends the run, or is only told."""
        super().__init__(directory, steps, answers, Meter(0.0, 1.0), screen, start)
        self.limits, self.heed = limits, heed
        self.history: list[dict[str, float]] = []
        self.rung: dict[str, Alarm] = {}
        self.tested: dict[str, float] = {}  # what is to stand beside the next experience

    def __enter__(self) -> Monitor:
        super().__enter__()
        for line in (self.directory / "metrics.jsonl").read_text().splitlines():
            self.note(json.loads(line))
        return self

    def step(self, done: int, metrics: dict[str, Any]) -> None:
        self.rates = {"answers_per_second": self.rates.get("tokens_per_second", 0.0)}
        super().step(done, metrics)
        self.note(self.last)
        for alarm in alarms(self.history, self.limits):
            if alarm.name not in self.rung:
                self.rung[alarm.name] = alarm
                self.screen.warn(alarm.said)
            if alarm.stop and self.heed:
                raise Hacked(alarm)

    def note(self, told: dict[str, Any]) -> None:
        """An experience's first minibatch tells of the weights that wrote it; a test, of those that write the next."""
        if told.get("minibatch") == 0:
            row = {name: value for name, value in told.items() if isinstance(value, float)}
            self.history.append(row | self.tested | {"step": told["step"] - 1})
            self.tested = {}
        if "select_gold" in told:
            self.tested = {"gold": told["select_gold"], "gold_error": told["select_gold_error"]}

    def words(self) -> str:
        said = self.last
        price = f" KL {said['kl']:.2f}" if "kl" in said else ""
        return (
            f"score {said['score']:.3f}{price} entropy {said['entropy']:.2f} length {said['length']:.0f} "
            f"{said['answers_per_second']:.1f} answers/s"
        )

    def actual(self) -> dict[str, Any]:
        found = {name: self.last[name] for name in ("score", "kl", "entropy", "length") if name in self.last}
        return super().actual() | found | {"alarms": [alarm.said for alarm in self.rung.values()]}
