"""What a project reads beside its task: a base's text, pairs, judges; nothing that its rungs are measured on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from modelwright.data.examples import Example, read_examples
from modelwright.data.named import is_desk
from modelwright.data.pairs import example_of
from modelwright.data.parts import plain
from modelwright.data.preferences import preferences
from modelwright.data.task import Task
from modelwright.evaluate.judge import toxicity_of
from modelwright.project.aligning import Aligning
from modelwright.project.cache import Cache, sha256
from modelwright.project.spec import INPUTS, Project
from modelwright.recipes.preflight import nearly, same
from modelwright.recipes.rewards import reward_of
from modelwright.recipes.source import documents_of
from modelwright.recipes.watch import write_whole

ABREAST = 2000  # texts that are held at once
NAMED = 5  # examples that are named of a fault


def inputs(task: Task, train: Sequence[Example]) -> list[str]:
    """The inputs of the training part as text, each once."""
    return list(dict.fromkeys(plain(task, example) for example in train))


def write_inputs(texts: Sequence[str], column: str, path: Path) -> None:
    """As JSON Lines, which pretraining reads; left alone where they stand there already."""
    said = "".join(json.dumps({column: text}) + "\n" for text in texts)
    if not path.exists() or path.read_text("utf-8") != said:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, said)


def copies(task: Task, parts: Mapping[str, Sequence[Example]], texts: Iterable[str]) -> dict[str, list[str]]:
    """Of each part the ids of the examples whose input is one of these texts, or stands nearly whole in one of them:
    by the measures that the parts are held against each other with before tuning. Memory is that of a few texts.
    """
    inputs = {part: [(task.input(example),) for example in examples] for part, examples in parts.items()}
    found: dict[str, set[int]] = {part: set() for part in parts}
    rest = ((" ".join(text.casefold().split()),) for text in texts)
    while some := list(islice(rest, ABREAST)):
        for part, own in inputs.items():
            found[part] |= same(some, own) | nearly(some, own)
    return {part: [examples[at].id for at in sorted(found[part])] for part, examples in parts.items()}


def compared(
    project: Project, task: Task, parts: Mapping[str, Sequence[Example]], digests: Mapping[str, str], cache: Cache
) -> Mapping[str, Sequence[str]]:
    """Of each part that is measured on, the examples whose input stands in the text of the base.

    digests: of each part what it holds. The desk keeps its parts apart. Raises ValueError where they are more than
    `tune.overlap` allows.
    """
    base, held = project.base, {part: examples for part, examples in parts.items() if part != "train"}
    files = [d for d in base.data if d != INPUTS and not is_desk(d)] if base else []
    if base is None or not files:
        return {}
    text = documents_of(files, seed=base.seed, column=base.column, separator=base.separator)
    depends = {
        "text": text.fingerprint, "inputs": list(task.inputs),
        "parts": {part: [digests[part], sha256([e.id for e in held[part]])] for part in held},
    }  # fmt: skip
    done = cache.step("compare", depends, lambda _: {"copies": copies(task, held, (d.text for d in text.documents))})
    found: Mapping[str, Sequence[str]] = done.value["copies"]
    allowed = min((project.tuning(rung).get("overlap", 0.0) for rung in project.trained), default=None)
    refuse(found, {part: len(examples) for part, examples in parts.items()}, allowed)
    return found


def refuse(found: Mapping[str, Sequence[str]], sizes: Mapping[str, int], allowed: float | None) -> None:
    """Raises ValueError where more of a part were found than its allowed share; None: there is no saying it."""
    for part, names in found.items():
        if len(names) > (allowed or 0.0) * sizes[part]:
            share = f"{math.ceil(100 * len(names) / sizes[part]) / 100:.2f}"
            mend = "" if allowed is None else f", or allow it with tune.overlap {share}"
            raise ValueError(
                f"base.data holds {len(names)} of {sizes[part]} inputs of the {part} part, or nearly "
                f"({several(names)}): take them out{mend}"
            )


def told(found: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> list[str]:
    """The same where it is allowed, for the reader of the scores."""
    return [
        f"{len(names):,} of {sizes[part]:,} inputs of the {part} part stand in the text that the base was pretrained "
        f"on, or nearly ({several(names)})."
        for part, names in found.items()
        if names
    ]


def several(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# -- what is opened before the first step ---------------------------------------------------------------------------


def check_aligning(aligning: Aligning, task: Task, parts: Mapping[str, Sequence[Example]]) -> None:
    """Raises ValueError for what is seen by opening it alone: judges, pairs, parts that are missing."""
    if aligning.toxicity:
        toxicity_of(aligning.toxicity.judge)
    if aligning.preference:
        reward_of(aligning.preference.judge, task)
    for by in aligning.ways:
        said = aligning.settings(by)
        if by == "dpo":
            check_pairs(said["pairs"], task, parts)
            continue
        for name in ("reward", "gold"):
            if said.get(name):
                reward_of(said[name], task)
        if not parts.get("select"):
            raise ValueError(f"align: {by} chooses its best moment by the part select, which the task has not")


def check_pairs(source: str, task: Task, parts: Mapping[str, Sequence[Example]]) -> None:
    """Raises ValueError where pairs cannot be read, or ask what is measured on; the desk keeps its parts apart."""
    columns = [task.columns[name] for name in task.inputs if name in task.columns]
    pairs = preferences(read_examples(source), columns)
    if is_desk(source):
        return
    held = {part: examples for part, examples in parts.items() if part != "train"}
    asked = dict.fromkeys(task.input(example_of(pair, task)) for pair in pairs if not pair.prompt)
    for part, names in copies(task, held, asked).items():
        if names:
            raise ValueError(
                f"{source} asks {len(names)} of {len(held[part])} inputs of the {part} part, or nearly "
                f"({several(names)}): take them out, or answers to what was learned would be measured"
            )
