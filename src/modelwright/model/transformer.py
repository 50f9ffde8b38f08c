"""The Transformer: encoder-only, decoder-only and encoder-decoder, in one file.

Read top to bottom: attention, feed-forward, block, stack, embedding, head, model, initialisation; what each is built
from is said in `config.py`, and where tokens stand in `positions.py`.

Letters: B batch, T query length, S key/source length, C width, H heads, K key/value heads, D head width,
F feed-forward width, N tokens in all, V vocabulary (or, in a head for labels, how many labels).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.model.attend import FORBIDDEN, Apart, Mask, attend
from modelwright.model.cache import Cache, Pair
from modelwright.model.config import Config as Config
from modelwright.model.config import Labels as Labels
from modelwright.model.config import Local as Local
from modelwright.model.config import Relative as Relative
from modelwright.model.config import Rope as Rope
from modelwright.model.config import RopeScaling as RopeScaling
from modelwright.model.config import Routing as Routing
from modelwright.model.experts import Experts, Rows, Traffic
from modelwright.model.kernels import RMSNorm, compute_dtype, rotate
from modelwright.model.logps import read_logps, rounded, token_logps
from modelwright.model.pages import Lists, Reading, Step
from modelwright.model.positions import RelativeBias, alibi_slopes, rope_frequencies, sinusoids
from modelwright.model.recurrent import Recurrent

# -- layers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """What an encoder leaves for a decoder to read: x (B, S, C), and the documents it came from, (B, S)."""

    x: Tensor
    segment: Tensor | None = None


@dataclass(frozen=True)
class Turn:
    """The cosines and sines of every position's rotation, each (B, T, 1, D/2); made once, used in every layer."""

    cos: Tensor
    sin: Tensor


def make_norm(cfg: Config) -> nn.Module:
    return nn.LayerNorm(cfg.width, eps=cfg.eps, bias=cfg.norm_bias) if cfg.norm == "layer" else rms(cfg, cfg.width)


def rms(cfg: Config, width: int) -> RMSNorm:
    return RMSNorm(width, cfg.eps, from_one=cfg.norm == "rms_from_one")


