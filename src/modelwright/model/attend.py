"""softmax(q k^T) v: the one place that chooses a kernel.

Letters: B batch, T query length, S key length, H heads, K key/value heads, G = H / K queries to a key, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Far below any score, and within float16's range. Not -inf: a padded query may see nothing at all, and must not be NaN.
FORBIDDEN = -30_000.0
BLOCK = 128  # queries at once: measured best of 64, 128, 256 and 512
EDGE = 32  # tokens: a document is padded to so many, since oneDNN writes and keeps a kernel for every size it meets
ALONE = 16384  # scores that a block costs beside its own, for one head; measured at four heads of 32
Attending = Callable[[Tensor, Tensor, Tensor, "Mask"], Tensor]

LONG = 1024  # keys beyond which training does not keep the probabilities


class Block(NamedTuple):
    """Of rows [row, stop), queries [i, j) and keys [first, end)."""

    row: int
    stop: int
    i: int
    j: int
    first: int
    end: int


@dataclass
class Mask:
    """Who may look at whom, said in words; `dense` spells it out for the kernels that need it.

    The T queries are the last T of the S keys when causal. A query sees the keys of its own segment; what becomes of
    one that has none, as padding has, is not said.
    """

    causal: bool
    queries: int
    keys: int
    q_segment: Tensor | None = None  # (B, T); 0 is padding; None: one document, no padding
    k_segment: Tensor | None = None  # (B, S)
    bias: Tensor | None = None  # (B, H, T, S), added to the scores
    device: torch.device | None = None
    first: int | None = None  # the first query's place in its text: then a query's bits depend on its place alone
    window: int | None = None  # keys that a query sees: its own place and those before it
    _narrow: Tensor | None = None
    _blocks: list[Block] | None = None
    apart: bool = False  # whether each of the blocks is of one document, so that nothing but order is forbidden

    @property
    def plain_causal(self) -> bool:
        """Whether nothing but causality, if that, restricts: kernels know it without being given a mask."""
        free = self.k_segment is None and self.bias is None and self.queries in (1, self.keys)
        return free and not self.windowed

    @property
    def looks_ahead(self) -> bool:
        """Whether causality forbids anything: a single newest token may see all that came before."""
        return self.causal and self.queries > 1

    @property
    def windowed(self) -> bool:
        """Whether the window forbids anything."""
        return self.window is not None and self.keys > self.window

    @cached_property
    def dense(self) -> Tensor | None:
        """What to add to the scores, (B or 1, H or 1, T, S) float32; None where nothing is forbidden or added."""
        allowed = self.allowed()
        if allowed is None:
            return self.bias
        forbidden = torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, FORBIDDEN)
        return forbidden if self.bias is None else self.bias + forbidden

    def blocks(self, rows: int) -> list[Block]:
        """Which scores are worth computing: the queries of all rows, some at a time, with the keys up to theirs; or,
        where rows are packed and that is less work, each document of each row for itself."""
        if self._blocks is None:
            before = self.keys - self.queries if self.looks_ahead else None
            ends = [*range(BLOCK - (self.first or 0) % BLOCK, self.queries, BLOCK), self.queries]
            cuts = list(zip([0, *ends], ends, strict=False))
            ends = [self.keys if before is None else before + j for _, j in cuts]
            together = [Block(0, rows, i, j, self.reach(i), end) for (i, j), end in zip(cuts, ends, strict=True)]
            apart = self.documents(rows) or together
            self.apart = _work(apart) < _work(together)
            self._blocks = apart if self.apart else together
        return self._blocks

    def reach(self, query: int) -> int:
        """The first key that a window leaves to a query, or one a little before: blocks of odd sizes are slow."""
        first = self.keys - self.queries + query - self.window + 1 if self.window is not None else 0
        return max(0, first) // EDGE * EDGE

    def documents(self, rows: int) -> list[Block]:
        """Blocks of queries of one document, and its keys; padding has none. Nothing where that cannot be said so: rows
        are not packed, or the keys of a document lie apart, as they do where padding follows a start that all share."""
        if self.q_segment is None or self.k_segment is None or not rows == len(self.q_segment) == len(self.k_segment):
            return []
        found, behind = [], self.keys - self.queries if self.looks_ahead else self.keys
        for row, (q, k) in enumerate(zip(self.q_segment.tolist(), self.k_segment.tolist(), strict=True)):
            starts = {segment: at for at, segment in reversed([*enumerate(k)])}
            ends = {segment: at + 1 for at, segment in enumerate(k)}
            if sum(ends[segment] - starts[segment] for segment in ends if segment) != sum(map(bool, k)):
                return []
            i = 0
            while i < len(q):
                j = next((at for at in range(i, min(i + BLOCK, len(q))) if q[at] != q[i]), min(i + BLOCK, len(q)))
                if q[i] and q[i] in starts:
                    end = min(ends[q[i]], behind + j)
                    found.append(Block(row, row + 1, i, j, max(starts[q[i]], self.reach(i)), end))
                i = j
        return found

    def narrow(self, dtype: torch.dtype) -> Tensor | None:
        """The same in the scores' own type, made once for all layers; its bias learns by another way."""
        if self._narrow is None:
            bias = None if self.bias is None else self.bias.detach().to(dtype)
            allowed = self.near() if self.apart else self.allowed()
            nothing = torch.zeros((), dtype=dtype, device=self.device) if bias is None else bias
            self._narrow = bias if allowed is None else torch.where(allowed, nothing, FORBIDDEN)
        return self._narrow

    def allowed(self) -> Tensor | None:
        """(B or 1, 1, T, S) True where a query may look; None where it may look everywhere."""
        allowed = None
        if self.k_segment is not None:
            q = self.q_segment if self.q_segment is not None else self.k_segment.new_ones(())
            allowed = (q[..., None] if q.dim() else q) == self.k_segment[:, None, :]  # (B, T, S)
            allowed = allowed.expand(-1, self.queries, -1)[:, None]
        if self.looks_ahead:
            past = torch.ones(self.queries, self.keys, dtype=torch.bool, device=self.device)
            past = past.tril(self.keys - self.queries)[None, None]
            allowed = past if allowed is None else allowed & past
        near = self.near()
        return near if allowed is None else allowed if near is None else allowed & near

    def near(self) -> Tensor | None:
        """(1, 1, T, S) True where a key is within the window; None where all are."""
        if self.window is None or not self.windowed:
            return None
        band = torch.ones(self.queries, self.keys, dtype=torch.bool, device=self.device)
        return band.triu(self.keys - self.queries - self.window + 1)[None, None]


