"""Pretrain a model from scratch: text in, a model directory out.

    1. a tokenizer        given, or learned from the head of the text
    2. token shards       the text, tokenised once; a share of its documents is held out
    3. a plan             from a size, a time, or both: shape, rates, batch, steps, memory
    4. a model            fresh weights from the seed
    5. training           one loop; every so often it is tested on what was held out, and saved
    6. a model directory  that transformers opens

The objectives are next token (Radford et al. 2018), masked token (Devlin et al. 2019) and corrupted span (Raffel et
al. 2020), for a decoder, an encoder and an encoder-decoder. Left out: several machines (the loop is ready for them,
this command is not), mixtures of sources, curation, and `torch.compile`, whose half minute few short runs earn back.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
import yaml
from pydantic import TypeAdapter

from modelwright.data import desk, documents
from modelwright.data.documents import Document
from modelwright.data.loader import Loader
from modelwright.data.pack import Objective, packing
from modelwright.data.shards import Shards, write
from modelwright.data.tokenizer import Kind, Tokenizer, train
from modelwright.hub.open import LanguageModel, save
from modelwright.losses.language import language_model
from modelwright.model.transformer import Transformer, initialise
from modelwright.plan import cost
from modelwright.plan.memory import Optimizer, Precision
from modelwright.plan.size import ByHand, Plan, decide, parse_count, parse_time, share_predicted
from modelwright.recipes.flags import parse
from modelwright.recipes.run import Run
from modelwright.recipes.watch import Screen, Watch, duration, thousands, write_whole
from modelwright.train import optim
from modelwright.train.interrupt import Interrupted
from modelwright.train.loop import Diverged, fit
from modelwright.train.meter import Meter, measure_peak

SHARE = 0.4  # of the peak, that training is assumed to reach before it has been timed
HEAD = 20_000_000  # characters that a tokenizer learns from
KINDS: dict[Objective, Kind] = {"causal": "bpe", "masked": "wordpiece", "span": "unigram"}
DESK = 20_000  # dialogues of the embedded world, where no number is said
SETTINGS, PLAN = "run.yaml", "plan.json"


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train a model from scratch on text."""

    data: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Files, folders, globs or URLs of text, JSONL or Parquet; or `desk`, the embedded support desk (`desk:50000` for
    so many dialogues)."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("runs/pretrain")
    """The run directory: plan, metrics, checkpoints, and the model in `model/`."""
    resume: bool = False
    """Go on with the run in `--output` where it was stopped; everything else is as it was then."""
    objective: Objective = "causal"
    """causal: a decoder that predicts the next token; masked: an encoder; span: an encoder-decoder."""
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
    """Of the tokenizer that is learned: bpe for causal, wordpiece for masked, unigram for span."""
    vocab: int = 4096
    """Its size."""
    width: int | None = None
    """Said by hand, as are all that follow: what is left out is derived from the size."""
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    context: int | None = None
    """Tokens in a row."""
    batch: int | None = None
    """Tokens in a step."""
    steps: int | None = None
    warmup: int | None = None
    rate: float | None = None
    """AdamW's learning rate: embeddings, norms and biases; with `--optimizer adamw`, everything."""
    matrix_rate: float | None = None
    """Muon's learning rate: the matrices of the blocks."""
    optimizer: Optimizer = "muon"
    decay: float = 0.1
    """Weight decay of matrices."""
    dropout: float = 0.0
    clip: float = 1.0
    """The largest gradient norm."""
    precision: Precision | None = None
    """Of the products; weights stay float32. Without it, bf16 where this machine multiplies it faster, else fp32."""
    held_out: float = 0.02
    """Share of the text that is tested on and never trained on."""
    test_every: int | None = None
    """Steps between tests; a tenth of the run."""
    save_every: int | None = None
    """Steps between checkpoints; a tenth of the run, and at the end."""
    keep: int = 2
    """Checkpoints that are kept."""
    seed: int = 0
    dry_run: bool = False
    """Show the plan, and stop."""
    json: bool = False
    """Print one JSON object at the end, and no progress."""


# -- 1. and 2. from text to rows --------------------------------------------------------------------------


