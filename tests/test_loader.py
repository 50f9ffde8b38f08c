"""The loader: every row once an epoch, in any number of ranks; resumed anywhere; memory flat."""

import functools
import operator
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from modelwright.data import loader as loading
from modelwright.data import pack, shards
from modelwright.data.documents import Document
from modelwright.data.loader import Loader, shuffled
from modelwright.data.tokenizer import train
from test_shards import KINDS, bert, prose

OBJECTIVES = ["causal", "masked", "span", "denoise"]
TOKENIZERS = {
    "causal": KINDS["gpt"],
    "masked": bert(),
    "span": KINDS["unigram"],
    "denoise": train([prose(2000)], "bpe", 400, objective="denoise"),
}
TEXTS = [prose(10 + 37 * n % 90, n) for n in range(40)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shards")
    stream = [Document(text, str(n)) for n, text in enumerate(TEXTS)]
    written = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BATCH", 1500)
        for name, tokenizer in TOKENIZERS.items():
            target = directory / name
            written[name] = shards.write(stream, tokenizer, target, objective=name, shard_tokens=1500).whole()
    assert len(written["causal"].shards.sizes) > 2
    return written


def make(parts, objective="causal", length=32, **settings):
    packing = pack.packing(objective, TOKENIZERS[objective], length)
    return Loader(parts[objective], packing, **{"batch": 4, "prefetch": 0, **settings})


def tensors(batch):
    found = [batch.tokens, batch.targets, batch.weight, batch.pos, batch.segment]
    return found + ([batch.source.tokens, batch.source.pos, batch.source.segment] if batch.source else [])


def same(one, other):
    return all(map(torch.equal, tensors(one), tensors(other)))


def take(iterator, count):
    return [batch for _, batch in zip(range(count), iterator, strict=False)]


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 17, 1000])
def test_shuffling_is_a_permutation(rows):
    orders = [[shuffled(place, rows, key) for place in range(rows)] for key in range(4)]
    for order in orders:
        assert sorted(order) == list(range(rows))
    if rows >= 16:
        assert len({tuple(order) for order in orders}) == 4


def test_shuffling_is_even():
    """Over 3,000 keys each of 10 rows stands at each of 10 places equally often; neighbours are parted."""
    orders = np.array([[shuffled(place, 10, loading.mixed(key)) for place in range(10)] for key in range(3000)])
    counts = np.array([[(orders[:, place] == row).sum() for row in range(10)] for place in range(10)])
    assert ((counts - 300) ** 2 / 300).sum() < 126.1  # chi-square, 81 degrees, p = 0.001
    followed = (np.diff(orders, axis=1) == 1).mean()  # a fair shuffle: 9 pairs of 90
    assert followed == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 27_000))


def test_shuffling_needs_no_memory():
    assert 0 <= shuffled(10**14, 10**15, 1) < 10**15


# --- rows -----------------------------------------------------------------------------------------


