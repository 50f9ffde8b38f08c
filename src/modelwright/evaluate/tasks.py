"""A model's answers to a task, and what they are worth: every output with its statistics, every score with its
interval.

Letters: n examples, k statistics of an example, L labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelwright.data.examples import Example
from modelwright.data.kind import Kind, Task
from modelwright.data.prompt import Prompt, Prompter
from modelwright.data.span import cut_out
from modelwright.data.task import contract
from modelwright.evaluate.metrics import METRICS, Metric, metric_of, wanted
from modelwright.evaluate.scorer import Scorer, Told, untold
from modelwright.evaluate.statistics import Interval, interval
from modelwright.model.config import SPAN

Array = NDArray[np.float64]
Answer = str | list[str]

OVERLAPS = ("rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf")
COMPANIONS: Mapping[Kind, tuple[str, ...]] = {  # what is told beside a task's own metric
    "summarise": (*OVERLAPS, "mentions"),
    "translate": ("bleu", "chrf", "mentions"),
    "answer": ("exact_match", "token_f1", "rougeL", "mentions"),
    "generate": (*OVERLAPS, "exact_match", "token_f1", "mentions"),
    "classify": ("accuracy", "macro_f1"),
    "tag": ("entity_f1", "accuracy"),
}


@dataclass(frozen=True)
class Output:
    """What a model made of one example. `stats` has, under each metric's name, this example's statistics (k,).

    dropped: shots that did not fit the context; truncated: tokens of the input that did not. finish: why the writing
    ended (see infer.engine.Finish), nothing where a label was chosen.
    """

    id: str
    prompt: str
    prediction: Answer
    reference: Answer
    stats: Mapping[str, Array]
    shots: int = 0
    dropped: int = 0
    truncated: int = 0
    finish: str = ""


@dataclass(frozen=True)
class Outcome:
    """What measuring came to. `metric` is the task's own; `scores` has its companions too.

    tokens: those read in prompts and those written; seconds: for the model's answers, the metrics not counted.
    """

    contract: str
    part: str
    outputs: tuple[Output, ...]
    scores: Mapping[str, Interval]
    metric: str
    seconds: float
    tokens: int

    def stats(self, metric: str) -> Array:
        """(n, k)."""
        return np.stack([output.stats[metric] for output in self.outputs])


def dropped(outputs: Iterable[Output | Prompt]) -> int:
    """Shots that were left out of the prompts, whole ones, since the context was short."""
    return sum(output.dropped for output in outputs)


def truncated(outputs: Iterable[Output | Prompt]) -> int:
    """Inputs that were cut, since the context was short."""
    return sum(output.truncated > 0 for output in outputs)


def unended(outputs: Iterable[Output]) -> int:
    """Answers that were cut before they had an end."""
    return sum(output.finish in ("length", "context") for output in outputs)


def no_shots(example: Example) -> Sequence[Example]:
    """Zero-shot."""
    return ()


def measure(
    scorer: Scorer,
    task: Task,
    prompter: Prompter,
    examples: Sequence[Example],
    *,
    part: str,
    shots: Callable[[Example], Sequence[Example]] = no_shots,
    template: int = 0,
    seed: int = 0,
    told: Told = untold,
) -> Outcome:
    """The model's answers to the examples, under the task's metric and those that go with it.

    shots gives the examples that stand before each one in its prompt; template is which of the task's prompts is used;
    seed fixes draws and intervals; told is called with how many answers have come.

    Raises ValueError for no example, a metric that does not fit, and a model that cannot do such a task.
    """
    if not examples:
        raise ValueError(f"the part {part!r} of {task.name} has no example to measure")
    metrics = metrics_of(task, examples)
    prompts = [prompter.prompt(example, shots(example), template=template) for example in examples]
    start = time.perf_counter()
    given = answers(scorer, task, prompter, examples, prompts, seed, told)
    seconds = time.perf_counter() - start
    outputs = tuple(
        Output(
            example.id, prompt.text, said.answer, task.reference(example), judge(metrics, task, example, said.answer),
            prompt.shots, prompt.dropped, prompt.truncated, said.finish,
        )
        for example, prompt, said in zip(examples, prompts, given, strict=True)
    )  # fmt: skip
    tokens = sum(len(prompt.tokens) + len(prompt.source or ()) for prompt in prompts) + sum(g.tokens for g in given)
    scores = score_all(metrics, [output.stats for output in outputs], seed)
    return Outcome(contract(task, scorer.tokenizer), part, outputs, scores, metrics[0].name, seconds, tokens)


# -- the answers ------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """An answer, why it ended and how many tokens were written."""

    answer: Answer
    finish: str = ""
    tokens: int = 0


def answers(
    scorer: Scorer,
    task: Task,
    prompter: Prompter,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    seed: int = 0,
    told: Told = untold,
) -> list[Given]:
    """The answer to each prompt: written; or of the labels the likeliest; or by a head the highest, for each word or
    text, or of all spans of the context.

    So whatever a model says is a label, and nothing is lost in reading an answer.
    """
    if prompter.points:
        return extracted(scorer, task, examples, prompts, told)
    if prompter.shape == "encoder":
        return labelled(scorer, task, examples, prompts, told)
    if task.kind == "classify":
        return [Given(label) for label in likeliest(scorer, task, prompter, examples, prompts, told)]
    ends = () if prompter.end < 0 else (prompter.end,)
    written = scorer.generate(prompts, prompter.decoding(prompts), seed=seed, ends=ends, told=told)
    return [Given(done.text.strip(), done.finish, len(done.tokens)) for done in written]


def likeliest(
    scorer: Scorer,
    task: Task,
    prompter: Prompter,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    told: Told = untold,
) -> list[str]:
    """The label that the model is likeliest to answer with and then to end: log p of its tokens and the end, summed."""
    labels = task.labels
    asked = [prompt for prompt in prompts for _ in labels]
    said = [answer for example in examples for answer in prompter.labels(example)]
    found = scorer.loglikelihood(asked, said, told=lambda done: told(done // len(labels)))
    sums = np.array([one.logp for one in found]).reshape(len(prompts), len(labels))  # (n, L)
    return [labels[i] for i in sums.argmax(1)]


def labelled(
    scorer: Scorer, task: Task, examples: Sequence[Example], prompts: Sequence[Prompt], told: Told = untold
) -> list[Given]:
    """The label that a head scores highest; for words that did not fit the context, the task's usual one."""
    names = scorer.labels
    if names and (strange := sorted({*task.labels} ^ {*names})):
        raise ValueError(
            f"the model knows the labels {', '.join(names)}, and the task {', '.join(task.labels)}: "
            f"{strange[0]!r} is in one of them only; fine-tune it on this task, or name the labels as the model does"
        )
    scores = scorer.predict(prompts, told=told)
    if scores and scores[0].ndim != (2 if task.kind == "tag" else 1):
        each = ("whole texts", "words") if task.kind == "tag" else ("words", "whole texts")
        raise ValueError(f"this model labels {each[0]}, and the task {task.name} is to label {each[1]}")
    if task.kind == "classify":
        return [Given(names[int(score.argmax())]) for score in scores]
    found = []
    for example, score in zip(examples, scores, strict=True):
        tags = [names[i] for i in score.argmax(-1)]  # (words,)
        found.append(Given(tags + [task.usual or "O"] * (len(example.fields["tokens"]) - len(tags))))
    return found


