"""What a task is: its kinds, its columns' names, what each kind does where nothing is said.

A column has a canonical name, the same for every task of a kind (`NAMES`), and templates may use either that or the
file's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2

from modelwright.data.examples import Example
from modelwright.data.template import render, variables

Kind = Literal["summarise", "translate", "answer", "generate", "classify", "tag"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Part = Literal["train", "select", "decide", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
SPLIT: Mapping[str, float] = {"train": 0.7, "select": 0.1, "decide": 0.1, "test": 0.1}

_WRITTEN = (("source",), "target")
# kind -> the canonical names of its input, and of its answer
NAMES: Mapping[Kind, tuple[tuple[str, ...], str]] = {
    "summarise": _WRITTEN,
    "translate": _WRITTEN,
    "generate": _WRITTEN,
    "answer": (("context", "question"), "answer"),
    "classify": (("text",), "label"),
    "tag": (("tokens",), "tags"),
}
ENCODED = ("classify", "tag", "answer")  # what an encoder can be tuned to: to choose, and to point at an answer
ASIDE: Mapping[Kind, tuple[str, ...]] = {"answer": ("answer_start", "accepted")}  # what may be told of an answer
OPTIONAL = ("context", "required", "answer_start", "accepted")  # columns that a file may lack
LISTS = ("tokens", "tags", "required", "accepted")  # columns that hold lists of texts


@dataclass(frozen=True)
class Decoding:
    """How an answer is written. `max_new` is in tokens; a temperature of 0 takes the likeliest.

    With `beams` above 1 the likeliest whole answer is looked for, ranked by `length_penalty` (`infer.beam`).
    """

    max_new: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    beams: int = 1
    length_penalty: float = 1.0

    def said(self) -> dict[str, Any]:
        """As a mapping, for hashes and files: beams where there are any, so that what names a task without them is as
        it was before there were."""
        found = asdict(self)
        if self.beams == 1:
            del found["beams"], found["length_penalty"]
        return found


@dataclass(frozen=True)
class Data:
    """Where the four parts come from. A part without a source is cut from `train`."""

    train: str
    select: str | None = None
    decide: str | None = None
    test: str | None = None
    split: Mapping[str, float] = field(default_factory=lambda: dict(SPLIT))
    """Shares of the parts that are cut from `train`, of `train` itself too; a share of 0 is no part."""
    limit: Mapping[str, int] = field(default_factory=dict)
    """At most so many examples of a part: always the same ones, and a smaller limit takes some of a larger one's."""
    seed: int = 0


@dataclass(frozen=True)
class Defaults:
    """What a kind of task does where nothing is said."""

    prompt: str
    completion: str
    max_new: int


_CONTEXT = "{% if context %}{{ context }}\n\n{% endif %}"
DEFAULTS: Mapping[Kind, Defaults] = {
    "summarise": Defaults("{{ source }}\n\nSummary:", " {{ target }}", 128),
    "translate": Defaults("{{ source }}\n\nTranslation:", " {{ target }}", 128),
    "generate": Defaults("{{ source }}", " {{ target }}", 64),
    "answer": Defaults(_CONTEXT + "Question: {{ question }}\nAnswer:", " {{ answer }}", 32),
    "classify": Defaults("{{ text }}\nLabel:", " {{ label }}", 8),
    "tag": Defaults("{{ tokens | join(' ') }}", " {{ tags | join(' ') }}", 64),
}


@dataclass(frozen=True)
class Task:
    """What a model is to do. `parse_task` makes one of what a user wrote, with the kind's `DEFAULTS`."""

    name: str
    kind: Kind
    data: Data
    columns: Mapping[str, str]  # canonical name -> column of the file
    prompts: tuple[str, ...]  # Jinja2 templates over both names; the first is the one that is evaluated
    completion: str  # template of the answer, with its leading space: " {{ target }}"
    instruction: str = ""  # said once, before the examples
    separator: str = "\n\n"  # between the examples of a few-shot prompt
    labels: tuple[str, ...] = ()  # classify, tag; () until found in the training part (`prepare`)
    usual: str = ""  # tag: what a word is given that did not fit a context; "" until found in training (`prepare`)
    metric: str = ""  # a key of evaluate.metrics.METRICS
    decoding: Decoding = Decoding()
    chat: bool | None = None  # None: where the tokenizer has a chat template
    path: Path | None = None  # the file it was read from: not part of any hash

    @property
    def target(self) -> str:
        """The canonical name of the answer."""
        return NAMES[self.kind][1]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The canonical names of what the answer is to be found from."""
        return NAMES[self.kind][0]

    def reference(self, example: Example) -> str | list[str]:
        """The right answer: a text (target, answer, label), or the list of tags."""
        found: str | list[str] = example.fields[self.target]
        return found

    def input(self, example: Example) -> str:
        """The kind's own columns as one text without regard to case and spacing: what one part alone is to hold."""
        return "\n".join(_loosely(example.fields.get(name, "")) for name in self.inputs)

    def shown(self, example: Example) -> tuple[str, ...]:
        """Each column that the prompts ask for, without regard to case and spacing: two examples with the same are
        duplicates, and two with the same text and another aspect of it are not."""
        canonical = {column: name for name, column in self.columns.items()}
        asked = frozenset[str]().union(*map(variables, self.prompts))
        names = sorted({name if name in self.columns else canonical.get(name, name) for name in asked}) or self.inputs
        return tuple(_loosely(example.fields.get(name, "")) for name in names)


def _loosely(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.casefold().split())


# --- templates ------------------------------------------------------------------------------------


def templates(task: Task) -> list[tuple[str, str]]:
    prompts = [("prompt" if at == 0 else f"prompt {at}", text) for at, text in enumerate(task.prompts)]
    return [*prompts, ("completion", task.completion)]


def asked(task: Task) -> frozenset[str]:
    """The names that its templates ask for."""
    return frozenset[str]().union(*(variables(text) for _, text in templates(task)))


def fill(task: Task, name: str, template: str, example: Example) -> str:
    """A template of the task with an example's fields in it.

    Raises ValueError, naming template, column, row and the columns there are.
    """
    values = {"context": "", "labels": list(task.labels), **example.fields}
    try:
        return render(template, values)
    except jinja2.UndefinedError as error:
        missing = sorted(variables(template) - set(values))
        wrong = f"asks for {', '.join(map(repr, missing))}" if missing else str(error.message)
        there = ", ".join(map(repr, example.fields))
        what = f"{task.path or task.name}: the {name} template {wrong}, and {example.id} has the columns {there}"
        raise ValueError(what) from None
    except (jinja2.TemplateError, TypeError, ArithmeticError, AttributeError, ValueError, LookupError) as error:
        why = f"{type(error).__name__}: {error}" if isinstance(error, ValueError | LookupError) else error
        raise ValueError(f"{task.path or task.name}: the {name} template fails on {example.id}: {why}") from error
