"""Tune a model on a task: examples in, a tuned model or an adapter out, with what it gained and what it forgot.

    1. a task             its examples in four parts, its prompts
    2. a model            opened; with a head over the task's labels where it is an encoder; with an adapter
    3. rows               each example as prompt and answer; the answer and its end alone carry loss
    4. a preflight        what would be learned wrong in silence is a fault, before any time is spent
    5. a plan             steps, memory and time, from a few steps at rate 0
    6. training           one loop; every so often the select part is answered, and the best moment kept
    7. what came of it    the best moment, saved; the select part's score; the loss on general text before and after

Instruction tuning with the loss on the completion (Ouyang et al. 2022); LoRA (Hu et al. 2021); prompt tuning (Lester et
al. 2021). Left out: several tasks at once, several machines, replay of general text against forgetting.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import torch

from modelwright.adapt.lora import LoRA, merged_copy
from modelwright.adapt.open import digest, method, open_model
from modelwright.adapt.prompt import SoftPrompt, soft_ids
from modelwright.data import documents
from modelwright.data.desk import documents as desk_documents
from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.pack import Row
from modelwright.data.prompt import Prompter
from modelwright.data.supervised import Examples
from modelwright.data.task import contract, prepare, read_task
from modelwright.evaluate.forgetting import forgetting
from modelwright.evaluate.metrics import METRICS, default_metric
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import measure
from modelwright.hub.open import LanguageModel
from modelwright.infer.packed import available_memory
from modelwright.infer.text import eos_ids
from modelwright.losses.language import language_model
from modelwright.model.transformer import Labels, Transformer
from modelwright.plan import cost
from modelwright.plan.memory import Precision
from modelwright.plan.memory import tuning as tuning_memory
from modelwright.plan.size import most_rows, parse_time
from modelwright.recipes.flags import parse
from modelwright.recipes.methods import Adapter, default_rate, go_back, keep, put_on, write
from modelwright.recipes.options import PLAN
from modelwright.recipes.preflight import Allowed, Preflight, coloured, preflight
from modelwright.recipes.pretrain import choose_precision
from modelwright.recipes.run import Run, alone_in
from modelwright.recipes.tuning import Plan, Tune, check, recall_plan, remember
from modelwright.recipes.watch import Screen, Watch, duration, plain, thousands, write_whole
from modelwright.train import optim
from modelwright.train.interrupt import Interrupted
from modelwright.train.loop import Diverged, fit
from modelwright.train.meter import Meter
from modelwright.train.state import NotSaved

BEST = "best.safetensors"
GENERAL = 100  # of the desk's dialogues, where no general text is named


# -- 1. the task, and 2. the model ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ready:
    """A task and a model that is ready to learn it. `base` is the model as it was, which shares what is not tuned."""

    task: Task
    parts: Mapping[str, Sequence[Example]]
    lm: LanguageModel
    base: LanguageModel
    adapter: Adapter
    prompter: Prompter
    digest: str


def get_ready(args: Tune) -> Ready:
    task, parts = prepare(read_task(args.task))
    base = open_model(args.model)
    if method(base):
        raise ValueError(f"{args.model} is an adapter: merge it first (modelwright merge), and tune the merged model")
    assert base.path is not None
    model, encoder = base.model, base.model.cfg.shape == "encoder"
    if args.dropout is not None:
        set_dropout(model, args.dropout)
    labels = Labels(task.labels, "token" if task.kind == "tag" else "text") if encoder and task.labels else None
    adapter = make_adapter(args, model)
    tuned = put_on(model, adapter, labels, torch.Generator().manual_seed(args.seed))
    lm = dataclasses.replace(base, model=tuned)
    return Ready(task, parts, lm, base, adapter, make_prompter(task, lm), digest(base.path))


def make_prompter(task: Task, lm: LanguageModel) -> Prompter:
    cfg = lm.model.cfg
    return Prompter(
        task,
        lm.tokenizer,
        cfg.shape,
        (cfg.encoder or cfg).context,
        soft=soft_ids(lm.model),
        bounded=cfg.relative is None,
        start=lm.generation.get("decoder_start_token_id"),
    )


def make_adapter(args: Tune, model: Transformer) -> Adapter:
    if args.method == "lora":
        there = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        targets = tuple(target for target in args.targets if target in there) or args.targets
        return Adapter("lora", LoRA(args.rank, args.alpha, targets=targets))
    return Adapter(args.method, SoftPrompt(args.tokens) if args.method == "prompt" else None)


def set_dropout(model: Transformer, dropout: float) -> None:
    """Every part reads its rate from a config of its own or keeps the number."""
    encoder = model.cfg.encoder and dataclasses.replace(model.cfg.encoder, dropout=dropout)
    model.cfg = dataclasses.replace(model.cfg, dropout=dropout, encoder=encoder)
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            setattr(module, "dropout", dropout)  # noqa: B010
        if isinstance(getattr(module, "cfg", None), type(model.cfg)) and module is not model:
            setattr(module, "cfg", dataclasses.replace(module.cfg, dropout=dropout))  # type: ignore  # noqa: B010


# -- 3. rows ----------------------------------------------------------------------------------------------


def make_rows(prompter: Prompter, train: Sequence[Example]) -> list[Row]:
    """Each example under one of the task's prompts in turn."""
    prompts = len(prompter.task.prompts)
    return [prompter.row(example, template=at % prompts) for at, example in enumerate(train)]


