"""Tune a model on a task: examples in, a tuned model or an adapter out, with what it is worth and what it forgot.

    1. a task             its examples in four parts, its prompts
    2. a model            opened; with a head over the task's labels where it is an encoder; with an adapter
    3. rows               each example as prompt and answer; the answer and its end alone carry loss
    4. a preflight        what would be learned wrong in silence is a fault, before any time is spent
    5. a plan             steps, memory and time, from a few steps at rate 0
    6. training           one loop; every so often the select part is answered, and the best moment kept
    7. what came of it    the best moment, saved; the select part's score; the loss on general text before and after

Instruction tuning with the loss on the completion (Ouyang et al. 2022); answers pointed at (Devlin et al. 2019); LoRA
(Hu et al. 2021); prompt tuning (Lester et al. 2021). Left out: several tasks at once, several machines, replay of
general text against forgetting.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from modelwright.adapt.prompt import soft_ids
from modelwright.data import documents
from modelwright.data.desk import documents as desk_documents
from modelwright.data.supervised import sizes
from modelwright.data.task import terms
from modelwright.evaluate.forgetting import grown
from modelwright.evaluate.metrics import metric_of
from modelwright.evaluate.scorer import ModelScorer, Rolling
from modelwright.hub.open import LanguageModel
from modelwright.infer.text import eos_ids
from modelwright.recipes.best import Best, answering, spread
from modelwright.recipes.budget import flops_per_token, make_plan, optimizer_of, timed
from modelwright.recipes.flags import parse
from modelwright.recipes.methods import speaking, write
from modelwright.recipes.options import PLAN
from modelwright.recipes.preflight import Preflight, Unfit, preflight
from modelwright.recipes.pretrain import choose_precision
from modelwright.recipes.ready import Material, Ready, get_ready, loader_of
from modelwright.recipes.run import Ended, Run, begun_in, ending_well
from modelwright.recipes.told import finished, show, show_samples
from modelwright.recipes.tuning import Learning, Plan, Tune, check, recall, remember
from modelwright.recipes.watch import Screen, Watch, write_whole
from modelwright.train import optim
from modelwright.train.loop import Diverged, Loss
from modelwright.train.meter import Meter

GENERAL = 100  # texts that forgetting is measured on


def tune(args: Tune, screen: Screen) -> dict[str, Any]:
    """Do what `args` say, and answer what came of it; see `main` for how it may end early."""
    # 1. a task, 2. a model, 3. rows
    ready = get_ready(args)
    # 4. a preflight
    looked = look(args, ready, screen)
    # 5. a plan
    precision, peak = choose_precision(args.precision)
    args = dataclasses.replace(args, precision=precision)
    best = best_of(args, ready)
    if args.resume:
        found = recall(args.output, ready.inputs)
    else:
        found = timed(args, ready, make_plan(args, ready, precision), best, precision, ready.loss)
    show(screen, args, ready, found, looked, precision)
    if args.dry_run:
        return {"predicted": dataclasses.asdict(found), "samples": [s.pieces for s in looked.samples]}
    # 6. training, between two looks at general text: full fine-tuning changes the base's own tensors
    texts, named = general_text(args)
    before = loss_on(ready.base, texts, spare=len(soft_ids(ready.lm.model)))
    if not args.resume:
        remember(args, found, ready.inputs)
    actual = train(args, ready, found, best, peak, screen, ready.loss)
    after = loss_on(speaking(ready.lm, ready.base), texts) if before else []
    # 7. what came of it
    lost = {**named, **dataclasses.asdict(grown(before, after, seed=args.seed))} if before else None
    return keep(args, ready, found, actual, lost)


# -- 4. a preflight ---------------------------------------------------------------------------------------


def look(args: Tune, ready: Ready, screen: Screen) -> Preflight:
    """Raises Unfit with all the faults there are: another model may cut less, or need fewer tokens for an answer."""
    frozen = None if args.method == "full" else ready.lm.model.head.proj.weight.detach()
    looked = preflight(
        ready.prompter, ready.parts["train"], ready.rows,
        eos=eos_ids(ready.lm), truncated=args.truncated, frozen=frozen,
    )  # fmt: skip
    if args.dry_run:
        show_samples(screen, looked)
    if looked.faults:
        raise Unfit("; and ".join(looked.faults))
    return looked


# -- 6. training ------------------------------------------------------------------------------------------


def best_of(args: Tune, ready: Ready) -> Best:
    examples = spread(ready.parts.get("select", ()), args.select)
    metric = metric_of(ready.task)
    measure = answering(ready.lm, ready.task, ready.prompter, args.seed, args.prompt)
    return Best(ready.lm.model, metric.name, metric.higher, measure, examples, args.output / "best")


def train(
    args: Learning, ready: Material, found: Plan, best: Best, peak: float, screen: Screen, loss: Loss[Any]
) -> dict[str, Any]:
    """Through the loop, and back to the best moment -> what the run took."""
    assert args.precision is not None
    model, directory = ready.learner, args.output
    torch.manual_seed(args.seed)  # of dropout, which takes no generator
    loader = loader_of(ready, found.length, found.source, found.rows // found.accumulate, args.seed)
    run = Run(directory, model, optimizer_of(args, ready, found.rate, found.matrix_rate), loader, keep=1, whole=False)
    for said in run.restore() if args.resume else ():
        screen.warn(said)
    every = -(-found.steps // min(args.tests, found.steps))
    tokens = round(found.rows * sum(sum(sizes(row)) for row in ready.rows) / loader.rows)  # rows are not filled whole
    with Watch(directory, found.steps, tokens, Meter(flops_per_token(ready, found), peak), screen, run.start) as watch:
        run.fit(
            loss,
            steps=found.steps,
            accumulate=found.accumulate,
            clip=args.clip,
            precision=args.precision,
            schedule=optim.linear(found.steps, found.warmup),
            test=lambda: best.test(run),
            test_every=every,
            save_every=every,
            watch=watch,
        )
    best.go_back()
    model.eval()
    return {"seconds": run.seconds} | watch.actual() | run.tested


# -- 7. what came of it -----------------------------------------------------------------------------------


class General(Protocol):
    """Settings that may name general text."""

    @property
    def general(self) -> tuple[str, ...]: ...


def general_text(args: General) -> tuple[list[str], dict[str, Any]]:
    """The texts that forgetting is measured on, what to call them, and whether that is because nobody named any."""
    found = documents.read(list(args.general)) if args.general else desk_documents(0, "valid", count=GENERAL)
    name = ", ".join(args.general) or "dialogues of the embedded desk"
    return [one.text for one in islice(found, GENERAL)], {"text": name, "default": not args.general}


def loss_on(lm: LanguageModel, texts: Sequence[str], spare: int = 0) -> list[Rolling]:
    """What the model says of the texts as it is now; nothing where it has no vocabulary to speak with.

    spare: what the soft prompt will take of the windows, so that the same tokens are predicted from the same ones.
    """
    return [] if lm.model.cfg.labels else ModelScorer(lm, spare=spare).rolling(texts)


def keep(args: Tune, ready: Ready, found: Plan, actual: dict[str, Any], lost: dict[str, Any] | None) -> dict[str, Any]:
    """Write what came of it beside the plan, then the model, which ends the run; what it takes the place of goes."""
    model = args.output / "model"
    came: dict[str, Any] = {"inputs": dataclasses.asdict(ready.inputs), "predicted": dataclasses.asdict(found)}
    came |= {"actual": actual, "forgetting": lost, "model": str(model)}
    write_whole(args.output / PLAN, json.dumps(came, indent=2))
    lineage = lineage_of(args, ready, found, actual) | {"forgetting": lost}
    write(ready.lm, ready.adapter, model, args.model, ready.inputs.base, lineage)
    for name in ("checkpoints", "best"):
        shutil.rmtree(args.output / name, ignore_errors=True)
    return came


def lineage_of(args: Tune, ready: Ready, found: Plan, actual: dict[str, Any]) -> dict[str, Any]:
    """What the tuned model was made of and how, beside its base."""
    return {
        "contract": ready.inputs.contract,
        "terms": terms(ready.task),
        "task": ready.task.name,
        "data": dict(ready.inputs.data),
        "seed": args.seed,
        "steps": found.steps,
        "rate": found.rate,
        "precision": args.precision,
        "select": {name: value for name, value in actual.items() if name.startswith(("select_", "best"))},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
    }


# -- the command ------------------------------------------------------------------------------------------


class Settled(Protocol):
    """What is told to a recipe that leaves a run."""

    @property
    def output(self) -> Path: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def json(self) -> bool: ...


Said = TypeVar("Said", bound=Settled)


@contextmanager
def place(args: Settled) -> Iterator[None]:
    """The run directory for this process alone; gone again where no run was begun. A dry run needs none."""
    if args.dry_run:
        yield
        return
    with begun_in(args.output, PLAN):
        yield


def main(argv: list[str]) -> int:
    """`modelwright tune`. Exit codes: 0 done, 2 the user's mistake, 130 and 143 stopped by a signal."""
    return carried_out("modelwright tune", check(parse(Tune, argv, "modelwright tune")), tune, finished)


def carried_out(
    called: str, args: Said, recipe: Callable[[Said, Screen], dict[str, Any]],
    finished: Callable[[Screen, dict[str, Any]], None],
) -> int:  # fmt: skip
    """A recipe in its run directory, to its end or to what a signal leaves of it -> the exit code."""
    screen = Screen(quiet=args.json)
    try:
        with ending_well(called, args.output, PLAN, screen.say), place(args):
            came = recipe(args, screen)
    except Diverged as error:
        raise ValueError(f"{error}: begin anew with a lower --rate and another --output") from None
    except Ended as stop:
        return stop.code
    if args.json:
        print(json.dumps(came))
    elif not args.dry_run:
        finished(screen, came)
    return 0
