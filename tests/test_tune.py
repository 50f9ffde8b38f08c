"""Tuning as a whole: against a plain loop, learned, resumed, and what is refused."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import Tensor

from modelwright import cli
from modelwright.adapt.open import open_model
from modelwright.data.prompt import Prompter
from modelwright.data.task import prepare, read_task
from modelwright.evaluate.forgetting import forgetting
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import measure
from modelwright.hub.open import LanguageModel
from modelwright.losses.language import language_model
from modelwright.recipes import budget, pretrain, tune
from modelwright.recipes.best import Best, better, spread
from modelwright.recipes.budget import make_plan, step_seconds
from modelwright.recipes.evaluate import prompter_of
from modelwright.recipes.methods import speaking
from modelwright.recipes.ready import get_ready, rows_of
from modelwright.recipes.tuning import Tune
from modelwright.recipes.watch import Watch
from tasks import COLOURS, TEXTS, model_in, task_in

SHAPES = ("decoder", "encoder", "encoder-decoder")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {shape: model_in(tmp_path_factory.mktemp("models") / shape, shape) for shape in SHAPES}


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("general") / "general.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:12]))
    return path


@pytest.fixture(autouse=True)
def other_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run does not seed itself would show. And nobody waits for the machine's peak."""
    torch.manual_seed(99)
    monkeypatch.setattr(pretrain, "measure_peak", lambda dtype: 1e9)


@pytest.fixture
def words(models: dict[str, Path], general: Path, tmp_path: Path) -> Any:
    """The words of a command."""

    def made(shape: str, task: Path, *more: str, output: str = "run") -> list[str]:
        common = ["--general", str(general), "--precision", "fp32", "--dropout", "0", "--json"]
        common = common[:-3] + common[-1:] if "--dropout" in more else common
        common += [] if "--tests" in more else ["--tests", "1"]
        return ["tune", str(models[shape]), "--task", str(task), "--output", str(tmp_path / output), *common, *more]

    return made


