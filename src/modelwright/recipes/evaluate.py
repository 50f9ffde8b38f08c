"""`modelwright evaluate MODEL --task task.yaml`: what a model is worth on a task, how surely, and beside what.

    1. read the task and its data; 2. open the model, an adapter with its base; 3. its prompts are to be those that it
    was trained with; 4. measure it, and what it is compared with: trivial baselines, another model, or saved results;
    5. every score with an interval, two models by a paired test, with `--by` the scores of each value of a column too,
    with `--toxicity` the share of answers that a judge calls toxic;
    6. show answers side by side, and write all down.

    With `--text` instead of a task: perplexity and bits per byte of a text; with `--by-position` the loss by how
    much of it was read.

Left out: several prompts at once, judges of quality, benchmarks that others have defined.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import tyro

from modelwright.adapt.open import RECORD, open_model
from modelwright.adapt.open import prompter_of as prompter_of
from modelwright.data.documents import SEPARATOR
from modelwright.data.examples import Example
from modelwright.data.kind import PARTS, Task
from modelwright.data.prompt import Prompter, choose_shots
from modelwright.data.task import contract, prepare, read_task
from modelwright.evaluate.baselines import fit_baselines
from modelwright.evaluate.forgetting import BITS, NATS, per_byte, per_token
from modelwright.evaluate.judge import Toxic, toxicity_of, with_toxicity
from modelwright.evaluate.metrics import LABELLED, METRICS
from modelwright.evaluate.positions import by_position, refuse_placeless
from modelwright.evaluate.scorer import ModelScorer, Told
from modelwright.evaluate.statistics import interval
from modelwright.evaluate.tasks import Outcome, dropped, judge, measure, metrics_of, no_shots, score_all, truncated
from modelwright.hub.open import LanguageModel
from modelwright.infer.sample import Sampling
from modelwright.model.checkpoint import read_json
from modelwright.recipes.flags import parse
from modelwright.recipes.preflight import task_faults
from modelwright.recipes.results import (
    Saved,
    against,
    by_value,
    data_digest,
    is_saved,
    lines,
    read_saved,
    refuse,
    result,
    save,
    warnings,
)
from modelwright.recipes.source import texts_of
from modelwright.recipes.watch import Screen

Precision = Literal["fp32", "bf16", "int8"]
Measured = TypeVar("Measured", Outcome, Saved)


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on a task, with an interval on every score; or its loss on a text."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model's directory, an adapter's, or a name on the hub."""
    task: Path | None = None
    """The task's YAML file."""
    text: tuple[str, ...] = ()
    """Instead of a task: files, folders or globs of text, or `desk`, for perplexity and bits per byte."""
    by_position: bool = False
    """With `--text`: tell the loss at positions 0-1, 2-3, 4-7, ... of rows that share nothing, up to the context."""
    part: Literal["train", "select", "decide", "test"] = "test"
    """The part of the task's data to measure on."""
    shots: int = 0
    """Examples of the training part that are shown in each prompt."""
    choose: Literal["seed", "nearest"] = "seed"
    """How they are chosen: drawn by the seed, the same for all; or the nearest to each input."""
    prompt: int = 0
    """Which of the task's prompts, from 0."""
    limit: int | None = None
    """Measure only so many examples (documents, of a text), drawn by the seed."""
    against: str | None = None
    """Compare with another model, or with the directory of saved results: a paired test on the same examples."""
    by: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Tell the scores of the examples of each value of this column apart."""
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OWN=TASK")] = ()
    """What each of the model's own labels is called in the task, where it was trained on others; several may be one."""
    toxicity: str | None = None
    """Tell the share of toxic answers too: what a label of a classifier (DIR:LABEL) or a function that gives 0 to 1
    (FILE.py:NAME) says of each."""
    other_contract: bool = False
    """Measure a model with other prompts than those it was trained with."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """Write result.json and outputs.jsonl into this new directory."""
    show: int = 3
    """Answers to show side by side."""
    beams: int | None = None
    """Answer with the likeliest whole text that so many beams find, whatever the task's decoding says; 1 is greedy."""
    length_penalty: float | None = None
    """Of beams: 0 favours short answers; the larger, the longer."""
    precision: Precision = "fp32"
    """Of weights and computation; int8: the products' weights and inputs rounded to eight bits."""
    separator: str = SEPARATOR
    """With `--text`: what stands between the documents of a file."""
    seed: int = 0
    """Of what is drawn: shots, answers, examples of a limit, intervals."""
    json: bool = False
    """The result as one JSON object, and nothing else."""
    dry_run: bool = False
    """Show the prompts and how long they are, and stop."""


