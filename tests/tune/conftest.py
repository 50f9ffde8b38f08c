"""Models, general text and the words of a command, for whatever is tuned here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.recipes import pretrain
from tasks import TEXTS, model_in

SHAPES = ("decoder", "encoder", "encoder-decoder")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {shape: model_in(tmp_path_factory.mktemp("models") / shape, shape) for shape in SHAPES}


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("general") / "general.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS[:12], " ".join(TEXTS[:20])]))
    return path


@pytest.fixture(autouse=True)
def other_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run does not seed itself would show. And nobody waits for the machine's peak."""
    torch.manual_seed(99)
    monkeypatch.setattr(pretrain, "measure_peak", lambda dtype: 1e9)


@pytest.fixture
def words(models: dict[str, Path], general: Path, tmp_path: Path) -> Any:
    """The words of a command."""

    def made(shape: str, task: Path, *more: str, output: str = "run") -> list[str]:
        common = ["--general", str(general), "--precision", "fp32", "--dropout", "0", "--json"]
        common = common[:-3] + common[-1:] if "--dropout" in more else common
        common += [] if "--tests" in more else ["--tests", "1"]
        return ["tune", str(models[shape]), "--task", str(task), "--output", str(tmp_path / output), *common, *more]

    return made
