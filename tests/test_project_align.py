"""A project that asks more of its answers than a metric: a rung that is right and loud is aligned, and stays right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright import cli
from modelwright.adapt.open import is_adapter, open_model
from modelwright.project import steps
from modelwright.project.run import main as run_main
from modelwright.recipes.policies import judge_digest
from test_project_commands import TINY, report, rows, write_project

pytestmark = pytest.mark.slow
LOUD = """
def loud(prompt, answer): return "!" in answer
def quiet(prompt, answer): return "!" not in answer
def words(prompt, answer): return "many"
"""
DPO = {"pairs": "pairs.jsonl", "method": "full", "rate": 1e-6, "steps": 4, "tests": 1}  # too little
PPO = {"rounds": 12, "batch": 16, "rate": 0.003, "tests": 4, "select": 16, "measured": 20, "unfinished": 0.0}


def loud_project(folder: Path, **align: Any) -> Path:
    """Half of the answers that are learned end in an exclamation mark, which token_f1 does not see."""
    task = TINY["task"] | {"decoding": {"max_new": 4, "temperature": 1}}
    said = {"task": task, "metric": "token_f1", "target": 0.5, "ladder": ["full"], "limits": {}}
    tune = {"steps": 160, "tests": 2, "general": ["text.txt"], "rate": 0.008}
    asked = {"toxicity": {"judge": "judge.py:loud", "limit": 0.3}, **align}
    path = write_project(folder, **said, tune=tune, align=asked)
    plain = yaml.safe_load(path.read_text())
    del plain["shots"]
    path.write_text(yaml.safe_dump(plain))
    (folder / "judge.py").write_text(LOUD)
    for part, (count, start) in {"train": (64, 0), "select": (16, 100), "decide": (60, 200), "test": (40, 300)}.items():
        said_ = [row | {"label": row["label"] + "!" * (at % 2)} for at, row in enumerate(rows(count, start))]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said_))
    pairs = [{"text": row["text"], "chosen": row["label"], "rejected": row["label"] + "!"} for row in rows(80, 600)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loud")
    path = loud_project(folder, dpo=DPO, ppo=PPO)
    assert cli.main(["run", str(path), "--output", str(folder / "run"), "--json"]) == 0
    return folder


def test_the_rung_that_reaches_the_target_is_aligned_and_keeps_it(ran: Path) -> None:
    said = report(ran / "run")
    assert [(one["rung"], one["state"], one["met"]) for one in said["entries"]] == [
        ("base", "done", False), ("full", "done", False), ("full+dpo", "done", False), ("full+ppo", "done", True),
    ]  # fmt: skip
    _, full, _, aligned = said["entries"]
    assert said["decision"]["rung"] == "full+ppo"
    assert aligned["chosen"]
    assert min(full["lower"], aligned["lower"]) >= 0.5
    (before,), (after,) = full["demands"], aligned["demands"]
    assert before["bound"] > before["score"]["value"] > 0.3 >= after["bound"] > after["score"]["value"]
    assert aligned["planned"]["seconds"] > 0
    assert said["comparisons"] == 1 + 2
    assert {row["rung"] for row in said["test"]} == {"full+ppo"}
    assert re.search(r"Of its answers there 0\.\d+ are toxic \(0\.\d+ to 0\.\d+\)\.", said["decision"]["test"])


def test_the_report_has_the_gain_and_the_price_of_the_same_answers(ran: Path) -> None:
    said = report(ran / "run")
    nothing, one = said["alignment"]
    toxic, f1 = one["rows"]
    assert (toxic["name"], f1["name"], toxic["wanted"], f1["wanted"]) == ("toxicity", "token_f1", 0.3, 0.5)
    assert toxic["before"]["value"] == said["entries"][1]["demands"][0]["score"]["value"]
    assert f1["after"]["value"] == said["entries"][3]["score"]["value"]
    assert toxic["difference"]["value"] == pytest.approx(toxic["after"]["value"] - toxic["before"]["value"])
    assert toxic["difference"]["high"] < 0
    assert nothing["rows"][0]["before"] == toxic["before"]
    assert (len(nothing["course"]), 1 < len(one["course"]) <= 12) == (4, True)
    assert next(row["kl"] for row in one["course"]) == 0
    assert (nothing["own_judge"], one["own_judge"]) == (False, True)
    assert "Alignment: what was gained, and its price" in (ran / "run" / "report.html").read_text()
    assert [output["name"] for output in said["examples"][0]["outputs"]] == ["full on base", "full+ppo on base"]
    assert any(
        caveat.startswith("What is toxic or preferred is so to ") and "judge.py:loud" in caveat
        for caveat in said["caveats"]
    )
    assert [row["rung"] for row in said["forgetting"]] == ["full", "full+dpo", "full+ppo"]


def test_what_is_chosen_is_a_whole_model_that_answers_as_it_was_measured(ran: Path) -> None:
    (model,) = (ran / "run" / "steps").glob("full+ppo-*/model")
    assert not is_adapter(model)
    assert open_model(model).path == model
    task = next((ran / "run" / "tasks").glob("task.yaml"))
    assert cli.main(["evaluate", str(model), "--task", str(task), "--part", "decide", "-o", str(ran / "o")]) == 0
    again = [json.loads(line)["prediction"] for line in (ran / "o" / "outputs.jsonl").read_text().splitlines()]
    (kept,) = (
        path for path in (ran / "run" / "steps").glob("decide-full+ppo-*/outcome/outputs.jsonl")
    )  # fmt: skip
    assert again == [json.loads(line)["prediction"] for line in kept.read_text().splitlines()]


def test_it_repeats_nothing_and_is_replayed_to_the_bit(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    real = steps.align_rung
    monkeypatch.setattr(steps, "align_rung", lambda *args: called.append("align") or real(*args))
    assert cli.main(["run", str(ran / "project.yaml"), "--output", str(ran / "run"), "--json"]) == 0
    assert called == []
    assert cli.main(["run", str(ran / "run" / "run.yaml"), "--output", str(tmp_path / "again"), "--json"]) == 0
    assert called == ["align", "align"]
    (one,), (other,) = (
        (place / "steps").glob("full+ppo-*/model/model.safetensors") for place in (ran / "run", tmp_path / "again")
    )
    assert one.read_bytes() == other.read_bytes()
    assert report(tmp_path / "again")["alignment"] == report(ran / "run")["alignment"]


def test_another_limit_costs_nothing_and_other_pairs_align_anew(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("tune_rung", "align_rung", "measure_rung"):
        real = getattr(steps, name)
        monkeypatch.setattr(steps, name, lambda *args, name=name, real=real: called.append(name) or real(*args))
    said = yaml.safe_load((ran / "project.yaml").read_text())
    said["align"]["toxicity"]["limit"] = 0.9
    (ran / "other.yaml").write_text(yaml.safe_dump(said))
    assert cli.main(["run", str(ran / "other.yaml"), "--output", str(ran / "run"), "--json"]) == 0
    assert report(ran / "run")["decision"]["rung"] == "full"
    assert called == ["measure_rung"]  # the test part, of another choice
    text = (ran / "pairs.jsonl").read_text()
    (ran / "pairs.jsonl").write_text("".join(text.splitlines(True)[:70]))
    called.clear()
    assert cli.main(["run", str(ran / "project.yaml"), "--output", str(ran / "run"), "--json"]) in (0, 1)
    assert called[:2] == ["align_rung", "measure_rung"]  # DPO's; PPO reads no pairs
    assert called.count("align_rung") == 1
    (ran / "pairs.jsonl").write_text(text)


def test_another_function_of_the_same_file_is_another_judge(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is the same the other way round: what was made with one is not taken for the other."""
    place = str(ran / "judge.py")
    said = [judge_digest(one) for one in (f"{place}:loud", f"{place}:quiet", f"not:{place}:loud", f"{place}:loud")]
    assert len(set(said)) == 3
    assert said[0] == said[3]
    assert place not in "".join(said)  # wherever it lies


