"""The moment of training at which the select part was answered best: found, kept, and gone back to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelwright.adapt.swap import learned, restore_learned
from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.prompt import Prompter
from modelwright.evaluate.metrics import Metric, metric_of, score, wanted
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import answers
from modelwright.hub.open import LanguageModel
from modelwright.recipes.run import Run
from modelwright.train import state

TRIED = 8  # examples, to learn how long an answer takes


class Best:
    """Answers the select part as evaluation will, and keeps what is learned by then if that was best so far.

    Of two moments that are equally good the earlier is kept; where there is no example, always the last.
    """

    def __init__(
        self, lm: LanguageModel, task: Task, prompter: Prompter, examples: Sequence[Example], place: Path, seed: int,
        template: int = 0,
    ):  # fmt: skip
        self.lm, self.task, self.prompter, self.examples = lm, task, prompter, examples
        self.metric, self.place, self.seed, self.template = metric_of(task), place, seed, template

    def test(self, run: Run) -> dict[str, float]:
        """To be called between two steps: the score now, the best so far and its step; `run.tested` has the last."""
        if not self.examples:
            self._keep(run)
            return {}
        now, so_far = self._score(self.examples), run.tested
        if "best" not in so_far or better(self.metric, now, so_far["best"]):
            self._keep(run)
            so_far = {"best": now, "best_step": run.done}
        kept = {name: so_far[name] for name in ("best", "best_step")}
        return {f"select_{self.metric.name}": now, **kept}

    def go_back(self) -> None:
        """What was learned as it was at the best moment. Raises Damaged where the disk has changed it."""
        restore_learned(self.lm.model, state.load(self.place).tensors["learned"])

    def seconds(self) -> float:
        """How long one test will take, from a few answers. Before training they are often longer than after it."""
        few = spread(self.examples, TRIED)
        began = time.perf_counter()
        if few:
            self._score(few)
        return (time.perf_counter() - began) * len(self.examples) / max(1, len(few))

    def _score(self, examples: Sequence[Example]) -> float:
        """By the task's own metric alone, without the companions and the intervals that `measure` adds."""
        self.lm.model.eval()
        prompts = [self.prompter.prompt(example, template=self.template) for example in examples]
        given = answers(ModelScorer(self.lm), self.task, self.prompter, examples, prompts, self.seed)
        self.lm.model.train()
        pairs = [(said.answer, wanted(self.metric, self.task, e)) for said, e in zip(given, examples, strict=True)]
        return score(self.metric, np.stack([self.metric.stats(*pair, self.task) for pair in pairs]))

    def _keep(self, run: Run) -> None:
        state.save(self.place, run.done, {"learned": learned(self.lm.model)}, {}, keep=1)


def better(metric: Metric, now: float, best: float) -> bool:
    return now > best if metric.higher else now < best


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most so many, evenly from all: a file may be in the order of its labels."""
    count = min(count, len(examples))
    return [examples[at * len(examples) // count] for at in range(count)]
