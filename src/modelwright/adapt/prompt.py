"""A soft prompt: a few vectors before every text that are learned while the model stays as it is (Lester et al. 2021).

To all else they are tokens, with ids from V on: they stand in a row, have positions and share the context like any
other. An encoder-decoder reads them before its source.

Letters: B batch, T length, C width, V vocabulary, P tokens of the soft prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.adapt.lora import freeze
from modelwright.model.transformer import Transformer


@dataclass(frozen=True)
class SoftPrompt:
    """How long a soft prompt is and what it starts as.

    init "vocab": the embeddings of tokens drawn from the vocabulary, or of `init_tokens`, repeated until there are
    enough; "random": N(0, 1) in each place, as fresh embeddings are drawn. Lester et al. 2021, section 3.2, find
    "vocab" far better in small models.
    """

    tokens: int = 20
    init: Literal["vocab", "random"] = "vocab"
    init_tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"a soft prompt must have at least 1 token, not {self.tokens}")
        if self.init not in ("vocab", "random"):
            raise ValueError(f"a soft prompt starts as 'vocab' or 'random', not {self.init!r}")
        if self.init_tokens is not None and (self.init == "random" or not self.init_tokens):
            raise ValueError("init_tokens name the vocabulary's tokens to start from: leave them out, or name some")


class SoftEmbedding(nn.Module):
    """The vocabulary's embeddings (V, C), as they are, and those of the soft prompt (P, C) under the ids from V on.

    `weight` is the very parameter that a tied head reads, so the head knows nothing of the soft prompt.
    """

    def __init__(self, base: nn.Module, soft: Tensor):
        super().__init__()
        assert isinstance(base.weight, nn.Parameter)
        self.weight = base.weight
        self.soft = nn.Parameter(soft)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, C)."""
        beyond = tokens - self.weight.size(0)  # (B, T), at least 0 at the soft prompt's ids
        hard = F.embedding(torch.where(beyond < 0, tokens, 0), self.weight)
        soft = F.embedding(beyond.clamp(min=0), self.soft.to(self.weight.dtype))
        return torch.where(beyond[..., None] < 0, hard, soft)


def add_prompt(model: Transformer, cfg: SoftPrompt, generator: torch.Generator) -> Transformer:
    """Give the model a fresh soft prompt, in place; all else is frozen, but a head over labels goes on learning.

    Raises ValueError where it has one, where the context leaves no room beside it, or where an initial token is none
    of the vocabulary's.
    """
    room = model.cfg.context if model.cfg.encoder is None else model.cfg.encoder.context
    if not model.cfg.unbounded and cfg.tokens >= room:
        raise ValueError(f"a soft prompt of {cfg.tokens} tokens leaves no room in a context of {room}: make it shorter")
    weight = model.embed.tokens.weight.detach()
    put_prompt(model, _initial(weight, cfg, generator))
    return model


def put_prompt(model: Transformer, soft: Tensor) -> None:
    """Give the model this soft prompt (P, C), and freeze the rest as `add_prompt` does."""
    if soft_ids(model):
        raise ValueError("the model has a soft prompt already: go on training that one")
    freeze(model)
    setattr(model.embed, "tokens", SoftEmbedding(model.embed.tokens, soft.to(model.embed.tokens.weight.device)))  # noqa: B010
    model.embed.soft = tuple(range(model.cfg.vocab, model.cfg.vocab + len(soft)))


def soft_ids(model: Transformer) -> tuple[int, ...]:
    """The ids to put before every text, V to V + P - 1; () where the model has no soft prompt."""
    return model.embed.soft


def _initial(weight: Tensor, cfg: SoftPrompt, generator: torch.Generator) -> Tensor:
    """(P, C), at least float32, on the device of the vocabulary's embeddings (V, C)."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    if cfg.init == "random":
        return torch.randn(cfg.tokens, weight.size(1), generator=generator, dtype=dtype).to(weight.device)
    if cfg.init_tokens is None:
        ids = torch.randint(weight.size(0), (cfg.tokens,), generator=generator)
    else:
        ids = torch.tensor(cfg.init_tokens)[torch.arange(cfg.tokens) % len(cfg.init_tokens)]
    if not 0 <= int(ids.min()) <= int(ids.max()) < weight.size(0):
        raise ValueError(f"init_tokens must be ids of the vocabulary, 0 to {weight.size(0) - 1}: {cfg.init_tokens}")
    return weight[ids.to(weight.device)].to(dtype)  # (P, C)
