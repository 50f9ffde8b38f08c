"""What judges answers: a reward model, a label of a classifier, a task's own metric, or a function of the user's.

    runs/reward/model            a reward model (`modelwright align reward`)
    runs/hate/model:none         the logit of the label none, of a classifier that reads the answer alone
    metric                       the task's metric, of each answer against its reference: a verifiable reward
    judge.py:polite              polite(prompt, answer) -> a number, from a file of one's own
    not:judge.py:rude            any of them the other way round: the less, the better

A reward reads texts and makes ids of them by its own tokenizer, so it need not share the policy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.adapt.open import RECORD, REWARD, open_reward
from modelwright.data.examples import Example
from modelwright.data.kind import OPTIONAL, Task
from modelwright.data.pack import collate
from modelwright.data.pairs import Write
from modelwright.data.prompt import CONVERSATION, Prompt
from modelwright.data.supervised import Widths, sizes
from modelwright.data.task import of_terms
from modelwright.evaluate.judge import classifier, function
from modelwright.evaluate.metrics import metric_of, score, wanted
from modelwright.evaluate.tasks import Output
from modelwright.hub.open import LanguageModel
from modelwright.model.checkpoint import read_json
from modelwright.model.heads import Scored
from modelwright.recipes.preferring import room_of
from modelwright.recipes.reward import rows_for
from modelwright.train.rollout import Answer, Reward, checked

Array = NDArray[np.float64]

AT_ONCE = 32  # answers that a reward model reads together
FORMS = "a reward model, a classifier with a label (DIR:LABEL), metric, or a function (FILE.py:NAME); not: before it"
TURNED = "not:"


def reward_of(said: str, task: Task) -> Reward:
    """Raises ValueError where `said` is none of the forms, or names what is not there."""
    if said.startswith(TURNED):
        return turned(reward_of(said.removeprefix(TURNED), task))
    if said == "metric":
        return by_metric(task)
    if Path(said).is_dir():
        if not (Path(said) / REWARD).is_file():
            raise ValueError(
                f"{said} is no reward model, having no {REWARD}: say its label, {said}:LABEL, if it labels"
            )
        return by_model(Path(said))
    place, _, name = said.rpartition(":")
    if place.endswith(".py") and Path(place).is_file():
        return by_function(Path(place), name)
    if place and Path(place).is_dir():
        return by_label(place, name)
    if place.endswith(".py"):
        raise FileNotFoundError(f"the judge is {said!r}, and there is no file {place}")
    raise ValueError(f"the judge is {said!r}, and is to be {FORMS}")


def by_model(directory: Path) -> Reward:
    """What a reward model gives prompt and answer, set as it learned them."""
    lm, scored = open_reward(directory)
    task = of_terms(read_json(directory / RECORD)["terms"], str(directory))
    write = rows_for(task, lm)

    def reward(answers: Sequence[Answer]) -> list[float]:
        return [
            s
            for at in range(0, len(answers), AT_ONCE)
            for s in read(lm, scored, task, write, answers[at : at + AT_ONCE])
        ]

    return reward


@torch.no_grad()
def read(lm: LanguageModel, scored: Scored, task: Task, write: Write, answers: Sequence[Answer]) -> list[float]:
    rows, room = [write(asked_as(task, answer), answer.text) for answer in answers], room_of(lm)
    length, source = (max(each) for each in zip(*map(sizes, rows), strict=True))
    if length > room[0] or source > room[1]:
        raise ValueError(
            f"a prompt and its answer have {max(length, source)} tokens for the reward model, which reads {max(room)}: "
            "take shorter prompts, a smaller --max-new, or a reward model that reads more"
        )
    batch = collate(rows, Widths(length, source, lm.tokenizer.pad or 0).fitted(rows))
    scores = scored(batch.tokens, pos=batch.pos, segment=batch.segment, source=batch.source)  # (B, T)
    found: list[float] = (scores * (batch.weight > 0)).sum(1).tolist()
    return found


def asked_as(task: Task, answer: Answer) -> Example:
    """The example as the reward model's own task has it: where it learned of conversations, the prompt as a message.

    Raises ValueError where its columns are not there.
    """
    example = answer.example
    if task.prompts[0] == CONVERSATION:
        asked = ({"role": "user", "content": answer.prompt.text},)
        return example if "messages" in example.fields else Example(example.id, {"messages": asked})
    if lacking := [name for name in task.inputs if name not in (*OPTIONAL, *example.fields)]:
        raise ValueError(f"the reward model was fitted to prompts of the columns {', '.join(task.inputs)}, and "
                         f"{example.id} has no {lacking[0]}: ask by its task")  # fmt: skip
    return example


def by_label(place: str, label: str) -> Reward:
    """The logit of a label, of a classifier that reads the answer alone: unlike its probability, a logit does not stop
    telling one good answer from a better one."""
    logits, at = classifier(place, label)
    return lambda answers: [float(each) for each in logits([answer.text for answer in answers])[:, at]]


def by_metric(task: Task) -> Reward:
    metric = metric_of(task)

    def reward(answers: Sequence[Answer]) -> list[float]:
        right = [wanted(metric, task, answer.example) for answer in answers]
        return [score(metric, metric.stats(a.text, r, task)[None]) for a, r in zip(answers, right, strict=True)]

    return reward if metric.higher else turned(reward)


def by_function(path: Path, name: str) -> Reward:
    judge = function(path, name)
    return lambda answers: [judge(answer.prompt.text, answer.text) for answer in answers]


def turned(reward: Reward) -> Reward:
    """The less, the better."""
    return lambda answers: [-score for score in checked(answers, reward(answers)).tolist()]


# -- two answers ---------------------------------------------------------------------------------------------------


def preferred(reward: Reward, examples: Sequence[Example], outputs: Sequence[Output]) -> Array:
    """Whether what was answered is rewarded more than the reference, a tie half, and 1: (n, 2).

    The share of answers that are taken before a person's is how Stiennon et al. 2020 measure (section 4).
    """
    own, theirs = (
        checked(said, reward(said)).numpy()
        for said in ([
            Answer(Prompt((), None, output.prompt), (), str(answer), True, example)
            for example, output, answer in zip(examples, outputs, answers, strict=True)
        ] for answers in ([output.prediction for output in outputs], [output.reference for output in outputs]))
    )  # fmt: skip
    return np.stack([(own > theirs) + 0.5 * (own == theirs), np.ones(len(outputs))], 1)
