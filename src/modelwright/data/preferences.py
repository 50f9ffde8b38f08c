"""Preferences: of two answers to a prompt, which one was taken. A ranking of several is all of its pairs.

A row of a table (`data.examples`) may be any of

    {"prompt": "...", "chosen": "...", "rejected": "..."}        texts; or each a list of messages
    {"chosen": "\\n\\nHuman: ...", "rejected": "..."}            whole dialogues that begin alike: Anthropic's hh-rlhf
    {"conversations": [...], "chosen": {...}, "rejected": ...}   ShareGPT's form
    {"prompt": "...", "completions": [...], "ranks": [1, 2, 2]}  a ranking, 1 the best, equal ranks a tie

In place of `prompt`, the columns of a task: then its template makes the prompt. Other columns are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from modelwright.data.examples import Example

Message = Mapping[str, str]
TURN = re.compile(r"\n\n(Human|Assistant):")  # as hh-rlhf writes who speaks
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
SHOWN = 5  # rows that a fault names


@dataclass(frozen=True)
class Preference:
    """`chosen` was taken before `rejected` as the answer to `prompt`, or to a task's prompt made of `fields`.

    group: the ranking that it is a pair of, which shares a batch: its pairs are no independent examples, and a reward
    model that met them one at a time would overfit (Ouyang et al. 2022, section 3.5).
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    fields: Mapping[str, Any]
    group: str


def preferences(examples: Iterable[Example], columns: Sequence[str] = ()) -> list[Preference]:
    """The pairs of all rows, in order. columns: those of a task that make the prompt, where rows have no `prompt`.

    Raises ValueError, naming rows, for one that is no preference, and for pairs of which both answers are the same
    text: nothing can be learned from them, and something went wrong where they were made.
    """
    found = [pair for example in examples for pair in _pairs(example, columns)]
    if alike := [pair.id for pair in found if pair.chosen.strip() == pair.rejected.strip()]:
        raise ValueError(
            f"{_few(alike)}: what was chosen and what was rejected are the same text, {len(alike)} of {len(found)} "
            "pairs: leave them out"
        )
    if not found:
        raise ValueError("there is no pair: every ranking is of one answer, or of ties alone")
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


# -- rows ----------------------------------------------------------------------------------------------------------


def _pairs(example: Example, columns: Sequence[str]) -> Iterator[Preference]:
    said = example.fields
    own = {column: said[column] for column in columns if column in said}
    if "completions" in said:
        prompt = () if own else prompt_in(said, example.id)
        for better, worse in _ranked(said, example.id):
            yield Preference(example.id, prompt, better, worse, own, example.id)
        return
    if lacking := [name for name in ("chosen", "rejected") if name not in said]:
        there = ", ".join(map(repr, said))
        raise ValueError(
            f"{example.id} has no {lacking[0]!r}: a preference has chosen and rejected, or completions and ranks; it "
            f"has {there}"
        )
    prompt, chosen, rejected = _answers(said, example.id, bool(own))
    yield Preference(example.id, prompt, chosen, rejected, own, example.id)


def _answers(said: Mapping[str, Any], where: str, by_fields: bool) -> tuple[tuple[Message, ...], str, str]:
    """The prompt, and the two answers to it."""
    chosen, rejected = (_turns(said[name], where, name) for name in ("chosen", "rejected"))
    if by_fields:
        prompt: tuple[Message, ...] = ()
    elif "prompt" in said or "conversations" in said:
        prompt = prompt_in(said, where)
    else:
        prompt, chosen, rejected = _forked(chosen, rejected, where)
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns or any(turn["role"] != "assistant" for turn in turns):
            raise ValueError(f"{where}: {name} is to be an answer of the assistant alone, behind what both begin with")
    return prompt, _said(chosen), _said(rejected)


def _said(turns: Sequence[Message]) -> str:
    """What the assistant says, which may speak twice."""
    return "\n\n".join(turn["content"] for turn in turns)


def prompt_in(said: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """What a row asks: a text, messages, or a dialogue as hh-rlhf writes it. Raises ValueError where there is none."""
    value = said.get("prompt", said.get("conversations"))
    if value is None:
        raise ValueError(f"{where} has no prompt: name the column, or say by which task it is made")
    if isinstance(value, str) and not TURN.match(value):
        return ({"role": "user", "content": value},)
    turns = _turns(value, where, "prompt")
    if not turns or turns[-1]["role"] != "user":
        raise ValueError(f"{where}: the prompt is to end with what the user says")
    return tuple(turns)


def _ranked(said: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """All K (K - 1) / 2 pairs of a ranking, less its ties: (better, worse)."""
    texts, ranks = said["completions"], said.get("ranks")
    right = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not right or not isinstance(ranks, list) or len(ranks) != len(texts):
        raise ValueError(f"{where}: completions are a list of texts, and ranks one number for each, 1 the best")
    if not all(isinstance(rank, int | float) and rank == rank for rank in ranks):
        raise ValueError(f"{where}: ranks are numbers, 1 the best, equal for a tie, and not {ranks!r}")
    for (one, a), (other, b) in combinations(zip(texts, ranks, strict=True), 2):
        if a != b:
            yield (one, other) if a < b else (other, one)


# -- who said what -------------------------------------------------------------------------------------------------


def _turns(value: Any, where: str, name: str) -> list[Message]:
    """A dialogue, a message, or the text of an answer, as messages."""
    if isinstance(value, str):
        return _dialogue(value) if TURN.match(value) else [{"role": "assistant", "content": value}]
    found = [value] if isinstance(value, Mapping) else value
    if isinstance(found, list) and all(isinstance(one, Mapping) for one in found):
        turns = [_message(one) for one in found]
        if all(turns):
            return [turn for turn in turns if turn]
    raise ValueError(f"{where}: {name} is to be a text, or messages with role and content (or from and value)")


def _message(said: Mapping[str, Any]) -> Message | None:
    role, content = said.get("role", said.get("from")), said.get("content", said.get("value"))
    known = ROLES.get(role) if isinstance(role, str) else None
    return {"role": known, "content": content} if known and isinstance(content, str) else None


def _dialogue(text: str) -> list[Message]:
    """What hh-rlhf writes as one text, turn by turn."""
    parts = TURN.split(text)[1:]  # who, what, who, what ...
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": what.strip()} for who, what in zip(parts[::2], parts[1::2], strict=True)]


def _forked(
    chosen: list[Message], rejected: list[Message], where: str
) -> tuple[tuple[Message, ...], list[Message], list[Message]]:
    """Two dialogues that begin alike: what both have, and what each goes on with."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if 0 < shared == min(len(chosen), len(rejected)):
        shared -= 1  # the same text to its end, or one that stops where the other goes on: told as such
    if not shared or chosen[shared - 1]["role"] != "user":
        raise ValueError(f"{where}: chosen and rejected do not begin with the same words of a user: give a prompt")
    return tuple(chosen[:shared]), chosen[shared:], rejected[shared:]
