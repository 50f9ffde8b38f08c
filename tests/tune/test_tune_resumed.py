"""A tuning run that was stopped, and goes on to the bit; or is refused to."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from modelwright import cli
from modelwright.project.steps import finished
from modelwright.recipes import tune
from tasks import model_in, task_in
from tuned import came, losses, resume, same, stopped, weights

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("method", "at"),
    [("full", 5), ("lora", 6), ("prompt", 9), *(pytest.param(method, at, marks=SLOW) for method, at in
     [("full --optimizer muon", 5), ("full", 6), ("full", 9), ("lora", 5), ("lora", 9), ("prompt", 5), ("prompt", 6)])],
)  # fmt: skip
def test_stopped_and_resumed_is_uninterrupted_to_the_bit(
    method: str,
    at: int,
    words: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = task_in(tmp_path)
    more = ["--method", *method.split(), "--dropout", "0.1", "--steps", "12", "--tests", "4", "--select", "4"]
    assert cli.main(words("decoder", task, *more, output="whole")) == 0
    whole = came(capsys)
    stopped(words("decoder", task, *more, output="parts"), monkeypatch, at)
    monkeypatch.setattr(tune, "timed", None)  # what was timed once is not timed again
    assert resume(tmp_path / "parts") == 0
    parts = came(capsys)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same(weights(tmp_path / "parts/model"), weights(tmp_path / "whole/model"))
    for name in ("best", "best_step", "select_rougeL", "loss"):
        assert parts["actual"][name] == whole["actual"][name]
    assert parts["forgetting"] == whole["forgetting"]
    assert not (tmp_path / "parts/checkpoints").exists()


def test_a_run_that_was_killed_before_it_began_is_taken_over(words: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").touch()  # which a signal that cannot be caught leaves
    assert resume(tmp_path / "run") == 2, "there is nothing to go on with"
    assert cli.main(words("decoder", task_in(tmp_path), "--steps", "4")) == 0
    assert (tmp_path / "run/model").is_dir()


def test_a_run_that_was_killed_before_its_first_checkpoint_resumes_from_its_first_step(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(words("decoder", task_in(tmp_path), "--steps", "4"), monkeypatch, 2)
    shutil.rmtree(tmp_path / "run/checkpoints")
    assert resume(tmp_path / "run") == 0
    assert len(losses(tmp_path / "run")) == 4


def test_a_checkpoint_of_a_lora_is_what_learns_alone(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(words("decoder", task_in(tmp_path), "--steps", "4"), monkeypatch, 2, signal.SIGTERM)
    kept = load_file(tmp_path / "run/checkpoints/step-2/model.safetensors")
    assert {name.rpartition(".")[2] for name in kept} == {"A", "B"}
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step-*")) == ["step-2"]


def test_a_run_that_ends_between_its_last_step_and_its_model_resumes(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*rest: Any) -> None:
        raise KeyboardInterrupt

    task = task_in(tmp_path)
    assert cli.main(words("decoder", task, "--steps", "4", output="whole")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(tune, "keep", interrupted)
        assert cli.main(words("decoder", task, "--steps", "4")) == 130
    assert resume(tmp_path / "run") == 0
    assert same(weights(tmp_path / "run/model"), weights(tmp_path / "whole/model"))
    assert resume(tmp_path / "run") == 2
    assert "is finished" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_ends_beside_the_writing_of_its_model_is_not_made_again(
    moment: str, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came of it is written first: either the model is missing, and resuming writes it, or all is there."""

    def interrupted(*rest: Any) -> None:
        write(*rest) if moment == "after" else None
        raise KeyboardInterrupt

    write = tune.write
    with monkeypatch.context() as patch:
        patch.setattr(tune, "write", interrupted)
        assert cli.main(words("decoder", task_in(tmp_path), "--steps", "4")) == 130
    told = json.loads((tmp_path / "run/plan.json").read_text())["actual"]
    if moment == "before":
        monkeypatch.setattr(tune, "timed", None)
        assert resume(tmp_path / "run") == 0
    found = finished(tmp_path / "run")
    assert found is not None
    assert found["actual"]["best"] == told["best"]
    assert (tmp_path / "run/model").is_dir()


CHANGES = [
    ("train.jsonl", lambda text: text.partition("\n")[2], "the train part"),
    ("test.jsonl", lambda text: text.replace(" sea ", " SEA "), "the test part"),
    ("select.jsonl", lambda text: text.replace("the ", "the  ", 1), "the select part"),
    ("task.yaml", lambda text: text + "instruction: Answer.\n", "the task's prompts"),
    ("task.yaml", lambda text: text + "metric: exact_match\n", "the metric"),
]


def test_a_plan_from_before_muon_is_read(words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(words("decoder", task_in(tmp_path), "--steps", "4"), monkeypatch, 2)
    path = tmp_path / "run/plan.json"
    kept = json.loads(path.read_text())
    del kept["predicted"]["matrix_rate"]
    path.write_text(json.dumps(kept))
    assert resume(tmp_path / "run") == 0


@pytest.mark.parametrize(("name", "change", "what"), CHANGES)
def test_inputs_that_changed_since_the_run_began_are_refused(
    name: str, change: Callable[[str], str], what: str, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stopped(words("decoder", task_in(tmp_path), "--steps", "4"), monkeypatch, 2)
    path = tmp_path / name
    path.write_text(change(path.read_text()))
    capsys.readouterr()
    assert resume(tmp_path / "run") == 2
    told = json.loads(capsys.readouterr().err)["error"]
    assert told.startswith(f"{what} changed since the run in {tmp_path / 'run'} began: put back")


def test_labels_in_another_order_are_refused(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head of four labels would be saved with their names in the other order."""
    path = task_in(tmp_path, "classify", labels=["cat", "mat", "birds", "town"])
    stopped(words("encoder", path, "--method", "full", "--steps", "4"), monkeypatch, 2)
    path.write_text(path.read_text().replace("- cat\n- mat\n", "- mat\n- cat\n"))
    capsys.readouterr()
    assert resume(tmp_path / "run") == 2
    assert "the labels or their order changed since the run" in capsys.readouterr().err


def test_a_model_that_changed_since_the_run_began_is_refused(
    general: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_in(tmp_path / "model", "decoder")
    command = ["tune", str(model), "--task", str(task_in(tmp_path)), "--output", str(tmp_path / "run"), "--steps", "4"]
    stopped([*command, "--general", str(general), "--json"], monkeypatch, 2)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    assert resume(tmp_path / "run") == 2
    assert "the model changed since the run" in capsys.readouterr().err
