"""Keys and values of many texts, each with its own beginning and end, and a forward over parts of them all.

Letters: N new tokens of all texts together, n texts, S slots, K key/value heads, D head width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from modelwright.model.attend import FORBIDDEN
from modelwright.model.cache import Pair, Shape, kept

ALONE = 400_000  # bytes of keys and values that are read in the time that a call for one text more costs

Lists = tuple[list[Tensor], list[Tensor]]  # keys and values that are read together, each (B, K, S, D)


@dataclass(frozen=True)
class Part:
    """A text's share of a forward: its tokens [start, end), of which all lie in `blocks`; and where its source sits."""

    start: int
    end: int
    blocks: Sequence[int]
    seat: int = 0


class Place(NamedTuple):
    """What a text reads: `new` rows from `row` on, of which the first is its token `first`, read `end` slots, those at
    `at`; and the lane that these make."""

    row: int
    first: int
    new: int
    end: int
    at: slice | Tensor
    lane: int | None


@dataclass(frozen=True)
class Grid:
    """Texts of one new token each, read as one batch: the step's rows `rows` stand in `lanes` of `count` lanes."""

    rows: Tensor  # (n)
    lanes: Tensor  # (n)
    first: int  # the lane of the store that the batch begins with
    ends: (
        Tensor  # (count): slots that are a text's own; where a lane has no text, one, and what comes of it is not read
    )
    length: int  # the most of them

    @property
    def count(self) -> int:
        return len(self.ends)

    def beyond(self, window: int | None = None) -> Tensor:
        """(count, 1, 1, length): what to add to the scores, so that no text sees a slot that is not its own, or that is
        further back than a window."""
        count, ends = torch.arange(self.length, device=self.ends.device), self.ends[:, None]
        seen = count < ends if window is None else (count < ends) & (count >= ends - window)
        return torch.where(seen, 0.0, FORBIDDEN)[:, None, None]


class Store(Protocol):
    """Keys and values by layer, each pool with room for many texts."""

    k: list[Tensor]
    v: list[Tensor]

    @property
    def slot(self) -> int: ...  # bytes of keys and values that a layer keeps of a token
    def text(self, pool: Tensor, place: Place) -> Tensor: ...  # (1, K, S, D)
    def batch(self, pool: Tensor, grid: Grid) -> Tensor: ...  # (count, K, length, D)


class Pages:
    """Room for `blocks` times `size` tokens, handed out in blocks (Kwon et al. 2023).

    All slots of a head lie one after the other, so a text whose blocks follow each other is read as it lies; and texts
    that begin at multiples of `lane` blocks lie at even distances, so that they are read as one batch, as they lie.
    """

    def __init__(
        self, cfg: Shape, blocks: int, size: int, lane: int, dtype: torch.dtype, device: torch.device | None = None
    ):
        shape = (cfg.kv_heads, blocks * size, cfg.head)  # zeros, since what lies beside a text must be finite
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]  # (K, S, D)
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]
        self.count = torch.arange(blocks * size, device=device)  # 0, 1, 2, ...
        self.size, self.lane, self.device = size, lane, device

    @property
    def slot(self) -> int:
        K, _, D = self.k[0].shape
        return 2 * K * D * self.k[0].element_size()

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Blocks (from, to); all are read before any is written."""
        source, to = (torch.tensor(blocks, device=self.device) for blocks in zip(*pairs, strict=True))
        for pool in (*self.k, *self.v):
            blocks = pool.view(pool.size(0), -1, self.size, pool.size(2))  # (K, blocks, size, D)
            blocks[:, to] = blocks[:, source]

    def place(self, part: Part, row: int) -> Place:
        """Where a text's tokens lie, all that are read by the end of the step."""
        blocks, new = part.blocks, part.end - part.start
        if list(blocks) == list(range(blocks[0], blocks[0] + len(blocks))):
            lane = blocks[0] // self.lane if self._begins(blocks) else None
            start = blocks[0] * self.size
            return Place(row, part.start, new, part.end, slice(start, start + part.end), lane)
        starts = torch.tensor(blocks, device=self.device)[:, None] * self.size
        slots = (starts + self.count[: self.size]).flatten()[: part.end]
        return Place(row, part.start, new, part.end, slots, None)

    def _begins(self, blocks: Sequence[int]) -> bool:
        """Whether a text begins with a lane, stays in it, and all of the lane is there."""
        return blocks[0] % self.lane == 0 and len(blocks) <= self.lane <= len(self.count) // self.size - blocks[0]

    def text(self, pool: Tensor, place: Place) -> Tensor:
        return pool[None, :, place.at]

    def batch(self, pool: Tensor, grid: Grid) -> Tensor:
        K, S, D = pool.shape
        step = self.lane * self.size * D
        return pool.as_strided((grid.count, K, grid.length, D), (step, S * D, D, 1), grid.first * step)


