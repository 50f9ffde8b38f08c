"""What a base reads: the training inputs alone, or text that is held against the parts that rungs are measured on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright import cli
from modelwright.data.examples import Example
from modelwright.data.task import parse_task
from modelwright.project import cache
from modelwright.project.ladder import BASE
from modelwright.project.opened import Opened
from modelwright.project.reading import compared, copies, inputs, refuse, told, write_inputs
from modelwright.project.resolve import resolved
from modelwright.project.spec import read_project
from modelwright.project.work import Work
from modelwright.recipes.watch import Screen

LONG = "the {} came up the hill road at noon and asked for a lamp and {} more cups of tea"
TUNE = {"steps": 4, "tests": 1}


def task_of(kind: str) -> Any:
    return parse_task({"kind": kind, "data": {"train": "x.jsonl"}}, "t", Path())


def work_in(folder: Path, **changes: Any) -> Work:
    """A project whose inputs are long enough to be known again by their words."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, start in {"train": 0, "select": 100, "decide": 200, "test": 300}.items():
        rows = [{"text": LONG.format(f"{part}er", start + i), "label": "ab"[i % 2]} for i in range(10)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "other.txt").write_text("nothing of the kind is said here")
    said: dict[str, Any] = {
        "name": "reads",
        "task": {"kind": "classify", "data": {part: f"{part}.jsonl" for part in ("train", "select", "decide", "test")}},
        "target": 0.9,
        "base": {"data": "task", "width": 32, "layers": 1, "context": 48, "steps": 4, "vocab": 300},
        "ladder": ["trivial", "full"],
        "tune": TUNE,
    }  # fmt: skip
    (folder / "project.yaml").write_text(yaml.safe_dump(said | changes))
    return Work(read_project(folder / "project.yaml"), folder / "run", Screen(quiet=True))


def held(work: Work) -> Any:
    """What of the parts stands in the text of its base."""
    return compared(work.project, work.task, work.parts, work.identity.digests, work.cache)


# -- the training inputs


def test_inputs_are_the_input_fields_alone_as_plain_text_each_once() -> None:
    said = {"context": "In Lyon.", "question": "Where?", "answer": "Lyon"}
    two = [Example("1", said), Example("2", said | {"context": ""})]
    assert inputs(task_of("answer"), [*two, two[0]]) == ["In Lyon.\n\nWhere?", "Where?"]
    assert inputs(task_of("tag"), [Example("1", {"tokens": ["New", "York"], "tags": ["B", "I"]})]) == ["New York"]


