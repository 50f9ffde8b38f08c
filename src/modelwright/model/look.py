"""What each head looks at: the weights of attention, read off a model's own forward.

What a head answers is linear in the values, softmax(scale q k^T + mask) v, so a head that is given the rows of the
identity for values answers with its weights. They come from the very kernel that the model runs, with its mask, scale,
bias and shared keys, and no second formula has to be kept equal to the first.

Letters: B batch, T query length, S key/source length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modelwright.model.transformer import Attention, Encoded, Transformer


@dataclass(frozen=True)
class Looks:
    """How much of its attention each query gives to each key, layer by layer, (B, H, T, S); its rows sum to 1."""

    encoder: list[Tensor] = field(default_factory=list)  # the source at itself
    own: list[Tensor] = field(default_factory=list)  # the text at itself; of an encoder-only model too
    cross: list[Tensor] = field(default_factory=list)  # the text at the source


@torch.no_grad()
def look(model: Transformer, tokens: Tensor, source: Encoded | None = None) -> Looks:
    """The weights of one forward over tokens (B, T), without dropout; an encoder-decoder reads `source`."""
    assert not model.training, "dropout would be in the weights"
    with looking(model) as seen:
        memory = None if source is None else model.encode(source.tokens, source.pos, source.segment)
        model.hidden(tokens, memory=memory)
    return seen


@contextmanager
def looking(model: Transformer) -> Iterator[Looks]:
    """Within it every forward of this model adds the weights of its layers; afterwards it is as before."""
    seen = Looks()
    watched = [(attention, kept) for attention, kept in attentions(model, seen)]
    try:
        for attention, kept in watched:
            vars(attention)["heads"] = watching(attention.heads, kept)  # before the class's own, for this object alone
        yield seen
    finally:
        for attention, _ in watched:
            vars(attention).pop("heads", None)


def attentions(model: Transformer, seen: Looks) -> Iterator[tuple[Attention, list[Tensor]]]:
    """Every attention of a model, and where its weights are kept."""
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            own = seen.encoder if name.startswith("encoder.") else seen.own
            yield module, seen.cross if name.endswith(".cross") else own


def watching(heads: Callable[..., Tensor], kept: list[Tensor]) -> Callable[..., Tensor]:
    def watched(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        kept.append(weights(heads, q, k, *rest))
        return heads(q, k, v, *rest)

    return watched


def weights(heads: Callable[..., Tensor], q: Tensor, k: Tensor, *rest: Any) -> Tensor:
    """q (B, T, H, D), k (B, K, S, D) -> (B, H, T, S): of as many keys at once as a head is wide."""
    B, K, S, D = k.shape
    identity = F.pad(torch.eye(S, dtype=k.dtype, device=k.device), (0, -S % D))  # (S, a multiple of D)
    parts = [heads(q, k, some.expand(B, K, S, D).contiguous(), *rest) for some in torch.split(identity, D, dim=1)]
    return torch.cat(parts, dim=-1)[..., :S].transpose(1, 2)
