"""A task: its data, its prompts, the form of its answers, its metric. One object, named by a hash.

    kind: summarise
    data: {train: dialogues.jsonl}
    columns: {source: dialogue, target: summary}

is a whole task.yaml: the rest is the kind's (`kind.DEFAULTS`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jinja2

from modelwright.data.chat import chat_template
from modelwright.data.kind import ASIDE, NAMES, OPTIONAL, SPLIT, asked, templates
from modelwright.data.kind import DEFAULTS as DEFAULTS
from modelwright.data.kind import KINDS as KINDS
from modelwright.data.kind import PARTS as PARTS
from modelwright.data.kind import Data as Data
from modelwright.data.kind import Decoding as Decoding
from modelwright.data.kind import Kind as Kind
from modelwright.data.kind import Part as Part
from modelwright.data.kind import Task as Task
from modelwright.data.kind import fill as fill
from modelwright.data.named import known, located, read_yaml
from modelwright.data.parts import labels_of as labels_of
from modelwright.data.parts import parts as parts
from modelwright.data.parts import prepare as prepare
from modelwright.data.template import compiled
from modelwright.data.tokenizer import Tokenizer

FOUND = ("usual", "path")  # of a task, what nobody says


def read_task(path: str | Path) -> Task:
    """Raises FileNotFoundError where there is no file, ValueError for what is not a task, naming file and key."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no task file {path}")
    said = read_yaml(path)
    if not isinstance(said, Mapping):
        raise ValueError(f"{path} is no task: it needs keys such as kind, data and columns")
    return replace(parse_task({"name": path.stem, **said}, str(path), path.parent), path=path)


def parse_task(said: Mapping[str, Any], where: str, base: Path) -> Task:
    """A task of what was said at `where`; the data's paths are relative to `base`. Raises ValueError."""
    known(said, [*(f.name for f in fields(Task) if f.name not in FOUND), "prompt"], where)
    kind = said.get("kind")
    if kind not in KINDS:
        raise ValueError(f"{where}: kind is {kind!r}, and may be {', '.join(KINDS)}")
    default = DEFAULTS[kind]
    read = _Reader(said, where)
    task = Task(
        name=read.text("name", "task"),
        kind=kind,
        data=_data(read.mapping("data"), f"{where}: data", base),
        columns=_columns(read.mapping("columns", {}), kind, f"{where}: columns"),
        prompts=_prompts(said, read, default.prompt, where),
        completion=read.text("completion", default.completion),
        instruction=read.text("instruction", ""),
        separator=read.text("separator", "\n\n"),
        labels=_labels(read),
        metric=read.text("metric", ""),
        decoding=_decoding(read.mapping("decoding", {}), default.max_new, f"{where}: decoding"),
        chat=read.flag("chat"),
    )
    for name, template in templates(task):
        _compiles(name, template, where)
    if kind not in ("classify", "tag") and task.labels:
        raise ValueError(f"{where}: labels are for the kinds classify and tag, and this one is {kind}")
    return task


