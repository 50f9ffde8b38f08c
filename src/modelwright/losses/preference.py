"""Losses over pairs: of two answers to a prompt, one was preferred. Unreduced: the loop divides.

Letters: B pairs; and of batches B rows, T tokens of a row, P pairs of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.losses.language import Rows, Terms

Kind = Literal["sigmoid", "ipo", "hinge"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected), of rewards (B) -> (B).

    That the better of two is told apart with the odds of their rewards (Bradley and Terry 1952) is what a reward model
    is fitted to (Ouyang et al. 2022, eq. 1).
    """
    return -F.logsigmoid(chosen - rejected)


def dpo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float, kind: Kind = "sigmoid"
) -> Tensor:
    """How far the policy still is from preferring what was chosen, more than its reference does -> (B).

    Each (B), a log-probability of a whole answer: the sum over its tokens; for `ipo` their mean, as in the authors' own
    runs, or a long answer would have the larger margin by its length alone.
    """
    return LOSSES[kind]((chosen - rejected) - (ref_chosen - ref_rejected), beta)


def sigmoid(margin: Tensor, beta: float) -> Tensor:
    """Rafailov et al. 2023, eq. 7: Bradley-Terry of the implicit rewards beta log(pi / ref); log 2 before step one."""
    return -F.logsigmoid(beta * margin)


def ipo(margin: Tensor, beta: float) -> Tensor:
    """Azar et al. 2023, eq. 17: the margin is to be 1 / (2 beta), and no more, so that pairs are not overfitted."""
    return (margin - 1 / (2 * beta)).square()


def hinge(margin: Tensor, beta: float) -> Tensor:
    """Zhao et al. 2023 (SLiC), eq. 1, on beta times the margin: nothing more is learned of a pair beyond 1."""
    return F.relu(1 - beta * margin)


LOSSES: Mapping[Kind, Callable[[Tensor, float], Tensor]] = {"sigmoid": sigmoid, "ipo": ipo, "hinge": hinge}


# -- over batches --------------------------------------------------------------------------------------------------
# A row holds pairs one after the other: the chosen answer is a segment, the rejected one the next (`data.pairs`).

Reference = Callable[[], AbstractContextManager[nn.Module]]  # what the policy must not stray from, for a while
Loss = Callable[[nn.Module, Rows], tuple[Terms, dict[str, Any]]]


def by_answer(values: Tensor, segment: Tensor) -> Tensor:
    """Sums of values (B, T) over the segments 1, 2, ... of each row, two and two: (B, P, 2)."""
    count = int(segment.max())
    sums = values.new_zeros(len(values), 1 + count + count % 2).scatter_add(1, segment, values)
    return sums[:, 1:].view(len(values), -1, 2)


def counts(batch: Rows) -> Tensor:
    """What each pair counts: (B, P), 0 where a row has no more pairs."""
    learned = by_answer((batch.weight > 0).float(), batch.segment)  # tokens
    return (by_answer(batch.weight, batch.segment) / learned.clamp(min=1))[..., 0]


def answer_logps(model: nn.Module, batch: Rows, kind: Kind = "sigmoid") -> Tensor:
    """log p of each answer, its end included: (B, P, 2). The sum over its tokens; for `ipo` their mean."""
    targets = batch.targets.masked_fill(batch.weight == 0, -1)
    logps = model(batch.tokens, targets, pos=batch.pos, segment=batch.segment, source=batch.source)  # (B, T)
    sums = by_answer(logps, batch.segment)
    return sums / by_answer((targets >= 0).float(), batch.segment).clamp(min=1) if kind == "ipo" else sums


def answer_scores(model: nn.Module, batch: Rows) -> Tensor:
    """What a reward model gives each answer, where its weight stands: (B, P, 2)."""
    scores = model(batch.tokens, pos=batch.pos, segment=batch.segment, source=batch.source)  # (B, T)
    return by_answer(scores * (batch.weight > 0), batch.segment)


def direct_preference(reference: Reference, beta: float, kind: Kind = "sigmoid") -> Loss:
    """DPO as the loop wants it.

    The metrics tell, of the last batch, how often the policy prefers what was chosen more than its reference does, by
    how much, and how far log p of either answer has moved: what was chosen may fall too, as long as the other falls
    faster, which is the usual way for DPO to go wrong.
    """

    def loss(model: nn.Module, batch: Rows) -> tuple[Terms, dict[str, Any]]:
        policy = answer_logps(model.eval(), batch, kind)  # dropout would compare two models that are not there
        with torch.no_grad(), reference() as silent:
            before = answer_logps(silent, batch, kind)
        (chosen, rejected), (ref_chosen, ref_rejected) = policy.unbind(-1), before.unbind(-1)  # (B, P) each
        each, count = dpo(chosen, rejected, ref_chosen, ref_rejected, beta, kind), counts(batch)
        moved = ((policy - before).detach() * count[..., None]).sum((0, 1)) / count.sum()  # (2,)
        return {"loss": ((each * count).sum(), count.sum(), 1.0)}, {
            "accuracy": _preferred(policy - before, count),
            "margin": beta * float(moved[0] - moved[1]),
            "chosen": float(moved[0]),
            "rejected": float(moved[1]),
        }

    return loss


def pairwise_reward(model: nn.Module, batch: Rows) -> tuple[Terms, dict[str, Any]]:
    """A reward model's loss, and how often it scores what was chosen higher."""
    scores, count = answer_scores(model, batch), counts(batch)  # (B, P, 2), (B, P)
    each = bradley_terry(*scores.unbind(-1))
    return {"loss": ((each * count).sum(), count.sum(), 1.0)}, {"accuracy": _preferred(scores, count)}


def _preferred(values: Tensor, count: Tensor) -> float:
    return float(((values[..., 0] > values[..., 1]) * count).sum() / count.sum())
