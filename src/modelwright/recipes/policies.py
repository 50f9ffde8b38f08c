"""A policy that learns from its own answers, from the settings to what came of it: what `align ppo` and `grpo` share.

1. prompts     of a task's training part, or of a file; some are kept apart to measure on
2. a policy    and its reference: itself before the first step
3. a reward    and, if there is one, a gold judge that nothing is learned from
4. learning    answers are drawn, judged, and learned from for a few minibatches, again and again; a monitor watches
5. what came   the best moment; what each judge says of answers to the prompts kept apart, before and after; the
               price in the task's own metric, and in general text that was forgotten
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import TypeAdapter
from torch import nn

from modelwright.adapt.lora import merged_copy, reference_of
from modelwright.adapt.open import digest, prompter_of
from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.loader import mixed
from modelwright.data.prompt import Prompter
from modelwright.data.task import contract, terms
from modelwright.evaluate.forgetting import grown
from modelwright.evaluate.judge import Toxic, toxicity_of
from modelwright.evaluate.metrics import METRICS, Metric, amounts, metric_of, of_any, ratio
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.statistics import interval, paired
from modelwright.evaluate.tasks import measure
from modelwright.hub.open import LanguageModel
from modelwright.plan import memory
from modelwright.recipes.best import Best, spread
from modelwright.recipes.flags import parse
from modelwright.recipes.methods import Adapter, default_rate, make_adapter, put_on, speaking, with_dropout, write
from modelwright.recipes.monitor import Hacked, Monitor
from modelwright.recipes.options import PLAN, SETTINGS, NotResumable
from modelwright.recipes.preflight import suited
from modelwright.recipes.pretrain import choose_precision
from modelwright.recipes.prompts import asked, fitting
from modelwright.recipes.ready import open_base
from modelwright.recipes.results import data_digest
from modelwright.recipes.rewarded import Policy, Told, check
from modelwright.recipes.rewards import TURNED, reward_of
from modelwright.recipes.run import Run
from modelwright.recipes.told import forgotten
from modelwright.recipes.tune import carried_out, general_text, loss_on
from modelwright.recipes.tuning import Inputs, changes
from modelwright.recipes.watch import Screen, duration, size, thousands, write_whole
from modelwright.train import optim
from modelwright.train.alarms import Limits
from modelwright.train.rollout import Actor, Experience, Reward, Rollouts, checked
from modelwright.train.rollout import write as write_answers

TRIED = 16  # prompts that are answered to know what all will take
GENTLE = 0.03  # share of tuning's rates
SCORE = Metric("score", frozenset(), True, of_any(amounts), ratio, None)  # of a judge: no worst, no best


# -- 1. prompts, 2. a policy, 3. a reward --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ready:
    task: Task
    train: Sequence[Example]
    select: Sequence[Example]  # to choose the best moment by
    test: Sequence[Example]  # to measure on
    left_out: int  # prompts that are longer than the model reads
    lm: LanguageModel
    base: LanguageModel
    adapter: Adapter
    prompter: Prompter
    judges: Mapping[str, Reward]  # reward, and gold
    toxic: Toxic | None
    dropout: float  # that the model came with; while it learns there is none
    inputs: Inputs


def get_ready(args: Policy) -> Ready:
    task, *parts = asked(args)
    opened = open_base(args.model, None)
    base = dataclasses.replace(opened, model=with_dropout(opened.model, 0.0))
    before = dataclasses.replace(base, model=merged_copy(base.model))
    with suited():
        adapter = make_adapter(
            args.method, base.model, rank=args.rank, alpha=args.alpha, targets=args.targets, tokens=1
        )
        generator = torch.Generator().manual_seed(args.seed)
        lm = dataclasses.replace(base, model=put_on(base.model, adapter, None, generator))
        prompter = prompter_of(task, lm)
    named = {"reward": args.reward} | ({} if args.gold is None else {"gold": args.gold})
    judges = {name: reward_of(said, task) for name, said in named.items()}
    toxic = None if args.toxicity is None else toxicity_of(args.toxicity)
    train, select, test = (fitting(prompter, part) for part in parts)
    if not (train and select and test):
        raise ValueError(f"all prompts of a part are longer than a context of {prompter.context}, answers counted")
    assert base.path is not None
    data = {name: data_digest(task, part) for name, part in (("train", train), ("select", select), ("test", test))}
    named |= {} if args.toxicity is None else {"toxicity": args.toxicity}
    data |= {name: judge_digest(said) for name, said in named.items()}
    inputs = Inputs(contract(task, base.tokenizer), digest(base.path), data, (), "reward")
    left_out = sum(map(len, parts)) - len(train) - len(select) - len(test)
    dropout = opened.model.cfg.dropout
    return Ready(task, train, select, test, left_out, lm, before, adapter, prompter, judges, toxic, dropout, inputs)


def judge_digest(said: str) -> str:
    """What a judge is, wherever it lies: what its files hold, which label or function of it, and which way round."""
    plain = said.removeprefix(TURNED)
    place, _, name = (plain, "", "") if Path(plain).exists() else plain.rpartition(":")
    path = Path(place)
    if not place or not path.exists():
        return said
    held = digest(path) if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{said.removesuffix(plain)}{held}:{name}"


# -- 4. learning ---------------------------------------------------------------------------------------------------


def policy(args: Policy, screen: Screen) -> dict[str, Any]:
    """Do what `args` say, and answer what came of it."""
    # 1. prompts, 2. a policy and its reference, 3. a reward
    args = dataclasses.replace(args, precision=choose_precision(args.precision)[0])
    ready = get_ready(args)
    method, model = args.algorithm(), args.learner(ready.lm.model)
    actor = Actor(model, ready.prompter, method, reference_of(ready.lm.model), precision=args.precision or "fp32")
    rollouts = rollouts_of(args, ready, actor)
    predicted = foreseen(args, ready, model, actor)
    show(screen, args, ready, rollouts, predicted)
    if args.dry_run:
        return {"rounds": args.rounds, "steps": args.rounds * rollouts.steps, "predicted": predicted}
    # 4. learning, between two looks at the prompts kept apart
    if args.resume:
        recall(args, ready.inputs)
    texts, named = general_text(args)
    general, before = loss_on(ready.base, texts), judged(args, ready, ready.base, screen)
    if not args.resume:
        remember(args, ready.inputs)
    actual = learn(args, ready, model, rollouts, screen)
    # 5. what came of it
    tuned = speaking(ready.lm, ready.base)
    after = judged(args, ready, tuned, screen)
    lost = {**named, **dataclasses.asdict(grown(general, loss_on(tuned, texts), seed=args.seed))}
    found = {"predicted": predicted, "judged": compared(before, after, args.seed), "forgetting": lost}
    return keep(args, ready, actual, found)


def foreseen(args: Policy, ready: Ready, model: nn.Module, actor: Actor) -> dict[str, float]:
    """Seconds of the rounds and their tests, and of the looks before and after, from a few answers that are written,
    judged, read and learned from without a step; and bytes of a step, beside the program's own."""
    method, few, marks = args.algorithm(), ready.train[: min(args.batch, TRIED)], [time.perf_counter()]
    answers = actor.write(few, seed=args.seed, count=args.count)
    scores = ready.judges["reward"](answers)
    marks.append(time.perf_counter())
    beta = actor.controller.value
    experience = actor.experience(answers, scores)
    actor.controller.value = beta
    marks.append(time.perf_counter())
    terms, _ = method.loss(model, experience)
    torch.autograd.backward([total for total, _, _ in terms.values() if total.requires_grad])
    model.zero_grad(set_to_none=True)
    marks.append(time.perf_counter())
    writing, reading, learning = ((end - start) / len(answers) for start, end in pairwise(marks))
    each = writing + reading + (args.epochs or args.passes) * learning
    tests = (1 + args.tests) * min(args.select, len(ready.select))
    looks = (2 if args.prompts else 4) * min(args.measured, len(ready.test))  # of a task as it decodes, too
    return {
        "seconds": args.rounds * args.batch * args.count * each + tests * writing,
        "answering": looks * writing,
        "memory": memory_of(args, ready, experience),
    }


