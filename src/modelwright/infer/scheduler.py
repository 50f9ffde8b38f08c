"""Which texts are computed next, and in which blocks of the cache. No torch: plain numbers, testable by hand.

A text's keys and values lie in blocks of a few tokens, as memory in pages (Kwon et al. 2023, "PagedAttention"), so room
is taken as the text grows and no longest text need be foretold. Each step computes at most `budget` tokens: one of each
text that is being written, and with what is left over prompts, in parts where they are long (Agrawal et al. 2023,
"Sarathi"), so that a long prompt does not hold up those who wait for their next token.

A block keeps its tokens after its text has left, until it is needed: a prompt that begins as an earlier one did copies
those blocks and computes the rest. It copies rather than shares them, since keys and values that lie side by side are
read as they lie; a block has one owner.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

# Tokens of a prompt that are computed even where all have been before: a product of fewer rows adds up in another order
# on some machines, and then a text that is found would not be, bit for bit, one that is computed.
FEW = 4


@dataclass(eq=False)
class Text:
    """One text under way: what it says so far, and where its keys and values lie."""

    tokens: list[int]  # the prompt, then what was written
    length: int  # tokens that it may come to
    salt: bytes = b""  # what its keys and values depend on beside the tokens before: an adapter, a source
    source: int = 0  # tokens that an encoder has to read before the first
    reusable: int | None = None  # tokens that need not be computed anew; all but the last few, where it does not say
    blocks: list[int] = field(default_factory=list)
    cached: int = 0  # how many of its tokens have their keys and values
    keys: list[bytes] = field(default_factory=list)  # the names of its full blocks
    named: int = 0  # how many of its blocks others can find
    prompt: int = 0  # tokens that were given

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)
        last = max(0, len(self.tokens) - FEW)
        self.reusable = last if self.reusable is None else min(self.reusable, last)

    @property
    def left(self) -> int:
        """Tokens that are yet to be computed; one, once the prompt is."""
        return len(self.tokens) - self.cached

    def key(self, number: int, size: int) -> bytes:
        """The name of its block `number`: a digest of all tokens up to its end, and of the salt."""
        while len(self.keys) <= number:
            at = len(self.keys)
            before = self.keys[-1] if self.keys else self.salt
            said = ",".join(map(str, self.tokens[at * size : (at + 1) * size]))
            self.keys.append(hashlib.blake2b(said.encode(), key=before[:64], digest_size=16).digest())
        return self.keys[number]


@dataclass(frozen=True)
class Slice:
    """A text's share of a step: its tokens [start, end) are computed."""

    text: Text
    start: int
    end: int

    @property
    def last(self) -> bool:
        """Whether the token after the text comes of it."""
        return self.end == len(self.text.tokens)


@dataclass(frozen=True)
class Plan:
    """One step. All copies, (from, to) by block, are read before any is written, and before anything is computed."""

    slices: list[Slice]
    copies: list[tuple[int, int]]


