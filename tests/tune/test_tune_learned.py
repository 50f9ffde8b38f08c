"""A task is learned: by every method on every shape, and as slower ways learn it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from modelwright import cli
from modelwright.adapt.open import open_model
from modelwright.data.task import prepare, read_task
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import measure
from modelwright.hub.open import LanguageModel
from modelwright.recipes import budget, tune
from modelwright.recipes.best import Best
from modelwright.recipes.budget import make_plan, step_seconds
from modelwright.recipes.evaluate import prompter_of
from modelwright.recipes.ready import Ready, get_ready
from modelwright.recipes.told import show
from modelwright.recipes.tuning import Plan, Tune
from modelwright.recipes.watch import Screen
from tasks import COLOURS, TEXTS, task_in
from tuned import came, losses, same, weights

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


def questions_in(directory: Path) -> Path:
    """Twenty questions, each on a text of four sentences, some of which are longer than a window of the model's."""
    rng, said = random.Random(0), []
    for at in range(20):
        pairs = [(text, COLOURS[text.split()[-1]]) for text in rng.sample(TEXTS, 10 if at % 10 == 0 else 4)]
        text, answer = pairs[rng.randrange(len(pairs))]
        context = "  ".join(f"{one} {other}" for one, other in pairs)
        start = context.index(text) + len(text) + 1
        asked = {"question": text, "answers": [{"text": answer, "answer_start": start}]}
        said.append({"title": str(at), "paragraphs": [{"context": context, "qas": [asked]}]})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "q.json").write_text(json.dumps({"data": said}))
    data = {"train": "q.json", "select": "q.json", "test": "q.json", "split": {"decide": 0}}
    task = {"kind": "answer", "data": data, "metric": "exact_match"}
    (directory / "task.yaml").write_text(yaml.safe_dump(task))
    return directory / "task.yaml"


def test_an_encoder_learns_to_point_at_answers(words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = questions_in(tmp_path)
    more = ["--method", "full", "--steps", "120", "--rate", "0.01", "--tests", "1", "--overlap", "1"]
    assert cli.main(words("encoder", task, *more)) == 0
    found = came(capsys)
    assert found["actual"]["best"] == 1.0
    assert losses(tmp_path / "run")[-1] < 0.2 * losses(tmp_path / "run")[0]
    assert cli.main(["evaluate", found["model"], "--task", str(task), "--json"]) == 0
    said = came(capsys)
    assert {name: said["scores"][name]["value"] for name in ("exact_match", "token_f1")} == {
        "exact_match": 1.0, "token_f1": 1.0,
    }  # fmt: skip
    assert all("low" in score for score in said["scores"].values())


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


def test_muon_moves_the_blocks_matrices_and_adamw_the_rest(words: Any, models: dict[str, Path], tmp_path: Path) -> None:
    """One step at rate 0 for AdamW: the matrices alone have moved, by orthogonal updates at the rate of Muon."""
    task = task_in(tmp_path, sizes=(20, 0, 0, 0))
    more = ["--method", "full", "--optimizer", "muon", "--steps", "1", "--rate", "1e-12", "--matrix-rate", "0.25"]
    assert cli.main(words("decoder", task, *more)) == 0
    base, tuned = (
        open_model(models["decoder"]).model.state_dict(),
        open_model(tmp_path / "run/model").model.state_dict(),
    )
    for name, before in base.items():
        moved = (tuned[name] - before).float()
        if before.ndim == 2 and name.startswith("stack."):
            rows, columns = before.shape
            turned = moved / (0.25 * max(1, rows / columns) ** 0.5)
            assert 0.5 < float(torch.linalg.svdvals(turned)[: min(rows, columns) // 2].median()) < 1.3
        else:
            assert float(moved.abs().max()) < 1e-9


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
    monkeypatch.setattr(tune, "timed", lambda args, ready, found, *rest: found)
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
    assert "--time" not in shown(args, ready, found)
    monkeypatch.setattr(Best, "seconds", lambda self: 50.0)
    found = budget.timed(args, ready, plan, best, "fp32")
    assert found.steps == 15, "half of the time is for learning"
    assert "this may take 3 min 50 s, longer than --time 60s" in shown(args, ready, found)
    monkeypatch.setattr(budget, "step_seconds", lambda *rest: 100.0)
    found = budget.timed(args, ready, plan, best, "fp32")
    assert (found.steps, found.answering) == (1, 50.0), "one step has one test"


def shown(args: Tune, ready: Ready, found: Plan) -> str:
    screen = Screen()
    with screen.console.capture() as said:
        show(screen, args, ready, found, tune.look(args, ready, screen), "fp32")
    return said.get()
