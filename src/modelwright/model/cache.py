"""Keys and values of the tokens seen so far, so that each new token costs one forward of itself alone.

Letters: B batch, T new tokens, S slots, K key/value heads, D head width, N tokens of all texts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class _Shape(Protocol):
    @property
    def layers(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head(self) -> int: ...


class Cache:
    """A static cache: room for `length` tokens in each of `batch` rows, allocated once.

    Every row writes the same slots, so ragged prompts are padded on the left with segment 0; `pos` says where in its
    own text a token stands.
    """

    def __init__(self, cfg: _Shape, batch: int, length: int, dtype: torch.dtype, device: torch.device | None = None):
        shape = (batch, cfg.kv_heads, length, cfg.head)
        self.k = [torch.empty(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]  # (B, K, S, D)
        self.v = [torch.empty(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]
        self.cross: list[Kept | None] = [None] * cfg.layers  # an encoder's, each (B, K, source, D)
        self.capacity = length
        self.start = self.length = 0  # the slots of the forward under way: [start, length)
        self.pos = torch.zeros(batch, length, dtype=torch.long, device=device)  # (B, S)
        self.segment: Tensor | None = None  # (B, S); None while no row is padded

    def next_pos(self) -> int | Tensor:
        """Where the next token stands: one number for rows that are all as long, else (B, 1)."""
        if self.length == 0 or self.segment is None:
            return self.length
        return self.pos[:, self.length - 1 : self.length] + 1

    def extend(self, pos: Tensor, segment: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Take in where T new tokens stand; answer where all S tokens so far do: (B, S) and (B, S) or None.

        Raises ValueError where the cache has no room for them.
        """
        self.start, self.length = self.length, self.length + pos.size(1)
        if self.length > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens and was given {self.length}")
        new = slice(self.start, self.length)
        self.pos[:, new] = pos
        if segment is not None and self.segment is None:
            self.segment = torch.ones_like(self.pos)
        if self.segment is not None:
            self.segment[:, new] = 1 if segment is None else segment
        return self.pos[:, : self.length], None if self.segment is None else self.segment[:, : self.length]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (B, K, T, D) into the new slots; answer all of them, (B, K, S, D) each."""
        self.k[layer][:, :, self.start : self.length] = k
        self.v[layer][:, :, self.start : self.length] = v
        return self.k[layer][:, :, : self.length], self.v[layer][:, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named twice (several samples of one prompt, beams)."""
        self.k = [k[rows] for k in self.k]
        self.v = [v[rows] for v in self.v]
        self.cross = [kv and (kv[0][rows], kv[1][rows]) for kv in self.cross]
        self.pos = self.pos[rows]
        self.segment = None if self.segment is None else self.segment[rows]


# -- many texts, each with its own beginning and end ------------------------------------------------

Pair = tuple[Tensor, Tensor]  # keys and values
Kept = tuple[Any, Any]  # the same; or of many texts, a list of each


@dataclass(frozen=True)
class Part:
    """A text's share of a forward: its tokens [start, end), of which all lie in `blocks`, and for an encoder-decoder
    the source's keys and values by layer."""

    start: int
    end: int
    blocks: Sequence[int]
    cross: Sequence[Pair] = ()


class Pages:
    """Room for `blocks` times `size` tokens, handed out in blocks (Kwon et al. 2023).

    All slots of a head lie one after the other, so that a text whose blocks follow each other is read as it lies.
    """

    def __init__(self, cfg: _Shape, blocks: int, size: int, dtype: torch.dtype, device: torch.device | None = None):
        shape = (cfg.kv_heads, blocks * size, cfg.head)
        self.k = [torch.empty(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]  # (K, S, D)
        self.v = [torch.empty(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]
        self.count = torch.arange(blocks * size, device=device)  # 0, 1, 2, ...
        self.size, self.device = size, device

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Blocks (from, to); all are read before any is written."""
        source, to = (torch.tensor(blocks, device=self.device) for blocks in zip(*pairs, strict=True))
        for pool in (*self.k, *self.v):
            blocks = pool.view(pool.size(0), -1, self.size, pool.size(2))  # (K, blocks, size, D)
            blocks[:, to] = blocks[:, source]

    def slots(self, blocks: Sequence[int], end: int) -> slice | Tensor:
        """Where the first `end` tokens of a text lie."""
        if blocks[-1] - blocks[0] == len(blocks) - 1:  # they were laid down in order
            return slice(blocks[0] * self.size, blocks[0] * self.size + end)
        starts = torch.tensor(blocks, device=self.device)[:, None] * self.size
        return (starts + torch.arange(self.size, device=self.device)).flatten()[:end]


class Step:
    """A forward over parts of many texts, whose N new tokens stand one after the other in a single row."""

    def __init__(self, pages: Pages, parts: Sequence[Part]):
        self.pages, self.kept = pages, [pages.slots(part.blocks, part.end) for part in parts]
        self.new = torch.cat([pages.count[at][part.start :] for part, at in zip(parts, self.kept, strict=True)])  # (N)
        self.places = [(pages.count[None, part.start : part.end], pages.count[None, : part.end]) for part in parts]
        self.pos = torch.cat([q for q, _ in self.places], dim=1)  # (1, N)
        self.sources = [part.cross[0][0].size(2) if part.cross else 0 for part in parts]
        layers = zip(*(part.cross for part in parts), strict=True)
        self.cross: list[Kept | None] = [(*zip(*pairs, strict=True),) for pairs in layers]  # type: ignore[misc]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Write k, v (1, K, N, D) where the new tokens lie; answer all that each text has, (1, K, S, D) each."""
        pools = self.pages.k[layer], self.pages.v[layer]
        for pool, fresh in zip(pools, (k, v), strict=True):
            pool.index_copy_(1, self.new, fresh[0].to(pool.dtype))
        keys, values = ([pool[None, :, at] for at in self.kept] for pool in pools)
        return keys, values
