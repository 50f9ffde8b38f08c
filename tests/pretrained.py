"""A small text, the command that pretrains a tiny model on it, and a signal that stops it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelwright.data import desk
from modelwright.recipes.watch import Watch

KINDS = {"causal": "bpe", "masked": "wordpiece", "span": "unigram", "denoise": "bpe"}


def write_corpus(directory: Path) -> Path:
    path = directory / "desk.jsonl"
    path.write_text("".join(json.dumps({"text": d.text}) + "\n" for d in desk.documents(0, count=300)))
    return path


def command(corpus: Path, output: Path, objective: str = "causal", *more: str) -> list[str]:
    by_hand = "--width 32 --layers 2 --heads 2 --context 64 --batch 512 --steps 12 --vocab 600 --json"
    return ["pretrain", str(corpus), "--objective", objective, "--output", str(output), *by_hand.split(), *more]


def stopping_at(last: int) -> Callable[[Watch, int, dict[str, Any]], None]:
    step = Watch.step

    def and_stop(self: Watch, done: int, metrics: dict[str, Any]) -> None:
        step(self, done, metrics)
        if done == last:
            os.kill(os.getpid(), signal.SIGTERM)

    return and_stop