class Blocks:
    """Who owns what: each block is free, or one text's. A free one may still hold what a key names."""

    def __init__(self, count: int, lane: int = 1):
        self.count, self.lane = count, lane
        self.free = [True] * count
        self.available = count
        self.named: dict[int, bytes] = {}
        self.found: dict[bytes, list[int]] = {}
        self.hand = 0  # where the next text is laid down: the longest unused is overwritten first

    def take(self, count: int, after: int | None = None, room: int = 0) -> list[int]:
        """So many free blocks, side by side where that can be: behind block `after`; or where there is room for `room`.

        Raises MemoryError where there are not so many.
        """
        if count > self.available:
            raise MemoryError(f"{count} blocks are asked for, and {self.available} are free")
        taken: list[int] = []
        if after is not None:
            while len(taken) < count and after + 1 < self.count and self.free[after + 1]:
                after += 1
                taken.append(self._own(after))
        while len(taken) < count:
            start, length = self.run(max(room, count) - len(taken))
            taken += [self._own(block) for block in range(start, start + min(length, count - len(taken)))]
        return taken

    def run(self, room: int) -> tuple[int, int]:
        """(first block, length) of the first run of free blocks with that room, from the hand on, which begins with a
        lane; or of the longest run."""
        best = (0, 0)
        for start, length in self._runs():
            off = -start % self.lane  # a text begins with a lane
            if length - off >= room:
                self.hand = start + off + room
                return start + off, length - off
            best = max(best, (start, length), key=lambda run: run[1])
        return best

    def give(self, blocks: Iterable[int]) -> None:
        """Free again; what they hold can still be found, until they are taken."""
        for block in blocks:
            assert not self.free[block], f"block {block} is given back twice"
            self.free[block] = True
            self.available += 1

    def name(self, block: int, key: bytes) -> None:
        """What the block holds from now on, and others may copy."""
        self.named[block] = key
        insort(self.found.setdefault(key, []), block)

    def find(self, key: bytes) -> int | None:
        """A block that holds what the key names."""
        held = self.found.get(key)
        return held[0] if held else None

    def _own(self, block: int) -> int:
        assert self.free[block], f"block {block} has an owner"
        self.free[block] = False
        self.available -= 1
        if (key := self.named.pop(block, None)) is not None:
            self.found[key].remove(block)
            if not self.found[key]:
                del self.found[key]
        return block

    def _runs(self) -> Iterable[tuple[int, int]]:
        """Runs of free blocks, (first, length), from the hand to the end and then from the beginning to the hand."""
        self.hand %= self.count
        for first, end in ((self.hand, self.count), (0, self.hand)):
            start = first
            for block in range(first, end + 1):
                if block == end or not self.free[block]:
                    if block > start:
                        yield start, block - start
                    start = block + 1