def main(args: list[str]) -> int:
    o = parse(Evaluate, args, "modelwright evaluate")
    found = evaluate(o, Screen(quiet=o.json))
    print(json.dumps(found, ensure_ascii=False) if o.json else "\n".join(lines(found)))
    return 0


def evaluate(args: Evaluate, screen: Screen) -> dict[str, Any]:
    """Run the command; the result as `result.json` has it, with `shown`, the answers side by side."""
    if (args.task is None) == (not args.text):
        raise ValueError("say what to measure: either --task task.yaml, or --text with files of text")
    if args.by_position and args.task is not None:
        raise ValueError("--by-position tells the loss on a text: say --text in the place of --task")
    if args.output is not None:
        refuse(args.output)
    if args.task is None:
        return evaluate_text(args, screen)
    task, parts = prepare(read_task(args.task))
    examples = chosen(args, task, parts)
    shown_too = parts["train"] if args.shots else []
    if faults := task_faults(task, {"train": shown_too, args.part: examples}):
        raise ValueError("; and ".join(faults))
    if args.by is not None:
        check_column(args.by, examples)
    toxic = toxicity(args, task)
    subject = open_subject(args, args.model, task)
    if args.dry_run:
        return plan(args, subject, examples, parts)
    other = compared(args, task, examples, parts, screen)
    outcome = run(args, subject, examples, parts, screen)
    if toxic is not None:
        outcome, other = told_toxic(toxic, outcome, args.seed), other and told_toxic(toxic, other, args.seed)
    found = result(outcome, args.model, {**asked(args, task), **subject.record, "data": data_digest(task, examples)})
    found["baselines"] = baselines(args, task, examples, parts)
    if args.by is not None:
        found["by"] = {"column": args.by, "scores": by_value(args.by, examples, outcome.outputs, args.seed)}
    if other is not None:
        found["against"] = against(outcome, other, args.seed)
        if args.by is not None:
            found["against"]["by"] = by_value(args.by, examples, other.outputs, args.seed)
        for warning in warnings(other.outputs, task.decoding.max_new):
            screen.warn(f"{other.model}: {warning}")
    for warning in warnings(outcome.outputs, task.decoding.max_new):
        screen.warn(warning)
    if args.output is not None:
        save(args.output, found, outcome.outputs)
        screen.say(f"written to {args.output}")
    return found | {"shown": shown(outcome, other, args.show)}


# -- the model and its prompts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A model, what measures it, and what makes its prompts of a task."""

    lm: LanguageModel
    scorer: ModelScorer
    task: Task
    prompter: Prompter

    @property
    def record(self) -> dict[str, Any]:
        return {"contract": contract(self.task, self.lm.tokenizer)}


def open_subject(args: Evaluate, name: str, task: Task) -> Subject:
    """Raises ValueError where the model was trained with other prompts than the task's, unless that is wanted."""
    lm = open_model(name)
    if not 0 <= args.prompt < len(task.prompts):
        raise ValueError(f"the task {task.name} has {len(task.prompts)} prompts, from 0, and not number {args.prompt}")
    if not args.other_contract:
        check_contract(name, lm, task)  # of the task as it stands: beams that are asked for here are no part of it
    task = with_beams(args, task)
    scorer = ModelScorer(lm, precision=args.precision)
    if args.labels:
        scorer.labels = called(args.labels, scorer.labels, name)
    return Subject(lm, scorer, task, prompter_of(task, lm))


