"""Pretrain a model, from scratch or on from another: text in, a model directory out.

    1. a tokenizer        given, or learned from the head of the text; or that of the model to go on from
    2. a plan             from a size, a time, or both: shape, rates, batch, steps, memory
    3. token shards       the text, tokenised once; a share of its documents is held out
    4. a model            fresh weights from the seed, or those it goes on from
    5. training           one loop; every so often it is tested on what was held out, and saved
    6. a model directory  that transformers opens

The objectives are next token (Radford et al. 2018) for a decoder, masked token (Devlin et al. 2019) for an encoder, and
corrupted span (Raffel et al. 2020) or denoising (Lewis et al. 2020) for an encoder-decoder. Left out: several machines
(the loop is ready for them, this command is not), mixtures of sources, curation, and `torch.compile`, whose half minute
few short runs earn back.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import torch

from modelwright.data.documents import Document
from modelwright.data.loader import Loader
from modelwright.data.pack import Objective, infilling, packing
from modelwright.data.pack import plain as unmarked
from modelwright.data.shards import Part, Shards, write
from modelwright.data.tokenizer import Kind, Tokenizer, train
from modelwright.hub.open import LanguageModel, save
from modelwright.infer.packed import available_memory
from modelwright.losses.language import language_model, weigh
from modelwright.model.families import family_of_model
from modelwright.model.transformer import Transformer, initialise
from modelwright.plan import cost
from modelwright.plan.memory import Precision
from modelwright.plan.size import ByHand, Plan, decide, parse_count, parse_time, share_predicted
from modelwright.recipes.begun import begin, keep, kept_generation
from modelwright.recipes.describe import finished, show
from modelwright.recipes.flags import parse
from modelwright.recipes.options import PLAN, Pretrain, check, described, recall_begun, recall_plan, remember
from modelwright.recipes.run import Ended, Run, begun_in, ending_well
from modelwright.recipes.source import Text, documents_of
from modelwright.recipes.watch import Screen, Watch, plain, write_whole
from modelwright.train import optim
from modelwright.train.loop import Diverged, fit
from modelwright.train.meter import Meter, measure_peak
from modelwright.train.state import Damaged, latest

SHARE = 0.4  # of the peak, that training is assumed to reach before it has been timed
HELD_OUT = "held_out.jsonl"  # pieces of what is tested on, so that it can be asked later what was forgotten
PIECES, PIECE = 100, 256  # of them at most, and tokens of each
HEAD = 20_000_000  # characters that a tokenizer learns from, and that a dry run reads
VOCAB = 4096
KINDS: dict[Objective, Kind] = {"causal": "bpe", "masked": "wordpiece", "span": "unigram", "denoise": "bpe"}
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


# -- 1. the text, and a tokenizer -------------------------------------------------------------------------


def read(args: Pretrain) -> Text:
    return documents_of(args.data, seed=args.seed, column=args.column, separator=args.separator)


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
    kind, vocab = args.kind or KINDS[args.objective], args.vocab or VOCAB
    screen.say(f"learning a {kind} tokenizer of {vocab:,} tokens")
    tokenizer = train((found.text for found in head(read(args).documents, HEAD)), kind, vocab, objective=args.objective)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    return tokenizer


# -- 2. the plan ------------------------------------------------------------------------------------------


def make_plan(
    args: Pretrain, vocab: int, precision: Precision, speed: float, begun: LanguageModel | None = None
) -> Plan:
    """Decide on a run at `speed` FLOP/s, of a new model or of one that has `begun`."""
    hand = ByHand(**{field.name: getattr(args, field.name, None) for field in dataclasses.fields(ByHand)})
    if begun is not None and args.whole and args.context is None:
        hand = dataclasses.replace(hand, context=begun.model.cfg.context)
    found = decide(
        args.objective,
        vocab,
        speed,
        parameters=parse_count(args.size) if args.size else None,
        seconds=parse_time(args.time) if args.time else None,
        hand=hand,
        precision=precision,
        optimizer=args.optimizer,
        bytes_free=int(min(0.9 * available_memory(), sys.maxsize)),
        config=None if begun is None else begun.model.cfg,
    )
    family_of_model(found.config)  # what no checkpoint can hold is not trained
    if args.dropout is None:
        return found
    encoder = found.config.encoder and dataclasses.replace(found.config.encoder, dropout=args.dropout)
    return dataclasses.replace(found, config=dataclasses.replace(found.config, dropout=args.dropout, encoder=encoder))


def choose_precision(said: Precision | None) -> tuple[Precision, float]:
    """What to multiply in, and this machine's peak in it, FLOP/s."""
    if said is not None:
        return said, measure_peak(DTYPES[said])
    narrow, full = measure_peak(torch.bfloat16), measure_peak(torch.float32)
    return ("bf16", narrow) if narrow > 1.3 * full else ("fp32", full)


