"""A pretraining run in a few lines: its plan before, and what came of it after."""

from __future__ import annotations

from typing import Any

from modelwright.data.pack import Objective
from modelwright.data.shards import Shards
from modelwright.plan.memory import Precision
from modelwright.plan.size import Plan
from modelwright.recipes.watch import Screen, duration, thousands

EXAMPLES: dict[Objective, str] = {
    "causal": "...",
    "masked": "... [MASK] ...",
    "span": "... <extra_id_0> ...",
    "denoise": "... <mask> ...",
}


def show(
    screen: Screen,
    found: Plan,
    shards: Shards,
    precision: Precision,
    peak: float,
    begun: str | None,
    head: int | None,
) -> None:
    c = found.config
    active = "" if found.active == found.parameters else f", {thousands(found.active)} of them active"
    shape = f"{'LSTM' if c.recurrent else c.shape}, {thousands(found.parameters)} parameters{active}: width {c.width}, "
    shape += f"{c.layers} layers" + ("" if c.recurrent else f", {c.heads} heads, feed-forward {c.ffn}")
    read_rows = f"{found.length}" + (f" from {found.source}" if found.source else "")
    screen.table(
        "the plan",
        {
            "model": f"{shape}, vocabulary {c.vocab:,}" + (f"; on from {begun}" if begun else ""),
            "text": f"{thousands(shards.tokens)} tokens in {shards.documents:,} documents "
            f"({shards.bytes / 1e6:,.1f} MB, {shards.bytes / shards.tokens:.2f} bytes a token)"
            + (f", of the first {head / 1e6:.0f} MB at most" if head else ""),
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


def finished(screen: Screen, came: dict[str, Any], objective: Objective) -> None:
    predicted, actual = came["predicted"], came["actual"]
    lines = {
        "time": f"{duration(actual['seconds'])} (planned {duration(predicted['seconds'])})",
        "memory": f"{actual['peak_memory'] / 2**20:,.0f} MiB in all (planned "
        f"{sum(predicted['memory'].values()) / 2**20:,.0f} beside the program's own)",
        "held-out loss": f"{actual['held_out_loss']:.3f} nats a predicted token"
        + (f" ({came['begun']['held_out_loss']:.3f} before)" if "begun" in came else ""),
        "model": came["model"],
    }
    if "held_out_bits_per_byte" in actual:
        lines["bits per byte"] = f"{actual['held_out_bits_per_byte']:.3f}"
    screen.table("done", lines)
    screen.say(f'try: modelwright generate {came["model"]} "{EXAMPLES[objective]}"')
