"""Rows of several examples: nothing lost, nothing mixed, resumed as if never stopped."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.pack import Row
from modelwright.data.supervised import Examples, join
from modelwright.losses.language import language_model
from modelwright.model.transformer import Config, Rope, Transformer


def ints(values):
    return np.array(values, np.int64)


def example(tokens, answer, source=None):
    """A document of these tokens whose last `answer` targets carry loss."""
    n = len(tokens)
    weight = np.zeros(n, np.float32)
    weight[n - answer :] = 1
    read = None if source is None else (ints(source), np.arange(len(source)), np.ones(len(source), np.int64))
    return Row(ints(tokens), ints([*tokens[1:], 2]), weight, np.arange(n), np.ones(n, np.int64), read)


def drawn(sizes, rng=None, sources=None):
    """Examples of these sizes, each of tokens of its own."""
    rng = rng or np.random.default_rng(0)
    read = sources or [None] * len(sizes)
    return [
        example(rng.integers(3, 50, size).tolist(), max(size // 2, 1), s and rng.integers(3, 50, s).tolist())
        for size, s in zip(sizes, read, strict=True)
    ]


def test_joined_by_hand():
    row = join([example([5, 6, 7], 1, [8]), example([9, 10], 2, [11, 12])])
    assert row.tokens.tolist() == [5, 6, 7, 9, 10]
    assert row.targets.tolist() == [6, 7, 2, 10, 2]
    assert row.weight.tolist() == [0, 0, 1, 1, 1]
    assert row.pos.tolist() == [0, 1, 2, 0, 1]
    assert row.segment.tolist() == [1, 1, 1, 2, 2]
    assert row.source is not None
    assert [part.tolist() for part in row.source] == [[8, 11, 12], [0, 0, 1], [1, 2, 2]]
    again = join([row, example([3], 1, [4])])  # rows that are joined already count on
    assert again.segment.tolist() == [1, 1, 1, 2, 2, 3]
    paired = [
        part._replace(pairs=(ints([pair]), np.float32([0.5])))
        for part, pair in ((row, [2, 1]), (example([3], 1, [4]), [1, 1]))
    ]
    numbers, counts = join(paired).pairs
    assert (numbers.tolist(), counts.tolist()) == ([[2, 1], [3, 3]], [0.5, 0.5])
    nothing = join([example([5], 1, []), example([6], 1, [8])])  # a source of nothing has its number all the same
    assert nothing.source[2].tolist() == [2]
    told = join([part._replace(types=ints([0, 1] * 3)[: len(part.tokens)]) for part in (row, example([3], 1, [4]))])
    assert told.types.tolist() == [0, 1, 0, 1, 0, 0]
    with pytest.raises(ValueError, match="all or none"):
        join([told, row])
    with pytest.raises(ValueError, match="all or none"):
        join([paired[0], row])
    with pytest.raises(ValueError, match="all or none"):
        join([example([5], 1), example([5], 1, [8])])


def documents(batches):
    """Every document of these batches as (tokens, targets, weight), and its source's tokens."""
    found = []
    for batch in batches:
        for b in range(len(batch.tokens)):
            for number in range(1, int(batch.segment[b].max()) + 1):
                here = batch.segment[b] == number
                assert batch.pos[b][here].tolist() == list(range(int(here.sum())))
                parts = [tuple(t[b][here].tolist()) for t in (batch.tokens, batch.targets, batch.weight)]
                if batch.source is not None:
                    parts.append(tuple(batch.source.tokens[b][batch.source.segment[b] == number].tolist()))
                found.append(tuple(parts))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=30),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_every_example_once_an_epoch_and_whole(sizes, batch, shuffle, read):
    rows = drawn([size for size, _ in sizes], sources=[s for _, s in sizes] if read else None)
    loader = Examples(rows, length=16, batch=batch, seed=3, shuffle=shuffle, epochs=2, source=10 if read else 0)
    batches = list(loader)
    expected = [
        (*[tuple(part.tolist()) for part in row[:3]], *([tuple(row.source[0].tolist())] if row.source else []))
        for row in rows
    ]
    assert Counter(documents(batches)) == Counter(expected * 2)
    assert all(b.tokens.shape[1] == 16 for b in batches)
    assert sum(len(b.tokens) for b in batches) == 2 * loader.rows
    if not shuffle:
        assert documents(batches) == expected * 2


