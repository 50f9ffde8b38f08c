"""Preferences -> rows of ids: the answers to a prompt side by side, and which of them are compared.

A ranking is one row: each of its answers is a segment, which is read once, and its pairs are pairs of segments (Ouyang
et al. 2022, section 3.5). Packing and batches are those of any other examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.pack import Row, around
from modelwright.data.parts import canonical
from modelwright.data.preferences import Preference
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
    """Rows with pairs, one for each ranking; and the pairs that are too long for the model, which are left out."""

    rows: list[Row]
    names: list[str]
    prompts: list[str]  # what each row asks: one that several labellers ranked has a row of each
    pairs: int  # in the rows
    left_out: list[str]


def compared(pairs: Sequence[Preference], task: Task, write: Write, room: tuple[int, int]) -> Compared:
    """room: tokens of a segment, and of its source, that the model reads. An answer is never cut: what was cut away may
    be why another was preferred."""
    rankings: dict[tuple[str, str], list[Preference]] = {}
    for pair in pairs:
        rankings.setdefault((pair.group, asked_of(pair)), []).append(pair)
    rows, left_out = dict[tuple[str, str], Row](), list[str]()
    for ranking, members in rankings.items():
        answers = _fitting(members, task, write, room)
        kept = [pair for pair in members if pair.chosen in answers and pair.rejected in answers]
        left_out += [pair.id for pair in members if pair not in kept]
        if kept:
            rows[ranking] = _side_by_side(kept, answers)
    names, prompts = zip(*rows, strict=True) if rows else ((), ())
    return Compared([*rows.values()], [*names], [*prompts], len(pairs) - len(left_out), left_out)


def _fitting(ranking: Sequence[Preference], task: Task, write: Write, room: tuple[int, int]) -> dict[str, Row]:
    """The answers of a ranking that the model reads whole, each once, as they come in its pairs."""
    example = example_of(ranking[0], task)  # all ask the same
    rows = dict[str, Row]()
    for answer in dict.fromkeys(answer for pair in ranking for answer in (pair.chosen, pair.rejected)):
        with suppress(TooLong):
            rows[answer] = write(example, answer)
    length, source = room
    return {answer: row for answer, row in rows.items() if sizes(row)[0] <= length and sizes(row)[1] <= source}


def _side_by_side(pairs: Sequence[Preference], answers: Mapping[str, Row]) -> Row:
    """A ranking counts as much as any other, however many its pairs are (Ouyang et al. 2022, eq. 1)."""
    told = dict.fromkeys(answer for pair in pairs for answer in (pair.chosen, pair.rejected))
    number = {answer: at for at, answer in enumerate(told, 1)}
    segments = np.array([(number[pair.chosen], number[pair.rejected]) for pair in pairs], np.int64)
    weight = np.full(len(pairs), 1 / len(pairs), np.float32)
    return join([answers[answer] for answer in told])._replace(pairs=(segments, weight))


def answers_of(task: Task, tokenizer: Tokenizer, shape: Shape, context: int, start: Sequence[int]) -> Write:
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


def verdicts_of(task: Task, tokenizer: Tokenizer, shape: Shape, context: int, start: Sequence[int]) -> Write:
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
