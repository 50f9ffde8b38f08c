"""A task's four parts: read, cut from the training file where they have none, checked row by row."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelwright.data.examples import Example, read_examples
from modelwright.data.kind import ASIDE, LISTS, PARTS, SPLIT, Part, Task, asked, fill, templates


def parts(task: Task) -> dict[str, list[Example]]:
    """The examples of each part, their fields also under canonical names.

    Parts without a source of their own are cut from `train` by a hash of each example's input, so the same input
    never lies in two of them; where the file tells groups apart, as SQuAD's its articles, by whole groups. (Files that
    the user gave are left as they are: the preflight tells where they overlap.)
    Raises what `prepare` raises.
    """
    return prepare(task)[1]


def prepare(task: Task) -> tuple[Task, dict[str, list[Example]]]:
    """The task with its labels and its usual tag, as the training part has them, and its parts.

    Raises ValueError for a part without an example, a row that lacks a column or holds another type in it, a label
    that training never sees, a template that asks for what there is not.
    """
    found = _cut(task, _own(task))
    for part in PARTS:
        if not found.get(part, [None]):
            raise ValueError(_empty(task, part, found))
    task = replace(task, labels=task.labels or labels_of(task, found["train"]))
    task = replace(task, usual=usual_of(task, found["train"]))
    _check_labels(task, found)
    for examples in found.values():
        for name, template in templates(task):
            fill(task, name, template, examples[0])
    return task, {part: _limited(task, part, examples) for part, examples in found.items()}


def plain(task: Task, example: Example) -> str:
    """The input alone, as text: its fields, of which words stand side by side, with an empty line between."""
    values = [example.fields.get(name, "") for name in task.inputs]
    texts = [" ".join(value) if isinstance(value, list) else str(value) for value in values]
    return "\n\n".join(text for text in texts if text.strip())


def _own(task: Task) -> dict[str, list[Example]]:
    """The parts that have a source of their own."""
    sources = {part: getattr(task.data, part) for part in PARTS}
    return {
        part: [canonical(task, example, source) for example in read_examples(source)]
        for part, source in sources.items()
        if source is not None
    }


def canonical(task: Task, example: Example, source: str) -> Example:
    """The example with its columns under their canonical names too. Raises ValueError naming row and column."""
    made = {name: value for name, value in example.fields.items() if name not in _unmeant(task, example)}
    for name, column in task.columns.items():
        if column not in example.fields:
            there = ", ".join(map(repr, example.fields))
            raise ValueError(
                f"{example.id} in {source} has no column {column!r} for {name!r}: it has {there}{_named_by(example.id)}"
            )
        value, what = example.fields[column], f"{example.id} in {source}: the column {column!r}"
        if name == "answer" and isinstance(value, list | tuple):
            made["accepted"] = value = _several(value, what)
            value = value[0]
        made[name] = value if name == "answer_start" else _value(name, value, what)
    if task.kind == "tag" and len(made["tokens"]) != len(made["tags"]):
        raise ValueError(f"{example.id} in {source} has {len(made['tokens'])} tokens and {len(made['tags'])} tags")
    return replace(example, fields=made)


def _unmeant(task: Task, example: Example) -> tuple[str, ...]:
    """Columns that are called as what may be told of an answer, and that neither the task names nor its several right
    answers bring with them."""
    answer = example.fields.get(task.columns.get("answer", ""))
    told = () if isinstance(answer, list | tuple) else ASIDE.get(task.kind, ())
    return tuple(name for name in told if name not in task.columns and name not in asked(task))


def _several(value: Sequence[Any], what: str) -> list[str]:
    """All the right answers to a question; the first is the one that is learned."""
    if not value:
        raise ValueError(f"{what} holds no answer: take such rows out, or say in words that there is none")
    return list(_value("accepted", value, what))


def _named_by(row: str) -> str:
    """Where names that look like an example come from: `examples.py` takes a few rows for a header and rows."""
    return ", as its first row says, which is to name the columns" if re.search(r"\.[ct]sv(\.gz)?:", row) else ""


def _value(name: str, value: Any, what: str) -> str | list[str]:
    if name in LISTS:
        value = [value] if name == "required" and isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{what} is to hold a list of texts, and holds {_short(value)}")
        return list(value)
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{what} is to hold a text, and holds {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = "nothing (null)" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _cut(task: Task, own: dict[str, list[Example]]) -> dict[str, list[Example]]:
    """Train divided among itself and the parts without a source, by a hash of the input or of the group."""
    shares = {part: task.data.split.get(part, SPLIT[part]) for part in PARTS if part == "train" or part not in own}
    shares = {part: share for part, share in shares.items() if share}
    whole, cut = sum(shares.values()), {part: list[Example]() for part in shares}
    grouped = _grouped(task, own["train"])
    for example in own["train"]:
        at = grouped[example.group] if example.group else _chance(f"{task.data.seed}/split/{task.input(example)}")
        cut[_falls(at * whole, shares)].append(example)
    found: dict[str, list[Example]] = own | cut
    return {part: found[part] for part in PARTS if part in found}


def _grouped(task: Task, examples: Sequence[Example]) -> dict[str, float]:
    """Where each group's middle stands, in [0, 1), when all are laid side by side in an order that the seed draws.

    A part gets its share of the rows as nearly as whole groups allow, though there be few and unequal ones.
    """
    sizes = Counter(example.group for example in examples if example.group)
    found, before = dict[str, float](), 0
    for group in sorted(sizes, key=lambda group: _chance(f"{task.data.seed}/group/{group}")):
        found[group] = (before + sizes[group] / 2) / sizes.total()
        before += sizes[group]
    return found


def _falls(at: float, shares: Mapping[Part, float]) -> Part:
    for part, share in shares.items():
        at -= share
        if at < 0:
            return part
    return part


def _chance(key: str) -> float:
    """A number in [0, 1) that is the same for the same key everywhere."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64


