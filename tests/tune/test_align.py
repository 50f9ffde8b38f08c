"""`modelwright align reward` and `align dpo` on all architectures: what is learned of pairs, kept and refused."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright import cli
from modelwright.adapt.open import REWARD, open_model, open_reward
from modelwright.data.examples import Example, read_examples
from modelwright.data.pack import collate
from modelwright.data.pairs import answers_of, compared, conversation_task, example_of, split, verdicts_of
from modelwright.data.preferences import preferences
from modelwright.data.prompt import starts
from modelwright.data.supervised import Widths
from modelwright.losses.preference import answer_logps
from modelwright.recipes import preferring
from modelwright.recipes.dpo import Dpo
from modelwright.recipes.dpo import rows_for as policy_rows
from modelwright.recipes.preferring import get_paired, margins
from tasks import COLOURS, TEXTS
from tuned import came, losses, same, stopped, weights

PROMPTS = [before + text for text in TEXTS for before in ("", "the old ", "my ", "a new far ")]


def pairs_in(path: Path, *more: dict[str, Any], asked: Collection[str] = tuple(COLOURS)) -> Path:
    """Many texts with the word that goes with their last one, which was chosen, and with each of the others."""
    said = [
        {"prompt": text, "chosen": COLOURS[text.split()[-1]], "rejected": other}
        for text in PROMPTS if text.split()[-1] in asked
        for other in COLOURS.values() if other != COLOURS[text.split()[-1]]
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in [*said, *more]))
    return path


def words(way: str, model: Path, pairs: Path, output: Path, *more: str) -> list[str]:
    common = ["--precision", "fp32", "--json", "--output", str(output)]
    return ["align", way, str(model), "--pairs", str(pairs), *common, *more]


@pytest.mark.parametrize(
    ("way", "shape", "method"),
    [("dpo", "decoder", "lora"), ("dpo", "decoder", "full"), ("dpo", "encoder-decoder", "full"),
     ("reward", "decoder", "lora"), ("reward", "encoder", "full"), ("reward", "encoder-decoder", "full")],
)  # fmt: skip
def test_preferences_are_learned(
    way: str, shape: str, method: str, models: dict[str, Path], general: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """From nearly a coin's accuracy to 0.95 of pairs of prompts that were never seen; DPO begins at log 2."""
    more = ["--method", method, "--steps", "60", "--batch", "32", "--rate", "0.01", "--general", str(general)]
    run = tmp_path / "run"
    pairs = pairs_in(tmp_path / "pairs.jsonl", asked=("red", "blue"))
    assert cli.main(words(way, models[shape], pairs, run, *more)) == 0
    found = came(capsys)
    if way == "dpo":
        assert losses(run)[0] == pytest.approx(math.log(2), abs=1e-5)
        assert found["forgetting"]["difference"]["n"] > 0
    assert losses(run)[-1] < 0.3
    assert found["preferences"]["accuracy"]["value"] > 0.95
    assert found["preferences"]["log_loss"] < 0.3
    kept = json.loads((run / "model/modelwright.json").read_text())
    assert kept["preferences"] == found["preferences"]
    assert kept["aligned"]["by"] == way
    assert not (run / "checkpoints").exists()


def test_a_reward_model_is_normalised_saved_and_opened_again(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, run = pairs_in(tmp_path / "pairs.jsonl"), tmp_path / "run"
    assert cli.main(words("reward", models["decoder"], pairs, run, "--steps", "20", "--rate", "0.01")) == 0
    assert (run / "model" / REWARD).is_file()
    lm, scored = open_reward(run / "model")
    found = split(preferences([Example(str(i), row) for i, row in enumerate(read(pairs))]), 0)
    write = verdicts_of(conversation_task(), lm.tokenizer, "decoder", 48, ())
    rows = [write(example_of(pair, conversation_task()), pair.chosen) for pair in found["train"]]
    longest = max(len(row.tokens) for row in rows)
    batch = collate(rows, Widths(longest, 0, lm.tokenizer.pad or 0))
    with torch.no_grad():
        scores = scored(batch.tokens, pos=batch.pos, segment=batch.segment)[batch.weight > 0]  # (n)
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std().item() == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="is no reward model: make one"):
        open_reward(models["decoder"])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("shape", ["decoder", "encoder-decoder"])
