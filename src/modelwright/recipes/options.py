"""The settings of a pretraining run: what can be said, what is refused, and what a resumed run takes back."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml
from pydantic import TypeAdapter

from modelwright.data import documents
from modelwright.data.pack import Objective
from modelwright.data.tokenizer import Kind
from modelwright.plan.arch import Arch, ByHand, check_lstm, named
from modelwright.plan.memory import Optimizer, Precision
from modelwright.plan.size import Plan, parse_count, parse_time
from modelwright.recipes.run import free
from modelwright.recipes.watch import write_whole

SETTINGS, PLAN = "run.yaml", "plan.json"
Settings = TypeVar("Settings")


class NotResumable(ValueError):
    """A run that was stopped and cannot go on as it began. `why` says it without what would mend it."""

    def __init__(self, why: str, mend: str = ""):
        super().__init__(f"{why}: {mend}" if mend else why)
        self.why = why


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train a model on text, from scratch or on from another."""

    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA ...")] = ()
    """Files, folders, globs or URLs of text, JSONL or Parquet; or `desk`, the embedded support desk (`desk:50000` for
    so many dialogues), `desk+episodes` and `desk+gaps`, with small tasks told by examples."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("runs/pretrain")
    """The run directory: plan, metrics, checkpoints, and the model in `model/`."""
    resume: bool = False
    """Go on with the run in `--output` where it was stopped; everything else is as it was then, and is not said."""
    init: str | None = None
    """A model to go on from, a directory or a hub id: its shape, weights and tokenizer (Gururangan et al. 2020)."""
    objective: Objective = "causal"
    """causal: a decoder that predicts the next token; masked: an encoder; span: an encoder-decoder that
    fills gaps, as T5; denoise: one that writes a text again of which it saw only parts, as BART."""
    arch: Arch | None = None
    """By name; without a word llama (causal), bert (masked), t5 (span) or bart (denoise). lstm: what came before the
    Transformer; switch: experts in every other layer, of which a token passes one; mixtral: in every layer, two;
    transformer (span, denoise): the first one. The others are as the models they are named after."""
    experts: int | None = None
    """In each layer that has any; 8 without a word. All count for `--size`."""
    size: str | None = None
    """Parameters, embedding included: 260k, 10M, 1.5B. Without a time it is trained on 20 tokens a parameter."""
    time: str | None = None
    """How long to train: 90s, 3min, 2h. Without a size, the size that 20 tokens a parameter suit."""
    column: str = "text"
    """The field of JSONL rows, or the column of Parquet files, that holds the text."""
    separator: str = documents.SEPARATOR
    """What stands between the documents of a text file."""
    tokenizer: Path | None = None
    """A directory with a tokenizer; without one, it is learned from the text."""
    kind: Kind | None = None
    """Of the tokenizer that is learned: bpe for causal, wordpiece for masked, unigram for span, bpe for denoise."""
    vocab: int | None = None
    """Its size; 4096 without a word."""
    width: int | None = None
    """Said by hand, as are all that follow: what is left out is derived from the size."""
    layers: int | None = None
    """Blocks, of an encoder-decoder in each of its halves."""
    heads: int | None = None
    """Of the attention."""
    kv_heads: int | None = None
    """Heads of keys and values, which several of the others share."""
    ffn: int | None = None
    """Width of the feed-forward layers."""
    context: int | None = None
    """Tokens in a row; beside `--init` at most what the model reads."""
    batch: int | None = None
    """Tokens in a step."""
    accumulate: int | None = None
    """Parts that a step is taken in, one after the other; by default as few as the memory asks for."""
    whole: bool = False
    """Cut no document that fits a row: for episodes, whose examples need one another. Causal alone; rows are padded."""
    steps: int | None = None
    """Steps of the run."""
    warmup: int | None = None
    """Steps on which the rate rises."""
    rate: float | None = None
    """AdamW's learning rate: embeddings, norms and biases; with `--optimizer adamw`, everything."""
    matrix_rate: float | None = None
    """Muon's learning rate: the matrices of the blocks."""
    optimizer: Optimizer = "muon"
    """Muon for the blocks' matrices and AdamW for the rest; or AdamW for everything."""
    decay: float = 0.1
    """Weight decay of matrices."""
    dropout: float | None = None
    """Of all layers: none without a word, or with `--init` what that model has."""
    clip: float = 1.0
    """The largest gradient norm."""
    precision: Precision | None = None
    """Of the products; weights stay float32. Without it, bf16 where this machine multiplies it faster, else fp32."""
    held_out: float = 0.02
    """Share of the text that is tested on and never trained on, by this run."""
    test_every: int | None = None
    """Steps between tests; a tenth of the run."""
    save_every: int | None = None
    """Steps between checkpoints; a tenth of the run, and at the end."""
    keep: int = 2
    """Checkpoints that are kept."""
    seed: int = 0
    """Of the first weights, the order of the text and what is held out."""
    dry_run: bool = False
    """Show the plan, and stop."""
    json: bool = False
    """Print one JSON object at the end, and no progress."""


# -- what is refused --------------------------------------------------------------------------------------


