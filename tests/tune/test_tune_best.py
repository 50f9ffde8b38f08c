"""The best moment of a tuning run: how it is found, kept and gone back to."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modelwright import cli
from modelwright.adapt.open import open_model
from modelwright.data.task import prepare, read_task
from modelwright.evaluate import statistics
from modelwright.evaluate.metrics import METRICS
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import measure
from modelwright.recipes.best import Best, better, spread
from modelwright.recipes.evaluate import prompter_of
from modelwright.recipes.ready import get_ready, rows_of
from modelwright.recipes.tune import best_of
from modelwright.recipes.tuning import Tune
from tasks import task_in
from tuned import came, losses, stopped, weights


def test_the_best_moment_is_kept_and_of_equals_the_earlier(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = iter([0.5, 0.9, 0.7, 0.9])
    monkeypatch.setattr(Best, "seconds", lambda self: 0.0)
    monkeypatch.setattr(Best, "_score", lambda self, examples: (next(scores),))
    task = task_in(tmp_path)
    assert cli.main(words("decoder", task, "--steps", "8", "--tests", "4", output="whole")) == 0
    found = came(capsys)
    assert (found["actual"]["best"], found["actual"]["best_step"]) == (0.9, 4)
    monkeypatch.undo()
    kept = weights(tmp_path / "whole/model")
    stopped(words("decoder", task, "--steps", "8", "--tests", "4"), monkeypatch, 4)
    there = load_file(tmp_path / "run/checkpoints/step-4/model.safetensors")
    assert torch.equal(
        kept["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"], there["stack.blocks.1.ffn.up.B"]
    )


def test_a_moment_is_scored_as_it_will_be_measured(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the task's own metric alone: no interval is drawn, and no other metric asked."""
    args = Tune(model=str(models["decoder"]), task=task_in(tmp_path, metric="chrf"))
    ready = get_ready(args)
    outcome = measure(ModelScorer(ready.lm), ready.task, ready.prompter, ready.parts["select"], part="select")
    for name, metric in METRICS.items():
        if name != "chrf":
            monkeypatch.setitem(METRICS, name, replace(metric, stats=None))
    monkeypatch.setattr(statistics, "resampled", None)
    assert best_of(args, ready)._score(ready.parts["select"]) == (outcome.scores["chrf"].value,)
    assert outcome.scores["chrf"].value > 0
    assert ready.lm.model.training


def test_better_is_higher_or_lower_and_never_a_nan() -> None:
    assert better(0.6, 0.5, True)
    assert not better(0.5, 0.5, True)
    assert not better(math.nan, 0.5, True)
    assert better(4.0, 5.0, False)
    assert not better(5.0, 5.0, False)


def test_the_select_part_is_spread_over_the_file() -> None:
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]  # type: ignore[arg-type,comparison-overlap]
    assert spread(list(range(3)), 5) == [0, 1, 2]  # type: ignore[arg-type,comparison-overlap]
    assert spread([], 5) == []


def test_without_a_select_part_the_last_moment_is_kept(
    words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_in(tmp_path, sizes=(20, 0, 8, 8))
    assert cli.main(words("decoder", task, "--steps", "40", "--rate", "0.01", "--method", "full")) == 0
    found = came(capsys)
    assert "best" not in found["actual"]
    lm = open_model(found["model"])
    total, count = 0.0, 0
    loaded, parts = prepare(read_task(task))
    for row in rows_of(prompter_of(loaded, lm), parts["train"]):
        tokens, targets, weight = (torch.tensor(part)[None] for part in (row.tokens, row.targets, row.weight))
        total -= float((lm.model(tokens, targets) * weight).sum().detach())
        count += int(weight.sum())
    assert total / count < 0.5 * losses(tmp_path / "run")[0]