@dataclass(frozen=True)
class Apart:
    """Many texts' new tokens in one row: who may look at whom, first of the batch if there is one, then of each text.

    rows: where in the row the tokens of each mask stand. Those of the batch stand in `lanes` of `count`.
    """

    masks: Sequence[Mask]
    rows: Sequence[slice | Tensor]
    lanes: Tensor | None = None
    count: int = 0

    def each(self, attention: Attending, q: Tensor, k: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
        """Attention of each by itself: q (1, N, H, D), and for each mask k and v (B, K, S, D) -> (1, N, H, D)."""
        out = torch.zeros_like(q)
        lanes = self.lanes
        for mask, rows, key, value in zip(self.masks, self.rows, k, v, strict=True):
            if lanes is None:
                out[:, rows] = attention(q[:, rows], key, value, mask)
                continue
            batch = q.new_zeros(self.count, 1, *q.shape[2:])
            batch[lanes, 0] = q[0, rows]
            out[0, rows] = attention(batch, key, value, mask)[lanes, 0]
            lanes = None
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float, dropout: float = 0.0) -> Tensor:
    """softmax(scale q k^T + mask) v (Vaswani et al. 2017, eq. 1): q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D).

    On a CPU whole blocks of queries are products that oneDNN does well, and the keys that a block may not see are
    skipped: forward and backward take a third of the time of PyTorch's own kernel at T <= 512. Their probabilities are
    kept for the way back, so long rows go to PyTorch's kernel, which keeps none; but for a bias that learns it would
    keep several.
    """
    if k.size(0) < q.size(0):  # each source is read by several rows, side by side, with a new token each
        many = q.view(k.size(0), -1, *q.shape[1:]).transpose(1, 2)  # (R, H, B / R, 1, D)
        y = attend(many.flatten(2, 3), k, v, mask, scale, dropout)
        return y.view(many.shape).transpose(1, 2).reshape(q.shape)
    grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    short = not grad or mask.keys <= LONG or (mask.bias is not None and mask.bias.requires_grad)
    if q.device.type == "cpu" and mask.queries > 1 and short:
        return blockwise(q, k, v, mask, scale, dropout)
    shared = q.size(1) != k.size(1)
    if mask.plain_causal:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=mask.looks_ahead, scale=scale, dropout_p=dropout, enable_gqa=shared
        )
    dense = None if mask.dense is None else mask.dense.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, dense, scale=scale, dropout_p=dropout, enable_gqa=shared)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    """The same in one line, in float32 and with keys repeated to the queries' heads: what the kernels must equal."""
    k, v = (t.repeat_interleave(q.size(1) // t.size(1), dim=1) for t in (k, v))  # (B, H, S, D)
    scores = q.float() @ k.float().transpose(-1, -2) * scale  # (B, H, T, S)
    if mask.dense is not None:
        scores = scores + mask.dense
    return (scores.softmax(-1) @ v.to(scores)).type_as(q)


def blockwise(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float, dropout: float = 0.0) -> Tensor:
    """The same, a block of queries at a time, and only the keys that it may see."""
    H = q.size(1)
    k, v = (t if t.size(1) == H else t.repeat_interleave(H // t.size(1), dim=1) for t in (k, v))  # (B, H, S, D)
    heads = (t.flatten(0, 1) for t in (q, k, v))  # (B*H, T or S, D)
    blocks = mask.blocks(q.size(0))
    dense, ahead = None if mask.plain_causal else mask.narrow(q.dtype), mask.looks_ahead
    triangle = ahead and (mask.apart or dense is None)  # else it stands in the mask
    edges = (EDGE, EDGE) if mask.apart else (1, 1) if mask.first is None else (EDGE, BLOCK)
    more = blocks, triangle, edges, H, scale, dropout
    y: Tensor = _Blockwise.apply(*heads, mask.bias, dense, *more)  # type: ignore[no-untyped-call]
    return y.view(q.shape)


class _Blockwise(torch.autograd.Function):
    """q (B*H, T, D), k and v (B*H, S, D) -> (B*H, T, D). `dense` (B or 1, H or 1, T, S) or None holds `bias` already,
    which is named for its gradient: where all rows share it, so do they the gradient."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dense: Tensor | None,
        blocks: Sequence[Block], triangle: bool, edges: tuple[int, int], heads: int, scale: float, dropout: float,
    ) -> Tensor:  # fmt: skip
        keep = any(ctx.needs_input_grad)
        y, probs, holes = torch.zeros_like(q), [], []
        for row, stop, i, j, first, end in blocks:
            some = slice(row * heads, stop * heads)
            queries, keys, values = (
                _cut(q[some], i, j, edges[0]),
                _cut(k[some], first, end, edges[1]),
                _cut(v[some], first, end, edges[1]),
            )
            whole = _product(queries, keys.transpose(1, 2), scale)  # (rows*H, j - i, end - first), but for `edges`
            if keys.size(1) > end - first:
                whole[..., end - first :] = FORBIDDEN
            scores = whole[:, : j - i, : end - first]
            if dense is not None:
                added = dense[row:stop] if dense.size(0) > 1 else dense
                scores.view(-1, heads, j - i, end - first).add_(added[..., i:j, first:end])
            if triangle:  # only the last square of keys holds any that are still to come
                scores[..., i - j :] += torch.full((j - i, j - i), FORBIDDEN, dtype=q.dtype).triu_(1)
            p = whole.softmax(-1)
            kept = _holes(p, dropout)
            y[some, i:j] = torch.bmm(p if kept is None else p * kept, values)[:, : j - i]
            if keep:
                probs.append(p)
                holes.append(kept)
        ctx.save_for_backward(q, k, v, *probs)
        ctx.holes = holes
        ctx.bias = bias is not None and bias.shape
        ctx.blocks, ctx.edges, ctx.heads, ctx.scale = blocks, edges, heads, scale
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *probs = ctx.saved_tensors
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        dbias = q.new_zeros(ctx.bias, dtype=torch.float32) if ctx.needs_input_grad[3] else None
        for p, kept, (row, stop, i, j, first, end) in zip(probs, ctx.holes, ctx.blocks, strict=True):
            some = slice(row * ctx.heads, stop * ctx.heads)
            dout, queries = _cut(dy[some], i, j, ctx.edges[0]), _cut(q[some], i, j, ctx.edges[0])
            keys, values = _cut(k[some], first, end, ctx.edges[1]), _cut(v[some], first, end, ctx.edges[1])
            used, dp = p, torch.bmm(dout, values.transpose(1, 2))
            if kept is not None:
                used, dp = p * kept, dp.mul_(kept)
            dv[some, first:end] += torch.bmm(used.transpose(1, 2), dout)[:, : end - first]
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)  # p * (dp - sum(dp * p)), as the scores
            dq[some, i:j] = _product(ds, keys, ctx.scale)[:, : j - i]
            dk[some, first:end] += _product(ds.transpose(1, 2), queries, ctx.scale)[:, : end - first]
            if dbias is not None:
                part = (dbias[row:stop] if dbias.size(0) > 1 else dbias)[..., i:j, first:end]
                part += (
                    ds[:, : j - i, : end - first]
                    .reshape(-1, ctx.heads, j - i, end - first)
                    .float()
                    .sum_to_size(part.shape)
                )
        return dq, dk, dv, dbias, None, None, None, None, None, None, None


def _cut(x: Tensor, first: int, end: int, edge: int) -> Tensor:
    """x (N, L, D) -> (N, first to end, D), and zeros up to a multiple of `edge`."""
    more = -(end - first) % edge
    return F.pad(x[:, first:end], (0, 0, 0, more)) if more else x[:, first:end]


def _holes(p: Tensor, dropout: float) -> Tensor | None:
    """What to multiply probabilities by: 0 for a share `dropout`, and the more for the rest; None without dropout."""
    return torch.empty_like(p).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None


def _work(blocks: Sequence[Block]) -> int:
    """Scores that are computed for one head; a block costs as much as `ALONE` of them beside its own."""
    return sum((b.stop - b.row) * (b.j - b.i) * (b.end - b.first) + ALONE for b in blocks)


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale a b in one call, (N, R, C) and (N, C, M) -> (N, R, M)."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)
