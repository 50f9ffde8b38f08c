"""What came of a tuning run: what it forgot, what is recorded of it, what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright import cli
from modelwright.adapt.open import open_model
from modelwright.data.prompt import Prompter
from modelwright.data.task import prepare, read_task
from modelwright.evaluate.forgetting import forgetting
from modelwright.evaluate.scorer import ModelScorer
from modelwright.recipes.methods import speaking
from modelwright.recipes.ready import rows_of
from modelwright.serve.registry import open_served
from tasks import COLOURS, TEXTS, task_in
from tuned import came


@pytest.mark.parametrize(
    ("shape", "kind", "method"),
    [("decoder", "generate", "full"), ("decoder", "generate", "lora"), ("decoder", "generate", "prompt"),
     ("encoder", "classify", "full"), ("encoder", "classify", "prompt"), ("encoder-decoder", "generate", "full")],
)  # fmt: skip
def test_forgetting_is_of_the_base_and_of_the_tuned_model(
    shape: str, kind: str, method: str, words: Any, models: dict[str, Path], general: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What a run says is what two models that are opened afterwards say."""
    assert cli.main(words(shape, task_in(tmp_path, kind), "--method", method, "--steps", "6", "--rate", "0.05")) == 0
    found = came(capsys)
    base, head, tuned = open_model(models[shape]), open_model(models[shape]), open_model(found["model"])
    if method == "full" and shape == "encoder":  # its vocabulary's head reads the embeddings, and they have learned
        head.model.head.proj.weight = tuned.model.embed.tokens.weight
    texts = [json.loads(line)["text"] for line in general.read_text().splitlines()]
    spare = 20 if method == "prompt" else 0  # of 48 that a model reads, and the last text is longer
    again = forgetting(ModelScorer(base, spare=spare), ModelScorer(speaking(tuned, head)), texts)
    told = found["forgetting"]
    assert told["before"]["value"] == pytest.approx(again.before.value, rel=1e-6)
    assert told["after"]["value"] == pytest.approx(again.after.value, rel=1e-6)
    assert told["before"]["value"] != told["after"]["value"]
    assert told["difference"]["value"] == pytest.approx(told["after"]["value"] - told["before"]["value"])


