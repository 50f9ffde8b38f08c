"""PPO and GRPO: what a score becomes at each token, and what is descended. And the loop of a lab, a step at a time:

    trainer = Trainer(model, prompter, PPO())
    answers = trainer.write(examples)
    numbers = trainer.step(answers, [judge(answer.prompt.text, answer.text) for answer in answers])

Letters: B answers, T tokens of a row, G answers to one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from modelwright.adapt.lora import reference_of
from modelwright.data.examples import Example
from modelwright.data.loader import mixed
from modelwright.data.prompt import Prompter
from modelwright.losses import policy
from modelwright.losses.policy import Controller, gae, group_advantages, kl, token_rewards, whiten
from modelwright.model.heads import Critic
from modelwright.model.transformer import Transformer
from modelwright.train import optim
from modelwright.train.loop import Terms, fit
from modelwright.train.rollout import Actor, Answer, Experience, Seen, minibatches


@dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation (Schulman et al. 2017) with a penalty on the way from a reference (Ziegler et al.
    2019; Ouyang et al. 2022). Leaves out: a value model of its own, an entropy bonus, the mix with pretraining.
    """

    beta: float = 0.05
    """What a nat of KL costs, at first."""
    target: float | None = None
    """The KL of an answer, in nats, towards which beta is moved; None leaves it as it is."""
    horizon: int = 10_000
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    unfinished: float = 0.0
    """What is taken from the score of an answer that did not end."""
    bound: float | None = None
    """Scores are cut to -bound to bound."""
    whiten_rewards: bool = False
    """The rewards of all tokens get a standard deviation of 1 and keep their mean, as in OpenAI's code of 2019."""

    @property
    def needs_reference(self) -> bool:
        return True

    def controller(self) -> Controller:
        return Controller(self.beta, self.target, self.horizon)

    def experience(self, seen: Seen, beta: float) -> Experience:
        """Advantages are white over the whole experience, and 0 behind the ends; returns are of those before."""
        assert seen.reference is not None
        assert seen.old is not None
        assert seen.values is not None, "PPO needs a Critic"
        mask = seen.batch.weight
        scores = finished(seen, self.unfinished, self.bound)
        rewards = token_rewards(scores, beta * kl(seen.old, seen.reference), mask)  # (B, T)
        if self.whiten_rewards:
            rewards = whiten(rewards, mask, center=False)
        advantages = gae(rewards, seen.values, mask, self.gamma, self.lam)
        returns = advantages + seen.values
        told = {"reward": rewards.sum(1).mean().item()}
        return Experience(
            seen.batch, seen.old, seen.reference, whiten(advantages, mask), seen.values, returns, seen.scores,
            seen.ended, told,
        )  # fmt: skip

    def loss(self, model: nn.Module, experience: Experience) -> tuple[Terms, dict[str, Any]]:
        return policy.ppo(model, experience, self.clip, self.value_clip, self.value_coefficient)

    def weigh(self, experience: Experience) -> dict[str, Tensor | float]:
        """The terms' weights without a forward: see `fit`."""
        tokens = experience.batch.weight.sum()
        return {"policy": tokens, "value": tokens}


