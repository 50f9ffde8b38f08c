"""Tasks measured: with a scripted model numbers by hand, with tiny random ones plain loops.

Letters: n examples, L labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelwright.data.examples import Example
from modelwright.data.kind import Decoding, Task
from modelwright.data.prompt import Prompt, Prompter
from modelwright.data.task import contract, parse_task, prepare
from modelwright.data.tokenizer import Tokenizer
from modelwright.evaluate.metrics import METRICS
from modelwright.evaluate.scorer import Generation, Likelihood, ModelScorer, Told, untold
from modelwright.evaluate.statistics import interval
from modelwright.evaluate.tasks import measure, metrics_of
from modelwright.model.heads import relabel
from modelwright.model.transformer import Labels
from test_scorer import BERT, LLAMA, T5, TOKENIZERS, build, plain_logits


class Scripted:
    """A model that says what it is told to."""

    def __init__(self, tokenizer: Tokenizer, answers: Sequence[Any] = (), labels: tuple[str, ...] = ()):
        self.tokenizer, self.answers, self.labels = tokenizer, list(answers), labels

    def loglikelihood(
        self, prompts: Sequence[Prompt], answers: Sequence[tuple[int, ...]], *, told: Told = untold
    ) -> list[Likelihood]:
        told(len(prompts))
        self.asked = list(answers)
        return [Likelihood(logp, len(said), False) for logp, said in zip(self.answers, answers, strict=True)]

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, seed: int, ends: Any = (), told: Told = untold
    ) -> list[Generation]:
        told(len(prompts))
        self.decoding = decoding
        return [Generation(text, (5, 6), "stop") for text in self.answers]

    def predict(self, prompts: Sequence[Prompt], *, told: Told = untold) -> list[Any]:
        told(len(prompts))
        return [np.array(scores, np.float32) for scores in self.answers]

    def rolling(self, texts: Sequence[str], *, told: Told = untold) -> Any:
        raise AssertionError("no task asks for this")

    embed: Any = rolling


def task_of(tmp_path: Path, kind: str, rows: list[dict[str, Any]], **more: Any) -> tuple[Task, list[Example]]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": "rows.jsonl", "split": {"select": 0, "decide": 0, "test": 0}}
    task, parts = prepare(parse_task({"name": "t", "kind": kind, "data": data, **more}, "here", tmp_path))
    return task, parts["train"]


SENTIMENT = [
    {"text": "the cat sat on a mat", "label": "good"},
    {"text": "red green blue birds", "label": "bad"},
    {"text": "far away in the town", "label": "good"},
    {"text": "by the sea", "label": "bad"},
]
TAGGED = [
    {"tokens": ["the", "cat", "sat"], "tags": ["O", "B-ANIMAL", "O"]},
    {"tokens": ["red", "birds", "far", "away"], "tags": ["B-ANIMAL", "I-ANIMAL", "O", "O"]},
]
SUMMARIES = [
    {"source": "the cat sat on a mat and saw birds", "target": "the cat sat", "required": ["cat"]},
    {"source": "red green blue birds far away", "target": "birds far away", "required": ["red", "birds"]},
]


# -- numbers by hand --------------------------------------------------------------------------------------------


def test_labels_by_the_likelihood_of_the_whole_answer(tmp_path: Path) -> None:
    """Example 3: "good", in more tokens, has the higher mean and the lower sum; the sum decides, the end included."""
    task, examples = task_of(tmp_path, "classify", SENTIMENT, completion=" {{ label }}")
    prompter = Prompter(task, TOKENIZERS["causal"], "decoder", 48)
    bad, good = (len(prompter.completion(examples[0], label)) for label in ("bad", "good"))
    assert task.labels == ("bad", "good")
    assert bad < good
    sums = [(-1.0, -0.5), (-1.0, -2.0), (-1.0 * bad, -0.9 * good), (-2.0, -1.0)]  # of bad, of good
    script = [one for pair in sums for one in pair]
    told: list[int] = []
    scorer = Scripted(TOKENIZERS["causal"], script)
    found = measure(scorer, task, prompter, examples, part="train", told=told.append)
    assert scorer.asked[:2] == [(*prompter.completion(examples[0], label), prompter.end) for label in ("bad", "good")]
    assert [output.prediction for output in found.outputs] == ["good", "bad", "bad", "good"]
    assert found.scores["accuracy"].value == 0.5
    assert found.scores["macro_f1"].value == pytest.approx((0.5 + 0.5) / 2)
    assert found.metric == "accuracy"
    assert found.stats("accuracy").tolist() == [[1, 1], [1, 1], [0, 1], [0, 1]]
    assert found.scores["accuracy"] == interval(found.stats("accuracy"), METRICS["accuracy"])
    assert sum(told) == 4
    assert found.contract == contract(task, TOKENIZERS["causal"])


def test_written_answers(tmp_path: Path) -> None:
    task, examples = task_of(tmp_path, "summarise", SUMMARIES, columns={"required": "required"})
    prompter = Prompter(task, TOKENIZERS["causal"], "decoder", 400)
    found = measure(Scripted(TOKENIZERS["causal"], [" the cat", "red birds"]), task, prompter, examples, part="test")
    one, two = found.outputs
    assert (one.prediction, one.reference, one.finish) == ("the cat", "the cat sat", "stop")
    assert one.prompt == "the cat sat on a mat and saw birds\n\nSummary:"
    assert found.stats("mentions").tolist() == [[1, 1], [2, 2]]
    assert found.scores["mentions"].value == 1.0
    assert found.scores["rouge1"].value == pytest.approx((2 * 2 / 5 + 2 * 1 / 5) / 2)  # 2 of 2 and 3; 1 of 2 and 3
    assert {"rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf"} <= set(found.scores)
    read = sum(len(prompter.prompt(example).tokens) for example in examples)
    assert found.tokens == read + 2 * 2
    assert two.shots == two.dropped == two.truncated == 0


def test_few_shot_answers_end_where_the_next_example_would_begin(tmp_path: Path) -> None:
    task, examples = task_of(tmp_path, "summarise", SUMMARIES)
    prompter, scorer = Prompter(task, TOKENIZERS["causal"], "decoder", 400), Scripted(TOKENIZERS["causal"], ["", ""])
    measure(scorer, task, prompter, examples, part="test", shots=lambda example: examples[:1])
    assert scorer.decoding.stop == ("\n\n",)
    measure(scorer, task, prompter, examples, part="test")
    assert scorer.decoding.stop == ()


def test_mentions_wants_its_column(tmp_path: Path) -> None:
    task, examples = task_of(tmp_path, "summarise", SUMMARIES)
    assert "mentions" in [metric.name for metric in metrics_of(task, examples)]  # the file has the column as it is
    bare = [{key: row[key] for key in ("source", "target")} for row in SUMMARIES]
    task, examples = task_of(tmp_path, "summarise", bare)
    assert "mentions" not in [metric.name for metric in metrics_of(task, examples)]
    assert metrics_of(task, examples)[0].name == "rougeL"
    task, examples = task_of(tmp_path, "summarise", bare, metric="accuracy")
    with pytest.raises(ValueError, match="'accuracy' does not fit a task of kind summarise"):
        metrics_of(task, examples)


def test_tags_of_words_that_did_not_fit(tmp_path: Path) -> None:
    task, examples = task_of(tmp_path, "tag", TAGGED)
    assert task.labels == ("O", "B-ANIMAL", "I-ANIMAL")
    prompter = Prompter(task, TOKENIZERS["masked"], "encoder", 5)
    size = len(prompter.prompt(examples[1]).first)
    assert size < 4
    scores = [[[1, 0, 0], [0, 1, 0], [1, 0, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]][:size]]
    found = measure(
        Scripted(TOKENIZERS["masked"], scores, ("O", "B-ANIMAL", "I-ANIMAL")), task, prompter, examples, part="train"
    )
    assert found.outputs[0].prediction == ["O", "B-ANIMAL", "O"]
    assert found.outputs[1].prediction == ["B-ANIMAL", "I-ANIMAL", "O", "O"][:size] + ["O"] * (4 - size)
    assert found.outputs[1].truncated > 0
    assert found.scores["entity_f1"].value == pytest.approx(1.0 if size > 1 else 0.5)


@pytest.mark.parametrize(
    ("labels", "tags", "usual"),
    [(["B-ANIMAL", "I-ANIMAL", "O"], None, "O"), (["NN", "VB", "DT"], ["DT", "VB", "VB", "DT"], "VB")],
)
def test_what_did_not_fit_is_never_the_first_label_that_was_listed(
    labels: list[str], tags: list[str] | None, usual: str, tmp_path: Path
) -> None:
    verbs = {"tokens": ["go", "there"], "tags": ["VB", "NN"]}
    rows = TAGGED if tags is None else [verbs, {**TAGGED[1], "tags": tags}]
    task, examples = task_of(tmp_path, "tag", rows, labels=labels, metric="accuracy")
    assert task.usual == usual
    prompter = Prompter(task, TOKENIZERS["masked"], "encoder", 5)
    sizes = [len(prompter.prompt(example).first) for example in examples]
    assert sizes[1] < 4
    scores = [[[1, 0, 0]] * size for size in sizes]
    found = measure(Scripted(TOKENIZERS["masked"], scores, tuple(labels)), task, prompter, examples, part="train")
    assert found.outputs[1].prediction == [labels[0]] * sizes[1] + [usual] * (4 - sizes[1])


def test_labels_in_another_order(tmp_path: Path) -> None:
    """The head's own names decide, not the order that the task has them in."""
    task, examples = task_of(tmp_path, "classify", SENTIMENT)
    prompter = Prompter(task, TOKENIZERS["masked"], "encoder", 48)
    script = Scripted(TOKENIZERS["masked"], [[2.0, 1.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0]], ("good", "bad"))
    assert measure(script, task, prompter, examples, part="train").scores["accuracy"].value == 1.0
    script.labels = ("good", "awful")
    with pytest.raises(ValueError, match="the model knows the labels good, awful, and the task bad, good: 'awful'"):
        measure(script, task, prompter, examples, part="train")
    script.labels, script.answers = ("good", "bad"), [[[1.0, 2.0]]] * 4
    with pytest.raises(ValueError, match="this model labels words, and the task t is to label whole texts"):
        measure(script, task, prompter, examples, part="train")


