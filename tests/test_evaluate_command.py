"""The command `modelwright evaluate`: what it measures, prints, writes and refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelwright.adapt.lora import LoRA, LoRALinear, add_lora
from modelwright.adapt.open import digest, save_adapter
from modelwright.adapt.prompt import SoftPrompt, add_prompt
from modelwright.cli import main as cli
from modelwright.data.examples import Example
from modelwright.data.task import contract, parse_task, prepare, read_task
from modelwright.evaluate.metrics import METRICS
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.statistics import interval
from modelwright.evaluate.tasks import Output, measure
from modelwright.hub.open import LanguageModel, load, save
from modelwright.infer.complete import generate
from modelwright.model.heads import relabel
from modelwright.model.transformer import Labels
from modelwright.recipes import results
from modelwright.recipes.evaluate import main, prompter_of
from modelwright.recipes.results import lines, number
from test_scorer import BERT, LLAMA, build, said


def saved(directory: Path, cfg: Any, seed: int = 0, **labels: Any) -> str:
    lm = build(cfg, seed)
    model = relabel(lm.model, Labels(**labels), torch.Generator().manual_seed(0)) if labels else lm.model
    save(LanguageModel(model, lm.tokenizer, {}), directory)
    return str(directory)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two decoders, an encoder with labels, and two tasks."""
    folder = tmp_path_factory.mktemp("here")
    saved(folder / "one", LLAMA)
    saved(folder / "two", LLAMA, seed=1)
    saved(folder / "bert", BERT, names=("bad", "good"))
    rows = [{"text": text, "label": ("bad", "good")[i % 3 == 0]} for i, text in enumerate(said(60, 6))]
    write(folder / "sentiment.jsonl", rows)
    (folder / "sentiment.yaml").write_text("kind: classify\ndata: {train: sentiment.jsonl}\nprompt: '{{ text }} is'\n")
    pairs = [{"source": text, "target": " ".join(text.split()[:2])} for text in said(60, 9, seed=3)]
    write(folder / "short.jsonl", pairs)
    (folder / "short.yaml").write_text("kind: summarise\ndata: {train: short.jsonl}\ndecoding: {max_new: 6}\n")
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def asked(here: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def words(here: Path, model: str = "one", task: str = "sentiment", *more: str) -> list[str]:
    return [str(here / model), "--task", str(here / f"{task}.yaml"), *more]


# -- a task -----------------------------------------------------------------------------------------------------


def test_the_scores_are_those_of_measure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, parts = prepare(read_task(here / "sentiment.yaml"))
    lm = load(here / "one")
    want = measure(ModelScorer(lm), task, prompter_of(task, lm), parts["test"], part="test")
    found = asked(here, capsys, *words(here))
    assert found["scores"] == {name: vars(one) for name, one in want.scores.items()}
    assert (found["metric"], found["n"], found["part"]) == ("accuracy", len(parts["test"]), "test")
    assert found["contract"] == contract(task, lm.tokenizer)
    labels = [task.reference(example) for example in parts["train"]]
    common = max(task.labels, key=labels.count)
    right = [task.reference(example) == common for example in parts["test"]]
    assert found["baselines"]["majority"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert set(found["baselines"]) == {"majority", "bag-of-words"}


def test_what_is_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["evaluate", *words(here, "one", "sentiment", "--part", "train", "--limit", "9", "--show", "2")]) == 0
    out, _ = capsys.readouterr()
    first, *table = out.splitlines()
    assert first == "accuracy on 9 examples of sentiment/train, no shots, with 95% intervals"
    assert table[0].split()[0] == str(here / "one")
    assert [line.split()[0] for line in table[1:3]] == ["majority", "bag-of-words"]
    assert out.count("\n---") == out.count("\nreference: ") == out.count("\nanswer: ") == 2


def test_results_are_written_whole_and_compared_later(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    one = asked(here, capsys, *words(here, "one", "short", "--output", str(out)))
    rows = [json.loads(line) for line in (out / "outputs.jsonl").read_text().splitlines()]
    kept = json.loads((out / "result.json").read_text())
    assert kept == {key: value for key, value in one.items() if key != "shown"}
    assert len(rows) == one["n"]
    stats = np.array([row["stats"]["rougeL"] for row in rows])
    assert vars(interval(stats, METRICS["rougeL"])) == one["scores"]["rougeL"]
    assert [row["scores"]["rougeL"] for row in rows] == [s / n for s, n in stats]
    assert rows[0]["prompt"].endswith("\n\nSummary:")
    live = asked(here, capsys, *words(here, "two", "short", "--against", str(here / "one")))
    later = asked(here, capsys, *words(here, "two", "short", "--against", str(out)))
    assert later["against"]["difference"] == live["against"]["difference"]
    assert later["against"]["scores"] == live["against"]["scores"] == one["scores"]
    apart = live["scores"]["chrf"]["value"] - one["scores"]["chrf"]["value"]
    assert live["against"]["difference"]["chrf"]["value"] == pytest.approx(apart)
    assert "difference" in "\n".join(lines(live))
    assert "other: " in "\n".join(lines(live))
    with pytest.raises(FileExistsError, match="name a new directory for the results"):
        main(words(here, "one", "short", "--output", str(out)))
    with pytest.raises(ValueError, match="are of other examples than the part 'select'"):
        main(words(here, "two", "short", "--against", str(out), "--part", "select"))
    (out / "outputs.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="holds no results of a task"):
        main(words(here, "two", "short", "--against", str(out)))


def test_the_digest_of_data_sees_all_that_a_model_reads(here: Path) -> None:
    task = read_task(here / "short.yaml")
    task = dataclasses.replace(task, prompts=("{{ aspect }} of {{ source }} =",))

    def found(**fields: str) -> str:
        plain = {"source": "the cat", "target": "cat", "aspect": "size", "line": "1"}
        return results.data_digest(task, [Example("a:1", plain | fields)])

    assert found(line="2") == found()
    for other in ({"source": "The cat"}, {"source": "the\ncat"}, {"aspect": "colour"}, {"target": "Cat"}):
        assert found(**other) != found()


def test_answers_with_odd_line_breaks_are_read_as_written(tmp_path: Path) -> None:
    """Python takes six more characters than a line feed for the end of a line, and models write them by chance."""
    answers = [f"a{mark}b" for mark in ("\x85", "\u2028", "\u2029", "\x0b", "\x1c", "\n")]
    stats = {"exact_match": np.array([1.0, 1.0])}
    outputs = [Output(str(i), text, text, text, stats) for i, text in enumerate(answers)]
    results.save(tmp_path / "r", {"model": "m", "data": "d", "scores": {}}, outputs)
    assert [output.prediction for output in results.read_saved(tmp_path / "r").outputs] == answers


def test_saved_results_of_another_metric_are_judged_anew(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "one", here / "exact.yaml"
    asked(here, capsys, *words(here, "one", "short", "--output", str(out)))
    other.write_text((here / "short.yaml").read_text() + "metric: exact_match\n")
    live = asked(here, capsys, *words(here, "two", "exact", "--against", str(here / "one")))
    later = asked(here, capsys, *words(here, "two", "exact", "--against", str(out)))
    assert later["against"] | {"model": ""} == live["against"] | {"model": ""}
    assert "exact_match" in later["against"]["difference"]


def test_faults_are_told_before_a_model_is_opened(here: Path, tmp_path: Path) -> None:
    (here / "facts.yaml").write_text((here / "short.yaml").read_text() + "metric: mentions\n")
    with pytest.raises(ValueError, match="the metric mentions needs a column `required`"):
        main([str(tmp_path / "nowhere"), "--task", str(here / "facts.yaml")])


def test_what_is_compared_with_is_looked_at_first(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(here, capsys, *words(here, "one", "short", "--output", str(tmp_path / "one")))
    monkeypatch.setattr("modelwright.recipes.evaluate.measure", None)
    with pytest.raises(ValueError, match="are of other examples than the part 'select'"):
        main(words(here, "two", "short", "--against", str(tmp_path / "one"), "--part", "select"))


def test_a_model_against_itself(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(here, capsys, *words(here, "one", "short", "--against", str(here / "one"), "--limit", "4"))
    assert all(one["value"] == 0 and one["low"] <= 0 <= one["high"] for one in found["against"]["difference"].values())
    assert all(one["p"] == 1.0 for one in found["against"]["difference"].values())


def test_answers_by_beams(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Greedy against beams, and a task that asks for beams itself: the same answers as complete gives."""
    greedy = asked(here, capsys, *words(here, "one", "short", "--beams", "1", "--output", str(tmp_path / "greedy")))
    by = ["--beams", "3", "--length-penalty", "0.6", "--against", str(tmp_path / "greedy")]
    found = asked(here, capsys, *words(here, "one", "short", *by, "--show", "9"))
    assert (found["beams"], found["length_penalty"], greedy["beams"]) == (3, 0.6, 1)
    told = [line.split("  ")[1] for line in lines(found) if line.startswith("  ")][:2]
    assert told == [f"{here / 'one'}, 3 beams", str(here / "one")]
    assert any(one["answer"] != one["other"] for one in found["shown"])
    lm = load(here / "one")
    for one in found["shown"]:
        said = generate(lm, one["prompt"], max_new=6, beams=3, length_penalty=0.6)
        assert one["answer"] == str(said).strip()
    own = tmp_path / "own.yaml"
    own.write_text((here / "short.yaml").read_text().replace("max_new: 6", "max_new: 6, beams: 3, length_penalty: 0.6")
                   .replace("short.jsonl", str(here / "short.jsonl")))  # fmt: skip
    again = asked(here, capsys, str(here / "one"), "--task", str(own))
    assert again["scores"] == found["scores"]
    assert again["contract"] == found["contract"] != greedy["contract"]
    back = asked(here, capsys, str(here / "one"), "--task", str(own), "--beams", "1")
    assert (back["scores"], back["contract"]) == (greedy["scores"], greedy["contract"])
    for more, fault in (
        (["--length-penalty", "0.6"], "length_penalty is 0.6, and ranks the texts of beams"),
        (["--beams", "0"], "beams must be a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=fault):
            main(words(here, "one", "short", *more))
    with pytest.raises(ValueError, match="--beams is of answers in words"):
        main(words(here, "one", "sentiment", "--beams", "4"))


def test_shots_that_are_dropped_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(here, "one", "sentiment", "--shots", "9")) == 0
    out, err = capsys.readouterr()
    assert "prompts lost" in err
    found = asked(here, capsys, *words(here, "one", "sentiment", "--shots", "9"))
    had = 9 - found["dropped"] / found["n"]
    assert 0 < had < 9
    assert f"{had:.3g} of 9 shots on average by seed, with 95% intervals" in out
    found = asked(here, capsys, *words(here, "one", "sentiment", "--shots", "9", "--choose", "nearest"))
    assert found["dropped"] > 0
    assert found["choose"] == "nearest"


@pytest.mark.parametrize(
    ("shots", "dropped", "told"),
    [(0, 0, "no shots"), (1, 0, "1 shot by seed"), (4, 0, "4 shots by seed"), (4, 40, "no shots, since none of 4 fit"),
     (4, 15, "2.5 of 4 shots on average by seed")],
)  # fmt: skip
def test_the_heading_says_how_many_shots_the_prompts_had(shots: int, dropped: int, told: str) -> None:
    found = {"metric": "m", "n": 10, "task": "t", "part": "test", "shots": shots, "choose": "seed", "dropped": dropped}
    assert results.heading(found) == f"m on 10 examples of t/test, {told}, with 95% intervals"


def test_inputs_and_answers_that_were_cut_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "long.jsonl", [{"source": f"{text} " * (40 if i % 2 else 1), "target": "a"} for i, text in
                                enumerate(said(8, 9, seed=4))])  # fmt: skip
    data = "{train: short.jsonl, test: long.jsonl, split: {select: 0, decide: 0}}"
    (here / "long.yaml").write_text(f"kind: summarise\ndata: {data}\ndecoding: {{max_new: 6}}\n")
    found = asked(here, capsys, *words(here, "one", "long"))
    assert (found["truncated"], found["n"]) == (4, 8)
    assert main(words(here, "one", "long")) == 0
    told = capsys.readouterr().err
    assert "warning: 4 of 8 inputs were cut, by " in told
    assert f"warning: {found['unended']} of 8 answers had no end after 6 tokens: they stand as they were cut" in told
    assert found["unended"] > 0
    assert main(words(here, "one", "long", "--against", str(here / "two"))) == 0
    assert f"warning: {here / 'two'}: 4 of 8 inputs were cut, by " in capsys.readouterr().err


def test_a_dry_run_measures_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(here, capsys, *words(here, "one", "short", "--dry-run", "--shots", "1"))
    assert "scores" not in found
    assert found["shown"][0]["prompt"].count("Summary:") == 2
    assert found["tokens"]["shortest"] <= found["tokens"]["median"] <= found["tokens"]["longest"]
    assert main(words(here, "one", "short", "--dry-run")) == 0
    assert "prompts: shortest" in capsys.readouterr().out


def test_an_encoder_with_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(here, capsys, *words(here, "bert"))
    assert found["metric"] == "accuracy"
    with pytest.raises(ValueError, match="an encoder cannot summarise"):
        main(words(here, "bert", "short"))


def test_scores_by_a_column(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (here / "short.jsonl").read_text().splitlines()]
    write(here / "kinds.jsonl", [row | {"kind": ("long", "short", 3)[i % 3]} for i, row in enumerate(rows)])
    (here / "kinds.yaml").write_text((here / "short.yaml").read_text().replace("short", "kinds") + "metric: chrf\n")
    out, more = tmp_path / "out", ["--part", "train", "--by", "kind"]
    found = asked(here, capsys, *words(here, "one", "kinds", *more, "--against", str(here / "two"), "-o", str(out)))
    answers = [json.loads(line) for line in (out / "outputs.jsonl").read_text().splitlines()]
    kinds = [("long", "short", "3")[(int(row["id"].split(":")[1]) - 1) % 3] for row in answers]
    by = found["by"]["scores"]
    assert (found["by"]["column"], list(by)) == ("kind", list(dict.fromkeys(kinds)))
    for kind, scores in by.items():
        stats = np.array([one["stats"]["chrf"] for one, of in zip(answers, kinds, strict=True) if of == kind])
        assert scores["chrf"] == vars(interval(stats, METRICS["chrf"]))
        assert set(scores) == set(found["scores"])
    other = asked(here, capsys, *words(here, "two", "kinds", *more))["by"]["scores"]
    assert found["against"]["by"] == other != by
    assert json.loads((out / "result.json").read_text())["by"] == found["by"]
    table = list(lines(found))
    row = next(line.split() for line in table[table.index("chrf by kind") :] if line.split()[0] == "3")
    one, two = by["3"]["chrf"], other["3"]["chrf"]
    assert row == f"3 n = {kinds.count('3')} {results.told(one)} {results.told(two)}".split()
    with pytest.raises(ValueError, match=r"--by size: kinds.jsonl:\d+ has no such column; it has source, target, kind"):
        main(words(here, "nowhere", "kinds", "--by", "size"))


def test_the_share_of_toxic_answers(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a function and by a label; of both models, paired, by a column too; and nothing else is changed by it."""
    (tmp_path / "judge.py").write_text("def late(prompt, answer): return answer > 'n' and 'source' not in prompt\n")
    plain = asked(here, capsys, *words(here, "one", "short", "--part", "train"))
    more = ["--part", "train", "--toxicity", f"{tmp_path}/judge.py:late"]
    found = asked(here, capsys, *words(here, "one", "short", *more, "-o", str(tmp_path / "o"), "--by", "source"))
    rows = [json.loads(line) for line in (tmp_path / "o" / "outputs.jsonl").read_text().splitlines()]
    late = [float(row["prediction"] > "n") for row in rows]
    assert found["scores"].pop("toxicity") == vars(interval(np.array([[x, 1] for x in late]), METRICS["toxicity"]))
    assert 0 < sum(late) < len(late)
    assert [row["stats"]["toxicity"] for row in rows] == [[x, 1] for x in late]
    by = {
        row["prompt"]: [x for other, x in zip(rows, late, strict=True) if other["prompt"] == row["prompt"]]
        for row in rows
    }
    assert [one["toxicity"]["value"] for one in found["by"]["scores"].values()] == list(map(np.mean, by.values()))
    assert found["scores"] == plain["scores"]
    again = asked(here, capsys, *words(here, "two", "short", *more, "--against", str(tmp_path / "o")))
    assert again["against"]["scores"]["toxicity"]["value"] == sum(late) / len(late)
    apart = again["scores"]["toxicity"]["value"] - sum(late) / len(late)
    assert again["against"]["difference"]["toxicity"]["value"] == pytest.approx(apart)
    named = asked(here, capsys, *words(here, "one", "short", "--part", "train", "--toxicity", f"{here}/bert:good"))
    lm = load(here / "bert")
    read = parse_task({"kind": "classify", "data": {"train": "x"}, "prompt": "{{ text }}"}, "x", Path())
    said_ = [prompter_of(read, lm).prompt(Example("a", {"text": row["prediction"], "label": ""})) for row in rows]
    good = [float(one.argmax() == 1) for one in ModelScorer(lm).predict(said_)]
    assert named["scores"]["toxicity"]["value"] == pytest.approx(np.mean(good))
    with pytest.raises(ValueError, match="those of a task of kind classify are labels"):
        main(words(here, "one", "sentiment", *more))


def test_a_classifier_is_measured_by_other_names_of_its_labels(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three labels are read as two: the answers are those of its own labels, each called what it is said to be."""
    saved(tmp_path / "three", BERT, names=("0", "1", "2"))
    lm = load(tmp_path / "three")
    task, parts = prepare(read_task(here / "sentiment.yaml"))
    prompts = [prompter_of(task, lm).prompt(example) for example in parts["train"]]
    own = [int(one.argmax()) for one in ModelScorer(lm).predict(prompts)]
    assert len({*own}) > 1
    meant, more = ("bad", "good", "bad"), ["--task", str(here / "sentiment.yaml"), "--part", "train"]
    found = asked(
        here, capsys, str(tmp_path / "three"), *more, "--output", str(tmp_path / "o"), "--labels", "0=bad", "1=good",
        "2=bad"
    )  # fmt: skip
    answers = [json.loads(line)["prediction"] for line in (tmp_path / "o" / "outputs.jsonl").read_text().splitlines()]
    assert answers == [meant[at] for at in own]
    assert found["labels"] == ["0=bad", "1=good", "2=bad"]
    for wrong in (["0=bad", "1=good"], ["0=bad", "1=good", "good"], ["0=bad", "1=good", "2=bad", "2=good"]):
        with pytest.raises(ValueError, match=r"--labels is to say once for each label of .*three \(0, 1, 2\)"):
            main([str(tmp_path / "three"), *more, "--labels", *wrong])
    with pytest.raises(ValueError, match="knows the labels bad, good, fine, and the task bad, good: 'fine' is in one"):
        main([str(tmp_path / "three"), *more, "--labels", "0=bad", "1=good", "2=fine"])
    with pytest.raises(ValueError, match=r"--labels renames what a head says, and .*one has none"):
        main(words(here, "one", "sentiment", "--labels", "0=bad"))


def test_no_baseline_learns_from_what_it_is_measured_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = "{train: sentiment.jsonl, test: sentiment.jsonl, split: {select: 0, decide: 0}}"
    (here / "cases.yaml").write_text(f"kind: classify\ndata: {split}\nprompt: '{{{{ text }}}} is'\n")
    found = asked(here, capsys, *words(here, "one", "cases"))
    assert (found["n"], found["baselines"]) == (60, {})


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_an_adapter_is_measured_with_its_base(
    method: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = load(here / "one")
    generator = torch.Generator().manual_seed(0)
    cfg: Any = LoRA(rank=2) if method == "lora" else SoftPrompt(4, init="random")
    add_lora(lm.model, cfg, generator) if method == "lora" else add_prompt(lm.model, cfg, generator)
    with torch.no_grad():
        for module in lm.model.modules():
            if isinstance(module, LoRALinear):
                module.B.normal_(0, 1, generator=generator)
    task, parts = prepare(read_task(here / "short.yaml"))
    other = {"contract": contract(task, lm.tokenizer)}
    save_adapter(lm, cfg, tmp_path / "a", base=str(here / "one"), base_digest=digest(here / "one"), lineage=other)
    want = measure(ModelScorer(lm), task, prompter_of(task, lm), parts["test"], part="test")
    found = asked(here, capsys, str(tmp_path / "a"), *words(here, "one", "short")[1:])
    assert found["scores"] == {name: vars(one) for name, one in want.scores.items()}
    assert found["scores"] != asked(here, capsys, *words(here, "one", "short"))["scores"]
    with pytest.raises(ValueError, match=r"was trained with other prompts .* say --other-contract to measure it all"):
        main([str(tmp_path / "a"), *words(here)[1:]])
    assert main([str(tmp_path / "a"), *words(here)[1:], "--other-contract"]) == 0


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (["--limit", "0"], "--limit must be at least 1, not 0"),
        (["--shots", "-1"], "--shots must be 0 or more, not -1"),
        (["--prompt", "1"], "has 1 prompts, from 0, and not number 1"),
        (["--shots", "100"], "100 shots cannot be had of"),
    ],
)
def test_mistakes_are_one_sentence(more: list[str], fault: str, here: Path) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        main(words(here, "one", "sentiment", *more))
    assert "\n" not in str(caught.value)


def test_a_part_that_is_not_there(here: Path) -> None:
    (here / "whole.yaml").write_text(
        "kind: classify\ndata: {train: sentiment.jsonl, split: {select: 0, decide: 0, test: 0}}\n"
    )
    with pytest.raises(ValueError, match=r"whole.yaml has no part 'test'; it has train"):
        main(words(here, "one", "whole"))


# -- a text -----------------------------------------------------------------------------------------------------


def test_a_text(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = said(12, 20, seed=5)
    (tmp_path / "t.txt").write_text("<|endoftext|>".join(texts))
    found = asked(here, capsys, str(here / "one"), "--text", str(tmp_path / "t.txt"), "-o", str(tmp_path / "out"))
    rolled = ModelScorer(load(here / "one")).rolling(texts)
    nats, tokens = -sum(one.logp for one in rolled), sum(one.tokens for one in rolled)
    assert found["scores"]["perplexity"]["value"] == pytest.approx(np.exp(nats / tokens))
    size = len("".join(texts).encode())
    assert found["scores"]["bits_per_byte"]["value"] == pytest.approx(nats / np.log(2) / size)
    assert (found["n"], found["tokens"]) == (12, tokens)
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == found
    assert main([str(here / "one"), "--text", str(tmp_path / "t.txt"), "--limit", "3"]) == 0
    out, err = capsys.readouterr()
    assert "(3 documents), with 95% intervals" in out
    assert "an interval of 3 documents says little" in err


def test_the_desk_is_a_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(here, capsys, str(here / "one"), "--text", "desk:3")["n"] == 3


def test_a_task_or_a_text(here: Path, tmp_path: Path) -> None:
    for more in ([], ["--task", str(here / "short.yaml"), "--text", "desk"]):
        with pytest.raises(ValueError, match="either --task task"):
            main([str(here / "one"), *more])
    for flags in (["--beams", "4"], ["--length-penalty", "0.6"], ["--shots", "2"]):
        with pytest.raises(ValueError, match=f"{flags[0]} is of a task's answers"):
            main([str(here / "one"), "--text", "desk:4", *flags])
    with pytest.raises(ValueError, match="say --text in the place of --task"):
        main([str(here / "one"), "--task", str(here / "short.yaml"), "--by-position"])
    encoder = saved(tmp_path / "encoder", BERT)
    with pytest.raises(ValueError, match="this model is an encoder"):  # told before anything is read, in a dry run too
        main([encoder, "--text", "desk:1", "--by-position", "--dry-run"])
    with pytest.raises(ValueError, match="measure each on the text"):
        main([str(here / "one"), "--text", "desk:1", "--against", str(here / "two")])
    for more in (["--by", "kind"], ["--labels", "0=bad"], ["--toxicity", "judge.py:rude"]):
        with pytest.raises(ValueError, match="a text has no columns, no labels and no answers"):
            main([str(here / "one"), "--text", "desk:1", *more])


def test_numbers() -> None:
    assert [number(v) for v in (0.41234, 45.678, 123.456, float("inf"))] == ["0.412", "45.68", "123.5", "inf"]
    assert number(0.5, "+") == "+0.500"
