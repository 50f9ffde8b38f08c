"""Tickets, each a case in one sentence, and the small tasks that a few of them with their answers tell of.

    ticket    Order KD-4821: Anna Weber, Lyon, bought a blue kettle on Monday. It leaks. The agent gave a voucher.
    note      Lyon / KD-4821                     which facts, in which order, joined how
    label     north                              one fact of a ticket decides

A model that has seen many such tasks, each told by nothing but its examples, can be told of another one in the same
way (Brown et al. 2020). So an episode is a task and a few tickets with their answers, and `documents` is text to pretrain
on: dialogues of the desk and episodes, in which only the answers are learned, since what a ticket is about is drawn by
chance and cannot be foretold. What `RESERVED` names never stands in an episode: it is kept for the tasks of
`projects`, so that none of them was seen in pretraining.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count as count_from
from random import Random
from typing import NamedTuple

from modelwright.data.desk import words
from modelwright.data.desk.cases import SHAPES, document
from modelwright.data.desk.facts import Part, chance, draw, pick, shuffled
from modelwright.data.documents import Document

NOTED = ("customer", "city", "product", "colour", "order", "day", "resolution")

SENTENCES = (
    "{customer} from {city} writes that the {colour} {product} ordered on {day} (order {order}) {problem}; we offer"
    " {resolution}.",
    "Order {order}: {customer}, {city}, bought a {colour} {product} on {day}. It {problem}. The agent gave {resolution}.",
    "The {colour} {product} of {customer} in {city} {problem}. It was bought on {day} under {order}, and the answer was"
    " {resolution}.",
    "On {day} a {colour} {product} went to {city} for {customer}, number {order}; now it {problem}, so it is"
    " {resolution}.",
    "Promised: {resolution}, to {customer}, since the {product} in {colour}, order {order} of {day}, {problem}. Sent from"
    " {city}.",
    "From {city}: my {product} ({colour}) {problem}. I am {customer}, I ordered on {day}, it is {order}. They told me"
    " {resolution}.",
    "{customer} called about {order}. The {product} is {colour}, came to {city} on {day} and {problem}. Outcome:"
    " {resolution}.",
    "We heard from {city}. A {colour} {product} {problem}, says {customer}, who bought it on {day} as {order}. Result:"
    " {resolution}.",
)


class Ticket(NamedTuple):
    text: str
    facts: Mapping[str, str]  # as they stand in the text
    kinds: Mapping[str, str]  # what they are: one word for the many ways to say a problem and a resolution


def ticket(rng: Random, part: Part) -> Ticket:
    """A ticket about what `part` may show."""
    kinds = draw(rng, part)
    said = {
        **kinds,
        "problem": pick(rng, words.PROBLEMS[kinds["problem"]].said),
        "resolution": pick(rng, words.RESOLUTIONS[kinds["resolution"]].said),
    }
    return Ticket(pick(rng, SENTENCES).format_map(said), said, kinds)


# -- tasks that examples tell ---------------------------------------------------------------------

JOINERS = (", ", " / ", " | ", "; ", " - ", " + ", " > ", " & ")
CUES = (
    ("Ticket", "Note"),
    ("Input", "Output"),
    ("Message", "Record"),
    ("Text", "Entry"),
    ("Mail", "Log"),
    ("Case", "Card"),
)
LABELS = (
    "north", "south", "east", "west", "first", "second", "third", "last", "left", "right", "open", "closed", "high", "low",
    "early", "late", "alpha", "beta", "gamma", "delta", "apple", "lemon", "plum", "cherry", "lion", "tiger", "bear", "wolf",
    "river", "lake", "hill", "valley", "spring", "summer", "autumn", "winter", "yes", "no", "maybe", "never",
)  # fmt: skip
SORTED_BY = ("city", "colour", "day", "product")
RESERVED = (("order", "customer"), ("city", "resolution", "product"))  # notes of the projects, in any order


class Note(NamedTuple):
    """The facts a note holds, in their order, and what joins them."""

    facts: tuple[str, ...]
    joiner: str

    def answer(self, ticket: Ticket) -> str:
        return self.joiner.join(ticket.facts[fact] for fact in self.facts)


class Label(NamedTuple):
    """The fact that decides, and the label of each value it may have."""

    fact: str
    labels: Mapping[str, str]

    def answer(self, ticket: Ticket) -> str:
        return self.labels[ticket.facts[self.fact]]


def draw_note(rng: Random) -> Note:
    while True:
        facts = tuple(shuffled(rng, NOTED)[: 1 + int(3 * rng.random())])
        if all(set(facts) != set(reserved) for reserved in RESERVED):
            return Note(facts, pick(rng, JOINERS))


def draw_label(rng: Random, part: Part) -> Label:
    fact = pick(rng, SORTED_BY)
    values: list[str] = []
    number = 2 + int(2 * rng.random())
    while len(values) < number:
        value = draw(rng, part)[fact]
        values += [value] if value not in values else []
    return Label(fact, dict(zip(values, shuffled(rng, LABELS), strict=False)))


class Shown(NamedTuple):
    """One example of an episode: what is read, and what is learned."""

    prompt: str
    answer: str


def episode(rng: Random, part: Part) -> list[Shown]:
    """A task, and a few tickets with their answers."""
    cue, answer = pick(rng, CUES)
    if chance(rng, 0.7):
        note = draw_note(rng)
        tickets = [ticket(rng, part) for _ in range(3 + int(4 * rng.random()))]
        answers = [note.answer(found) for found in tickets]
    else:
        label = draw_label(rng, part)
        tickets = [among(rng, part, label) for _ in range(5 + int(4 * rng.random()))]
        answers = [label.answer(found) for found in tickets]
    return [
        Shown(f"{cue}: {found.text}\n{answer}:", f" {said}\n\n") for found, said in zip(tickets, answers, strict=True)
    ]


def among(rng: Random, part: Part, label: Label) -> Ticket:
    """A ticket whose deciding fact has one of the values that have a label."""
    value = pick(rng, tuple(label.labels))
    while True:
        found = ticket(rng, part)
        if found.facts[label.fact] == value:
            return found


# -- text to pretrain on --------------------------------------------------------------------------

PLAIN = tuple(shape for shape in SHAPES if shape not in ("summary", "french", "facts"))  # those are asked by projects


def documents(
    seed: int, part: Part = "train", *, start: int = 0, count: int | None = None, episodes: float = 0.75
) -> Iterator[Document]:
    """Dialogues, and a share of episodes; an episode comes in pieces, of which those with answers alone are learned."""
    for i in count_from(start) if count is None else range(start, start + count):
        rng = Random(f"{seed}/{part}/{i}/episode")
        if chance(rng, episodes):
            yield from pieces(f"episode-{seed}-{part}-{i}", episode(rng, part))
        else:
            yield document(seed, part, i, PLAIN)


def pieces(name: str, shown: list[Shown]) -> Iterator[Document]:
    for number, (prompt, answer) in enumerate(shown):
        yield Document(prompt, name, {"continues": number > 0, "learned": False})
        yield Document(answer, name, {"continues": True})
