"""The scheduler, by hand and by thousands of random schedules, on a cache that holds the tokens themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random

import pytest

from modelwright.infer.scheduler import Blocks, Plan, Scheduler, Text

# -- a stand-in for model and cache ------------------------------------------------------------------


def foretold(tokens: list[int]) -> int:
    """The stand-in's next token: a digest of all that came before, in order."""
    return hashlib.blake2b(",".join(map(str, tokens)).encode(), digest_size=1).digest()[0]


def alone(prompt: list[int], new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(foretold(tokens))
    return tokens


class Tape:
    """A cache of blocks in which the token itself stands where its keys and values would."""

    def __init__(self, blocks: int, size: int):
        self.size = size
        self.held: list[list[int]] = [[-1] * size for _ in range(blocks)]

    def step(self, plan: Plan) -> dict[Text, int]:
        """Copy, write what is computed, and read each text back by its blocks alone."""
        read = [(to, list(self.held[source])) for source, to in plan.copies]
        for to, what in read:
            self.held[to] = what
        for s in plan.slices:
            for at in range(s.start, s.end):
                self.held[s.text.blocks[at // self.size]][at % self.size] = s.text.tokens[at]
        return {s.text: foretold(self.read(s.text, s.end)) for s in plan.slices if s.last}

    def read(self, text: Text, end: int) -> list[int]:
        return [self.held[text.blocks[at // self.size]][at % self.size] for at in range(end)]


def check(scheduler: Scheduler, plan: Plan) -> None:
    """What holds after every plan."""
    owned = [block for text in scheduler.running for block in text.blocks]
    blocks = scheduler.blocks
    assert len(owned) == len(set(owned)), "a block has two owners"
    assert len(owned) + blocks.available == blocks.count == len(blocks.free), "a block is lost"
    assert all(not blocks.free[block] for block in owned)
    assert sum(s.end - s.start for s in plan.slices) <= scheduler.budget
    assert len(scheduler.running) <= scheduler.most
    assert len({s.text for s in plan.slices}) == len(plan.slices)
    assert all(s.start == s.text.cached < s.end <= len(s.text.blocks) * scheduler.size for s in plan.slices)
    assert all(not text.blocks and not text.cached for text in scheduler.waiting)


def run(scheduler: Scheduler, tape: Tape, ends: dict[Text, int], between: Callable[[], None] = lambda: None) -> int:
    """Until all texts have as many tokens as `ends` says; answers how many tokens were computed."""
    computed = 0
    while not scheduler.idle:
        plan = scheduler.plan()
        check(scheduler, plan)
        assert plan.slices, "texts wait and nothing is computed"
        computed += sum(s.end - s.start for s in plan.slices)
        scheduler.commit(plan, tape.step(plan))
        for text in [text for text in scheduler.running if len(text.tokens) >= ends[text]]:
            scheduler.leave(text)
        between()
    return computed


# -- random schedules --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(0, 2000, 100))
def test_each_text_comes_out_as_alone_whatever_the_schedule(seed: int) -> None:
    """A hundred schedules each: caches large and too small, shared beginnings, arrivals and departures at any step."""
    for number in range(seed, seed + 100):
        random_schedule(Random(number))


def random_schedule(rng: Random) -> None:
    size, count = rng.choice([1, 2, 4, 8]), rng.randint(6, 40)
    scheduler = Scheduler(count, size, rng.choice([1, 3, 8, 64]), rng.choice([1, 2, 5, 16]), rng.choice([1, 3, 6]))
    tape = Tape(count, size)
    stems = [[rng.randrange(5) for _ in range(rng.randint(0, 3 * size))] for _ in range(3)]
    prompts: dict[Text, list[int]] = {}
    ends: dict[Text, int] = {}
    gone: set[Text] = set()

    def arrive() -> None:
        room = count * size
        prompt = (rng.choice(stems) + [rng.randrange(5) for _ in range(rng.randint(1, 2 * size))])[: room - 1]
        end = rng.randint(len(prompt) + 1, room)
        length = rng.choice([end, room])
        text = Text(list(prompt), length, reusable=rng.choice([None, 0, len(prompt) // 2]))
        prompts[text], ends[text] = prompt, end
        scheduler.submit(text)

    def between() -> None:
        if len(prompts) < 12 and rng.random() < 0.3:
            arrive()
        if rng.random() < 0.05 and (texts := [*scheduler.running, *scheduler.waiting]):
            gone.add(left := rng.choice(texts))
            scheduler.leave(left)

    for _ in range(rng.randint(1, 6)):
        arrive()
    run(scheduler, tape, ends, between)
    assert scheduler.blocks.available == count
    assert not scheduler.coming
    for text, prompt in prompts.items():
        if text not in gone:
            assert text.tokens == alone(prompt, ends[text] - len(prompt))


# -- by hand -----------------------------------------------------------------------------------------


def started(blocks: int = 16, size: int = 4, budget: int = 64, texts: int = 8) -> tuple[Scheduler, Tape]:
    return Scheduler(blocks, size, budget, texts), Tape(blocks, size)


def test_a_long_prompt_is_read_in_parts_and_holds_up_nobody() -> None:
    scheduler, tape = started(budget=4, texts=4)
    first, long = Text([1], 9), Text(list(range(10)), 12)
    scheduler.submit(first)
    scheduler.commit(plan := scheduler.plan(), tape.step(plan))
    scheduler.submit(long)
    seen = []
    for _ in range(4):
        plan = scheduler.plan()
        seen.append([(s.text is first, s.start, s.end) for s in plan.slices])
        scheduler.commit(plan, tape.step(plan))
    assert seen == [
        [(True, 1, 2), (False, 0, 3)],
        [(True, 2, 3), (False, 3, 6)],
        [(True, 3, 4), (False, 6, 9)],
        [(True, 4, 5), (False, 9, 10)],
    ]


def test_a_prompt_is_read_neither_by_a_few_tokens_nor_up_to_a_few() -> None:
    scheduler, tape = started(budget=16, texts=4)
    first, long = Text([1], 19), Text(list(range(17)), 20)
    for text in (first, long):
        scheduler.submit(text)
    seen = []
    for _ in range(3):
        plan = scheduler.plan()
        seen.append([(s.text is first, s.start, s.end) for s in plan.slices])
        scheduler.commit(plan, tape.step(plan))
    # of the 15 that there was room for 12 were read: 4 are to be left, and blocks are whole
    assert seen == [[(True, 0, 1), (False, 0, 12)], [(True, 1, 2), (False, 12, 17)], [(True, 2, 3), (False, 17, 18)]]


def test_what_prompts_share_is_computed_once_even_when_they_come_together() -> None:
    scheduler, tape = started(blocks=64)
    shots = list(range(12))
    texts = [Text([*shots, 100 + i, 7, 8, 9], 17) for i in range(4)]
    for text in texts:
        scheduler.submit(text)
    plan = scheduler.plan()
    assert [s.text for s in plan.slices] == texts[:1], "the others wait for the three blocks that they share"
    scheduler.commit(plan, tape.step(plan))
    plan = scheduler.plan()
    assert [(s.start, s.end) for s in plan.slices] == [(16, 17), *[(12, 16)] * 3]
    assert len(plan.copies) == 9


def computed(scheduler: Scheduler, tape: Tape, text: Text, end: int) -> int:
    scheduler.submit(text)
    return run(scheduler, tape, {text: end})


def test_what_a_text_left_behind_is_found_again() -> None:
    scheduler, tape = started()
    assert computed(scheduler, tape, Text(list(range(12)), 13), 13) == 12
    again = Text([*range(8), 50, 51, 52, 53], 13)
    assert computed(scheduler, tape, again, 13) == 4
    assert again.tokens == alone([*range(8), 50, 51, 52, 53], 1)
    assert computed(scheduler, tape, Text([*range(4), 60, 61, 62, 63, 64], 10), 10) == 5
    assert (
        computed(scheduler, tape, Text([*range(4), 60, 61, 62], 8), 8) == 7 - 0
    )  # few would be left: all are computed


def test_what_was_written_is_not_found() -> None:
    scheduler, tape = started()
    first = Text(list(range(6)), 16)
    assert computed(scheduler, tape, first, 14) == 13
    assert computed(scheduler, tape, Text(first.tokens, 15), 15) == 10  # one block of the prompt alone
    assert not scheduler.coming


def test_another_salt_shares_nothing() -> None:
    scheduler, tape = started()
    texts = [Text(list(range(12)), 13, salt) for salt in (b"", b"a", b"a")]
    assert [computed(scheduler, tape, text, 13) for text in texts] == [12, 12, 4]


def test_what_is_to_be_scored_is_computed_again() -> None:
    scheduler, tape = started()
    texts = [Text(list(range(12)), 13, reusable=n) for n in (0, None, 5, 0)]
    assert [computed(scheduler, tape, text, 13) for text in texts] == [12, 4, 8, 12]


def test_the_newest_waits_where_there_is_no_room_and_loses_nothing() -> None:
    scheduler, tape = started(blocks=6, size=2)
    old, new = Text([1, 2], 12), Text([3], 10)
    for text in (old, new):
        scheduler.submit(text)
    waited = []
    run(scheduler, tape, {old: 12, new: 10}, lambda: waited.append(new in scheduler.waiting))
    assert any(waited)
    assert old.tokens == alone([1, 2], 10)
    assert new.tokens == alone([3], 9)


def test_a_text_that_no_longer_lies_side_by_side_is_laid_down_anew() -> None:
    blocks = Blocks(10, 1)
    assert blocks.take(2, room=3) == [0, 1]
    assert blocks.take(2, room=3) == [3, 4]
    assert blocks.take(1, after=1) == [2]
    assert blocks.take(1, after=2) == [6], "the next is another's, and 5 is kept for that one"
    scheduler, tape = started(blocks=12, size=1)
    first, second = Text([1], 2), Text([2], 4)
    for text in (first, second):
        scheduler.submit(text)
    first.length = 5  # longer than was said, and so into the second one's place
    between: list[bool] = []
    run(
        scheduler,
        tape,
        {first: 5, second: 4},
        lambda: between.extend(
            t.blocks == list(range(t.blocks[0], t.blocks[0] + len(t.blocks))) for t in scheduler.running
        ),
    )
    assert all(between)
    assert first.tokens == alone([1], 4)


def test_a_text_beyond_the_whole_cache_is_refused() -> None:
    scheduler, _ = started(blocks=2, size=4)
    with pytest.raises(ValueError, match="may come to 9 tokens, and the cache holds 8"):
        scheduler.submit(Text([1], 9))


def test_texts_begin_with_a_lane_while_there_is_one() -> None:
    blocks = Blocks(12, lane=4)
    first = blocks.take(2, room=4)
    second = blocks.take(1, room=4)
    assert (first, second) == ([0, 1], [4])  # though block 2 is free
    assert blocks.take(1, room=2) == [8]
    assert blocks.take(1, room=4) == [5]  # no lane is free: the longest run, as the rest of it is
    blocks.give(first)
    assert blocks.take(3, room=4) == [0, 1, 2]


def test_a_block_has_one_owner() -> None:
    blocks = Blocks(3, 1)
    taken = blocks.take(2)
    with pytest.raises(MemoryError, match="2 blocks are asked for, and 1 are free"):
        blocks.take(2)
    blocks.give(taken)
    with pytest.raises(AssertionError, match="given back twice"):
        blocks.give(taken)