def test_no_example(tmp_path: Path) -> None:
    task, _ = task_of(tmp_path, "classify", SENTIMENT)
    prompter = Prompter(task, TOKENIZERS["causal"], "decoder", 48)
    with pytest.raises(ValueError, match="the part 'test' of t has no example to measure"):
        measure(Scripted(TOKENIZERS["causal"]), task, prompter, [], part="test")


# -- tiny random models -----------------------------------------------------------------------------------------


def test_a_decoder_chooses_labels_as_a_plain_loop_does(tmp_path: Path) -> None:
    lm = build(LLAMA)
    task, examples = task_of(tmp_path, "classify", SENTIMENT)
    prompter = Prompter(task, lm.tokenizer, "decoder", 48)
    found = measure(
        ModelScorer(lm),
        task,
        prompter,
        examples,
        part="train",
        shots=lambda example: [examples[0]][: example.id != "x"],
    )
    for example, output in zip(examples, found.outputs, strict=True):
        prompt = prompter.prompt(example, [examples[0]])
        means = []
        for label in ("bad", "good"):
            answer = prompter.completion(example, label)
            logps = plain_logits(lm, prompt, answer)[len(prompt.tokens) - 1 : -1].log_softmax(-1)
            means.append(float(logps[range(len(answer)), answer].mean()))
        assert output.prediction == ("bad", "good")[int(np.argmax(means))]
        assert output.prompt == prompt.text


