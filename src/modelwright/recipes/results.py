"""What was measured, as it is written down, read again, compared and shown.

A directory of results holds `result.json`, the scores and all that they depend on, and `outputs.jsonl`, one answer a
line with its statistics: enough to compare another model with, long after.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.adapt.open import versions
from modelwright.data.examples import Example
from modelwright.data.kind import ASIDE, Task, asked
from modelwright.evaluate.metrics import METRICS
from modelwright.evaluate.statistics import Interval, paired
from modelwright.evaluate.tasks import Outcome, Output, dropped, score_all, truncated, unended
from modelwright.model.checkpoint import read_json, replacing

RESULT, OUTPUTS = "result.json", "outputs.jsonl"
WIDTH = 400  # characters of a prompt, and of an answer, that are shown


@dataclass(frozen=True)
class Saved:
    """Another model's answers to the same examples."""

    model: str
    outputs: Sequence[Output]
    scores: Mapping[str, Interval]
    data: str


def data_digest(task: Task, examples: Sequence[Example]) -> str:
    """sha256 of examples, in order: their names, and to the letter all columns that a model or a metric meets."""
    met = {*task.inputs, task.target, "required", *ASIDE.get(task.kind, ()), *asked(task)}
    said = [
        [example.id, {name: value for name, value in example.fields.items() if name in met}] for example in examples
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=repr).encode()).hexdigest()


