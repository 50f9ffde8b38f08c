"""Losses over pairs: of two answers to a prompt, one was preferred. Unreduced: the loop divides.

Letters: B pairs; and of batches B rows, T tokens of a row, P pairs of a row, K answers of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, get_args

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
# A row holds answers one after the other, each a segment that is read once; pairs are pairs of segments (`data.pairs`).


class PairedRows(Rows, Protocol):
    """`pairs.segments` (B, P, 2): which answers are compared, the chosen one first; 0 where a row has no more pairs.
    `pairs.weight` (B, P): what each pair counts."""

    @property
    def pairs(self) -> Any: ...


Reference = Callable[[], AbstractContextManager[nn.Module]]  # what the policy must not stray from, for a while
Loss = Callable[[nn.Module, PairedRows], tuple[Terms, dict[str, Any]]]


def by_answer(values: Tensor, batch: PairedRows) -> Tensor:
    """Sums of values (B, T), 0 at padding, over the segments of each row, and of these the pairs: (B, P, 2)."""
    sums = values.new_zeros(len(values), 1 + int(batch.segment.max()))  # (B, 1 + K)
    sums = sums.scatter_add(1, batch.segment, values)
    pairs = batch.pairs.segments  # (B, P, 2)
    return sums.gather(1, pairs.flatten(1)).view(pairs.shape)


def answer_logps(model: nn.Module, batch: PairedRows, kind: Kind = "sigmoid") -> Tensor:
    """log p of each answer, its end included: (B, P, 2). The sum over its tokens; for `ipo` their mean."""
    targets = batch.targets.masked_fill(batch.weight == 0, -1)
    logps = model(batch.tokens, targets, pos=batch.pos, segment=batch.segment, source=batch.source)  # (B, T)
    sums = by_answer(logps, batch)
    return sums / by_answer((targets >= 0).float(), batch).clamp(min=1) if kind == "ipo" else sums


def answer_scores(model: nn.Module, batch: PairedRows) -> Tensor:
    """What a reward model gives each answer, where its weight stands: (B, P, 2)."""
    scores = model(batch.tokens, pos=batch.pos, segment=batch.segment, source=batch.source)  # (B, T)
    return by_answer(scores * (batch.weight > 0), batch)


def direct_preference(reference: Reference, beta: float, kind: Kind = "sigmoid") -> Loss:
    """DPO as the loop wants it.

    The metrics tell, of the last batch, how often the policy prefers what was chosen more than its reference does, by
    how much, and how far log p of either answer has moved: what was chosen may fall too, as long as the other falls
    faster, which is the usual way for DPO to go wrong.
    """

    def loss(model: nn.Module, batch: PairedRows) -> tuple[Terms, dict[str, Any]]:
        policy = answer_logps(model.eval(), batch, kind)  # dropout would compare two models that are not there
        with torch.no_grad(), reference() as silent:
            before = answer_logps(silent, batch, kind)
        (chosen, rejected), (ref_chosen, ref_rejected) = policy.unbind(-1), before.unbind(-1)  # (B, P) each
        each, count = dpo(chosen, rejected, ref_chosen, ref_rejected, beta, kind), batch.pairs.weight
        moved = ((policy - before).detach() * count[..., None]).sum((0, 1)) / count.sum()  # (2,)
        return {"loss": ((each * count).sum(), count.sum(), 1.0)}, {
            "accuracy": _preferred(policy - before, count),
            "margin": beta * float(moved[0] - moved[1]),
            "chosen": float(moved[0]),
            "rejected": float(moved[1]),
        }

    return loss


def pairwise_reward(model: nn.Module, batch: PairedRows) -> tuple[Terms, dict[str, Any]]:
    """A reward model's loss, and how often it scores what was chosen higher."""
    scores, count = answer_scores(model, batch), batch.pairs.weight  # (B, P, 2), (B, P)
    each = bradley_terry(*scores.unbind(-1))
    return {"loss": ((each * count).sum(), count.sum(), 1.0)}, {"accuracy": _preferred(scores, count)}


def _preferred(values: Tensor, count: Tensor) -> float:
    return float(((values[..., 0] > values[..., 1]) * count).sum() / count.sum())