def test_a_pair_in_a_packed_row_is_the_pair_apart(shape: str, models: dict[str, Path]) -> None:
    """log p of each answer, from a row that holds a ranking of three, is what it is alone."""
    lm, task = open_model(models[shape]), conversation_task()
    row = {"prompt": TEXTS[0], "completions": ["cat", "the town", "old"], "ranks": [2, 1, 3]}
    three, start = preferences([Example("a", row)]), starts(lm.generation)
    write = answers_of(task, lm.tokenizer, lm.model.cfg.shape, 48, start)
    found = compared(three, task, write, (48, 48))
    (packed,) = found.rows
    assert [pair.chosen for pair in three] == ["the town", "cat", "the town"]
    together = collate([packed, packed], Widths(len(packed.tokens) + 5, 0 if packed.source is None else 128, 0))
    assert together.pairs is not None
    assert together.pairs.weight.tolist() == [[pytest.approx(1 / 3)] * 3] * 2
    assert int(together.segment.max()) == 3, "each answer once"
    with torch.no_grad():
        logps = answer_logps(lm.model, together)[0]  # (P, 2)
        for pair, both in zip(three, logps.tolist(), strict=True):
            for answer, logp in zip((pair.chosen, pair.rejected), both, strict=True):
                alone = write(example_of(pair, task), answer)
                width = 0 if alone.source is None else len(alone.source[0])
                batch = collate([alone], Widths(len(alone.tokens), width, 0))
                targets = batch.targets.masked_fill(batch.weight == 0, -1)
                said = lm.model(batch.tokens, targets, source=batch.source)
                assert said.sum().item() == pytest.approx(logp, abs=1e-4)
                assert (
                    int((targets >= 0).sum())
                    == len(lm.tokenizer.encode(f" {answer}".lstrip() if width else f" {answer}")) + 1
                )


@torch.no_grad()
def test_margins_of_rankings_are_those_of_each_pair_by_itself(models: dict[str, Path], tmp_path: Path) -> None:
    """In batches of rankings of several sizes, in the order of their pairs, each ranking of weight 1 in all."""
    rankings = [
        {"prompt": text, "completions": ["cat", "mat", "the town"][: 2 + at % 2], "ranks": [2, 1, 3][: 2 + at % 2]}
        for at, text in enumerate(TEXTS)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rankings))
    args = Dpo(model=str(models["decoder"]), pairs=str(tmp_path / "pairs.jsonl"))
    ready = get_paired(args, policy_rows, lambda lm: lm.model)
    train = split(preferences(read_examples(args.pairs)), args.seed)["train"]
    found = margins(ready, ready.rows, ready.names, answer_logps)
    assert [margin.group for margin in found] == [pair.group for pair in train]
    assert sum(margin.weight for margin in found) == pytest.approx(len(ready.rows))
    write = policy_rows(ready.task, ready.lm)
    for margin, pair in zip(found[:20], train[:20], strict=True):
        logps = []
        for answer in (pair.chosen, pair.rejected):
            row = write(example_of(pair, ready.task), answer)
            batch = collate([row], Widths(len(row.tokens), 0, 0))
            logps.append(ready.learner(batch.tokens, batch.targets.masked_fill(batch.weight == 0, -1)).sum().item())
        assert margin.value == pytest.approx(logps[0] - logps[1], abs=1e-4)


def test_a_chat_models_pair_is_set_by_its_template(models: dict[str, Path]) -> None:
    lm = open_model(models["decoder"])
    lm.tokenizer.kept["chat_template"] = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    said = "\n\nHuman: the old sea red\n\nAssistant: cat\n\nHuman: my new hill\n\nAssistant: "
    (pair,) = preferences([Example("a", {"chosen": said + "mat", "rejected": said + "town"})])
    task = conversation_task()
    row = answers_of(task, lm.tokenizer, "decoder", 200, ())(example_of(pair, task), pair.chosen)
    text = lm.tokenizer.decode(row.tokens.tolist())
    assert "user: the old sea red\nassistant: cat\nuser: my new hill\nassistant: mat" in text


def test_parts_are_of_other_prompts_and_stay_as_they_are(tmp_path: Path) -> None:
    found = preferences([Example(str(i), row) for i, row in enumerate(read(pairs_in(tmp_path / "pairs.jsonl")))])
    parts = split(found, 0)
    asked = {part: {pair.prompt[0]["content"] for pair in some} for part, some in parts.items()}
    assert sum(map(len, asked.values())) == len(set().union(*asked.values())) == len(PROMPTS)
    assert min(map(len, parts.values())) > 0
    assert split(found[:10], 0) == {part: [p for p in some if p in found[:10]] for part, some in parts.items()}
    assert split(found, 1) != parts


