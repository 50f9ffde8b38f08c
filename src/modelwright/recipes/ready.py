"""A task and a model made ready for each other: examples, head, adapter, prompts, and the rows to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import digest, method, open_model
from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.pack import Row
from modelwright.data.prompt import Prompter
from modelwright.data.supervised import Examples
from modelwright.data.task import contract, prepare, read_task
from modelwright.evaluate.metrics import metric_of
from modelwright.hub.open import LanguageModel
from modelwright.losses.extract import extract
from modelwright.losses.language import language_model
from modelwright.model.config import SPAN
from modelwright.model.transformer import Labels, Transformer
from modelwright.recipes.evaluate import prompter_of
from modelwright.recipes.methods import Adapter, make_adapter, put_on, with_dropout
from modelwright.recipes.preflight import Unfit, data_faults, suited
from modelwright.recipes.results import data_digest
from modelwright.recipes.tuning import Inputs, Tune
from modelwright.train.loop import Loss

ABREAST = 4  # average examples in a row


class Material(Protocol):
    """A model that learns, and the rows that it learns from, each with a name for faults."""

    @property
    def lm(self) -> LanguageModel: ...
    @property
    def learner(self) -> nn.Module: ...  # the model, or what it was put into
    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def inputs(self) -> Inputs: ...


@dataclass(frozen=True)
class Ready:
    """`base` is the model as it was opened; its tensors are those of `lm`, and so will not stay as they are."""

    task: Task
    parts: Mapping[str, Sequence[Example]]
    lm: LanguageModel
    base: LanguageModel
    adapter: Adapter
    prompter: Prompter
    rows: Sequence[Row]  # to learn from, one for each example of the training part
    inputs: Inputs

    @property
    def learner(self) -> Transformer:
        return self.lm.model

    @property
    def names(self) -> list[str]:
        return [example.id for example in self.parts["train"]]

    @property
    def loss(self) -> Loss[Any]:
        return extract if self.prompter.points else language_model


def get_ready(args: Tune) -> Ready:
    """Raises ValueError for faults of the data, before a model is opened, and Unfit where the task, the model and the
    method do not go together."""
    task, parts = prepare(read_task(args.task))
    if faults := data_faults(task, parts, args.overlap):
        raise ValueError("; and ".join(faults))
    base = open_base(args.model, args.dropout)
    encoder = base.model.cfg.shape == "encoder"
    labels = head_of(task) if encoder else None
    before = replace(base, model=merged_copy(base.model))  # `put_on` changes the model in place
    with suited():
        adapter = make_adapter(
            args.method, base.model, rank=args.rank, alpha=args.alpha, targets=args.targets, tokens=args.tokens
        )
        lm = replace(base, model=put_on(base.model, adapter, labels, torch.Generator().manual_seed(args.seed)))
        prompter = prompter_of(task, lm)
        rows = rows_of(prompter, parts["train"])
    return Ready(task, parts, lm, before, adapter, prompter, rows, inputs_of(task, parts, base))


def head_of(task: Task) -> Labels | None:
    """What an encoder chooses among, to do such a task; None where it cannot."""
    if task.kind == "answer":
        return SPAN
    return Labels(task.labels, "token" if task.kind == "tag" else "text") if task.labels else None


def open_base(name: str, dropout: float | None) -> LanguageModel:
    lm = open_model(name)
    if method(lm):
        raise Unfit(f"{name} is an adapter: merge it first (modelwright merge), and tune the merged model")
    return lm if dropout is None else replace(lm, model=with_dropout(lm.model, dropout))


def inputs_of(task: Task, parts: Mapping[str, Sequence[Example]], base: LanguageModel) -> Inputs:
    assert base.path is not None
    data = {part: data_digest(task, examples) for part, examples in parts.items()}
    return Inputs(contract(task, base.tokenizer), digest(base.path), data, task.labels, metric_of(task).name)


# -- rows -------------------------------------------------------------------------------------------------


def rows_of(prompter: Prompter, train: Sequence[Example]) -> list[Row]:
    """Each example under one of the task's prompts in turn."""
    return [prompter.row(example, template=template_of(prompter, at)) for at, example in enumerate(train)]


def template_of(prompter: Prompter, at: int) -> int:
    return at % len(prompter.task.prompts)


def widths(rows: Sequence[Row], context: int, said: int | None) -> tuple[int, int]:
    """Tokens of a row, and of its source."""
    read = [0 if row.source is None else len(row.source[0]) for row in rows]
    return width([len(row.tokens) for row in rows], context, said), width(read, context, said)


def width(sizes: Sequence[int], context: int, said: int | None) -> int:
    """What is said, or what a few average examples fill; and the longest one at least."""
    wanted = said or ABREAST * -(-sum(sizes) // len(sizes))
    return max(max(sizes), min(wanted, context))


def loader_of(ready: Material, length: int, source: int, batch: int, seed: int) -> Examples:
    """batch: of rows that are held at once."""
    pad = ready.lm.tokenizer.pad or 0
    return Examples(ready.rows, length=length, source=source, batch=batch, seed=seed, pad=pad, names=ready.names)
