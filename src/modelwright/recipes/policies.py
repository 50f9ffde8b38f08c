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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import torch
import tyro
from torch import nn

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import digest, prompter_of
from modelwright.data.examples import Example, read_examples
from modelwright.data.kind import Task
from modelwright.data.pairs import conversation_task
from modelwright.data.prompt import Prompter
from modelwright.data.task import contract, prepare, read_task, terms
from modelwright.evaluate.forgetting import grown
from modelwright.evaluate.metrics import METRICS, Metric, metric_of
from modelwright.evaluate.statistics import Interval, interval, paired
from modelwright.evaluate.tasks import measure
from modelwright.hub.open import LanguageModel
from modelwright.plan.memory import Precision
from modelwright.recipes.best import Best, spread
from modelwright.recipes.flags import parse
from modelwright.recipes.methods import Adapter, default_rate, make_adapter, put_on, speaking, write
from modelwright.recipes.monitor import Hacked, Monitor
from modelwright.recipes.options import PLAN, SETTINGS, refuse_taken, resumed
from modelwright.recipes.preflight import suited
from modelwright.recipes.pretrain import choose_precision
from modelwright.recipes.ready import open_base
from modelwright.recipes.results import data_digest
from modelwright.recipes.rewards import reward_of
from modelwright.recipes.run import Ended, Run, ending_well
from modelwright.recipes.told import forgotten
from modelwright.recipes.tune import general_text, loss_on, place
from modelwright.recipes.tuning import Inputs
from modelwright.recipes.watch import Screen, duration, thousands, write_whole
from modelwright.train import optim
from modelwright.train.loop import Diverged
from modelwright.train.policy import GRPO, PPO
from modelwright.train.rollout import Actor, Reward, Rollouts, reference_of

HELD_OUT = 0.1  # of a file's prompts
JUDGED = Metric("score", frozenset(), True, lambda said, right, task: np.array([said, 1.0]), METRICS["accuracy"].value, None)
Method = PPO | GRPO


@dataclasses.dataclass(frozen=True)
class Policy:
    """What a recipe can be told in which a policy learns from its own answers."""

    count: ClassVar[int] = 1
    passes: ClassVar[int] = 1

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = ""
    """The policy: a model directory or a hub id, a decoder or an encoder-decoder."""
    reward: str = ""
    """What judges answers: a reward model, a classifier with a label (DIR:LABEL), metric, or FILE.py:FUNCTION."""
    gold: str | None = None
    """A second judge, in the same forms, that nothing is learned from: when it falls while the reward rises, the reward
    is being cheated."""
    task: Path = Path()
    """A task.yaml: its training part asks, its select part is measured on."""
    prompts: str | None = None
    """A file of prompts in place of a task: .txt, one a line, or .jsonl with a column prompt."""
    max_new: int = 64
    """Tokens of an answer, of a file's prompts; a task says it itself (decoding.max_new)."""
    method: Annotated[str, tyro.conf.arg(metavar="{full,lora}")] = "lora"
    """full: all weights learn; lora: two thin matrices beside chosen layers, without which the policy is its reference."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("runs/align")
    """The run directory: metrics, checkpoints, and the model or adapter in `model/`."""
    resume: bool = False
    """Go on with the run in `--output` where it was stopped."""
    rounds: int = 50
    """Times that prompts are answered, and the answers learned from."""
    batch: int = 32
    """Prompts in a round."""
    minibatch: int | None = None
    """Answers in a step of the optimizer; by default half of a round's."""
    epochs: int | None = None
    """Times that a round's answers are read."""
    rate: float | None = None
    """AdamW's learning rate; by default 0.01 (full) or 0.1 (lora) over the model's width."""
    clip: float = 1.0
    """The largest gradient norm."""
    rank: int = 8
    """Of a LoRA."""
    alpha: float = 16.0
    """Of a LoRA: its update counts alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Of a LoRA: which layers of each block, among q k v o gate up down; by default all that the model has."""
    unfinished: float = 1.0
    """What is taken from the score of an answer that did not end."""
    tests: int = 5
    """Times that the judges are asked about the prompts kept apart; the best moment is kept."""
    select: int = 100
    """Prompts kept apart that are answered each time."""
    measured: int = 400
    """Prompts kept apart that are answered before and after."""
    heed: bool = True
    """End the run when an alarm rings, and keep the best moment before it."""
    general: tuple[str, ...] = ()
    """Text to measure forgetting on: files, folders, globs; by default dialogues of the embedded desk."""
    precision: Precision | None = None
    """Of the products; without it, bf16 where this machine multiplies it faster, else fp32."""
    seed: int = 0
    """Of what is drawn, the order of the prompts, and fresh weights."""
    json: bool = False
    """Print one JSON object at the end, and no progress."""

    def algorithm(self) -> Method:
        raise NotImplementedError


Told = TypeVar("Told", bound=Policy)
POSITIVE = ("max_new", "rounds", "batch", "minibatch", "epochs", "rate", "clip", "rank", "alpha", "tests", "select", "measured")