class Attention(nn.Module):
    """Self-attention; or, when given a memory to read, cross-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, cfg: Config, layer: int):
        super().__init__()
        self.cfg, self.layer = cfg, layer
        bias = cfg.attn_bias or cfg.qkv_bias
        self.q = nn.Linear(cfg.width, cfg.heads * cfg.head, bias=bias)
        self.k = nn.Linear(cfg.width, cfg.kv_heads * cfg.head, bias=bias)
        self.v = nn.Linear(cfg.width, cfg.kv_heads * cfg.head, bias=bias)
        self.o = nn.Linear(cfg.heads * cfg.head, cfg.width, bias=cfg.attn_bias)
        self.q_norm = rms(cfg, cfg.head) if cfg.qk_norm else None
        self.k_norm = rms(cfg, cfg.head) if cfg.qk_norm else None

    def forward(self, x: Tensor, mask: Mask | Apart, turn: Turn | None, cache: Cache | Step | None) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, self.cfg.head)) for f in (self.q, self.k, self.v))  # (B, T, H or K, D)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if turn is not None:
            q, k = rotate(q, turn.cos, turn.sin), rotate(k, turn.cos, turn.sin)
        kept: Any = k.transpose(1, 2), v.transpose(1, 2)  # (B, K, T, D) each
        if cache is not None:
            kept = cache.append(self.layer, *kept)  # (B, K, S, D) each
        return self.mix(q, kept, mask)

    def read(self, x: Tensor, memory: Memory | None, mask: Mask | Apart, cache: Cache | Step | None) -> Tensor:
        """Cross-attention. The memory's keys and values never change, so a cache keeps them after the first token."""
        q = self.q(x).unflatten(-1, (-1, self.cfg.head))  # (B, T, H, D)
        return self.mix(q, self.memorised(memory, cache), mask)

    def memorised(self, memory: Memory | None, cache: Cache | Step | None) -> Pair | Lists:
        if isinstance(cache, Step):
            assert cache.cross is not None
            return cache.cross.views(self.layer)
        kept = None if cache is None else cache.cross[self.layer]
        if kept is None:
            assert memory is not None
            kept = self.remember(memory)
            if cache is not None:
                cache.cross[self.layer] = kept
        return kept

    def remember(self, memory: Memory) -> Pair:
        """Keys and values of what an encoder has read, each (B, K, S, D)."""
        k, v = (f(memory.x).unflatten(-1, (-1, self.cfg.head)).transpose(1, 2) for f in (self.k, self.v))
        return k, v

    def mix(self, q: Tensor, kept: Any, mask: Mask | Apart) -> Tensor:
        """q (B, T, H, D) -> (B, T, C)."""
        k, v = kept
        y = mask.each(self.heads, q, k, v) if isinstance(mask, Apart) else self.heads(q, k, v, mask)
        out: Tensor = self.o(y.flatten(2))
        return out

    def heads(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """q (B, T, H, D), k and v (B, K, S, D) -> (B, T, H, D)."""
        scale = self.cfg.head**-0.5 if self.cfg.attn_scale is None else self.cfg.attn_scale
        dropout = self.cfg.dropout if self.training else 0.0
        return attend(q.transpose(1, 2), k, v, mask, scale, dropout).transpose(1, 2)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class FeedForward(nn.Module):
    """Two layers with a bend between; when gated, a third decides how much of each feature passes (Shazeer 2020)."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.act, self.dropout = ACTIVATIONS[cfg.act], cfg.dropout
        self.gate = nn.Linear(cfg.width, cfg.ffn, bias=cfg.ffn_bias) if cfg.gated else None
        self.up = nn.Linear(cfg.width, cfg.ffn, bias=cfg.ffn_bias)
        self.down = nn.Linear(cfg.ffn, cfg.width, bias=cfg.ffn_bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.up(x)) if self.gate is None else self.act(self.gate(x)) * self.up(x)  # (B, T, F)
        out: Tensor = self.down(y)  # (B, T, C)
        return out


def make_feed_forward(cfg: Config, layer: int) -> nn.Module:
    if cfg.experts and cfg.experts.at(layer):
        return Experts(cfg.experts, cfg.width, cfg.ffn, ACTIVATIONS[cfg.act], cfg.gated)
    return FeedForward(cfg)


class Block(nn.Module):
    """x + attention(x); in a decoder that reads an encoder, x + cross-attention; x + feed-forward.

    The norm stands before each part (`pre_norm`), or after each sum, as in the first Transformer and in BERT; or before
    and after each part (`part_norm`); or once, before both (`parallel`).
    """

    def __init__(self, cfg: Config, layer: int):
        super().__init__()
        self.pre_norm, self.dropout = cfg.pre_norm, cfg.dropout
        self.attn_norm, self.attn = make_norm(cfg), Attention(cfg, layer)
        self.attn_out_norm = make_norm(cfg) if cfg.part_norm else None
        if cfg.encoder is not None:
            self.cross_norm, self.cross = make_norm(cfg), Attention(cfg, layer)
        self.ffn_norm, self.ffn = None if cfg.parallel else make_norm(cfg), make_feed_forward(cfg, layer)
        self.routed = isinstance(self.ffn, Experts)
        self.ffn_out_norm = make_norm(cfg) if cfg.part_norm else None

    def forward(
        self,
        x: Tensor,
        mask: Mask | Apart,
        turn: Turn | None,
        memory: Memory | None,
        memory_mask: Mask | Apart | None,
        cache: Cache | Step | None,
        rows: Rows,
    ) -> Tensor:
        ffn = partial(self.ffn, rows=rows) if self.routed else self.ffn
        if self.ffn_norm is None:
            return self.add(x, self.attn_norm, lambda y: self.attn(y, mask, turn, cache) + ffn(y))
        x = self.add(x, self.attn_norm, lambda y: self.attn(y, mask, turn, cache), self.attn_out_norm)
        if memory_mask is not None:
            x = self.add(x, self.cross_norm, lambda y: self.cross.read(y, memory, memory_mask, cache))
        return self.add(x, self.ffn_norm, ffn, self.ffn_out_norm)

    def add(
        self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor], after: nn.Module | None = None
    ) -> Tensor:
        if self.pre_norm:  # narrowed once here, not again by each product that reads it
            y = part(norm(x).to(compute_dtype(x)))
            return x + self.drop(y if after is None else after(y))
        out: Tensor = norm(x + self.drop(part(x)))
        return out

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Stack(nn.Module):
    """A tower of blocks: a decoder when cfg.causal, an encoder when not."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.relative = RelativeBias(cfg.relative, cfg.heads, cfg.causal) if cfg.relative else None
        self.blocks = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.layers))
        self.norm = make_norm(cfg) if cfg.final_norm else None

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        segment: Tensor | None,
        memory: Memory | None = None,
        cache: Cache | Step | None = None,
        traffic: list[Traffic] | None = None,
    ) -> Tensor:
        """x (B, T, C), pos (B or 1, T), segment (B, T) -> (B, T, C)."""
        rows = Rows(segment, isinstance(cache, Step), traffic)
        mask, memory_mask = self.masks(pos, segment, memory, cache)
        near = self.near(mask, pos, cache)
        turn, near_turn = self.turns(pos, compute_dtype(x))
        for layer, block in enumerate(self.blocks):
            here = (near, near_turn) if self.cfg.is_local(layer) else (mask, turn)
            x = block(x, *here, memory, memory_mask, cache, rows)
        return x if self.norm is None else self.norm(x)  # (B, T, C)

    def masks(
        self, pos: Tensor, segment: Tensor | None, memory: Memory | None, cache: Cache | Step | None
    ) -> tuple[Mask | Apart, Mask | Apart | None]:
        """Who may look at whom, and who at what of the memory."""
        causal, T = self.cfg.causal, pos.size(1)
        if isinstance(cache, Step):
            return self.apart(cache.own, True), None if cache.cross is None else self.apart(cache.cross, False)
        k_pos, k_segment = (pos, segment) if cache is None else cache.extend(pos, segment)
        if segment is not None and cache is None:
            # Positions count up within a document: in packed rows the places tell the same gaps, for all rows at once.
            places = torch.arange(T, device=pos.device)[None]
            bias = self.bias(places, places)
        else:
            bias = self.bias(pos, k_pos)
        mask = Mask(causal, T, k_pos.size(1), segment, k_segment, bias, pos.device)
        return mask, None if memory is None else Mask(False, T, memory.x.size(1), segment, memory.segment)

    def near(self, mask: Mask | Apart, pos: Tensor, cache: Cache | Step | None) -> Mask | Apart:
        """The same for layers that see a window alone."""
        if self.cfg.local is None:
            return mask
        window = self.cfg.local.window
        if isinstance(mask, Apart):
            assert isinstance(cache, Step)
            return self.apart(cache.own, True, window)
        if cache is None or isinstance(cache, Step) or cache.segment is None:
            return replace(mask, window=window)
        # Padding may stand within a text here, so places tell other gaps than positions do.
        gap = pos[:, None, :, None] - cache.pos[:, None, None, : cache.length]  # (B, 1, T, S)
        beyond = torch.where(gap < window, 0.0, FORBIDDEN)
        return replace(mask, bias=beyond if mask.bias is None else mask.bias + beyond)

    def apart(self, reading: Reading, own: bool, window: int | None = None) -> Apart:
        """Who may look at whom in many texts: at its own tokens so far, or at all of its source."""
        masks: list[Mask] = []
        rows: list[slice | Tensor] = []
        if (grid := reading.grid) is not None:
            bias = self.bias(grid.ends[:, None] - 1, reading.count[None, : grid.length]) if own else None
            beyond = grid.beyond(window) if bias is None else grid.beyond(window) + bias  # (lanes, 1 or H, 1, S)
            masks.append(Mask(own, 1, grid.length, bias=beyond, device=beyond.device))
            rows.append(grid.rows)
        for text in reading.alone:
            k_pos = reading.count[None, : text.end]
            bias = self.bias(k_pos[:, text.end - text.new :], k_pos) if own else None
            masks.append(Mask(own, text.new, text.end, bias=bias, device=k_pos.device, first=text.first, window=window))
            rows.append(slice(text.row, text.row + text.new))
        return Apart(masks, rows) if grid is None else Apart(masks, rows, grid.lanes, grid.count)

    def bias(self, q_pos: Tensor, k_pos: Tensor) -> Tensor | None:
        """What distance adds to the scores, (B or 1, H, T, S): a learned bias, or one by slopes, or nothing."""
        if self.cfg.alibi:
            gap = (k_pos[:, None, None, :] - q_pos[:, None, :, None]).abs()  # (B or 1, 1, T, S)
            return -alibi_slopes(self.cfg.heads, gap.device)[:, None, None] * gap
        return None if self.relative is None else self.relative(q_pos, k_pos)

    def turns(self, pos: Tensor, dtype: torch.dtype) -> tuple[Turn | None, Turn | None]:
        """The rotations of layers that see everything, and of those that see a window."""
        local = self.cfg.local and self.cfg.local.rope
        turn = self.turn(self.cfg.rope, pos, dtype) if self.cfg.rope else None
        return turn, self.turn(local, pos, dtype) if local else turn

    def turn(self, rope: Rope, pos: Tensor, dtype: torch.dtype) -> Turn:
        freq = rope_frequencies(rope, self.cfg.head, pos.device)
        angle = pos[..., None, None].float() * freq  # (B, T, 1, D/2)
        return Turn(angle.cos().to(dtype), angle.sin().to(dtype))


