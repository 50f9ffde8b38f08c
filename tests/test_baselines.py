"""Baselines: their answers by hand, and what they reach on real data, beside scikit-learn."""

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from modelwright.data.examples import Example, read_examples
from modelwright.data.task import Task, parse_task
from modelwright.evaluate.baselines import TRIED, features, fit_baselines
from modelwright.evaluate.metrics import METRICS, default_metric, score, wanted

DATA = Path(os.environ.get("MODELWRIGHT_DATA", "/nowhere"))


def task(kind: str, **more) -> Task:
    return parse_task({"name": "t", "kind": kind, "data": {"train": "x"}, **more}, "here", Path())


def examples(*rows: dict) -> list[Example]:
    return [Example(f"x:{i}", row) for i, row in enumerate(rows, 1)]


def fitted(kind: str, train: list[Example], metric: str = "", **more) -> dict:
    asked = METRICS[metric] if metric else default_metric(kind)
    return {b.name: b.predict for b in fit_baselines(task(kind, **more), train, asked)}


def ask(predict, **fields):
    return predict(Example("new", fields))


def test_majority():
    rows = examples(*({"text": "x", "label": label} for label in ("no", "yes", "yes", "no")))
    assert ask(fitted("classify", rows)["majority"], text="?") == "no"  # as often as yes, and seen first
    rows = examples(
        {"question": "a", "answer": "4"}, {"question": "b", "answer": "5"}, {"question": "c", "answer": "5"}
    )
    assert ask(fitted("answer", rows)["majority"], question="?") == "5"
    rows = examples({"source": "a", "target": "A"}, {"source": "b", "target": "A"})
    assert ask(fitted("generate", rows)["majority"], source="?") == "A"


def test_tags():
    rows = examples(
        {"tokens": ["in", "Paris", "May"], "tags": ["O", "B-LOC", "O"]},
        {"tokens": ["May", "in", "May"], "tags": ["B-PER", "O", "B-PER"]},
    )
    found = fitted("tag", rows)
    assert list(found) == ["majority", "dictionary"]
    assert ask(found["majority"], tokens=["Paris", "x"]) == ["O", "O"]
    assert ask(found["dictionary"], tokens=["May", "in", "Rome", "Paris"]) == ["B-PER", "O", "O", "B-LOC"]


def test_lead_and_copy():
    dialogue = "A: Hi. Yes.\nB: The kettle is broken.\nA: Sorry.\nB: Bye.\n"
    rows = examples({"source": dialogue, "target": "Hi yes the kettle is broken"})
    found = fitted("summarise", rows)
    assert list(found) == ["lead-2", "copy"]  # two turns say it; one says too little, three too much
    assert ask(found["lead-2"], source=dialogue) == "A: Hi. Yes.\nB: The kettle is broken."
    assert ask(found["lead-2"], source="One. Two! Three?") == "One. Two!"
    assert ask(found["copy"], source=dialogue) == dialogue
    rows = examples({"source": "One fish. Two fish.", "target": "one fish"})
    assert list(fitted("summarise", rows)) == ["lead-1", "copy"]
    assert list(fitted("translate", rows)) == ["copy"]


def test_lead_is_chosen_by_the_task_s_own_metric():
    rows = examples({"source": "a b. c d. e f. g h.", "target": "a b", "required": ["a b", "e f"]})
    assert "lead-3" in fitted("summarise", rows, "mentions")
    assert "lead-1" in fitted("summarise", rows, "rougeL")
    with pytest.raises(
        ValueError, match="mentions needs a column `required`, a list of strings, which x:1 does not have"
    ):
        fitted("summarise", examples({"source": "a", "target": "b"}), "mentions")


def test_many_examples_are_not_all_tried():
    calls = []

    class Counting(dict):
        def __getitem__(self, key):
            calls.append(key)
            return super().__getitem__(key)

    fitted("summarise", [Example(str(i), Counting(source="a. b.", target="a")) for i in range(2 * TRIED)])
    assert calls.count("source") == 5 * TRIED


def test_bag_of_words_by_hand():
    """One added to each count; a feature counts once a text, however often it stands there."""
    rows = examples(
        {"text": "good good", "label": "+"}, {"text": "bad", "label": "-"}, {"text": "bad film", "label": "-"}
    )
    assert features("Good good FILM") == ["good", "film", "good good", "good film"]
    predict = fitted("classify", rows)["bag-of-words"]
    # of the five features good, "good good", bad, film, "bad film", counts + 1 are + (2 2 1 1 1) / 7, - (1 1 3 2 2) / 9
    assert ask(predict, text="good") == "+"  # 1/3 2/7 against 2/3 1/9
    assert ask(predict, text="film good") == "-"  # 1/3 1/7 2/7 = 0.0136 against 2/3 2/9 1/9 = 0.0165
    assert ask(predict, text="good good") == "+"
    assert ask(predict, text="unheard of") == ask(predict, text="") == "-"


def test_bag_of_words_equals_scikit_learn():
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(list("abcdefghij"), 6)) for _ in range(80)]
    labels = [str(draw.choice(["x", "y", "z"], p=[0.5, 0.3, 0.2])) for _ in texts]
    count = CountVectorizer(analyzer=features, binary=True)
    theirs = (
        MultinomialNB(alpha=1.0).fit(count.fit_transform(texts[:60]), labels[:60]).predict(count.transform(texts[60:]))
    )
    rows = examples(*({"text": t, "label": l} for t, l in zip(texts[:60], labels[:60], strict=True)))
    predict = fitted("classify", rows)["bag-of-words"]
    assert [ask(predict, text=text) for text in texts[60:]] == list(theirs)


def test_no_training_examples():
    with pytest.raises(
        ValueError, match="the task t has no training examples, and its baselines are learned from these"
    ):
        fitted("classify", [])


def reached(kind: str, train: list[Example], dev: list[Example], columns: dict) -> dict[str, float]:
    asked, metric = task(kind, columns=columns), default_metric(kind)

    def rows(read: list[Example]) -> list[Example]:
        return [
            Example(ex.id, dict(ex.fields) | {ours: ex.fields[theirs] for ours, theirs in columns.items()})
            for ex in read
        ]

    found = {}
    for baseline in fit_baselines(asked, rows(train), metric):
        stats = [metric.stats(baseline.predict(ex), wanted(metric, asked, ex), asked) for ex in rows(dev)]
        found[baseline.name] = score(metric, np.stack(stats))
    return found


@pytest.mark.skipif(not DATA.is_dir(), reason="real data: set MODELWRIGHT_DATA")
def test_sst2():
    """Wang and Manning 2012 report 79.4 with bigrams on the whole of this kind of sentence (MR); half are positive."""
    train, dev = (read_examples(DATA / "sst2" / name) for name in ("train.tsv", "dev.tsv"))
    found = reached("classify", train, dev, {"text": "text", "label": "label"})
    assert 0.45 < found["majority"] < 0.55
    assert 0.78 < found["bag-of-words"] < 0.84


@pytest.mark.skipif(not DATA.is_dir(), reason="real data: set MODELWRIGHT_DATA")
def test_wnut17():
    files = sorted((DATA / "wnut17").glob("*.conll"))
    train, dev = (read_examples(next(f for f in files if part in f.name)) for part in ("train", "dev"))
    found = reached("tag", train, dev, {"tokens": "tokens", "tags": "tags"})
    assert found["majority"] == 0
    assert 0.02 < found["dictionary"] < 0.3  # most names of the dev part never stood in training
