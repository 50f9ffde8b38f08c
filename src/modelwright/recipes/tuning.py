"""The settings of a tuning run: what can be said, what is refused, and what a resumed run takes back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import tyro
import yaml
from pydantic import TypeAdapter

from modelwright.plan.memory import Optimizer, Precision
from modelwright.plan.size import parse_time
from modelwright.recipes.methods import Method
from modelwright.recipes.options import PLAN, SETTINGS, NotResumable, refuse_taken, resumed
from modelwright.recipes.watch import write_whole


@dataclasses.dataclass(frozen=True)
class Learning:
    """What every recipe that starts from a model and some examples can be told."""

    gentle: ClassVar[float] = 1.0  # share of the usual rate

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = ""
    """A model directory or a hub id."""
    task: Path = Path()
    """A task.yaml."""
    method: Method = "lora"
    """full: all weights; lora: two thin matrices beside chosen layers; prompt: a few vectors before every text."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("runs/tune")
    """The run directory: plan, metrics, checkpoints, and the model or adapter in `model/`."""
    resume: bool = False
    """Go on with the run in `--output` where it was stopped."""
    epochs: float = 3.0
    """Times that the training part is read."""
    steps: int | None = None
    """Steps, in place of epochs."""
    time: str | None = None
    """At most so long, the select part's answers included: as many steps as fit, if they are fewer."""
    batch: int = 16
    """Examples in a step, on average."""
    rows: int | None = None
    """Rows in a step, each of which several examples share; by default what `--batch` examples fill."""
    accumulate: int | None = None
    """Parts that a step is taken in, one after the other; by default as few as the memory asks for."""
    rate: float | None = None
    """AdamW's learning rate; by default 0.1 (full), 1 (lora) or 3 (prompt) over the model's width."""
    optimizer: Optimizer = "adamw"
    """muon: for the blocks' matrices, with full; beside AdamW for the rest, as in pretraining."""
    matrix_rate: float | None = None
    """Muon's learning rate; by default half of what pretraining takes."""
    warmup: float = 0.06
    """Share of the steps on which the rate rises."""
    decay: float = 0.0
    """Weight decay of matrices."""
    clip: float = 1.0
    """The largest gradient norm."""
    dropout: float | None = None
    """Of all layers; by default what the model was saved with."""
    rank: int = 8
    """Of a LoRA."""
    alpha: float = 16.0
    """Of a LoRA: its update counts alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Of a LoRA: which layers of each block, among q k v o gate up down; by default all that the model has."""
    tokens: int = 20
    """Of a soft prompt."""
    length: int | None = None
    """Tokens in a row, which several examples share; by default what a few of them fill."""
    precision: Precision | None = None
    """Of the products; without it, bf16 where this machine multiplies it faster, else fp32."""
    tests: int = 4
    """Times that the select part is tried, the last at the end; the best moment is kept."""
    general: tuple[str, ...] = ()
    """Text to measure forgetting on: files, folders, globs; by default dialogues of the embedded desk."""
    seed: int = 0
    """Of fresh weights, the order of the examples and what drops out."""
    dry_run: bool = False
    """Show the plan and samples with the tokens that carry loss coloured, and stop."""
    json: bool = False
    """Print one JSON object at the end, and no progress."""


