"""A model and preferences made ready for each other: what `align reward` and `align dpo` share.

Pairs are read in any form that is published, and fall by their prompts into three parts: to learn from, to choose the
best moment by, and to test on. A ranking is a row, each of its answers a segment (`data.pairs`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import digest
from modelwright.data.examples import read_examples
from modelwright.data.kind import Task
from modelwright.data.pack import Batch, Row, collate
from modelwright.data.pairs import Compared, Part, Write, asked_of, compared, conversation_task, split
from modelwright.data.preferences import Preference, preferences
from modelwright.data.supervised import Widths, sizes
from modelwright.data.task import contract, read_task, terms
from modelwright.evaluate.preferences import Foretold, Margin, foretold
from modelwright.hub.open import LanguageModel
from modelwright.losses.preference import Loss
from modelwright.recipes.best import Best
from modelwright.recipes.budget import make_plan, timed
from modelwright.recipes.flags import parse
from modelwright.recipes.methods import Adapter, make_adapter, put_on, write
from modelwright.recipes.options import PLAN, resumed
from modelwright.recipes.preflight import suited
from modelwright.recipes.pretrain import choose_precision
from modelwright.recipes.ready import open_base
from modelwright.recipes.told import chosen, forgotten
from modelwright.recipes.tune import carried_out, train
from modelwright.recipes.tuning import Inputs, Learning, Plan, check_learning, recall, remember
from modelwright.recipes.watch import Screen, duration, thousands, write_whole

AT_ONCE = 8  # rows that are scored together
Score = Callable[[nn.Module, Batch], Tensor]  # what either answer of each pair is given: (B, P, 2)


@dataclasses.dataclass(frozen=True)
class Prefer(Learning):
    """What a recipe that learns from preferences can be told."""

    gentle: ClassVar[float] = 0.1
    epochs: float = 1.0
    """Times that the training part is read: after the first, preferences are learned by heart."""
    pairs: str = ""
    """A file of preferences (.jsonl, .csv, .parquet): chosen and rejected, or completions and ranks."""
    held_out: str | None = None
    """A file of others to test on; without one, a tenth of the prompts is kept apart."""


Told = TypeVar("Told", bound=Prefer)


def check(args: Told) -> Told:
    """Raises ValueError, FileNotFoundError or FileExistsError, one sentence each."""
    if args.resume:
        return resumed(args)
    if not args.model:
        raise ValueError("say which model to align: a directory or a hub id")
    if not args.pairs:
        raise ValueError("say from which preferences: --pairs FILE")
    if args.method == "prompt":
        raise ValueError("--method prompt cannot be taken away from a prompt that holds it: take lora or full")
    return check_learning(args)


# -- 1. pairs, 2. a model, 3. rows -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Paired:
    """`base` is the model as it was opened; `learner` is `lm`'s model, or holds it."""

    task: Task
    lm: LanguageModel
    base: LanguageModel
    adapter: Adapter
    learner: nn.Module
    parts: Mapping[Part, Compared]
    inputs: Inputs

    @property
    def rows(self) -> Sequence[Row]:
        return self.parts["train"].rows

    @property
    def names(self) -> Sequence[str]:
        return self.parts["train"].names


def get_paired(
    args: Prefer, written: Callable[[Task, LanguageModel], Write], put: Callable[[LanguageModel], nn.Module]
) -> Paired:
    """written: how an answer becomes a row, for this model. put: the model -> what learns."""
    task = conversation_task() if args.task == Path() else read_task(args.task)
    found = read_pairs(args, task)
    base = open_base(args.model, args.dropout)
    before = dataclasses.replace(base, model=merged_copy(base.model))
    with suited():
        adapter = make_adapter(
            args.method, base.model, rank=args.rank, alpha=args.alpha, targets=args.targets, tokens=args.tokens
        )
        generator = torch.Generator().manual_seed(args.seed)
        lm = dataclasses.replace(base, model=put_on(base.model, adapter, base.model.cfg.labels, generator))
        write, room = written(task, lm), room_of(lm)
    parts: dict[Part, Compared] = {part: compared(some, task, write, room) for part, some in found.items()}
    check_parts(parts, room)
    assert base.path is not None
    data: dict[str, str] = {part: pairs_digest(some) for part, some in found.items()}
    inputs = Inputs(contract(task, base.tokenizer), digest(base.path), data, (), "accuracy")
    return Paired(task, lm, before, adapter, put(lm), parts, inputs)


