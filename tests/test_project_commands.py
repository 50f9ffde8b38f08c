"""init, run and report: what a user types, what is left behind, and what happens when it is interrupted or spoiled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from modelwright import cli
from modelwright.data.kind import Kind
from modelwright.data.task import prepare
from modelwright.project import resident, steps
from modelwright.project.ladder import BASE, Cost, Entry
from modelwright.project.resolve import resolved
from modelwright.project.spec import read_project
from modelwright.project.view import View, line, table
from modelwright.recipes.run import alone_in
from modelwright.train.interrupt import Interrupted

ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = {
    "name": "tiny",
    "task": {
        "kind": "answer",
        "columns": {"question": "text", "answer": "label"},
        "prompt": "{{ question }}",
        "data": {part: f"{part}.jsonl" for part in ("train", "select", "decide", "test")},
        "decoding": {"max_new": 4},
    },
    "metric": "exact_match",
    "target": 0.9,
    "base": {"data": "text.txt", "separator": "\n", "width": 32, "layers": 1, "context": 48, "steps": 8, "vocab": 300,
             "batch": 480},
    "ladder": ["trivial", "zero-shot", "few-shot", "lora", "full"],
    "shots": 2,
    "tune": {"steps": 80, "tests": 2, "general": ["text.txt"], "full": {"rate": 0.004}, "lora": {"steps": 2}},
    "curve": [],
}  # fmt: skip
COLOURS = ("red", "blue")


def rows(count: int, start: int) -> list[dict[str, str]]:
    """Which colour is it? The last word says it, so that a model of one layer learns it at once."""
    things = ("lamp", "boat", "hat", "car", "desk", "cup", "bag")
    return [
        {"text": f"number {i}, a {things[i % 7]} in {COLOURS[(i * 7 // 3) % 2]}", "label": COLOURS[(i * 7 // 3) % 2]}
        for i in range(start, start + count)
    ]


def write_project(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, (count, start) in {"train": (64, 0), "select": (16, 100), "decide": (60, 200), "test": (40, 300)}.items():
        said = "".join(json.dumps(row) + "\n" for row in rows(count, start))
        (folder / f"{part}.jsonl").write_text(said)
    (folder / "text.txt").write_text("\n".join(f"{row['text']}, so it is {row['label']}" for row in rows(300, 1000)))
    (folder / "project.yaml").write_text(yaml.safe_dump(TINY | changes))
    return folder / "project.yaml"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project and its finished run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("tiny")
    assert cli.main(["run", str(write_project(folder)), "--output", str(folder / "run"), "--json"]) == 0
    return folder


@pytest.fixture
def copy(ran: Path, tmp_path: Path) -> Path:
    """The same in a place of its own: what is found there is found by content, and not by path."""
    shutil.copytree(ran, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the recipes that are called, in order."""
    asked: list[str] = []
    for name in ("pretrain_base", "tune_rung", "measure_rung", "measure_baseline", "plan_rung"):
        real = getattr(steps, name)

        def noted(*args: Any, name: str = name, real: Any = real, **more: Any) -> Any:
            asked.append(name)
            return real(*args, **more)

        monkeypatch.setattr(steps, name, noted)
    return asked


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


# -- run


@pytest.mark.slow
def test_it_climbs_to_the_rung_that_meets_the_target(ran: Path) -> None:
    said = report(ran / "run")
    assert said["decision"]["met"]
    assert said["decision"]["rung"] == "full"
    states = {entry["rung"]: entry["state"] for entry in said["entries"]}
    assert states == {
        "trivial": "done",
        BASE: "done",
        "zero-shot": "done",
        "few-shot": "done",
        "lora": "done",
        "full": "done",
    }
    chosen = next(entry for entry in said["entries"] if entry["chosen"])
    assert chosen["lower"] >= 0.9
    assert chosen["planned"]["seconds"] > 0
    assert chosen["latency"] > 0
    assert {row["rung"] for row in said["test"]} == {"trivial", "full"}  # the test part is opened for no other
    assert [row["rung"] for row in said["forgetting"]] == ["lora", "full"]
    assert said["comparisons"] == 4 + 1
    assert said["profile"]["parts"]["train"]["examples"] == 64
    assert (ran / "run" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_again_it_repeats_nothing_and_says_the_same(copy: Path, called: list[str]) -> None:
    before = report(copy / "run")
    assert cli.main(["run", str(copy / "project.yaml"), "--output", str(copy / "run"), "--json"]) == 0
    assert called == []
    after = report(copy / "run")
    for entry in (*before["entries"], *after["entries"]):
        entry.pop("cached")
    assert after["entries"] == before["entries"]
    assert after["test"] == before["test"]


@pytest.mark.slow
def test_a_changed_test_file_trains_nothing(copy: Path, called: list[str]) -> None:
    (copy / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(40, 400)))
    assert cli.main(["run", str(copy / "project.yaml"), "--output", str(copy / "run"), "--json"]) == 0
    assert set(called) == {"measure_baseline", "measure_rung"}
    assert called.count("measure_rung") == 1  # the choice, on the new test part