# -- the two ends ---------------------------------------------------------------------------------------


class Places(nn.Module):
    """What a tower adds to its tokens' vectors: positions and token types, where it has them, and a norm."""

    def __init__(self, cfg: Config, **before: nn.Module):
        super().__init__()
        self.cfg = cfg
        for name, part in before.items():  # parameters have an order, in which they are drawn
            self.add_module(name, part)
        self.positions = nn.Embedding(cfg.context + cfg.offset, cfg.width) if cfg.learned else None
        self.types = nn.Embedding(cfg.types, cfg.width) if cfg.types else None
        self.norm = nn.LayerNorm(cfg.width, eps=cfg.eps, bias=cfg.norm_bias) if cfg.embed_norm else None

    def place(self, x: Tensor, pos: Tensor, types: Tensor | None) -> Tensor:
        """x (B, T, C), pos (B or 1, T), types (B, T) or all 0 -> (B, T, C)."""
        if self.cfg.embed_scale != 1.0:
            x = x * x.new_tensor(self.cfg.embed_scale)
        if self.cfg.sinusoidal:
            x = x + sinusoids(pos, self.cfg.width).to(x.dtype)
        if self.positions is not None:
            x = x + self.positions(pos + self.cfg.offset if self.cfg.offset else pos)
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.types(types))
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.cfg.dropout, self.training)


