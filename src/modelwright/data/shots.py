"""Which examples stand in a few-shot prompt: drawn by a seed, or those nearest to the input.

Letters: N examples.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelwright.data.examples import Example
from modelwright.data.kind import Task

How = Literal["seed", "nearest"]
WORD = re.compile(r"\w+|[^\w\s]")


def choose_shots(
    train: Sequence[Example], example: Example, count: int, *, how: How, seed: int, task: Task
) -> list[Example]:
    """`count` examples of the training part to show before this one; never itself, nor one with the same input.

    seed: the same for every example, drawn once; a classifier's labels in turn. nearest: the largest cosine of TF-IDF
    vectors of their inputs (Salton and Buckley 1988), the nearest last, so that it stands closest to the question.

    Raises ValueError for fewer examples than `count`.
    """
    order = _chooser(_Same(train), how, seed, _Same(task))(example)
    own = task.input(example)
    chosen: list[Example] = []
    while len(chosen) < count:
        found = next(order, None)
        if found is None:
            raise ValueError(f"{count} shots cannot be had of {len(train)} training examples: ask for fewer")
        if found.id != example.id and task.input(found) != own:
            chosen.append(found)
    return chosen[::-1] if how == "nearest" else chosen


class _Same:
    """Itself alone is equal to it: what is made of a list of examples is kept while the list is in use."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@lru_cache(maxsize=2)
def _chooser(train: _Same, how: How, seed: int, task: _Same) -> Callable[[Example], Iterator[Example]]:
    if how == "seed":
        drawn = _drawn(train.value, seed, task.value)
        return lambda _: iter(drawn)
    return _nearest(train.value, task.value)


def _drawn(train: Sequence[Example], seed: int, task: Task) -> list[Example]:
    """All examples in a random order; of a classifier, each label in turn."""
    order = Random(seed).sample(train, len(train))
    if task.kind != "classify":
        return order
    by_label: dict[Any, list[Example]] = defaultdict(list)
    for example in order:
        by_label[task.reference(example)].append(example)
    return [example for turn in zip_longest(*by_label.values()) for example in turn if example is not None]


def _nearest(train: Sequence[Example], task: Task) -> Callable[[Example], Iterator[Example]]:
    """An inverted index: word -> (examples that have it, their weights for it)."""
    counts = [Counter(_words(task.input(example))) for example in train]
    seen = Counter(word for count in counts for word in count)
    rarity = {word: float(np.log((1 + len(train)) / (1 + n)) + 1) for word, n in seen.items()}
    postings: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for at, count in enumerate(counts):
        weights = {word: n * rarity[word] for word, n in count.items()}
        norm = sum(weight**2 for weight in weights.values()) ** 0.5
        for word, weight in weights.items():
            postings[word][0].append(at)
            postings[word][1].append(weight / norm)
    index = {word: (np.array(at), np.array(weight)) for word, (at, weight) in postings.items()}

    def order(example: Example) -> Iterator[Example]:
        score: NDArray[np.float64] = np.zeros(len(train))  # (N,): cosines, but for the question's own length
        for word, n in Counter(_words(task.input(example))).items():
            if word in index:
                at, weight = index[word]
                score[at] += n * rarity[word] * weight
        return (train[int(i)] for i in np.argsort(-score, kind="stable"))

    return order


def _words(text: str) -> list[str]:
    return WORD.findall(text)