def timed(args: Pretrain, found: Plan, loader: Loader, precision: Precision, begun: LanguageModel | None) -> Plan:
    """The same plan with as many steps as really fit into the time: a few are made on a model that is thrown away."""
    if not args.time or args.steps is not None:
        return found
    model, optimizer = make_model(args, found, begun)
    marks = [time.perf_counter()]
    rows = list(islice(loader, found.accumulate))
    fit(
        model,
        chain.from_iterable(rows for _ in range(5)),
        language_model,
        optimizer,
        steps=5,
        accumulate=found.accumulate,
        weigh=weigh,
        precision=precision,
        after_step=lambda step, metrics: marks.append(time.perf_counter()),
    )
    seconds = statistics.median(after - before for before, after in pairwise(marks[1:]))
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


def make_model(args: Pretrain, found: Plan, begun: LanguageModel | None) -> tuple[Transformer, torch.optim.Optimizer]:
    model = Transformer(found.config).train()
    if begun is None:
        initialise(model, torch.Generator().manual_seed(args.seed))
    else:
        model.load_state_dict(begun.model.state_dict())
    optimizer = optim.make(
        model, args.optimizer, found.rate, matrix_lr=found.matrix_rate, decay=args.decay, adjust="original"
    )
    return model, optimizer


# -- 5. training, and the whole ----------------------------------------------------------------------------


@torch.no_grad()
def held_out(model: Transformer, loader: Loader, precision: Precision, batches: int = 16) -> dict[str, float]:
    """The mean loss over the same held-out rows every time, nats a predicted token, in the run's own precision."""
    model.eval()
    loader.load_state_dict({"epoch": 0, "row": 0})
    with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
        terms = [language_model(model, batch)[0]["loss"] for batch in islice(loader, batches)]
    model.train()
    total, weight = sum(float(t) for t, _, _ in terms), sum(float(w) for _, w, _ in terms)
    if not weight:
        raise ValueError("the held-out rows have nothing to predict: give more text, or a larger --held-out")
    return {"held_out_loss": total / weight}


def tokenised(args: Pretrain, tokenizer: Tokenizer, screen: Screen) -> Shards:
    """The text as token shards in the run directory; for a dry run no more than its head."""
    text = read(args)
    with screen.counting("tokenising") as told:
        return write(
            head(text.documents, HEAD) if args.dry_run else text.documents,
            tokenizer,
            args.output / "shards",
            objective=args.objective,
            source=text.fingerprint,
            partly=text.partly,
            progress=told,
        )


def make_loaders(args: Pretrain, shards: Shards, tokenizer: Tokenizer, found: Plan) -> tuple[Loader, Loader]:
    """Batches to train on, and batches to test on, from documents of their own."""
    packed = packing(args.objective, tokenizer, found.source or found.length, whole=args.whole)
    training, held = shards.split(args.held_out, args.seed)
    micro = found.rows // found.accumulate
    for part, name in ((training, "training"), (held, "held-out")):
        if part.tokens < 3:
            raise ValueError(
                f"{', '.join(args.data)}: {shards.tokens} tokens in {shards.documents} documents leave the {name} part "
                f"only {part.tokens}: give more text, or another --held-out than {args.held_out}"
            )
    return (
        Loader(training, packed, batch=micro, seed=args.seed),
        Loader(held, packed, batch=micro, seed=args.seed, shuffle=False, epochs=1, prefetch=0),
    )