def read(args: Pretrain) -> tuple[Iterator[Document], str]:
    """The documents, and a fingerprint of where they come from."""
    name, _, count = args.data[0].partition(":")
    if name == "desk" and len(args.data) == 1 and not Path(args.data[0]).exists():
        number = parse_count(count) if count else DESK
        return desk.documents(args.seed, "train", count=number), f"desk:{number}:{args.seed}"
    found = documents.read(list(args.data), column=args.column, separator=args.separator)
    return found, f"{documents.fingerprint(list(args.data))}:{args.column}:{args.separator}"


def head(texts: Iterator[Document], characters: int) -> Iterator[Document]:
    for document in texts:
        yield document
        characters -= len(document.text)
        if characters <= 0:
            return


def find_tokenizer(args: Pretrain, directory: Path, screen: Screen) -> Tokenizer:
    """The one that was named, or the one this run has learned already, or a new one."""
    if args.tokenizer is not None:
        return Tokenizer.load(args.tokenizer)
    if (directory / "tokenizer_config.json").exists():
        return Tokenizer.load(directory)
    kind = args.kind or KINDS[args.objective]
    screen.say(f"learning a {kind} tokenizer of {args.vocab:,} tokens")
    tokenizer = train((found.text for found in head(read(args)[0], HEAD)), kind, args.vocab, objective=args.objective)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    return tokenizer


# -- 3. the plan ------------------------------------------------------------------------------------------


def make_plan(args: Pretrain, vocab: int, precision: Precision, speed: float) -> Plan:
    """Decide on a run at `speed` FLOP/s."""
    hand = ByHand(**{field.name: getattr(args, field.name, None) for field in dataclasses.fields(ByHand)})
    found = decide(
        args.objective,
        vocab,
        speed,
        parameters=parse_count(args.size) if args.size else None,
        seconds=parse_time(args.time) if args.time else None,
        hand=hand,
        precision=precision,
        optimizer=args.optimizer,
        bytes_free=memory_free(),
    )
    encoder = found.config.encoder and dataclasses.replace(found.config.encoder, dropout=args.dropout)
    return dataclasses.replace(found, config=dataclasses.replace(found.config, dropout=args.dropout, encoder=encoder))