@dataclass(frozen=True)
class _Reader:
    """Values of a mapping, each of the type it is to have."""

    said: Mapping[str, Any]
    where: str

    def _typed(self, key: str, value: Any, right: bool, what: str) -> Any:
        if not right:
            raise ValueError(f"{self.where}: {key} is {value!r}, and is to be {what}")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.said.get(key, default)
        return str(self._typed(key, value, isinstance(value, str), "a text"))

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.said.get(key) or []
        value = [value] if isinstance(value, str) else value
        right = isinstance(value, list | tuple) and all(isinstance(v, str | int) for v in value)
        return tuple(str(v) for v in self._typed(key, value, right, "a list of texts"))

    def mapping(self, key: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        value = self.said.get(key, default)
        found: Mapping[str, Any] = self._typed(key, value, isinstance(value, Mapping), "a mapping, `key: value` each")
        return found

    def flag(self, key: str) -> bool | None:
        value = self.said.get(key)
        found: bool | None = self._typed(key, value, value is None or isinstance(value, bool), "true or false")
        return found

    def number(self, key: str, default: Any, low: float, whole: bool) -> Any:
        value = self.said.get(key, default)
        kinds = int if whole else int | float
        right = value is default or (isinstance(value, kinds) and not isinstance(value, bool) and value >= low)
        return self._typed(key, value, right, f"a {'whole ' if whole else ''}number, {low} or more")


def _data(said: Mapping[str, Any], where: str, base: Path) -> Data:
    known(said, [f.name for f in fields(Data)], where)
    if not said.get("train"):
        raise ValueError(f"{where}: there is no train: name the file with the examples to learn from")
    read = _Reader(said, where)
    sources = {part: located(read.text(part, ""), base) for part in PARTS if said.get(part) is not None}
    split, limit = read.mapping("split", {}), read.mapping("limit", {})
    known(split, PARTS, f"{where}: split")
    known(limit, PARTS, f"{where}: limit")
    shares: dict[str, float] = {
        part: float(_Reader(split, f"{where}: split").number(part, SPLIT[part], 0, False)) for part in PARTS
    }
    if shares["train"] == 0:
        raise ValueError(f"{where}: split: the share of train is 0, which leaves nothing to learn from")
    limits: dict[str, int] = {
        part: int(_Reader(limit, f"{where}: limit").number(part, 1, 1, True)) for part in PARTS if part in limit
    }
    return Data(**sources, split=shares, limit=limits, seed=read.number("seed", 0, 0, True))


def _columns(said: Mapping[str, Any], kind: Kind, where: str) -> dict[str, str]:
    """Canonical name -> column; a name that is not mapped is the column's own."""
    inputs, target = NAMES[kind]
    known(said, [*inputs, target, "required", *ASIDE.get(kind, ())], where)
    own = {name: name for name in (*inputs, target) if name not in OPTIONAL}
    read = _Reader(said, where)
    return own | {name: read.text(name, "") for name in said}


def _prompts(said: Mapping[str, Any], read: _Reader, default: str, where: str) -> tuple[str, ...]:
    if "prompt" in said and "prompts" in said:
        raise ValueError(f"{where}: prompt and prompts are both there: say one of them")
    return read.texts("prompts") or read.texts("prompt") or (default,)


def _labels(read: _Reader) -> tuple[str, ...]:
    found = read.texts("labels")
    if any(isinstance(label, bool) for label in read.said.get("labels") or ()):
        raise ValueError(f"{read.where}: labels: YAML reads yes, no, true and the like as truth values: put quotes on")
    if len({label.strip() for label in found}) < len(found):
        raise ValueError(f"{read.where}: labels are each to be another, but for the space around them: {list(found)}")
    return found


def _decoding(said: Mapping[str, Any], max_new: int, where: str) -> Decoding:
    known(said, [f.name for f in fields(Decoding)], where)
    read = _Reader(said, where)
    top_p = read.number("top_p", None, 0, False)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"{where}: top_p is {top_p}, and is to be over 0 and at most 1")
    beams, temperature = read.number("beams", 1, 1, True), float(read.number("temperature", 0.0, 0, False))
    if beams == 1 and "length_penalty" in said:
        raise ValueError(f"{where}: length_penalty ranks the answers of beams: say beams too, 2 or more")
    if beams > 1 and (temperature or said.get("top_k") or top_p):
        raise ValueError(f"{where}: beams draw nothing: leave out either beams or temperature, top_k and top_p")
    return Decoding(
        max_new=read.number("max_new", max_new, 1, True),
        temperature=temperature,
        top_k=read.number("top_k", None, 1, True),
        top_p=top_p,
        stop=read.texts("stop"),
        beams=beams,
        length_penalty=float(read.number("length_penalty", 1.0, 0, False)),
    )


def _compiles(name: str, template: str, where: str) -> None:
    try:
        compiled(template)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{where}: the {name} template is wrong on its line {error.lineno}: {error.message}") from None


# --- the contract ---------------------------------------------------------------------------------


def contract(task: Task, tokenizer: Tokenizer) -> str:
    """A sha256 of all that a prompt is made of: a model that was trained under one is measured under the same.

    Kind, prompts, completion, instruction, separator, labels, decoding, the chat template where it is used, the
    tokenizer, and which columns are given. Not the data, the metric or the task's name; nor what the file calls its
    columns, or the order of the labels, where no template asks for them.
    """
    template = chat_template(tokenizer) if task.chat is not False else None
    used = asked(task)
    given = {
        name: column if name != column and column in used else ""
        for name, column in task.columns.items()
        if name in (*task.inputs, task.target) or {name, column} & used
    }
    said = {
        "kind": task.kind,
        "columns": given,
        "prompts": task.prompts,
        "completion": task.completion,
        "instruction": task.instruction,
        "separator": task.separator,
        "labels": task.labels if "labels" in used else sorted(task.labels),
        "decoding": task.decoding.said(),
        "chat": template,
        "tokenizer": hashlib.sha256(tokenizer.inner.to_str().encode()).hexdigest(),
        "roles": tokenizer.roles,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


TERMS = ("kind", "columns", "prompts", "completion", "instruction", "separator", "labels", "decoding", "chat")


def terms(task: Task) -> dict[str, Any]:
    """What a contract says of the task, as JSON: a model that keeps it can be asked without a task's file."""
    said = {name: getattr(task, name) for name in TERMS}
    found: dict[str, Any] = json.loads(json.dumps(said | {"decoding": task.decoding.said()}))
    return found


def of_terms(said: Mapping[str, Any], where: str) -> Task:
    """The task that `terms` told of, without data. Raises ValueError for what tells of none."""
    known(said, TERMS, where)
    return parse_task({"name": where, **said, "data": {"train": "none"}}, where, Path())