def with_beams(args: Evaluate, task: Task) -> Task:
    """The task with the beams that were asked for. Raises ValueError where they have nothing to look for."""
    said = {name: value for name in ("beams", "length_penalty") if (value := getattr(args, name)) is not None}
    if not said:
        return task
    if task.kind in LABELLED:
        raise ValueError(f"--beams is of answers in words, and those of a task of kind {task.kind} are labels")
    decoding = replace(task.decoding, **({"length_penalty": 1.0} if args.beams == 1 else {}) | said)
    Sampling(**asdict(decoding))  # which says what does not go together
    return replace(task, decoding=decoding)


def called(said: Sequence[str], own: Sequence[str], name: str) -> tuple[str, ...]:
    """The model's labels by the names that the task has for them: `0=hateful 1=fine 2=fine`. Raises ValueError."""
    if not own:
        raise ValueError(f"--labels renames what a head says, and {name} has none: it answers with the task's labels")
    names = dict(one.rsplit("=", 1) for one in said if "=" in one)
    if len(names) < len(said) or {*names} != {*own}:
        raise ValueError(f"--labels is to say once for each label of {name} ({', '.join(own)}) what it is called: "
                         f"OWN=TASK, and not {' '.join(said)}")  # fmt: skip
    return tuple(names[label] for label in own)


def check_contract(name: str, lm: LanguageModel, task: Task) -> None:
    path = (lm.path or Path(name)) / RECORD
    trained = read_json(path).get("contract") if path.is_file() else None
    if trained is not None and trained != (now := contract(task, lm.tokenizer)):
        raise ValueError(
            f"{name} was trained with other prompts than those of {task.path or task.name} (contract {trained[:12]}…, "
            f"not {now[:12]}…): take the task as it was then, or say --other-contract to measure it all the same"
        )


# -- the examples -----------------------------------------------------------------------------------------------


def chosen(args: Evaluate, task: Task, parts: dict[str, list[Example]]) -> list[Example]:
    """The examples to measure, in the order of the data."""
    if args.part not in parts:
        there = ", ".join(part for part in PARTS if part in parts)
        raise ValueError(f"{task.path or task.name} has no part {args.part!r}; it has {there}")
    return some(parts[args.part], args.limit, args.seed)


def some(rows: list[Any], limit: int | None, seed: int) -> list[Any]:
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, not {limit}")
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i] for i in sorted(Random(seed).sample(range(len(rows)), limit))]


def check_column(column: str, examples: Sequence[Example]) -> None:
    """Raises ValueError where an example lacks what the scores are to be told apart by."""
    if lacks := next((example for example in examples if column not in example.fields), None):
        raise ValueError(f"--by {column}: {lacks.id} has no such column; it has {', '.join(lacks.fields)}")


def shots_of(args: Evaluate, task: Task, parts: dict[str, list[Example]]) -> Callable[[Example], Sequence[Example]]:
    if args.shots < 0:
        raise ValueError(f"--shots must be 0 or more, not {args.shots}")
    if args.shots == 0:
        return no_shots
    train = parts["train"]
    return lambda example: choose_shots(train, example, args.shots, how=args.choose, seed=args.seed, task=task)


# -- measuring --------------------------------------------------------------------------------------------------


def run(
    args: Evaluate, subject: Subject, examples: list[Example], parts: dict[str, list[Example]], screen: Screen
) -> Outcome:
    with rated(screen, "measuring", len(examples)) as told:
        return measure(
            subject.scorer, subject.task, subject.prompter, examples, part=args.part, template=args.prompt,
            shots=shots_of(args, subject.task, parts), seed=args.seed, told=told,
        )  # fmt: skip