@pytest.mark.parametrize("named", [True, False])
def test_a_text_that_nobody_named_is_said_to_be_the_default(
    named: bool, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words("decoder", task_in(tmp_path), "--steps", "1")
    at = command.index("--general")
    command = command if named else command[:at] + command[at + 2 :]
    assert cli.main([word for word in command if word != "--json"]) == 0
    kept = json.loads((tmp_path / "run/plan.json").read_text())["forgetting"]
    record = json.loads((tmp_path / "run/model/modelwright.json").read_text())["forgetting"]
    assert kept["default"] is record["default"] is not named
    assert (kept["text"] == "dialogues of the embedded desk") is not named
    told = " ".join(capsys.readouterr().err.split())
    assert ("that is the default text, foreign to a model which was not pretrained on it" in told) is not named


def test_a_model_that_labels_already_is_tuned_on_and_has_nothing_to_forget(
    words: Any, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_in(tmp_path, "classify")
    assert cli.main(words("encoder", task, "--method", "full", "--steps", "2", output="one")) == 0
    models["labelled"] = Path(came(capsys)["model"])
    assert cli.main(words("labelled", task, "--method", "lora", "--steps", "2", output="two")) == 0
    assert came(capsys)["forgetting"] is None
    path = tmp_path / "task.yaml"
    path.write_text(path.read_text() + "labels: [town, cat, mat, birds]\n")
    assert cli.main(words("labelled", task, "--steps", "2", output="three")) == 2
    told = capsys.readouterr().err
    assert "has the labels birds, cat, mat, town, and the task town, cat, mat, birds: list them in that order" in told
    assert cli.main(words("labelled", task_in(tmp_path / "tag", "tag"), "--steps", "2", output="four")) == 2
    assert "head labels each text, which is not what the task asks" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_tuned_model_is_asked_as_it_was_taught(
    method: str, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The contract, the data, the seed and the base stand in its record; other prompts are refused by evaluate."""
    task = task_in(tmp_path)
    assert cli.main(words("decoder", task, "--method", method, "--steps", "2")) == 0
    found = came(capsys)
    record = json.loads((Path(found["model"]) / "modelwright.json").read_text())
    assert record["contract"] == found["inputs"]["contract"]
    [served] = open_served(found["model"], "tuned")  # which refuses terms that are not the contract's
    assert served.contract == record["contract"]
    assert served.task is not None
    assert served.task.prompts == read_task(task).prompts
    assert record["base"]["digest"] == found["inputs"]["base"]
    assert record["data"].keys() == {"train", "select", "decide", "test"}
    assert record["seed"] == 0
    assert {"versions", "machine", "method", "forgetting", "select"} <= record.keys()
    model = found["model"]
    if method == "lora":
        model = str(tmp_path / "merged")
        assert cli.main(["merge", found["model"], "--output", model]) == 0
    assert cli.main(["evaluate", model, "--task", str(task), "--json"]) == 0
    task.write_text(task.read_text() + "instruction: Answer.\n")
    capsys.readouterr()
    assert cli.main(["evaluate", model, "--task", str(task), "--json"]) == 2
    assert "was trained with other prompts" in capsys.readouterr().err


def test_the_settings_that_are_kept_make_the_same_run(words: Any, tmp_path: Path) -> None:
    """Rate, length and steps are said, whatever they were derived from."""
    assert cli.main(words("decoder", task_in(tmp_path), "--time", "1s", "--epochs", "1")) == 0
    kept = yaml.safe_load((tmp_path / "run/run.yaml").read_text())
    plan = json.loads((tmp_path / "run/plan.json").read_text())["predicted"]
    assert kept["time"] is None
    assert (kept["steps"], kept["rate"], kept["length"]) == (plan["steps"], plan["rate"], plan["length"])
    assert kept["rate"] == 0.03  # a LoRA on a width of 32: 1 / 32, to one digit


def test_several_prompts_are_learned_in_turn(models: dict[str, Path], tmp_path: Path) -> None:
    task, parts = prepare(read_task(task_in(tmp_path, prompts=["{{ source }}", "my {{ source }} {{ source }}"])))
    lm = open_model(models["decoder"])
    rows = rows_of(Prompter(task, lm.tokenizer, "decoder", 48), parts["train"])
    texts = [lm.tokenizer.decode(row.tokens.tolist()[1:]) for row in rows]
    for at, (text, example) in enumerate(zip(texts, parts["train"], strict=True)):
        said = example.fields["source"]
        assert text == f"{f'my {said} {said}' if at % 2 else said} {COLOURS[said.split()[-1]]}"


def test_a_dry_run_tells_and_writes_nothing(words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words("decoder", task_in(tmp_path), "--dry-run")) == 0
    found = came(capsys)
    assert not (tmp_path / "run").exists()
    (prompt, learned), (answer, carries) = found["samples"][0]
    assert (prompt.removeprefix("<|endoftext|>") in TEXTS, learned) == (True, False)
    assert (answer, carries) == (f" {COLOURS[prompt.split()[-1]]}<|endoftext|>", True)
    assert found["predicted"]["learning"] < found["predicted"]["parameters"]
    assert cli.main([word for word in words("decoder", task_in(tmp_path), "--dry-run") if word != "--json"]) == 0
    told = capsys.readouterr().err
    assert "what is bold and green carries loss" in told
    assert "the plan" in told


def test_it_is_told_in_a_table(words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [word for word in words("decoder", task_in(tmp_path), "--steps", "2") if word != "--json"]
    assert cli.main(command) == 0
    told = capsys.readouterr().err
    assert "the best moment, which is kept" in told
    assert "nats a token on" in told