def choose_precision(args: Pretrain) -> tuple[Precision, float]:
    """What to multiply in, and this machine's peak in it, FLOP/s."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if args.precision is not None:
        return args.precision, measure_peak(dtypes[args.precision])
    narrow, full = measure_peak(torch.bfloat16), measure_peak(torch.float32)
    return ("bf16", narrow) if narrow > 1.3 * full else ("fp32", full)


def timed(args: Pretrain, found: Plan, loader: Loader, precision: Precision) -> Plan:
    """The same plan with as many steps as really fit into the time: a few are made on a model that is thrown away."""
    if not args.time or args.steps:
        return found
    model, optimizer = make_model(args, found)
    marks = [time.perf_counter()]
    rows = list(islice(loader, found.accumulate))
    fit(
        model,
        chain.from_iterable(rows for _ in range(4)),
        language_model,
        optimizer,
        steps=4,
        accumulate=found.accumulate,
        precision=precision,
        after_step=lambda step, metrics: marks.append(time.perf_counter()),
    )
    seconds = min(after - before for before, after in pairwise(marks[1:]))
    steps = max(1, int(parse_time(args.time) / (1.05 * seconds)))  # a twentieth for testing and saving
    loader.load_state_dict({"epoch": 0, "row": 0})
    share = steps / found.steps
    return dataclasses.replace(
        found,
        steps=steps,
        warmup=found.warmup if args.warmup is not None else min(500, -(-steps // 20)),
        flops=found.flops * share,
        seconds=1.05 * seconds * steps,
    )


# -- 4. the model -----------------------------------------------------------------------------------------


def make_model(args: Pretrain, found: Plan) -> tuple[Transformer, torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(args.seed)
    model = initialise(Transformer(found.config), generator).train()
    optimizer = optim.make(
        model, args.optimizer, found.rate, matrix_lr=found.matrix_rate, decay=args.decay, adjust="original"
    )
    return model, optimizer


# -- 5. training, and the whole ----------------------------------------------------------------------------


@torch.no_grad()
def held_out(model: Transformer, loader: Loader, batches: int = 16) -> dict[str, float]:
    """The mean loss over the same held-out rows every time, nats a predicted token."""
    model.eval()
    loader.load_state_dict({"epoch": 0, "row": 0})
    terms = [language_model(model, batch)[0]["loss"] for batch in islice(loader, batches)]
    model.train()
    return {"held_out_loss": float(sum(total for total, _, _ in terms) / sum(weight for _, weight, _ in terms))}


def make_loaders(args: Pretrain, shards: Shards, tokenizer: Tokenizer, found: Plan) -> tuple[Loader, Loader]:
    """Batches to train on, and batches to test on, from documents of their own."""
    packed = packing(args.objective, tokenizer, found.config.context)
    training, held = shards.split(args.held_out, args.seed)
    micro = found.rows // found.accumulate
    return (
        Loader(training, packed, batch=micro, seed=args.seed),
        Loader(held, packed, batch=micro, seed=args.seed, shuffle=False, epochs=1, prefetch=0),
    )


def pretrain(args: Pretrain, screen: Screen) -> dict[str, Any]:
    """Do what `args` say, and answer what came of it; see `main` for how it may end early."""
    directory = args.output
    # 1. a tokenizer
    tokenizer = find_tokenizer(args, directory / "tokenizer", screen)
    # 2. token shards
    texts, source = read(args)
    texts = head(texts, HEAD) if args.dry_run else texts
    with screen.counting("tokenising") as told:
        shards = write(texts, tokenizer, directory / "shards", objective=args.objective, source=source, progress=told)
    # 3. a plan
    precision, peak = choose_precision(args)
    found = recall_plan(directory) or make_plan(args, tokenizer.vocab, precision, SHARE * peak)
    training, held = make_loaders(args, shards, tokenizer, found)
    if not (directory / PLAN).exists():
        found = timed(args, found, training, precision)
    show(screen, found, shards, precision, peak)
    if args.dry_run:
        return {"predicted": described(found)}
    write_whole(directory / PLAN, json.dumps({"predicted": described(found)}, indent=2))
    # 4. a model
    torch.manual_seed(args.seed)  # of dropout, which takes no generator
    model, optimizer = make_model(args, found)
    # 5. training
    run = Run(directory, model, optimizer, training, keep=args.keep)
    for said in run.restore():
        screen.warn(said)
    flops = cost.flops_per_token(found.config, found.length, found.source, share_predicted(found.objective))
    tenth = max(1, found.steps // 10)
    with Watch(directory, found.steps, found.batch, Meter(flops, peak), screen, run.start) as watch:
        run.fit(
            language_model,
            steps=found.steps,
            accumulate=found.accumulate,
            clip=args.clip,
            precision=precision,
            schedule=optim.cosine(found.steps, found.warmup, floor=0.05),
            test=lambda: held_out(model, held),
            test_every=args.test_every or tenth,
            save_every=args.save_every or tenth,
            watch=watch.step,
        )
    # 6. a model directory
    save(LanguageModel(model.eval(), tokenizer, ids(tokenizer, found)), directory / "model", overwrite=True)
    actual = watch.actual() | run.tested | bits(run.tested, shards, args.objective)
    came = {"predicted": described(found), "actual": actual, "model": str(directory / "model")}
    write_whole(directory / PLAN, json.dumps(came, indent=2))
    return came


def ids(tokenizer: Tokenizer, found: Plan) -> dict[str, Any]:
    """The special tokens that a generator must know; a T5 starts its answers with the padding token."""
    said = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    said |= {"decoder_start_token_id": tokenizer.pad} if found.config.encoder else {}
    return {name: token for name, token in said.items() if token is not None}


def bits(tested: dict[str, float], shards: Shards, objective: Objective) -> dict[str, float]:
    """Bits per byte of text: of next-token models alone, since the others do not predict the whole text."""
    if objective != "causal" or "held_out_loss" not in tested:
        return {}
    return {"held_out_bits_per_byte": tested["held_out_loss"] / math.log(2) * shards.tokens / shards.bytes}


# -- what is said and kept --------------------------------------------------------------------------------


def described(found: Plan) -> dict[str, Any]:
    plain: dict[str, Any] = TypeAdapter(Plan).dump_python(found, mode="json")
    return plain


def recall_plan(directory: Path) -> Plan | None:
    """The plan that a run began with, to the number: a resumed run must not measure the machine anew."""
    path = directory / PLAN
    if not path.exists():
        return None
    return TypeAdapter(Plan).validate_python(json.loads(path.read_text())["predicted"])


def memory_free() -> int | None:
    """Bytes that a run may take: nine tenths of what the system says is available, where it says so."""
    try:
        return int(0.9 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None


def show(screen: Screen, found: Plan, shards: Shards, precision: Precision, peak: float) -> None:
    c = found.config
    read_rows = f"{found.length}" + (f" from {found.source}" if found.source else "")
    screen.table(
        "the plan",
        {
            "model": f"{c.shape}, {thousands(found.parameters)} parameters: width {c.width}, {c.layers} layers, "
            f"{c.heads} heads, feed-forward {c.ffn}, vocabulary {c.vocab:,}",
            "text": f"{thousands(shards.tokens)} tokens in {shards.documents:,} documents "
            f"({shards.bytes / 1e6:,.1f} MB, {shards.bytes / shards.tokens:.2f} bytes a token)",
            "steps": f"{found.steps:,} of {found.rows} rows of {read_rows} tokens"
            + (f" in {found.accumulate} parts" if found.accumulate > 1 else "")
            + f"; {thousands(found.tokens)} tokens, {found.tokens_per_parameter:.1f} a parameter, "
            f"{found.tokens / shards.tokens:.1f} times the text",
            "rates": f"{found.rate:.2g}, matrices {found.matrix_rate:.2g}, warm-up {found.warmup} steps",
            "machine": f"{peak / 1e12:.2f} TFLOP/s at best in {precision}",
            "time": f"{duration(found.seconds)} ({found.flops:.1e} FLOPs)",
            "memory": f"{found.memory.total / 2**20:,.0f} MiB beside the program's own",
        },
    )


def finished(screen: Screen, came: dict[str, Any]) -> None:
    predicted, actual = came["predicted"], came["actual"]
    lines = {
        "time": f"{duration(actual['seconds'])} (planned {duration(predicted['seconds'])})",
        "held-out loss": f"{actual['held_out_loss']:.3f} nats a predicted token",
        "model": came["model"],
    }
    if "held_out_bits_per_byte" in actual:
        lines["bits per byte"] = f"{actual['held_out_bits_per_byte']:.3f}"
    screen.table("done", lines)
    screen.say(f'try: modelwright generate {came["model"]} "..."')


def recall(args: Pretrain) -> Pretrain:
    """Check the run directory. A new run writes its settings there; a resumed one takes back those it began with."""
    kept = args.output / SETTINGS
    if args.resume:
        if not kept.exists():
            raise FileNotFoundError(f"there is no run to resume in {args.output}: it has no {SETTINGS}")
        if (args.output / "model").exists():
            raise ValueError(f"the run in {args.output} is finished: its model is {args.output / 'model'}")
        began = TypeAdapter(Pretrain).validate_python(yaml.safe_load(kept.read_text()))
        return dataclasses.replace(began, resume=True, json=args.json, output=args.output)
    if not args.data:
        raise ValueError("say what to train on: files, folders, globs, URLs, or desk")
    if not args.size and not args.time and not (args.width and args.layers):
        raise ValueError("say how large or how long: --size 10M, --time 3min, or both --width and --layers")
    if args.size is not None:  # a slip of the pen is told before the text is read
        parse_count(args.size)
    if args.time is not None:
        parse_time(args.time)
    if kept.exists():
        raise FileExistsError(f"{args.output} holds a run already: go on with --resume, or name another --output")
    if not args.dry_run:
        args.output.mkdir(parents=True, exist_ok=True)
        write_whole(kept, yaml.safe_dump(TypeAdapter(Pretrain).dump_python(args, mode="json"), sort_keys=False))
    return args


def main(argv: list[str]) -> int:
    """`modelwright pretrain`. Exit codes: 0 done, 2 the user's mistake, 130 and 143 stopped by a signal."""
    args = recall(parse(Pretrain, argv, "modelwright pretrain"))
    screen = Screen(quiet=args.json)
    try:
        if args.dry_run:
            with tempfile.TemporaryDirectory() as scratch:
                came = pretrain(dataclasses.replace(args, output=Path(scratch)), screen)
        else:
            came = pretrain(args, screen)
    except Diverged as error:
        saved = (args.output / "checkpoints").glob("step-*")
        last = max(saved, key=lambda path: int(path.name.removeprefix("step-")), default=None)
        raise ValueError(f"{error}; the last good checkpoint is {last}: try lower rates") from None
    except Interrupted as stop:
        screen.say(f"{stop}; saved. Go on with: modelwright pretrain --resume --output {args.output}")
        return 128 + stop.signal
    if args.json:
        print(json.dumps(came))
    elif not args.dry_run:
        finished(screen, came)
    return 0
