"""softmax(q k^T) v: the one place that chooses a kernel.

Letters: B batch, T query length, S key length, H heads, K key/value heads, G = H / K queries to a key, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

# Far below any score, and within float16's range. Not -inf: a padded query may see nothing at all, and must not be NaN.
FORBIDDEN = -30_000.0


@dataclass
class Mask:
    """Who may look at whom, said in words; `dense` spells it out for the kernels that need it.

    The T queries are the last T of the S keys when causal. A query sees the keys of its own segment.
    """

    causal: bool
    queries: int
    keys: int
    q_segment: Tensor | None = None  # (B, T); None: one document, no padding
    k_segment: Tensor | None = None  # (B, S)
    bias: Tensor | None = None  # (B, H, T, S), added to the scores

    @property
    def looks_ahead(self) -> bool:
        """Whether causality forbids anything: a single newest token may see all that came before."""
        return self.causal and self.queries > 1

    @cached_property
    def dense(self) -> Tensor | None:
        """What to add to the scores, (B or 1, H or 1, T, S) float32; None where nothing is forbidden or added."""
        allowed = self.allowed()
        if allowed is None:
            return self.bias
        forbidden = torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, FORBIDDEN)
        return forbidden if self.bias is None else self.bias + forbidden

    def allowed(self) -> Tensor | None:
        """(B or 1, 1, T, S) True where a query may look; None where it may look everywhere."""
        allowed = None
        if self.k_segment is not None:
            q = self.q_segment if self.q_segment is not None else self.k_segment.new_ones(())
            allowed = (q[..., None] if q.dim() else q) == self.k_segment[:, None, :]  # (B, T, S)
            allowed = allowed.expand(-1, self.queries, -1)[:, None]
        if self.looks_ahead:
            device = None if self.k_segment is None else self.k_segment.device
            device = device if self.bias is None else self.bias.device
            past = torch.ones(self.queries, self.keys, dtype=torch.bool, device=device)
            past = past.tril(self.keys - self.queries)[None, None]
            allowed = past if allowed is None else allowed & past
        return allowed


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float, dropout: float = 0.0) -> Tensor:
    """q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D)."""
    simple = mask.k_segment is None and mask.bias is None and mask.queries in (1, mask.keys)
    if simple:
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=mask.looks_ahead,
            scale=scale,
            dropout_p=dropout,
            enable_gqa=q.size(1) != k.size(1),
        )
    dense = None if mask.dense is None else mask.dense.to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k, v, dense, scale=scale, dropout_p=dropout, enable_gqa=q.size(1) != k.size(1)
    )


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    """The same as the paper writes it: softmax(q k^T / sqrt(D)) v, with keys repeated to the queries' heads."""
    k, v = (t.repeat_interleave(q.size(1) // t.size(1), dim=1) for t in (k, v))  # (B, H, S, D)
    scores = q.float() @ k.float().transpose(-1, -2) * scale  # (B, H, T, S)
    if mask.dense is not None:
        scores = scores + mask.dense
    return (scores.softmax(-1) @ v.float()).type_as(q)
