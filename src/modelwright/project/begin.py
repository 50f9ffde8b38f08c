"""`modelwright init`: a project file to begin with, and on the desk the examples that it names.

What it writes validates and runs as it stands. Nothing that is there already is overwritten.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray

from modelwright.data.desk import Case, cases
from modelwright.data.examples import read_examples
from modelwright.data.kind import DEFAULTS, NAMES, Kind
from modelwright.evaluate.metrics import default_metric
from modelwright.recipes.flags import parse
from modelwright.recipes.watch import write_whole

Array = NDArray[np.float64]

PROJECT, EXAMPLES = "project.yaml", "examples.jsonl"
CASES = 1200  # of the desk, that are written as examples
CONTEXT = 512  # of the desk's base, which reads several examples at once
SPELLED = 3.0  # characters a token, before there is a tokenizer; a small vocabulary spells English with 3 to 4
FROM_EXAMPLES = """\
  time: 270s              # enough to learn from examples in a prompt, which desk+episodes teaches; with it what follows
  vocab: 2048
  width: 128
  layers: 4
  heads: 4
  batch: 3072             # tokens in a step
  rate: 0.004
  matrix_rate: 0.02
  whole: true             # no episode is cut
"""


class Start(NamedTuple):
    """What a kind of task begins with on the desk."""

    rows: Callable[[Case], Iterator[dict[str, Any]]]
    metric: str
    target: float
    objective: str
    extra: str = ""  # lines of the task


def summaries(case: Case) -> Iterator[dict[str, Any]]:
    yield {"source": case.text, "target": case.summary, "required": [case.facts[name] for name in said_in(case)]}


def said_in(case: Case) -> list[str]:
    """The facts that are names and numbers, which the summary says as the dialogue does."""
    return [name for name in ("order", "customer", "city") if case.facts[name] in case.summary and name in case.stated]


def translations(case: Case) -> Iterator[dict[str, Any]]:
    yield {"source": case.summary, "target": case.french}


def answers(case: Case) -> Iterator[dict[str, Any]]:
    for asked in case.questions[:1]:
        yield {"context": case.text, "question": asked.question, "answer": asked.answer or "The dialogue does not say."}


def continuations(case: Case) -> Iterator[dict[str, Any]]:
    """The agent's first turn, from the customer's."""
    first, second = case.turns[:2]
    yield {"source": f"{first.speaker}: {first.text}\n{second.speaker}:", "target": second.text}


def moods(case: Case) -> Iterator[dict[str, Any]]:
    yield {"text": case.text, "label": case.mood}


def tags(case: Case) -> Iterator[dict[str, Any]]:
    """Words, each with the entity that it stands in."""
    tokens, found, at = case.text.split(), [], 0
    for token in tokens:
        at = case.text.index(token, at)
        span = next((s for s in case.spans if s.start < at + len(token) and at < s.end), None)
        found.append("O" if span is None else f"{'B' if at <= span.start else 'I'}-{span.type}")
        at += len(token)
    yield {"tokens": tokens, "tags": found}


STARTS: Mapping[Kind, Start] = {
    "summarise": Start(summaries, "rougeL", 0.6, "causal"),
    "translate": Start(translations, "chrf", 60, "span"),
    "answer": Start(answers, "token_f1", 0.6, "causal"),
    "generate": Start(continuations, "rougeL", 0.3, "causal"),
    "classify": Start(moods, "accuracy", 0.8, "masked"),
    "tag": Start(tags, "entity_f1", 0.8, "masked"),
}

TEMPLATE = """\
# A modelwright project: `modelwright run` climbs its ladder, from the cheapest rung, and stops at the first that meets
# the target. What every key means stands in docs/projects.md.
name: {name}

task:
  kind: {kind}            # summarise, translate, answer, generate, classify or tag
  data:
    train: {data}
    # select: ..., decide: ..., test: ...       files of their own; what is not named is cut from train:
    split: {{train: 0.6, select: 0.1, decide: 0.2, test: 0.1}}
  columns: {columns}    # the kind's names for them, and the file's

metric: {metric}
target: {target}            # met when the score's lower bound on the part `decide` is at least this

limits:                   # each may be left out
  time: 30min             # of the whole climb
  memory: 8GB
  # parameters: 50M
  # latency: 500ms        # of one answer

# candidates: [path/to/a/model, or/a-hub-id]    # models to try beside the base, or instead of it
base:                     # a model that is pretrained first; docs/pretraining.md says what may stand here
  data: {base}
  objective: {objective}       # causal: a decoder; masked: an encoder; span or denoise: an encoder-decoder
  context: {context: <15}# tokens that it can read at once: {fits:.0%} of the examples, if 3 characters are a token
{settings}
ladder: [{ladder}]
{shots}# tune: {{epochs: 3, lora: {{rank: 8}}}}    # settings of `modelwright tune`, for all rungs or for one
curve: [0.25, 0.5]        # where nothing meets the target: parts of train for a learning curve; [] for none
confidence: 0.95
seed: 0
"""


@dataclasses.dataclass(frozen=True)
class Init:
    """Write a project file to begin with: on the embedded desk, or on data of your own."""

    task: Kind | None = None
    """What the model is to do; summarise without a word, or what the columns of the data look like."""
    data: Path | None = None
    """A file of examples: JSONL, CSV, TSV, Parquet or CoNLL. Without one, examples of the embedded desk are written."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path(PROJECT)
    """The project file, or a directory to write it into."""
    seed: int = 0
    """Of the desk's examples."""
    json: bool = False
    """Print what was written as one JSON object."""