def extracted(
    scorer: Scorer, task: Task, examples: Sequence[Example], prompts: Sequence[Prompt], told: Told = untold
) -> list[Given]:
    """The span of the context, of at most `decoding.max_new` tokens, whose start and end a head scores highest."""
    if scorer.labels and scorer.labels != SPAN.names:
        raise ValueError(
            f"this model knows the labels {', '.join(scorer.labels)}, and points at no answers: fine-tune its base on "
            f"{task.name}, or take a decoder"
        )
    scores = scorer.predict(prompts, told=told)
    found = zip(examples, prompts, scores, strict=True)
    return [Given(cut_out(e.fields["context"], p.windows, s, task.decoding.max_new)) for e, p, s in found]


# -- what they are worth ----------------------------------------------------------------------------------------


def metrics_of(task: Task, examples: Sequence[Example]) -> list[Metric]:
    """The task's metric, and behind it its companions, those that the examples have columns for.

    Raises ValueError where the task's own metric does not fit.
    """
    own = metric_of(task)
    lacking = set()
    if not all("required" in example.fields for example in examples):
        lacking.add("mentions")
    if not all(label == "O" or label[:2] in ("B-", "I-") for label in task.labels):
        lacking.add("entity_f1")
    return [own, *(METRICS[name] for name in COMPANIONS[task.kind] if name != own.name and name not in lacking)]


def judge(metrics: Sequence[Metric], task: Task, example: Example, answer: Answer) -> dict[str, Array]:
    """An answer's statistics under each metric, (k,) each."""
    return {metric.name: metric.stats(answer, wanted(metric, task, example), task) for metric in metrics}


def score_all(metrics: Sequence[Metric], stats: Sequence[Mapping[str, Array]], seed: int = 0) -> dict[str, Interval]:
    """The interval of each metric over the examples whose statistics these are."""
    return {m.name: interval(np.stack([one[m.name] for one in stats]), m, seed=seed) for m in metrics}