def check(args: Told) -> Told:
    """Raises ValueError, FileNotFoundError or FileExistsError, one sentence each."""
    if args.resume:
        return resumed(args)
    if not args.model:
        raise ValueError("say which model to align: a directory or a hub id")
    if not args.reward:
        raise ValueError("say what judges its answers: --reward, for instance a reward model's directory")
    if (args.task == Path()) == (args.prompts is None):
        raise ValueError("say what is asked, by --task task.yaml or by --prompts FILE")
    if args.method not in ("full", "lora"):
        raise ValueError(f"--method is {args.method!r}, and is to be full or lora")
    for name in POSITIVE:
        if (value := getattr(args, name)) is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {value}")
    refuse_taken(args.output)
    return args


# -- 1. prompts, 2. a policy, 3. a reward --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ready:
    task: Task
    train: Sequence[Example]
    held: Sequence[Example]  # kept apart
    lm: LanguageModel
    base: LanguageModel
    adapter: Adapter
    prompter: Prompter
    judges: Mapping[str, Reward]  # reward, and gold
    inputs: Inputs


def get_ready(args: Policy) -> Ready:
    task, train, held = asked(args)
    base = open_base(args.model, 0.0)
    before = dataclasses.replace(base, model=merged_copy(base.model))
    with suited():
        adapter = make_adapter(
            "full" if args.method == "full" else "lora", base.model,
            rank=args.rank, alpha=args.alpha, targets=args.targets, tokens=1,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(args.seed)
        lm = dataclasses.replace(base, model=put_on(base.model, adapter, None, generator))
        prompter = prompter_of(task, lm)
    named = {"reward": args.reward} | ({} if args.gold is None else {"gold": args.gold})
    judges = {name: reward_of(said, task) for name, said in named.items()}
    assert base.path is not None
    data = {"train": data_digest(task, train), "select": data_digest(task, held)}
    inputs = Inputs(contract(task, base.tokenizer), digest(base.path), data, (), json.dumps(named))
    return Ready(task, train, held, lm, before, adapter, prompter, judges, inputs)


def asked(args: Policy) -> tuple[Task, Sequence[Example], Sequence[Example]]:
    """The task, and what asks of it: to learn from, and kept apart."""
    if args.prompts is None:
        task, parts = prepare(read_task(args.task))
        if not (held := parts.get("select", ())):
            raise ValueError(f"{args.task} has no select part, and there would be nothing to measure on: give it one")
        return task, parts["train"], held
    plain = conversation_task()
    task = dataclasses.replace(plain, decoding=dataclasses.replace(plain.decoding, max_new=args.max_new))
    train, held = apart(prompts_of(args.prompts), args.seed)
    if not train or not held:
        raise ValueError(f"{args.prompts} has too few prompts to keep some apart: give at least 20")
    return task, train, held


def prompts_of(source: str) -> list[Example]:
    """Each as a conversation of one message; a prompt that stands there twice is taken once."""
    path = Path(source)
    if path.suffix == ".txt":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file of prompts {path}")
        said = [(f"{path.name}:{at}", line) for at, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]
    else:
        found = read_examples(source)
        if lacking := [example.id for example in found if not isinstance(example.fields.get("prompt"), str)]:
            raise ValueError(f"{lacking[0]} has no text under prompt: name a file whose rows have one")
        said = [(example.id, example.fields["prompt"]) for example in found]
    once = {text: name for name, text in reversed(said)}
    return [Example(name, {"messages": ({"role": "user", "content": text},)}) for text, name in reversed(once.items())]


def apart(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    def chance(example: Example) -> float:
        said = repr((seed, sorted(example.fields.items()))).encode()
        return int.from_bytes(hashlib.sha256(said).digest()[:8], "big") / 2**64

    held = [example for example in examples if chance(example) < HELD_OUT]
    return [example for example in examples if chance(example) >= HELD_OUT], held


# -- 4. learning ---------------------------------------------------------------------------------------------------


def learn(args: Policy, ready: Ready, model: nn.Module, rollouts: Rollouts, screen: Screen) -> dict[str, Any]:
    """Through the loop, and back to the best moment -> what the run took."""
    assert args.precision is not None
    method, steps = args.algorithm(), args.rounds * rollouts.steps
    optimizer = optim.make(model, "adamw", rate_of(args, ready), decay=0.0, eps=1e-5)
    run = Run(args.output, model, optimizer, rollouts, keep=1, whole=False)
    for said in run.restore() if args.resume else ():
        screen.warn(said)
    best = best_of(args, ready, model)
    every = rollouts.steps * -(-args.rounds // min(args.tests, args.rounds))
    answers = args.batch * method_count(args)
    watch = Monitor(args.output, steps, answers // rollouts.steps, screen, run.start, Limits(), args.heed)
    stopped = None
    with watch:
        try:
            run.fit(
                method.loss, steps=steps, accumulate=1, clip=args.clip, precision=args.precision,
                schedule=optim.linear(steps), test=lambda: best.test(run), test_every=every,
                save_every=rollouts.steps, watch=watch, weigh=method.weigh,
            )  # fmt: skip
        except Hacked as end:
            stopped = end.alarm.said
    if stopped is None or (args.output / "best").exists():
        best.go_back()
    model.eval()
    return {"seconds": run.seconds, "stopped": stopped} | watch.actual() | run.tested
