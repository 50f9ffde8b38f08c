"""A reward model: a number for an answer, such that what people chose has the higher one (Ouyang et al. 2022, 3.5).

    1. pairs        in three parts by their prompts; all pairs of a ranking in one batch
    2. a body       any of the three architectures, with a fresh head of one number
    3. rows         prompt and answer, whole, with weight at the one place where the body judges
    4. a plan       steps, memory and time
    5. training     -log sigmoid(reward of the chosen - reward of the rejected); about log 2 before the first step
    6. what came    the best moment, its rewards shifted and scaled so that chosen answers have mean 0 and spread 1;
                    accuracy, margins and calibration on pairs kept apart

Left out: a margin for how much better (Touvron et al. 2023, eq. 2), rewards of single steps, ensembles.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modelwright.adapt.open import REWARD
from modelwright.data.kind import Task
from modelwright.data.pack import Batch
from modelwright.data.pairs import Write, verdicts_of
from modelwright.data.prompt import starts
from modelwright.hub.open import LanguageModel
from modelwright.losses.preference import answer_scores, pairwise_reward
from modelwright.model.heads import Scored
from modelwright.recipes.best import spread
from modelwright.recipes.preferring import Paired, Prefer, batches, command, get_paired, keep, learn, tested
from modelwright.recipes.watch import Screen

NORMAL = 2048  # rows that tell mean and spread: to a fortieth of the spread


@dataclasses.dataclass(frozen=True)
class Reward(Prefer):
    """Fit a reward model to preferences."""

    gentle: ClassVar[float] = 1.0


def reward(args: Reward, screen: Screen) -> dict[str, Any]:
    # 1. pairs, 2. a body and a head, 3. rows
    ready = get_paired(args, rows_for, lambda lm: Scored(lm.model, torch.Generator().manual_seed(args.seed)))
    # 4. a plan, 5. training
    found, actual = learn(args, ready, pairwise_reward, score, screen)
    if actual is None:
        return {"predicted": dataclasses.asdict(found)}
    # 6. what came of it
    normalise(ready)
    result = tested(ready, score)
    came = {"preferences": dataclasses.asdict(result)}
    return keep(args, ready, found, actual, came, {"by": "reward"}, lambda work: save_head(ready.learner, work))


def rows_for(task: Task, lm: LanguageModel) -> Write:
    cfg = lm.model.cfg
    context = (cfg.encoder or cfg).context
    return verdicts_of(task, lm.tokenizer, cfg.shape, context, starts(lm.generation))


def score(model: nn.Module, batch: Batch) -> Tensor:
    return answer_scores(model, batch)


@torch.no_grad()
def normalise(ready: Paired) -> None:
    """Bradley and Terry's rewards are known but for a constant, and their spread is chance: chosen answers of the
    training part get mean 0 (Ouyang et al. 2022, section 3.5) and standard deviation 1, as some of its rows tell."""
    values = torch.cat([_of_chosen(ready.learner, batch) for batch in batches(ready, spread(ready.rows, NORMAL))])
    head = ready.learner.score
    assert isinstance(head, nn.Linear)
    mean, scale = values.mean(), values.std(correction=0).clamp(min=1e-6)
    head.bias.sub_(mean).div_(scale)
    head.weight.div_(scale)


def _of_chosen(model: nn.Module, batch: Batch) -> Tensor:
    assert batch.pairs is not None
    return answer_scores(model, batch)[..., 0][batch.pairs.weight > 0]


def save_head(model: nn.Module, work: Path) -> None:
    assert isinstance(model, Scored)
    save_file(
        {"weight": model.score.weight.detach()[0].clone(), "bias": model.score.bias.detach().clone()}, work / REWARD
    )


def main(argv: list[str]) -> int:
    """`modelwright align reward`."""
    return command(Reward, argv, "reward", reward)
