"""What a dialogue is about: its facts, drawn by chance from what its part may show."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Literal, TypeVar

from modelwright.data.desk import words

T = TypeVar("T")
Part = Literal["train", "valid", "test"]

PARTS: tuple[Part, ...] = ("train", "valid", "test")
ENTITIES = ("customer", "city", "product", "colour", "order", "day")
OPTIONAL = ("customer", "city", "colour", "order", "day")  # a dialogue may leave these unsaid
FACTS = (*ENTITIES, "problem", "resolution", "mood")


# Only `Random.random` is drawn on: Python promises that its numbers stay the same in every version.


def pick(rng: Random, table: Sequence[T]) -> T:
    return table[int(rng.random() * len(table))]


def chance(rng: Random, probability: float) -> bool:
    return rng.random() < probability


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    return sorted(items, key=lambda _: rng.random())


def part_of(product: str, problem: str, resolution: str) -> Part:
    """The only part whose dialogues may be about these three: for eight tenths of them train."""
    digest = hashlib.blake2b(f"{product}/{problem}/{resolution}".encode(), digest_size=2).digest()
    tenth = int.from_bytes(digest, "big") % 10
    return "test" if tenth == 0 else "valid" if tenth == 1 else "train"


@cache
def combinations(part: Part) -> tuple[tuple[str, str, str], ...]:
    """Every (product, problem, resolution) of a part."""
    return tuple(
        (product, problem, resolution)
        for product, (kind, _, _) in words.PRODUCTS.items()
        for problem, (kinds, _, _, remedies) in words.PROBLEMS.items()
        if kind in kinds
        for resolution in remedies
        if part_of(product, problem, resolution) == part
    )


_CITIES, _COLOURS, _MOODS = tuple(words.CITIES), tuple(words.COLOURS), tuple(words.MOODS)
_FIRST_NAMES = words.WOMEN + words.MEN
_WEEKDAYS, _DATES = tuple(words.WEEKDAYS), tuple(words.DATES)


def draw(rng: Random, part: Part) -> dict[str, str]:
    """A value for every name in `FACTS`."""
    product, problem, resolution = pick(rng, combinations(part))
    return {
        "customer": _customer(rng),
        "city": pick(rng, _CITIES),
        "product": product,
        "colour": pick(rng, _COLOURS),
        "order": _order(rng),
        "day": _day(rng),
        "problem": problem,
        "resolution": resolution,
        "mood": pick(rng, _MOODS),
    }


def _customer(rng: Random) -> str:
    return f"{pick(rng, _FIRST_NAMES)} {pick(rng, words.LAST_NAMES)}"


def _order(rng: Random) -> str:
    letters = pick(rng, words.ORDER_LETTERS) + pick(rng, words.ORDER_LETTERS)
    return f"{letters}-{pick(rng, words.ORDER_NUMBERS)}"


def _day(rng: Random) -> str:
    return pick(rng, _WEEKDAYS if chance(rng, 0.5) else _DATES)


_ANOTHER: dict[str, Callable[[Random, str], str]] = {
    "customer": lambda rng, right: f"{right.split()[0]} {pick(rng, words.LAST_NAMES)}",
    "city": lambda rng, right: pick(rng, _CITIES),
    "colour": lambda rng, right: pick(rng, _COLOURS),
    "order": lambda rng, right: right[:-2] + _order(rng)[-2:],
    "day": lambda rng, right: _day(rng),
}


def mistaken(rng: Random, fact: str, right: str) -> str:
    """What somebody could say or hear instead: another surname, two other digits, another city."""
    wrong = right
    while wrong == right:
        wrong = _ANOTHER[fact](rng, right)
    return wrong