def memory_of(args: Policy, ready: Ready, experience: Experience) -> int:
    cfg, learning = ready.lm.model.cfg, sum(p.numel() for p in ready.lm.model.parameters() if p.requires_grad)
    source, length = experience.batch.source, experience.batch.tokens.shape[1]
    assert args.precision is not None
    read = 0 if source is None else source.tokens.shape[1]
    return memory.tuning(cfg, learning, minibatch_of(args), length, read, precision=args.precision).total


def minibatch_of(args: Policy) -> int:
    """Answers in a step."""
    answers = args.batch * args.count
    return args.minibatch or (answers if answers % 2 else answers // 2)


def rollouts_of(args: Policy, ready: Ready, actor: Actor) -> Rollouts:
    return Rollouts(
        actor, ready.train, ready.judges["reward"], prompts=args.batch, count=args.count,
        minibatch=minibatch_of(args), seed=args.seed, epochs=args.epochs or args.passes,
    )  # fmt: skip


def learn(args: Policy, ready: Ready, model: nn.Module, rollouts: Rollouts, screen: Screen) -> dict[str, Any]:
    """Through the loop, and back to the best moment -> what the run took."""
    assert args.precision is not None
    method, steps = args.algorithm(), args.rounds * rollouts.steps
    run = Run(args.output, model, optimizer_of(args, ready, model), rollouts, keep=1, whole=False)
    for said in run.restore() if args.resume else ():
        screen.warn(said)
    best, stopped = best_of(args, ready, model), ""
    if "best_step" not in run.tested:
        run.tested = best.test(run)  # so that there is a best moment, whenever an alarm rings
    answers = args.batch * args.count * rollouts.epochs // rollouts.steps  # to a step
    every = rollouts.steps * -(-args.rounds // min(args.tests, args.rounds))
    with Monitor(args.output, steps, answers, screen, run.start, Limits(), not args.go_on) as watch:
        try:
            run.fit(
                method.loss, steps=steps, accumulate=1, clip=args.clip, precision=args.precision,
                schedule=optim.linear(steps), test=lambda: best.test(run), test_every=every,
                save_every=rollouts.steps, watch=watch, weigh=method.weigh,
            )  # fmt: skip
        except Hacked as end:
            if end.alarm.name == "constant":  # which a judge is too that has nothing left to wish for
                run.tested = best.test(run)
            stopped = (
                f"{end.alarm.said}; kept are the weights of step {run.tested['best_step']}, the best that were tested"
            )
    best.go_back()
    model.eval()
    return {"seconds": run.seconds, "stopped": stopped} | watch.actual() | run.tested


def optimizer_of(args: Policy, ready: Ready, model: nn.Module) -> torch.optim.Optimizer:
    rate = args.rate or default_rate(args.method, ready.lm.model.cfg.width, GENTLE)
    return optim.make(model, "adamw", rate, decay=0.0, betas=(0.9, 0.95), eps=1e-5)


def best_of(args: Policy, ready: Ready, model: nn.Module) -> Best:
    """The moment whose answers to some prompts kept apart gold likes best; without gold, the reward."""
    name = "gold" if "gold" in ready.judges else "reward"
    judge = ready.judges[name]

    def measured(examples: Sequence[Example]) -> tuple[float, float]:
        said = write_answers(ready.lm.model, ready.prompter, examples, seed=args.seed)
        scores = checked(said, judge(said))
        return scores.mean().item(), scores.std(correction=0).item() / len(scores) ** 0.5

    return Best(model, name, True, measured, spread(ready.select, args.select), args.output / "best")


# -- 5. what came of it --------------------------------------------------------------------------------------------


def judged(args: Policy, ready: Ready, lm: LanguageModel, screen: Screen) -> dict[str, np.ndarray[Any, Any]]:
    """Of answers to the prompts kept apart, what each judge says (n, 2), which are toxic, and the task's own metric.

    Judges are asked of what is drawn, as the policy learns; the metric of what is written as the task decodes.
    """
    examples = spread(ready.test, args.measured)
    screen.say(f"answering {len(examples):,} prompts kept apart")
    lm.model.eval()
    said = write_answers(lm.model, ready.prompter, examples, seed=mixed(args.seed))  # not the draws that were chosen by
    found = {
        name: np.array([[score, 1.0] for score in checked(said, judge(said)).tolist()])
        for name, judge in ready.judges.items()
    }
    if ready.toxic is not None:
        found["toxicity"] = ready.toxic([answer.prompt.text for answer in said], [answer.text for answer in said])
    if args.prompts is None:
        metric = metric_of(ready.task)
        outcome = measure(ModelScorer(lm), ready.task, ready.prompter, examples, part=args.part)
        found[metric.name] = np.stack([output.stats[metric.name] for output in outcome.outputs])
    return found


def compared(before: Mapping[str, Any], after: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Under each name: before, after and their paired difference, each with its interval."""
    found = {}
    for name, old in before.items():
        metric, new = METRICS.get(name, SCORE), after[name]
        one, other = (dataclasses.asdict(interval(stats, metric, seed=seed)) for stats in (old, new))
        found[name] = {"before": one, "after": other, **dataclasses.asdict(paired(new, old, metric, seed=seed))}
    return found


def keep(args: Policy, ready: Ready, actual: dict[str, Any], came: dict[str, Any]) -> dict[str, Any]:
    """Write what came of it, then the model, which ends the run; what it takes the place of goes."""
    said = {"inputs": dataclasses.asdict(ready.inputs), "actual": actual, **came, "model": str(args.output / "model")}
    write_whole(args.output / PLAN, json.dumps(said, indent=2))
    method = dataclasses.asdict(args.algorithm())
    lineage = {
        "contract": ready.inputs.contract, "terms": terms(ready.task), "data": dict(ready.inputs.data),
        "seed": args.seed,
        "aligned": {"by": type(args).__name__.lower(), "reward": args.reward, "gold": args.gold, **method}, **came,
    }  # fmt: skip
    lm = ready.lm
    if ready.adapter.cfg is None:
        lm = dataclasses.replace(lm, model=with_dropout(lm.model, ready.dropout))
    write(lm, ready.adapter, args.output / "model", args.model, ready.inputs.base, lineage)
    for name in ("checkpoints", "best"):
        shutil.rmtree(args.output / name, ignore_errors=True)
    return said


# -- what a resumed run takes back ---------------------------------------------------------------------------------


def remember(args: Policy, inputs: Inputs) -> None:
    settings = TypeAdapter(type(args)).dump_python(args, mode="json")
    write_whole(args.output / SETTINGS, yaml.safe_dump(settings, sort_keys=False))
    write_whole(args.output / PLAN, json.dumps({"inputs": dataclasses.asdict(inputs)}, indent=2))


def recall(args: Policy, now: Inputs) -> None:
    """Raises NotResumable where the run's inputs are others now."""
    then = Inputs(**json.loads((args.output / PLAN).read_text())["inputs"])
    if changed := changes(then, now):
        what = f"{' and '.join(changed)} changed since the run in {args.output} began"
        raise NotResumable(what, "put back what it was, or begin anew with another --output")


# -- what is said --------------------------------------------------------------------------------------------------


def show(screen: Screen, args: Policy, ready: Ready, rollouts: Rollouts, predicted: Mapping[str, float]) -> None:
    learning = sum(p.numel() for p in ready.lm.model.parameters() if p.requires_grad)
    judges = f"reward {args.reward}" + (f", gold {args.gold}" if args.gold else "")
    screen.table(
        "the plan",
        {
            "prompts": f"{len(ready.train):,} to learn from, {len(ready.select):,} to choose the best moment by, "
            f"{len(ready.test):,} to measure on" + (f"; {ready.left_out:,} left out, too long" * (ready.left_out > 0)),
            "model": f"{args.model}: {ready.lm.model.cfg.shape}, {thousands(learning)} parameters learn, {args.method}",
            "judges": judges,
            "rounds": f"{args.rounds:,}, each of {args.batch} prompts with {args.count} answers, read "
            f"{rollouts.epochs}x in {rollouts.steps} steps",
            "time": f"{duration(predicted['seconds'])}, and {duration(predicted['answering'])} to answer the prompts "
            "that are measured on, by a few answers",
            "memory": f"{size(int(predicted['memory']))} beside the program's own",
        },
    )


def finished(screen: Screen, came: dict[str, Any]) -> None:
    actual = came["actual"]
    lines = {"time": f"{duration(actual['seconds'])} (planned {duration(came['predicted']['seconds'])})"}
    for name, found in came["judged"].items():
        apart = found["difference"]
        lines[name] = (
            f"{found['before']['value']:.3f} before, {found['after']['value']:.3f} after: {apart['value']:+.3f} "
            f"({apart['low']:+.3f} to {apart['high']:+.3f}) on {apart['n']} prompts"
        )
    lines |= {"best moment": f"step {actual['best_step']}"} if "best_step" in actual else {}
    lines |= {"stopped": actual["stopped"]} if actual["stopped"] else {}
    lines |= {"alarms": "; ".join(actual["alarms"])} if actual["alarms"] and not actual["stopped"] else {}
    screen.table("done", lines | {"forgetting": forgotten(came["forgetting"]), "model": came["model"]})


# -- the command ---------------------------------------------------------------------------------------------------


def command(options: type[Told], argv: list[str], name: str) -> int:
    """`modelwright align NAME`. Exit codes: 0 done, 2 the user's mistake, 130 and 143 stopped by a signal."""
    called = f"modelwright align {name}"
    return carried_out(called, check(parse(options, argv, called)), policy, finished)
