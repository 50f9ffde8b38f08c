"""Losses of a policy that learns from its own answers: PPO and GRPO, a function for each step of the papers.

Letters: B answers, T tokens of a row (a prompt may stand before the answer, and padding behind it), G answers to one
prompt. `mask` is 1 on an answer's tokens, its end included, and 0 elsewhere. Losses are unreduced: the loop divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from modelwright.losses.language import Rows, Terms, read

Estimator = Literal["k1", "k2", "k3"]


# -- the price of leaving the reference --------------------------------------------------------------------------


def kl(logps: Tensor, reference: Tensor, kind: Estimator = "k1") -> Tensor:
    """Per token, an estimate of KL(policy, reference) by the token that the policy drew (Schulman 2020): (B, T).

    k1 = log p - log q has the right mean and may be negative; k2 = k1^2 / 2 is never negative and biased; k3 =
    exp(-k1) - 1 + k1 is neither.
    """
    ratio = logps - reference
    if kind == "k1":
        return ratio
    return ratio.square() / 2 if kind == "k2" else torch.exp(-ratio) - 1 + ratio


@dataclass
class Controller:
    """The coefficient of the KL penalty: fixed without a target, else moved towards it (Ziegler et al. 2019, 2.2)."""

    value: float
    target: float | None = None
    horizon: int = 10_000  # answers after which a constant error has moved it by about its own size

    def update(self, measured: float, answers: int) -> None:
        """measured: the mean KL of an answer, its tokens' summed, over so many `answers`."""
        if self.target is not None:
            error = min(max(measured / self.target - 1, -0.2), 0.2)
            self.value *= 1 + error * answers / self.horizon


# -- what an answer was worth ------------------------------------------------------------------------------------


def token_rewards(scores: Tensor, penalty: Tensor, mask: Tensor) -> Tensor:
    """scores (B) at each answer's last token, less `penalty` (B, T) at every token (Ouyang et al. 2022, eq. 2).

    An answer without a token has no place for its score, and gets none.
    """
    rewards = -penalty * mask
    last = (mask * torch.arange(mask.size(1), device=mask.device)).argmax(1)  # (B): a prompt may stand before it
    there = mask.any(1)
    rewards[there, last[there]] += scores[there]
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Advantages (B, T), 0 behind the end: A_t = d_t + gamma lam A_{t+1} with d_t = r_t + gamma V_{t+1} - V_t.

    Schulman et al. 2016, eq. 16. An answer is over at its end: nothing is worth anything behind it.
    """
    values, rewards = values * mask, rewards * mask
    ahead, following = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])  # A_{t+1} and V_{t+1}, (B)
    found = []
    for t in reversed(range(values.size(1))):
        ahead = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * ahead
        following = values[:, t]
        found.append(ahead)
    return torch.stack(found[::-1], 1) * mask


def whiten(x: Tensor, mask: Tensor, *, center: bool = True, unbiased: bool = True) -> Tensor:
    """x over its standard deviation among the places of the mask, and 0 elsewhere; with `center`, of mean 0.

    unbiased: over n - 1, as TRL has it, or over n, as OpenAI's code of 2019 does.
    """
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).square() * mask).sum() / ((count - 1).clamp(min=1) if unbiased else count)
    white = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (white if center else white + mean) * mask


def group_advantages(rewards: Tensor, group: int, *, scaled: bool = True) -> Tensor:
    """Of G answers to each prompt, how much better than their mean each was: rewards (B) -> (B), G one after another.

    Over their standard deviation (Shao et al. 2024, 4.1.2), or not (Liu et al. 2025, who hold that it favours prompts
    on which all answers are nearly alike). A group of equal rewards teaches nothing: 0.
    """
    groups = rewards.view(-1, group)  # (prompts, G)
    found = groups - groups.mean(1, keepdim=True)
    if scaled:
        found = found / (groups.std(1, keepdim=True) + 1e-4)
    return found.flatten()


# -- what is descended -------------------------------------------------------------------------------------------


def clipped_surrogate(
    logps: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2, above: float | None = None
) -> Tensor:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A), r = p / p_old (Schulman et al. 2017, eq. 7), per token: (B, T).

    above: another distance upwards (Yu et al. 2025, eq. 10).
    """
    ratio = (logps - old).exp()
    bounded = ratio.clamp(1 - clip, 1 + (clip if above is None else above))
    return -torch.minimum(ratio * advantages, bounded * advantages)


def clipped_value(values: Tensor, old: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """Half the squared error of what was expected, the larger of two: as it is, and with a value that has moved no
    further than `clip` from the old one (B, T). As in OpenAI's baselines; Schulman et al. 2017 does not have it."""
    near = old + (values - old).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (near - returns).square()) / 2


def answer_weights(mask: Tensor, per: Literal["answer", "token"]) -> Tensor:
    """What each token counts, (B, T), in a sum that is divided by the sum of the weights.

    per answer: each counts as much as any other, and a token of a long one less (Shao et al. 2024, eq. 3). per token:
    all tokens alike (Yu et al. 2025, eq. 12), so that a long answer's faults weigh as much as a short one's.
    """
    return mask / mask.sum(1, keepdim=True).clamp(min=1) if per == "answer" else mask


