"""What tuning will take: rows, steps and memory by calculation, seconds by trying."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import torch

from modelwright.infer.packed import available_memory
from modelwright.losses.language import language_model
from modelwright.plan import cost
from modelwright.plan.memory import Precision
from modelwright.plan.memory import tuning as memory_of
from modelwright.plan.size import MUON_RATE, most_rows, parse_time
from modelwright.recipes.best import Best
from modelwright.recipes.methods import default_rate
from modelwright.recipes.preflight import suited
from modelwright.recipes.ready import Material, loader_of, widths
from modelwright.recipes.tuning import Learning, Plan
from modelwright.train import optim
from modelwright.train.loop import Loss, fit

MATRIX_RATE = MUON_RATE / 2
TRIED = 4  # steps, of which the first, slower than the others, does not count


def make_plan(args: Learning, ready: Material, precision: Precision) -> Plan:
    """Everything but the time, which `timed` finds out. What the memory decides, `rows` and `accumulate`, may be said.

    Raises Unfit where not even one row fits into memory.
    """
    cfg = ready.lm.model.cfg
    length, source = widths(ready.rows, (cfg.encoder or cfg).context, args.length)
    rows = loader_of(ready, length, source, 1, args.seed).rows
    in_a_step = args.rows or min(rows, max(1, round(args.batch * rows / len(ready.rows))))
    learning = sum(p.numel() for p in ready.learner.parameters() if p.requires_grad)
    predicted = sum(int((row.weight > 0).sum()) for row in ready.rows) / (rows * length)

    def bytes_of(held: int) -> int:
        return memory_of(
            cfg, learning, held, length, source, precision=precision, optimizer=args.optimizer, predicted=predicted
        ).total

    room = int(min(0.9 * available_memory(), 2**62))
    with suited():
        accumulate = args.accumulate or -(-in_a_step // most_rows(bytes_of, in_a_step, room))
    in_a_step = -(-in_a_step // accumulate) * accumulate
    steps = args.steps or max(1, math.ceil(args.epochs * rows / in_a_step))
    return Plan(
        steps=steps,
        warmup=warmup(args, steps),
        rate=args.rate or default_rate(args.method, cfg.width, args.gentle),
        matrix_rate=(args.matrix_rate or MATRIX_RATE) if args.optimizer == "muon" else 0.0,
        rows=in_a_step,
        accumulate=accumulate,
        length=length,
        source=source,
        predicted=predicted,
        examples=len(ready.rows),
        learning=learning,
        parameters=cost.parameters(cfg),
        memory=bytes_of(in_a_step // accumulate),
    )


def warmup(args: Learning, steps: int) -> int:
    return max(1, round(args.warmup * steps))


def optimizer_of(args: Learning, ready: Material, rate: float, matrix_rate: float) -> torch.optim.Optimizer:
    return optim.make(
        ready.learner, args.optimizer, rate, matrix_lr=matrix_rate, decay=args.decay, betas=(0.9, 0.98),
        adjust="original",
    )  # fmt: skip


def timed(
    args: Learning, ready: Material, found: Plan, best: Best, precision: Precision, loss: Loss[Any] = language_model
) -> Plan:
    """The same plan with the time that it takes, and where a time is given, no more steps than fit into it."""
    seconds, each, steps = step_seconds(args, ready, found, precision, loss), best.seconds(), found.steps
    if args.time:
        room = parse_time(args.time)
        # What answering takes is a guess from above; half of the time at least is for learning.
        steps = min(steps, max(1, int(max(room - min(args.tests, steps) * each, room / 2) / seconds)))
    answering = min(args.tests, steps) * each
    return replace(found, steps=steps, warmup=warmup(args, steps), seconds=seconds * steps, answering=answering)


def step_seconds(
    args: Learning, ready: Material, found: Plan, precision: Precision, loss: Loss[Any] = language_model
) -> float:
    """A few steps are made at rate 0, which changes no weight; dropout's draws are seeded when training begins."""
    loader = loader_of(ready, found.length, found.source, found.rows // found.accumulate, args.seed)
    marks = list[float]()
    fit(
        ready.learner,
        islice(loader, TRIED * found.accumulate),
        loss,
        optimizer_of(args, ready, 0.0, 0.0),
        steps=TRIED,
        accumulate=found.accumulate,
        precision=precision,
        after_step=lambda step, metrics: marks.append(time.perf_counter()),
    )
    return statistics.median(after - before for before, after in pairwise(marks))


def flops_per_token(ready: Material, found: Plan) -> float:
    """The way back costs twice the way forward: once for what is handed on, and once for what learns."""
    whole = cost.flops_per_token(ready.lm.model.cfg, found.length, found.source, found.predicted)
    return whole * (2 + min(1.0, found.learning / found.parameters)) / 3
