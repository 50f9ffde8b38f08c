"""A tuning run in a few lines: what it learns from, its plan before, and what came of it after."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from modelwright.plan.memory import Precision
from modelwright.plan.size import parse_time
from modelwright.recipes.preflight import Preflight, Sample
from modelwright.recipes.ready import Ready
from modelwright.recipes.tuning import Plan, Tune
from modelwright.recipes.watch import Screen, duration, thousands

FOREIGN = "that is the default text, foreign to a model which was not pretrained on it: name its own with --general"


def coloured(found: Sample) -> Text:
    """For a terminal: what carries loss bold and green, the rest dim."""
    text = Text(f"{found.name}\n", style="bold")
    for piece, learned in found.pieces:
        text.append(piece, style="bold green" if learned else "dim")
    return text


def show_samples(screen: Screen, looked: Preflight) -> None:
    screen.say("training rows as they are read; what is bold and green carries loss")
    for found in looked.samples:
        screen.console.print(coloured(found), "", sep="\n", soft_wrap=True)


def show(screen: Screen, args: Tune, ready: Ready, found: Plan, looked: Preflight, precision: Precision) -> None:
    counts = ", ".join(f"{part} {len(examples):,}" for part, examples in ready.parts.items())
    width = f"{found.length}" + (f" from {found.source}" if found.source else "")
    screen.table(
        "the plan",
        {
            "task": f"{ready.task.name}, {ready.task.kind}: {counts} examples",
            "model": f"{args.model}: {ready.lm.model.cfg.shape}, {thousands(found.parameters)} parameters; "
            f"{thousands(found.learning)} learn ({args.method})",
            "rows": f"{thousands(looked.tokens)} tokens, of which {looked.learned / looked.tokens:.1%} carry loss; "
            f"{found.rows} rows of {width} in a step"
            + (f" in {found.accumulate} parts" if found.accumulate > 1 else ""),
            "steps": f"{found.steps:,} at rate {found.rate:.2g}"
            + (f", matrices {found.matrix_rate:.2g}," if found.matrix_rate else "")
            + f" in {precision}, warm-up {found.warmup}",
            "time": f"{duration(found.seconds)}, and up to {duration(found.answering)} to answer the select part",
            "memory": f"{found.memory / 2**20:,.0f} MiB beside the program's own",
        },
    )
    if args.time and (whole := found.seconds + found.answering) > parse_time(args.time):
        screen.warn(
            f"this may take {duration(whole)}, longer than --time {args.time}: half of that at least is for learning, "
            "and one step is the least; fewer --tests or a smaller --select shorten the answering"
        )


def finished(screen: Screen, came: dict[str, Any]) -> None:
    predicted, actual = came["predicted"], came["actual"]
    planned = duration(predicted["seconds"] + predicted["answering"])
    screen.table(
        "done",
        {
            "time": f"{duration(actual['seconds'])} (planned {planned})",
            "memory": f"{actual['peak_memory'] / 2**20:,.0f} MiB in all (planned {predicted['memory'] / 2**20:,.0f} "
            "beside the program's own)",
            "select part": chosen(actual),
            "forgetting": forgotten(came["forgetting"]),
            "model": came["model"],
        },
    )


def chosen(actual: dict[str, Any]) -> str:
    name = next((name.removeprefix("select_") for name in actual if name.startswith("select_")), None)
    if name is None:
        return "there is none: the last moment is kept"
    return f"{name} {actual['best']:.3f} at step {actual['best_step']}, the best moment, which is kept"


def forgotten(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not measured: the base has a head over labels, and no loss on text"
    grown = found["difference"]
    said = f"{grown['value']:+.3f} nats a token on {found['text']} ({grown['low']:+.3f} to {grown['high']:+.3f})"
    return said + (f"; {FOREIGN}" if found["default"] else "")
