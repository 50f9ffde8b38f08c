"""The metrics: of each example a few statistics, and of their sum over a data set the score.

A score is `value(sum of stats)`, whether it is a mean (the sum of scores over the count), a ratio of counts (BLEU,
F1) or e to a mean (perplexity). So an interval needs no predictions: `evaluate/statistics.py` weighs the examples
anew and sums again.

Letters: n examples, k statistics of an example, L labels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.data.examples import Example
from modelwright.data.task import Kind, Task
from modelwright.evaluate.entities import entities, entity_counts
from modelwright.evaluate.overlap import (
    as_answer,
    as_said,
    bleu,
    bleu_extremes,
    bleu_stats,
    chrf,
    chrf_extremes,
    chrf_stats,
    exact_match,
    mentions,
    rouge,
    rouge_sum,
    token_f1,
)

Array = NDArray[np.float64]
Stats = Callable[[Any, Any, Task], Array]
Extremes = Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Metric:
    """One metric.

    stats(prediction, reference, task) -> float64 (k,), k the same for all examples; of the task, its kind and labels.
    value(sums (..., k)) -> scores (...).
    extremes(stats (n, k)) -> the statistics of the worst and of the best example that might have been drawn beside
    these, each (k,); None where there is no worst, as for perplexity.
    """

    name: str
    kinds: frozenset[Kind]
    higher: bool  # whether more is better
    stats: Stats
    value: Callable[[Array], Array]
    extremes: Extremes | None
    weighed: bool = False  # whether one example may count for more than another
    several: bool = False  # whether the reference may be a list of right answers, of which the nearest counts


# -- values and extremes of ratios -----------------------------------------------------------------------------


def ratio(sums: Array) -> Array:
    """(..., 2) -> part over whole (...); 0 where there is nothing."""
    return divide(sums[..., 0], sums[..., 1])


def divide(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, where=whole > 0, out=np.zeros(np.shape(whole)))


def ratio_extremes(stats: Array) -> tuple[Array, Array]:
    """An example that weighs as much as the heaviest, all of it wrong, or right; of a mean: (0, 1) and (1, 1)."""
    weight = max(stats[:, 1].max(), 1.0)
    return np.array([0.0, weight]), np.array([weight, weight])


def share_extremes(stats: Array) -> tuple[Array, Array]:
    """Of a share of what should not be: one that is, and one that is not."""
    return np.array([1.0, 1.0]), np.array([0.0, 1.0])


def f1(counts: Array) -> Array:
    """(..., 3) counts right, written and wanted -> F1 (...), the harmonic mean of precision and recall; 0 where there
    is nothing."""
    return divide(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def f1_extremes(stats: Array) -> tuple[Array, Array]:
    weight = max((stats[:, 1] + stats[:, 2]).max(), 2.0) / 2
    return np.array([0.0, weight, weight]), np.full(3, weight)


# -- labels ----------------------------------------------------------------------------------------------------


def accuracy(prediction: str | Sequence[str], reference: str | Sequence[str]) -> Array:
    """(right, 1) of a label; (right, words) of a sentence's tags. A label is compared without the space around it."""
    if isinstance(reference, str):
        return np.array([str(prediction).strip() == reference.strip(), 1.0], np.float64)
    if len(prediction) != len(reference):
        raise ValueError(
            f"{len(prediction)} tags were predicted for {len(reference)} words: there must be one for each"
        )
    return np.array([sum(p == r for p, r in zip(prediction, reference, strict=True)), len(reference)], np.float64)


def label_counts(prediction: str, reference: str, task: Task) -> Array:
    """For each label (right, written, wanted), flat (3 L,): an answer that is no label counts against the one that
    was wanted.

    Raises ValueError where the reference is no label.
    """
    names = [label.strip() for label in task.labels]
    if reference.strip() not in names:
        raise ValueError(f"{reference!r} is none of the task's labels ({', '.join(task.labels)})")
    counts = np.zeros((len(names), 3))  # (L, 3)
    counts[names.index(reference.strip()), 2] = 1
    if prediction.strip() in names:
        counts[names.index(prediction.strip()), 1] = 1
    counts[:, 0] = counts[:, 1] * counts[:, 2]
    return counts.ravel()


def macro_f1(sums: Array) -> Array:
    """(..., 3 L) -> the mean over the labels of each one's F1 (...); a label never written nor wanted counts 0."""
    each = f1(sums.reshape(*sums.shape[:-1], -1, 3))  # (..., L)
    return np.asarray(each.mean(-1))


def macro_f1_extremes(stats: Array) -> tuple[Array, Array]:
    """The confusion of the two labels whose F1 it lowers most, and a hit of the label whose F1 it raises most."""
    right, written, wanted = counts = stats.sum(0).reshape(-1, 3).T  # each (L,)
    now = f1(counts.T)
    drop = now - divide(2 * right, written + wanted + 1)
    gain = (2 * right + 2) / (written + wanted + 2) - now
    worst, best = np.zeros_like(counts.T), np.zeros_like(counts.T)  # (L, 3)
    missed, *taken = np.argsort(-drop, kind="stable")[:2]  # which of the two was wanted makes no difference to F1
    worst[missed, 2] = 1
    worst[taken, 1] = 1
    best[gain.argmax()] = 1
    return worst.ravel(), best.ravel()


# -- what a model makes of plain text ---------------------------------------------------------------------------


def amounts(nats: float, units: float) -> Array:
    """(nats, tokens) or (nats, bytes): what a model's surprise over a text sums to, and how long the text is."""
    return np.array([nats, units], np.float64)


