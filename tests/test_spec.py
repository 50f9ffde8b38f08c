"""project.yaml: read whole, and every mistake in it is one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright.project.ladder import BASE, RUNGS, Limits
from modelwright.project.resolve import replayable, resolved
from modelwright.project.spec import SEAL, parse_project, read_project
from modelwright.project.values import parse_bytes, parse_latency

TASK: dict[str, Any] = {
    "kind": "summarise",
    "data": {"train": "notes.jsonl"},
    "columns": {"source": "dialogue", "target": "summary", "required": "facts"},
}
GOOD: dict[str, Any] = {
    "task": TASK,
    "metric": "mentions",
    "target": 0.85,
    "limits": {"time": "10min", "memory": "8GB", "parameters": "50M", "latency": "200ms"},
    "base": {"data": "desk", "time": "3min"},
    "shots": 4,
    "tune": {"epochs": 3, "lora": {"rank": 8}},
}
TAGGING = {"kind": "tag", "data": {"train": "wnut.conll"}}


def test_a_whole_project_is_read(tmp_path: Path) -> None:
    found = parse_project(GOOD, "project.yaml", tmp_path)
    assert (found.name, found.metric, found.target, found.seed) == (tmp_path.name, "mentions", 0.85, 0)
    assert found.limits == Limits(time=600.0, memory=8 * 10**9, parameters=50 * 10**6, latency=0.2)
    assert found.task.data.train == str(tmp_path / "notes.jsonl")
    assert found.ladder == tuple(RUNGS)
    assert found.base
    assert (found.base.data, found.base.time) == (("desk",), "3min")
    assert found.tuning("lora") == {"epochs": 3, "rank": 8}
    assert found.tuning("full") == {"epochs": 3}
    assert found.rule().candidates == (BASE,)
    assert found.rule().error == 0.05


def test_the_metric_is_the_projects_or_the_tasks_or_the_kinds(tmp_path: Path) -> None:
    bare = {key: value for key, value in GOOD.items() if key != "metric"}
    assert parse_project(bare, "p", tmp_path).metric == "rougeL"
    assert parse_project(bare | {"task": TASK | {"metric": "rouge1"}}, "p", tmp_path).metric == "rouge1"
    both = parse_project(GOOD | {"task": TASK | {"metric": "rouge1"}}, "p", tmp_path)
    assert both.metric == both.task.metric == "mentions"


def test_rungs_are_climbed_in_their_order_whatever_the_order_they_are_named_in(tmp_path: Path) -> None:
    said = GOOD | {"ladder": ["full", "few-shot", "lora"]}
    assert parse_project(said, "p", tmp_path).ladder == ("few-shot", "lora", "full")


def test_a_task_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "notes.yaml").write_text(yaml.safe_dump(TASK))
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(GOOD | {"task": "tasks/notes.yaml"}))
    found = read_project(tmp_path / "project.yaml")
    assert found.task.name == "notes"
    assert found.task.data.train == str(tmp_path / "tasks" / "notes.jsonl")
    assert found.path == tmp_path / "project.yaml"


def test_a_candidate_s_path_is_told_short_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "runs" / "model").mkdir(parents=True)
    said = GOOD | {"candidates": "../../runs/model"}
    assert parse_project(said, "p", tmp_path / "examples" / "x").candidates == (str(tmp_path / "runs" / "model"),)
    with pytest.raises(FileNotFoundError, match=r"p: candidates names \./gone, and there is no directory .*: make it"):
        parse_project(GOOD | {"candidates": "./gone"}, "p", tmp_path)


def test_of_more_than_one_slash_a_candidate_is_a_path_and_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"candidates names no/such/model, and there is no directory .*: make"):
        parse_project(GOOD | {"candidates": ["no/such/model"]}, "p", tmp_path)


def test_a_key_that_is_said_twice_is_refused_with_its_lines(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("target: 0.8\ntask: notes.yaml\ntarget: 0.9\n")
    with pytest.raises(ValueError, match=r"p\.yaml says target twice, on line 1 and on line 3: leave one out$"):
        read_project(tmp_path / "p.yaml")
    (tmp_path / "p.yaml").write_text("target: 0.8\ntask: notes.yaml\n")
    (tmp_path / "notes.yaml").write_text("kind: classify\ndata:\n  train: a.csv\n  train: b.csv\n")
    with pytest.raises(ValueError, match=r"notes\.yaml says train twice, on line 3 and on line 4: leave one out$"):
        read_project(tmp_path / "p.yaml")


def test_a_key_may_stand_in_what_is_merged_and_be_said_over_it(tmp_path: Path) -> None:
    said = yaml.safe_dump(GOOD | {"tune": {}})
    said = said.replace("tune: {}", "tune:\n  lora: &a {rank: 8, rate: 0.1}\n  full: &b {<<: {rate: 0.1}, rate: 0.2}")
    (tmp_path / "p.yaml").write_text(said)
    assert read_project(tmp_path / "p.yaml").tuning("full") == {"rate": 0.2}


def test_a_rung_s_settings_are_checked_with_its_own_method() -> None:
    muon = {"optimizer": "muon", "matrix_rate": 0.01}
    assert parse_project(GOOD | {"tune": {"full": muon}}, "p", Path()).tuning("full") == muon
    with pytest.raises(ValueError, match="tune: lora: optimizer muon is for method full: lora learns by adamw"):
        parse_project(GOOD | {"tune": {"lora": muon}}, "p", Path())


def test_candidates_that_are_directories_are_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    found = parse_project(GOOD | {"candidates": ["mine", "openai-community/gpt2"]}, "p", tmp_path)
    assert found.candidates == (str(tmp_path / "mine"), "openai-community/gpt2")
    assert found.rule().candidates == (*found.candidates, BASE)


WRONG: list[tuple[dict[str, Any], str]] = [
    # words
    ({"tagret": 1}, "project.yaml has an unknown key 'tagret': perhaps you meant target"),
    ({"limits": {"tim": "3min"}}, "project.yaml: limits has an unknown key 'tim': perhaps you meant time"),
    ({"base": {"data": "desk", "tiem": "3min"}}, "base has an unknown key 'tiem': perhaps you meant time"),
    ({"base": {"data": "desk", "output": "x"}}, "base has an unknown key 'output'"),
    ({"tune": {"loar": {}}}, "tune has an unknown key 'loar': perhaps you meant lora"),
    ({"tune": {"lora": {"rnak": 8}}}, "tune: lora has an unknown key 'rnak': perhaps you meant rank"),
    ({"ladder": ["zero-shot", "fewshot"]}, "ladder has an unknown rung 'fewshot': perhaps you meant few-shot"),
    ({"task": TASK | {"kind": "sumarise"}}, "kind is 'sumarise'"),
    # values
    ({"target": "high"}, "target is 'high', and is to be a number between 0 and 1"),
    ({"limits": {"time": 10}}, "limits.time: cannot read '10' as a time"),
    ({"limits": {"memory": "8"}}, "limits.memory: cannot read '8' as an amount of memory: write 8GB"),
    ({"limits": {"latency": "fast"}}, "limits.latency: cannot read 'fast' as a latency: write 200ms or 2s"),
    ({"limits": ["10min"]}, "limits is ['10min'], and is to be a mapping"),
    ({"confidence": 95}, "confidence is 95, and is to lie between 0.5 and 1"),
    ({"seed": 1.5}, "seed is 1.5, and is to be a whole number"),
    ({"ladder": "lora"}, "ladder is to be a list of rungs (trivial, zero-shot, one-shot, few-shot, soft-prompt, lora"),
    ({"ladder": ["lora", "lora"]}, "ladder names lora twice"),
    ({"candidates": ["a/b", "a/b"]}, "candidates names a/b twice"),
    ({"candidates": [3]}, "candidates is to be a list of directories and hub ids"),
    ({"candidates": ["base"]}, "the name base is of the model that the project pretrains: write ./base"),
    ({"curve": [0.5]}, "curve is [0.5], and is to be two or more shares"),
    ({"tune": {"epochs": "three"}}, "tune: epochs is 'three': input should be a valid number"),
    ({"tune": {"lora": {"rank": 0}}}, "tune: lora: rank must be above 0, not 0"),
    ({"tune": {"rank": 8}}, "tune: rank is of one rung: write lora: {rank: 8}"),
    ({"tune": {"full": {"matrix_rate": 0.1}}}, "tune: full: matrix_rate is Muon's: add optimizer muon"),
    ({"tune": {"optimizer": "muon"}}, "tune: optimizer is of one rung: write full: {optimizer: muon}"),
    ({"tune": {"lora": 8}}, "tune: lora is to be a mapping such as {rate: 0.001}, not 8"),
    ({"base": "desk"}, "base is to be a mapping such as {data: desk, time: 3min}, not 'desk'"),
    ({"base": {"data": "desk"}}, "base: say how large or how long: size 10M, time 3min, or both width and layers"),
    ({"base": {"data": "desk", "time": "3min", "dropout": 2}}, "base: dropout must lie between 0 and 1, not be 2"),
    (
        {"base": {"data": "desk", "time": "3min", "layers": "many"}},
        "base: layers is 'many': input should be a valid integer",
    ),
    (
        {"base": {"data": "task", "column": "dialogue", "time": "1min"}},
        "base: column is of files, and task is the inputs of the training part: leave it out",
    ),
    ({"base": {"data": ["desk", "a.txt"], "time": "1min"}}, "base: desk is the embedded desk and stands alone"),
    (
        {"base": {"data": "desk", "width": 32, "layers": 1, "heads": 5}},
        "base: 5 heads do not divide a width of 32: choose a divisor of 32",
    ),
    ({"base": {"data": "desk", "time": "3min", "width": 32, "heads": 5}}, "base: 5 heads do not divide a width of 32"),
    ({"base": {"data": "desk", "size": "1M", "heads": 4, "kv_heads": 3}}, "base: no width suits 4 heads with 3 key"),
    (
        {"limits": {"parameters": "10k"}, "base": {"data": "desk", "width": 32, "layers": 1}},
        "parameters with its vocabulary of 4,096, over limits.parameters, 10k",
    ),
    ({"choose": "best"}, "choose is 'best', and is to be seed or nearest"),
    ({"prompt": 1}, "prompt is 1, and the task has 1 of them, counted from 0"),
    ({"tune": {"prompt": 0}}, "tune has an unknown key 'prompt'"),
    ({"recorded": 3}, "recorded is 3, and is to be a mapping"),
    ({"recorded": {"lora base": {"settled": {"steps": 3}}}}, "is not as the run wrote it that recorded these times"),
    ({"task": 3}, "task is to be the path of a task.yaml, or a task written out, not 3"),
    # contradictions
    ({"target": 85}, "a target of 85 is not within the scale of mentions, 0 to 1; perhaps you meant 0.85"),
    ({"metric": "bleu", "target": 0}, "a target of 0 is not within the scale of bleu, 0 to 100"),
    ({"target": 1}, "a target of 1 is not within the scale of mentions, 0 to 1: no finite number of examples proves"),
    ({"metric": "accuracy"}, "the metric 'accuracy' does not fit a task of kind summarise"),
    ({"metric": "perplexity"}, "the metric 'perplexity' does not fit"),
    (
        {"task": {k: v for k, v in TASK.items() if k != "columns"}},
        "the metric mentions needs the task's column `required`",
    ),
    ({"base": None}, "there is no model to try: name candidates, or a base to pretrain"),
    ({"ladder": ["trivial"], "tune": {}, "shots": 4}, "the ladder is trivial alone, which needs no model"),
    ({"ladder": ["lora"]}, "shots is 4, and few-shot is no rung of the ladder"),
    (
        {"choose": "nearest", "shots": None, "ladder": ["zero-shot", "lora"]},
        "choose is nearest, and neither one-shot nor few-shot is a rung of the ladder",
    ),
    ({"shots": 1}, "shots is 1: few-shot begins at 2, and one-shot is a rung of its own"),
    (
        {"ladder": ["few-shot"], "tune": {"epochs": 3}},
        "tune is said, and the ladder has none of soft-prompt, lora and full",
    ),
    ({"ladder": ["few-shot", "full"]}, "tune has settings for lora, which is no rung of the ladder"),
    ({"limits": {"time": "2min"}}, "base.time is 3 min 0 s and leaves nothing of limits.time, 2 min 0 s"),
    ({"base": {"data": "desk", "size": "100M"}}, "base.size is 100M, over limits.parameters, 50M"),
    (
        {"base": {"data": "desk", "size": "50M"}, "limits": {"memory": "100MB"}},
        "the weights of a base of 50M parameters alone are over limits.memory, 100 MB",
    ),
    (
        {"base": {"data": "desk", "time": "1min", "context": 64}, "tune": {"soft-prompt": {"tokens": 64}}},
        "a soft prompt of 64 tokens fills the base's context of 64",
    ),
    (
        {"base": {"data": "desk", "time": "1min", "objective": "masked"}},
        "a base with objective masked is an encoder, which cannot summarise: take causal, span or denoise",
    ),
    ({"tune": {"full": {"time": "1h"}}}, "tune's time of 1h for full leaves nothing of limits.time, 10 min 0 s"),
    (
        {"task": TAGGING, "metric": "entity_f1"},
        "tagging needs an encoder: give the base the objective masked, not causal",
    ),
    (
        {
            "task": TAGGING,
            "metric": "entity_f1",
            "base": {"data": "desk", "time": "1min", "objective": "masked"},
            "ladder": ["trivial", "few-shot"],
            "tune": {},
        },
        "an encoder answers once it is trained for the task: add soft-prompt, lora or full to the ladder",
    ),
]


@pytest.mark.parametrize(("changes", "told"), [pytest.param(*case, id=case[1][:50]) for case in WRONG])
def test_a_mistake_is_one_sentence(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^project\.yaml") as caught:
        parse_project({k: v for k, v in (GOOD | changes).items() if v is not None}, "project.yaml", tmp_path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_task_and_target_are_needed(tmp_path: Path) -> None:
    for key in ("task", "target"):
        with pytest.raises(ValueError, match=f"p has no {key}: a project needs at least a task and a target"):
            parse_project({k: v for k, v in GOOD.items() if k != key}, "p", tmp_path)


def test_files_that_are_no_project(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`modelwright init` writes one"):
        read_project(tmp_path / "project.yaml")
    with pytest.raises(IsADirectoryError, match="name the project file in it"):
        read_project(tmp_path)
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"a\.yaml is not YAML: "):
        read_project(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("- a")
    with pytest.raises(ValueError, match=r"a\.yaml is no project"):
        read_project(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"candidates": ["a/b"], "base": None},
        {"ladder": ["trivial", "lora"], "shots": None, "limits": {}},
        {"base": {"data": ["task", "more.jsonl"], "column": "said", "time": "3min"}},
        {"choose": "nearest", "task": TASK | {"prompts": ["{{ source }}", "{{ source }} In short:"]}, "prompt": 1},
        {
            "task": {"kind": "classify", "data": {"train": "t.tsv", "limit": {"train": 9}}, "labels": ["a", "b"]},
            "metric": "",
        },
    ],
)
def test_what_is_resolved_reads_as_the_same_project_from_anywhere(changes: dict[str, Any], tmp_path: Path) -> None:
    said = {key: value for key, value in (GOOD | changes).items() if value is not None}
    first = parse_project(said, "p", tmp_path)
    again = parse_project(yaml.safe_load(yaml.safe_dump(resolved(first))), "p", Path("/elsewhere"))
    assert dataclasses.replace(again, name=first.name) == first


def test_what_was_recorded_is_tied_to_the_rest_of_the_file(tmp_path: Path) -> None:
    record = {"lora base": {"planned": [1.5, 10**9], "latency": 1e-05, "settled": {"steps": 3, "precision": "fp32"}}}
    written = yaml.safe_dump(replayable(parse_project(GOOD, "p", tmp_path), record))
    assert parse_project(yaml.safe_load(written), "run.yaml", Path("/elsewhere")).recorded == record
    for change in ({"target": 0.8}, {"tune": {}}, {"recorded": {"lora base": {"planned": "soon"}, SEAL: "0"}}):
        with pytest.raises(
            ValueError, match=r"^run\.yaml is not as the run wrote it .* take recorded out to measure anew$"
        ):
            parse_project(yaml.safe_load(written) | change, "run.yaml", tmp_path)
    edited = yaml.safe_load(written)
    edited["recorded"]["lora base"]["settled"]["steps"] = 4
    with pytest.raises(ValueError, match="is not as the run wrote it"):
        parse_project(edited, "run.yaml", tmp_path)
    del edited["recorded"]
    assert parse_project(edited, "run.yaml", tmp_path).recorded == {}


@pytest.mark.parametrize(
    ("said", "bytes_"),
    [("8GB", 8 * 10**9), ("512 MB", 512 * 10**6), ("1.5kB", 1500), ("16GiB", 16 * 2**30), ("2MiB", 2**21), ("7B", 7)],
)
def test_amounts_of_memory(said: str, bytes_: int) -> None:
    assert parse_bytes(said) == bytes_


def test_latencies() -> None:
    assert [parse_latency(said) for said in ("200ms", "1.5 ms", "2s", "1min")] == pytest.approx([0.2, 0.0015, 2, 60])
    for said in ("0ms", "ms", "-5ms", "200"):
        with pytest.raises(ValueError, match="as a latency"):
            parse_latency(said)


# -- what is asked beside the target


WRITES: dict[str, Any] = GOOD | {"task": TASK | {"kind": "generate"}}


def aligning(folder: Path, **said: Any) -> dict[str, Any]:
    (folder / "judge.py").write_text("def rude(prompt, answer): return False\n")
    (folder / "reward").mkdir(exist_ok=True)
    return WRITES | {"align": {"toxicity": {"judge": "judge.py:rude", "limit": 0.1}, **said}}


def test_what_is_asked_beside_the_target_is_read_and_located(tmp_path: Path) -> None:
    said = {"preference": {"judge": "reward", "target": 0.6}, "ppo": {"rounds": 5}, "dpo": {"pairs": "pairs.jsonl"}}
    project = parse_project(aligning(tmp_path, **said), "p", tmp_path)
    found = project.align
    assert found is not None
    assert found.toxicity == (f"{tmp_path}/judge.py:rude", 0.1)
    assert found.preference == (f"{tmp_path}/reward", 0.6)
    assert project.rule().align == ("dpo", "ppo")  # from the cheapest on
    assert found.settings("dpo") == {"pairs": f"{tmp_path}/pairs.jsonl"}
    assert found.settings("ppo") == {
        "reward": f"{tmp_path}/reward", "gold": f"not:{tmp_path}/judge.py:rude", "rounds": 5,
    }  # fmt: skip
    assert found.own_judge("ppo")
    assert parse_project(resolved(project), "q", Path("/nowhere")).align == found


def test_the_judge_is_the_reward_or_else_gold(tmp_path: Path) -> None:
    bare = parse_project(aligning(tmp_path), "p", tmp_path).align
    assert bare is not None
    assert bare.settings("ppo") == {"reward": f"not:{tmp_path}/judge.py:rude"}
    other = parse_project(aligning(tmp_path, grpo={"reward": "reward", "group": 4}), "p", tmp_path).align
    assert other is not None
    assert other.settings("grpo") == {
        "reward": f"{tmp_path}/reward", "gold": f"not:{tmp_path}/judge.py:rude", "group": 4,
    }  # fmt: skip
    assert not other.own_judge("grpo")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"toxicity": {"judge": "judge.py:rude"}}, "p: align: toxicity has no limit: it needs a judge and a limit"),
        ({"toxicity": {"judge": "judge.py:rude", "limit": 2}}, "limit is 2, and is to be a share of the answers"),
        ({"toxicity": {"judge": "no.py:rude", "limit": 0.1}}, "the judge is 'no.py:rude', and there is no"),
        ({"toxicity": {}, "dpo": {"pairs": "x"}}, "align asks nothing: give toxicity a judge and a limit"),
        ({"dpo": {}}, "align: dpo: say from which preferences: pairs FILE"),
        ({"dpo": {"pairs": "x", "beta": "much"}}, "align: dpo: beta is 'much'"),
        ({"dpo": {"pairs": "x", "task": "y"}}, "unknown key 'task'"),
        ({"ppo": {"reward": "metric", "beta": -1}}, "align: ppo: beta must be 0 or more"),
        ({"grpo": {"group": 1}}, "a group is of 1 answers"),
        ({"pro": {}}, "align has an unknown key 'pro': perhaps you meant p?po"),
    ],
)
def test_faults_of_what_is_asked_beside(said: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_project(aligning(tmp_path, **said), "p", tmp_path)


def test_labels_are_not_aligned(tmp_path: Path) -> None:
    said = aligning(tmp_path) | {"task": TAGGING, "base": {"data": "desk", "time": "1min", "objective": "masked"}}
    with pytest.raises(ValueError, match="align is of answers in words, and those of a task of kind tag are labels"):
        parse_project(
            {k: v for k, v in said.items() if k not in ("metric", "shots")} | {"ladder": ["lora"]}, "p", tmp_path
        )
