"""Preferences in every form that they are published in, and rankings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from modelwright.data.examples import Example, read_examples
from modelwright.data.pairs import example_of
from modelwright.data.preferences import Preference, preferences
from modelwright.data.task import parse_task

DATA = os.environ.get("MODELWRIGHT_DATA")
real = pytest.mark.skipif(DATA is None, reason="MODELWRIGHT_DATA names no real data")
USER = ({"role": "user", "content": "Hi?"},)


def read(*rows: dict[str, Any], columns: tuple[str, ...] = ()) -> list[Preference]:
    return preferences([Example(f"a:{at}", row) for at, row in enumerate(rows, 1)], columns)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "more": 1},
        {"prompt": [{"role": "user", "content": "Hi?"}], "chosen": [{"role": "assistant", "content": "Yes."}],
         "rejected": [{"role": "assistant", "content": "No."}]},
        {"chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."},
        {"chosen": [*USER, {"role": "assistant", "content": "Yes."}],
         "rejected": [*USER, {"role": "assistant", "content": "No."}]},
        {"conversations": [{"from": "human", "value": "Hi?"}], "chosen": {"from": "gpt", "value": "Yes."},
         "rejected": {"from": "gpt", "value": "No."}},
        {"prompt": "Hi?", "completions": ["No.", "Yes."], "ranks": [2, 1]},
    ],
)  # fmt: skip
def test_all_forms_say_the_same(row: dict[str, Any]) -> None:
    assert read(row) == [Preference("a:1", USER, "Yes.", "No.", {}, "a:1")]


def test_a_dialogue_s_earlier_answers_are_prompt() -> None:
    start = "\n\nHuman: Hi?\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"
    [pair] = read({"chosen": f"{start} So.", "rejected": f"{start} Because.\n\nNot so."})
    assert [(turn["role"], turn["content"]) for turn in pair.prompt] == [
        ("user", "Hi?"), ("assistant", "Yes?"), ("user", "Why?"),
    ]  # fmt: skip
    assert (pair.chosen, pair.rejected) == ("So.", "Because.\n\nNot so.")


def test_a_ranking_is_all_its_pairs_less_ties() -> None:
    pairs = read(
        {"prompt": "Hi?", "completions": ["a", "b", "c", "d"], "ranks": [3, 1, 2, 2]},
        {"prompt": "Hi?", "chosen": "e", "rejected": "f"},
    )
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("b", "a"), ("c", "a"), ("d", "a"), ("b", "c"), ("b", "d"), ("e", "f"),
    ]  # fmt: skip


def test_a_task_s_columns_are_the_prompt() -> None:
    [pair] = read({"ticket": "T", "chosen": "a", "rejected": "b", "other": 1}, columns=("ticket",))
    assert (pair.prompt, pair.fields) == ((), {"ticket": "T"})


def test_a_pair_says_not_what_its_answer_is_to_name() -> None:
    """A task that is measured by `mentions` reads preferences whose rows have no such column."""
    columns = {"source": "mail", "target": "note", "required": "facts"}
    task = parse_task({"kind": "generate", "data": {"train": "desk:x"}, "columns": columns}, "x", Path())
    example = example_of(Preference("a", (), "yes", "no", {"mail": "Well?"}, "a"), task)
    assert (example.fields["source"], example.fields["target"]) == ("Well?", "yes")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Hi?", "chosen": "a "}, "a:1 has no 'rejected'"),
        ({"prompt": "Hi?", "chosen": "a ", "rejected": "a"}, "a:1: what was chosen and what was rejected are the same"),
        ({"chosen": "a", "rejected": "b"}, "do not begin with the same words"),
        ({"chosen": "\n\nHuman: Hi?", "rejected": "\n\nHuman: Ho?"}, "do not begin with the same words"),
        ({"chosen": "\n\nHuman: Hi?\n\nAssistant: a", "rejected": "\n\nHuman: Hi?"}, "do not begin with the same"),
        ({"prompt": "Hi?", "chosen": 3, "rejected": "a"}, "chosen is to be a text, or messages"),
        ({"prompt": "Hi?", "chosen": [{"role": "x", "content": "a"}], "rejected": "a"}, "chosen is to be a text"),
        ({"prompt": "\n\nHuman: a\n\nAssistant: b", "chosen": "c", "rejected": "d"}, "end with what the user says"),
        ({"prompt": "Hi?", "completions": ["a", "b"], "ranks": [1]}, "ranks one number for each"),
        ({"prompt": "Hi?", "completions": ["a", "b"], "ranks": [1, float("nan")]}, "ranks are numbers"),
        ({"prompt": "Hi?", "completions": ["a", "b"], "ranks": [1, 1]}, "there is no pair"),
        ({"completions": ["a", "b"], "ranks": [1, 2]}, "a:1 has no prompt"),
    ],
)
def test_what_is_no_preference(row: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(row)


@real
@pytest.mark.parametrize(("name", "rows"), [("hh-rlhf-harmless", 950), ("pref-dpo-demo", 120)])
def test_published_sets(name: str, rows: int) -> None:
    examples = read_examples(Path(str(DATA)) / name / "train.jsonl")
    same = [e for e in examples if str(e.fields["chosen"]).strip() == str(e.fields["rejected"]).strip()]
    pairs = preferences([e for e in examples if e not in same])
    assert (len(examples), len(pairs)) == (rows, rows - len(same))
    assert all(pair.prompt[-1]["role"] == "user" and pair.chosen != pair.rejected for pair in pairs)