def test_causal_rows_hold_every_token_once_and_in_order(parts):
    tokenizer, length = TOKENIZERS["causal"], 32
    stream = functools.reduce(operator.iadd, ([*tokenizer.encode(text), 0] for text in TEXTS), [])
    loader = make(parts, shuffle=False, epochs=1)
    batches = list(loader)
    real = [batch.segment > 0 for batch in batches]
    tokens = torch.cat([batch.tokens[mask] for batch, mask in zip(batches, real, strict=True)])
    targets = torch.cat([batch.targets[mask] for batch, mask in zip(batches, real, strict=True)])
    weight = torch.cat([batch.weight[mask] for batch, mask in zip(batches, real, strict=True)])
    assert tokens.tolist() == stream[:-1]
    assert targets.tolist() == stream[1:]
    after = np.flatnonzero(np.array(stream) == 0)[:-1]  # end-of-text foretells nothing
    assert (np.flatnonzero(weight.numpy() == 0) == after).all()
    assert loader.rows == -(-(len(stream) - 1) // length) == sum(len(batch.tokens) for batch in batches)


def test_masked_rows_hold_every_token_once_and_in_order(parts):
    tokenizer = TOKENIZERS["masked"]
    words = functools.reduce(operator.iadd, (tokenizer.encode(text) for text in TEXTS), [])
    rows = [row for batch in make(parts, "masked", shuffle=False, epochs=1) for row in
            zip(batch.targets.tolist(), batch.segment.tolist(), strict=True)]  # fmt: skip
    found = []
    for targets, segment in rows:
        for number in range(1, max(segment) + 1):
            piece = [token for token, of in zip(targets, segment, strict=True) if of == number]
            assert (piece[0], piece[-1]) == (2, 3)
            found += piece[1:-1]
    assert found == words


def test_span_rows_hold_every_token_once_and_in_order(parts):
    tokenizer = TOKENIZERS["span"]
    ids = pack.sentinels(tokenizer, 64)
    found = []
    for batch in make(parts, "span", 64, shuffle=False, epochs=1):
        sides = ((batch.source.tokens, batch.source.segment), (batch.targets, batch.segment))
        for source, source_segment, target, segment in zip(*sides[0], *sides[1], strict=True):
            assert source_segment.max() == segment.max()
            for number in range(1, int(segment.max()) + 1):
                pair = source[source_segment == number].numpy(), target[segment == number].numpy()
                found += pack.rebuild(*pair, ids).tolist()
    assert found == functools.reduce(operator.iadd, (tokenizer.encode(text) for text in TEXTS), [])


def test_denoising_rows_hold_every_token_once_and_in_order(parts):
    tokenizer = TOKENIZERS["denoise"]
    batches = list(make(parts, "denoise", shuffle=False, epochs=1))
    found = [token for batch in batches for token in batch.targets[batch.weight > 0].tolist()]
    words = functools.reduce(operator.iadd, (tokenizer.encode(text) for text in TEXTS), [])
    assert [token for token in found if token not in (tokenizer.bos, tokenizer.eos)] == words
    read = torch.cat([batch.source.tokens.flatten() for batch in batches])
    kept = sum(int((read == token).sum()) for token in set(words)) / len(words)
    assert kept == pytest.approx(0.7, abs=0.02)
    assert (read == tokenizer.mask).sum() / len(words) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_shapes_never_change(parts, objective):
    loader = make(parts, objective, 64)
    shapes = {tuple(tensor.shape for tensor in tensors(batch)) for batch in take(loader, 60)}
    assert len(shapes) == 1
    assert loader.state_dict()["epoch"] > 0


# --- epochs and ranks -----------------------------------------------------------------------------


def rows_of(batches):
    return [tuple(row) for batch in batches for row in batch.tokens[batch.segment[:, 0] > 0].tolist()]


def test_each_epoch_has_every_row_once_in_an_order_of_its_own(parts):
    plain = rows_of(make(parts, shuffle=False, epochs=1))
    both = rows_of(make(parts, epochs=2))
    first, second = both[: len(plain)], both[len(plain) :]
    assert sorted(first) == sorted(second) == sorted(plain)
    assert len({tuple(first), tuple(second), tuple(plain)}) == 3
    assert rows_of(make(parts, epochs=1, seed=1)) != first == rows_of(make(parts, epochs=1))


@pytest.mark.parametrize(("world", "batch"), [(2, 4), (3, 5), (5, 7)])
def test_ranks_see_every_row_once(parts, world, batch):
    every = rows_of(make(parts, epochs=2))
    ranks = [list(make(parts, epochs=2, batch=batch, rank=rank, world=world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1  # no rank waits for one that has ended
    assert sorted(functools.reduce(operator.iadd, map(rows_of, ranks), [])) == sorted(every)


def test_a_rank_without_a_row_gets_padding(parts):
    rows = make(parts).rows
    last = [list(make(parts, epochs=1, batch=rows - 1, rank=rank, world=2))[-1] for rank in (0, 1)]
    assert [len(batch.tokens) for batch in last] == [(rows + 1) // 2, rows // 2]
    last = [list(make(parts, epochs=1, batch=rows, rank=rank, world=2 * rows))[-1] for rank in (0, rows)]
    assert [batch.weight.sum() > 0 for batch in last] == [True, False]
    assert last[1].tokens.shape == (1, 32)


def test_ranks_may_change_on_the_way(parts):
    """2 -> 1 -> 3 ranks: the rows of the epoch are still seen once each."""
    every, seen, state = rows_of(make(parts, epochs=1)), [], {"epoch": 0, "row": 0}
    for world, steps in ((2, 3), (1, 4), (3, 10**6)):
        ranks = [make(parts, epochs=1, world=world, rank=rank) for rank in range(world)]
        states = []
        for loader in ranks:
            loader.load_state_dict(state)
            batches = iter(loader)
            seen += rows_of(take(batches, steps))
            states.append(loader.state_dict())
        assert all(found == states[0] for found in states)
        state = states[0]
    assert sorted(seen) == sorted(every)


# --- resumption -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resumed_is_uninterrupted(parts, objective, prefetch):
    def fresh():
        return make(parts, objective, 64, batch=3, prefetch=prefetch, seed=7)

    loader, states, batches = fresh(), [fresh().state_dict()], []
    stream = iter(loader)
    per_epoch = loader.rows / 3
    for _ in range(int(2.5 * per_epoch)):
        batches.append(next(stream))
        states.append(loader.state_dict())
    stream.close()
    assert states[0] == {"epoch": 0, "row": 0}
    assert states[1] == {"epoch": 0, "row": 3}
    edge = int(per_epoch)
    for cut in {0, 1, 2, edge - 1, edge, edge + 1, 2 * edge, len(batches) - 2, len(batches) - 4}:
        resumed = fresh()
        resumed.load_state_dict(states[cut])
        assert resumed.state_dict() == states[cut]
        stream = iter(resumed)
        for at in range(cut, min(cut + 3, len(batches))):
            assert same(next(stream), batches[at])
            assert resumed.state_dict() == states[at + 1]
        stream.close()


def test_an_epoch_edge_that_a_batch_meets_exactly(parts):
    rows = make(parts).rows
    loader = make(parts, batch=rows)
    stream = iter(loader)
    next(stream)
    assert loader.state_dict() == {"epoch": 1, "row": 0}
    second = next(stream)
    resumed = make(parts, batch=rows)
    resumed.load_state_dict({"epoch": 1, "row": 0})
    assert same(next(iter(resumed)), second)


def test_masks_differ_by_epoch_but_not_by_neighbours(parts):
    one = make(parts, "masked", shuffle=False, batch=1)
    rows = one.rows
    batches = take(iter(one), rows + 1)
    assert torch.equal(batches[0].targets, batches[rows].targets)
    assert not torch.equal(batches[0].weight, batches[rows].weight)
    five = next(iter(make(parts, "masked", shuffle=False, batch=5)))
    assert torch.equal(five.tokens, torch.cat([batch.tokens for batch in batches[:5]]))


def test_a_finite_loader_can_be_gone_through_again(parts):
    loader = make(parts, "masked", epochs=1, prefetch=2)
    first, second = list(loader), list(loader)
    assert len(first) == len(second) > 1
    assert all(map(same, first, second))


def test_a_state_of_other_data_is_refused(parts):
    with pytest.raises(ValueError, match="row 100000 of epoch 0 is not a place among"):
        make(parts).load_state_dict({"epoch": 0, "row": 100_000})


@pytest.mark.parametrize(
    ("settings", "words"), [({"rank": 2, "world": 2}, "rank 2"), ({"batch": 0}, "at least one row")]
)
def test_settings_that_cannot_be(parts, settings, words):
    with pytest.raises(ValueError, match=words):
        make(parts, **settings)


def test_too_little_text_is_said(tmp_path):
    part = shards.Part(make_single(tmp_path), [shards.Run(0, 0, 1)])
    with pytest.raises(ValueError, match="1 tokens are too few"):
        Loader(part, pack.packing("causal", TOKENIZERS["causal"], 8), batch=1)


def make_single(tmp_path):
    return shards.write([Document("the red order", "0")], TOKENIZERS["causal"], tmp_path / "s")


# --- the thread -----------------------------------------------------------------------------------


def test_the_thread_makes_no_more_than_asked_and_ends(parts):
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    stream = loading.ahead(items(), 3)
    assert next(stream) == 0
    stream.close()  # waits for the thread
    assert len(made) <= 6


def test_an_error_in_the_thread_is_raised(parts):
    def items():
        yield 1
        raise ValueError("a bad shard")

    stream = loading.ahead(items(), 2)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="a bad shard"):
        next(stream)


def test_prefetching_changes_nothing(parts):
    assert all(map(same, make(parts, epochs=1, prefetch=3), make(parts, epochs=1)))


@pytest.mark.slow
def test_memory_is_flat_however_large_the_file(tmp_path):
    """Reading shuffled rows all over 80 MB of tokens takes less than 8 MB."""
    script = """
        import json, sys
        from pathlib import Path
        import numpy as np
        from modelwright.data import pack, shards
        from modelwright.data.loader import Loader
        from test_loader import TOKENIZERS
        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
        directory, size = Path(sys.argv[1]), 40_000_000
        directory.mkdir()
        with (directory / "tokens-00000.bin").open("wb") as file:
            for _ in range(40):
                file.write(np.random.default_rng(0).integers(0, 300, size // 40, "<u2").tobytes())
        starts = np.arange(0, size, 1000)
        np.array([starts, starts * 4]).astype("<i8").tofile(directory / "documents-00000.bin")
        index = {"dtype": "<u2", "vocab": 300,
                 "shards": [{"tokens": size, "documents": len(starts), "bytes": 4 * size}]}
        part = shards.Shards(directory, index).whole()
        loader = Loader(part, pack.packing("causal", TOKENIZERS["causal"], 512), batch=64)
        stream = iter(loader)
        next(stream)
        before, most = resident(), 0
        for step in range(loader.rows // 64 // 8):
            assert next(stream).tokens.shape == (64, 512)
            most = max(most, resident())
        print(max(most, resident()) - before)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "s")]
    grown = subprocess.run(command, capture_output=True, env=env, text=True)
    assert grown.returncode == 0, grown.stderr
    assert float(grown.stdout) < 8
