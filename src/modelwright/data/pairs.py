"""Preferences -> rows of ids: the two answers to a prompt side by side, to be compared.

A pair is two segments of one row, the one that was chosen and then the other, and all pairs of a ranking share a row:
packing and batches are those of any other examples. What a pair counts is the weight of its tokens.

Letters: T tokens of a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.pack import Row, around
from modelwright.data.parts import canonical
from modelwright.data.preferences import Preference, weights
from modelwright.data.prompt import CONVERSATION, NoRoom, Prompter, Shape, answered, rendered
from modelwright.data.supervised import join, sizes
from modelwright.data.task import parse_task
from modelwright.data.tokenizer import Tokenizer

Part = Literal["train", "select", "test"]
Write = Callable[[Example, str], Row]  # an example and an answer to it, as a row
SHARES: Mapping[Part, float] = {"select": 0.1, "test": 0.1}  # of the prompts; the rest is learned from


def conversation_task(chat: bool | None = None) -> Task:
    """What makes prompts of preferences that bring their own: the conversation, and nothing else."""
    said = {"kind": "generate", "prompt": CONVERSATION, "data": {"train": "none"}, "chat": chat}
    return parse_task(said, "preferences", Path())


def chance(seed: int, said: str) -> float:
    """From 0 to 1, by the seed and what is said."""
    return int.from_bytes(hashlib.sha256(f"{seed} {said}".encode()).digest()[:8], "big") / 2**64


def example_of(pair: Preference, task: Task) -> Example:
    """What a task's prompter takes; its own columns stand also under their canonical names."""
    if pair.prompt:
        return Example(pair.id, {"messages": pair.prompt, task.target: pair.chosen})
    fields = {**pair.fields, task.columns.get(task.target, task.target): pair.chosen}
    columns = {name: column for name, column in task.columns.items() if name != "required"}  # no part of a prompt
    return canonical(replace(task, columns=columns), Example(pair.id, fields), pair.id)


class TooLong(ValueError):
    """A prompt that the model would not read whole."""


def asked_of(pair: Preference) -> str:
    """What tells one prompt from another: its words, or its columns."""
    return json.dumps([[*map(dict, pair.prompt)], dict(pair.fields)], sort_keys=True, default=repr)


def split(pairs: Sequence[Preference], seed: int) -> dict[Part, list[Preference]]:
    """Three parts; all pairs of a prompt fall into the same one, by chance that the seed and its words decide."""
    found: dict[Part, list[Preference]] = {"train": [], "select": [], "test": []}
    for pair in pairs:
        at = chance(seed, asked_of(pair))
        found["select" if at < SHARES["select"] else "test" if at < sum(SHARES.values()) else "train"].append(pair)
    return found


# -- rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """Rows of pairs, one for each ranking; and the pairs that are too long for the model, which are left out."""

    rows: list[Row]
    names: list[str]
    prompts: list[str]  # what each row asks: one that several labellers ranked has a row of each
    pairs: int  # in the rows
    left_out: list[str]


def compared(pairs: Sequence[Preference], task: Task, write: Write, room: tuple[int, int]) -> Compared:
    """room: tokens of a segment, and of its source, that the model reads. A pair is never cut: what was cut away may be
    why one was preferred."""
    groups: dict[str, list[Row]] = {}
    left_out = []
    for pair, weight in zip(pairs, weights(pairs), strict=True):
        example = example_of(pair, task)
        try:
            both = [write(example, answer) for answer in (pair.chosen, pair.rejected)]
        except TooLong:
            both = []
        if not both or any(length > room[0] or source > room[1] for length, source in map(sizes, both)):
            left_out.append(pair.id)
            continue
        groups.setdefault(pair.group, []).extend(row._replace(weight=row.weight * weight) for row in both)
    rows, asked = [join(group) for group in groups.values()], {pair.group: asked_of(pair) for pair in pairs}
    return Compared(rows, list(groups), [asked[name] for name in groups], len(pairs) - len(left_out), left_out)


def answers_of(task: Task, tokenizer: Tokenizer, shape: Shape, context: int, start: int | None) -> Write:
    """For a policy: weight on the answer's tokens and its end. Raises TooLong for a prompt that would be cut."""
    tight = replace(task, decoding=replace(task.decoding, max_new=1))  # the answer is there, and needs no room kept
    prompter = Prompter(tight, tokenizer, shape, context, start=start)

    def write(example: Example, answer: str) -> Row:
        try:
            prompt = prompter.prompt(example)
        except NoRoom as error:
            raise TooLong(str(error)) from None
        if prompt.truncated:
            raise TooLong(f"the prompt of {example.id} is too long for a context of {context}")
        ids = [*prompter.completion(example, answer), prompter.end]
        return answered(prompt, ids, len(prompt.tokens) + len(ids))

    return write


def verdicts_of(task: Task, tokenizer: Tokenizer, shape: Shape, context: int, start: int | None) -> Write:
    """For a reward model: prompt and answer, whole, with weight at the one place where it judges.

    A decoder judges at the answer's end, once it has read everything; an encoder-decoder likewise, with the prompt as
    its source; an encoder at its first token, and reads both one after the other.
    """
    if shape == "encoder":
        return _read_by_encoder(task, tokenizer)
    write = answers_of(task, tokenizer, shape, context, start)

    def whole(example: Example, answer: str) -> Row:
        row = write(example, answer)
        return _judged([*row.tokens, row.targets[-1]], -1)._replace(source=row.source)

    return whole


def _read_by_encoder(task: Task, tokenizer: Tokenizer) -> Write:
    before, after = around(tokenizer)
    between = [] if tokenizer.sep is None else [tokenizer.sep]

    def write(example: Example, answer: str) -> Row:
        prompt = tokenizer.encode(rendered(task, "prompt", task.prompts[0], example))
        return _judged([*before, *prompt, *between, *tokenizer.encode(answer), *after], 0)

    return write


def _judged(ids: Sequence[int], at: int) -> Row:
    tokens, weight = np.array(ids, np.int64), np.zeros(len(ids), np.float32)
    weight[at] = 1
    return Row(tokens, np.zeros_like(tokens), weight, np.arange(len(ids)), np.ones_like(tokens))