class Sources:
    """What a decoder's layers read of each text's source: a seat for each text, all as long as the longest needs."""

    def __init__(self, cfg: Shape, dtype: torch.dtype, device: torch.device | None = None):
        shape = (0, cfg.kv_heads, 0, cfg.head)
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]  # (seats, K, S, D)
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(cfg.layers)]
        self.lengths: list[int] = []
        self.free: list[int] = []

    @property
    def slot(self) -> int:
        _, K, _, D = self.k[0].shape
        return 2 * K * D * self.k[0].element_size()

    def sit(self, pairs: Sequence[Pair]) -> int:
        """A seat for a source, whose keys and values are, by layer, (1, K, S, D) each."""
        length = pairs[0][0].size(2)
        seat = min(self.free, default=len(self.lengths))  # those in use stay close together
        self._grow(seat + 1, length)
        if seat == len(self.lengths):
            self.lengths.append(length)
        else:
            self.free.remove(seat)
            self.lengths[seat] = length
        for layer, (k, v) in enumerate(pairs):
            self.k[layer][seat, :, :length], self.v[layer][seat, :, :length] = k[0], v[0]
        return seat

    def copy(self, seat: int) -> int:
        """One more seat for the same source."""
        length = self.lengths[seat]
        pools = zip(self.k, self.v, strict=True)
        return self.sit([(k[seat, None, :, :length], v[seat, None, :, :length]) for k, v in pools])

    def leave(self, seat: int) -> None:
        self.free.append(seat)

    def _grow(self, seats: int, length: int) -> None:
        n, K, S, D = self.k[0].shape
        if seats <= n and length <= S:
            return
        shape = (n if seats <= n else 2 * seats, K, S if length <= S else -(-length // 64) * 64, D)
        for pools in (self.k, self.v):
            for layer, old in enumerate(pools):
                pools[layer] = old.new_zeros(shape)
                pools[layer][:n, :, :S] = old

    def place(self, part: Part, row: int) -> Place:
        length = self.lengths[part.seat]
        return Place(row, part.start, part.end - part.start, length, slice(0, length), part.seat)

    def text(self, pool: Tensor, place: Place) -> Tensor:
        assert place.lane is not None
        return pool[place.lane, None, :, place.at]

    def batch(self, pool: Tensor, grid: Grid) -> Tensor:
        return pool[grid.first : grid.first + grid.count, :, : grid.length]


class Reading:
    """Who reads what of a store: texts of one new token as a batch, where that wastes little; the others each alone."""

    def __init__(self, store: Store, places: Sequence[Place], device: torch.device | None = None):
        self.store, self.alone = store, list(places)
        self.count = torch.arange(max(place.end for place in places), device=device)  # 0, 1, 2, ...
        some = [place for place in places if place.new == 1 and place.lane is not None]
        self.grid = _grid(some, device) if len(some) > 1 else None
        if self.grid is not None:
            vain = self.grid.count * self.grid.length - sum(place.end for place in some)
            if vain * store.slot > len(some) * ALONE:
                self.grid = None
            else:
                self.alone = [place for place in places if place.new > 1 or place.lane is None]

    def views(self, layer: int) -> Lists:
        """Keys and values as they lie: of the batch, if there is one, and then of each text that reads alone."""
        return self._of(self.store.k[layer]), self._of(self.store.v[layer])

    def _of(self, pool: Tensor) -> list[Tensor]:
        batch = [] if self.grid is None else [self.store.batch(pool, self.grid)]
        return batch + [self.store.text(pool, place) for place in self.alone]


def _grid(places: Sequence[Place], device: torch.device | None) -> Grid:
    lanes = [place.lane or 0 for place in places]
    first = min(lanes)
    ends = [1] * (max(lanes) - first + 1)
    for lane, place in zip(lanes, places, strict=True):
        ends[lane - first] = place.end
    rows, at, of = (torch.tensor(x, device=device) for x in ([p.row for p in places], [x - first for x in lanes], ends))
    return Grid(rows, at, first, of, max(ends))


def rounded(rows: int) -> int:
    """The next size that a step comes in: a product keeps what it prepared for each size that it meets."""
    grain = 1 if rows <= 16 else 8 if rows <= 64 else 32
    return -(-rows // grain) * grain


class Step:
    """A forward over parts of many texts, whose new tokens stand one after the other in a single row, and behind them
    some that are nobody's: N in all."""

    def __init__(self, pages: Pages, parts: Sequence[Part], sources: Sources | None = None):
        self.pages, self.parts = pages, parts
        rows = [0, *itertools.accumulate(part.end - part.start for part in parts)]
        self.rows = rows[-1]
        self.spare = rounded(self.rows) - self.rows
        places = [pages.place(part, row) for part, row in zip(parts, rows, strict=False)]
        self.own = Reading(pages, places, pages.device)
        pos = [pages.count[part.start : part.end] for part in parts]
        self.pos = torch.cat([*pos, pages.count.new_zeros(self.spare)])[None]  # (1, N)
        slots = zip(parts, places, strict=True)
        self.new = torch.cat([pages.count[place.at][part.start :] for part, place in slots])  # (rows)
        self.cross: Reading | None = None
        if sources is not None:
            read = [sources.place(part, row) for part, row in zip(parts, rows, strict=False)]
            self.cross = Reading(sources, read, pages.device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> Lists:
        """Write k, v (1, K, N, D) where the new tokens lie; answer all that the texts read."""
        self.write(layer, k, v)
        return self.own.views(layer)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        for pool, fresh in ((self.pages.k[layer], k), (self.pages.v[layer], v)):
            pool.index_copy_(1, self.new, fresh[0, :, : self.rows].to(pool.dtype))

    @property
    def first(self) -> Tensor:
        """Where in the row each text's new tokens begin, (n)."""
        lengths = [part.end - part.start for part in self.parts]
        return torch.tensor([0, *itertools.accumulate(lengths[:-1])], device=self.pages.device)

    @property
    def last(self) -> Tensor:
        """The slot of the token before each text's new ones, (n); -1 where there is none."""
        size, before = self.pages.size, [(part.blocks, part.start - 1) for part in self.parts]
        slots = [-1 if at < 0 else blocks[at // size] * size + at % size for blocks, at in before]
        return torch.tensor(slots, device=self.pages.device)

    def before(self, layer: int, slots: Tensor) -> Pair:
        """What an LSTM kept in slots (n), zeros for -1: (n, D) each."""
        return kept(self.pages.k[layer].flatten(0, 1), slots), kept(self.pages.v[layer].flatten(0, 1), slots)