def came(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(model: Path) -> dict[str, Tensor]:
    return load_file(next(model.glob("*model.safetensors")))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- learned ----------------------------------------------------------------------------------------------

LEARNED = [
    ("decoder", "generate", "full", 60, 0.01),
    ("decoder", "generate", "lora", 120, 0.03),
    pytest.param("decoder", "classify", "full", 60, 0.01, marks=pytest.mark.slow),
    ("encoder-decoder", "generate", "full", 60, 0.005),
    pytest.param("encoder-decoder", "generate", "lora", 120, 0.005, marks=pytest.mark.slow),
    ("encoder", "classify", "full", 60, 0.01),
    ("encoder", "classify", "lora", 90, 0.03),
    ("encoder", "tag", "full", 40, 0.01),
]


@pytest.mark.parametrize(("shape", "kind", "method", "steps", "rate"), LEARNED)
def test_a_task_is_learned_and_the_model_on_the_disk_is_the_one_that_learned(
    shape: str, kind: str, method: str, steps: int, rate: float, words: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    written: list[LanguageModel] = []
    write = tune.write
    monkeypatch.setattr(tune, "write", lambda lm, *rest: (written.append(lm), write(lm, *rest))[1])
    task = task_in(tmp_path, kind)
    more = ["--method", method, "--steps", str(steps), "--rate", str(rate), "--tests", "2"]
    assert cli.main(words(shape, task, *more)) == 0
    found = came(capsys)
    assert found["actual"]["best"] == 1.0
    assert losses(tmp_path / "run")[-1] < 0.2 * losses(tmp_path / "run")[0]
    lm = open_model(found["model"])
    tokens = torch.arange(20).view(2, 10)
    memory = [m.encode(tokens) if m.encoder is not None else None for m in (lm.model, written[0].model)]
    assert torch.equal(lm.model(tokens, memory=memory[0]), written[0].model(tokens, memory=memory[1]))
    loaded, parts = prepare(read_task(task))
    outcome = measure(ModelScorer(lm), loaded, prompter_of(loaded, lm), parts["select"], part="select")
    assert outcome.scores[outcome.metric].value == 1.0


PROMPTED = [("decoder", "generate"), ("encoder", "classify"), ("encoder-decoder", "generate")]


@pytest.mark.parametrize(("shape", "kind"), PROMPTED)
def test_a_soft_prompt_learns_and_the_rest_stays(
    shape: str, kind: str, words: Any, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--method", "prompt", "--tokens", "6", "--steps", "30", "--rate", "0.1"]
    assert cli.main(words(shape, task_in(tmp_path, kind), *more)) == 0
    told = losses(tmp_path / "run")
    assert sum(told[-5:]) / 5 < 0.96 * told[0]
    lm, base = open_model(came(capsys)["model"]), open_model(models[shape])
    assert len(lm.model.embed.soft) == 6
    assert same(dict(lm.model.stack.state_dict()), dict(base.model.stack.state_dict()))


# -- against slower ways ----------------------------------------------------------------------------------


def plainly(lm: LanguageModel, pairs: list[tuple[str, str]], steps: int, rate: float, warmup: int) -> list[float]:
    """What a reader of the papers would write: one example at a time, and the loss on the answer and its end alone."""
    model = lm.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0, foreach=False, fused=False)
    told = []
    for step in range(steps):
        total, count = torch.zeros(()), 0
        for source, target in pairs:
            assert lm.tokenizer.eos is not None
            prompt, answer = (
                lm.tokenizer.encode(source, special=True),
                [*lm.tokenizer.encode(f" {target}"), lm.tokenizer.eos],
            )
            logits = model(torch.tensor([[*prompt, *answer[:-1]]]))[0]  # (T, V)
            total = total + F.cross_entropy(logits[len(prompt) - 1 :], torch.tensor(answer), reduction="sum")
            count += len(answer)
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / warmup, (steps - step) / (steps - warmup))
        optimizer.step()
        optimizer.zero_grad()
        told.append(float(total.detach() / count))
    return told


def pairs_of(task: Path) -> list[tuple[str, str]]:
    lines = (task.parent / "train.jsonl").read_text().splitlines()
    return [(row["source"], row["target"]) for row in map(json.loads, lines)]


def test_it_trains_as_a_plain_loop_over_single_examples_does(
    words: Any, models: dict[str, Path], tmp_path: Path
) -> None:
    task = task_in(tmp_path, sizes=(20, 0, 0, 0))
    more = ["--method", "full", "--steps", "8", "--rate", "0.003", "--batch", "999", "--warmup", "0.25"]
    assert cli.main(words("decoder", task, *more)) == 0
    expected = plainly(open_model(models["decoder"]), pairs_of(task), 8, 0.003, 2)
    assert losses(tmp_path / "run") == pytest.approx(expected, abs=2e-5)
    assert expected[-1] < expected[0] - 0.3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_loss_is_trls(words: Any, models: dict[str, Path], tmp_path: Path) -> None:
    trl, datasets, transformers = map(pytest.importorskip, ("trl", "datasets", "transformers"))
    task = task_in(tmp_path, sizes=(20, 0, 0, 0))
    assert cli.main(words("decoder", task, "--method", "full", "--steps", "1", "--batch", "999")) == 0
    rows = [{"prompt": source, "completion": f" {target}"} for source, target in pairs_of(task)]
    args = trl.SFTConfig(output_dir=str(tmp_path / "trl"), completion_only_loss=True, report_to=[], use_cpu=True,
                         bf16=False, max_length=None, per_device_train_batch_size=20)  # fmt: skip
    trainer = trl.SFTTrainer(
        transformers.AutoModelForCausalLM.from_pretrained(models["decoder"]), args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(models["decoder"]),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    assert losses(tmp_path / "run") == [pytest.approx(float(trainer.compute_loss(trainer.model, batch)), abs=2e-5)]


def test_the_steps_that_are_timed_change_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    """Every weight is as before, and dropout's draws are those of the seed."""
    args = Tune(model=str(models["decoder"]), task=task_in(tmp_path), method="full", dropout=0.1)
    ready = get_ready(args)
    before = {name: p.clone() for name, p in ready.lm.model.named_parameters()}
    assert step_seconds(args, ready, make_plan(args, ready, "fp32"), "fp32") > 0
    assert same(before, dict(ready.lm.model.named_parameters()))
    assert all(p.grad is None for p in ready.lm.model.parameters())


def test_a_run_is_the_same_whatever_was_timed(words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_in(tmp_path)
    more = ["--dropout", "0.1", "--steps", "6", "--method", "lora"]
    assert cli.main(words("decoder", task, *more, output="one")) == 0
    monkeypatch.setattr(tune, "timed", lambda args, ready, found, best, precision: found)
    assert cli.main(words("decoder", task, *more, output="other")) == 0
    assert losses(tmp_path / "one") == losses(tmp_path / "other")
    assert same(weights(tmp_path / "one/model"), weights(tmp_path / "other/model"))


def test_no_more_steps_than_fit_into_the_time(models: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    args = Tune(model=str(models["decoder"]), task=task_in(tmp_path), time="60s", epochs=1000)
    ready = get_ready(args)
    plan, best = make_plan(args, ready, "fp32"), tune.best_of(args, ready)
    monkeypatch.setattr(budget, "step_seconds", lambda *rest: 2.0)
    monkeypatch.setattr(Best, "seconds", lambda self: 5.0)
    found = budget.timed(args, ready, plan, best, "fp32")
    assert (found.steps, found.seconds, found.answering) == (20, 40.0, 20.0)  # four tests
    monkeypatch.setattr(Best, "seconds", lambda self: 50.0)
    assert budget.timed(args, ready, plan, best, "fp32").steps == 15, "half of the time is for learning"


# -- stopped and resumed ----------------------------------------------------------------------------------


def stopped(command: list[str], monkeypatch: pytest.MonkeyPatch, at: int, by: signal.Signals = signal.SIGINT) -> None:
    """The command, which a signal stops at a step."""
    step = Watch.step

    def and_stop(self: Watch, done: int, metrics: dict[str, Any]) -> None:
        step(self, done, metrics)
        if done == at:
            os.kill(os.getpid(), by)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "step", and_stop)
        assert cli.main(command) == 128 + by


def resume(run: Path) -> int:
    return cli.main(["tune", "--resume", "--output", str(run), "--json"])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("method", "at"),
    [("full", 5), ("lora", 6), ("prompt", 9), *(pytest.param(method, at, marks=SLOW) for method, at in
     [("full", 6), ("full", 9), ("lora", 5), ("lora", 9), ("prompt", 5), ("prompt", 6)])],
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
    more = ["--method", method, "--dropout", "0.1", "--steps", "12", "--tests", "4", "--select", "4"]
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


CHANGES = [("train.jsonl", "the train part"), ("test.jsonl", "the test part"), ("task.yaml", "the task's prompts")]


@pytest.mark.parametrize(("name", "what"), CHANGES)
def test_inputs_that_changed_since_the_run_began_are_refused(
    name: str, what: str, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stopped(words("decoder", task_in(tmp_path), "--steps", "4"), monkeypatch, 2)
    path = tmp_path / name
    if name == "task.yaml":
        path.write_text(path.read_text() + "instruction: Answer.\n")
    else:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    capsys.readouterr()
    assert resume(tmp_path / "run") == 2
    told = json.loads(capsys.readouterr().err)["error"]
    assert told.startswith(f"{what} changed since the run in {tmp_path / 'run'} began: put back")


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


# -- the best moment --------------------------------------------------------------------------------------


def test_the_best_moment_is_kept_and_of_equals_the_earlier(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Told:
        def __init__(self, score: float):
            self.metric, self.scores = "exact_match", {"exact_match": type("", (), {"value": score})}

    scores = iter([0.5, 0.9, 0.7, 0.9])
    monkeypatch.setattr(Best, "seconds", lambda self: 0.0)
    monkeypatch.setattr(Best, "_answered", lambda self, examples: Told(next(scores)))
    task = task_in(tmp_path)
    assert cli.main(words("decoder", task, "--steps", "8", "--tests", "4", output="whole")) == 0
    found = came(capsys)
    assert (found["actual"]["best"], found["actual"]["best_step"]) == (0.9, 4)
    monkeypatch.undo()
    kept = weights(tmp_path / "whole/model")
    stopped(words("decoder", task, "--steps", "8", "--tests", "4"), monkeypatch, 4)
    there = load_file(tmp_path / "run/checkpoints/step-4/model.safetensors")
    assert torch.equal(
        kept["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"], there["stack.blocks.1.ffn.up.B"]
    )


def test_better_is_what_the_metric_says() -> None:
    assert better("accuracy", 0.6, 0.5)
    assert not better("accuracy", 0.5, 0.5)
    assert not better("accuracy", math.nan, 0.5)
    assert better("perplexity", 4.0, 5.0)
    assert not better("perplexity", 5.0, 5.0)


def test_the_select_part_is_spread_over_the_file() -> None:
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]  # type: ignore[arg-type,comparison-overlap]
    assert spread(list(range(3)), 5) == [0, 1, 2]  # type: ignore[arg-type,comparison-overlap]
    assert spread([], 5) == []


def test_without_a_select_part_the_last_moment_is_kept(
    words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_in(tmp_path, sizes=(20, 0, 8, 8))
    assert cli.main(words("decoder", task, "--steps", "40", "--rate", "0.01", "--method", "full")) == 0
    found = came(capsys)
    assert "best" not in found["actual"]
    lm = open_model(found["model"])
    total, count = 0.0, 0
    loaded, parts = prepare(read_task(task))
    for row in rows_of(prompter_of(loaded, lm), parts["train"]):
        tokens, targets, weight = (torch.tensor(part)[None] for part in (row.tokens, row.targets, row.weight))
        total -= float((lm.model(tokens, targets) * weight).sum().detach())
        count += int(weight.sum())
    assert total / count < 0.5 * losses(tmp_path / "run")[0]


# -- what came of it --------------------------------------------------------------------------------------


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
    again = forgetting(ModelScorer(base), ModelScorer(speaking(tuned, head)), texts)
    told = found["forgetting"]
    assert told["before"]["value"] == pytest.approx(again.before.value, rel=1e-6)
    assert told["after"]["value"] == pytest.approx(again.after.value, rel=1e-6)
    assert told["before"]["value"] != told["after"]["value"]
    assert told["difference"]["value"] == pytest.approx(told["after"]["value"] - told["before"]["value"])


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


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--methd", "lora"], "perhaps you meant --method"),
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
     ("encoder", "generate", "an encoder cannot generate: it classifies or tags")],
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

    monkeypatch.setattr(tune, "language_model", broken)
    assert cli.main(words("decoder", task_in(tmp_path), "--steps", "30")) == 2
    told = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert "10 steps in a row had no finite loss" in told
    assert "begin anew with a lower --rate" in told