@pytest.mark.slow
def test_a_changed_setting_of_one_rung_repeats_that_rung_alone(copy: Path, called: list[str]) -> None:
    write_project(copy, tune=TINY["tune"] | {"lora": {"steps": 3}})
    assert cli.main(["run", str(copy / "project.yaml"), "--output", str(copy / "run"), "--json"]) == 0
    assert called == ["plan_rung", "tune_rung", "measure_rung"]


@pytest.mark.slow
def test_another_metric_is_measured_anew(copy: Path, called: list[str]) -> None:
    """What is kept of answers is what the metric of that time asked for."""
    write_project(copy, metric="rouge1", ladder=["zero-shot"], target=0.999, tune={})
    path = copy / "project.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("shots")))
    assert cli.main(["run", str(path), "--output", str(copy / "run"), "--json"]) in (0, 1)
    assert "measure_rung" in called
    assert "pretrain_base" not in called
    assert report(copy / "run")["entries"][-1]["rung"] == "zero-shot"


@pytest.mark.slow
def test_a_damaged_step_is_made_anew_and_said(ran: Path, called: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    weights = next((ran / "run" / "steps").glob("lora-*/run/model/adapter_model.safetensors"))
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + b"!")
    assert cli.main(["run", str(ran / "project.yaml"), "--output", str(ran / "run"), "--json"]) == 0
    assert called == ["tune_rung"]
    assert "is damaged (run/model/adapter_model.safetensors is not as it was written): it is made anew" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_replaying_run_yaml_gives_the_same_bits(ran: Path, tmp_path: Path) -> None:
    """Timings are inputs: the replay has the same plans and times, and the models are the same to the bit."""
    assert cli.main(["run", str(ran / "run" / "run.yaml"), "--output", str(tmp_path / "again"), "--json"]) == 0
    for name in (
        "base-*/run/model/model.safetensors",
        "full-*/run/model/model.safetensors",
        "lora-*/run/model/adapter_model.safetensors",
    ):
        (first,), (second,) = ((folder / "steps").glob(name) for folder in (ran / "run", tmp_path / "again"))
        assert first.read_bytes() == second.read_bytes()
    one, other = report(ran / "run"), report(tmp_path / "again")
    for entry in (*one["entries"], *other["entries"]):
        entry.pop("cached")
    assert one["entries"] == other["entries"]
    assert one["test"] == other["test"]
    assert yaml.safe_load((ran / "run" / "run.yaml").read_text()) == yaml.safe_load(
        (tmp_path / "again" / "run.yaml").read_text()
    )


@pytest.mark.slow
def test_all_measures_every_rung_and_makes_the_same_choice(copy: Path, called: list[str]) -> None:
    write_project(copy, target=0.3)  # which a trivial answer meets
    command = ["run", str(copy / "project.yaml"), "--output", str(copy / "run"), "--json"]
    assert cli.main(command) == 0
    stopped = report(copy / "run")
    assert stopped["decision"]["rung"] == "trivial"
    assert {entry["state"] for entry in stopped["entries"][1:]} <= {"spared", "done"}
    called.clear()
    assert cli.main([*command, "--climb", "all"]) == 0
    whole = report(copy / "run")
    assert whole["decision"]["sentence"] == stopped["decision"]["sentence"]
    assert whole["spared"]["sentence"].startswith("Stopping at the choice would have spared")
    assert "tune_rung" not in called
    assert {row["rung"] for row in whole["test"]} == {"trivial"}  # the choice: the test part is opened for no other
    assert len(json.loads((copy / "run" / "opened.json").read_text())) == 2  # here, and where `full` was chosen
    assert "opened for 1 other model before it" in whole["decision"]["test"]


