"""The LSTM, which wrote text before the Transformer did, in the place of a Transformer's tower of blocks.

A layer reads a token's vector x_t and what it kept of the tokens before, h_{t-1} and c_{t-1}:

    i, f, o = sigmoid(W x_t + U h_{t-1} + b)     three gates, each with rows of its own in W, U and b
    g       = tanh(W x_t + U h_{t-1} + b)
    c_t     = f * c_{t-1} + i * g
    h_t     = o * tanh(c_t)

(Hochreiter and Schmidhuber 1997; the forget gate f: Gers et al. 2000). h_t is what the next layer reads. Dropout is on
the way up alone, never on the way from token to token (Zaremba et al. 2014).

What is kept of a token, h and c, lies in the cache where a Transformer's key and value of it lie; to go on is to read
the slot of the token before. So whatever may be done with a cache, beginnings that are shared or beams that part, may
be done with this one.

Letters: B batch, T length, N tokens in all, n runs of tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.model.cache import Cache
from modelwright.model.config import Config
from modelwright.model.pages import Step

Product = Callable[[Tensor], Tensor]  # h (n, C) -> U h (n, 4C)


@dataclass(frozen=True)
class Runs:
    """Tokens that follow one another, many such runs side by side: first the first token of each, then the second.

    order: of N tokens, in the order in which they are read. counts: how many runs have a first token, a second ... The
    longest runs stand first, so those that go on are always the first of those before. first: where each run begins.
    """

    order: Tensor  # (N)
    counts: Sequence[int]
    first: Tensor  # (n)

    @classmethod
    def of(cls, begins: Tensor) -> Runs:
        """begins (N) bool: whether a token begins a run, or goes on from the token before it."""
        first = begins.nonzero()[:, 0]  # (n)
        every = torch.arange(len(begins), device=begins.device)
        lengths = torch.diff(first, append=first.new_tensor([len(begins)]))
        longest = lengths.argsort(descending=True, stable=True)  # (n)
        run = begins.cumsum(0) - 1  # (N)
        at = every - first[run]
        rank = torch.empty_like(longest).index_copy_(0, longest, every[: len(first)])
        order = (at * len(first) + rank[run]).argsort()
        return cls(order, at.bincount().tolist(), first[longest])

    @property
    def back(self) -> Tensor:
        """(N): where each token stands in `order`."""
        return self.order.argsort()


class Recurrent(nn.Module):
    """A tower of LSTM layers."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.blocks = nn.ModuleList(LSTM(cfg.width) for _ in range(cfg.layers))

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        segment: Tensor | None,
        memory: None = None,
        cache: Cache | Step | None = None,
        traffic: list[Any] | None = None,
    ) -> Tensor:
        """x (B, T, C), pos (B or 1, T), segment (B, T) -> (B, T, C). What was kept ends where a segment does."""
        if isinstance(cache, Cache):
            segment = cache.extend(pos, segment)[1]
        begins, before = follows(x, segment, cache)
        runs = Runs.of(begins)
        back, before = runs.back, before[runs.first]
        y = x.flatten(0, 1)[runs.order]  # (N, C)
        for layer, block in enumerate(self.blocks):
            kept = y.new_zeros(2, len(before), y.size(1)) if cache is None else cache.before(layer, before)
            y, c = block(y, *kept, runs.counts)
            if cache is not None:
                cache.write(layer, *(state[back].view(x.size(0), 1, -1, x.size(2)) for state in (y, c)))
            y = F.dropout(y, self.cfg.dropout, self.training)
        return y[back].view(x.shape)


def follows(x: Tensor, segment: Tensor | None, cache: Cache | Step | None) -> tuple[Tensor, Tensor]:
    """Of the tokens of x (B, T, C), side by side: whether each begins a run, (N) bool; and the slot of the cache in
    which that run's last token so far lies, (N), or -1 where there is none."""
    B, T = x.shape[:2]
    begins = torch.zeros(B, T, dtype=torch.bool, device=x.device)
    before = torch.full((B, T), -1, device=x.device)
    if isinstance(cache, Step):
        begins[0, cache.first], before[0, cache.first] = True, cache.last
        begins[0, cache.rows :] = True  # those that are nobody's
        return begins[0], before[0]
    begins[:, 0] = True
    new = segment if segment is None else segment[:, -T:]
    if new is not None:
        begins[:, 1:] = new[:, 1:] != new[:, :-1]
    if cache is not None and cache.start:
        slots = torch.arange(B, device=x.device) * cache.capacity + cache.start - 1
        before[:, 0] = slots if segment is None else slots.where(segment[:, -T] == segment[:, -T - 1], -1)
    return begins.flatten(), before.flatten()