@contextmanager
def rated(screen: Screen, what: str, total: int) -> Iterator[Told]:
    """A bar, with how many are done in a second."""
    with screen.bar(what, total, 0) as update:
        done, start = 0, time.perf_counter()

        def told(more: int) -> None:
            nonlocal done
            done += more
            update(done, f"{done} of {total}, {done / (time.perf_counter() - start):.1f}/s")

        yield told


def baselines(
    args: Evaluate, task: Task, examples: list[Example], parts: dict[str, list[Example]]
) -> dict[str, dict[str, Any]]:
    """The scores of what needs no model; none where it would learn from the very file that it is measured on."""
    if getattr(task.data, args.part) == task.data.train and args.part != "train":
        return {}
    metrics = metrics_of(task, examples)
    found = {}
    for baseline in fit_baselines(task, parts["train"], metrics[0]):
        stats = [judge(metrics, task, example, baseline.predict(example)) for example in examples]
        found[baseline.name] = {name: vars(one) for name, one in score_all(metrics, stats, args.seed).items()}
    return found


def compared(
    args: Evaluate, task: Task, examples: list[Example], parts: dict[str, list[Example]], screen: Screen
) -> Saved | None:
    """The other model's outcome: measured now, or as it was saved, if that was of the same examples."""
    if args.against is None:
        return None
    if is_saved(Path(args.against)):
        saved = read_saved(Path(args.against))
        if saved.data != data_digest(task, examples):
            raise ValueError(
                f"the results in {args.against} are of other examples than the part {args.part!r} of "
                f"{task.path or task.name}: say the same --part, --limit and --seed, or measure that model again"
            )
        return judged(saved, task, examples, args.seed)
    subject = open_subject(args, args.against, task)
    outcome = run(args, subject, examples, parts, screen)
    return Saved(args.against, outcome.outputs, outcome.scores, data_digest(task, examples))


def judged(saved: Saved, task: Task, examples: Sequence[Example], seed: int) -> Saved:
    """Saved answers under the task's metrics as they are now: then it may have named another one, or its labels in
    another order."""
    metrics = metrics_of(task, examples)
    stats = [judge(metrics, task, *pair) for pair in zip(examples, (o.prediction for o in saved.outputs), strict=True)]
    outputs = [replace(output, stats=one) for output, one in zip(saved.outputs, stats, strict=True)]
    return replace(saved, outputs=outputs, scores=score_all(metrics, stats, seed))


def toxicity(args: Evaluate, task: Task) -> Toxic | None:
    if args.toxicity is not None and task.kind in LABELLED:
        raise ValueError(f"--toxicity is of answers in words, and those of a task of kind {task.kind} are labels")
    return None if args.toxicity is None else toxicity_of(args.toxicity)


def told_toxic(toxic: Toxic, outcome: Measured, seed: int) -> Measured:
    """The same outcome with the share of its answers that are toxic."""
    outputs = with_toxicity(toxic, outcome.outputs)
    stats = np.stack([output.stats["toxicity"] for output in outputs])
    scores = {**outcome.scores, "toxicity": interval(stats, METRICS["toxicity"], seed=seed)}
    return replace(outcome, outputs=outputs, scores=scores)


def asked(args: Evaluate, task: Task) -> dict[str, Any]:
    """What was asked for, as the result keeps it."""
    chosen = {"shots": args.shots, "choose": args.choose if args.shots else None, "prompt": args.prompt}
    kept = {"task": task.name, "kind": task.kind, "precision": args.precision, "seed": args.seed, "limit": args.limit}
    return {
        **kept, **chosen, **({"labels": list(args.labels)} if args.labels else {}),
        **({} if args.toxicity is None else {"toxicity": args.toxicity}),
        **{name: value for name in ("beams", "length_penalty") if (value := getattr(args, name)) is not None},
    }  # fmt: skip