def test_orders_differ_by_epoch_and_seed():
    rows = drawn([4] * 40)
    epochs = list(Examples(rows, length=8, batch=20, seed=0, epochs=2))
    assert documents(epochs[:1]) != documents(epochs[1:])
    assert documents(Examples(rows, length=8, batch=20, seed=1, epochs=1)) != documents(epochs[:1])
    assert documents(Examples(rows, length=8, batch=20, seed=0, epochs=1)) == documents(epochs[:1])
    assert documents(epochs[:1]) != [tuple(tuple(p.tolist()) for p in row[:3]) for row in rows]


def test_rows_are_filled_as_far_as_the_next_fits():
    loader = Examples(drawn([3, 4, 2, 5, 1]), length=8, batch=1, seed=0, shuffle=False, epochs=1)
    assert loader.packed == [[0, 1], [2, 3, 4]]
    both = Examples(drawn([1, 1, 1], sources=[4, 4, 4]), length=8, batch=1, seed=0, shuffle=False, epochs=1, source=8)
    assert both.packed == [[0, 1], [2]]  # the sources fill the row first


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 25))
def test_resumed_is_uninterrupted(batch, cut):
    rows = drawn([3, 5, 2, 7, 4, 6, 1, 3])

    def loader():
        return Examples(rows, length=8, batch=batch, seed=5)

    whole = documents(islice(loader(), cut + 10))
    first = loader()
    before = documents(islice(first, cut))
    state = first.state_dict()
    assert set(state) == {"epoch", "row"}
    second = loader()
    second.load_state_dict(state)
    assert before + documents(islice(second, 10)) == whole


def test_a_finished_loader_stands_at_its_beginning():
    loader = Examples(drawn([3, 5, 2, 7]), length=8, batch=2, seed=5, epochs=1)
    assert documents(loader) == documents(loader)
    assert loader.state_dict() == {"epoch": 0, "row": 0}
    with pytest.raises(ValueError, match=r"row 99 of epoch 0 is not a place among \d rows"):
        loader.load_state_dict({"epoch": 0, "row": 99})


@pytest.mark.parametrize(
    ("rows", "source", "fault"),
    [
        (drawn([3, 9]), 0, "d:2 has 9 tokens, and a row has 8: make rows longer"),
        (drawn([3, 3], sources=[2, 5]), 4, "the source of d:2 has 5 tokens, and a row's has 4: make sources longer"),
        ([example([5, 6], 1), example([5, 6, 7], 0)._replace(weight=np.zeros(3, np.float32))], 0,
         "no token of d:2 carries loss"),
    ],
)  # fmt: skip
def test_faults_name_the_example(rows, source, fault):
    with pytest.raises(ValueError, match=fault):
        Examples(rows, length=8, batch=1, seed=0, source=source, names=["d:1", "d:2"])


def test_no_examples():
    with pytest.raises(ValueError, match="there is no example to train on"):
        Examples([], length=8, batch=1, seed=0)


def tiny(encoder):
    """A model whose every weight is drawn from a seed, so that each place of a row tells in the loss."""
    shape = {"vocab": 50, "width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head": 8, "ffn": 24, "context": 32}
    tower = Config(**shape, causal=False, rope=Rope()) if encoder else None
    model, generator = Transformer(Config(**shape, rope=Rope(), encoder=tower)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.mark.parametrize("encoder", [False, True])
def test_packed_is_apart_in_loss(encoder):
    rows = drawn([3, 5, 2, 6, 4], sources=[4, 2, 5, 3, 1] if encoder else None)
    model, source = tiny(encoder), 6 if encoder else 0

    def loss(length, room, some):
        total = [0.0, 0.0]
        with torch.no_grad():
            for batch in Examples(some, length=length, batch=2, seed=0, epochs=1, source=room):
                terms, _ = language_model(model, batch)
                total[0] += float(terms["loss"][0])
                total[1] += float(terms["loss"][1])
        return total

    packed = loss(20, 20 if encoder else 0, rows)
    apart = [loss(6, source, [row]) for row in rows]
    assert packed[0] == pytest.approx(sum(total for total, _ in apart), rel=1e-5)
    assert packed[1] == sum(weight for _, weight in apart) == sum(float(row.weight.sum()) for row in rows)


@pytest.mark.parametrize(("size", "wide"), [(300, 320), (390, 400)])
def test_a_batch_is_as_wide_as_its_longest_row_needs(size, wide):
    """In steps of 64, and never wider than is planned."""
    rows = drawn([size, 150], sources=[70, 120])
    (made,) = Examples(rows, length=400, source=150, batch=2, seed=0, shuffle=False, epochs=1)
    assert (made.tokens.shape, made.source.tokens.shape) == ((2, wide), (2, 128))
    assert made.tokens[0, :size].tolist() == rows[0].tokens.tolist()
