"""Pictures of what run.sh measured: python plot.py RUNS DOCS, for each part that is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modelwright.adapt.open import open_model

COLOURS = {"llama": "#1b6ca8", "lstm": "#c8553d", "dense": "#1b6ca8", "switch": "#c8553d"}
COLOURS |= {"causal": "#1b6ca8", "masked": "#6a994e", "span": "#c8553d"}
NAMES = {"llama": "Transformer", "lstm": "LSTM", "dense": "dense", "switch": "Switch, 8 experts"}
NAMES |= {"causal": "decoder", "masked": "encoder", "span": "encoder-decoder"}
TASKS = {
    "sst2": "sentiment\naccuracy",
    "wnut17": "entities\nF1",
    "dialogsum": "summaries\nROUGE-1",
    "xquad": "answers, articles\nF1",
    "desk": "answers, desk\nF1",
}


def figure(columns: int, width: float = 7.0) -> tuple[Figure, Any]:
    found = Figure(figsize=(width, 3.4), layout="constrained")
    FigureCanvasAgg(found)
    axes = found.subplots(1, columns, squeeze=False)[0]
    for at in axes:
        at.spines[["top", "right"]].set_visible(False)
    return found, axes


def whiskers(score: dict[str, Any]) -> list[list[float]]:
    return [[score["value"] - score["low"]], [score["high"] - score["value"]]]


def before(runs: Path, docs: Path) -> None:
    """Nats a token by how many tokens stood before."""
    found, axes = figure(2, 8.5)
    for at, (text, title) in zip(axes, {"long": "articles", "desk": "the support desk"}.items(), strict=True):
        for name in ("llama", "lstm"):
            said = json.loads((runs / f"before/{text}/{name}/positions/result.json").read_text())["by_position"]
            x = [max(1, bucket["first"]) for bucket in said]
            at.plot(x, [bucket["value"] for bucket in said], "o-", color=COLOURS[name], label=NAMES[name])
            low, high = ([bucket[end] for bucket in said] for end in ("low", "high"))
            at.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        at.set_xscale("log", base=2)
        at.set(title=title, xlabel="tokens read before, at least")
    axes[0].set_ylabel("nats a token")
    axes[0].legend(frameon=False)
    found.savefig(docs / "positions.svg")


def objectives(runs: Path, docs: Path) -> None:
    """Each task's own measure, for the three; a broken line is the best that takes no model."""
    found, axes = figure(len(TASKS), 10)
    order = ("masked", "causal", "span")
    for at, (task, title) in zip(axes, TASKS.items(), strict=True):
        for x, name in enumerate(order):
            path = runs / f"objectives/{name}-{task}/test/result.json"
            if not path.exists():
                at.text(x, 0.02, "none", ha="center", color="0.5")
                continue
            said = json.loads(path.read_text())
            score = said["scores"][said["metric"]]
            at.bar(x, score["value"], color=COLOURS[name], yerr=whiskers(score), ecolor="0.3")
        trivial = {name: scores[said["metric"]]["value"] for name, scores in said["baselines"].items()}
        best = max(trivial, key=lambda name: trivial[name])
        at.axhline(trivial[best], color="0.4", linestyle="--", linewidth=1)
        at.text(2.5, trivial[best] + 0.015, best, ha="right", color="0.4", fontsize=8)
        at.set(title=title, xticks=range(3), xlim=(-0.6, 2.6), ylim=(0, 1))
        at.set_xticklabels([NAMES[name] for name in order], rotation=35, ha="right")
    found.savefig(docs / "objectives.svg")


@torch.no_grad()
def loads(directory: Path, text: Path) -> list[list[float]]:
    """For each layer with experts the share of the tokens that pass each of them, over documents of a text."""
    lm = open_model(directory)
    model, shares = lm.model.eval(), []
    for line in text.read_text("utf-8").splitlines()[:200]:
        tokens = torch.tensor([lm.tokenizer.encode(json.loads(line)["text"])[: model.cfg.context]])
        traffic: list[Any] = []
        model.hidden(tokens, traffic=traffic)
        shares.append(torch.stack([layer.share for layer in traffic]) * tokens.size(1))  # (layers, E)
    total = torch.stack(shares).sum(0)
    return (total / total.sum(1, keepdim=True)).tolist()


def experts(runs: Path, docs: Path) -> None:
    """The loss by steps; how busy the busiest expert was, and what was dropped; and who passes which at the end."""
    found, (loss, busy, share) = figure(3, 10)
    for name in ("dense", "switch"):
        lines = (runs / f"experts/{name}/metrics.jsonl").read_text().splitlines()
        said = [json.loads(line) for line in lines]
        tested = [one for one in said if "held_out_loss" in one]
        x = [one["step"] for one in tested]
        loss.plot(x, [one["held_out_loss"] for one in tested], "o-", color=COLOURS[name], label=NAMES[name])
    x = [one["step"] for one in said]
    busy.plot(x, [one["load"] for one in said], color="#c8553d", label="busiest expert, in even shares")
    busy.plot(x, [10 * one["dropped"] for one in said], color="0.5", label="dropped tokens, in tenths")
    for layer, row in enumerate(loads(runs / "experts/switch/model", runs / "text/test.jsonl")):
        x = [e + 0.4 * layer for e in range(len(row))]
        share.bar(x, row, width=0.4, label=f"layer {2 * layer + 1}")
    loss.set(xlabel="step", ylabel="nats a token, held out")
    busy.set(xlabel="step", ylim=(0, None))
    share.axhline(1 / len(row), color="0.4", linestyle="--", linewidth=1)
    share.set(xlabel="expert", ylabel="share of the test tokens", xticks=[e + 0.2 for e in range(len(row))])
    share.set_xticklabels([str(e) for e in range(len(row))])
    for at in (loss, busy, share):
        at.legend(frameon=False, fontsize=8)
    share.set_ylim(0, 1.25 * max(patch.get_height() for patch in share.patches))
    found.savefig(docs / "experts.svg")


def main() -> None:
    runs, docs = map(Path, sys.argv[1:3])
    for name, draw in (("before", before), ("objectives", objectives), ("experts", experts)):
        if (runs / name).exists():
            draw(runs, docs)


main()