def perplexity(sums: Array) -> Array:
    return np.exp(ratio(sums))


def bits_per_byte(sums: Array) -> Array:
    return ratio(sums) / math.log(2)


# -- the table --------------------------------------------------------------------------------------------------


def of_any(stats: Callable[[Any, Any], Array]) -> Stats:
    """The same for every task."""
    return lambda prediction, reference, task: stats(prediction, reference)


def of_words(stats: Callable[[str, str], Array]) -> Stats:
    """Of both texts as their kind reads them: an answer to a question as SQuAD's script does (no case, no punctuation,
    no articles); every other text as it was said, but for white space, since its form is part of what is asked."""

    def read(prediction: str, reference: str, task: Task) -> Array:
        plain = as_answer if task.kind == "answer" else as_said
        return stats(plain(prediction), plain(reference))

    return read


def of_nearest(stats: Stats) -> Stats:
    """A mean's statistics, (score, 1), against the right answer that gives the most, as SQuAD's script has it."""

    def nearest(prediction: str, reference: str | Sequence[str], task: Task) -> Array:
        right = [reference] if isinstance(reference, str) else reference
        return max((stats(prediction, one, task) for one in right), key=lambda found: float(found[0]))

    return nearest


WRITTEN: frozenset[Kind] = frozenset(
    ("summarise", "translate", "answer", "generate")
)  # kinds whose output is free text
LABELLED: frozenset[Kind] = frozenset(("classify", "tag"))


def _metrics() -> list[Metric]:
    means = [
        *((kind, of_any(partial(rouge, kind))) for kind in ("rouge1", "rouge2", "rougeL")),
        ("rougeLsum", of_any(rouge_sum)),
        ("exact_match", of_words(exact_match)),
        ("token_f1", of_words(token_f1)),
    ]
    return [
        *(Metric(name, WRITTEN, True, of_nearest(stats), ratio, ratio_extremes, several=True) for name, stats in means),
        Metric("mentions", WRITTEN, True, of_any(mentions), ratio, ratio_extremes, True),
        Metric("bleu", WRITTEN, True, of_any(bleu_stats), bleu, bleu_extremes, True),
        Metric("chrf", WRITTEN, True, of_any(chrf_stats), chrf, chrf_extremes, True),
        Metric("accuracy", LABELLED, True, of_any(accuracy), ratio, ratio_extremes, True),
        Metric("macro_f1", frozenset(("classify",)), True, label_counts, macro_f1, macro_f1_extremes),
        Metric("entity_f1", frozenset(("tag",)), True, of_any(entity_counts), f1, f1_extremes, True),
        Metric("perplexity", frozenset(), False, of_any(amounts), perplexity, None),
        Metric("bits_per_byte", frozenset(), False, of_any(amounts), bits_per_byte, None),
        Metric("toxicity", frozenset(), False, of_any(amounts), ratio, share_extremes),
        Metric("preference", frozenset(), True, of_any(amounts), ratio, ratio_extremes),
    ]


METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _metrics()}

DEFAULTS: Mapping[Kind, str] = {
    "summarise": "rougeL",
    "translate": "bleu",
    "answer": "token_f1",
    "generate": "rougeL",
    "classify": "accuracy",
    "tag": "entity_f1",
}


def default_metric(kind: Kind) -> Metric:
    """The one that the field reports first for such a task."""
    return METRICS[DEFAULTS[kind]]


def fits(metric: str, kind: Kind) -> Metric:
    """The metric of this name. Raises ValueError where there is none, or where it does not fit a task of this kind."""
    named = [other.name for other in METRICS.values() if kind in other.kinds]
    if metric not in named:
        why = f"does not fit a task of kind {kind}" if metric in METRICS else "is not known"
        raise ValueError(f"the metric {metric!r} {why}: these fit kind {kind}: {', '.join(named)}")
    return METRICS[metric]


def metric_of(task: Task) -> Metric:
    """The task's own metric, or else its kind's. Raises ValueError where it does not fit the kind, or the labels."""
    metric = fits(task.metric, task.kind) if task.metric else default_metric(task.kind)
    if metric.name == "entity_f1":
        entities(task.labels)
    return metric


def wanted(metric: Metric, task: Task, example: Example) -> Any:
    """What a prediction for this example is compared with: the required strings for `mentions`, else the reference, or
    all the right answers where there are several and the metric takes them.

    Raises ValueError where the task names no column of required strings.
    """
    if metric.name != "mentions":
        accepted = example.fields.get("accepted") if task.kind == "answer" and metric.several else None
        return accepted if isinstance(accepted, list) and accepted else task.reference(example)
    if "required" not in example.fields:
        raise ValueError(
            f"the metric mentions needs a column `required`, a list of strings, which {example.id} does not have"
        )
    return example.fields["required"]


def right_answers(metric: Metric, task: Task, examples: Sequence[Example]) -> Array | None:
    """The statistics (m, k) that right answers would have, of all a task's parts: so the weight of an example that no
    part measured on happens to hold is known. None where all examples weigh alike, or there are none."""
    said = [wanted(metric, task, example) for example in examples] if metric.weighed else []
    found = [metric.stats(" ".join(one) if metric.name == "mentions" else one, one, task) for one in said]
    return np.stack(found) if found else None


def score(metric: Metric, stats: Array) -> float:
    """The metric over a data set, from the statistics (n, k) of its examples."""
    return float(metric.value(stats.sum(0)))
