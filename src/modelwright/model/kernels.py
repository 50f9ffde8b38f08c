"""Small operations with their gradients written out, where PyTorch's own take many passes over memory on a CPU.

Each is the plain formula in its docstring; tests hold it to that. Letters: C width, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def compute_dtype(x: Tensor) -> torch.dtype:
    """What a product of x would be computed in: autocast's choice where there is one, else x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class RMSNorm(nn.Module):
    """y = w x / sqrt(mean(x^2) + eps) over the last axis (Zhang and Sennrich 2019, eq. 4).

    `from_one`: what is kept is w - 1, so that weights that decay go to no change, and narrow ones are fine near it.
    """

    def __init__(self, width: int, eps: float, from_one: bool = False):
        super().__init__()
        self.eps, self.from_one = eps, from_one
        self.weight = nn.Parameter(torch.zeros(width) if from_one else torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scale()
        if not torch.is_grad_enabled() and torch.promote_types(x.dtype, weight.dtype) == weight.dtype:
            return torch.nn.functional.rms_norm(x.to(weight.dtype), x.shape[-1:], weight, self.eps).to(x.dtype)
        y: Tensor = _RMSNorm.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
        return y

    def scale(self) -> Tensor:
        """w, and in float32 at least where it is kept as its distance from 1."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return 1.0 + self.weight.to(wide) if self.from_one else self.weight


class _RMSNorm(torch.autograd.Function):
    """With n = x / rms, y = w n and g = w dy: dx = (g - n mean(g n)) / rms and dw = sum(dy n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x  # squares need the range
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = (size.square_().div_(x.size(-1)).add_(eps)).rsqrt_()  # (..., 1), 1 / rms
        ctx.save_for_backward(x, weight, scale)
        y: Tensor = (wide * scale).mul_(weight)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        n = x * scale  # (..., C), float32 where x is narrower
        product = dy * n
        dweight = None  # of a frozen norm
        if ctx.needs_input_grad[1]:
            dweight = product.sum(tuple(range(x.dim() - 1))).to(weight.dtype)
        mean = (product @ weight.to(product.dtype))[..., None].div_(x.size(-1))  # (..., 1)
        dx = (dy * weight).sub_(n.mul_(mean)).mul_(scale)
        return dx.to(x.dtype), dweight, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (a, b) = (x_i, x_{i + D/2}) of x (B, T, H, D): (a cos - b sin, b cos + a sin).

    cos and sin are (B or 1, T, 1, D/2), in x's dtype (Su et al. 2021, eq. 34, in the order of Llama's checkpoints).
    """
    if not torch.is_grad_enabled():
        return _turn(x, cos, sin)
    y: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return y


class _Rotate(torch.autograd.Function):
    """The way back is the turn by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(dy, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (a, b), (left, right) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=right).addcmul_(a, sin)
    return y