def init(args: Init) -> dict[str, Any]:
    """Write the files -> their paths and the task's kind."""
    path = args.output / PROJECT if args.output.is_dir() or not args.output.suffix else args.output
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten: name another --output")
    examples = path.parent / EXAMPLES
    if args.data is None and examples.exists():
        raise FileExistsError(f"{examples} exists and is not overwritten: name another --output")
    written, name = [str(path)], path.resolve().parent.name
    if args.data is None:
        kind = args.task or "summarise"
        rows = desk_examples(kind, args.seed)
        columns = {column: column for column in rows[0]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(examples, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        written.append(str(examples))
        said = text(name, kind, EXAMPLES, columns, lengths(kind, columns, rows), desk=True)
    else:
        rows = [dict(example.fields) for example in read_examples(args.data)]
        kind, columns = from_data(args.task, args.data, list(rows[0]))
        path.parent.mkdir(parents=True, exist_ok=True)
        said = text(name, kind, quoted(str(args.data.resolve())), columns, lengths(kind, columns, rows), desk=False)
    write_whole(path, said)
    return {"project": str(path), "kind": kind, "written": written}


def text(name: str, kind: Kind, data: str, columns: Mapping[str, str], sizes: Array, desk: bool) -> str:
    """sizes (n): of each example, as `lengths` guesses them."""
    start = STARTS[kind]
    context = CONTEXT if desk else context_of(sizes)
    metric, target = (start.metric, start.target) if desk else (default_metric(kind).name, start.target)
    target = 30 if metric == "bleu" else target
    encoder = start.objective == "masked"
    prompted = [] if encoder else ["zero-shot", "one-shot", "few-shot"]
    return TEMPLATE.format(
        name=quoted(name), kind=kind, data=data, columns=json.dumps(dict(columns), ensure_ascii=False), metric=metric,
        target=target, base=base_of(start, desk, data), objective=start.objective,
        context=context, fits=float((sizes <= context).mean()),
        settings=FROM_EXAMPLES if desk and start.objective == "causal" else "  time: 2min\n",
        ladder=", ".join(["trivial", *prompted, "soft-prompt", "lora", "full"]),
        shots="" if encoder else "shots: 4                  # examples in a few-shot prompt\n",
    )  # fmt: skip


def base_of(start: Start, desk: bool, data: str) -> str:
    """What the base reads: on the desk also episodes of other small tasks, where it is one that can learn from them."""
    if not desk:
        return f"desk            # better: much text like {data}; or task, the inputs of the part train"
    return "desk+episodes:20000" if start.objective == "causal" else "desk"


def quoted(text: str) -> str:
    """A text as YAML reads it, whatever stands in it: JSON's strings are YAML's."""
    return json.dumps(text, ensure_ascii=False)


# -- examples --------------------------------------------------------------------------------------------------------


def desk_examples(kind: Kind, seed: int) -> list[dict[str, Any]]:
    return [row for case in cases(seed, "valid", count=CASES) for row in STARTS[kind].rows(case)]


def lengths(kind: Kind, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Array:
    """(n): the tokens that each example may take with its answer, or the room that is kept for one that is shorter."""
    inputs, target = NAMES[kind]
    answers = np.zeros(len(rows))
    if STARTS[kind].objective != "masked":  # an encoder reads its input alone
        answers = np.maximum([tokens(row.get(columns[target])) for row in rows], DEFAULTS[kind].max_new)
    return np.array([sum(tokens(row.get(columns.get(name, name))) for name in inputs) for row in rows]) + answers


def tokens(value: Any) -> float:
    spelled = " ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return len(spelled) / SPELLED


def context_of(sizes: Array) -> int:
    """Enough for 95 of 100 examples, in steps of 64 from 256 to 2048."""
    return int(np.clip(64 * np.ceil(np.quantile(sizes, 0.95, method="inverted_cdf") / 64), 256, 2048))


def from_data(kind: Kind | None, path: Path, there: list[str]) -> tuple[Kind, dict[str, str]]:
    """The kind of task that a file's columns are for, and which column is which.

    Raises ValueError where the columns do not say it.
    """
    if kind is not None:
        named = columns_of(kind, there)
        return kind, named or {name: there[min(i, len(there) - 1)] for i, name in enumerate(needed(kind))}
    for known in NAMES:
        if (named := columns_of(known, there)) is not None:
            return known, named
    raise ValueError(
        f"{path} has the columns {', '.join(there)}, which do not tell the task: say --task {'|'.join(NAMES)}"
    )


def needed(kind: Kind) -> list[str]:
    inputs, target = NAMES[kind]
    return [name for name in (*inputs, target) if name != "context"]


def columns_of(kind: Kind, there: list[str]) -> dict[str, str] | None:
    """Canonical name -> column, where the file has them all under these names."""
    if not set(needed(kind)) <= set(there):
        return None
    inputs, target = NAMES[kind]
    return {name: name for name in (*inputs, target, "required") if name in there}


def main(argv: list[str]) -> int:
    args = parse(Init, argv, "modelwright init")
    found = init(args)
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"written: {', '.join(found['written'])}")
    print(f"next: modelwright run {found['project']}")
    return 0