def read_pairs(args: Prefer, task: Task) -> dict[Part, list[Preference]]:
    columns = () if args.task == Path() else tuple(task.columns[name] for name in task.inputs if name in task.columns)
    found = split(preferences(read_examples(args.pairs), columns), args.seed)
    if args.held_out is not None:
        found = {"train": found["train"] + found["test"], "select": found["select"], "test": []}
        found["test"] = preferences(read_examples(args.held_out), columns)
        seen = {asked_of(pair) for pair in found["train"] + found["select"]}
        if shared := [pair.id for pair in found["test"] if asked_of(pair) in seen]:
            raise ValueError(
                f"{len(shared)} pairs of {args.held_out} have a prompt of {args.pairs}, {shared[0]} the first: a test "
                "on them would be of memory"
            )
    return found


def room_of(lm: LanguageModel) -> tuple[int, int]:
    """Tokens of a text that the model reads, and of a source."""
    cfg = lm.model.cfg
    return cfg.context, 0 if cfg.encoder is None else cfg.encoder.context


def check_parts(parts: Mapping[Part, Compared], room: tuple[int, int]) -> None:
    for part, found in parts.items():
        if not found.rows:
            why = f"{len(found.left_out)} are longer than a context of {room[0]}" if found.left_out else "there is none"
            raise ValueError(f"no pair is left in the {part} part, where {why}: give more, or a model that reads more")


def pairs_digest(pairs: Sequence[Preference]) -> str:
    said = [dataclasses.asdict(pair) for pair in pairs]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=repr).encode()).hexdigest()


# -- 4. a plan, 5. training --------------------------------------------------------------------------------


def learn(args: Told, ready: Paired, loss: Loss, score: Score, screen: Screen) -> tuple[Plan, dict[str, Any] | None]:
    """From the plan to the best moment -> the plan, and what the run took; nothing of a dry run."""
    precision, peak = choose_precision(args.precision)
    args = dataclasses.replace(args, precision=precision)
    select, place = ready.parts["select"].rows, args.output / "best"
    best = Best(ready.learner, "accuracy", True, accuracy_of(ready, score), select, place)
    if args.resume:
        found = recall(args.output, ready.inputs)
    else:
        found = timed(args, ready, make_plan(args, ready, precision), best, precision, loss)
    show(screen, args, ready, found, precision)
    if args.dry_run:
        return found, None
    if not args.resume:
        remember(args, found, ready.inputs)
    return found, train(args, ready, found, best, peak, screen, loss)


def accuracy_of(ready: Paired, score: Score) -> Callable[[Sequence[Row]], float]:
    def measure(rows: Sequence[Row]) -> float:
        return foretold(margins(ready, rows, [str(at) for at in range(len(rows))], score)).accuracy.value

    return measure


@torch.no_grad()
def margins(ready: Paired, rows: Sequence[Row], names: Sequence[str], score: Score) -> list[Margin]:
    """Of each pair of the rows, how much higher the chosen answer is scored."""
    found, named = list[Margin](), iter(names)
    for batch in batches(ready, rows):
        assert batch.pairs is not None
        chosen, rejected = score(ready.learner, batch).unbind(-1)  # (B, P) each
        for values, each in zip((chosen - rejected).tolist(), batch.pairs.weight.tolist(), strict=True):
            name = next(named)
            found += [Margin(value, name, count) for value, count in zip(values, each, strict=True) if count]
    return found


