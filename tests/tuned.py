"""What a tuning run left, and how one is stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modelwright import cli
from modelwright.recipes.watch import Watch


def came(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(model: Path) -> dict[str, Tensor]:
    return load_file(next(model.glob("*model.safetensors")))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stopped(command: list[str], monkeypatch: pytest.MonkeyPatch, at: int, by: signal.Signals = signal.SIGINT) -> None:
    """The command, which a signal stops at a step."""
    step = Watch.step

    def and_stop(self: Watch, done: int, metrics: dict[str, Any]) -> None:
        step(self, done, metrics)
        if done == at:
            os.kill(os.getpid(), by)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "step", and_stop)
        assert cli.main(command) == 128 + by


def resume(run: Path) -> int:
    return cli.main(["tune", "--resume", "--output", str(run), "--json"])
