"""Keys and values of the tokens seen so far, so that each new token costs one forward of itself alone.

Letters: B batch, R texts that an encoder has read, T new tokens, S slots, K key/value heads, D head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # keys and values


class Shape(Protocol):
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

    def __init__(self, cfg: Shape, batch: int, length: int, dtype: torch.dtype, device: torch.device | None = None):
        shape = (batch, cfg.kv_heads, length, cfg.head)
        self.k = [torch.empty(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]  # (B, K, S, D)
        self.v = [torch.empty(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]
        self.cross: list[Pair | None] = [None] * cfg.layers  # an encoder's, each (R, K, source, D): one for B / R rows
        self.capacity = length
        self.start = self.length = 0  # the slots of the forward under way: [start, length)
        self.text = self.source = torch.arange(batch, device=device)  # (B) and (R): from which of the first rows
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
        self.write(layer, k, v)
        return self.k[layer][:, :, : self.length], self.v[layer][:, :, : self.length]

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        self.k[layer][:, :, self.start : self.length] = k
        self.v[layer][:, :, self.start : self.length] = v

    def before(self, layer: int, slots: Tensor) -> Pair:
        """What an LSTM kept in slots (n), counted through all rows; zeros for -1: (n, D) each."""
        return states(self.k[layer].flatten(0, 2), slots), states(self.v[layer].flatten(0, 2), slots)

    def select(self, rows: Tensor, alike: Tensor | None = None) -> None:
        """Keep these rows (B), in this order; a row may be named twice (several samples of one prompt, beams).

        alike (B): of each place, how many of its first slots hold the same in the row that was there and in the row
        that comes, and need no copy; beams part late. Where there are as many rows as before, only those that move are
        copied, their filled slots alone. Rows of one text that stand side by side, as many of each text, share what
        an encoder has read of it.
        """
        if len(rows) == len(self.pos):
            place, slot = self._moved(rows, alike)
            for both in (*self.k, *self.v) if len(place) else ():
                both[place, :, slot] = both[rows[place], :, slot]
        else:
            self.k, self.v = ([self._kept(one, rows) for one in both] for both in (self.k, self.v))
        self.text, self.pos = self.text[rows], self.pos[rows]
        source, count = torch.unique_consecutive(self.text, return_counts=True)
        self._share(source if bool((count == count[0]).all()) else self.text)
        self.segment = None if self.segment is None else self.segment[rows]

    def _moved(self, rows: Tensor, alike: Tensor | None) -> tuple[Tensor, Tensor]:
        """The places and their slots that get something else."""
        slots, places = torch.arange(self.length, device=rows.device), torch.arange(len(rows), device=rows.device)
        first = torch.zeros_like(rows) if alike is None else alike
        moved = (slots >= first[:, None]) & (rows != places)[:, None]  # (B, S)
        place, slot = moved.nonzero(as_tuple=True)
        return place, slot

    def _share(self, source: Tensor) -> None:
        """Keep what was read of these texts (R)."""
        if not torch.equal(source, self.source):
            at = (source[:, None] == self.source).int().argmax(1)
            self.cross = [kv and (kv[0][at], kv[1][at]) for kv in self.cross]
            self.source = source

    def _kept(self, old: Tensor, rows: Tensor) -> Tensor:
        new = old.new_empty(len(rows), *old.shape[1:])
        new[:, :, : self.length] = old[rows, :, : self.length]
        return new


def states(pool: Tensor, slots: Tensor) -> Tensor:
    """The rows `slots` (n) of a pool (S, D), zeros for -1: (n, D)."""
    return pool[slots.clamp(min=0)].masked_fill(slots[:, None] < 0, 0.0)
