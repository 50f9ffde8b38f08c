"""log p(target) without ever holding float32 logits for the whole batch.

Letters: N tokens in all, n tokens of one chunk, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modelwright.model.kernels import compute_dtype

CHUNK = 1 << 20  # logits computed at once: 4 MiB in float32, within the processor's cache ...
ROWS = 256  # ... but never fewer rows than make a product worth reading the vocabulary's weight for
KEEP = 1 << 28  # probabilities kept for the way back; beyond that they are computed again


def token_logps(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log softmax(x W^T + b)[target]: x (N, C), weight (V, C), bias (V) or None, targets (N) -> (N) float32.

    The same as `plain`, in chunks of rows and with the gradient p - 1[target] written out (Bengio et al. 2003,
    section 3), since the logits of a large vocabulary are the largest tensor of a small model.
    """
    dtype = compute_dtype(x)
    bias = None if bias is None else bias.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _TokenLogps.apply(x.to(dtype), weight.to(dtype), bias, targets)  # type: ignore[no-untyped-call]
    return out


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The same in one line, with all N x V logits in float32 at once."""
    logits = torch.nn.functional.linear(x, weight, bias).float()  # (N, V)
    found: Tensor = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    return found


def read_logps(head: Callable[[Tensor], Tensor], x: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """The same under any head, x (..., C) -> logits (..., V), without a way back."""
    at_once = rows_at_once(vocab)
    parts = zip(torch.split(x, at_once), torch.split(targets, at_once), strict=True)
    return torch.cat([head(some).float().log_softmax(-1).gather(-1, said[:, None])[:, 0] for some, said in parts])


def rows_at_once(vocab: int) -> int:
    """How many rows of logits are computed at once."""
    return max(ROWS, CHUNK // vocab)


def rounded(rows: int, most: int) -> int:
    """The next size up, of which there are eight to each doubling, none below 64 and none above `most`.

    A product keeps what it prepared for its sizes (oneDNN's primitive cache: 1,024 of them, about half a MiB each in
    bf16), so a training whose every step has another number of rows would grow by a GiB over its first thousand steps.
    A size is 1/8 too large at most.
    """
    grain = max(64, 1 << max(0, (rows - 1).bit_length() - 4))
    return min(-(-rows // grain) * grain, most)


def _log_softmax(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits: Tensor = torch.nn.functional.linear(x, weight, bias)  # (n, V)
    return logits.float().log_softmax(-1)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        n = rows_at_once(weight.size(0))
        keep = any(ctx.needs_input_grad) and x.size(0) * weight.size(0) <= KEEP
        probs = x.new_empty(x.size(0), weight.size(0)) if keep else None  # (N, V)
        logps = x.new_empty(x.size(0), dtype=torch.float32)  # (N)
        for i in range(0, x.size(0), n):
            rows = slice(i, i + n)
            every = _log_softmax(x[rows], weight, bias)  # (n, V)
            logps[rows] = every.gather(-1, targets[rows, None])[:, 0]
            if probs is not None:
                probs[rows] = every.exp_()
        ctx.save_for_backward(x, weight, bias, targets)
        ctx.probs = probs
        out: Tensor = logps
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, bias, targets = ctx.saved_tensors
        kept, ctx.probs = ctx.probs, None  # used up here: a second way back computes them again
        n = max(1, x.size(0)) if kept is not None else rows_at_once(weight.size(0))
        dx = torch.empty_like(x)
        dweight = (
            torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        )  # a frozen head's would be half the work
        dbias = None if bias is None or not ctx.needs_input_grad[2] else torch.zeros_like(bias)
        for i in range(0, x.size(0), n):
            rows = slice(i, i + n)
            p = kept
            if p is None:
                p = _log_softmax(x[rows], weight, bias).exp_().to(x.dtype)  # (n, V)
            g = grad[rows, None].to(x.dtype)  # (n, 1)
            dlogits = p.mul_(-g).scatter_add_(1, targets[rows, None], g)  # of log p: 1[target] - p
            torch.mm(dlogits, weight, out=dx[rows])
            if dweight is not None:
                dweight.addmm_(dlogits.T, x[rows]) if n < x.size(0) else torch.mm(dlogits.T, x[rows], out=dweight)
            if dbias is not None:
                dbias += dlogits.sum(0)
        return dx, dweight, dbias, None
