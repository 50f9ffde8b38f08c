"""The moment of training at which the select part was answered best: found, kept, and gone back to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from modelwright.adapt.swap import learned, restore_learned
from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.prompt import Prompter
from modelwright.evaluate.metrics import metric_of, score, wanted
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import answers
from modelwright.hub.open import LanguageModel
from modelwright.recipes.run import Run
from modelwright.train import state

Measure = Callable[[Sequence[Any]], float | tuple[float, float]]
Kind = TypeVar("Kind")

TRIED = 8  # examples, to learn how long an answer takes


class Best:
    """Measures the select part, and keeps what is learned by then if that was best so far.

    Of two moments that are equally good the earlier is kept; where there is no example, always the last.
    """

    def __init__(
        self, model: nn.Module, name: str, higher: bool, measure: Measure, examples: Sequence[Any], place: Path
    ):
        """measure(examples): a number called `name`, the better the higher, or the lower; and perhaps its error."""
        self.model, self.name, self.higher, self.measure = model, name, higher, measure
        self.examples, self.place = examples, place

    def test(self, run: Run) -> dict[str, float]:
        """To be called between two steps: the score now, the best so far and its step; `run.tested` has the last."""
        if not self.examples:
            self._keep(run)
            return {}
        (now, *error), so_far = self._score(self.examples), run.tested
        if "best" not in so_far or better(now, so_far["best"], self.higher):
            self._keep(run)
            so_far = {"best": now, "best_step": run.done}
        kept = {name: so_far[name] for name in ("best", "best_step")}
        return {f"select_{self.name}": now, **{f"select_{self.name}_error": each for each in error}, **kept}

    def go_back(self) -> None:
        """What was learned as it was at the best moment. Raises Damaged where the disk has changed it."""
        restore_learned(self.model, state.load(self.place).tensors["learned"])

    def seconds(self) -> float:
        """How long one test will take, from a few answers. Before training they are often longer than after it."""
        few = spread(self.examples, TRIED)
        began = time.perf_counter()
        if few:
            self._score(few)
        return (time.perf_counter() - began) * len(self.examples) / max(1, len(few))

    def _score(self, examples: Sequence[Any]) -> tuple[float, ...]:
        self.model.eval()
        found = self.measure(examples)
        self.model.train()
        return found if isinstance(found, tuple) else (found,)

    def _keep(self, run: Run) -> None:
        state.save(self.place, run.done, {"learned": learned(self.model)}, {}, keep=1)


def better(now: float, best: float, higher: bool) -> bool:
    return now > best if higher else now < best


def answering(
    lm: LanguageModel, task: Task, prompter: Prompter, seed: int, template: int
) -> Callable[[Sequence[Example]], float]:
    """Answers as evaluation will, scored by the task's own metric, without its companions and intervals."""
    metric = metric_of(task)

    def measure(examples: Sequence[Example]) -> float:
        prompts = [prompter.prompt(example, template=template) for example in examples]
        given = answers(ModelScorer(lm), task, prompter, examples, prompts, seed)
        pairs = [(said.answer, wanted(metric, task, e)) for said, e in zip(given, examples, strict=True)]
        return score(metric, np.stack([metric.stats(*pair, task) for pair in pairs]))

    return measure


def spread(examples: Sequence[Kind], count: int) -> list[Kind]:
    """At most so many, evenly from all: a file may be in the order of its labels."""
    count = min(count, len(examples))
    return [examples[at * len(examples) // count] for at in range(count)]