def check(args: Pretrain) -> Pretrain:
    """What can be told before anything is read or written. A resumed run takes back the settings it began with.

    Raises ValueError, FileNotFoundError or FileExistsError, one sentence each.
    """
    if args.resume:
        return resumed(args)
    if not args.data:
        raise ValueError("say what to train on: files, folders, globs, URLs, or desk")
    if args.init is not None:
        _check_begun(args)
    elif not args.size and not args.time and not (args.width and args.layers):
        raise ValueError("say how large or how long: --size 10M, --time 3min, or both --width and --layers")
    if args.size is not None:
        parse_count(args.size)
    if args.time is not None:
        parse_time(args.time)
    if args.arch is not None and named(args.objective, args.arch) == "lstm":
        check_lstm(ByHand(heads=args.heads, kv_heads=args.kv_heads, ffn=args.ffn))
    if args.tokenizer is not None and (args.kind is not None or args.vocab is not None):
        raise ValueError("--kind and --vocab are of a tokenizer that is learned: leave them out beside --tokenizer")
    if args.whole and args.objective != "causal":
        raise ValueError(f"--whole is of causal rows: leave it out beside --objective {args.objective}")
    for name in ("vocab", "accumulate", "test_every", "save_every", "keep"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")
    for name, low, high in (("dropout", 0, 1), ("held_out", 0, 1), ("clip", 0, math.inf), ("seed", -1, 2**63)):
        value = getattr(args, name)
        if not ((name == "dropout" and not value) or low < value < high):
            raise ValueError(f"--{name.replace('_', '-')} must lie between {low} and {high}, not be {value}")
    refuse_taken(args.output, *(Path(read) for read in (args.tokenizer, args.init) if read))
    return args


OF_A_NEW_MODEL = (
    *("arch", "experts", "size", "tokenizer", "kind", "vocab", "width", "layers", "heads", "kv_heads", "ffn"),
)


def _check_begun(args: Pretrain) -> None:
    """Of a run that goes on from a model. Raises ValueError for settings that are the model's, and without a length."""
    if said := [f"--{name.replace('_', '-')}" for name in OF_A_NEW_MODEL if getattr(args, name) is not None]:
        raise ValueError(f"--init goes on from a model as it is: leave out {', '.join(said)}")
    if args.time is None and args.steps is None:
        raise ValueError("say how long to go on from --init: --time 3min or --steps 1000")


def refuse_taken(output: Path, *read: Path) -> None:
    """Raises FileExistsError where a new run cannot be written. `read`: what it reads, which must not lie there."""
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file: name a directory as --output")
    if (output / PLAN).exists():
        raise FileExistsError(f"{output} holds a run already: go on with --resume, or name another --output")
    if not free(output) or any(output.resolve() in path.resolve().parents for path in read):
        raise FileExistsError(f"{output} is not empty: name another --output")


def unsaid(args: Any) -> list[str]:
    """The flags that were said and are not to be, of a run that goes on."""
    return [
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(args)
        if field.name not in ("resume", "output", "json") and getattr(args, field.name) != field.default
    ]


def resumed(said_now: Settings) -> Settings:
    """The settings that the run in `--output` began with. Raises ValueError or FileNotFoundError."""
    args: Any = said_now
    if said := unsaid(args):
        raise ValueError(f"--resume goes on with the settings the run began with: leave out {', '.join(said)}")
    if not (args.output / SETTINGS).exists() or not (args.output / PLAN).exists():
        raise FileNotFoundError(f"there is no run to resume in {args.output}: it has no {SETTINGS} and {PLAN}")
    if (args.output / "model").exists():
        raise ValueError(f"the run in {args.output} is finished: its model is {args.output / 'model'}")
    try:
        found: Any = recall_settings(args.output / SETTINGS, type(said_now))
    except ValueError as error:
        raise NotResumable(" ".join(str(error).split())) from None
    begun: Settings = dataclasses.replace(found, resume=True, json=args.json, output=args.output)
    return begun


# -- what is kept -----------------------------------------------------------------------------------------


def described(found: Plan) -> dict[str, Any]:
    plain: dict[str, Any] = TypeAdapter(Plan).dump_python(found, mode="json")
    return plain


def remember(args: Pretrain, found: Plan, before: Mapping[str, float] | None) -> None:
    """Keep what a resumed run must not decide anew: the settings, and the plan to the number; and how good the model
    was that it goes on from."""
    settings = TypeAdapter(Pretrain).dump_python(args, mode="json")
    write_whole(args.output / SETTINGS, yaml.safe_dump(settings, sort_keys=False))
    begun = {} if before is None else {"begun": {"model": args.init, **before}}
    write_whole(args.output / PLAN, json.dumps({"predicted": described(found), **begun}, indent=2))


def recall_plan(directory: Path) -> Plan:
    try:
        return TypeAdapter(Plan).validate_python(json.loads((directory / PLAN).read_text())["predicted"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotResumable(f"{directory / PLAN} is not a plan as this program writes it: {error}") from None


def recall_begun(directory: Path) -> dict[str, Any]:
    """What was measured of the model that a run goes on from, if it does."""
    said = json.loads((directory / PLAN).read_text())
    return {"begun": said["begun"]} if "begun" in said else {}


def recall_settings(path: Path, options: type[Settings]) -> Settings:
    """The settings that a run began with. Raises ValueError naming a key that `options` does not know."""
    try:
        said = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    known = list(getattr(options, "__dataclass_fields__"))  # noqa: B009
    for key in said if isinstance(said, dict) else [str(said)]:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"{path} has an unknown key {key!r}" + (f"; perhaps you meant {near[0]}" if near else ""))
    return TypeAdapter(options).validate_python(said)