class Embedding(Places):
    """Tokens to vectors, in their places."""

    tokens: nn.Embedding

    def __init__(self, cfg: Config):
        super().__init__(cfg, tokens=nn.Embedding(cfg.vocab, cfg.width))
        self.soft: tuple[int, ...] = ()  # ids that stand before every text: those of a soft prompt, from V on

    def forward(self, tokens: Tensor, pos: Tensor, types: Tensor | None) -> Tensor:
        return self.place(self.tokens(tokens), pos, types)  # (B, T, C)


class Head(nn.Module):
    """Vectors to logits: over the vocabulary, or over the labels of a task.

    BERT's vocabulary head first passes a small transform, its head for labels of whole texts a pooler (Devlin et al.
    2019). The latter too answers at every place, and only the answer at a text's first token means something.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.scale = cfg.scale_logits
        self.act = ACTIVATIONS[cfg.act]
        self.transform = nn.Linear(cfg.width, cfg.width) if cfg.head_transform else None
        self.norm = nn.LayerNorm(cfg.width, eps=cfg.eps) if cfg.head_transform else None
        self.pooler = nn.Linear(cfg.width, cfg.width) if cfg.labels and cfg.labels.each == "text" else None
        self.pooler_act = ACTIVATIONS[cfg.pooler_act]
        self.dropout = cfg.dropout if cfg.labels else 0.0
        self.outputs = cfg.outputs
        self.proj = nn.Linear(cfg.width, cfg.outputs, bias=cfg.head_bias)

    def before(self, x: Tensor) -> Tensor:
        """All that happens to x (..., C) before the last product."""
        if self.transform is not None and self.norm is not None:
            x = self.norm(self.act(self.transform(x)))
        if self.pooler is not None:
            x = self.pooler_act(self.pooler(x))
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        return x if self.scale == 1.0 else x * self.scale

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(self.before(x))
        return out

    def logps(self, x: Tensor, targets: Tensor) -> Tensor:
        """log p(target) of x (B, T, C), targets (B, T) -> (B, T) float32; 0 where the target is negative.

        Only the wanted positions meet the vocabulary: a masked language model asks for one in seven. A few more are
        read, and left out again, so that not every batch is of another size (`logps.rounded`).
        """
        flat, every = x.flatten(0, 1), targets.flatten()  # (N, C), (N)
        wanted = (every >= 0).nonzero()[:, 0]  # (n)
        n = len(wanted)
        if n == len(every):
            return self._logps(flat, every).view(targets.shape)
        read = F.pad(wanted, (0, rounded(n, len(every)) - n))  # the first place again and again, which nobody asks for
        rows, answers = flat.index_select(0, read), every[read].clamp(min=0)
        found = self._logps(rows, answers)[:n]
        return found.new_zeros(len(every)).index_copy(0, wanted, found).view(targets.shape)

    def _logps(self, x: Tensor, targets: Tensor) -> Tensor:
        if not isinstance(self.proj, nn.Linear):  # packed, or of eight bits: its weight cannot be looked at
            return read_logps(self, x, targets, self.outputs)
        return token_logps(self.before(x), self.proj.weight, self.proj.bias, targets)


# -- the model ------------------------------------------------------------------------------------------


class Encoded(Protocol):
    """What an encoder reads: each (B, S); padding has segment 0."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def pos(self) -> Tensor: ...
    @property
    def segment(self) -> Tensor: ...