def pretrain(args: Pretrain, screen: Screen) -> dict[str, Any]:
    """Do what `args` say, and answer what came of it; see `main` for how it may end early."""
    directory = args.output
    # 1. a tokenizer, or a model that has one
    begun = None if args.resume else begin(args)
    if begun is not None:
        keep(begun, directory / "tokenizer")
    tokenizer = find_tokenizer(args, directory / "tokenizer", screen)
    # 2. a plan: its mistakes are told before a long text is read
    precision, peak = choose_precision(args.precision)
    speed = SHARE * peak
    found = recall_plan(directory) if args.resume else make_plan(args, tokenizer.vocab, precision, speed, begun)
    # 3. token shards; and then as many steps as really fit into the time
    shards = tokenised(args, tokenizer, screen)
    training, held = make_loaders(args, shards, tokenizer, found)
    if not args.resume:
        found = timed(args, found, training, precision, begun)
        before = None if begun is None else held_out(begun.model, held, precision)
        remember(dataclasses.replace(args, precision=precision), found, before)
    show(screen, found, shards, precision, peak, args.init, HEAD if args.dry_run else None)
    if args.dry_run:
        return {"predicted": described(found)}
    # 4. a model
    torch.manual_seed(args.seed)  # of dropout, which takes no generator
    model, optimizer = make_model(args, found, begun)
    del begun
    # 5. training
    run = Run(directory, model, optimizer, training, keep=args.keep)
    for said in run.restore() if args.resume else ():
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
            test=lambda: held_out(model, held, precision),
            test_every=args.test_every or tenth,
            save_every=args.save_every or tenth,
            watch=watch,
            weigh=weigh,
        )
    if not found.steps:
        run.tested = held_out(model, held, precision)
    # 6. a model directory
    generation = kept_generation(directory / "tokenizer") or ids(tokenizer, found)
    save(LanguageModel(model.eval(), tokenizer, generation), directory / "model", overwrite=True)
    write_whole(
        directory / HELD_OUT, "".join(json.dumps({"text": said}) + "\n" for said in pieces(held.part, tokenizer))
    )
    actual = {"seconds": run.seconds} | watch.actual() | run.tested | bits(run.tested, held.part, args.objective)
    came = {"predicted": described(found), "actual": actual, "model": str(directory / "model")}
    came |= recall_begun(directory)
    write_whole(directory / PLAN, json.dumps(came, indent=2))
    return came


def pieces(held: Part, tokenizer: Tokenizer) -> list[str]:
    """A few pieces of the held-out documents, evenly from all, as the model reads them."""
    starts = [*chain.from_iterable(map(list, held.starts())), held.tokens]
    places = [(at, min(at + PIECE, end)) for first, end in pairwise(starts) for at in range(first, end, PIECE)]
    chosen = [places[at * len(places) // PIECES] for at in range(PIECES)] if len(places) > PIECES else places
    texts = [tokenizer.decode(unmarked(held.read(*place)[0]).tolist()) for place in chosen]
    return [text for text in texts if text.strip()]


def ids(tokenizer: Tokenizer, found: Plan) -> dict[str, Any]:
    """The special tokens that a generator must know; a T5 starts its answers with the padding token, a BART with </s>
    and <s>."""
    said = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    if found.objective == "denoise":
        marks = infilling(tokenizer)
        said |= {"decoder_start_token_id": marks.after, "forced_bos_token_id": marks.before}
    elif found.config.encoder:
        said |= {"decoder_start_token_id": tokenizer.pad}
    return {name: token for name, token in said.items() if token is not None}


def bits(tested: dict[str, float], held: Part, objective: Objective) -> dict[str, float]:
    """Bits per byte of the held-out text: of next-token models alone, since the others do not predict all of it.

    Each token is predicted but the first of its document.
    """
    if objective != "causal":
        return {}
    predicted = (held.tokens - held.documents) / held.bytes  # tokens a byte
    return {"held_out_bits_per_byte": tested["held_out_loss"] / math.log(2) * predicted}


# -- the command ------------------------------------------------------------------------------------------


@contextmanager
def place(args: Pretrain) -> Iterator[Pretrain]:
    """The run directory for this process alone: a scratch one for a dry run; gone again where no run was begun."""
    if args.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            yield dataclasses.replace(args, output=Path(scratch))
        return
    with begun_in(args.output, PLAN):
        yield args


def main(argv: list[str]) -> int:
    """`modelwright pretrain`. Exit codes: 0 done, 2 the user's mistake, 130 and 143 stopped by a signal."""
    args = check(parse(Pretrain, argv, "modelwright pretrain"))
    screen = Screen(quiet=args.json)
    try:
        with ending_well("modelwright pretrain", args.output, PLAN, screen.say), place(args) as placed:
            came = pretrain(placed, screen)
    except Diverged as error:
        last = newest(args.output / "checkpoints")
        raise ValueError(f"{error}; the last good checkpoint is {last}: begin again with lower rates") from None
    except Ended as stop:
        return stop.code
    if args.json:
        print(json.dumps({name: plain(value) for name, value in came.items()}))
    elif not args.dry_run:
        finished(screen, came, args.objective)
    return 0


def newest(checkpoints: Path) -> str:
    """The path of the newest checkpoint, or the reason why there is none."""
    try:
        found = latest(checkpoints)
    except Damaged as error:
        return f"none: {error}"
    return "none" if found is None else str(found.path)