def batches(ready: Paired, rows: Sequence[Row]) -> Iterator[Batch]:
    """In order, a few rows at a time."""
    for start in range(0, len(rows), AT_ONCE):
        few = rows[start : start + AT_ONCE]
        length, source = (max(each) for each in zip(*map(sizes, few), strict=True))
        yield collate(few, Widths(length, source, ready.lm.tokenizer.pad or 0))


# -- 6. what came of it ------------------------------------------------------------------------------------


def keep(
    args: Prefer, ready: Paired, found: Plan, actual: dict[str, Any], came: dict[str, Any], aligned: dict[str, Any],
    also: Callable[[Path], None] = lambda work: None,
) -> dict[str, Any]:  # fmt: skip
    """Write what came of it beside the plan, then the model, which ends the run; what it takes the place of goes."""
    said: dict[str, Any] = {"inputs": dataclasses.asdict(ready.inputs), "predicted": dataclasses.asdict(found)}
    said |= {"actual": actual, **came, "model": str(args.output / "model")}
    write_whole(args.output / PLAN, json.dumps(said, indent=2))
    lineage = {
        "contract": ready.inputs.contract, "terms": terms(ready.task), "data": dict(ready.inputs.data),
        "seed": args.seed, "steps": found.steps, "rate": found.rate, "aligned": aligned, **came,
    }  # fmt: skip
    write(ready.lm, ready.adapter, args.output / "model", args.model, ready.inputs.base, lineage, also)
    for name in ("checkpoints", "best"):
        shutil.rmtree(args.output / name, ignore_errors=True)
    return said


def tested(ready: Paired, score: Score) -> Foretold:
    """On the test part, which is opened once."""
    ready.learner.eval()
    found = ready.parts["test"]
    return foretold(margins(ready, found.rows, found.prompts, score))


# -- what is said ------------------------------------------------------------------------------------------


def show(screen: Screen, args: Prefer, ready: Paired, found: Plan, precision: str) -> None:
    parts = ", ".join(f"{part} {each.pairs:,}" for part, each in ready.parts.items())
    long = sum(len(each.left_out) for each in ready.parts.values())
    left = f"; {long:,} left out, longer than the model reads" if long else ""
    screen.table(
        "the plan",
        {
            "pairs": parts + left,
            "model": f"{args.model}: {ready.lm.model.cfg.shape}, {thousands(found.parameters)} parameters; "
            f"{thousands(found.learning)} learn ({args.method})",
            "steps": f"{found.steps:,} of {found.rows} rows of {found.length} at rate {found.rate:.2g} in {precision}",
            "time": f"{duration(found.seconds)}, and up to {duration(found.answering)} to try the select part",
            "memory": f"{found.memory / 2**20:,.0f} MiB beside the program's own",
        },
    )


def told(found: Mapping[str, Any]) -> str:
    right = found["accuracy"]
    return (
        f"accuracy {right['value']:.3f} ({right['low']:.3f} to {right['high']:.3f}) on {found['pairs']:,} pairs, "
        f"log loss {found['log_loss']:.3f} (a coin's is 0.693), calibration error {found['calibration']:.3f}"
    )


def finished(screen: Screen, came: dict[str, Any]) -> None:
    predicted, actual = came["predicted"], came["actual"]
    planned = duration(predicted["seconds"] + predicted["answering"])
    screen.table(
        "done",
        {
            "time": f"{duration(actual['seconds'])} (planned {planned})",
            "select part": chosen(actual),
            "test part": told(came["preferences"]),
            **({"forgetting": forgotten(came["forgetting"])} if "forgetting" in came else {}),
            "model": came["model"],
        },
    )


# -- the command -------------------------------------------------------------------------------------------


def command(options: type[Told], argv: list[str], name: str, recipe: Callable[[Told, Screen], dict[str, Any]]) -> int:
    """`modelwright align NAME`. Exit codes: 0 done, 2 the user's mistake, 130 and 143 stopped by a signal."""
    called = f"modelwright align {name}"
    return carried_out(called, check(parse(options, argv, called)), recipe, finished)