class Transformer(nn.Module):
    """Tokens to logits; with an encoder to read, an encoder-decoder. The two towers share one embedding of tokens; what
    else an encoder learns before its blocks (BART's positions and norm) is its own.

    Attention crosses neither from one segment to another nor, when causal, to a later token. Padding is segment 0.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.embed = Embedding(cfg)
        self.source = Places(cfg.encoder) if cfg.encoder and cfg.encoder.own_places else None
        self.encoder = Stack(cfg.encoder) if cfg.encoder else None
        self.stack = Recurrent(cfg) if cfg.recurrent else Stack(cfg)
        self.head = Head(cfg)
        if cfg.tied:
            self.head.proj.weight = self.embed.tokens.weight

    def encode(
        self,
        tokens: Tensor,
        pos: Tensor | None = None,
        segment: Tensor | None = None,
        traffic: list[Traffic] | None = None,
    ) -> Memory:
        """Read a source: tokens (B, S), pos (B, S) or 0..S-1, segment (B, S) or one document -> Memory.

        Positions count up by one within a segment. `traffic`: see `forward`.
        """
        assert self.encoder is not None, "a model without an encoder tower has nothing to encode with"
        pos = torch.arange(tokens.size(1), device=tokens.device)[None] if pos is None else pos
        places = self.embed if self.source is None else self.source
        x = self.encoder(places.place(self.embed.tokens(tokens), pos, None), pos, segment, traffic=traffic)
        return Memory(F.dropout(x, self.cfg.dropout, self.training), segment)

    def remember(self, memory: Memory) -> list[Pair]:
        """What each layer of the decoder reads of a memory: keys and values, (B, K, S, D)."""
        crosses: list[Any] = [getattr(block, "cross") for block in self.stack.blocks]  # noqa: B009
        return [cross.remember(memory) for cross in crosses]

    def hidden(
        self,
        tokens: Tensor,
        *,
        pos: Tensor | None = None,
        segment: Tensor | None = None,
        types: Tensor | None = None,
        memory: Memory | None = None,
        cache: Cache | Step | None = None,
        traffic: list[Traffic] | None = None,
    ) -> Tensor:
        """tokens (B, T) -> (B, T, C), the vectors that the head reads. With a cache, positions go on where it ends.

        Positions count up by one within a segment. A `Step` is of many texts whose new tokens make one row, and knows
        where each stands.
        """
        if isinstance(cache, Step):
            pos = cache.pos
        elif pos is None:
            start = 0 if cache is None else cache.next_pos()
            pos = torch.arange(tokens.size(1), device=tokens.device)[None] + start  # (1 or B, T)
        x = self.embed(tokens, pos, types)
        out: Tensor = self.stack(x, pos, segment, memory, cache, traffic)
        return out

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        pos: Tensor | None = None,
        segment: Tensor | None = None,
        types: Tensor | None = None,
        source: Encoded | None = None,
        memory: Memory | None = None,
        cache: Cache | None = None,
        traffic: list[Traffic] | None = None,
    ) -> Tensor:
        """tokens (B, T) -> logits (B, T, V); given targets (B, T), log p(target) (B, T) float32, 0 where it is < 0.

        With `cfg.labels` the targets are numbers of labels, and V is how many there are.
        An encoder-decoder reads `source`, or a `memory` already encoded. Into `traffic`, if a list is given, each layer
        of experts puts what its router did, the encoder's first.
        """
        if source is not None:
            memory = self.encode(source.tokens, source.pos, source.segment, traffic)
        x = self.hidden(tokens, pos=pos, segment=segment, types=types, memory=memory, cache=cache, traffic=traffic)
        return self.logits(x) if targets is None else self.head.logps(x, targets)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        out: Tensor = self.head(hidden)
        return out


# -- initialisation -------------------------------------------------------------------------------------


@torch.no_grad()
def initialise(model: Transformer, generator: torch.Generator) -> Transformer:
    """Draw fresh weights.

    | weight                                  | drawn from                                                        |
    |-----------------------------------------|-------------------------------------------------------------------|
    | token, position and type embeddings     | N(0, 0.02); with an untied head the tokens N(0, 1), scaled    |
    | a linear layer of I inputs              | N(0, 1/I), so that it keeps the size of what it reads             |
    | attention's output, feed-forward's down | as above, over 2 x layers: the residual stream does not grow      |
    | queries where scores are not scaled     | as above, over the head width, as T5 does                         |
    | an untied head, or one for labels       | N(0, 0.02): the first predictions are nearly even                 |
    | each expert's matrices; the router      | as the feed-forward's; as a linear layer                          |
    | norms; biases; relative bias            | 1, or 0 where kept as the distance from 1; 0; N(0, 0.02)          |
    | an LSTM's forget gates' biases          | 1: it begins by keeping what it has (Jozefowicz et al. 2015)      |
    """
    depth = 2 * model.cfg.layers
    for name, p in model.named_parameters():
        kind = name.split(".")[-1 if p.ndim == 3 else -2]  # a stack of experts' matrices is a parameter of its own
        if name.endswith("bias"):
            p.zero_()
            if kind == "input":
                p.chunk(4)[1].fill_(1.0)
        elif kind == "norm" or kind.endswith("_norm"):
            p.fill_(0.0 if getattr(model.get_submodule(name.rpartition(".")[0]), "from_one", False) else 1.0)
        elif kind in ("positions", "types", "relative", "proj") or (kind == "tokens" and model.cfg.tied):
            p.normal_(0.0, 0.02, generator=generator)
        elif kind == "tokens":
            p.normal_(0.0, 1.0 / model.cfg.embed_scale, generator=generator)
        else:
            variance = 1 / p.size(-1)
            if kind in ("o", "down"):
                variance /= depth
            if kind == "q" and model.cfg.attn_scale == 1.0:
                variance /= model.cfg.head
            p.normal_(0.0, math.sqrt(variance), generator=generator)
    return model