def result(outcome: Outcome, model: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an outcome beside its outputs."""
    return {
        "model": model,
        **more,
        "part": outcome.part,
        "n": len(outcome.outputs),
        "metric": outcome.metric,
        "scores": {name: vars(one) for name, one in outcome.scores.items()},
        "dropped": dropped(outcome.outputs),
        "truncated": truncated(outcome.outputs),
        "unended": unended(outcome.outputs),
        "tokens": outcome.tokens,
        "seconds": round(outcome.seconds, 3),
        "versions": versions(),
    }


def warnings(outputs: Sequence[Output], max_new: int) -> Iterator[str]:
    """What a reader of the scores should know of the prompts and the answers. max_new: tokens of an answer at most."""
    n, why = len(outputs), "since the model's context is short"
    if lost := dropped(outputs):
        yield f"{sum(output.dropped > 0 for output in outputs)} of {n} prompts lost {lost} shots, {why}"
    if cut := truncated(outputs):
        yield f"{cut} of {n} inputs were cut, by {sum(output.truncated for output in outputs):,} tokens in all, {why}"
    if long := unended(outputs):
        yield f"{long} of {n} answers had no end after {max_new} tokens: they stand as they were cut (decoding.max_new)"


# -- two models -------------------------------------------------------------------------------------------------


def against(outcome: Outcome, other: Saved, seed: int) -> dict[str, Any]:
    """How much better the first model is than the other, under every metric that both have."""
    found = {}
    for name in outcome.scores:
        if name in other.scores:
            theirs = np.stack([output.stats[name] for output in other.outputs])
            apart = paired(outcome.stats(name), theirs, METRICS[name], seed=seed)
            found[name] = vars(apart.difference) | {"p": apart.p}
    return {"model": other.model, "scores": {n: vars(one) for n, one in other.scores.items()}, "difference": found}


# -- examples of a kind -----------------------------------------------------------------------------------------


def by_value(
    column: str, examples: Sequence[Example], outputs: Sequence[Output], seed: int
) -> dict[str, dict[str, Any]]:
    """Each value of a column, in the order of the data -> the scores of the examples that have it."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for example, output in zip(examples, outputs, strict=True):
        value = example.fields[column]
        name = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        groups.setdefault(name, []).append(output.stats)
    metrics = [METRICS[name] for name in outputs[0].stats]
    return {name: {m: vars(one) for m, one in score_all(metrics, some, seed).items()} for name, some in groups.items()}


# -- files ------------------------------------------------------------------------------------------------------


def refuse(directory: Path) -> None:
    """Raises FileExistsError where there is something already."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists already: name a new directory for the results")


def save(directory: Path, found: Mapping[str, Any], outputs: Sequence[Output]) -> None:
    """Write both files, or neither."""
    with replacing(directory) as work:
        rows = [json.dumps(row(output), ensure_ascii=False) + "\n" for output in outputs]
        (work / OUTPUTS).write_text("".join(rows), encoding="utf-8")
        (work / RESULT).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def row(output: Output) -> dict[str, Any]:
    """One line of outputs.jsonl: the answer, its statistics, and what they are worth alone."""
    alone = {name: float(METRICS[name].value(stats)) for name, stats in output.stats.items()}
    stats = {name: stats.tolist() for name, stats in output.stats.items()}
    return vars(output) | {"scores": alone, "stats": stats}


def is_saved(directory: Path) -> bool:
    return (directory / RESULT).is_file()


def read_saved(directory: Path) -> Saved:
    """Raises ValueError for what is no result of a task, FileNotFoundError where its outputs are missing."""
    said, path = read_json(directory / RESULT), directory / OUTPUTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a comparison needs every answer of the saved results")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        outputs = [Output(**{key: value for key, value in row.items() if key != "scores"}) for row in rows]
        arrays = [{name: np.array(values, np.float64) for name, values in output.stats.items()} for output in outputs]
        scores = {name: Interval(**one) for name, one in said["scores"].items()}
        return Saved(
            str(said["model"]),
            [Output(**vars(output) | {"stats": stats}) for output, stats in zip(outputs, arrays, strict=True)],
            scores,
            str(said["data"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{directory} holds no results of a task as this program writes them: {error}") from error


# -- what is shown ----------------------------------------------------------------------------------------------


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The result as text."""
    if "scores" not in found:
        yield from plan_lines(found)
        return
    yield heading(found)
    metric = found["metric"]
    beams = f", {found['beams']} beams" if found.get("beams", 1) > 1 else ""  # and not the same model without
    table = [(found["model"] + beams, told(found["scores"][metric]))]
    other = found.get("against")
    if other:
        table.append((other["model"], told(other["scores"][metric])))
    table += [(name, told(scores[metric])) for name, scores in found.get("baselines", {}).items()]
    yield from aligned(table)
    if other:
        yield f"  difference {apart(other['difference'][metric])}"
    rest = [name for name in found["scores"] if name != metric]
    if rest:
        yield "also"
        yield from aligned([(name, *companions(found, name)) for name in rest])
    yield from by_lines(found)
    if "by_position" in found:
        yield "nats per token by position in a row"
        rows = [
            (f"{one['first']}-{one['last']}", f"{one['tokens']:,} tokens", told(one)) for one in found["by_position"]
        ]
        yield from aligned(rows)
    yield f"{found['tokens']:,} tokens in {found['seconds']:.1f} s"
    for one in found.get("shown", ()):
        yield from side_by_side(one)


def heading(found: Mapping[str, Any]) -> str:
    if "text" in found:
        return f"{found['metric']} of {', '.join(found['text'])} ({found['n']} documents), with 95% intervals"
    of = f"{found['metric']} on {found['n']} examples of {found['task']}/{found['part']}"
    return f"{of}, {shots_said(found)}, with 95% intervals"


def shots_said(found: Mapping[str, Any]) -> str:
    """How many the prompts had, which may be fewer than were asked for: `2.4 of 4 shots on average by seed`."""
    asked, lost = found["shots"], found["dropped"]
    if not asked or lost == asked * found["n"]:
        return f"no shots, since none of {asked} fit" if asked else "no shots"
    some = (
        f"{asked - lost / found['n']:.3g} of {asked} shots on average" if lost else f"{asked} shot{'s' * (asked > 1)}"
    )
    return f"{some} by {found['choose']}"


def companions(found: Mapping[str, Any], name: str) -> Iterator[str]:
    yield told(found["scores"][name])
    other = found.get("against")
    if other and name in other["difference"]:
        yield f"{told(other['scores'][name])}   {apart(other['difference'][name])}"


def by_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value of the column of `--by`: how many examples have it, the score, and the other model's."""
    if "by" not in found:
        return
    metric, own, theirs = found["metric"], found["by"]["scores"], found.get("against", {}).get("by")
    yield f"{metric} by {found['by']['column']}"
    both = [own, theirs] if theirs else [own]
    yield from aligned(
        [(value, f"n = {own[value][metric]['n']}", *(told(one[value][metric]) for one in both)) for value in own]
    )


def told(one: Mapping[str, Any]) -> str:
    """`0.412 [0.401, 0.423]`."""
    return f"{number(one['value'])} [{number(one['low'])}, {number(one['high'])}]"


def apart(one: Mapping[str, Any]) -> str:
    p = "p < 0.001" if one["p"] < 0.001 else f"p = {one['p']:.3f}"
    return f"{number(one['value'], '+')} [{number(one['low'], '+')}, {number(one['high'], '+')}], {p}"


def number(value: float, sign: str = "") -> str:
    """Three digits behind the point below 10, fewer above."""
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:{sign}.{digits}f}" if math.isfinite(value) else str(value)


def aligned(table: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def side_by_side(one: Mapping[str, Any]) -> Iterator[str]:
    """An example's prompt, its end at least, and under it what is right and what was answered."""
    yield f"--- {one['id']}"
    yield end_of(one["prompt"])
    for name in ("reference", "answer", "other"):
        if name in one:
            text = one[name] if isinstance(one[name], str) else " ".join(one[name])
            yield f"{name + ':':<11}{text if len(text) <= WIDTH else text[: WIDTH - 1] + '…'}"


def end_of(text: str) -> str:
    return text if len(text) <= WIDTH else "…" + text[1 - WIDTH :]


def plan_lines(found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if name == "tokens":
            yield "prompts: " + ", ".join(f"{what} {size:,} tokens" for what, size in value.items())
        elif name != "shown" and value is not None:
            yield f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
    for one in found.get("shown", ()):
        yield f"--- {one['id']}\n{one['prompt']}"