def widths(rows: Sequence[Row], context: int, said: int | None) -> tuple[int, int]:
    """Tokens of a row and of its source: what four average examples fill, and the longest at least."""

    def fitting(sizes: list[int]) -> int:
        longest = max(sizes, default=0)
        wanted = max(longest, 4 * -(-sum(sizes) // max(1, len(sizes))))
        return max(longest, min(said or wanted, context))

    return fitting([len(row.tokens) for row in rows]), fitting(
        [0 if r.source is None else len(r.source[0]) for r in rows]
    )


def make_loader(ready: Ready, rows: Sequence[Row], found: Plan, seed: int) -> Examples:
    names = [example.id for example in ready.parts["train"]]
    pad = ready.lm.tokenizer.pad or 0
    batch = found.rows // found.accumulate
    return Examples(rows, length=found.length, source=found.source, batch=batch, seed=seed, pad=pad, names=names)


# -- 5. the plan ------------------------------------------------------------------------------------------


def make_plan(args: Tune, ready: Ready, rows: Sequence[Row], precision: Precision) -> Plan:
    """Everything but the time, which `timed` finds out."""
    model, cfg = ready.lm.model, ready.lm.model.cfg
    length, source = widths(rows, (cfg.encoder or cfg).context if cfg.relative is None else 1 << 30, args.length)
    taken = sum(max(len(r.tokens) / length, len(r.source[0]) / source if r.source else 0) for r in rows)  # rows
    in_a_step = max(1, round(args.batch * taken / len(rows)))
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def bytes_of(held: int) -> int:
        return tuning_memory(cfg, learning, held, length, source, precision=precision).total

    held = most_rows(bytes_of, in_a_step, int(min(0.9 * available_memory(), 2**62)))
    accumulate = -(-in_a_step // held)
    in_a_step = held * accumulate
    steps = args.steps or max(1, math.ceil(args.epochs * taken / in_a_step))
    return Plan(
        steps=steps,
        warmup=max(1, round(args.warmup * steps)),
        rate=args.rate or default_rate(args.method, cfg.width),
        rows=in_a_step,
        accumulate=accumulate,
        length=length,
        source=source,
        examples=len(rows),
        learning=learning,
        parameters=cost.parameters(cfg),
        seconds=0.0,
        memory=bytes_of(held),
    )


def timed(args: Tune, ready: Ready, found: Plan, loader: Examples, precision: Precision) -> Plan:
    """The same plan with the time that it takes: a few steps are made at rate 0, which changes nothing."""
    random, marks = torch.get_rng_state(), [time.perf_counter()]
    micro = list(islice(loader, found.accumulate))
    fit(
        ready.lm.model,
        chain.from_iterable(micro for _ in range(4)),
        language_model,
        make_optimizer(args, ready, 0.0),
        steps=4,
        accumulate=found.accumulate,
        precision=precision,
        after_step=lambda step, metrics: marks.append(time.perf_counter()),
    )
    torch.set_rng_state(random)
    loader.load_state_dict({"epoch": 0, "row": 0})
    seconds = statistics.median(after - before for before, after in pairwise(marks[1:]))
    steps = min(found.steps, max(1, int(parse_time(args.time) / seconds))) if args.time else found.steps
    warmup = max(1, round(args.warmup * steps))
    return dataclasses.replace(found, steps=steps, warmup=warmup, seconds=seconds * steps)


def make_optimizer(args: Tune, ready: Ready, rate: float) -> torch.optim.Optimizer:
    return optim.make(ready.lm.model, "adamw", rate, decay=args.decay, betas=(0.9, 0.98))


# -- 6. training ------------------------------------------------------------------------------------------


class Best:
    """The moment of training at which the select part was answered best, by the task's own metric."""

    def __init__(self, args: Tune, ready: Ready, path: Path):
        self.ready, self.path, self.seed = ready, path, args.seed
        self.metric = METRICS[ready.task.metric] if ready.task.metric else default_metric(ready.task.kind)
        self.examples = list(ready.parts.get("select", ()))[: args.select]
        self.seconds = 0.0

    def __call__(self, so_far: Mapping[str, float]) -> dict[str, float]:
        """The score now, and the best so far; the model is kept if it is this one."""
        if not self.examples:
            keep(self.ready.lm.model, self.path)
            return {}
        began = time.perf_counter()
        self.ready.lm.model.eval()
        outcome = measure(
            ModelScorer(self.ready.lm),
            self.ready.task,
            self.ready.prompter,
            self.examples,
            part="select",
            seed=self.seed,
        )
        self.ready.lm.model.train()
        score = outcome.scores[outcome.metric].value
        best, better = so_far.get("best"), max if self.metric.higher else min
        if best is None or better(score, best) != best:
            keep(self.ready.lm.model, self.path)
            best = score
        self.seconds += time.perf_counter() - began
        return {f"select_{outcome.metric}": score, "best": best}


def train(
    args: Tune, ready: Ready, found: Plan, loader: Examples, precision: Precision, screen: Screen
) -> dict[str, Any]:
    """Through the loop, and back to the best moment -> what the run took."""
    directory, model = args.output, ready.lm.model
    run = Run(directory, model, make_optimizer(args, ready, found.rate), loader, keep=1)
    for said in run.restore() if args.resume else ():
        screen.warn(said)
    best = Best(args, ready, directory / BEST)
    _, peak = choose_precision(precision)
    meter = Meter(cost.flops_per_token(model.cfg, found.length, found.source), peak)
    every = max(1, -(-found.steps // args.tests))
    with Watch(directory, found.steps, found.rows * found.length, meter, screen, run.start) as watch:
        run.fit(
            language_model,
            steps=found.steps,
            accumulate=found.accumulate,
            clip=args.clip,
            precision=precision,
            schedule=optim.linear(found.steps, found.warmup),
            test=lambda: best(run.tested),
            test_every=every,
            save_every=every,
            watch=watch,
        )
    go_back(model, directory / BEST)
    model.eval()
    return {"seconds": run.seconds, "answering": best.seconds} | watch.actual() | run.tested


# -- 7. what came of it -----------------------------------------------------------------------------------


def general_text(args: Tune) -> tuple[list[str], str]:
    """The texts that forgetting is measured on, and what to call them."""
    if args.general:
        return [found.text for found in islice(documents.read(list(args.general)), GENERAL)], ", ".join(args.general)
    return [found.text for found in desk_documents(0, "valid", count=GENERAL)], "dialogues of the embedded desk"


def speaking(ready: Ready) -> LanguageModel:
    """The tuned body under the vocabulary's head, where tuning put a head over labels in its place."""
    tuned = merged_copy(ready.lm.model)
    if tuned.cfg.labels is not None:
        tuned.cfg, tuned.head = ready.base.model.cfg, ready.base.model.head
    return dataclasses.replace(ready.lm, model=tuned)


def tune(args: Tune, screen: Screen) -> dict[str, Any]:
    """Do what `args` say, and answer what came of it; see `main` for how it may end early."""
    # 1. a task, 2. a model, 3. rows
    ready = get_ready(args)
    rows = make_rows(ready.prompter, ready.parts["train"])
    # 4. a preflight
    looked = preflight(
        ready.prompter, ready.parts, rows, eos=eos_ids(ready.lm), allowed=Allowed(args.truncated, args.overlap)
    )
    tell(screen, looked, args.dry_run)
    if looked.faults:
        raise ValueError("; and ".join(looked.faults))
    # 5. a plan
    precision, _ = choose_precision(args.precision)
    torch.manual_seed(args.seed)  # of dropout, which takes no generator
    found = recall_plan(args.output) if args.resume else make_plan(args, ready, rows, precision)
    loader = make_loader(ready, rows, found, args.seed)
    if not args.resume:
        found = timed(args, ready, found, loader, precision)
    show(screen, args, ready, found, looked, precision)
    if args.dry_run:
        return {"predicted": dataclasses.asdict(found), "faults": [], "samples": [s.pieces for s in looked.samples]}
    if not args.resume:
        remember(dataclasses.replace(args, precision=precision), found)
    # 6. training; the loss on general text is taken before anything is changed
    texts, named = general_text(args)
    before = ModelScorer(open_model(args.model))
    actual = train(args, ready, found, loader, precision, screen)
    # 7. what came of it
    lost = forgetting(before, ModelScorer(speaking(ready)), texts, seed=args.seed)
    lineage = {
        "contract": contract(ready.task, ready.lm.tokenizer),
        "task": ready.task.name,
        "seed": args.seed,
        "examples": found.examples,
        "select": {name: value for name, value in actual.items() if name.startswith("select_") or name == "best"},
    }
    write(ready.lm, ready.adapter, args.output / "model", args.model, ready.digest, lineage)
    came = {
        "predicted": dataclasses.asdict(found),
        "actual": actual,
        "forgetting": {"text": named, **dataclasses.asdict(lost)},
        "contract": lineage["contract"],
        "model": str(args.output / "model"),
    }
    write_whole(args.output / PLAN, json.dumps(came, indent=2))
    return came


# -- what is said -------------------------------------------------------------------------------


def tell(screen: Screen, looked: Preflight, samples: bool) -> None:
    for found in looked.samples if samples else ():
        screen.console.print(coloured(found), soft_wrap=True)
        screen.console.print()
    for fault in looked.faults:
        screen.warn(fault)


def show(screen: Screen, args: Tune, ready: Ready, found: Plan, looked: Preflight, precision: Precision) -> None:
    counts = ", ".join(f"{part} {len(examples):,}" for part, examples in ready.parts.items())
    cfg = ready.lm.model.cfg
    screen.table(
        "the plan",
        {
            "task": f"{ready.task.name}, {ready.task.kind}: {counts} examples",
            "model": f"{args.model}: {cfg.shape}, {thousands(found.parameters)} parameters, of which "
            f"{thousands(found.learning)} learn ({args.method})",
            "rows": f"{thousands(looked.tokens)} tokens, of which {looked.learned / looked.tokens:.0%} carry loss; "
            f"{found.rows} rows of {found.length} in a step"
            + (f" in {found.accumulate} parts" if found.accumulate > 1 else ""),
            "steps": f"{found.steps:,} at rate {found.rate:.2g} in {precision}",
            "time": duration(found.seconds) + " for the steps alone",
            "memory": f"{found.memory / 2**20:,.0f} MiB beside the program's own",
        },
    )


# -- the command ------------------------------------------------------------------------------------------


def finished(screen: Screen, came: dict[str, Any]) -> None:
    predicted, actual, lost = came["predicted"], came["actual"], came["forgetting"]
    score = next(
        (f"{name.removeprefix('select_')} {actual['best']:.3f}" for name in actual if name.startswith("select_")), ""
    )
    screen.table(
        "done",
        {
            "time": f"{duration(actual['seconds'])}, {duration(actual['answering'])} of it answering the select "
            f"part (planned {duration(predicted['seconds'])} for the steps alone)",
            "memory": f"{actual['peak_memory'] / 2**20:,.0f} MiB in all (planned {predicted['memory'] / 2**20:,.0f} "
            "beside the program's own)",
            "select part": f"{score} at the best moment, which is kept" if score else "none: the last moment is kept",
            "forgetting": f"{lost['difference']['value']:+.3f} nats a token on {lost['text']} "
            f"({lost['difference']['low']:+.3f} to {lost['difference']['high']:+.3f})",
            "model": came["model"],
        },
    )


@contextmanager
def place(args: Tune) -> Iterator[Tune]:
    """The run directory for this process alone; gone again where no run was begun."""
    made = not args.output.exists()
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        with alone_in(args.output):
            yield args
    finally:
        if made and not (args.output / PLAN).exists():
            shutil.rmtree(args.output, ignore_errors=True)


def main(argv: list[str]) -> int:
    """`modelwright tune`. Exit codes: 0 done, 2 the user's mistake, 130 and 143 stopped by a signal."""
    args = check(parse(Tune, argv, "modelwright tune"))
    screen = Screen(quiet=args.json)
    again = f"modelwright tune --resume --output {args.output}"
    try:
        with place(args) as placed:
            came = tune(placed, screen)
    except Diverged as error:
        raise ValueError(f"{error}: begin again with a lower --rate") from None
    except NotSaved as error:
        raise ValueError(f"{error}; make room, and go on with: {again}") from None
    except Interrupted as stop:
        screen.say(f"{stop}; saved. Go on with: {again}")
        return 128 + stop.signal
    except KeyboardInterrupt:  # not in training, which a signal leaves by way of a checkpoint
        kept = (args.output / PLAN).exists()
        screen.say(f"stopped. Go on with: {again}" if kept else "stopped before training began: nothing is kept")
        return 130
    if args.json:
        print(json.dumps(came, default=plain))
    elif not args.dry_run:
        finished(screen, came)
    return 0
