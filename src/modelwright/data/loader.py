"""Token shards -> batches, in an order shuffled anew each epoch, resumed at once from a dict of two numbers.

Nothing is kept of the order: the row at any place of any epoch is worked out (a keyed permutation), and so is
the chance that masks it (seeded by seed, epoch and row). So a loader set back to {epoch, row} goes on exactly
as it would have.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from queue import Full, Queue
from typing import NamedTuple, TypeVar

import numpy as np

from modelwright.data.pack import Batch, Packing, Row, collate
from modelwright.data.shards import Part

ROUNDS = 6
_MASK = (1 << 64) - 1
Item = TypeVar("Item")


def shuffled(place: int, rows: int, key: int) -> int:
    """Which row stands at `place` when `rows` rows are shuffled by `key`: a permutation in constant memory.

    A Feistel network (Luby and Rackoff 1988) permutes the next larger even power of two; a result outside is
    sent through again until it falls inside (cycle walking, Black and Rogaway 2002).
    """
    half = max((rows - 1).bit_length() + 1, 2) // 2
    low = (1 << half) - 1
    while True:
        left, right = place >> half, place & low
        for turn in range(ROUNDS):
            left, right = right, left ^ (mixed(right ^ mixed(key + turn)) & low)
        place = left << half | right
        if place < rows:
            return place


def mixed(x: int) -> int:
    """Scatters 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31


class Places:
    """Where a stream of batches stands, as a small dict: the order of an epoch is worked out, not kept."""

    data = "data"  # what the rows are made of, for the fault
    rows: int
    place: int  # rows handed out since the beginning, to all ranks

    def state_dict(self) -> dict[str, int]:
        """Where the batch after the last one handed out begins."""
        epoch, row = divmod(self.place, self.rows)
        return {"epoch": epoch, "row": row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to where `state` was taken. Raises ValueError where these rows have no such place."""
        if not 0 <= state["row"] < self.rows or state["epoch"] < 0:
            where = f"row {state['row']} of epoch {state['epoch']} is not a place among {self.rows} rows"
            raise ValueError(f"{where}: the {self.data} are not those of the saved run")
        self.place = state["epoch"] * self.rows + state["row"]


class Loader(Places):
    """Batches of `batch` rows from a part of some shards, without end or for a number of epochs.

    With several ranks, `batch * world` rows at a time are dealt out in turn, so the ranks together see every
    row once an epoch, whatever their number; a batch may reach over into the next epoch. At the end of the
    last epoch the last batch may be smaller, and a rank left without a row gets one of padding, of weight 0;
    then the loader stands at its beginning again.
    """

    def __init__(
        self,
        part: Part,
        packing: Packing,
        *,
        batch: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        epochs: int | None = None,
        prefetch: int = 2,
    ) -> None:
        """`prefetch` batches are made ahead by a thread of its own; 0 makes each when it is asked for."""
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} ranks")
        if batch < 1:
            raise ValueError(f"a batch needs at least one row, not {batch}")
        self.part, self.packing, self.batch, self.seed, self.shuffle = part, packing, batch, seed, shuffle
        self.rank, self.world, self.epochs, self.prefetch = rank, world, epochs, prefetch
        self.starts = packing.starts(part.starts(), part.tokens) if part.tokens else range(0)
        self.rows = len(self.starts)
        """Rows in an epoch, of all ranks together."""
        if not self.rows:
            raise ValueError(f"{part.tokens} tokens are too few to make a row of")
        self.place = 0

    def __iter__(self) -> Iterator[Batch]:
        made = self._make(self.place)
        for batch, place in ahead(made, self.prefetch) if self.prefetch else made:
            self.place = place
            yield batch
        self.place = 0

    def _make(self, place: int) -> Iterator[tuple[Batch, int]]:
        """Batches, each with the place after it."""
        for start in count(place, self.batch * self.world):
            stop = start + self.batch * self.world
            if self.epochs is not None:
                stop = min(stop, self.epochs * self.rows)
            if start >= stop:
                return
            rows = [self._row(at) for at in range(start + self.rank, stop, self.world)]
            yield collate(rows or [self._nothing()], self.packing), stop

    def _row(self, place: int) -> Row:
        epoch, at = divmod(place, self.rows)
        row = shuffled(at, self.rows, mixed(mixed(self.seed) + epoch)) if self.shuffle else at
        start = int(self.starts[row])
        stop = int(self.starts[row + 1]) if row + 1 < self.rows else self.part.tokens
        window, first = self.part.read(start, min(stop + self.packing.overlap, self.part.tokens))
        return self.packing.row(window, first, np.random.default_rng([self.seed, epoch, row]))

    def _nothing(self) -> Row:
        window, first = self.part.read(0, 0)
        return self.packing.row(window, first, np.random.default_rng(0))


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items, made by a thread up to `depth` before they are asked for; an error in making them is
    raised here.
    """
    ready: Queue[Item | _End] = Queue(depth)
    stop = threading.Event()

    def put(item: Item | _End) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except Full:
                continue  # looks again whether anyone still listens

    def make() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
            put(_End(None))
        except Exception as error:
            put(_End(error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()


class _End(NamedTuple):
    error: Exception | None
