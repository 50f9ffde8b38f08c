"""A model made ready for decoding on a CPU, where a token costs one reading of every weight.

A product with one row, or eight, does little arithmetic on each weight it reads, so what counts is how fast memory can
be read. oneDNN reads a weight that was first laid out in blocks up to twice as fast as a plain one, and is as fast as
before on many rows (a prompt), so one layout serves both. Products of the same input are joined into one: on small
models the fixed cost of a call is as large as its arithmetic.

B batch, T query length, S key length, C width, H heads, K key/value heads, G = H / K queries to a key, D head width,
F feed-forward width.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.model.attend import Apart, Mask, attend
from modelwright.model.cache import Cache, Pair
from modelwright.model.experts import Experts
from modelwright.model.kernels import RMSNorm, rotate
from modelwright.model.pages import Step
from modelwright.model.transformer import Attention, FeedForward, Memory, Transformer, Turn

# The blocks are chosen for so many rows; measured, this choice serves 1 to 512 of them.
ROWS = 8
TINY, MIDDLE = 1e-12, 128  # of what is rounded to eight bits


class PackedLinear(nn.Module):
    """One or more linear layers of the same input, as one product with a weight in oneDNN's blocks."""

    def __init__(self, *parts: nn.Linear):
        super().__init__()
        weight = parts[0].weight if len(parts) == 1 else torch.cat([part.weight for part in parts])  # (outputs, C)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        biases = [part.bias.detach() for part in parts if part.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        self.in_features, self.widths = parts[0].in_features, [part.out_features for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


class Int8Linear(PackedLinear):
    """The same with weights of eight bits, each output with a scale of its own: a quarter of float32's bytes to read.

    Inputs are rounded to eight bits too, row by row, so sums are of whole numbers and exact: what comes of a row does
    not depend on the rows beside it. The scale of a weight's row, and of an input, is its largest over 127 (Dettmers et
    al. 2022, "LLM.int8()", eq. 3, without its outliers).
    """

    def __init__(self, *parts: nn.Linear):
        super(PackedLinear, self).__init__()
        self.in_features, self.widths = parts[0].in_features, [part.out_features for part in parts]
        weight = torch.cat([part.weight.detach().float() for part in parts])  # (outputs, C)
        self.scale = weight.abs().amax(1).clamp_min(TINY) / 127  # (outputs)
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zero = torch.zeros(len(weight), dtype=torch.long)
        biases = [part.bias.detach() for part in parts if part.bias is not None]
        self.bias = torch.cat(biases) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1)).float()  # (N, C)
        largest = rows.abs().amax(1, keepdim=True).clamp_min(TINY)  # (N, 1)
        whole = rows.mul(127 / largest).round_().add_(MIDDLE).to(torch.uint8)  # which oneDNN wants without a sign
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, 1 / 127, MIDDLE, self.weight, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )  # (N, outputs)
        out = out.mul_(largest).to(x.dtype)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], -1)


class PackedAttention(nn.Module):
    """Self-attention with one product for queries, keys and values, and a kernel of its own for a single new token."""

    def __init__(self, plain: Attention, linear: type[PackedLinear] = PackedLinear):
        super().__init__()
        self.cfg, self.layer = plain.cfg, plain.layer
        self.qkv, self.o = linear(plain.q, plain.k, plain.v), linear(plain.o)
        self.scale: Tensor | None = None  # of the norms of queries and keys, in one: (H + K, D)
        if plain.q_norm is not None and plain.k_norm is not None:
            self.eps, q, k = plain.q_norm.eps, plain.q_norm.scale(), plain.k_norm.scale()
            self.scale = torch.cat([q.expand(self.cfg.heads, -1), k.expand(self.cfg.kv_heads, -1)]).detach()

    def forward(self, x: Tensor, mask: Mask | Apart, turn: Turn | None, cache: Cache | Step | None) -> Tensor:
        heads, kv = self.cfg.heads, self.cfg.kv_heads
        y = self.qkv(x).unflatten(-1, (-1, self.cfg.head))  # (B, T, H + 2K, D)
        qk, v = y.split([heads + kv, kv], dim=2)
        if self.scale is not None:
            qk = (F.rms_norm(qk.to(self.scale.dtype), (self.cfg.head,), eps=self.eps) * self.scale).to(qk.dtype)
        if turn is not None:
            qk = rotate(qk, turn.cos, turn.sin)
        q, k = qk.split([heads, kv], dim=2)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, K, T, D)
        kept: Any = (k, v)
        if cache is not None:
            stored = cache.append(self.layer, k, v)
            whole = isinstance(cache, Cache) and cache.start == 0  # a prompt reads itself as it was, not as it is kept
            kept = kept if whole else stored
        return mix(q, kept, mask, self.cfg.head**-0.5 if self.cfg.attn_scale is None else self.cfg.attn_scale, self.o)


