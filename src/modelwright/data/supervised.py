"""Examples -> batches: rows of several examples each, none of which sees another.

Letters: B batch, T tokens of a row, S of a source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from modelwright.data.loader import Places, mixed, shuffled
from modelwright.data.pack import Batch, Ints, Row, collate

STEP = 64  # tokens


@dataclass(frozen=True)
class Widths:
    """What a batch is padded to, and with what."""

    length: int  # T
    source: int  # S, or 0
    pad: int

    def fitted(self, rows: Sequence[Row]) -> Widths:
        """What these rows need of them, in steps of `STEP`: not every batch is of another size."""
        longest, read = (max(each) for each in zip(*map(sizes, rows), strict=True))
        return replace(
            self, length=min(self.length, -(-longest // STEP) * STEP), source=min(self.source, -(-read // STEP) * STEP)
        )


def join(rows: Sequence[Row]) -> Row:
    """Examples side by side in one row, each a segment of its own; sources and pairs likewise, by the same numbers.

    Raises ValueError where there is no row, or only some of them have a source, or pairs, or types.
    """
    if len({(row.source is None, row.pairs is None, row.types is None) for row in rows}) != 1:
        raise ValueError("rows are joined where there are some, and all or none of them have a source, pairs or types")
    tokens, targets, weight, pos, segment, sources, compared, types = zip(*rows, strict=True)
    before = np.cumsum([0, *[int(one.max(initial=0)) for one in segment[:-1]]])

    def counted_on(numbers: Sequence[Ints]) -> Ints:
        return np.concatenate([each + shift for each, shift in zip(numbers, before, strict=True)])

    source = pairs = None
    if sources[0] is not None:
        words, places, parts = zip(*sources, strict=True)
        source = np.concatenate(words), np.concatenate(places), counted_on(parts)
    if compared[0] is not None:
        segments, counts = zip(*compared, strict=True)
        pairs = counted_on(segments), np.concatenate(counts)
    joined = (np.concatenate(tokens), np.concatenate(targets), np.concatenate(weight), np.concatenate(pos))
    return Row(*joined, counted_on(segment), source, pairs, None if types[0] is None else np.concatenate(types))


def pack(rows: Sequence[Row], order: Iterable[int], length: int, source: int) -> list[list[int]]:
    """Which examples share a row of at most `length` tokens, and `source` of source: next-fit, in this order."""
    packed: list[list[int]] = []
    room = (-1, -1)
    for at in order:
        taken = sizes(rows[at])
        if taken[0] > room[0] or taken[1] > room[1]:
            packed.append([])
            room = (length, source)
        packed[-1].append(at)
        room = (room[0] - taken[0], room[1] - taken[1])
    return packed


def sizes(row: Row) -> tuple[int, int]:
    """Tokens of a row, and of its source."""
    return len(row.tokens), 0 if row.source is None else len(row.source[0])


class Examples(Places):
    """Batches of `batch` rows of at most `length` tokens, without end or for a number of epochs.

    The examples are shuffled and packed once; each epoch takes the rows in an order of its own, worked out from the
    seed, so that a loader set back to {epoch, row} goes on exactly as it would have. A batch may reach over into the
    next epoch; the last of all may be smaller, and then the loader stands at its beginning again.
    """

    data = "examples"

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        length: int,
        batch: int,
        seed: int,
        shuffle: bool = True,
        epochs: int | None = None,
        source: int = 0,
        pad: int = 0,
        names: Sequence[str] | None = None,
    ) -> None:
        """`source`: tokens of a row's source, for an encoder-decoder. `names`: what to call the examples in faults.

        Raises ValueError, naming them, for examples without a token that carries loss or longer than a row.
        """
        if batch < 1:
            raise ValueError(f"a batch needs at least one row, not {batch}")
        _check(rows, length, source, names or [f"example {at}" for at in range(len(rows))])
        self.examples, self.batch, self.seed, self.shuffle, self.epochs = rows, batch, seed, shuffle, epochs
        self.widths = Widths(length, source, pad)
        order = [shuffled(at, len(rows), mixed(mixed(seed) - 1)) if shuffle else at for at in range(len(rows))]
        self.packed = pack(rows, order, length, source)
        self.rows = len(self.packed)
        """Rows in an epoch."""
        self.place = 0

    def __iter__(self) -> Iterator[Batch]:
        for start in count(self.place, self.batch):
            stop = start + self.batch
            if self.epochs is not None:
                stop = min(stop, self.epochs * self.rows)
            if start >= stop:
                break
            rows = [self._row(at) for at in range(start, stop)]
            made = collate(rows, self.widths.fitted(rows))
            self.place = stop
            yield made
        self.place = 0

    def _row(self, place: int) -> Row:
        epoch, at = divmod(place, self.rows)
        row = shuffled(at, self.rows, mixed(mixed(self.seed) + epoch)) if self.shuffle else at
        return join([self.examples[i] for i in self.packed[row]])


def _check(rows: Sequence[Row], length: int, source: int, names: Sequence[str]) -> None:
    if not rows:
        raise ValueError("there is no example to train on")
    for row, name in zip(rows, names, strict=True):
        tokens, inputs = sizes(row)
        if tokens > length:
            raise ValueError(f"{name} has {tokens} tokens, and a row has {length}: make rows longer")
        if inputs > source:
            raise ValueError(f"the source of {name} has {inputs} tokens, and a row's has {source}: make sources longer")
    if silent := [name for row, name in zip(rows, names, strict=True) if not row.weight.any()]:
        more = f" and {len(silent) - 5} more" if len(silent) > 5 else ""
        raise ValueError(f"no token of {', '.join(silent[:5])}{more} carries loss: nothing is learned from them")
