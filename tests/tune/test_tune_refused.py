"""What tuning refuses: one sentence each, and nothing left behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from modelwright import cli
from modelwright.losses.language import language_model
from modelwright.recipes import ready, tune
from modelwright.recipes.preflight import Unfit
from modelwright.recipes.tuning import Tune
from modelwright.recipes.watch import Screen
from tasks import task_in


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--methd", "lora"], "perhaps you meant --method"),
        (["--optimizer", "muon"], "--optimizer muon is for --method full: lora learns by adamw"),
        (["--method", "full", "--matrix-rate", "0.01"], "--matrix-rate is Muon's: add --optimizer muon"),
        (["--matrix-rate", "0"], "--matrix-rate must be above 0, not 0"),
        (["--rank", "0"], "--rank must be above 0, not 0"),
        (["--overlap", "2"], "--overlap must be a share from 0 to 1, not 2.0"),
        (["--dropout", "1"], "--dropout must be below 1"),
        (["--seed", "-1"], "--seed must be 0 or more, not -1"),
        (["--time", "soon"], "cannot read 'soon' as a time"),
        (["--targets", "q", "qq"], "LoRA knows no target 'qq'"),
        (["--general", "nowhere.txt"], "nowhere.txt"),
        (["--method", "prompt", "--tokens", "60"], "a soft prompt of 60 tokens leaves no room in a context of 48"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    more: list[str], sentence: str, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("decoder", task_in(tmp_path), *more)) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists(), "the corrected command finds a free place"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["tune"], "say which model to tune"),
        (["tune", "somewhere"], "say on which task"),
        (["tune", "--resume", "--output", "x"], "there is no run to resume in x"),
        (["tune", "--resume", "--output", "x", "--steps", "3"], "leave out --steps"),
        (["tune", "somewhere", "--task", "none.yaml", "--output", "x"], "there is no task file none.yaml"),
    ],
)
def test_a_command_that_says_too_little(
    wrong: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(wrong) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("x").exists()


def test_after_a_fault_an_empty_directory_is_empty_again(
    words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    task = task_in(tmp_path)
    good = task.read_text()
    task.write_text(good + "metric: accuracy\n")
    assert cli.main(words("decoder", task, "--steps", "2")) == 2
    assert list((tmp_path / "run").iterdir()) == []
    task.write_text(good)
    assert cli.main(words("decoder", task, "--steps", "2")) == 0
    capsys.readouterr()
    assert cli.main(words("decoder", task, "--dry-run")) == 0, "beside a run that lies there: nothing is written"


@pytest.mark.parametrize(("name", "sentence"), [("plan.json", "holds a run already"), ("thesis.md", "is not empty")])
def test_what_is_there_is_never_overwritten(
    name: str, sentence: str, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("{}")
    assert cli.main(words("decoder", task_in(tmp_path))) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


@pytest.mark.parametrize(
    ("shape", "kind", "sentence"),
    [("decoder", "tag", "a model that tags words is an encoder, and this one is a decoder"),
     ("encoder", "generate", "an encoder cannot generate: it classifies or tags, or answers out of")],
)  # fmt: skip
def test_a_task_that_the_model_cannot_do(
    shape: str, kind: str, sentence: str, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(shape, task_in(tmp_path, kind))) == 2
    assert sentence in capsys.readouterr().err


def test_a_metric_that_does_not_fit_and_a_fault_of_the_preflight(
    words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("decoder", task_in(tmp_path, metric="accuracy", sizes=(9, 0, 8, 8)))) == 2
    assert "accuracy" in capsys.readouterr().err
    for more in ([], ["--dry-run"]):
        assert (
            cli.main(words("decoder", task_in(tmp_path, prompt="{{ source }} ", completion="{{ target }}"), *more)) == 2
        )
        assert "end the prompt where a token ends" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "method", "said", "raised"),
    [
        ({"prompt": "{{ source }} ", "completion": "{{ target }}"}, "lora", "end the prompt where a token ends", Unfit),
        ({}, "prompt", "a soft prompt of 60 tokens leaves no room", Unfit),
        ({"decoding": {"max_new": 47}}, "full", "are too long for the context", Unfit),
        ({"decoding": {"max_new": 48}}, "full", "has no room for decoding.max_new of 48", Unfit),
        ({"prompt": "{{ topic }}"}, "lora", "asks for 'topic'", ValueError),
        ({"metric": "mentions"}, "lora", "needs a column `required`", ValueError),
    ],
)
def test_a_fault_is_of_the_data_alone_or_of_the_rows_that_a_model_and_a_method_make(
    more: dict[str, Any], method: Any, said: str, raised: type[ValueError], models: dict[str, Path], tmp_path: Path
) -> None:
    task = task_in(tmp_path, **more)
    args = Tune(model=str(models["decoder"]), task=task, method=method, dry_run=True, tokens=60)
    with pytest.raises(ValueError, match=said) as found:
        tune.tune(args, Screen(quiet=True))
    assert type(found.value) is raised


def test_a_fault_of_the_data_is_told_before_a_model_is_opened(tmp_path: Path) -> None:
    args = Tune(model="nowhere", task=task_in(tmp_path, metric="accuracy"), output=tmp_path / "run")
    with pytest.raises(ValueError, match="'accuracy' does not fit a task of kind generate"):
        tune.tune(args, Screen(quiet=True))


def test_an_adapter_is_no_model_to_tune(
    words: Any, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_in(tmp_path)
    assert cli.main(words("decoder", task, "--steps", "1", output="one")) == 0
    models["adapter"] = tmp_path / "one/model"
    assert cli.main(words("adapter", task, "--steps", "1", output="two")) == 2
    assert "is an adapter: merge it first" in capsys.readouterr().err


def test_a_label_unseen_in_training(words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = task_in(tmp_path, "classify")
    with (tmp_path / "select.jsonl").open("a") as file:
        file.write(json.dumps({"text": "the new lake", "label": "lake"}) + "\n")
    assert cli.main(words("encoder", task)) == 2
    assert "select has the label 'lake', unseen in training" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_the_run_in_one_sentence(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(model: Any, batch: Any) -> Any:
        terms, metrics = language_model(model, batch)
        total, weight, coefficient = terms["loss"]
        return {"loss": (total * math.nan, weight, coefficient)}, metrics

    monkeypatch.setattr(ready, "language_model", broken)
    assert cli.main(words("decoder", task_in(tmp_path), "--steps", "30")) == 2
    told = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert "10 steps in a row had no finite loss" in told
    assert "begin anew with a lower --rate" in told