# -- the two losses ----------------------------------------------------------------------------------------------


class Experience(Protocol):
    """Answers that were drawn and judged, a row each; all (B, T). `batch.weight` is the mask."""

    @property
    def batch(self) -> Rows: ...
    @property
    def old(self) -> Any: ...  # log p of each token under the policy that drew it; None: this one did
    @property
    def advantages(self) -> Tensor: ...
    @property
    def reference(self) -> Any: ...  # log p under the reference; None where nobody asked for it
    @property
    def values(self) -> Any: ...  # what the critic expected before each token; None without one
    @property
    def returns(self) -> Any: ...  # what it should have expected
    @property
    def told(self) -> Any: ...  # numbers for the monitor


def ppo(
    model: nn.Module, experience: Experience, clip: float = 0.2, value_clip: float = 0.2, value_coefficient: float = 0.1
) -> tuple[Terms, dict[str, Any]]:
    """Schulman et al. 2017, eq. 9 without its entropy bonus: L_clip + c L_value, each a mean over all tokens.

    model: a critic. Without dropout, which would have drawn other log-probabilities than those it is held against.
    """
    mask = experience.batch.weight
    logps, values = read(model.eval(), experience.batch)  # (B, T) each
    policy = clipped_surrogate(logps, experience.old, experience.advantages, clip)
    value = clipped_value(values, experience.values, experience.returns, value_clip)
    terms: Terms = {
        "policy": ((policy * mask).sum(), mask.sum(), 1.0),
        "value": ((value * mask).sum(), mask.sum(), value_coefficient),
    }
    return terms, {**experience.told, **moved(logps, experience.old, experience.advantages, mask, clip)}


def grpo(
    model: nn.Module,
    experience: Experience,
    clip: float = 0.2,
    above: float | None = None,
    beta: float = 0.0,
    per: Literal["answer", "token"] = "token",
) -> tuple[Terms, dict[str, Any]]:
    """Shao et al. 2024, eq. 3: L_clip + beta k3, with advantages of a group, and the KL in the loss, not the reward.

    per: what is averaged, see `answer_weights`. above: another clip upwards (Yu et al. 2025). No dropout, as in `ppo`.
    """
    mask = experience.batch.weight
    logps = read(model.eval(), experience.batch)  # (B, T)
    old = logps.detach() if experience.old is None else experience.old
    loss = clipped_surrogate(logps, old, experience.advantages, clip, above)
    if beta:
        loss = loss + beta * kl(logps, experience.reference, "k3")
    weights = answer_weights(mask, per)
    metrics = {**experience.told, **moved(logps, old, experience.advantages, mask, clip, above)}
    if experience.old is None:
        metrics |= strayed(old, experience.reference, mask)
    return {"policy": ((loss * weights).sum(), weights.sum(), 1.0)}, metrics


@torch.no_grad()
def moved(
    logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float, above: float | None = None
) -> dict[str, float]:
    """How far the policy is from the one that drew: approxkl (k2), mean and largest ratio, the share that is clipped.

    Before the first step on some experience ratios are 1, but for rounding: else the two were not computed alike.
    """
    if not mask.any():
        return {"approxkl": 0.0, "ratio": 1.0, "ratio_max": 1.0, "clipfrac": 0.0}
    gap, better = (logps - old)[mask > 0], advantages[mask > 0]  # (n) each
    ratio, high, low = gap.exp(), 1 + (clip if above is None else above), 1 - clip
    clipped = ((better > 0) & (ratio > high)) | ((better < 0) & (ratio < low))
    return {
        "approxkl": (gap.square().mean() / 2).item(),
        "ratio": ratio.mean().item(),
        "ratio_max": ratio.max().item(),
        "clipfrac": clipped.float().mean().item(),
    }


@torch.no_grad()
def strayed(old: Tensor, reference: Tensor | None, mask: Tensor) -> dict[str, float]:
    """How sure a policy is, and how far from its reference, by the answers that it drew (B, T), in nats.

    entropy: -log p a token, which is its entropy on average. kl: k1 of a whole answer, its tokens' summed, and its
    standard error `kl_error`; kl3: the same of k3.
    """
    found = {"entropy": (-(old * mask).sum() / mask.sum().clamp(min=1)).item()}
    if reference is not None:
        each = (kl(old, reference) * mask).sum(1)  # (B)
        found["kl"] = each.mean().item()
        found["kl_error"] = (each.std(correction=0) / len(each) ** 0.5).item()
        found["kl3"] = (kl(old, reference, "k3") * mask).sum(1).mean().item()
    return found


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """The share of the returns' variance that the critic foretold: 1 is all, 0 no better than their mean."""
    wanted, missed = returns[mask > 0], (returns - values)[mask > 0]
    spread = wanted.var(correction=0).item() if len(wanted) else 0.0
    return 1 - missed.var(correction=0).item() / spread if spread else 0.0
