"""Tickets, each a case in one line, and notes of them, whose form a few tickets with their notes tell.

    ticket    order KD-4821, from Anna Weber, the blue one, sent to Lyon, gets a voucher.
    note      Lyon / KD-4821        which facts, in which order, joined how

A model that has seen many forms, each told by nothing but its examples, can be told of another one in the same way
(Brown et al. 2020). So an episode is a few tickets with their notes in one form, and `documents` is text to pretrain
on: dialogues of the desk and episodes, in which only the notes are learned, since what a ticket is about is drawn by
chance and cannot be foretold. What `RESERVED` names never stands in an episode: it is kept for the tasks of
`projects`, so that none of them was seen in pretraining.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count as count_from
from random import Random
from typing import NamedTuple

from modelwright.data.desk import words
from modelwright.data.desk.cases import SHAPES, document
from modelwright.data.desk.facts import Part, chance, draw, mistaken, pick, shuffled
from modelwright.data.documents import Document

NOTED = ("customer", "city", "product", "colour", "order", "day", "came", "resolution")

CLAUSES: dict[str, tuple[str, ...]] = {
    "customer": ("from {customer}", "{customer} writes", "customer {customer}"),
    "city": ("in {city}", "sent to {city}", "lives in {city}"),
    "product": ("a {product}", "the {product}", "one {product}"),
    "colour": ("in {colour}", "the {colour} one", "colour {colour}"),
    "order": ("order {order}", "number {order}", "it is {order}"),
    "day": ("ordered on {day}", "bought on {day}", "paid on {day}"),
    "came": ("came on {came}", "delivered on {came}", "arrived on {came}"),
    "resolution": ("gets {resolution}", "we offer {resolution}", "promised {resolution}"),
    "problem": ("it {problem}", "{problem}"),
}
SAID = 4  # facts of a ticket
TWINS = {"day": "came", "came": "day"}  # a ticket that has to say one says the other too
SAME = 0.5  # share of the tickets where both are the same day, so that such an example does not tell which is meant


class Ticket(NamedTuple):
    text: str
    facts: Mapping[str, str]  # those that it says, as they stand in the text
    kinds: Mapping[str, str]  # what they are: one word for the many ways to say a problem and a resolution


def ticket(rng: Random, part: Part, needed: Sequence[str] = ()) -> Ticket:
    """A ticket about what `part` may show, which says four facts in any order, those `needed` and their twins among
    them."""
    kinds = draw(rng, part)
    said = {
        **kinds,
        "came": kinds["day"] if chance(rng, SAME) else mistaken(rng, "day", kinds["day"]),
        "problem": pick(rng, words.PROBLEMS[kinds["problem"]].said),
        "resolution": pick(rng, words.RESOLUTIONS[kinds["resolution"]].said),
    }
    needed = tuple(dict.fromkeys([*needed, *(TWINS[fact] for fact in needed if fact in TWINS)]))
    others = [fact for fact in shuffled(rng, tuple(CLAUSES)) if fact not in needed]
    stated = shuffled(rng, [*needed, *others[: SAID - len(needed)]])
    text = ", ".join(pick(rng, CLAUSES[fact]).format_map(said) for fact in stated)
    return Ticket(f"{text}.", {fact: said[fact] for fact in stated}, kinds)


# -- forms that examples tell ---------------------------------------------------------------------

JOINERS = (", ", " / ", " | ", "; ", " - ", " + ", " > ", " & ")
ASKED = ("Input", "Message", "Text", "Mail", "Case", "Report", "Request", "Letter", "Call", "Question")
ANSWERED = ("Output", "Record", "Entry", "Log", "Card", "Line", "Summary", "Answer", "Result", "Short")
GAPS = 0.6  # share of the episodes of `desk+gaps` in which tickets leave out a part of the note
MADE_TO_SAY = 0.55  # chance that such a ticket is made to say a fact
RESERVED = (("order", "customer"), ("city", "resolution", "product"), ("came", "product"))  # by projects, in any order


class Note(NamedTuple):
    """The facts a note holds if the ticket says them, in their order, and what joins them."""

    facts: tuple[str, ...]
    joiner: str

    def answer(self, ticket: Ticket) -> str:
        return self.joiner.join(ticket.facts[fact] for fact in self.facts if fact in ticket.facts)


def draw_note(rng: Random) -> Note:
    while True:
        facts = tuple(shuffled(rng, NOTED)[: 1 + int(3 * rng.random())])
        if all(set(facts) != set(reserved) for reserved in RESERVED):
            return Note(facts, pick(rng, JOINERS))


def made_to_say(rng: Random, facts: tuple[str, ...]) -> tuple[str, ...]:
    """Of the facts of a note those that a ticket is to say; at least one. Others may stand in it by chance."""
    while True:
        if said := tuple(fact for fact in facts if chance(rng, MADE_TO_SAY)):
            return said


class Shown(NamedTuple):
    """One example of an episode: what is read, and what is learned."""

    prompt: str
    answer: str


def episode(rng: Random, part: Part, gaps: float = 0.0) -> list[Shown]:
    """A form of note, and a few tickets with their notes. In a share `gaps` of the episodes not every ticket says all
    that a note would hold, so that one example does not tell the form, and several do."""
    cue, answer, note = pick(rng, ASKED), pick(rng, ANSWERED), draw_note(rng)
    partly = gaps > 0 and chance(rng, gaps)
    while partly and (len(note.facts) < 2 or any(set(kept) <= set(note.facts) for kept in RESERVED)):
        note = draw_note(rng)  # what a ticket leaves of it may be none of those either
    needed = [note.facts] * (3 + int(4 * rng.random()))
    tickets = [ticket(rng, part, made_to_say(rng, facts) if partly else facts) for facts in needed]
    return [Shown(f"{cue}: {found.text}\n{answer}:", f" {note.answer(found)}") for found in tickets]


# -- text to pretrain on --------------------------------------------------------------------------

PLAIN = tuple(shape for shape in SHAPES if shape not in ("summary", "french", "facts"))  # those are asked by projects


def documents(
    seed: int,
    part: Part = "train",
    *,
    start: int = 0,
    count: int | None = None,
    episodes: float = 0.85,
    gaps: float = 0.0,
) -> Iterator[Document]:
    """Dialogues, and a share of episodes, in a share `gaps` of which notes hold what a ticket says of their facts; an
    episode comes in pieces, of which those with answers alone are learned."""
    for i in count_from(start) if count is None else range(start, start + count):
        rng = Random(f"{seed}/{part}/{i}/episode")
        if chance(rng, episodes):
            yield from pieces(f"episode-{seed}-{part}-{i}", episode(rng, part, gaps))
        else:
            yield document(seed, part, i, PLAIN)


def pieces(name: str, shown: list[Shown]) -> Iterator[Document]:
    """The examples with an empty line between, cut where the ids of the whole text and of its pieces are the same: of
    two line breaks, which a byte-level tokenizer joins at a text's end and parts before a word, one goes to each side.
    """
    for number, (prompt, answer) in enumerate(shown):
        last = number == len(shown) - 1
        yield Document(f"\n{prompt}" if number else prompt, name, {"continues": number > 0, "learned": False})
        yield Document(answer if last else f"{answer}\n", name, {"continues": True})
