"""`modelwright align ppo` and `align grpo`: learned from every kind of judge, resumed, stopped by an alarm, refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_align import pairs_in
from test_align import words as align_words

from modelwright import cli
from modelwright.adapt.open import open_model
from modelwright.data.examples import Example
from modelwright.data.prompt import Prompt
from modelwright.data.task import prepare, read_task
from modelwright.evaluate.judge import toxicity_of
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import Output
from modelwright.hub.open import save
from modelwright.recipes.methods import with_dropout
from modelwright.recipes.prompts import apart, prompts_of
from modelwright.recipes.rewards import preferred, reward_of
from modelwright.train.rollout import Answer
from tasks import COLOURS, TEXTS, task_in
from tuned import came, losses, same, stopped, weights

JUDGE = """
def letter(prompt, answer): return answer.count("a") / max(1, len(answer))
def never(prompt, answer): return float("nan")
def flat(prompt, answer): return 1.0
def one(answer): return 1.0
def nothing(prompt, answer): return None
def fewer(prompt, answer): return -letter(prompt, answer)
"""


BEFORE = ("", "my ", "the ", "a far ", "the old ", "my new ", "an ", "so ")
ASKED = [before + text for text in TEXTS for before in BEFORE]
PPO = ["--beta", "0.001", "--batch", "32", "--rounds", "16", "--epochs", "2"]


@pytest.fixture
def judge(tmp_path: Path) -> str:
    (tmp_path / "judge.py").write_text(JUDGE)
    return str(tmp_path / "judge.py")


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    (tmp_path / "prompts.txt").write_text("\n".join([*ASKED, TEXTS[0]]) + "\n")
    return str(tmp_path / "prompts.txt")


def words(way: str, model: Path, run: Path, general: Path, *more: str) -> list[str]:
    common = ["--max-new", "6", "--batch", "8", "--rounds", "6", "--tests", "3", "--select", "6", "--measured", "30"]
    common += ["--precision", "fp32", "--json", "--output", str(run), "--general", str(general), "--unfinished", "0"]
    return ["align", way, str(model), *common, *more]


@pytest.mark.parametrize(
    ("way", "shape", "method"),
    [("ppo", "decoder", "lora"), ("ppo", "encoder-decoder", "full"), ("grpo", "decoder", "full"),
     ("grpo", "encoder-decoder", "lora")],
)  # fmt: skip
def test_a_policy_learns_what_is_rewarded(
    way: str, shape: str, method: str, models: dict[str, Path], prompts: str, judge: str, general: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A letter becomes more frequent on prompts kept apart, beyond the interval."""
    more = ["--prompts", prompts, "--reward", f"{judge}:letter", "--method", method]
    rate = "0.003" if (way, method) == ("ppo", "full") else "0.01" if way == "grpo" else "0.03"
    more += ["--rate", rate, *(["--group", "4", "--rounds", "16"] if way == "grpo" else PPO)]
    assert cli.main(words(way, models[shape], tmp_path / "run", general, *more, "--go-on")) == 0
    found = came(capsys)
    change = found["judged"]["reward"]
    assert change["difference"]["low"] > 0
    assert change["after"]["value"] == pytest.approx(change["before"]["value"] + change["difference"]["value"])
    first = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert first["ratio"] == pytest.approx(1, abs=1e-5)
    assert first["kl"] == 0
    assert open_model(found["model"]).path == tmp_path / "run/model"
    assert not (tmp_path / "run/checkpoints").exists()