class PackedCross(nn.Module):
    """Cross-attention: the memory's keys and values are made once by the plain layers, and kept."""

    def __init__(self, plain: Attention, linear: type[PackedLinear] = PackedLinear):
        super().__init__()
        self.plain, self.layer = plain, plain.layer
        self.q, self.o = linear(plain.q), linear(plain.o)

    def read(self, x: Tensor, memory: Memory | None, mask: Mask | Apart, cache: Cache | Step | None) -> Tensor:
        cfg = self.plain.cfg
        q = self.q(x).unflatten(-1, (-1, cfg.head))  # (B, T, H, D)
        kept = self.plain.memorised(memory, cache)
        return mix(q, kept, mask, cfg.head**-0.5 if cfg.attn_scale is None else cfg.attn_scale, self.o)

    def remember(self, memory: Memory) -> Pair:
        return self.plain.remember(memory)


def mix(q: Tensor, kept: Any, mask: Mask | Apart, scale: float, out: nn.Module) -> Tensor:
    """q (B, T, H, D), k and v (B, K, S, D), or of many texts lists of them -> (B, T, C)."""

    def heads(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        if q.size(1) == 1:
            return newest(q, k, v, mask, scale)
        return attend(q.transpose(1, 2), k.to(q.dtype), v.to(q.dtype), mask, scale).transpose(1, 2)

    k, v = kept
    y = mask.each(heads, q, k, v) if isinstance(mask, Apart) else heads(q, k, v, mask)
    done: Tensor = out(y.flatten(2))
    return done


def newest(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    """One new token a row: q (B, 1, H, D), k and v (B, K, S, D) -> (B, 1, H, D).

    k and v may be of fewer rows R, each read by B / R of q, side by side: the beams of a text read one source.

    The G queries of a key stand side by side as if they were G tokens, so no key is copied; and the product is in the
    precision of the cache. Both are several times faster here than attention's usual kernel.
    """
    many = q.view(k.size(0), -1, k.size(1), q.size(2) // k.size(1), q.size(3)).transpose(1, 2)  # (R, K, B / R, G, D)
    grouped = many.flatten(2, 3).to(k.dtype)  # (R, K, B / R * G, D)
    bias = mask.dense  # (B or 1, H or 1, 1, S)
    if bias is not None:
        bias = bias.to(k.dtype)
        bias = bias if bias.size(1) == 1 else bias.view(bias.size(0), *grouped.shape[1:3], -1)
    y = F.scaled_dot_product_attention(grouped, k, v, bias, scale=scale)  # (R, K, B / R * G, D)
    return y.view(many.shape).transpose(1, 2).reshape(q.shape).to(q.dtype)


class PackedFeedForward(nn.Module):
    """The feed-forward layer with one product for gate and up."""

    def __init__(self, plain: FeedForward, linear: type[PackedLinear] = PackedLinear):
        super().__init__()
        self.act, self.gated = plain.act, plain.gate is not None
        self.up = linear(plain.up) if plain.gate is None else linear(plain.gate, plain.up)
        self.down = linear(plain.down)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)  # (B, T, F), or (B, T, 2F) when gated
        if self.gated:
            gate, up = y.chunk(2, dim=-1)
            y = self.act(gate) * up
        else:
            y = self.act(y)
        out: Tensor = self.down(y)
        return out


class PackedExperts(Experts):
    """The same router, and each expert with one product for gate and up; only those that are chosen are read."""

    def __init__(self, plain: Experts):
        nn.Module.__init__(self)
        self.cfg, self.act, self.router, self.gated = plain.cfg, plain.act, plain.router, plain.gate is not None
        inner = [plain.up] if plain.gate is None else [plain.gate, plain.up]
        self.inner = nn.ModuleList(PackedLinear(*map(linear_of, weights)) for weights in zip(*inner, strict=True))
        self.outer = nn.ModuleList(PackedLinear(linear_of(weight)) for weight in plain.down)

    def experts(self) -> Callable[[int, Tensor], Tensor]:
        def expert(e: int, x: Tensor) -> Tensor:
            y = self.inner[e](x)  # (n, F), or (n, 2F) when gated
            if self.gated:
                gate, up = y.chunk(2, dim=-1)
                y = self.act(gate) * up
            else:
                y = self.act(y)
            out: Tensor = self.outer[e](y)
            return out

        return expert


def linear_of(weight: Tensor) -> nn.Linear:
    """A layer around a matrix (outputs, inputs), in the same memory."""
    made = nn.Linear(weight.size(1), weight.size(0), bias=False, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return made


# -- the whole model -----------------------------------------------------------------------------


def can_pack(model: Transformer) -> bool:
    """Whether packing is to be had: float32 or bfloat16 weights on a CPU that oneDNN knows, and memory for them."""
    weight = model.embed.tokens.weight
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        known = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    else:
        known = weight.dtype == torch.float32
    return known and sum(p.nbytes for p in model.parameters()) < available_memory() / 2


def available_memory() -> float:
    """Bytes that can be had without swapping, as Linux sees it; elsewhere without limit."""
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return math.inf if found is None else 1024 * int(found[1])


def can_int8() -> bool:
    """Whether products of eight bits are to be had: sums of theirs overflow on an x86 CPU that has no VNNI."""
    return hasattr(torch.ops.onednn, "qlinear_prepack") and torch.cpu._is_vnni_supported()


def prepare(model: Transformer, int8: bool = False) -> Transformer:
    """A copy of the model for decoding, with its decoder's products and its vocabulary head packed.

    The model itself is returned where packing is not to be had; it is never changed. The copy shares what is not packed
    (embeddings, norms, the encoder) and so costs once more the memory of the decoder's products and the head, for as
    long as it lives. It holds the weights of this moment: after training, prepare again. Layers that are no plain
    `nn.Linear`, or hold one that is not (an adapter), stay as they are.

    int8: with weights and inputs of those products rounded to eight bits; experts stay as they are, in one piece.
    Raises ValueError where this machine has no such products.
    """
    if int8 and not (can_int8() and model.embed.tokens.weight.device.type == "cpu"):
        raise ValueError("weights of eight bits need an x86 CPU with VNNI: leave the model as it is, or take bf16")
    if is_packed(model) or not (int8 or can_pack(model)):
        return model
    linear = Int8Linear if int8 else PackedLinear
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    ready = copy.deepcopy(model, shared)
    for block in ready.stack.blocks:
        for name, layer in list(block.named_children()):
            if as_built(layer):
                setattr(block, name, PACKED[name](layer, linear))
            elif type(layer) is Experts and not int8:
                setattr(block, name, PackedExperts(layer))
    for module in list(ready.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, RMSNorm) and norm.from_one:
                setattr(module, name, whole(norm))
    if type(ready.head.proj) is nn.Linear:
        setattr(ready.head, "proj", linear(ready.head.proj))  # noqa: B010
    return ready.eval()


PACKED: dict[str, Callable[[Any, type[PackedLinear]], nn.Module]] = {
    "attn": PackedAttention,
    "cross": PackedCross,
    "ffn": PackedFeedForward,
    "input": lambda plain, linear: linear(plain),
    "state": lambda plain, linear: linear(plain),
}


def as_built(layer: nn.Module) -> bool:
    """Whether a layer is attention, feed-forward or an LSTM's product, with nothing but plain products: no adapter, no
    quantised weight."""
    if type(layer) is nn.Linear:
        return True
    parts = (nn.Linear, RMSNorm, nn.LayerNorm)
    return type(layer) in (Attention, FeedForward) and all(type(part) in parts for part in layer.children())


def is_packed(model: Transformer) -> bool:
    return any(isinstance(part, PackedAttention | PackedLinear) for part in model.stack.blocks[0].children())


@torch.no_grad()
def whole(norm: RMSNorm) -> RMSNorm:
    """The same norm with its weights as they are, in float32, and not their distance from 1."""
    found = RMSNorm(norm.weight.numel(), norm.eps)
    found.weight = nn.Parameter(norm.scale(), requires_grad=False)
    return found


def cache_dtype(model: Transformer) -> torch.dtype:
    """What keys and values are best kept in.

    On a CPU a single token's attention in bfloat16 is slower than in float32 by more than the bytes it saves, unless
    several queries share each key. What an LSTM keeps is a sum that goes on over all tokens, and is never rounded.
    """
    if model.cfg.recurrent or (is_packed(model) and model.cfg.heads == model.cfg.kv_heads):
        return torch.float32
    return model.embed.tokens.weight.dtype