@dataclasses.dataclass(frozen=True)
class Tune(Learning):
    """Fine-tune a model on a task."""

    prompt: int = 0
    """Which of the task's prompts the select part is answered with, from 0; all are learned from in turn."""
    select: int = 100
    """Examples of the select part that are answered each time."""
    truncated: float = 0.05
    """Share of the training examples of which the input may be cut, or the answer be longer than decoding.max_new."""
    overlap: float = 0.0
    """Share of a part's inputs that may stand in another part."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is decided before the first step, and what it is expected to cost."""

    steps: int
    warmup: int
    rate: float
    rows: int  # in a step
    accumulate: int
    length: int
    source: int
    predicted: float  # share of the tokens of a row that carry loss
    examples: int
    learning: int  # parameters
    parameters: int
    memory: int  # bytes, beside the program's own
    seconds: float = 0.0  # of the steps
    answering: float = 0.0  # seconds of answering the select part
    matrix_rate: float = 0.0  # Muon's, where it is asked for


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run is made of, as sha256: its prompts, its model, each part of its data; and what it is told to learn."""

    contract: str
    base: str
    data: Mapping[str, str]
    labels: Sequence[str]  # in the order in which a head has them
    metric: str  # that moments are compared by


# -- what is refused --------------------------------------------------------------------------------------

POSITIVE = (
    "epochs", "steps", "batch", "rows", "accumulate", "rate", "matrix_rate", "clip", "rank", "alpha", "tokens",
    "length", "tests", "select",
)  # fmt: skip
SHARES = ("warmup", "dropout", "truncated", "overlap")


def check(args: Tune) -> Tune:
    """What can be told before anything is read or written. A resumed run takes back the settings it began with.

    Raises ValueError, FileNotFoundError or FileExistsError, one sentence each.
    """
    if args.resume:
        return resumed(args)
    if not args.model:
        raise ValueError("say which model to tune: a directory or a hub id")
    if args.task == Path():
        raise ValueError("say on which task: --task task.yaml")
    return check_learning(args)


Told = TypeVar("Told", bound=Learning)


def check_learning(args: Told) -> Told:
    """The same of what all recipes of this kind can be told."""
    for name in POSITIVE:
        if (value := getattr(args, name, None)) is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {value}")
    for name in SHARES:
        if (value := getattr(args, name, None)) is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name.replace('_', '-')} must be a share from 0 to 1, not {value}")
    if args.dropout == 1:
        raise ValueError("--dropout must be below 1, or nothing would be left to learn from")
    if args.optimizer == "muon" and args.method != "full":
        raise ValueError(f"--optimizer muon is for --method full: {args.method} learns by adamw")
    if args.matrix_rate and args.optimizer != "muon":
        raise ValueError("--matrix-rate is Muon's: add --optimizer muon")
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, not {args.seed}")
    if (args.rows or 0) % (args.accumulate or 1):
        raise ValueError(f"--rows {args.rows} cannot be taken in {args.accumulate} equal parts")
    if args.time is not None:
        parse_time(args.time)
    if not args.dry_run:  # which writes nothing
        refuse_taken(args.output)
    return args


# -- what is kept -----------------------------------------------------------------------------------------


def remember(args: Learning, found: Plan, inputs: Inputs) -> None:
    """Keep what a resumed run must not decide anew, and what must not have changed. What was measured is said as if by
    hand, so that the settings make the same run anywhere."""
    decided = dataclasses.replace(
        args, steps=found.steps, time=None, rate=found.rate, matrix_rate=found.matrix_rate or None,
        length=found.length, rows=found.rows, accumulate=found.accumulate,
    )  # fmt: skip
    settings = TypeAdapter(type(args)).dump_python(decided, mode="json")
    write_whole(args.output / SETTINGS, yaml.safe_dump(settings, sort_keys=False))
    kept = {"inputs": dataclasses.asdict(inputs), "predicted": dataclasses.asdict(found)}
    write_whole(args.output / PLAN, json.dumps(kept, indent=2))


def recall(directory: Path, now: Inputs) -> Plan:
    """The plan that a run began with. Raises NotResumable where it is damaged, or the run's inputs are others `now`."""
    path = directory / PLAN
    try:
        said: dict[str, Any] = json.loads(path.read_text())
        found, then = Plan(**said["predicted"]), Inputs(**said["inputs"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotResumable(f"{path} is not a plan as this program writes it: {error}") from None
    if changed := changes(then, now):
        what = f"{' and '.join(changed)} changed since the run in {directory} began"
        raise NotResumable(what, "put back what it was, or begin anew with another --output")
    return found


def changes(then: Inputs, now: Inputs) -> list[str]:
    found = ["the task's prompts"] if then.contract != now.contract else []
    found += ["the model"] if then.base != now.base else []
    found += ["the labels or their order"] if [*then.labels] != [*now.labels] else []
    found += ["the metric"] if then.metric != now.metric else []
    parts = dict.fromkeys([*then.data, *now.data])
    return found + [f"the {part} part" for part in parts if then.data.get(part) != now.data.get(part)]
