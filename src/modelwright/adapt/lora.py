"""LoRA: a frozen layer learns through two thin matrices beside it (Hu et al. 2021).

Letters: N tokens in all, I inputs and O outputs of a layer, R rank.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.adapt.swap import swap
from modelwright.model.kernels import compute_dtype
from modelwright.model.transformer import Transformer

Model = TypeVar("Model", bound=nn.Module)
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class LoRA:
    """What is adapted, and how widely. The update is scaled by alpha / rank.

    targets: names of layers in every block of every tower: q, k, v, o of self- and of cross-attention, gate, up, down
    of the feed-forward. Raises ValueError naming the setting that is out of range.
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "v")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"a LoRA's rank must be at least 1, not {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"a LoRA's alpha must be above 0, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"a LoRA's dropout must be from 0 to below 1, not {self.dropout}")
        if unknown := [name for name in self.targets if name not in TARGETS]:
            raise ValueError(f"LoRA knows no target {unknown[0]!r}: choose among {', '.join(TARGETS)}")
        if not self.targets:
            raise ValueError(f"LoRA needs at least one target: choose among {', '.join(TARGETS)}")


class LoRALinear(nn.Module):
    """y = x W^T + b + scale (x A^T) B^T, with W and b frozen and B = 0 at first (Hu et al. 2021, eq. 3).

    base: the layer itself, O x I. A (R, I) and B (O, R) stay float32 beside a narrower base: they are what learns.
    """

    def __init__(self, base: nn.Linear, A: Tensor, B: Tensor, scale: float, dropout: float = 0.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = A if isinstance(A, nn.Parameter) else nn.Parameter(A)
        self.B = B if isinstance(B, nn.Parameter) else nn.Parameter(B)
        self.scale, self.dropout, self.on = scale, dropout, True
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            y: Tensor = self.base(x)
            return y
        if self.training and self.dropout:
            return self.plain(x)
        dtype = compute_dtype(x)
        W, A, B, bias = (None if p is None else p.to(dtype) for p in (self.base.weight, self.A, self.B, self.base.bias))
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = _LoRA.apply(x.to(dtype), W, bias, A, B, self.scale)  # type: ignore[no-untyped-call]
        return out

    def plain(self, x: Tensor) -> Tensor:
        """The same in one line, with dropout on the way through A alone: what the written-out gradient must equal."""
        y: Tensor = self.base(x)
        narrow = F.linear(F.dropout(x, self.dropout, self.training), self.A.to(x.dtype))  # (..., R)
        return y + self.scale * F.linear(narrow, self.B.to(narrow.dtype))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The one layer that says the same: W + scale B A, added in float32 whatever W is kept in. W is not changed."""
        out, inputs = self.base.weight.shape
        plain = nn.Linear(inputs, out, bias=False, device="meta")
        wide = torch.promote_types(self.base.weight.dtype, torch.float32)
        weight = self.base.weight.to(wide) + self.scale * (self.B.to(wide) @ self.A.to(wide))  # (O, I)
        plain.weight = nn.Parameter(weight.to(self.base.weight.dtype), requires_grad=False)
        plain.bias = self.base.bias
        return plain.train(self.training)


class _LoRA(torch.autograd.Function):
    """With h = x A^T and g = scale dy: dh = g B, dx = dy W + dh A, dA = dh^T x, dB = g^T h.

    W and b are frozen, so their gradients are not computed, and the way back through W and through A is one sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:
        y = F.linear(x, W, bias)  # (..., O)
        narrow = F.linear(x, A).flatten(0, -2)  # (N, R)
        y.view(-1, y.size(-1)).addmm_(narrow, B.t(), alpha=scale)
        ctx.save_for_backward(x, narrow, W if ctx.needs_input_grad[0] else None, A, B)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, narrow, W, A, B = ctx.saved_tensors
        flat = dy.flatten(0, -2)  # (N, O)
        dnarrow = (flat @ B).mul_(ctx.scale)  # (N, R)
        dA, dB = dnarrow.t() @ x.flatten(0, -2), (flat.t() @ narrow).mul_(ctx.scale)
        dx = None if W is None else (flat @ W).addmm_(dnarrow, A).view(x.shape)
        return dx, None, None, dA, dB, None


# -- the whole model --------------------------------------------------------------------------------------


def add_lora(model: Transformer, cfg: LoRA, generator: torch.Generator) -> Transformer:
    """Put a fresh LoRA beside every target, in place; all else is frozen, but a head over labels goes on learning.

    A is drawn from U(-1/sqrt(I), 1/sqrt(I)), which is He et al.'s uniform with a = sqrt(5), and B is 0: nothing changes
    before the first step. Raises ValueError for a target that the model has not, an LSTM, or a model that has a LoRA.
    """
    if model.cfg.recurrent:
        raise ValueError("a LoRA stands beside a Transformer's layers, and this model is an LSTM: tune it in full")
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ValueError("the model has a LoRA already: merge it first, or go on training that one")
    if model.cfg.routing and (inside := [name for name in cfg.targets if name in ("gate", "up", "down")]):
        raise ValueError(
            f"LoRA stands beside one matrix, and this model's {', '.join(inside)} are stacks with a matrix for each "
            "expert: choose among q, k, v, o"
        )
    names = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    if lacking := [target for target in cfg.targets if target not in names]:
        there = [target for target in TARGETS if target in names]
        raise ValueError(f"this model has no layer {lacking[0]!r} for LoRA: choose among {', '.join(there)}")

    def make(base: nn.Module) -> LoRALinear:
        assert isinstance(base, nn.Linear)
        device, dtype = base.weight.device, torch.promote_types(base.weight.dtype, torch.float32)
        bound = base.in_features**-0.5
        A = torch.empty(cfg.rank, base.in_features, dtype=dtype).uniform_(-bound, bound, generator=generator)
        B = torch.zeros(base.out_features, cfg.rank, dtype=dtype)
        return LoRALinear(base, A.to(device), B.to(device), cfg.alpha / cfg.rank, cfg.dropout)

    freeze(model)
    swap(model, rf".*\.(attn|cross|ffn)\.({'|'.join(map(re.escape, cfg.targets))})", make)
    return model


def freeze(model: Transformer) -> None:
    """Nothing learns but a head over labels, which is new."""
    model.requires_grad_(False)
    if model.cfg.labels is not None:
        model.head.requires_grad_(True)


@contextmanager
def adapters_off(model: Model) -> Iterator[Model]:
    """The model as it was before, for the length of a block: the same weights with every LoRA silent."""
    adapters = [(module, module.on) for module in model.modules() if isinstance(module, LoRALinear)]
    try:
        for module, _ in adapters:
            module.on = False
        yield model
    finally:
        for module, on in adapters:
            module.on = on


Reference = Callable[[], AbstractContextManager[Transformer]]


def reference_of(policy: Transformer) -> Reference:
    """The policy as it is now, to be held against what becomes of it; so take it before a checkpoint is restored.

    Where all that learns is a LoRA that still says nothing, it is the policy with its adapters silent; else a copy,
    which shares what is frozen.
    """
    if _silent(policy):
        return lambda: adapters_off(policy)
    shared: dict[int, Any] = {id(p): p for p in policy.parameters() if not p.requires_grad}
    frozen = copy.deepcopy(policy, shared).eval().requires_grad_(False)
    return lambda: nullcontext(frozen)


def _silent(policy: Transformer) -> bool:
    """Whether nothing but a LoRA learns, and it says nothing yet: B is 0."""
    adapters = [module for module in policy.modules() if isinstance(module, LoRALinear)]
    own = {id(p) for module in adapters for p in (module.A, module.B)}
    learning = {id(p) for p in policy.parameters() if p.requires_grad}
    return bool(learning) and learning <= own and not any(bool(module.B.any()) for module in adapters)


def merge(model: Transformer) -> Transformer:
    """Take every LoRA out again, in place, its update added to the weight beside it; all may learn again."""
    _merge(model)
    model.requires_grad_(True)
    return model


def merged_copy(model: Transformer) -> Transformer:
    """A plain model that says the same, for reading fast: `infer/packed.py` packs plain layers only.

    The model itself is not changed. The copy shares with it every weight that is not merged, in evaluation mode; it
    holds the update of this moment, so after more training merge again.
    """
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return _merge(copy.deepcopy(model, shared)).eval()


def _merge(model: Transformer) -> Transformer:
    names = {name for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    if names:
        swap(model, names, lambda adapted: adapted.merged(), LoRALinear)  # type: ignore[operator]
    return model
