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
