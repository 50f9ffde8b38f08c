"""The recipes as a project calls them: settled to the bit, stopped and gone on with, wherever things lie."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.data.documents import read
from modelwright.data.task import prepare, read_task
from modelwright.project.identity import settings
from modelwright.project.steps import (
    Asked,
    measure_rung,
    outputs_of,
    pretrain_base,
    settle_base,
    settle_rung,
    tune_rung,
)
from modelwright.recipes import budget, pretrain, tune
from modelwright.recipes.options import Pretrain
from modelwright.recipes.pretrain import HELD_OUT, PIECE
from modelwright.recipes.tuning import Tune, check
from modelwright.recipes.watch import Screen
from tasks import TEXTS, model_in, task_in


class Told(Screen):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "measure_peak", lambda dtype: 1e9)


@pytest.fixture
def args(tmp_path: Path) -> Tune:
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:4]))
    return Tune(
        model=str(model_in(tmp_path / "model", "decoder")), task=task_in(tmp_path / "data"), method="lora", steps=6,
        tests=1, select=2, precision="fp32", json=True, general=(str(general),),
    )  # fmt: skip


def bits(directory: Path) -> bytes:
    return next(directory.glob("run/model/*.safetensors")).read_bytes()


# -- settled


def test_a_replay_under_another_free_memory_yields_the_same_bits(
    args: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = budget.make_plan(args, budget_of(args), "fp32")
    assert (whole.accumulate, whole.rows) == (1, 4)
    monkeypatch.setattr(budget, "most_rows", lambda bytes_of, wished, free: 3)  # as memory for three rows would
    came = tune_rung(args, tmp_path / "short", Screen(quiet=True))
    assert came["settled"] == {"steps": 6, "rows": 4, "accumulate": 2, "precision": "fp32"}
    monkeypatch.undo()
    tune_rung(args, tmp_path / "long", Screen(quiet=True))
    again = check(settle_rung(args, came["settled"]))
    assert tune_rung(again, tmp_path / "again", Screen(quiet=True))["settled"] == came["settled"]
    assert bits(tmp_path / "again") == bits(tmp_path / "short") != bits(tmp_path / "long")


def budget_of(args: Tune) -> Any:
    return tune.get_ready(args)


def test_rows_must_come_in_equal_parts(args: Tune) -> None:
    with pytest.raises(ValueError, match="--rows 5 cannot be taken in 2 equal parts"):
        check(dataclasses.replace(args, rows=5, accumulate=2))


def test_a_base_is_settled_too_and_leaves_pieces_of_what_it_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{text}, number {i}." for i, text in enumerate(TEXTS * 8)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    said = Pretrain(data=(str(tmp_path / "a.jsonl"),), width=32, layers=1, context=48, steps=2, batch=480, vocab=300,
                    held_out=0.1, precision="fp32", accumulate=5)  # fmt: skip
    came = pretrain_base(said, tmp_path / "base", Screen(quiet=True))
    assert came["settled"]["accumulate"] == 5
    assert settle_base(dataclasses.replace(said, accumulate=None), came["settled"]).accumulate == 5
    held = [found.text for found in read(tmp_path / "base" / "run" / HELD_OUT)]
    assert 0 < len(held) < 0.25 * len(texts)
    assert set(held) <= set(texts)
    assert PIECE > 100  # tokens: each of these texts is a piece


# -- stopped


def stopped(args: Tune, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was stopped as its training ended."""

    def interrupted(*rest: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune_rung(args, directory, Screen(quiet=True))


def moved(tmp_path: Path, args: Tune, rename: Callable[[Path], Any]) -> Tune:
    """The same inputs in another place."""
    for name in ("model", "data", "general.jsonl"):
        shutil.move(tmp_path / name, tmp_path / f"new-{name}")
    rename(tmp_path / "new-data")
    return dataclasses.replace(
        args, model=str(tmp_path / "new-model"), task=tmp_path / "new-data" / "task.yaml",
        general=(str(tmp_path / "new-general.jsonl"),),
    )  # fmt: skip


def test_a_stopped_step_goes_on_though_all_was_moved(
    args: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(args, tmp_path / "step", monkeypatch)
    screen, there = Told(), moved(tmp_path, args, lambda data: None)
    shutil.move(tmp_path / "step", tmp_path / "elsewhere")
    monkeypatch.setattr(tune, "timed", None)  # it is the old plan that is gone on with
    tune_rung(there, tmp_path / "elsewhere", screen)
    assert screen.said == []


def test_one_that_cannot_go_on_is_made_anew_and_said(
    args: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renamed file is the same data to the cache; to the run that was stopped its rows have other names."""

    def rename(data: Path) -> None:
        (data / "train.jsonl").rename(data / "learn.jsonl")
        (data / "task.yaml").write_text((data / "task.yaml").read_text().replace("train.jsonl", "learn.jsonl"))

    stopped(args, tmp_path / "step", monkeypatch)
    screen, there = Told(), moved(tmp_path, args, rename)
    assert (tune_rung(there, tmp_path / "step", screen)["settled"]["steps"]) == 6
    assert len(screen.said) == 1
    assert "cannot go on: the train part changed since" in screen.said[0]
    assert screen.said[0].endswith("; it is made anew")


# -- asked


def test_shots_are_chosen_as_it_was_asked(tmp_path: Path) -> None:
    task, parts = prepare(read_task(task_in(tmp_path)))
    asked = Asked(task, "decide", parts["decide"], parts["train"], 2, 0, "nearest", 0)
    for example in parts["decide"]:
        last = asked.shown(example)[-1].fields["source"].split()
        assert sum(word in last for word in example.fields["source"].split()) >= 3
    drawn = dataclasses.replace(asked, choose="seed")
    assert len({tuple(e.id for e in drawn.shown(example)) for example in parts["decide"]}) == 1


def test_the_prompt_that_is_asked_for_is_the_one_that_is_measured(args: Tune, tmp_path: Path) -> None:
    both = task_in(tmp_path / "two", prompts=["{{ source }}", "Of {{ source }} this:"])
    task, parts = prepare(read_task(both))
    for template, begins in enumerate((parts["decide"][0].fields["source"], "Of ")):
        asked = Asked(task, "decide", parts["decide"][:2], parts["train"], 0, 0, template=template)
        measure_rung(args.model, asked, tmp_path / str(template), Screen(quiet=True))
        assert outputs_of(tmp_path / str(template))[0].prompt.startswith(begins)


def test_a_setting_that_came_later_leaves_the_steps_of_before_what_they_were() -> None:
    plain = settings(Tune(model="m", method="full"))
    assert not {"optimizer", "matrix_rate", "output", "json"} & set(plain)
    muon = settings(Tune(model="m", method="full", optimizer="muon", matrix_rate=0.01))
    assert muon == plain | {"optimizer": "muon", "matrix_rate": 0.01}
    assert settings(Pretrain())["optimizer"] == "muon", "of pretraining it is no news"
    assert settings(Pretrain())["dropout"] == settings(Pretrain(dropout=0.0))["dropout"] == 0.0
    assert "init" not in settings(Pretrain())
    assert settings(Pretrain(init="m")) == settings(Pretrain()) | {"init": "m"}
    assert not {"arch", "experts"} & set(settings(Pretrain()))
    mixture = settings(Pretrain(arch="switch", experts=4))
    assert mixture == settings(Pretrain()) | {"arch": "switch", "experts": 4}
