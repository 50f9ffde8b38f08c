"""Who judges what, and what of it they see: the rules of a round of labelling, without HTTP.

Every labeller judges the shared prompts, so that their agreement can be told; each other prompt goes to whoever comes
first. Which model wrote what is not shown, and the completions stand in an order drawn anew for each labeller and
prompt: neither a model's name nor a place on the page can be what is judged.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.data.judgements import Journal, Judgement, dense, now
from modelwright.data.rankings import Item

HELD = 600.0  # seconds for which a prompt that one labeller has before him is given to no other


@dataclass(frozen=True)
class Turn:
    """What a labeller is to judge now, None where nothing is left; `order` as it stands in a `Judgement`."""

    labeller: str
    item: Item | None
    order: tuple[int, ...]
    ranked: int
    skipped: int
    of: int  # prompts in all, for this labeller
    last: str | None = None  # the judgement that an undo would take back

    @property
    def completions(self) -> list[str]:
        """As they are shown."""
        return [] if self.item is None else [self.item.completions[at] for at in self.order]


def shown_order(seed: int, labeller: str, item: str, size: int) -> tuple[int, ...]:
    """The order in which a labeller sees an item's completions: the same in every process, however the name is set."""
    order = list(range(size))
    random.Random(f"{seed} {' '.join(labeller.casefold().split())} {item}").shuffle(order)
    return tuple(order)


def shared_items(items: Sequence[Item], overlap: float, seed: int) -> set[str]:
    """The share `overlap` of the items, drawn by the seed, that all labellers judge."""
    names = [item.id for item in items]
    return set(random.Random(f"{seed} shared").sample(names, round(overlap * len(names))))


class Round:
    """A round of labelling. Called from any thread."""

    def __init__(
        self,
        criterion: str,
        items: Sequence[Item],
        journal: Journal,
        *,
        seed: int,
        overlap: float = 1.0,
        agreed: Callable[[Sequence[Judgement]], Mapping[str, Any]] = lambda judged: {},
    ):
        """agreed: what to tell of the labellers' agreement, by the judgements that stand."""
        self.criterion, self.journal, self.seed, self.agreed = criterion, journal, seed, agreed
        self.items = {item.id: item for item in items}
        self.shared = shared_items(items, overlap, seed)
        self._lock = threading.RLock()
        self._held: dict[str, tuple[str, float]] = {}  # item -> by whom, since when
        self._again: dict[str, str] = {}  # labeller -> the item that was taken back

    def named(self, said: str) -> str:
        """A labeller's name as it stood when it was first said: `anna ` is Anna."""
        name = " ".join(said.split())
        known = (one.labeller for one in self.journal)
        return next((one for one in known if one.casefold() == name.casefold()), name)

    def turn(self, labeller: str) -> Turn:
        """What is next for a labeller, who holds it from now on."""
        with self._lock:
            name = self.named(labeller)
            mine, taken = self._done(name)
            total = len(self.items) - len(taken - set(mine))
            found = self._next(name, mine, taken)
            self._held = {item: held for item, held in self._held.items() if held[0] != name}
            if found is not None:
                self._held[found.id] = (name, time.monotonic())
            order = () if found is None else shown_order(self.seed, name, found.id, len(found.completions))
            skipped = sum(one.ranks is None for one in mine.values())
            last = next((one.id for one in reversed(mine.values())), None)
            return Turn(name, found, order, len(mine) - skipped, skipped, total, last)

    def _done(self, labeller: str) -> tuple[dict[str, Judgement], set[str]]:
        """What the labeller has judged, and the items that are judged by one labeller alone, and by another."""
        judged = list(self.journal)
        mine = {one.item: one for one in judged if one.labeller == labeller}
        others = {one.item for one in judged if one.labeller != labeller and one.ranks is not None}
        return mine, others - self.shared

    def _next(self, labeller: str, mine: Mapping[str, Judgement], taken: set[str]) -> Item | None:
        again = self._again.get(labeller)
        if again is not None and again not in mine and again not in taken:
            return self.items[again]
        return next((one for one in self.items.values() if self._open(one.id, labeller, mine, taken)), None)

    def _open(self, item: str, labeller: str, mine: Mapping[str, Judgement], taken: set[str]) -> bool:
        if item in mine or item in taken:
            return False
        by, since = self._held.get(item, (labeller, 0.0))
        return item in self.shared or by == labeller or time.monotonic() - since > HELD

    def judge(self, name: str, labeller: str, item: str, ranks: Sequence[int] | None, seconds: float) -> bool:
        """Keep a judgement by the `name` that whoever judged gave it; ranks as the completions were shown, None a skip.

        False where the labeller has judged the item already, in another window. Raises KeyError for an item that there
        is not, ValueError for ranks that are not one for each completion.
        """
        who = self.named(labeller)
        size = len(self.items[item].completions)
        order = shown_order(self.seed, who, item, size)
        if ranks is not None and len(ranks) != size:
            raise ValueError(f"there are {size} completions and {len(ranks)} ranks")
        said = None if ranks is None else dense([ranks[order.index(at)] for at in range(size)])
        with self._lock:
            kept = self.journal.add(Judgement(name, item, who, said, order, round(seconds, 1), now()))
            self._again.pop(who, None)
            return kept

    def undo(self, labeller: str, judgement: str) -> bool:
        """Take back the labeller's last judgement, which is next to be judged again; False where it is not the one that
        is named: asked for twice, because an answer was lost, it happens once."""
        with self._lock:
            who = self.named(labeller)
            last = self.journal.take_back(who, judgement)
            if last is not None and last.item in self.items:
                self._again[who] = last.item
            return last is not None

    def agreement(self) -> dict[str, Any]:
        return dict(self.agreed(list(self.journal)))
