"""Slow, plain versions of what the project does fast: written to be believed, not to be used.

Letters: B batch, T length, S source length, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelwright.model.cache import Cache
from modelwright.model.transformer import Memory, Transformer


@torch.no_grad()
def greedy(model: Transformer, tokens: Tensor, steps: int, memory: Memory | None = None) -> Tensor:
    """tokens (B, T) -> (B, T + steps): the likeliest next token, each time after reading everything again."""
    for _ in range(steps):
        logits = model(tokens, memory=memory)  # (B, T, V)
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    return tokens


@torch.no_grad()
def greedy_cached(model: Transformer, tokens: Tensor, steps: int, memory: Memory | None = None) -> Tensor:
    """The same, reading each token once: keys and values are kept in a Cache."""
    cache = Cache(model.cfg, tokens.size(0), tokens.size(1) + steps, model.embed.tokens.weight.dtype)
    new = tokens
    for _ in range(steps):
        logits = model(new, memory=memory, cache=cache)  # (B, T or 1, V)
        new = logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, new], dim=1)
    return tokens


# -- an LSTM, a token at a time, from the equations ----------------------------------------------------------------


def plain_lstm(model: Transformer, tokens: Tensor) -> Tensor:
    """tokens (T) -> (T, C), what the head reads: every gate with rows of its own (Gers et al. 2000)."""
    xs = list(model.cfg.embed_scale * model.embed.tokens.weight[tokens])
    for block in model.stack.blocks:
        W, U, b = (getattr(block.input, "weight"), getattr(block.state, "weight"), getattr(block.input, "bias"))  # noqa: B009
        C = W.size(1)
        h = c = torch.zeros(C)
        out = []
        for x in xs:
            i, f, g, o = (
                W[k * C : (k + 1) * C] @ x + U[k * C : (k + 1) * C] @ h + b[k * C : (k + 1) * C] for k in range(4)
            )
            c = 1 / (1 + (-f).exp()) * c + 1 / (1 + (-i).exp()) * torch.tanh(g)
            h = 1 / (1 + (-o).exp()) * torch.tanh(c)
            out.append(h)
        xs = out
    return torch.stack(xs)


# -- learning from one's own answers: an answer and a token at a time, from the papers' formulas --------------------


def plain_ppo(
    logps: list[Tensor], values: list[Tensor], old: list[Tensor], before: list[Tensor], reference: list[Tensor],
    scores: list[float], *, beta: float, clip: float, value_clip: float, coefficient: float, lam: float = 0.95,
) -> Tensor:  # fmt: skip
    """Schulman et al. 2017, eq. 7 and 9, on whitened advantages (Schulman et al. 2016, eq. 16, gamma 1); lists of
    answers, (T) each: log p and value now, log p and value when it was drawn, log p of the reference."""
    advantages, returns = [], []
    for at, score in enumerate(scores):
        T = len(old[at])
        rewards = [-beta * (old[at][t] - reference[at][t]).item() for t in range(T)]
        rewards[-1] += score
        V = [*before[at].tolist(), 0.0]
        delta = [rewards[t] + V[t + 1] - V[t] for t in range(T)]
        A = [sum(lam ** (l - t) * delta[l] for l in range(t, T)) for t in range(T)]
        advantages.append(A)
        returns.append([a + v for a, v in zip(A, V, strict=False)])
    every = torch.tensor([a for A in advantages for a in A])
    mean, spread = every.mean(), (every.var() + 1e-8).sqrt()
    total = torch.zeros(())
    for at in range(len(scores)):
        for t in range(len(old[at])):
            A, r = (advantages[at][t] - mean) / spread, (logps[at][t] - old[at][t]).exp()
            total = total - torch.min(r * A, r.clamp(1 - clip, 1 + clip) * A)
            near = values[at][t].clamp(before[at][t] - value_clip, before[at][t] + value_clip)
            R = returns[at][t]
            total = total + coefficient * 0.5 * torch.max((values[at][t] - R) ** 2, (near - R) ** 2)
    return total / len(every)


def plain_grpo(
    logps: list[Tensor], old: list[Tensor], reference: list[Tensor], scores: list[float], *, group: int, beta: float,
    clip: float,
) -> Tensor:  # fmt: skip
    """Shao et al. 2024, eq. 3 and 4: the mean over answers of the mean over their tokens; lists as above."""
    total = torch.zeros(())
    for at in range(len(scores)):
        first = at // group * group
        others = torch.tensor(scores[first : first + group])
        A = (scores[at] - others.mean()) / (others.std() + 1e-4)
        answer = torch.zeros(())
        for t in range(len(old[at])):
            r = (logps[at][t] - old[at][t]).exp()
            away = (reference[at][t] - logps[at][t]).exp() - (reference[at][t] - logps[at][t]) - 1
            answer = answer + torch.min(r * A, r.clamp(1 - clip, 1 + clip) * A) - beta * away
        total = total - answer / len(old[at])
    return total / len(scores)