@pytest.mark.slow
def test_a_target_that_no_rung_meets(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_project(copy, target=0.999, curve=[0.25, 0.5], ladder=["trivial", "zero-shot", "full"], shots=None,
                  tune={key: value for key, value in TINY["tune"].items() if key != "lora"})  # fmt: skip
    said = yaml.safe_load((copy / "project.yaml").read_text())
    del said["shots"]
    (copy / "project.yaml").write_text(yaml.safe_dump(said))
    assert cli.main(["run", str(copy / "project.yaml"), "--output", str(copy / "run")]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "No rung meets the target of 0.999 in exact_match: full on base came closest, with " in told
    found = report(copy / "run")
    assert found["test"] == []
    assert [n for n, _ in found["curve"]["points"]] == [16, 32, 64]
    assert found["curve"]["said"] in told


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tune_rung", "measure_rung"])
def test_stopped_in_a_step_it_says_how_to_go_on_and_does(
    copy: Path, moment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], called: list[str]
) -> None:
    real = getattr(steps, moment)

    def stopped(*args: Any, **more: Any) -> Any:
        raise Interrupted(signal.SIGTERM) if moment != "measure_rung" else KeyboardInterrupt

    shutil.rmtree(copy / "run")
    monkeypatch.setattr(steps, moment, stopped)
    command = ["run", str(copy / "project.yaml"), "--output", str(copy / "run")]
    assert cli.main(command) == (130 if moment == "measure_rung" else 143)
    assert f"what is finished is kept. Go on with: modelwright {' '.join(command)}" in " ".join(
        capsys.readouterr().err.split()
    )
    done = list(called)
    monkeypatch.setattr(steps, moment, real)
    called.clear()
    assert cli.main(command) == 0
    assert (
        not {name for name in done if name not in ("plan_rung", "measure_baseline")} & {"pretrain_base"} & set(called)
    )
    assert called.count("tune_rung") == 2 - done.count("tune_rung") or moment == "tune_rung"


@pytest.mark.slow
def test_killed_while_it_trains_it_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """kill -9 in the middle of full fine-tuning; then the same command ends, and has made each step once."""
    path = write_project(tmp_path, ladder=["full"], tune={"steps": 400, "tests": 40, "general": ["text.txt"]})
    said = yaml.safe_load(path.read_text())
    del said["shots"]
    path.write_text(yaml.safe_dump(said))
    command = [sys.executable, "-m", "modelwright.cli", "run", str(path), "--output", str(tmp_path / "run"), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        for _ in range(6000):
            found = list((tmp_path / "run" / "steps").glob("full-*/run/checkpoints/step-*"))
            if any(int(place.name.rpartition("-")[2]) > 0 for place in found) or child.poll() is not None:
                break
            signal.sigtimedwait([], 0.01)
        assert child.poll() is None
        child.kill()
    assert not (tmp_path / "run" / "report.json").exists()
    assert cli.main(["run", str(path), "--output", str(tmp_path / "run"), "--json"]) in (0, 1)
    metrics = next((tmp_path / "run" / "steps").glob("full-*/run/metrics.jsonl")).read_text()
    steps_told = [json.loads(row)["step"] for row in metrics.splitlines()]
    assert steps_told == list(range(1, 401))


# -- the parts that decide, asked again


@pytest.mark.slow
def test_an_opening_is_written_down_before_it_is_measured_and_the_same_one_once(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", str(copy / "project.yaml"), "--output", str(copy / "run"), "--json"]
    opened, compared = copy / "run" / "opened.json", copy / "run" / "compared.json"
    first = opened.read_text()
    assert len(json.loads(first)) == 1
    before = json.loads(compared.read_text())
    assert [one["share"] for one in before] == pytest.approx([0.75 / 5] * 5)
    assert cli.main(command) == 0
    assert opened.read_text() == first

    def killed(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    write_project(copy, tune=TINY["tune"] | {"full": {"rate": 0.005}})
    measured = steps.measure_rung
    monkeypatch.setattr(steps, "measure_rung", lambda m, a, *r: (measured if a.part == "decide" else killed)(m, a, *r))
    assert cli.main(command) == 130
    assert len(json.loads(opened.read_text())) == 2
    monkeypatch.undo()
    assert cli.main(command) in (0, 1)
    said = report(copy / "run")
    assert "which was opened for 1 other model before it and may have led to it" in said["decision"]["test"]
    assert said["earlier"] == 1
    assert [one["share"] for one in json.loads(compared.read_text())[5:]] == pytest.approx([0.125])


@pytest.mark.slow
def test_a_candidate_of_other_prompts_is_trained_and_not_asked(ran: Path, tmp_path: Path) -> None:
    """The model that `full` made answers as its task says; asked by other prompts, its scores would be of nothing."""
    model = next((ran / "run" / "steps").glob("full-*/run/model"))
    task = TINY["task"] | {"prompt": "Which colour? {{ question }}"}
    path = write_project(tmp_path, task=task, candidates=[str(model), "no-such"], ladder=["zero-shot", "few-shot"])
    said = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in ("base", "tune")}
    path.write_text(yaml.safe_dump(said))
    assert cli.main(["run", str(path), "--output", str(tmp_path / "run"), "--json"]) == 1
    reasons = [entry["reason"] for entry in report(tmp_path / "run")["entries"]]
    assert reasons.count("it was trained with other prompts than this task's") == 2
    assert sum(reason.startswith("it could not be opened") for reason in reasons) == 2


@pytest.mark.slow
def test_few_shots_that_do_not_fit_are_no_rung_of_their_own(ran: Path, tmp_path: Path) -> None:
    model = next((ran / "run" / "steps").glob("base-*/run/model"))
    task = TINY["task"] | {"prompt": "{{ question }} " + "and so on " * 3}
    path = write_project(tmp_path, task=task, candidates=[str(model)], ladder=["few-shot"], shots=8)
    said = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in ("base", "tune")}
    path.write_text(yaml.safe_dump(said))
    assert cli.main(["run", str(path), "--output", str(tmp_path / "run"), "--json"]) == 1
    (entry,) = report(tmp_path / "run")["entries"]
    assert (entry["state"], entry["reason"].partition(" example")[2]) == ("skipped", " fits in 48 tokens")


@pytest.mark.slow
def test_answers_that_are_too_long_for_training_leave_the_other_rungs(ran: Path, tmp_path: Path) -> None:
    """It takes the model's tokenizer to find them, and a model without training is asked all the same."""
    model = next((ran / "run" / "steps").glob("base-*/run/model"))
    task = TINY["task"] | {"decoding": {"max_new": 1}}
    path = write_project(tmp_path, task=task, candidates=[str(model)], ladder=["zero-shot", "lora", "full"])
    said = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in ("base", "shots")}
    path.write_text(yaml.safe_dump(said))
    assert cli.main(["run", str(path), "--output", str(tmp_path / "run"), "--json"]) == 1
    asked, *trained = report(tmp_path / "run")["entries"]
    assert (asked["rung"], asked["state"]) == ("zero-shot", "done")
    assert [entry["state"] for entry in trained] == ["skipped", "skipped"]
    for entry in trained:
        assert "training rows are longer than decoding.max_new, 1 tokens" in entry["reason"]
        assert "raise it, or allow it with tune.truncated" in entry["reason"]


# -- what is refused


def test_faults_of_the_data_are_told_before_a_base_is_pretrained(
    tmp_path: Path, called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_project(tmp_path)
    (tmp_path / "decide.jsonl").write_text((tmp_path / "train.jsonl").read_text())
    assert cli.main(["run", str(path), "--dry-run"]) == 2
    assert "64 of 64 inputs of decide stand in train too" in capsys.readouterr().err
    assert cli.main(["run", str(path), "--output", str(tmp_path / "run")]) == 2
    assert "64 of 64 inputs of decide stand in train too" in (told := capsys.readouterr().err)
    assert "allow it with tune.overlap 1.00" in told
    assert called == []


@pytest.mark.parametrize("change", [{"name": "other"}, {"task": {"data": {"train": "more.jsonl"}}}])
def test_another_project_in_the_same_directory_is_refused(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_project(tmp_path / "one")
    run = made(tmp_path / "run")
    (run / "run.yaml").write_text(yaml.safe_dump(resolved(read_project(first))))
    if "task" in change:
        change = {"task": TINY["task"] | change["task"]}
    second = write_project(tmp_path / "two", **change)
    (tmp_path / "two" / "more.jsonl").write_text((tmp_path / "two" / "train.jsonl").read_text())
    assert cli.main(["run", str(second), "--output", str(run)]) == 2
    told = capsys.readouterr().err
    files = "decide.jsonl, select.jsonl, test.jsonl, train.jsonl"
    assert f"holds the run of another project, tiny (answer, on {files}): name another --output" in told
    assert sorted(path.name for path in run.iterdir() if not path.name.startswith(".")) == ["run.yaml"]


def test_memory_of_a_step_is_not_that_of_steps_before_it() -> None:
    """What the process held at its worst, and what it still holds, is not the step's."""
    peak = resident.grown(resident.begin())
    held = [bytes([1]) * 2**27]
    since = resident.begin()
    del held[0]
    assert resident.grown(since) - peak < 2**26
    since = resident.begin()
    held.append(bytes([1]) * 2**27)
    assert 2**27 <= resident.grown(since) - resident.program() < 2**27 + 2**25
    assert resident.program() % resident.UNIT == 0


def test_two_runs_in_one_directory_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_project(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("")
    with alone_in(tmp_path / "run"):
        assert cli.main(["run", str(path), "--output", str(tmp_path / "run")]) == 2
    assert "another process is at work in" in capsys.readouterr().err


def test_a_run_that_was_refused_for_its_data_can_be_made_once_they_are_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = write_project(tmp_path), tmp_path / "run"
    with alone_in(made(run)):
        pass  # what a refused run leaves behind: its lock
    assert [left.name for left in run.iterdir()] == [".lock"]
    assert cli.main(["run", str(path), "--output", str(run), "--dry-run"]) == 0


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_project(tmp_path)
    assert cli.main(["run", str(path), "--output", str(tmp_path)]) == 2
    assert "holds something else than a project's run: name another --output" in capsys.readouterr().err
    assert not (tmp_path / "run.yaml").exists()


def test_data_that_change_while_it_runs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_project(tmp_path)
    real = steps.measure_baseline

    def meddled(*args: Any) -> Any:
        (tmp_path / "decide.jsonl").write_text('{"text": "a", "label": "red"}\n')
        return real(*args)

    monkeypatch.setattr(steps, "measure_baseline", meddled)
    assert cli.main(["run", str(path), "--output", str(tmp_path / "run")]) == 2
    assert "decide.jsonl changed while the project ran" in capsys.readouterr().err
    assert not list((tmp_path / "run" / "steps").iterdir())


def test_a_dry_run_checks_all_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_project(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert cli.main(["run", str(path), "--dry-run"]) == 0
    assert "64" in capsys.readouterr().err
    assert cli.main(["run", str(path), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == {"train": 64, "select": 16, "decide": 60, "test": 40}
    assert sorted(tmp_path.iterdir()) == before


def test_a_task_without_a_part_to_decide_on_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = TINY["task"] | {"data": {"train": "train.jsonl", "split": {"decide": 0}}}
    for how in (["--output", str(tmp_path / "run")], ["--dry-run"]):
        assert cli.main(["run", str(write_project(tmp_path, task=task)), *how]) == 2
        told = capsys.readouterr().err
        assert "the task has no part decide, which rungs are stopped on: give data.decide a file" in told


def test_memory_below_that_of_the_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for how in (["--output", str(tmp_path / "run")], ["--dry-run"]):
        assert cli.main(["run", str(write_project(tmp_path, limits={"memory": "10MB"})), *how]) == 2
        assert "limits.memory is 10 MB, and the program alone holds " in capsys.readouterr().err


def test_a_mistake_in_the_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_project(tmp_path, tagret=3)
    assert cli.main(["run", str(path)]) == 2
    assert capsys.readouterr().err.endswith("has an unknown key 'tagret': perhaps you meant target\n")
    assert cli.main(["run", str(tmp_path / "other.yaml")]) == 2
    assert "`modelwright init` writes one" in capsys.readouterr().err


# -- init


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_init_writes_is_a_project_as_it_stands(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", "--task", kind, "--output", str(tmp_path / "new"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    project = read_project(said["project"])
    task, parts = prepare(project.task)
    assert task.kind == kind == said["kind"]
    assert min(map(len, parts.values())) > 50
    assert project.base
    assert (tmp_path / "new" / "project.yaml").read_text().count("#") > 8


def test_init_begins_on_the_desk_with_a_base_that_learns_from_examples(tmp_path: Path) -> None:
    """The settings that the desk's own projects are published with; an encoder reads no examples."""
    assert cli.main(["init", "--output", str(tmp_path / "new"), "--json"]) == 0
    published = read_project(ROOT / "examples" / "desk-note" / "project.yaml").base
    assert read_project(tmp_path / "new" / "project.yaml").base == published
    assert cli.main(["init", "--task", "classify", "--output", str(tmp_path / "other"), "--json"]) == 0
    encoder = read_project(tmp_path / "other" / "project.yaml").base
    assert encoder
    assert (encoder.data, encoder.objective) == (("desk",), "masked")


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--output", str(tmp_path)]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"project.yaml", "examples.jsonl"}
    assert cli.main(["init", "--output", str(tmp_path)]) == 2
    (tmp_path / "project.yaml").unlink()
    assert cli.main(["init", "--output", str(tmp_path)]) == 2
    assert "examples.jsonl exists and is not overwritten" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"examples.jsonl"}


def test_init_reads_the_task_from_the_columns_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_project(tmp_path / "data")
    data = str(tmp_path / "data" / "train.jsonl")
    assert cli.main(["init", "--data", data, "--output", str(tmp_path / "a.yaml")]) == 0
    assert read_project(tmp_path / "a.yaml").task.kind == "classify"  # text and label
    (tmp_path / "odd.csv").write_text("question_text,reply\nwhat?,that\n")
    assert cli.main(["init", "--data", str(tmp_path / "odd.csv"), "--output", str(tmp_path / "b.yaml")]) == 2
    assert (
        "the columns question_text, reply, which do not tell the task: say --task summarise|" in capsys.readouterr().err
    )
    command = ["init", "--task", "generate", "--data", str(tmp_path / "odd.csv"), "--output", str(tmp_path / "b.yaml")]
    assert cli.main(command) == 0
    assert read_project(tmp_path / "b.yaml").task.columns == {"source": "question_text", "target": "reply"}


# -- report


@pytest.mark.slow
def test_report_builds_the_same_page_again(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = copy / "run" / "report.html"
    before = page.read_text()
    page.unlink()
    assert cli.main(["report", str(copy / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text() == before


def test_report_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "`modelwright run` writes one as it ends" in capsys.readouterr().err
    for text, told in (
        ("{", "is not a report"),
        ('{"format": 99}', "of format 99"),
        ('{"format": 3}', "is not a report"),
    ):
        (tmp_path / "report.json").write_text(text)
        assert cli.main(["report", str(tmp_path)]) == 2
        assert told in capsys.readouterr().err


# -- the view


def test_lines_of_the_plain_view(capsys: pytest.CaptureFixture[str]) -> None:
    shown = View(0.8, "rougeL", plain=True)
    waiting = Entry("lora", "small")
    shown.tell((waiting,))
    shown.tell((Entry("lora", "small", "running", planned=Cost(75, 10**9)),))
    shown.tell((Entry("lora", "small", "skipped", reason="too dear"),))
    with shown.bar("training", 10, 0) as told:
        told(5, "loss 1.0")
    assert capsys.readouterr().err.splitlines() == [
        "lora small: running, planned (1 min 15 s, 1 GB)",
        "lora small: skipped: too dear",
    ]


def test_the_table_of_the_view() -> None:
    found = table(
        [Entry("lora", "/a/b/c/d", "done", met=True, actual=Cost(2, 10**6), planned=Cost(3, 10**6))], 0.8, "rougeL"
    )
    assert [str(next(iter(column.cells))) for column in found.columns] == [
        "lora", "c/d", "", "", "", "2 s (3 s)", "1 MB (1 MB)", "meets the target",
    ]  # fmt: skip
    assert line(Entry("base", "base", "done", cached=True), 0.8) == "base, pretrained: done, from an earlier run"