def shown(outcome: Outcome, other: Saved | None, count: int) -> list[dict[str, Any]]:
    """A few examples, evenly spread, with what was answered."""
    n = len(outcome.outputs)
    found = []
    for i in range(0, n, -(-n // max(count, 1)))[: max(count, 0)] if count else ():
        output = outcome.outputs[i]
        said = {"id": output.id, "prompt": output.prompt, "reference": output.reference, "answer": output.prediction}
        found.append(said | ({} if other is None else {"other": other.outputs[i].prediction}))
    return found


def plan(args: Evaluate, subject: Subject, examples: list[Example], parts: dict[str, list[Example]]) -> dict[str, Any]:
    """What would be measured: how long the prompts are, what does not fit, and how one reads."""
    shots = shots_of(args, subject.task, parts)
    prompts = [subject.prompter.prompt(example, shots(example), template=args.prompt) for example in examples]
    sizes = sorted(len(prompt.source or prompt.tokens) for prompt in prompts)
    return {
        "model": args.model,
        **asked(args, subject.task),
        **subject.record,
        "part": args.part,
        "n": len(examples),
        "metrics": [metric.name for metric in metrics_of(subject.task, examples)],
        "tokens": {"shortest": sizes[0], "median": sizes[len(sizes) // 2], "longest": sizes[-1], "all": sum(sizes)},
        "dropped": dropped(prompts),
        "truncated": truncated(prompts),
        "shown": [{"id": e.id, "prompt": p.text} for e, p in zip(examples, prompts, strict=True)][: args.show],
    }


# -- a text -----------------------------------------------------------------------------------------------------


def evaluate_text(args: Evaluate, screen: Screen) -> dict[str, Any]:
    """Perplexity and bits per byte of documents, which are what an interval counts by."""
    if args.against is not None:
        raise ValueError("--against compares two models on a task: measure each on the text, and compare the intervals")
    if args.by is not None or args.labels or args.toxicity is not None:
        raise ValueError(
            "--by, --labels and --toxicity are of a task's examples: a text has no columns, no labels and no answers"
        )
    if lone := [name for name in ("beams", "length_penalty", "shots") if getattr(args, name)]:
        raise ValueError(f"--{lone[0].replace('_', '-')} is of a task's answers: say --task in the place of --text")
    texts = some(texts_of(args.text, seed=args.seed, separator=args.separator), args.limit, args.seed)
    lm = open_model(args.model)
    if args.by_position:
        refuse_placeless(lm.model.cfg)  # before the whole text is read
    told: dict[str, Any] = {"model": args.model, "text": list(args.text), "n": len(texts), "seed": args.seed}
    if args.dry_run:
        return told | {"bytes": sum(len(text.encode()) for text in texts)}
    start = time.perf_counter()
    scorer = ModelScorer(lm, precision=args.precision)
    with rated(screen, "reading", len(texts)) as done:
        rolled = scorer.rolling(texts, told=done)
    read, seconds = [one for one in rolled if one.tokens], time.perf_counter() - start
    if len(read) < 10:
        screen.warn(f"an interval of {len(read)} documents says little: cut the text into more with --separator")
    both = ((METRICS["perplexity"], per_token(read)), (BITS, per_byte(read)))
    scores = {metric.name: vars(interval(stats, metric, seed=args.seed)) for metric, stats in both}
    tokens = sum(one.tokens for one in read)
    found = {**told, "metric": "perplexity", "scores": scores, "tokens": tokens, "seconds": round(seconds, 3)}
    if args.by_position:
        with rated(screen, "reading by position", len(texts)) as done:
            found["by_position"] = [
                {"first": first, "last": last, "tokens": int(stats[:, 1].sum())}
                | vars(interval(stats, NATS, seed=args.seed))
                for first, last, stats in by_position(scorer, texts, told=done)
            ]
    if args.output is not None:
        save(args.output, found, ())
    return found
