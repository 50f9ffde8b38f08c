"""The settings of a tuning run: what can be said, what is refused, and what a resumed run takes back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml
from pydantic import TypeAdapter

from modelwright.plan.memory import Precision
from modelwright.plan.size import parse_time
from modelwright.recipes.methods import Method
from modelwright.recipes.options import PLAN, SETTINGS, recall_settings, unsaid
from modelwright.recipes.watch import write_whole


@dataclasses.dataclass(frozen=True)
class Tune:
    """Fine-tune a model on a task."""

    model: Annotated[str, tyro.conf.Positional] = ""
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
    """At most so long: as many steps as fit, if they are fewer."""
    batch: int = 16
    """Examples in a step, on average."""
    rate: float | None = None
    """AdamW's learning rate; by default from the method and the width."""
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
    targets: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    """Of a LoRA: which layers of each block; those that the model has not are passed over."""
    tokens: int = 20
    """Of a soft prompt."""
    length: int | None = None
    """Tokens in a row, which several examples share; by default what a few of them fill."""
    precision: Precision | None = None
    """Of the products; without it, bf16 where this machine multiplies it faster, else fp32."""
    tests: int = 4
    """Times that the select part is answered, the last at the end; the best moment is kept."""
    select: int = 100
    """Examples of the select part that are answered each time."""
    general: tuple[str, ...] = ()
    """Text to measure forgetting on: files, folders, globs; by default dialogues of the embedded desk."""
    truncated: float = 0.05
    """Share of the training inputs that may be cut to fit the context."""
    overlap: float = 0.0
    """Share of a part's inputs that may stand in another part."""
    seed: int = 0
    dry_run: bool = False
    """Show the plan and samples with the tokens that carry loss coloured, and stop."""
    json: bool = False
    """Print one JSON object at the end, and no progress."""


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
    examples: int
    learning: int  # parameters
    parameters: int
    seconds: float
    memory: int  # bytes, beside the program's own


# -- what is refused --------------------------------------------------------------------------------------

POSITIVE = ("epochs", "steps", "batch", "rate", "clip", "rank", "alpha", "tokens", "length", "tests", "select")
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
    for name in POSITIVE:
        if (value := getattr(args, name)) is not None and not value > 0:
            raise ValueError(f"--{name} must be above 0, not {value}")
    for name in SHARES:
        if (value := getattr(args, name)) is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name} must be a share from 0 to 1, not {value}")
    if args.time is not None:
        parse_time(args.time)
    if args.output.exists() and not args.output.is_dir():
        raise FileExistsError(f"{args.output} is a file: name a directory as --output")
    if (args.output / PLAN).exists():
        raise FileExistsError(f"{args.output} holds a run already: go on with --resume, or name another --output")
    if args.output.exists() and any(args.output.iterdir()):
        raise FileExistsError(f"{args.output} is not empty: name another --output")
    return args


def resumed(args: Tune) -> Tune:
    if said := unsaid(args):
        raise ValueError(f"--resume goes on with the settings the run began with: leave out {', '.join(said)}")
    if not (args.output / SETTINGS).exists() or not (args.output / PLAN).exists():
        raise FileNotFoundError(f"there is no run to resume in {args.output}: it has no {SETTINGS} and {PLAN}")
    if (args.output / "model").exists():
        raise ValueError(f"the run in {args.output} is finished: its model is {args.output / 'model'}")
    found = recall_settings(args.output / SETTINGS, Tune)
    return dataclasses.replace(found, resume=True, json=args.json, output=args.output)


# -- what is kept -----------------------------------------------------------------------------------------


def remember(args: Tune, found: Plan) -> None:
    """Keep what a resumed run must not decide anew."""
    settings = TypeAdapter(Tune).dump_python(args, mode="json")
    write_whole(args.output / SETTINGS, yaml.safe_dump(settings, sort_keys=False))
    write_whole(args.output / PLAN, json.dumps({"predicted": dataclasses.asdict(found)}, indent=2))


def recall_plan(directory: Path) -> Plan:
    try:
        said: dict[str, Any] = json.loads((directory / PLAN).read_text())["predicted"]
        return Plan(**said)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory / PLAN} is not a plan as this program writes it: {error}") from None