def _limited(task: Task, part: str, examples: list[Example]) -> list[Example]:
    limit = task.data.limit.get(part, len(examples))
    key = f"{task.data.seed}/limit/{part}"
    order = sorted(range(len(examples)), key=lambda i: (_chance(f"{key}/{task.input(examples[i])}"), i))
    return [examples[i] for i in sorted(order[:limit])]


def _empty(task: Task, part: str, found: Mapping[str, Sequence[Example]]) -> str:
    held = sum(map(len, found.values()))
    hint = f"give data.{part} a file of its own, a larger share in data.split, or a share of 0 to do without"
    return f"{task.path or task.name}: the part {part!r} is empty: {held} examples in all are too few to cut it: {hint}"


# --- labels ---------------------------------------------------------------------------------------


def labels_of(task: Task, examples: Iterable[Example]) -> tuple[str, ...]:
    """The labels of a classifier or tagger in these examples: in numeric order where all are numbers, else by name,
    `O` first. () for other kinds.
    """
    if task.kind not in ("classify", "tag"):
        return ()
    found = {label for example in examples for label in _labels(task, example)}
    order: Callable[[str], Any] = int if all(label.isdecimal() for label in found) else lambda name: (name != "O", name)
    return tuple(sorted(found, key=order))


def usual_of(task: Task, examples: Iterable[Example]) -> str:
    """`O` where that is a label, else the most frequent tag in these examples, of several the first seen; "" for other
    kinds than tag."""
    if task.kind != "tag" or "O" in task.labels:
        return "O" if task.kind == "tag" else ""
    return Counter(tag for example in examples for tag in _labels(task, example)).most_common(1)[0][0]


def _labels(task: Task, example: Example) -> list[str]:
    said = task.reference(example)
    return [said] if isinstance(said, str) else said


def _check_labels(task: Task, found: Mapping[str, Sequence[Example]]) -> None:
    if task.kind not in ("classify", "tag"):
        return
    for part, examples in found.items():
        wrong = [(e.id, label) for e in examples for label in _labels(task, e) if label not in task.labels]
        if wrong:
            rows = ", ".join(dict.fromkeys(row for row, _ in wrong[:5]))
            labels, known = _few(sorted({repr(label) for _, label in wrong})), _few(task.labels)
            what = f"{part} has the label {labels}, unseen in training ({known})"
            raise ValueError(
                f"{what}: {len(wrong)} times, {rows}; if it is one all the same, list all of them in labels"
            )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 9} more" if len(names) > 9 else ""
    return ", ".join(names[:9]) + more
