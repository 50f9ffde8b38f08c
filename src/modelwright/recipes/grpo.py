"""Group relative policy optimisation: other answers to the same prompt are the baseline (Shao et al. 2024).

    answers y_1 .. y_G ~ policy(x)                             to each prompt of a round, at temperature 1
    A_i = (reward(x, y_i) - mean of the group) / spread of the group, at each token of y_i
    once over y:  descend -min(ratio A, clip(ratio) A) + beta k3(policy, reference)

No critic. Made for rewards that can be verified: --reward metric, or a function. See `policies` for the five parts.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from modelwright.recipes.policies import command
from modelwright.recipes.rewarded import Policy
from modelwright.train.policy import GRPO


@dataclasses.dataclass(frozen=True)
class Grpo(Policy):
    """Align a model with a reward by GRPO."""

    passes: ClassVar[int] = 1
    batch: int = 8
    """Prompts in a round."""
    group: int = 8
    """Answers to each prompt."""
    beta: float = 0.0
    """Of the KL from the reference, in the loss."""
    above: float | None = None
    """Another clip upwards, as DAPO has it (0.28)."""
    per: Literal["answer", "token"] = "token"
    """What the loss is a mean over: tokens (DAPO), or answers and of each its tokens (GRPO's paper)."""
    scaled: bool = True
    """Divide advantages by their group's spread; without, as in Dr. GRPO."""

    @property
    def count(self) -> int:  # type: ignore[override]
        return self.group

    def algorithm(self) -> GRPO:
        return GRPO(
            group=self.group, beta=self.beta, above=self.above, per=self.per, scaled=self.scaled,
            unfinished=self.unfinished,
        )  # fmt: skip


def main(argv: list[str]) -> int:
    """`modelwright align grpo`."""
    return command(Grpo, argv, "grpo")
