"""How often a model's replies are rude and what they tell, beside other models' to the same requests.

    python measure.py BEFORE AFTER AFTER --judge runs/manner/model

Of answers drawn at temperature 1 and of the likeliest: the share that a classifier calls rude, the share with a rude
sentence of the desk's own grammar, the facts that are named, ROUGE-L against a polite reply, and characters; each
with its interval, and the paired difference from the first model. Prints JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.adapt.open import open_model, prompter_of
from modelwright.data.desk.manners import is_rude
from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.task import prepare, read_task
from modelwright.evaluate.metrics import METRICS, Metric, amounts, of_any, ratio
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.statistics import interval, paired
from modelwright.evaluate.tasks import answers
from modelwright.recipes.rewards import by_label
from modelwright.train.rollout import Answer, write

HERE = Path(__file__).parent
SHARE = Metric("share", frozenset(), False, of_any(amounts), ratio, None)
Stats = dict[str, np.ndarray[Any, Any]]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("models", nargs="+", metavar="MODEL", help="before, and after")
    options.add_argument("--judge", required=True, help="a classifier with the labels polite and rude")
    options.add_argument("--part", default="decide")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    task, parts = prepare(read_task(HERE / "reply.yaml"))
    stats = [of_model(model, args.judge, task, parts[args.part], args.seed) for model in args.models]
    print(json.dumps({name: told(name, [each[name] for each in stats]) for name in stats[0]}, indent=2))


def of_model(path: str, judge: str, task: Task, examples: Sequence[Example], seed: int) -> Stats:
    """Under each name statistics of the answers (n, k)."""
    lm = open_model(path)
    prompter = prompter_of(task, lm)
    drawn = [answer.text for answer in write(lm.model.eval(), prompter, examples, seed=seed)]
    prompts = [prompter.prompt(example) for example in examples]
    likeliest = [str(given.answer) for given in answers(ModelScorer(lm), task, prompter, examples, prompts)]
    found: Stats = {}
    for way, said in (("drawn", drawn), ("likeliest", likeliest)):
        shown = [Answer(p, (), s, True, e) for p, s, e in zip(prompts, said, examples, strict=True)]
        margin = np.array(by_label(judge, "rude")(shown)) - np.array(by_label(judge, "polite")(shown))
        found[f"{way}: rude, by the classifier"] = share(margin > 0)
        found[f"{way}: rude, by the grammar"] = share([is_rude(text) for text in said])
        for metric, column in (("mentions", "facts"), ("rougeL", "polite")):
            right = [example.fields[column] for example in examples]
            each = [METRICS[metric].stats(text, r, task) for text, r in zip(said, right, strict=True)]
            found[f"{way}: {metric}"] = np.stack(each)
        found[f"{way}: characters"] = share(list(map(len, said)))
    return found


def share(values: Any) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(values, float), np.ones(len(values))], 1)


def told(name: str, stats: Sequence[np.ndarray[Any, Any]]) -> dict[str, Any]:
    metric = METRICS.get(name.split(": ")[1], SHARE)
    values = [dataclasses.asdict(interval(each, metric)) for each in stats]
    return {"values": values, "paired": [dataclasses.asdict(paired(each, stats[0], metric)) for each in stats[1:]]}


if __name__ == "__main__":
    main()
