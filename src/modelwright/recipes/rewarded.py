"""The settings of a policy that learns from its own answers: what can be said, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import tyro

from modelwright.model.heads import Critic
from modelwright.model.transformer import Transformer
from modelwright.plan.memory import Precision
from modelwright.recipes.options import refuse_taken, resumed
from modelwright.train.policy import GRPO, PPO

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
    toxicity: str | None = None
    """What calls an answer toxic, DIR:LABEL or FILE.py:NAME: the share that is, before and after."""
    task: Path = Path()
    """A task.yaml: its training part asks, its select part chooses the best moment, and `--part` is measured on."""
    part: Literal["decide", "test"] = "test"
    """The part of a task that is measured on, before and after."""
    prompts: str | None = None
    """A file of prompts in place of a task: .txt, one a line, or .jsonl with a column prompt, a text or messages."""
    max_new: int = 64
    """Tokens of an answer, of a file's prompts; a task says it itself (decoding.max_new)."""
    method: Literal["full", "lora"] = "lora"
    """full: all weights learn; lora: two thin matrices beside chosen layers."""
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
    """AdamW's learning rate; by default 0.003 (full) or 0.03 (lora) over the model's width."""
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
    """Other prompts kept apart that are answered before and after."""
    go_on: bool = False
    """Go on when an alarm rings, which else ends the run with the best moment before it."""
    general: tuple[str, ...] = ()
    """Text to measure forgetting on: files, folders, globs; by default dialogues of the embedded desk."""
    precision: Precision | None = None
    """Of the products; without it, bf16 where this machine multiplies it faster, else fp32."""
    seed: int = 0
    """Of what is drawn, the order of the prompts, and fresh weights."""
    dry_run: bool = False
    """Show the plan, and stop."""
    json: bool = False
    """Print one JSON object at the end, and no progress."""

    def algorithm(self) -> Method:
        raise NotImplementedError

    def learner(self, model: Transformer) -> Transformer | Critic:
        return model


Told = TypeVar("Told", bound=Policy)
POSITIVE = (
    "max_new",
    "rounds",
    "batch",
    "minibatch",
    "epochs",
    "rate",
    "clip",
    "rank",
    "alpha",
    "tests",
    "select",
    "measured",
)


def check(args: Told) -> Told:
    """Raises ValueError, FileNotFoundError or FileExistsError, one sentence each."""
    if args.resume:
        return resumed(args)
    if not args.model:
        raise ValueError("say which model to align: a directory or a hub id")
    if not args.reward:
        raise ValueError("say what judges its answers: --reward, for instance a reward model's directory")
    if args.reward == "metric" and args.prompts is not None:
        raise ValueError("--reward metric compares with a task's references, which a file of prompts has not: --task")
    if (args.task == Path()) == (args.prompts is None):
        raise ValueError("say what is asked by one of the two: --task task.yaml or --prompts FILE")
    for name in POSITIVE:
        if (value := getattr(args, name)) is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {value}")
    for name in ("beta", "target", "bound"):
        low = name != "beta"  # a penalty of nothing is none
        if (value := getattr(args, name, None)) is not None and (value < 0 or (low and value == 0)):
            raise ValueError(f"--{name} must be {'above 0' if low else '0 or more'}, not {value}")
    args.algorithm()
    if not args.dry_run:  # which writes nothing
        refuse_taken(args.output)
    return args
