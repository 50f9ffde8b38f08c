"""What a classifier of hateful tweets goes by: HateCheck's functions, beside classifiers that know words alone.

    python bench/hatecheck.py runs/hate/.../model [--data DIR]

MODEL learned examples/hate: 0 hate, 1 offensive, 2 neither. HateCheck (Röttger et al. 2021) tells hateful from
non-hateful, so what is offensive and no more is read once as non-hateful and once as hateful. Each function has one
right label. Beside the model, on the same cases: the model with the words of each case in a random order, and logistic
regression on which words and pairs of words stand in a tweet, trained on the same examples (C by macro F1 on select;
needs scikit-learn). An answer that stays when the order goes was found in the words. Intervals are of 95%.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

EXAMPLES = Path(__file__).parents[1] / "examples" / "hate"
READ = {
    "hate alone is hateful": {"0": "hateful", "1": "non-hateful", "2": "non-hateful"},
    "offensive is hateful too": {"0": "hateful", "1": "hateful", "2": "non-hateful"},
}
NEITHER = "2"
STRENGTHS = (0.1, 0.3, 1, 3, 10, 30)


def of_model(name: str, task: Any, texts: Sequence[str]) -> list[str]:
    """The labels that a model gives texts."""
    from modelwright.adapt.open import open_model, prompter_of
    from modelwright.data.examples import Example
    from modelwright.evaluate.scorer import ModelScorer
    from modelwright.evaluate.tasks import answers

    lm = open_model(name)
    examples = [Example(str(at), {"text": text, "tweet": text, "label": "0"}) for at, text in enumerate(texts)]
    prompter = prompter_of(task, lm)
    given = answers(ModelScorer(lm), task, prompter, examples, [prompter.prompt(example) for example in examples])
    return [str(one.answer) for one in given]


def of_words(task: Any, parts: Mapping[str, Sequence[Any]], texts: Sequence[str]) -> tuple[list[str], str]:
    """The labels of logistic regression on the prompts' words, and how well it does on the part decide."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from modelwright.data.prompt import rendered
    from modelwright.evaluate.tasks import judge, metrics_of, score_all
    from modelwright.recipes import results

    read = {part: [rendered(task, "prompt", task.prompts[0], e) for e in examples] for part, examples in parts.items()}
    metrics = metrics_of(task, parts["train"])

    def score(model: Any, part: str) -> Any:
        said = zip(parts[part], model.predict(read[part]), strict=True)
        return score_all(metrics, [judge(metrics, task, *pair) for pair in said])["macro_f1"]

    labels, tried = [e.fields["label"] for e in parts["train"]], []
    for c in STRENGTHS:
        seen = CountVectorizer(token_pattern=r"[\w']+", ngram_range=(1, 2), binary=True)
        tried.append(make_pipeline(seen, LogisticRegression(C=c, max_iter=1000)).fit(read["train"], labels))
    best = max(tried, key=lambda model: score(model, "select").value)
    found = results.told(vars(score(best, "decide")))
    return list(best.predict(texts)), f"C = {best[-1].C:g}, macro F1 on decide {found}"


def shuffled(text: str, seed: int) -> str:
    words = text.split()
    Random(seed).shuffle(words)
    return " ".join(words)


def told(right: Sequence[bool]) -> str:
    from modelwright.evaluate.metrics import METRICS
    from modelwright.evaluate.statistics import interval
    from modelwright.recipes import results

    stats = np.array([(float(one), 1.0) for one in right])
    return results.told(vars(interval(stats, METRICS["accuracy"])))


def table(cases: Sequence[Any], said: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> list[str]:
    """A row for each function, and one for each label of all functions."""
    rows = [f"| function | n | right | {' | '.join(said)} |", "|---" * (3 + len(said)) + "|"]
    groups: dict[str, list[int]] = {}
    for at, case in enumerate(cases):
        groups.setdefault(case.fields["functionality"], []).append(at)
        groups.setdefault(f"all that is {case.fields['label']}", []).append(at)
    for name, at in sorted(groups.items(), key=lambda one: (one[0].startswith("all "), one[1])):
        wanted = cases[at[0]].fields["label"]
        cells = [told([names[answers[i]] == wanted for i in at]) for answers in said.values()]
        rows.append(f"| {name} | {len(at)} | {wanted} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what examples/hate trained: a model's directory, or an adapter's")
    parser.add_argument("--data", default=os.environ.get("MODELWRIGHT_DATA"), help="the data folder")
    parser.add_argument("--seed", type=int, default=0, help="of the order of words")
    o = parser.parse_args()
    if not o.data:
        return print("hatecheck.py needs the data folder: --data DIR, or the environment variable MODELWRIGHT_DATA")
    os.environ["MODELWRIGHT_DATA"] = o.data
    from modelwright.data.task import prepare, read_task
    from modelwright.project.spec import read_project

    task, parts = prepare(read_project(EXAMPLES / "project.yaml").task)
    cases = prepare(read_task(EXAMPLES / "hatecheck.yaml"))[1]["test"]
    texts = [case.fields["text"] for case in cases]
    mixed = [shuffled(text, o.seed + at) for at, text in enumerate(texts)]
    words, how = of_words(task, parts, texts)
    said = {
        "model": of_model(o.model, task, texts),
        "its words shuffled": of_model(o.model, task, mixed),
        "words": words,
    }
    print(f"words: {how}")
    for name, names in READ.items():
        print(f"\n{name}\n")
        print("\n".join(table(cases, said, names)))
    for name in list(said)[1:]:
        pairs = list(zip(said["model"], said[name], strict=True))
        found = [b != NEITHER for a, b in pairs if a != NEITHER]
        print(f"\n{name}: the same of three labels as the model {told([a == b for a, b in pairs])}")
        print(f"of the {len(found)} cases that are not neither to the model, {sum(found)} are not to this")


if __name__ == "__main__":
    main()
