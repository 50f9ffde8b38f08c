"""What a policy is asked: the parts of a task, or a file of prompts of which some are kept apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from modelwright.data.examples import Example, read_examples
from modelwright.data.kind import Task
from modelwright.data.pairs import chance, conversation_task
from modelwright.data.preferences import prompt_in
from modelwright.data.prompt import NoRoom, Prompter
from modelwright.data.task import prepare, read_task
from modelwright.recipes.rewarded import Policy

HELD_OUT = 0.2  # of a file's prompts: half to choose the best moment by, half to measure on


def asked(args: Policy) -> tuple[Task, Sequence[Example], Sequence[Example], Sequence[Example]]:
    """The task, and what asks of it: to learn from, to choose by, to measure on."""
    if args.prompts is None:
        task, parts = prepare(read_task(args.task))
        if lacking := [part for part in ("select", args.part) if not parts.get(part)]:
            raise ValueError(
                f"{args.task} has no {lacking[0]} part, which is needed to choose and to measure: give it one"
            )
        return task, parts["train"], parts["select"], parts[args.part]
    plain = conversation_task()
    task = dataclasses.replace(plain, decoding=dataclasses.replace(plain.decoding, max_new=args.max_new))
    train, select, test = apart(prompts_of(args.prompts), args.seed)
    if not (train and select and test):
        raise ValueError(f"{args.prompts} has too few prompts to keep some apart: give at least 40")
    return task, train, select, test


def prompts_of(source: str) -> list[Example]:
    """Each as a conversation; a prompt that stands there twice is taken once."""
    path = Path(source)
    if path.suffix == ".txt":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file of prompts {path}")
        lines = [(f"{path.name}:{at}", line) for at, line in enumerate(path.read_text().splitlines(), 1)]
        said = [(name, prompt_in({"prompt": line}, name)) for name, line in lines if line.strip()]
    else:
        said = [(example.id, prompt_in(example.fields, example.id)) for example in read_examples(source)]
    once = {repr(messages): Example(name, {"messages": messages}) for name, messages in reversed(said)}
    return list(reversed(once.values()))


def apart(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example], list[Example]]:
    """To learn from, to choose by and to measure on, by chance that the seed and a prompt's words decide."""
    parts: tuple[list[Example], list[Example], list[Example]] = [], [], []
    for example in examples:
        at = chance(seed, repr(example.fields["messages"]))
        parts[0 if at >= HELD_OUT else 1 if at >= HELD_OUT / 2 else 2].append(example)
    return parts


def fitting(prompter: Prompter, examples: Sequence[Example]) -> list[Example]:
    """Those whose prompt the model reads whole, with room for an answer."""

    def fits(example: Example) -> bool:
        try:
            return not prompter.prompt(example).truncated
        except NoRoom:
            return False

    return [example for example in examples if fits(example)]
