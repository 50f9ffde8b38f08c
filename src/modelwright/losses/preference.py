"""Losses over pairs: of two answers to a prompt, one was preferred. Unreduced: the loop divides.

Letters: B pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

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
