"""Where an answer stands in a text: its start and its end, each chosen among the places of the text.

Letters: B batch, T tokens of a row, n examples.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modelwright.losses.language import Rows, Terms

START, END = 1, 2  # what a place is, as bits of its target


class Places(Rows, Protocol):
    """`weight` is above 0 at a text's places; `targets` is 1 where the answer starts, 2 where it ends, 3 at both."""

    @property
    def types(self) -> Tensor | None: ...


def extract(model: nn.Module, batch: Places) -> tuple[Terms, dict[str, Any]]:
    """`spans` of what the model says of a batch."""
    logits = model(batch.tokens, pos=batch.pos, segment=batch.segment, types=batch.types)  # (B, T, 2)
    lost, count = spans(logits, batch.targets, batch.weight, batch.segment)
    return {"loss": (lost, count, 1.0)}, {}


def spans(logits: Tensor, targets: Tensor, weight: Tensor, segment: Tensor) -> tuple[Tensor, int]:
    """Sum over n examples of - (log p_start(s) + log p_end(e)) / 2, in nats, and n (Devlin et al. 2019, section 4.2).

        p_start(t) = exp(logits[t, 0]) / sum_u exp(logits[u, 0]),    p_end(t) likewise of logits[t, 1]

    where t and u run over an example's places of weight above 0: its text, and no token of the question or about it.
    An example is a segment of a row; logits (B, T, 2), the others (B, T). One without such a place does not count.
    """
    number = torch.arange(1, int(segment.max()) + 1, device=segment.device)[:, None]
    own = (segment[:, None] == number) & (weight > 0)[:, None]  # (B, segments, T)
    row = own.any(-1).nonzero()[:, 0]  # (n), in which row an example stands
    own = own[own.any(-1)]  # (n, T)
    logps = logits[row].float().masked_fill(~own[..., None], -math.inf).log_softmax(1)  # (n, T, 2)
    right = torch.stack([targets & START, targets & END], -1)[row].bool() & own[..., None]  # (n, T, 2)
    return -logps[right].sum() / 2, len(row)
