"""Proximal policy optimisation from a reward, the third step of RLHF (Ziegler et al. 2019; Ouyang et al. 2022).

    answers y ~ policy(x)                                      one to each prompt of a round, at temperature 1
    r_t = [t is the last] reward(x, y) - beta log(policy / reference)
    A   = GAE(r, V), white; returns = A + V
    some times over y:  descend -min(ratio A, clip(ratio) A) + c (V - returns)^2, the error clipped too
    beta moves towards a target of KL, if there is one

One code path for decoders and encoder-decoders, full or with a LoRA; see `policies` for a run's five parts and
`train/policy.py` for what is left out.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from modelwright.model.heads import Critic
from modelwright.model.transformer import Transformer
from modelwright.recipes.policies import command
from modelwright.recipes.rewarded import Policy
from modelwright.train.policy import PPO


@dataclasses.dataclass(frozen=True)
class Ppo(Policy):
    """Align a model with a reward by PPO."""

    passes: ClassVar[int] = 4
    beta: float = 0.05
    """What a nat of KL from the reference costs, at first."""
    target: float | None = None
    """The KL of an answer, in nats, towards which beta is moved; without one it stays."""
    bound: float | None = None
    """Scores are cut to -BOUND to BOUND."""
    whiten_rewards: bool = False
    """Divide rewards by their standard deviation, so that a judge's scale means nothing."""

    def algorithm(self) -> PPO:
        return PPO(
            beta=self.beta, target=self.target, bound=self.bound, whiten_rewards=self.whiten_rewards,
            unfinished=self.unfinished,
        )  # fmt: skip

    def learner(self, model: Transformer) -> Critic:
        return Critic(model)


def main(argv: list[str]) -> int:
    """`modelwright align ppo`."""
    return command(Ppo, argv, "ppo")
