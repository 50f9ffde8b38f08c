"""Judges of an answer: a label of a classifier, or a function of the user's; and the share of answers they call toxic.

    runs/hate/model:hate    a label of a classifier, which reads the answer alone
    judge.py:rude           rude(prompt, answer) -> a number, from a file of one's own

Letters: n answers, L labels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

from modelwright.adapt.open import RECORD, open_model, prompter_of
from modelwright.data.examples import Example
from modelwright.data.task import of_terms
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import Output
from modelwright.model.checkpoint import read_json

Array = NDArray[np.float64]
Judge = Callable[[str, str], float]  # prompt, answer -> a number
Logits = Callable[[Sequence[str]], Array]  # answers -> (n, L)
Toxic = Callable[[Sequence[str], Sequence[str]], Array]  # prompts, answers -> how toxic each is, 0 to 1, and 1: (n, 2)

CLASSIFIER = of_terms({"kind": "classify", "prompts": ["{{ text }}"]}, "a classifier")
FORMS = "a label of a classifier (DIR:LABEL), or a function that gives 0 to 1 (FILE.py:NAME)"


def toxicity_of(said: str) -> Toxic:
    """What calls an answer toxic: a classifier whose likeliest label is the one that is named; or a function, which
    gives 0 or 1, or a probability. Raises ValueError where `said` is neither, or names what is not there."""
    place, _, name = said.rpartition(":")
    if place.endswith(".py") and Path(place).is_file():
        return _by_function(said, function(Path(place), name))
    if place and Path(place).is_dir():
        logits, at = classifier(place, name)
        return lambda prompts, answers: _stats((logits(answers).argmax(1) == at).astype(np.float64))
    if place.endswith(".py"):
        raise FileNotFoundError(f"toxicity is judged by {said!r}, and there is no file {place}")
    raise ValueError(f"toxicity is judged by {said!r}, and is to be by {FORMS}")


def _by_function(said: str, judge: Judge) -> Toxic:
    def toxic(prompts: Sequence[str], answers: Sequence[str]) -> Array:
        found = [judge(*pair) for pair in zip(prompts, answers, strict=True)]
        if wrong := [value for value in found if not isinstance(value, SupportsFloat) or not 0 <= float(value) <= 1]:
            raise ValueError(f"{said} gave {wrong[0]!r} for an answer: toxicity is from 0, or False, to 1, or True")
        return _stats(np.array(found, np.float64))

    return toxic


def with_toxicity(toxic: Toxic, outputs: Sequence[Output]) -> tuple[Output, ...]:
    """The same outputs with `toxicity` among their statistics."""
    found = zip(outputs, toxicity(toxic, outputs), strict=True)
    return tuple(replace(output, stats={**output.stats, "toxicity": stats}) for output, stats in found)


def toxicity(toxic: Toxic, outputs: Sequence[Output]) -> Array:
    """(n, 2)."""
    return toxic([output.prompt for output in outputs], [str(output.prediction) for output in outputs])


def _stats(toxic: Array) -> Array:
    return np.stack([toxic, np.ones_like(toxic)], 1)  # (n, 2)


def classifier(place: str, label: str) -> tuple[Logits, int]:
    """The logits of a classifier that reads the answer alone, and which of them is the label's.

    Raises ValueError where it has no such label.
    """
    lm = open_model(place)
    labels = lm.model.cfg.labels
    if labels is None or label not in labels.names:
        there = f"its labels are {', '.join(labels.names)}" if labels else "it has no labels"
        raise ValueError(f"{place} has no label {label!r}: {there}")
    task = of_terms(read_json(Path(place) / RECORD)["terms"], place) if (Path(place) / RECORD).is_file() else CLASSIFIER
    prompter, scorer = prompter_of(task, lm), ModelScorer(lm)

    def logits(answers: Sequence[str]) -> Array:
        columns = (*task.inputs, *task.columns.values())
        read = [Example(str(at), dict.fromkeys(columns, answer)) for at, answer in enumerate(answers)]
        return np.stack([np.asarray(each) for each in scorer.predict([prompter.prompt(example) for example in read])])

    return logits, labels.names.index(label)


def function(path: Path, name: str) -> Judge:
    """Runs the file, which its user named: it is trusted as the command is. Raises ValueError where it cannot be run,
    or has no such function."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    judge: Judge | None = getattr(module, name, None)
    if not callable(judge):
        raise ValueError(f"{path} has no function {name!r}: it is to take a prompt and an answer, and give a number")

    def called(prompt: str, answer: str) -> float:
        try:
            return judge(prompt, answer)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path}:{name} cannot judge the answer {answer[:60]!r}: {said}") from error

    return called
