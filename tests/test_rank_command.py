"""`modelwright rank`: answers drawn and read, what is refused, going on, handing on."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelwright.cli import main
from modelwright.data.examples import read_examples
from modelwright.data.judgements import Journal, Judgement, read_judgements
from modelwright.data.preferences import preferences
from modelwright.data.rankings import read_rankings
from modelwright.data.task import read_task
from modelwright.hub.open import save
from modelwright.infer.sample import Sampling
from modelwright.recipes import rank
from modelwright.recipes.answers import draw, item_of, read_answers, read_prompts, share
from modelwright.recipes.ranked import load_items
from modelwright.serve.labelling import Round
from modelwright.serve.server import Limits
from served import GPT2, build

TASK = """\
kind: summarise
data: {train: rows.jsonl}
columns: {source: talk, target: summary}
prompt: 'Sum up: {{ talk }}'
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELWRIGHT_KEY", raising=False)
    (tmp_path / "p.txt").write_text("the cat\n\nthe dog\nthe mat\n")
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"prompt": "Why?", "completions": ["So.", "No.", "So. "], "models": ["A", "B", "B"]}) + "\n"
    )
    return tmp_path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Round]:
    """The rounds that would have been served, each with a ranking of its first item, as if a labeller had come."""
    found: list[Round] = []

    def run(labelling: Round, limits: Limits, listener: socket.socket) -> None:
        found.append(labelling)
        for who in ("Anna", "Ben"):
            item = labelling.turn(who).item
            if item is not None:
                ranks = list(range(1, len(item.completions) + 1))
                labelling.judge(f"{who}-{item.id}", who, item.id, ranks, 1.0)

    monkeypatch.setattr(rank, "run", run)
    return found


def command(*words: str) -> int:
    return main(["rank", "--criterion", "Which?", "--port", "0", *words])


# -- prompts and answers --------------------------------------------------------------------------


