"""What the data are: counts and lengths of each part, labels, and inputs that stand there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from modelwright.data.examples import Example
from modelwright.data.task import Task

NAMED = 5  # examples that are named of a fault


def profile(task: Task, parts: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """Of each part how many examples and how long inputs and answers are; what stands in two parts, or twice in one."""
    inputs = {part: [task.shown(example) for example in examples] for part, examples in parts.items()}
    found: dict[str, Any] = {
        "parts": {
            part: {
                "examples": len(examples),
                "input": lengths([len(task.input(example)) for example in examples]),
                "answer": lengths([answer_length(task, example) for example in examples]),
                "duplicates": len(inputs[part]) - len(set(inputs[part])),
            }
            for part, examples in parts.items()
        },
        "overlap": [
            {"parts": [one, other], "examples": len(both), "named": named(parts[other], inputs[other], both)}
            for one, other in combinations(parts, 2)
            if (both := set(inputs[one]) & set(inputs[other]))
        ],
    }
    if task.kind in ("classify", "tag"):
        found["labels"] = {part: label_counts(task, examples) for part, examples in parts.items()}
    return found


def lengths(sizes: Sequence[int]) -> dict[str, int]:
    """The middle, the 95th of a hundred, and the longest; in characters, or words of a task of tags."""
    return {"median": round(np.median(sizes)), "p95": round(np.quantile(sizes, 0.95)), "longest": max(sizes)}


def answer_length(task: Task, example: Example) -> int:
    return len(task.reference(example))


def label_counts(task: Task, examples: Sequence[Example]) -> dict[str, int]:
    said = [task.reference(example) for example in examples]
    counts = Counter(label for one in said for label in ([one] if isinstance(one, str) else one))
    return dict(counts.most_common())


def named(examples: Sequence[Example], inputs: Sequence[tuple[str, ...]], both: set[tuple[str, ...]]) -> list[str]:
    return [example.id for example, shown in zip(examples, inputs, strict=True) if shown in both][:NAMED]