class Scheduler:
    """Old texts go on, new ones join while tokens and blocks last, and the newest waits where they do not."""

    def __init__(self, blocks: int, size: int, budget: int, texts: int, lane: int = 1):
        """`blocks` of `size` tokens; at most `budget` tokens in a step, of at most `texts` texts. A text is laid down
        at a multiple of `lane` blocks where that can be."""
        self.blocks, self.size, self.budget, self.most = Blocks(blocks, lane), size, max(budget, texts), texts
        self.waiting: deque[Text] = deque()
        self.running: list[Text] = []
        self.coming: Counter[bytes] = Counter()  # blocks of prompts that running texts have yet to compute

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def submit(self, text: Text) -> None:
        """Raises ValueError where the whole cache is too small for the text."""
        if text.length > self.blocks.count * self.size:
            raise ValueError(
                f"the request may come to {text.length} tokens, and the cache holds {self.blocks.count * self.size}: "
                "ask for less, or give the engine a larger cache"
            )
        self.waiting.append(text)

    def plan(self) -> Plan:
        """What to compute next; nothing where no text is under way."""
        slices: list[Slice] = []
        copies: list[tuple[int, int]] = []
        left = self.budget
        for text in sorted(self.running, key=lambda text: text.left > 1):  # those who wait for one token first
            if left and text in self.running and self._grow(text, text.cached + min(text.left, left), copies):
                left -= self._take(text, left, slices)
        for text in list(islice(self.waiting, 2 * self.most)):
            if left <= 0 or len(self.running) >= self.most or not self._fits(text):
                break
            if not self._awaited(text):
                copies += self._join(text)
                left -= text.source + self._take(text, left, slices)
        return Plan(slices, copies)

    def commit(self, plan: Plan, new: Mapping[Text, int]) -> None:
        """Take in what a step has computed: `new` is the next token of the texts that go on."""
        for s in plan.slices:
            if s.text not in self.running:  # it has left since
                continue
            s.text.cached = s.end
            self._name(s.text)
            if s.last and s.text in new:
                s.text.tokens.append(new[s.text])

    def leave(self, text: Text) -> None:
        """The text has ended, or nobody waits for it any more: its blocks are free."""
        if text in self.running:
            self._stop(text)
        elif text in self.waiting:
            self.waiting.remove(text)

    # -- a text's blocks

    def _grow(self, text: Text, end: int, copies: list[tuple[int, int]]) -> bool:
        """Give the text blocks for its tokens up to `end`; where there are none, the newest text waits for its turn."""
        need = -(-end // self.size) - len(text.blocks)
        while need > self.blocks.available:
            newest = self.running[-1]
            self._stop(newest)
            self.waiting.appendleft(newest)
            if newest is text:
                return False
        if need > 0:
            text.blocks += self.blocks.take(need, after=text.blocks[-1])
            if text.blocks != list(range(text.blocks[0], text.blocks[0] + len(text.blocks))):
                self._move(text, copies)
        return True

    def _move(self, text: Text, copies: list[tuple[int, int]]) -> None:
        """Lay the text down anew where its blocks lie side by side, if there is such a place."""
        room = -(-text.length // self.size)
        if self.blocks.run(room)[1] >= room:
            old, text.blocks = text.blocks, self.blocks.take(len(text.blocks), room=room)
            copies += zip(old, text.blocks, strict=True)
            self.blocks.give(old)
            text.named = 0

    def _fits(self, text: Text) -> bool:
        """Whether there are blocks for all that it says, and one more for each text that grows."""
        return -(-len(text.tokens) // self.size) + len(self.running) <= self.blocks.available

    def _join(self, text: Text) -> list[tuple[int, int]]:
        """The text has its blocks from now on, and what it shares with others is copied: (from, to)."""
        self.waiting.remove(text)
        self.running.append(text)
        have = [self.blocks.find(key) for key in self._known(text)]
        whole = -(-len(text.tokens) // self.size)
        text.blocks = self.blocks.take(whole, room=-(-text.length // self.size))
        text.cached = len(have) * self.size
        for number in range(len(have), text.prompt // self.size):
            self.coming[text.key(number, self.size)] += 1
        return [(source, to) for source, to in zip(have, text.blocks, strict=False) if source is not None]

    def _known(self, text: Text) -> list[bytes]:
        """The names of the blocks that need not be computed anew."""
        known: list[bytes] = []
        while (len(known) + 1) * self.size <= (text.reusable or 0):
            key = text.key(len(known), self.size)
            if self.blocks.find(key) is None:
                break
            known.append(key)
        return known

    def _awaited(self, text: Text) -> bool:
        """Whether the first block that the text lacks is being computed for another one: then it waits a little."""
        number = len(self._known(text))
        return (number + 1) * self.size <= (text.reusable or 0) and self.coming[text.key(number, self.size)] > 0

    def _take(self, text: Text, left: int, slices: list[Slice]) -> int:
        """As much of the text as can be had: of a prompt whole blocks, and neither a few tokens nor all but a few."""
        end = min(len(text.tokens), text.cached + left)
        if end < len(text.tokens) and self.budget >= 2 * max(FEW, self.size):
            end = min(end, len(text.tokens) - FEW) // self.size * self.size
            if end - text.cached < FEW:
                return 0
        slices.append(Slice(text, text.cached, end))
        return end - text.cached

    def _name(self, text: Text) -> None:
        """Others can find the blocks that the prompt has filled. Not those that were written token by token: such sums
        are not, bit for bit, those of a prompt that says the same."""
        full = min(text.cached, text.prompt) // self.size
        for number in range(text.named, full):
            key = text.key(number, self.size)
            self.blocks.name(text.blocks[number], key)
            self._came(key)
        text.named = full

    def _came(self, key: bytes) -> None:
        if self.coming[key] > 1:
            self.coming[key] -= 1
        else:
            del self.coming[key]

    def _stop(self, text: Text) -> None:
        """The text is no longer computed; should it go on, then from its tokens."""
        self.running.remove(text)
        for key in text.keys[min(text.cached, text.prompt) // self.size :]:
            self._came(key)
        self.blocks.give(text.blocks)
        text.blocks, text.cached, text.named = [], 0, 0