def test_what_is_too_long_is_left_out_and_told(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = pairs_in(tmp_path / "pairs.jsonl", {"prompt": "the " * 60, "chosen": "cat", "rejected": "mat"})
    command = words("dpo", models["decoder"], pairs, tmp_path / "run", "--dry-run")
    command.remove("--json")
    assert cli.main(command) == 0
    assert "1 left out, longer than the model reads" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_stopped_and_resumed_is_uninterrupted_to_the_bit(
    models: dict[str, Path], general: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rankings = [
        {"prompt": f"{text} ?", "completions": list(COLOURS.values()), "ranks": [1 + at % 3, 2, 3, 3]}
        for at, text in enumerate(TEXTS)
    ]
    pairs = pairs_in(tmp_path / "pairs.jsonl", *rankings)
    more = ["--steps", "9", "--tests", "3", "--general", str(general)]
    more += ["--method", "full"]
    assert cli.main(words("dpo", models["decoder"], pairs, tmp_path / "whole", *more)) == 0
    whole = came(capsys)
    stopped(words("dpo", models["decoder"], pairs, tmp_path / "parts", *more), monkeypatch, 4)
    monkeypatch.setattr(preferring, "timed", None)
    assert cli.main(["align", "dpo", "--resume", "--output", str(tmp_path / "parts"), "--json"]) == 0
    parts = came(capsys)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same(weights(tmp_path / "parts/model"), weights(tmp_path / "whole/model"))
    assert parts["preferences"] == whole["preferences"]
    assert parts["forgetting"] == whole["forgetting"]


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("align", "say how to align, reward, dpo, ppo or grpo"),
        ("align ppq", "not 'ppq'"),
        ("align dpo", "say which model to align"),
        ("align dpo MODEL", "say from which preferences: --pairs FILE"),
        ("align dpo MODEL --pairs PAIRS --method prompt", "take lora or full"),
        ("align dpo MODEL --pairs PAIRS --beta 0", "--beta must be above 0"),
        ("align dpo MODEL --pairs SAME", "the same text"),
        ("align dpo MODEL --pairs ONE", "no pair is left in the train part|no pair is left in the select part"),
        ("align dpo ENCODER --pairs PAIRS", "an encoder writes nothing"),
        ("align reward MODEL --pairs PAIRS --held-out PAIRS", "have a prompt of"),
    ],
)  # fmt: skip
def test_refused(
    command: str, fault: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"MODEL": models["decoder"], "ENCODER": models["encoder"], "PAIRS": pairs_in(tmp_path / "pairs.jsonl")}
    for name, row in (("SAME", {"chosen": "a", "rejected": "a "}), ("ONE", {"chosen": "a", "rejected": "b"})):
        named[name] = tmp_path / f"{name}.jsonl"
        named[name].write_text(json.dumps({"prompt": "q", **row}) + "\n")
    args = [str(named.get(word, word)) for word in command.split()]
    args += ["--output", str(tmp_path / "run")] if len(args) > 2 else []
    assert cli.main(args) == 2
    said = capsys.readouterr().err
    assert any(one in said for one in fault.split("|"))
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_task_makes_the_prompts(models: dict[str, Path], tmp_path: Path) -> None:
    """Preferences with the columns of a task, whose template the policy learned under."""
    (tmp_path / "task.yaml").write_text(
        "kind: generate\ndata: {train: x.jsonl}\ncolumns: {source: said}\nprompt: 'the {{ said }}'\n"
    )
    rows = [{"said": f"old {text}", "chosen": "cat", "rejected": "mat"} for text in TEXTS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = Dpo(model=str(models["decoder"]), task=tmp_path / "task.yaml", pairs=str(tmp_path / "pairs.jsonl"))
    ready = get_paired(args, policy_rows, lambda lm: lm.model)
    row = ready.rows[0]
    text = ready.lm.tokenizer.decode(row.tokens[row.segment == 1].tolist())
    assert text.startswith("the old ")
    assert text.endswith(" cat")
    assert len(margins(ready, ready.rows[:3], "abc", answer_logps)) == 3


def test_the_card_tells_of_the_model_that_is_saved(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, run = pairs_in(tmp_path / "pairs.jsonl"), tmp_path / "run"
    assert cli.main(words("reward", models["decoder"], pairs, run, "--steps", "20", "--rate", "0.01")) == 0
    card = came(capsys)["preferences"]
    lm, scored = open_reward(run / "model")
    found = split(preferences([Example(str(i), row) for i, row in enumerate(read(pairs))]), 0)["test"]
    write, task = verdicts_of(conversation_task(), lm.tokenizer, "decoder", 48, ()), conversation_task()
    gaps = []
    for pair in found:
        rows = [write(example_of(pair, task), answer) for answer in (pair.chosen, pair.rejected)]
        batches = [collate([row], Widths(len(row.tokens), 0, 0)) for row in rows]
        with torch.no_grad():
            one, other = (scored(b.tokens)[0, -1].item() for b in batches)
        gaps.append(one - other)
    assert card["margin"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-3)
    assert card["pairs"] == len(gaps)


def test_dropout_is_off_while_a_policy_is_compared_with_its_reference(
    models: dict[str, Path], general: Path, tmp_path: Path
) -> None:
    pairs, run = pairs_in(tmp_path / "pairs.jsonl"), tmp_path / "run"
    more = ["--steps", "1", "--dropout", "0.3", "--general", str(general)]
    assert cli.main(words("dpo", models["decoder"], pairs, run, *more)) == 0
    assert losses(run)[0] == pytest.approx(math.log(2), abs=1e-5)


def test_several_labellers_of_a_prompt_are_one_observation(models: dict[str, Path], tmp_path: Path) -> None:
    """The interval is as wide as of one labeller's rankings: what they agree on was not seen three times."""
    rows = read(pairs_in(tmp_path / "pairs.jsonl"))
    for name, times in (("once", 1), ("thrice", 3)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * times))
    seen = []
    for name in ("once", "thrice"):
        args = Dpo(model=str(models["decoder"]), pairs=str(tmp_path / f"{name}.jsonl"))
        ready = get_paired(args, policy_rows, lambda lm: lm.model)
        seen.append(preferring.tested(ready, answer_logps).accuracy)
    assert seen[0].n == seen[1].n
    assert (seen[0].low, seen[0].high) == pytest.approx((seen[1].low, seen[1].high))