def test_stopped_and_resumed_is_uninterrupted_to_the_bit(
    models: dict[str, Path], prompts: str, judge: str, general: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A signal in the midst of a round waits for its end: the policy that wrote the answers is gone afterwards."""
    more = [
        "--prompts",
        prompts,
        "--reward",
        f"{judge}:letter",
        "--target",
        "0.5",
        "--gold",
        f"{judge}:fewer",
        "--go-on",
    ]
    assert cli.main(words("ppo", models["decoder"], tmp_path / "whole", general, *more)) == 0
    whole = came(capsys)
    stopped(words("ppo", models["decoder"], tmp_path / "parts", general, *more), monkeypatch, 19)
    assert len(losses(tmp_path / "parts")) == 24  # of 8 steps a round
    assert cli.main(["align", "ppo", "--resume", "--output", str(tmp_path / "parts"), "--json"]) == 0
    parts = came(capsys)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same(weights(tmp_path / "parts/model"), weights(tmp_path / "whole/model"))
    assert parts["judged"] == whole["judged"]


def test_a_reward_that_is_cheated_ends_the_run_at_the_best_moment_of_gold(
    models: dict[str, Path], prompts: str, judge: str, general: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Gold is the reward's opposite: as the one rises the other falls."""
    more = ["--prompts", prompts, "--reward", f"{judge}:letter", "--gold", f"{judge}:fewer", "--method", "full"]
    more += ["--rate", "0.01", "--beta", "0", "--rounds", "60", "--batch", "24", "--tests", "60"]
    assert cli.main(words("ppo", models["decoder"], tmp_path / "run", general, *more)) == 0
    found = came(capsys)
    assert "gold reward fell" in found["actual"]["stopped"]
    assert f"weights of step {found['actual']['best_step']}" in found["actual"]["stopped"]
    assert len(losses(tmp_path / "run")) < 60 * 8
    assert found["judged"]["gold"]["difference"]["low"] <= 0 <= found["judged"]["gold"]["difference"]["high"] + 0.05
    kept = json.loads((tmp_path / "run/model/modelwright.json").read_text())
    assert kept["aligned"]["by"] == "ppo"


def test_an_alarm_before_the_first_test_leaves_the_model_as_it_was(
    models: dict[str, Path], prompts: str, judge: str, general: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    more = ["--prompts", prompts, "--reward", f"{judge}:flat", "--tests", "1", "--rate", "0.05", "--beta", "1"]
    assert cli.main(words("ppo", models["decoder"], tmp_path / "run", general, *more)) == 0
    found = came(capsys)
    assert "the reward gave 1 to every answer" in found["actual"]["stopped"]
    assert found["actual"]["best_step"] == 0
    kept = weights(tmp_path / "run/model")
    assert not any(tensor.any() for name, tensor in kept.items() if "lora_B" in name)


def answer(text: str, said: str = TEXTS[0], **more: str) -> Answer:
    example = Example("a", {"messages": ({"role": "user", "content": said},), **more})
    return Answer(Prompt((), None, said), (), text, True, example)


def test_judges(models: dict[str, Path], judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A function, a metric, a reward model with another tokenizer than the policy's, a classifier's logit."""
    assert cli.main(
        align_words("reward", models["encoder"], pairs_in(tmp_path / "pairs.jsonl"), tmp_path / "rm", "--steps", "40",
                    "--method", "full", "--rate", "0.01")
    ) == 0  # fmt: skip
    from modelwright.data.pairs import conversation_task

    task = conversation_task()
    assert list(reward_of(f"{judge}:letter", task)([answer("an ox"), answer("o")])) == [0.2, 0]
    wanted = [answer("the cat", target="the cat"), answer("no", target="the cat")]
    assert list(reward_of("metric", task)(wanted)) == [1, 0]
    assert list(reward_of("not:metric", task)(wanted)) == [-1, 0]
    model = reward_of(str(tmp_path / "rm/model"), task)
    good, bad = COLOURS[TEXTS[0].split()[-1]], "town"
    scores = model([answer(good), answer(bad), answer("")])
    assert scores[0] > scores[1]
    assert list(model([answer(bad)])) == pytest.approx([scores[1]], abs=1e-4)  # alone as beside others
    told = Answer(Prompt((), None, TEXTS[0]), (), good, True, Example("a", {"source": TEXTS[0]}))
    assert list(model([told])) == pytest.approx([scores[0]], abs=1e-4)  # a task's prompt, read as a message
    with pytest.raises(ValueError, match="for the reward model, which reads 48"):
        model([answer("cat " * 60)])

    task_path = task_in(tmp_path / "classify", "classify")
    command = ["tune", str(models["encoder"]), "--task", str(task_path), "--method", "full", "--steps", "30"]
    assert cli.main([*command, "--rate", "0.01", "--precision", "fp32", "-o", str(tmp_path / "cls"), "--json"]) == 0
    capsys.readouterr()
    classifier = tmp_path / "cls/model"
    lm = open_model(classifier)
    names = lm.model.cfg.labels.names  # type: ignore[union-attr]
    (score,) = reward_of(f"{classifier}:{names[1]}", task)([answer("the old sea red")])
    from modelwright.adapt.open import prompter_of
    from modelwright.data.task import read_task

    prompt = prompter_of(read_task(task_path), lm).prompt(Example("a", {"text": "the old sea red", "label": names[0]}))
    assert score == pytest.approx(float(ModelScorer(lm).predict([prompt])[0][1]), abs=1e-5)
    with pytest.raises(ValueError, match=f"has no label 'x': its labels are {names[0]}"):
        reward_of(f"{classifier}:x", task)
    with pytest.raises(ValueError, match="is no reward model"):
        reward_of(str(classifier), task)


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    models: dict[str, Path], prompts: str, judge: str, general: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    more = ["--prompts", prompts, "--reward", f"{judge}:letter", "--dry-run"]
    assert cli.main(words("ppo", models["decoder"], tmp_path / "run", general, *more)) == 0
    found = came(capsys)
    assert (found["rounds"], found["steps"]) == (6, 6 * 8)
    assert 0 < found["predicted"]["seconds"] < 60  # some 48 answers, and 30 looked at twice
    assert found["predicted"]["memory"] > 0
    assert not (tmp_path / "run").exists()


def test_toxicity_dropout_and_a_part_by_name(
    models: dict[str, Path], judge: str, general: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The share of toxic answers stands beside the metric, of the part that is named; and a model keeps its dropout,
    though it learned without."""
    opened = open_model(models["decoder"])
    save(replace(opened, model=with_dropout(opened.model, 0.25)), tmp_path / "dropping")
    task = task_in(tmp_path / "task", "generate")
    with open(judge, "a") as file:
        file.write("def without(prompt, answer): return 'a' not in answer\n")
    more = ["--task", str(task), "--reward", f"{judge}:letter", "--toxicity", f"{judge}:without", "--method", "full"]
    more += ["--part", "decide", "--rate", "0.003", "--tests", "1", "--go-on", *PPO]
    assert cli.main(words("ppo", tmp_path / "dropping", tmp_path / "run", general, *more)) == 0
    found = came(capsys)["judged"]
    assert set(found) == {"reward", "toxicity", "rougeL"}
    assert found["toxicity"]["difference"]["value"] < 0 < found["reward"]["difference"]["value"]
    assert found["toxicity"]["before"]["n"] == len(prepare(read_task(task))[1]["decide"])
    assert open_model(tmp_path / "run/model").model.cfg.dropout == 0.25
    with pytest.raises(ValueError, match="toxicity is from 0, or False, to 1"):
        toxicity_of(f"{judge}:fewer")(["p"], ["an"])
    with pytest.raises(ValueError, match=r"is to be by a label of a classifier \(DIR:LABEL\)"):
        toxicity_of("metric")


def test_the_share_that_is_preferred_to_the_reference() -> None:
    """By length here: longer, as long, and shorter than the reference; the prompt is the one that was answered."""
    outputs = [Output("a", "Q", said, "four", {}) for said in ("fives", "four", "two")]
    examples = [Example("a", {"source": "Q"})] * 3
    asked: list[str] = []

    def longer(answers: Sequence[Answer]) -> list[float]:
        asked.extend(answer.prompt.text for answer in answers)
        return [len(answer.text) for answer in answers]

    assert preferred(longer, examples, outputs).tolist() == [[1, 1], [0.5, 1], [0, 1]]
    assert set(asked) == {"Q"}
    with pytest.raises(ValueError, match="is nan: it is to be a finite number"):
        preferred(lambda answers: [float("nan")] * len(answers), examples, outputs)


def test_prompts_may_be_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    said = ["a", turns, "a", "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in said))
    assert [one.fields["messages"] for one in prompts_of(str(tmp_path / "p.jsonl"))] == [(turns[0],), tuple(turns)]
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": turns[:2]}) + "\n")
    with pytest.raises(ValueError, match=r"p.jsonl:1: the prompt is to end with what the user says"):
        prompts_of(str(tmp_path / "p.jsonl"))


def test_prompts_are_taken_once_and_some_are_kept_apart(prompts: str) -> None:
    found = prompts_of(prompts)
    assert len(found) == len(ASKED)
    parts = apart(found, 0)
    assert sorted(id(one) for part in parts for one in part) == sorted(map(id, found))
    assert min(map(len, parts)) > 0.05 * len(found)
    assert [part[::-1] for part in apart(found[::-1], 0)] == [*parts]


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("align ppo", "say which model to align"),
        ("align ppo MODEL", "say what judges its answers"),
        ("align ppo MODEL --reward metric", "by one of the two: --task task.yaml or --prompts FILE"),
        ("align ppo MODEL --reward metric --prompts PROMPTS", "a task's references, which a file of prompts has not"),
        ("align ppo MODEL --reward JUDGE:letter --prompts PROMPTS --target 0", "--target must be above 0"),
        ("align ppo MODEL --reward JUDGE:letter --prompts PROMPTS --beta -1", "--beta must be 0 or more"),
        ("align ppo MODEL --reward JUDGE:nothing --prompts PROMPTS", "it is to be a finite number"),
        ("align ppo MODEL --reward BROKEN:f --prompts PROMPTS", "cannot be run: SyntaxError"),
        ("align ppo MODEL --reward nothing --prompts PROMPTS", "a reward model, a classifier with a label"),
        ("align ppo MODEL --reward JUDGE:nobody --prompts PROMPTS", "has no function 'nobody'"),
        ("align ppo MODEL --reward not:JUDGE:nothing --prompts PROMPTS", "it is to be a finite number"),
        ("align ppo MODEL --reward JUDGE:one --prompts PROMPTS", "judge.py:one cannot judge the answer"),
        ("align ppo MODEL --reward nothere.py:f --prompts PROMPTS", "there is no file nothere.py"),
        ("align ppo MODEL --reward JUDGE:never --prompts PROMPTS --batch 8", "is to be a finite number"),
        ("align ppo MODEL --reward JUDGE:letter --prompts none.txt", "there is no file of prompts none.txt"),
        ("align ppo MODEL --reward JUDGE:letter --prompts PROMPTS --batch 8 --minibatch 3", "make no equal steps"),
        ("align grpo MODEL --reward JUDGE:letter --prompts PROMPTS --group 1", "GRPO needs 2 or more"),
        ("align grpo ENCODER --reward JUDGE:letter --prompts PROMPTS", "an encoder cannot generate"),
    ],
)  # fmt: skip
def test_refused(
    command: str, fault: str, models: dict[str, Path], prompts: str, judge: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    named: dict[str, Any] = {"MODEL": models["decoder"], "ENCODER": models["encoder"], "PROMPTS": prompts}
    (tmp_path / "broken.py").write_text("def f(:")
    args = [str(named.get(word, word)).replace("JUDGE", judge) for word in command.split()]
    args = [word.replace("BROKEN", str(tmp_path / "broken.py")) for word in args]
    args += ["--max-new", "6"] if "--prompts" in args else []
    assert cli.main([*args, *(["--output", str(tmp_path / "run")] if len(args) > 2 else [])]) == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
