"""Tables of replies to a customer, by agents of whom some are rude: the facts are known, and so is the manner.

    reply        a request -> the agent's reply, rude in a share of the rows     generate
    manner       a reply -> polite or rude                                       classify
    preferences  a request, and the better and the worse of two replies, or a ranking of several

A request is what the customer wrote, and what the desk has decided: product, problem, order number, what is given and
how long it takes are in it, and a reply tells them. Row i of a part depends on `(name, seed, part, i)` alone.
"""

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from modelwright.data.desk import agent, customer, words
from modelwright.data.desk.facts import Part, chance, draw, mistaken, pick, shuffled
from modelwright.data.desk.manners import Manner, worded

TOLD = ("product", "problem", "order", "resolution", "wait")  # facts of a reply
RUDE = 0.4  # share of the replies that a model is to learn from
UNTRUE, RANKED = 0.25, 0.15  # shares of the preferences in which facts decide, and of those that are rankings

REPEATABLE = {  # what the agent can say of the customer's product in the customer's words
    name: tuple(said for said in problem.said if not {"I", "my"} & set(said.split()))
    for name, problem in words.PROBLEMS.items()
}
DECISIONS = ("Decision: {resolution}, {wait}.", "Desk: {resolution}, {wait}.", "To be told: {resolution}, {wait}.")

Fields = dict[str, Any]
Facts = dict[str, str]


def request(rng: Random, part: Part) -> tuple[str, Facts]:
    """What a reply is to answer, and every fact in it as it stands there."""
    facts = draw(rng, part)
    facts["problem"] = pick(rng, REPEATABLE[facts["problem"]])
    facts["resolution"] = pick(rng, words.RESOLUTIONS[facts["resolution"]].said)
    facts["wait"] = pick(rng, agent.WAITS)
    item = "{colour} {product}" if chance(rng, 0.3) else "{product}"
    said = [pick(rng, customer.COMPLAINTS).replace("{item}", item), pick(rng, customer.TELLS["order"])]
    if chance(rng, 0.3):
        said.insert(0, pick(rng, customer.TELLS[pick(rng, ("customer", "city"))]))
    if chance(rng, 0.4):
        said.append(pick(rng, customer.OPENERS[facts["mood"]]))
    text = f"Customer: {' '.join(said)}\n{pick(rng, DECISIONS)}"
    return text.format_map(facts), facts


def reply(seed: int, part: Part, count: int) -> Iterator[Fields]:
    """With a column `polite`, the reply as a polite agent would have written it."""
    for i in range(count):
        rng = Random(f"reply/{seed}/{part}/{i}")
        asked, facts = request(rng, part)
        polite, rude = worded(rng, "polite", facts), worded(rng, "rude", facts)
        manner: Manner = "rude" if chance(rng, RUDE) else "polite"
        said = rude if manner == "rude" else polite
        told = [facts[fact] for fact in TOLD]
        yield {"request": asked, "reply": said, "manner": manner, "facts": told, "polite": polite}


def manner(seed: int, part: Part, count: int) -> Iterator[Fields]:
    for i in range(count):
        rng = Random(f"manner/{seed}/{part}/{i}")
        label: Manner = "rude" if chance(rng, 0.5) else "polite"
        yield {"reply": worded(rng, label, request(rng, part)[1]), "manner": label}


def preferences(seed: int, part: Part, count: int) -> Iterator[Fields]:
    """`differ` says what decides: the manner, of replies with the same facts; facts, of two polite replies; or both,
    in a ranking, where a rude reply and an untrue one are equally bad, and one that is both is worse."""
    for i in range(count):
        rng = Random(f"preferences/{seed}/{part}/{i}")
        asked, facts = request(rng, part)
        kind = rng.random()
        best = worded(rng, "polite", facts)
        if kind < UNTRUE:
            yield {"request": asked, "chosen": best, "rejected": untrue(rng, "polite", facts), "differ": "facts"}
        elif kind < UNTRUE + RANKED:
            yield {"request": asked, **ranking(rng, best, facts), "differ": "both"}
        else:
            yield {"request": asked, "chosen": best, "rejected": worded(rng, "rude", facts), "differ": "manner"}


def ranking(rng: Random, best: str, facts: Facts) -> Fields:
    """Three replies in any order, and their ranks: 1, 2 and 2, or 1, 2 and 3."""
    rude, wrong = (worded(rng, "rude", facts), 2), (untrue(rng, "polite", facts), 2)
    last = pick(rng, (rude, wrong)), (untrue(rng, "rude", facts), 3)
    ranked = shuffled(rng, [(best, 1), *((rude, wrong) if chance(rng, 0.5) else last)])
    return {"completions": [text for text, _ in ranked], "ranks": [rank for _, rank in ranked]}


def untrue(rng: Random, manner: Manner, facts: Facts) -> str:
    """A reply that leaves out what is given, how long it takes or what it is about; or says one of them wrongly."""
    if chance(rng, 0.5):
        return worded(rng, manner, facts, leave_out=(pick(rng, ("about", "offer", "delay")),))
    return worded(rng, manner, misstated(rng, facts))


def misstated(rng: Random, facts: Mapping[str, str]) -> Facts:
    """The facts with another product, order number, resolution or wait."""
    fact = pick(rng, ("product", "order", "resolution", "wait"))
    if fact == "order":
        return {**facts, fact: mistaken(rng, fact, facts[fact])}
    wrong = facts[fact]
    while wrong == facts[fact]:
        wrong = pick(rng, _ANOTHER[fact])
    return {**facts, fact: wrong}


_ANOTHER: dict[str, tuple[str, ...]] = {
    "product": tuple(words.PRODUCTS),
    "resolution": tuple(said for resolution in words.RESOLUTIONS.values() for said in resolution.said),
    "wait": agent.WAITS,
}