def test_a_base_of_the_task_reads_the_training_part_and_no_other(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    (path,) = work.orders.base().data
    texts = [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]
    assert texts == [example.fields["text"] for example in work.parts["train"]]
    assert resolved(work.project)["base"]["data"] == ["task"]
    assert held(work) == {}


def test_the_inputs_are_known_by_what_they_say(tmp_path: Path) -> None:
    first, same = work_in(tmp_path / "a"), work_in(tmp_path / "b")
    assert first.depends(BASE, BASE) == same.depends(BASE, BASE)
    rows = (tmp_path / "b" / "train.jsonl").read_text()
    (tmp_path / "b" / "train.jsonl").write_text(rows.replace("lamp", "boat", 1))
    other = Work(read_project(tmp_path / "b" / "project.yaml"), tmp_path / "b" / "run", Screen(quiet=True))
    assert first.depends(BASE, BASE) != other.depends(BASE, BASE)
    assert first.orders.base().data != other.orders.base().data


def test_beside_files_they_are_written_under_the_column_of_these(tmp_path: Path) -> None:
    work = work_in(tmp_path, base={"data": ["task", "train.jsonl"], "column": "label", "time": "1s"})
    assert "label" in json.loads(Path(work.orders.base().data[0]).read_text().splitlines()[0])
    assert work.orders.base().data[1] == str(tmp_path / "train.jsonl")


def test_what_is_written_already_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks" / "inputs.jsonl"
    write_inputs(["a", "é"], "text", path)
    before = path.stat().st_mtime_ns
    write_inputs(["a", "é"], "text", path)
    assert path.stat().st_mtime_ns == before


# -- other text


def test_copies_are_found_to_the_letter_and_nearly() -> None:
    examples = [Example(name, {"text": LONG.format(name, 3)}) for name in ("cat", "dog")]
    examples += [Example("cow", {"text": f"not {LONG[::-1]}"}), Example("short", {"text": "a  Short one"})]
    texts = [f"Once {LONG.format('cat', 3)}, they say. " * 2, "a short ONE", LONG.format("dog", 3), "the cow came up"]
    found = copies(task_of("classify"), {"test": examples, "select": examples[2:3]}, iter(texts))
    assert found == {"test": ["cat", "dog", "short"], "select": []}


def test_more_than_is_allowed_is_refused_and_less_is_told() -> None:
    found, sizes = {"select": [], "test": [f"dev.jsonl:{i}" for i in range(7)]}, {"select": 10, "test": 200}
    with pytest.raises(
        ValueError, match=re.escape("7 of 200 inputs of the test part, or nearly (dev.jsonl:0, dev")
    ) as no:
        refuse(found, sizes, 0.03)
    assert str(no.value).endswith("dev.jsonl:4 and 2 more): take them out, or allow it with tune.overlap 0.04")
    with pytest.raises(ValueError, match=r"and 2 more\): take them out$"):
        refuse(found, sizes, None)
    refuse(found, sizes, 0.04)
    assert told(found, sizes) == [
        "7 of 200 inputs of the test part stand in the text that the base was pretrained on, or nearly (dev.jsonl:0, "
        "dev.jsonl:1, dev.jsonl:2, dev.jsonl:3, dev.jsonl:4 and 2 more)."
    ]


def test_a_base_that_read_what_it_is_measured_on_is_refused_before_it_is_pretrained(tmp_path: Path) -> None:
    base = {"data": ["other.txt", "decide.jsonl"], "time": "1s"}
    work = work_in(tmp_path, base=base)
    with pytest.raises(ValueError, match=r"base\.data holds 10 of 10 inputs of the decide part, or nearly \(decide"):
        work.pretrain()
    assert not list((tmp_path / "run").glob("steps/base-*"))
    work = work_in(tmp_path, base=base, tune=TUNE | {"overlap": 1.0})
    work.copied = held(work)
    assert len(work.caveats()) == 1
    assert work.caveats()[0].startswith("10 of 10 inputs of the decide part stand in the text that the base")


# -- what is known by its content


def test_an_edited_generator_of_the_desk_makes_another_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = work_in(tmp_path, base={"data": "desk:50", "time": "1s"})
    before = work.depends(BASE, BASE)
    shutil.copytree(cache.DESK, tmp_path / "desk")
    monkeypatch.setattr(cache, "DESK", tmp_path / "desk")
    assert work.depends(BASE, BASE) == before
    (tmp_path / "desk" / "words.py").write_text((tmp_path / "desk" / "words.py").read_text() + "\n# a word more\n")
    assert work.depends(BASE, BASE) != before


def test_which_prompt_and_which_shots_are_part_of_a_step(tmp_path: Path) -> None:
    task = {"kind": "generate", "data": {"train": "t.jsonl"}, "columns": {"source": "text", "target": "label"},
            "prompts": ["{{ source }}", "{{ source }}:"]}  # fmt: skip
    rows = "".join(json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) + "\n" for i in range(60))
    (tmp_path / "t.jsonl").write_text(rows)
    ladder, asked = ["few-shot", "full"], {}
    for prompt, choose in ((0, "seed"), (1, "seed"), (1, "nearest")):
        work = work_in(tmp_path, task=task, prompt=prompt, choose=choose, ladder=ladder)
        work.opened["other"] = Opened(str(tmp_path), "", None)  # type: ignore[arg-type]
        found = asked[prompt, choose] = work.orders.asked("few-shot", "decide")
        assert (found.template, found.choose) == (prompt, choose)
        assert work.orders.asked("full", "decide").choose == "seed"  # where there are none to choose
        assert work.tuning("full", "other").prompt == prompt
    assert len({(one.template, one.choose) for one in asked.values()}) == 3


# -- what forgetting is measured on


@pytest.mark.parametrize(
    ("data", "tune", "expected"),
    [
        ("task", {}, "held_out.jsonl"),
        ("other.txt", {}, "held_out.jsonl"),
        ("desk", {}, None),
        ("task", {"general": ["other.txt"]}, "other.txt"),
    ],
)
def test_forgetting_is_measured_on_what_pretraining_held_out(
    data: str, tune: dict[str, Any], expected: str | None, tmp_path: Path
) -> None:
    work = work_in(tmp_path, base={"data": data, "time": "1s"}, tune=TUNE | tune)
    model = str(tmp_path / "base" / "run" / "model")
    work.opened[BASE] = Opened(model, "", None)  # type: ignore[arg-type]
    named = [Path(path).name for path in work.orders.general("full", BASE, model)]
    assert named == ([expected] if expected else [])
    assert work.orders.general("full", "a/candidate", "a/candidate") == work.project.general("full")
    assert work.caveats() == []
    work.opened["a/candidate"] = work.opened[BASE]
    assert len(work.caveats()) == (0 if tune else 1)  # what is foreign to it is said


@pytest.mark.slow
def test_a_project_on_a_base_of_its_own_inputs(tmp_path: Path) -> None:
    """From the inputs to the report: what forgetting is measured on is what pretraining held out of them."""
    work_in(tmp_path, ladder=["full"])
    assert cli.main(["run", str(tmp_path / "project.yaml"), "--output", str(tmp_path / "run"), "--json"]) in (0, 1)
    found = json.loads((tmp_path / "run" / "report.json").read_text())
    assert found["forgetting"][0]["unit"] == "bits per byte, text that pretraining held out"
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["base"]["data"] == ["task"]
