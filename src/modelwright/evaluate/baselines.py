"""What needs no model: the predictions that every model is shown beside, made of the training part and the input alone.

A model that is no better than the most frequent label, or than the first three turns of a dialogue, has learned nothing
that was worth its cost.

Letters: n examples, L labels, F features.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from modelwright.data.examples import Example
from modelwright.data.task import Kind, Task
from modelwright.evaluate.metrics import Metric, score, wanted
from modelwright.evaluate.sentences import lines

LEADS = range(1, 6)  # how many sentences are tried
TRIED = 500  # training examples that the number of sentences is chosen on


@dataclass(frozen=True)
class Baseline:
    """A name and what it answers: a text, a label, or a sentence's tags."""

    name: str
    predict: Callable[[Example], str | list[str]]


Fit = Callable[[Task, Sequence[Example], Metric], Baseline]


def fit_baselines(task: Task, train: Sequence[Example], metric: Metric) -> list[Baseline]:
    """The baselines that fit the task's kind, learned from its training part.

    Raises ValueError where the training part is empty.
    """
    if not train:
        raise ValueError(f"the task {task.name} has no training examples, and its baselines are learned from these")
    return [fit(task, train, metric) for fit in BASELINES[task.kind]]


# -- texts ------------------------------------------------------------------------------------------------


def copy(task: Task, train: Sequence[Example], metric: Metric) -> Baseline:
    """The source as it is."""
    return Baseline("copy", lambda example: str(example.fields["source"]))


def lead(task: Task, train: Sequence[Example], metric: Metric) -> Baseline:
    """The source's first k turns (lines, where it has several) or sentences, k from 1 to 5 as the metric likes it in
    training.

    The hard one to beat on news (Nallapati et al. 2017; See et al. 2017).
    """
    some = train[:: math.ceil(len(train) / TRIED)]

    def worth(k: int) -> float:
        stats = [metric.stats(first(k, ex), wanted(metric, task, ex), task) for ex in some]
        return score(metric, np.stack(stats)) * (1 if metric.higher else -1)

    k = max(LEADS, key=worth)  # the fewest, where several are as good
    return Baseline(f"lead-{k}", lambda example: first(k, example))


def first(k: int, example: Example) -> str:
    """k lines as lines, k sentences as a text."""
    source = str(example.fields["source"]).strip()
    return ("\n" if "\n" in source else " ").join(lines(source)[:k])


# -- labels and answers -------------------------------------------------------------------------------------


def majority(task: Task, train: Sequence[Example], metric: Metric) -> Baseline:
    """The most frequent label or answer; for tagging the most frequent tag, at each word. The first seen wins a
    draw."""
    if task.kind == "tag":
        common = most_common(tag for example in train for tag in task.reference(example))
        return Baseline("majority", lambda example: [common] * len(example.fields["tokens"]))
    common = most_common(str(task.reference(example)) for example in train)
    return Baseline("majority", lambda example: common)


def dictionary(task: Task, train: Sequence[Example], metric: Metric) -> Baseline:
    """Each word's most frequent tag in training; for a word never seen, the most frequent tag of all."""
    seen: dict[str, Counter[str]] = {}
    for example in train:
        for word, tag in zip(example.fields["tokens"], task.reference(example), strict=True):
            seen.setdefault(word, Counter())[tag] += 1
    tags = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    common = sum(seen.values(), Counter()).most_common(1)[0][0]
    return Baseline("dictionary", lambda example: [tags.get(word, common) for word in example.fields["tokens"]])


def bag_of_words(task: Task, train: Sequence[Example], metric: Metric) -> Baseline:
    """Naive Bayes over which words and pairs of words stand in the text, whatever their order.

    Multinomial, with one added to each count, of features that count once a text (Wang and Manning 2012: on short
    texts better than counting each, and hard to beat for its price). Where nothing of a text was seen, the label's
    share decides.
    """
    labels = list(dict.fromkeys(str(task.reference(example)) for example in train))
    texts = [features(str(example.fields["text"])) for example in train]
    places = {name: at for at, name in enumerate(dict.fromkeys(name for text in texts for name in text))}
    counts = np.ones((len(places), len(labels)))  # (F, L)
    shares = np.zeros(len(labels))
    for example, text in zip(train, texts, strict=True):
        label = labels.index(str(task.reference(example)))
        shares[label] += 1
        counts[[places[name] for name in text], label] += 1
    logs = np.log(counts / counts.sum(0))  # (F, L): log p(feature | label)

    def predict(example: Example) -> str:
        known = [places[name] for name in features(str(example.fields["text"])) if name in places]
        return labels[int((np.log(shares) + logs[known].sum(0)).argmax())]

    return Baseline("bag-of-words", predict)


def features(text: str) -> list[str]:
    """Each word and each pair of neighbours once; words are what white space parts, in lower case."""
    words = text.casefold().split()
    return list(dict.fromkeys([*words, *(f"{a} {b}" for a, b in pairwise(words))]))


def most_common(names: Iterable[str]) -> str:
    return Counter(names).most_common(1)[0][0]


BASELINES: Mapping[Kind, tuple[Fit, ...]] = {
    "summarise": (lead, copy),
    "translate": (copy,),
    "answer": (majority,),
    "generate": (majority, copy),
    "classify": (majority, bag_of_words),
    "tag": (majority, dictionary),
}