@dataclass(frozen=True)
class GRPO:
    """Group relative policy optimisation (Shao et al. 2024): the other answers to the prompt are the baseline, so there
    is no critic. `per` token and `above` are DAPO's (Yu et al. 2025), `scaled=False` Dr. GRPO's (Liu et al. 2025).
    """

    group: int = 8
    """Answers to each prompt."""
    beta: float = 0.0
    """Of k3 in the loss."""
    clip: float = 0.2
    above: float | None = None
    """Another clip upwards."""
    per: Literal["answer", "token"] = "token"
    scaled: bool = True
    """Advantages over the standard deviation of their group."""
    unfinished: float = 0.0
    """What is taken from the score of an answer that did not end."""
    mask_unfinished: bool = False
    """Nothing is learned from answers that were cut off (they do count among their group)."""
    bound: float | None = None
    """Scores are cut to -bound to bound."""

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ValueError(f"a group is of {self.group} answers: GRPO needs 2 or more to each prompt")

    @property
    def needs_reference(self) -> bool:
        return self.beta > 0

    def controller(self) -> Controller:
        return Controller(self.beta)

    def experience(self, seen: Seen, beta: float) -> Experience:
        """Each answer's advantage at each of its tokens. Raises ValueError where answers are no whole groups."""
        if self.group < 2 or len(seen.scores) % self.group:
            raise ValueError(
                f"{len(seen.scores)} answers are no whole groups of {self.group}: GRPO needs 2 or more to each prompt"
            )
        mask = seen.batch.weight
        if self.mask_unfinished:
            mask = mask * seen.ended[:, None]
        scores = finished(seen, self.unfinished, self.bound)
        advantages = group_advantages(scores, self.group, scaled=self.scaled)[:, None] * mask  # (B, T)
        groups = scores.view(-1, self.group)
        equal = (groups == groups[:, :1]).all(1).float().mean().item()
        told = {"reward": scores.mean().item(), "equal_groups": equal}
        batch = replace(seen.batch, weight=mask)
        return Experience(
            batch, seen.old, seen.reference, advantages, None, None, seen.scores, seen.ended, told
        )  # fmt: skip

    def loss(self, model: nn.Module, experience: Experience) -> tuple[Terms, dict[str, Any]]:
        return policy.grpo(model, experience, self.clip, self.above, self.beta, self.per)

    def weigh(self, experience: Experience) -> dict[str, Tensor | float]:
        """The terms' weights without a forward: see `fit`."""
        return {"policy": policy.answer_weights(experience.batch.weight, self.per).sum()}


def finished(seen: Seen, unfinished: float, bound: float | None) -> Tensor:
    """Scores (B) within their bounds, and less where an answer did not end."""
    scores = seen.scores if bound is None else seen.scores.clamp(-bound, bound)
    return scores - unfinished * (~seen.ended).to(scores)


class Trainer:
    """A policy that is asked, judged and taught by hand: the loop of a notebook. A run has `rollout.Rollouts`."""

    def __init__(
        self,
        model: Transformer,
        prompter: Prompter,
        method: PPO | GRPO,
        *,
        rate: float = 1e-5,
        seed: int = 0,
        epochs: int | None = None,
        minibatch: int = 32,
        clip: float = 1.0,
    ):
        """`model` learns in place. epochs: passes over what was written in a step; by default 4 (PPO) or 1 (GRPO).
        minibatch: answers to an optimizer step. clip: the largest gradient norm."""
        critic = isinstance(method, PPO)
        self.method, self.seed, self.minibatch, self.clip = method, seed, minibatch, clip
        self.epochs = epochs or (4 if critic else 1)
        self.model = Critic(model) if critic else model
        self.actor = Actor(self.model, prompter, method, reference_of(model))
        self.optimizer = optim.make(self.model, lr=rate, decay=0.0)
        self.written = 0  # times

    def write(self, examples: Sequence[Example], *, count: int | None = None) -> list[Answer]:
        """`count` answers to each example, side by side; by default one for PPO, a group for GRPO."""
        self.written += 1
        count = count or (self.method.group if isinstance(self.method, GRPO) else 1)
        return self.actor.write(examples, seed=mixed(mixed(self.seed) + self.written), count=count)

    def step(self, answers: Sequence[Answer], scores: Sequence[float]) -> dict[str, float]:
        """Learn from answers that were just written -> the numbers of the experience and of its first optimizer step.

        Raises ValueError for scores that are not one finite number for each answer.
        """
        steps = self.epochs * -(-len(answers) // self.minibatch)
        experience = self.actor.experience(answers, scores, once=steps == 1)
        numbers: list[dict[str, Any]] = []
        some = minibatches(experience, epochs=self.epochs, rows=self.minibatch, seed=mixed(self.seed) ^ self.written)
        fit(
            self.model, some, self.method.loss, self.optimizer, steps=steps, clip=self.clip,
            after_step=lambda step, metrics: numbers.append(metrics),
        )  # fmt: skip
        return numbers[0]