def test_shots_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    lm = build(LLAMA)
    task, examples = task_of(tmp_path, "summarise", SUMMARIES, decoding={"max_new": 4})
    prompter = Prompter(task, lm.tokenizer, "decoder", 48)
    found = measure(ModelScorer(lm), task, prompter, examples, part="train", shots=lambda example: examples[::-1])
    assert [output.shots + output.dropped for output in found.outputs] == [2, 2]
    assert sum(output.dropped for output in found.outputs) > 0
    assert all(len(output.prediction) > 0 for output in found.outputs)
    short = Prompter(task, lm.tokenizer, "decoder", 24)
    cut = measure(ModelScorer(lm), task, short, examples, part="train")
    assert [output.truncated for output in cut.outputs] == [
        len(prompter.prompt(example).tokens) - len(short.prompt(example).tokens) for example in examples
    ]
    assert max(output.truncated for output in cut.outputs) > 0


def test_an_encoder_decoder_writes(tmp_path: Path) -> None:
    lm = build(T5)
    task, examples = task_of(tmp_path, "summarise", SUMMARIES, decoding={"max_new": 5})
    prompter = Prompter(task, lm.tokenizer, "encoder-decoder", 480)
    found = measure(ModelScorer(lm), task, prompter, examples, part="train")
    for example, output in zip(examples, found.outputs, strict=True):
        prompt, more = prompter.prompt(example), ()
        while len(more) < 5 and (not more or more[-1] != lm.tokenizer.eos):
            more = (*more, int(plain_logits(lm, prompt, more)[-1].argmax()))
        assert output.prediction == lm.tokenizer.decode(more).strip()


@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_an_encoder_with_labels(kind: Any, tmp_path: Path) -> None:
    lm = build(BERT)
    rows, each = (SENTIMENT, "text") if kind == "classify" else (TAGGED, "token")
    task, examples = task_of(tmp_path, kind, rows)
    lm.model = relabel(lm.model, Labels(task.labels[::-1], each), torch.Generator().manual_seed(0))
    prompter = Prompter(task, lm.tokenizer, "encoder", 48)
    found = measure(ModelScorer(lm), task, prompter, examples, part="train")
    for example, output in zip(examples, found.outputs, strict=True):
        prompt = prompter.prompt(example)
        scores = plain_logits(lm, prompt)[[0] if kind == "classify" else list(prompt.first)].argmax(-1)
        names = [task.labels[::-1][i] for i in scores]
        assert output.prediction == (names[0] if kind == "classify" else names)


def test_a_draw_is_the_seeds(tmp_path: Path) -> None:
    lm = build(LLAMA)
    task, examples = task_of(tmp_path, "summarise", SUMMARIES, decoding={"max_new": 8, "temperature": 1.0})
    prompter = Prompter(task, lm.tokenizer, "decoder", 48)
    one, again, other = (
        [
            output.prediction
            for output in measure(ModelScorer(lm), task, prompter, examples, part="train", seed=s).outputs
        ]
        for s in (1, 1, 2)
    )
    assert one == again != other
