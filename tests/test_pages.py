"""Where texts lie in the cache: side by side, in lanes, or anywhere."""

import pytest
import torch

from modelwright.model.attend import Apart, Mask, attend
from modelwright.model.pages import Pages, Part, Reading, Sources, Step
from modelwright.model.transformer import Config

CFG = Config(vocab=9, width=8, layers=1, heads=2, kv_heads=2, head=4, ffn=8, context=64)


def pages(lane: int = 2, blocks: int = 12) -> Pages:
    made = Pages(CFG, blocks, 4, lane, torch.float32)
    for pool in (*made.k, *made.v):
        pool.normal_(generator=torch.Generator().manual_seed(len(pool)))
    return made


def test_only_blocks_that_follow_each_other_are_read_as_they_lie():
    made = pages()
    place = made.place(Part(5, 6, [2, 3]), 0)
    assert (place.at, place.lane) == (slice(8, 14), 1)
    # the first and the last are as far apart as if they did
    assert made.place(Part(14, 15, [1, 2, 0, 4]), 0).at.tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 16, 17, 18]
    assert made.place(Part(5, 6, [1, 2]), 0).lane is None  # it begins in the middle of one
    assert made.place(Part(9, 10, [4, 5, 6]), 0).lane is None  # it is longer than one
    assert pages(lane=5).place(Part(5, 6, [10, 11]), 0).lane is None  # the cache ends before the lane does


def test_a_batch_is_made_only_where_it_reads_little_in_vain():
    made = pages(lane=1)
    close = Step(made, [Part(2, 3, [1]), Part(1, 2, [3]), Part(0, 3, [5])])
    assert close.own.grid is not None
    assert close.own.grid.ends.tolist() == [3, 1, 2]  # an empty lane in the middle
    assert [place.row for place in close.own.alone] == [2]
    far = Pages(CFG, 40_000, 4, 1, torch.float32)
    assert Step(far, [Part(2, 3, [0]), Part(1, 2, [39_999])]).own.grid is None


@pytest.mark.parametrize("seed", range(10))
def test_a_batch_reads_what_each_text_alone_would(seed):
    draw = torch.Generator().manual_seed(seed)
    made, ends = pages(), [int(n) for n in torch.randint(1, 9, (4,), generator=draw)]
    lanes = torch.randperm(6, generator=draw)[:4].tolist()
    parts = [
        Part(end - 1, end, [2 * lane, 2 * lane + 1][: -(-end // 4)]) for end, lane in zip(ends, lanes, strict=True)
    ]
    q = torch.randn(1, 4, 2, 4, generator=draw)  # (1, N, H, D)

    def read(reading: Reading) -> torch.Tensor:
        grid, k, v = reading.grid, *reading.views(0)
        masks = [Mask(True, 1, place.end) for place in reading.alone]
        rows: list[slice | torch.Tensor] = [slice(place.row, place.row + 1) for place in reading.alone]
        if grid is not None:
            masks, rows = [Mask(True, 1, grid.length, bias=grid.beyond()), *masks], [grid.rows, *rows]
        apart = Apart(masks, rows) if grid is None else Apart(masks, rows, grid.lanes, grid.count)
        return apart.each(lambda q, k, v, mask: attend(q.transpose(1, 2), k, v, mask, 0.5).transpose(1, 2), q, k, v)

    together = Step(made, parts).own
    assert together.grid is not None
    assert not together.alone
    alone = Reading(made, [made.place(part, row)._replace(lane=None) for row, part in enumerate(parts)])
    assert alone.grid is None
    torch.testing.assert_close(read(together), read(alone), atol=1e-6, rtol=1e-6)


def test_sources_keep_their_seats_as_the_store_grows():
    store, draw = Sources(CFG, torch.float32), torch.Generator().manual_seed(0)
    texts = [[(torch.randn(1, 2, n, 4, generator=draw), torch.randn(1, 2, n, 4, generator=draw))] for n in (3, 70, 5)]
    seats = [store.sit(text) for text in texts]
    assert seats == [0, 1, 2]
    store.leave(0)
    assert store.copy(2) == 0  # the lowest that is free
    for seat, text in ((0, texts[2]), (1, texts[1]), (2, texts[2])):
        place = store.place(Part(0, 1, [0], seat), 0)
        assert torch.equal(store.text(store.k[0], place), text[0][0])
        assert torch.equal(store.text(store.v[0], place), text[0][1])
