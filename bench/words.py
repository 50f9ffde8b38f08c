"""What words alone tell: logistic regression on words, for labels of sentences (SST-2) and of words (WNUT-17).

    python bench/words.py [--data DIR] [--tasks sst2 wnut17] [--quick]

The bar that a small language model has to clear. Tasks, parts and metrics are those of examples/sst2 and
examples/wnut17, so that the scores stand beside what a project's report says of the same examples.

- Sentences: their words and pairs of neighbouring words, counted, or weighed by tf-idf (the logarithm of the count,
  and rarer words for more), scaled to length 1.
- Words: each by itself, from its letters, lower case, first and last one to four letters, shape ("Xxxx-00"), length,
  and the same of two neighbours on each side; the tag of the word before is not read, so nothing is searched.

scikit-learn's LogisticRegression (multinomial, L2), trained on the part train; its C, and for sentences the
weighing, are those best on the part select; decide and test are then measured once, with intervals of 95%.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
AROUND = 2  # neighbours on each side
AFFIX = 4  # letters, at most
NOTHING = "\n"  # beyond the sentence

Answer = Callable[[Sequence[Any]], list[Any]]  # examples -> labels, or lists of tags


class Choice(NamedTuple):
    """A classifier, and by what it was chosen."""

    said: str
    answer: Answer


# -- sentences -----------------------------------------------------------------------------------


def of_sentences(train: Sequence[Any], strengths: Sequence[float]) -> Iterator[Choice]:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = [e.fields["text"] for e in train], [e.fields["label"] for e in train]
    words = {"token_pattern": r"\S+", "ngram_range": (1, 2)}  # the words are parted in the file
    for how in ("counts", "tf-idf"):
        for c in strengths:
            weigh = CountVectorizer(**words) if how == "counts" else TfidfVectorizer(sublinear_tf=True, **words)
            model = make_pipeline(weigh, LogisticRegression(C=c, max_iter=1000)).fit(texts, labels)
            yield Choice(f"{how}, C = {c:g}", lambda some, m=model: list(m.predict([e.fields["text"] for e in some])))


# -- words ---------------------------------------------------------------------------------------


def shape(word: str) -> str:
    """`McDonald's` -> `XxXx'x`: runs of a class of letters are one."""
    classes = re.sub(r"[0-9]", "0", re.sub(r"[^\W\d_]", lambda m: "X" if m[0].isupper() else "x", word))
    return re.sub(r"(.)\1+", r"\1", classes)


def features(words: Sequence[str], at: int) -> dict[str, float]:
    word = words[at]
    found = {f"is {word}": 1.0, f"length {min(len(word), 12)}": 1.0, "first": float(at == 0)}
    for n in range(1, min(AFFIX, len(word)) + 1):
        found |= {f"begins {word[:n].lower()}": 1.0, f"ends {word[-n:].lower()}": 1.0}
    for by in range(-AROUND, AROUND + 1):
        near = words[at + by] if 0 <= at + by < len(words) else NOTHING
        found |= {f"{by} {near.lower()}": 1.0, f"{by} shape {shape(near)}": 1.0}
    return found


def of_words(train: Sequence[Any], strengths: Sequence[float]) -> Iterator[Choice]:
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    sees = DictVectorizer()
    x = sees.fit_transform(each(train))
    tags = [tag for example in train for tag in example.fields["tags"]]
    for c in strengths:
        model = LogisticRegression(C=c, max_iter=200, tol=1e-3).fit(x, tags)

        def answer(some: Sequence[Any], model: Any = model) -> list[Any]:
            said = iter(model.predict(sees.transform(each(some))).tolist())
            return [[next(said) for _ in example.fields["tokens"]] for example in some]

        yield Choice(f"C = {c:g}", answer)


def each(examples: Sequence[Any]) -> Iterator[dict[str, float]]:
    for example in examples:
        words = example.fields["tokens"]
        yield from (features(words, at) for at in range(len(words)))


# -- the measurement -----------------------------------------------------------------------------


def scores(task: Any, examples: Sequence[Any], answer: Answer) -> dict[str, Any]:
    """Metric -> its interval; the task's own comes first."""
    from modelwright.evaluate.tasks import judge, metrics_of, score_all

    metrics = metrics_of(task, examples)
    said = zip(examples, answer(examples), strict=True)
    return score_all(metrics, [judge(metrics, task, example, answer) for example, answer in said])


def measure(name: str, o: argparse.Namespace) -> Iterator[str]:
    from modelwright.data.task import prepare
    from modelwright.project.spec import read_project
    from modelwright.recipes.results import told

    task, parts = prepare(read_project(ROOT / "examples" / name / "project.yaml").task)
    if o.quick:
        parts = {part: examples[:200] for part, examples in parts.items()}
    kinds = {"classify": of_sentences, "tag": of_words}
    start = time.perf_counter()
    tried = list(kinds[task.kind](parts["train"], o.strengths))
    found = [next(iter(scores(task, parts["select"], one.answer).values())).value for one in tried]
    best, seconds = max(zip(found, tried, strict=True), key=lambda pair: pair[0])[1], time.perf_counter() - start
    for part in ("decide", "test"):
        for metric, interval in scores(task, parts[part], best.answer).items():
            yield (f"| {name} | {part} (n = {interval.n}) | {metric} | {told(vars(interval))} | {best.said}, "
                   f"best of {len(tried)} | {seconds:.0f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("MODELWRIGHT_DATA"), help="the data folder")
    parser.add_argument("--tasks", nargs="+", choices=("sst2", "wnut17"), default=["sst2", "wnut17"])
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.1, 0.3, 1, 3, 10, 30], help="C to try")
    parser.add_argument("--quick", action="store_true", help="200 examples of each part, to see that it runs")
    o = parser.parse_args()
    if not o.data:
        return print("words.py needs the data folder: --data DIR, or the environment variable MODELWRIGHT_DATA")
    os.environ["MODELWRIGHT_DATA"] = o.data
    print("| task | part | metric | score, 95% interval | chosen on select | seconds, all trials |")
    print("|---|---|---|---|---|---|")
    for name in o.tasks:
        for line in measure(name, o):
            print(line, flush=True)


if __name__ == "__main__":
    main()