class LSTM(nn.Module):
    """One layer. The rows of W and U are those of i, f, g and o in turn, as in PyTorch's own."""

    def __init__(self, width: int):
        super().__init__()
        self.input = nn.Linear(width, 4 * width)  # W and b
        self.state = nn.Linear(width, 4 * width, bias=False)  # U

    def forward(self, x: Tensor, h: Tensor, c: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """x (N, C) as `Runs` order it, h and c (n, C) of the token before each run -> h and c of all, (N, C) each.

        From token to token it is float32 whatever the products are made in: c is a sum over all tokens so far.
        """
        gates = self.input(x).float()  # (N, 4C)
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled() and gates.requires_grad:
                out = _Unrolled.apply(gates, self.state.weight, h.float(), c.float(), counts)  # type: ignore[no-untyped-call]
                return out[0].to(x.dtype), out[1]
            _, hs, cs, _ = unroll(gates, lambda h: self.state(h.to(x.dtype)), h.float(), c.float(), counts)
        return hs.to(x.dtype), cs


def unroll(
    gates: Tensor, product: Product, h: Tensor, c: Tensor, counts: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The equations, for a token of each run at a time. gates (N, 4C) holds W x + b, and becomes i, f, g, o.

    Answers these, and h, c and tanh(c), (N, C) each.
    """
    C, start = gates.size(1) // 4, 0
    hs, cs, bent = gates.new_empty(3, len(gates), C)
    for n in counts:
        now = slice(start, start + n)
        a = gates[now].add_(product(h[:n]))
        a[:, : 2 * C].sigmoid_(), a[:, 2 * C : 3 * C].tanh_(), a[:, 3 * C :].sigmoid_()
        i, f, g, o = a.chunk(4, 1)
        c = torch.addcmul(i * g, f, c[:n], out=cs[now])
        h = torch.mul(o, torch.tanh(c, out=bent[now]), out=hs[now])
        start += n
    return gates, hs, cs, bent


class _Unrolled(torch.autograd.Function):
    """`unroll`, and its gradient through time (Werbos 1990), from the last token to the first:

        dc_t = dc_{t+1} f_{t+1} + dh_t o tanh'(c_t)    dh_t = what is above it + U^T da_{t+1}
        da   = (dc g i', dc c_{t-1} f', dc i g', dh tanh(c_t) o')

    so that dU, a product of all da with the h before them, is made at once. PyTorch's own, over runs of several
    lengths, adds to it at every token, and takes three to ten times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, U: Tensor, h: Tensor, c: Tensor, counts: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        narrow = U.float()
        acts, hs, cs, bent = unroll(gates.clone(), lambda h: h @ narrow.t(), h, c, counts)
        ctx.save_for_backward(acts, U, h, c, hs, cs, bent)
        ctx.counts = counts
        ctx.mark_non_differentiable(cs)
        return hs, cs

    @staticmethod
    def backward(ctx: Any, dhs: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        acts, U, h, c, hs, cs, bent = ctx.saved_tensors
        counts, ends = ctx.counts, torch.tensor(ctx.counts).cumsum(0).tolist()
        starts = [0, *ends]
        h, c = (torch.cat([x[: counts[0]], *(xs[s : s + n] for s, n in zip(starts, counts[1:], strict=False))])
                for x, xs in ((h, hs), (c, cs)))  # fmt: skip
        da, wide = torch.empty_like(acts), U.float()
        dc, dh = dhs.new_zeros(2, 0, dhs.size(1))
        for start, end in zip(reversed(starts[:-1]), reversed(ends), strict=True):
            now = slice(start, end)
            i, f, g, o = acts[now].chunk(4, 1)
            above = dhs[now].clone()
            above[: len(dh)] += dh
            through = d_tanh(above * o, bent[now])
            through[: len(dc)] += dc
            parts = (d_sigmoid(through * g, i), d_sigmoid(through * c[now], f), d_tanh(through * i, g),
                     d_sigmoid(above * bent[now], o))  # fmt: skip
            torch.cat(parts, 1, out=da[now])
            dc, dh = through * f, da[now] @ wide
        return da, (da.t() @ h).to(U.dtype), None, None, None


def d_sigmoid(dy: Tensor, y: Tensor) -> Tensor:
    """dy y (1 - y), in one call."""
    out: Tensor = torch.ops.aten.sigmoid_backward(dy, y)
    return out


def d_tanh(dy: Tensor, y: Tensor) -> Tensor:
    """dy (1 - y^2), in one call."""
    out: Tensor = torch.ops.aten.tanh_backward(dy, y)
    return out