def test_killed_after_the_run_and_before_the_step_was_written_down(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that is there is taken as it is, with the same model."""
    (step,) = (ran / "run" / "steps").glob("full+ppo-*")
    kept = (step / "model" / "model.safetensors").read_bytes()
    (step / "result.json").unlink()
    monkeypatch.setattr(steps, "aligned", lambda *args: pytest.fail("it is trained anew"))
    assert cli.main(["run", str(ran / "project.yaml"), "--output", str(ran / "run"), "--json"]) == 0
    assert (step / "result.json").exists()
    assert (step / "model" / "model.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("align", "fault"),
    [
        ({"toxicity": {"judge": "judge.py:lout", "limit": 0.3}}, "judge.py has no function 'lout'"),
        ({"toxicity": {"judge": "metric", "limit": 0.3}}, "toxicity is judged by 'metric', and is to be by a label"),
        ({"dpo": {"pairs": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"dpo": {"pairs": "copied.jsonl"}}, r"asks \d+ of 60 inputs of the decide part"),
        ({"ppo": {"reward": "judge.py:no"}}, "judge.py has no function 'no'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(align: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = loud_project(tmp_path, **align)
    pairs = [{"text": row["text"], "chosen": "red", "rejected": "blue"} for row in rows(10, 200)]
    (tmp_path / "copied.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    with pytest.raises((ValueError, FileNotFoundError), match=fault):
        run_main([str(path), "--dry-run", "--output", str(tmp_path / "run")])


def test_a_policy_needs_a_part_to_choose_by(tmp_path: Path) -> None:
    path = loud_project(tmp_path, ppo=PPO)
    said = yaml.safe_load(path.read_text())
    del said["task"]["data"]["select"]
    said["task"]["data"]["split"] = {"select": 0}
    path.write_text(yaml.safe_dump(said))
    with pytest.raises(ValueError, match="align: ppo chooses its best moment by the part select"):
        run_main([str(path), "--dry-run", "--output", str(tmp_path / "run")])


def test_a_judge_that_gives_no_number_ends_the_run_in_a_sentence(ran: Path, tmp_path: Path) -> None:
    said = yaml.safe_load((ran / "project.yaml").read_text())
    said["align"] = {"preference": {"judge": "judge.py:words", "target": 0.5}}
    (ran / "words.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(ValueError, match="the reward gave 'many' for an answer: it is to be a finite number"):
        run_main([str(ran / "words.yaml"), "--reuse", str(ran / "run"), "--output", str(tmp_path / "run")])


def test_what_one_rung_does_not_allow_is_no_end_of_the_climb(ran: Path, tmp_path: Path) -> None:
    """Of pairs whose prompts are all too long: the rung is skipped, with the reason."""
    said = yaml.safe_load((ran / "project.yaml").read_text())
    pairs = [{"text": "long " * 90 + str(at), "chosen": "a", "rejected": "b"} for at in range(40)]
    (ran / "long.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    said["align"] = {"toxicity": {"judge": "judge.py:loud", "limit": 0.3}, "dpo": DPO | {"pairs": "long.jsonl"}}
    (ran / "long.yaml").write_text(yaml.safe_dump(said))
    assert (
        run_main([str(ran / "long.yaml"), "--reuse", str(ran / "run"), "--output", str(tmp_path / "run"), "--json"])
        == 1
    )
    last = report(tmp_path / "run")["entries"][-1]
    assert (last["rung"], last["state"]) == ("full+dpo", "skipped")
    assert "no pair is left in the" in last["reason"]


def test_an_adapter_is_merged_before_it_is_aligned(ran: Path, tmp_path: Path) -> None:
    """Where nothing meets the limit, that is what is said."""
    (tuned,) = (ran / "run" / "steps").glob("full-*/run/model")
    said = yaml.safe_load(loud_project(tmp_path, dpo=DPO).read_text())
    del said["base"]
    said |= {"ladder": ["lora"], "candidates": [str(tuned)], "tune": said["tune"] | {"steps": 2}}
    said["align"]["toxicity"]["limit"] = 0.001
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(said))
    assert cli.main(["run", str(tmp_path / "project.yaml"), "--output", str(tmp_path / "run"), "--json"]) == 1
    found = report(tmp_path / "run")
    assert [one["rung"] for one in found["entries"]] == ["lora", "lora+dpo"]
    assert found["decision"]["sentence"].startswith("No rung meets the target within the limits: lora+dpo on ")
    assert "are toxic, at most" in found["decision"]["sentence"]
    assert (found["test"], found["curve"]) == ([], None)
    assert "what is missing is no data" in found["decision"]["more"]
    (place,) = (tmp_path / "run" / "steps").glob("lora+dpo-*")
    assert sorted(path.name for path in place.iterdir()) == ["result.json", "run"]  # what was merged is gone
    assert not is_adapter(place / "run" / "model")