def test_prompts_are_lines_texts_messages_or_by_a_task(here: Path) -> None:
    assert [one.prompt for one in read_prompts(here / "p.txt", None)] == ["the cat", "the dog", "the mat"]
    talk = [{"role": "user", "content": "Hi?"}]
    (here / "p.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("Why?", talk)))
    assert [one.prompt for one in read_prompts(here / "p.jsonl", None)] == ["Why?", tuple(talk)]
    (here / "task.yaml").write_text(TASK)
    (here / "rows.jsonl").write_text('{"talk": "A long one."}\n{"talk": "B", "summary": "b"}\n')
    made = read_prompts(here / "rows.jsonl", read_task(here / "task.yaml"))
    assert [one.prompt for one in made] == ["Sum up: A long one.", "Sum up: B"]


def test_answers_are_shared_evenly_and_the_odd_ones_by_turns() -> None:
    for n, models in ((4, 2), (3, 2), (5, 3), (9, 4)):
        table = [[share(prompt, model, n, models) for model in range(models)] for prompt in range(models)]
        assert all(sum(row) == n for row in table)
        assert all(max(row) - min(row) <= 1 for row in table)
        assert {sum(column) for column in zip(*table, strict=True)} == {n}


def test_the_same_text_is_shown_once_with_all_who_wrote_it() -> None:
    item = item_of("1", "p", [" a", "b", "a\n", "b"], ["A", "A", "B", "B"], {})
    assert item.completions == (" a", "b")
    assert item.writers == (("A", "B"), ("A", "B"))


def test_a_draw_depends_on_its_seed_and_prompt_alone(here: Path) -> None:
    lm, asks = build(), Sampling(8, 1.0, seed=3)
    asked = read_prompts(here / "p.txt", None)
    told: list[int] = []
    every = draw("m", lm, asked, [2, 1, 3], None, asks, lambda: told.append(1))
    assert [len(row) for row in every] == [2, 1, 3]
    assert len(told) == 6
    assert draw("m", lm, asked[2:], [3], None, asks, lambda: None) == every[2:]
    assert draw("m", lm, asked, [2, 1, 3], None, replace(asks, seed=4), lambda: None) != every
    assert len({*every[2]}) == 3


def test_a_conversation_is_drawn_by_the_chat_template_and_needs_one(here: Path) -> None:
    (here / "p.jsonl").write_text(json.dumps({"prompt": [{"role": "user", "content": "the cat"}]}) + "\n")
    asked = read_prompts(here / "p.jsonl", None)
    (drawn,) = draw("m", build(), asked, [1], None, Sampling(4, 1.0, seed=0), lambda: None)
    plain = read_prompts(here / "p.txt", None)[:1]
    assert drawn != draw("m", build(), plain, [1], None, Sampling(4, 1.0, seed=0), lambda: None)[0]
    with pytest.raises(ValueError, match=r"p.jsonl:1: .* m has no chat template"):
        draw("m", build(template=None), asked, [1], None, Sampling(4, 1.0, seed=0), lambda: None)


def test_a_prompt_that_does_not_fit_and_a_model_that_cannot_write_are_told(here: Path) -> None:
    asks = Sampling(8, 1.0, seed=0)
    (here / "task.yaml").write_text(TASK)
    (here / "rows.jsonl").write_text(json.dumps({"talk": "the cat sat " * 200}) + "\n")
    task = read_task(here / "task.yaml")
    with pytest.raises(ValueError, match=r"rows.jsonl:1: the prompt is \d+ tokens longer than m can read"):
        draw("m", build(), read_prompts(here / "rows.jsonl", task), [1], task, asks, lambda: None)
    (here / "long.txt").write_text("the cat sat " * 200)
    with pytest.raises(ValueError, match=r"long.txt:1: .*context"):
        draw("m", build(), read_prompts(here / "long.txt", None), [1], None, asks, lambda: None)
    encoder = build(replace(GPT2, causal=False))
    with pytest.raises(ValueError, match="m is an encoder"):
        draw("m", encoder, read_prompts(here / "p.txt", None), [1, 1, 1], None, asks, lambda: None)


# -- the command ----------------------------------------------------------------------------------


def test_two_models_answer_once_and_the_same_command_goes_on(
    here: Path, served: list[Round], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(build(seed=0), here / "m1")
    save(build(seed=1), here / "m2")
    words = ["--model", "m1", "--model", "m2", "--prompts", "p.txt", "--max-new", "6", "-o", "out", "--n", "3"]
    assert command(*words) == 0
    said = capsys.readouterr()
    assert "m1 wrote 5 answers, seed 0" in said.err
    assert "m2 wrote 4 answers, seed 1" in said.err
    items = load_items(here / "out")
    assert [item.prompt for item in items] == ["the cat", "the dog", "the mat"]
    assert {name for item in items for names in item.writers for name in names} == {"m1", "m2"}
    before = (here / "out" / "completions.jsonl").read_bytes()
    monkeypatch.setattr(rank, "open_model", None)  # no model is opened again
    assert command(*words) == 0
    assert "2 judgements so far" in capsys.readouterr().out
    assert (here / "out" / "completions.jsonl").read_bytes() == before
    assert len(read_judgements(here / "out" / "judgements.jsonl")[0]) == 4
    for other, words_for in (
        (["--max-new", "7"], "other sampling"),
        (["--criterion", "Why?"], "another criterion"),
        (["--seed", "1"], "another --seed"),
    ):
        assert command(*words, *other) == 2
        assert f"holds rankings of {words_for}" in capsys.readouterr().err
    (here / "p.txt").write_text("another\n")
    save(build(seed=2), here / "m2", overwrite=True)
    assert command(*words) == 2
    assert "holds rankings of other prompts and other models" in capsys.readouterr().err


def test_answers_from_a_file_all_the_way_to_preferences(
    here: Path, served: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--completions", "a.jsonl", "-o", "out", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["ranked"], found["skipped"], found["agreement"]["labellers"]) == (2, 0, 2)
    for form in ("pairs", "label-studio", "argilla"):
        assert main(["rank", "export", "out", "--form", form, "-o", f"{form}.json{'l' * (form == 'pairs')}"]) == 0
    said = capsys.readouterr().err
    assert "2 rankings by 2 labellers" in said
    assert "<Ranker" in said
    rows = read_examples("pairs.jsonl")
    assert {pair.chosen for pair in preferences(rows)} <= {"So.", "No."}
    assert rows[0].fields["models"] == [["A", "B"], ["B"]]
    for form in ("label-studio", "argilla"):
        assert main(["rank", "import", f"{form}.json", "--form", form, "-o", f"{form}-back.jsonl"]) == 0
        back = read_rankings(here / f"{form}-back.jsonl", "pairs")
        assert [(one.labeller, one.ranks) for one in back] == [
            (row.fields["labeller"], tuple(row.fields["ranks"])) for row in rows
        ]
    assert main(["rank", "export", "pairs.jsonl", "--form", "argilla", "-o", "again.json"]) == 0


def test_a_task_s_columns_stand_beside_its_rankings(here: Path, served: list[Round]) -> None:
    save(build(), here / "m")
    (here / "task.yaml").write_text(TASK + "decoding: {max_new: 8}\n")
    (here / "rows.jsonl").write_text('{"talk": "the cat sat", "summary": "cat"}\n')
    words = ["--model", "m", "--prompts", "rows.jsonl", "--task", "task.yaml", "-o", "out", "--max-new", "8"]
    assert command(*words) == 0
    assert main(["rank", "export", "out", "-o", "rows-out.jsonl"]) == 0
    (first, *_) = preferences(read_examples("rows-out.jsonl"), ["talk"])
    assert first.fields == {"talk": "the cat sat"}
    assert read_rankings(here / "rows-out.jsonl", "pairs")[0].prompt == "Sum up: the cat sat"


def test_a_dry_run_opens_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "m").mkdir()
    (here / "m" / "config.json").write_text("{}")
    words = ["--model", "m", "--prompts", "p.txt", "--overlap", "0.34", "--dry-run", "--json"]
    assert command(*words) == 0
    assert json.loads(capsys.readouterr().out) == {"prompts": 3, "shared": 1, "answers": 12, "resumed": False}
    assert not (here / "runs").exists()


ASK = ("--model", "m", "--prompts", "p.txt")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to rank"),
        (["--prompts", "p.txt"], "say who answers the prompts"),
        ([*ASK, "--criterion", " "], "say what labellers judge by"),
        ([*ASK, "--completions", "a.jsonl"], "leave out --model"),
        ([*ASK, "--n", "1"], "--n is 1"),
        ([*ASK, "--model", "a", "--model", "b", "--n", "2"], "one or more for each model"),
        ([*ASK, "--overlap", "1.5"], "--overlap is 1.5"),
        ([*ASK, "--temperature", "0"], "--temperature is 0"),
        ([*ASK, "--host", "0.0.0.0"], "give a key"),
        (["--model", "nowhere/at/all", "--prompts", "p.txt"], "there is no directory nowhere/at/all"),
        (["--model", "m", "--prompts", "empty.txt"], "empty.txt holds no prompt"),
        (["--model", "m", "--prompts", "lost.txt"], "no such file or directory: lost.txt"),
        (["--model", "m", "--prompts", "noprompt.jsonl"], "noprompt.jsonl:1: the prompt is to be a text"),
        (["--completions", "one.jsonl"], "one.jsonl:1 has one answer, and there is nothing to rank"),
        (["--completions", "same.jsonl"], "same.jsonl:1 has one answer"),
        (["--completions", "ten.jsonl"], "has 10 answers, and a page ranks 9"),
        (["--completions", "a.jsonl", "-o", "full"], "full is not empty, and holds no labelling"),
        (["--completions", "a.jsonl", "-o", "p.txt"], "p.txt is a file"),
    ],
)
def test_mistakes_are_one_sentence(
    words: Sequence[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(build(), here / "m")
    (here / "empty.txt").write_text("\n \n")
    (here / "noprompt.jsonl").write_text('{"text": "x"}\n')
    for name, texts in (("one", ["a"]), ("same", ["a", " a"]), ("ten", list("abcdefghij"))):
        (here / f"{name}.jsonl").write_text(json.dumps({"prompt": "x", "completions": texts}) + "\n")
    (here / "full").mkdir()
    (here / "full" / "other").write_text("")
    assert command(*words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1]
    assert not (here / "runs").exists()


def test_answers_that_are_all_alike_leave_nothing_to_rank(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(build(), here / "m")
    monkeypatch.setattr(rank, "draw", lambda name, lm, asked, counts, *rest: [["same"] * count for count in counts])
    assert command(*ASK) == 2
    assert "all answers to each prompt are the same text" in capsys.readouterr().err


def test_two_processes_on_one_directory_and_a_torn_line(
    here: Path, served: list[Round], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--completions", "a.jsonl", "-o", "out"]
    assert command(*words) == 0
    with Journal(here / "out" / "judgements.jsonl"):
        assert command(*words) == 2
        assert "out is being labelled by another process" in capsys.readouterr().err
    with (here / "out" / "judgements.jsonl").open("a") as file:
        file.write('{"id": "x", "it')
    assert command(*words) == 0
    assert "line 3 of out/judgements.jsonl was cut short by a kill" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export"], "say what to export"),
        (["export", "out"], "say where to write"),
        (["export", "out", "-o", "p.txt"], "p.txt is there already"),
        (["export", "out", "-o", "new"], "out holds no ranking yet"),
        (["export", "nowhere", "-o", "new"], "nowhere"),
        (["import", "p.txt", "--form", "argilla", "-o", "new"], "neither a JSON list nor JSON Lines"),
        (["export", "out", "--form", "argila", "-o", "new"], "argilla"),
    ],
)
def test_mistakes_of_handing_on(
    words: list[str], said: str, here: Path, served: list[Round], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(rank, "run", lambda *_: None)
    assert command("--completions", "a.jsonl", "-o", "out") == 0
    assert main(["rank", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (here / "new").exists()


def test_skipped_is_not_exported(here: Path, served: list[Round], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "run", lambda *_: None)
    assert command("--completions", "a.jsonl", "-o", "out") == 0
    with Journal(here / "out" / "judgements.jsonl") as journal:
        journal.add(Judgement("skipped1", "a.jsonl:1", "Anna", None, (0, 1), 1.0))
        journal.add(Judgement("ranked1", "a.jsonl:1", "Ben", (1, 1), (1, 0), 1.0))
    assert main(["rank", "export", "out", "-o", "new.jsonl"]) == 0
    assert [one.labeller for one in read_rankings(here / "new.jsonl", "pairs")] == ["Ben"]


def test_read_answers_keeps_who_wrote_what(here: Path) -> None:
    (item,) = read_answers(here / "a.jsonl")
    assert (item.completions, item.writers) == (("So.", "No."), (("A", "B"), ("B",)))
