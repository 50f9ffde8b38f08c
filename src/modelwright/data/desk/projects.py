"""The tasks of the desk's own projects: tables of examples that no base of the desk was pretrained on.

    route      a ticket -> the team that is to have it                       classify
    note       a ticket -> where, what is given and for which product        generate
    arrival    a ticket -> the day it came, not that of the order, and what  generate
    slip       a ticket -> its order and customer                            generate
    brief      a ticket -> of what is given, product and city what it says   generate
    record     a dialogue -> what it says, as a line of facts                generate
    summary    a dialogue -> two to four sentences                           summarise

and of `replies`: reply, manner, preferences.
Row i of a part depends on `(name, seed, part, i)` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from modelwright.data.desk.cases import Case, cases
from modelwright.data.desk.facts import PARTS, Part
from modelwright.data.desk.replies import manner, preferences, reply
from modelwright.data.desk.tickets import Note, made_to_say, ticket

Fields = dict[str, Any]
SOURCE = re.compile(r"desk:(?P<name>[a-z]+)(/(?P<part>[a-z]+))?(:(?P<count>\d+))?(#(?P<seed>\d+))?")
COUNT, SEED = 1000, 1
TEAMS = {"refund": "money", "voucher": "money", "discount": "money", "repair": "workshop", "technician": "workshop",
         "part": "workshop", "return": "parcel", "replacement": "parcel", "tracking": "parcel"}  # fmt: skip


def rows(source: str) -> Iterator[tuple[str, Fields]]:
    """The rows of `desk:NAME[/PART][:COUNT][#SEED]`, each (id, fields).

    Raises ValueError for a name or a part that the desk has not.
    """
    said = SOURCE.fullmatch(source)
    if said is None or said["name"] not in PROJECTS or said["part"] not in (None, *PARTS):
        raise ValueError(
            f"the desk has no table {source!r}: say desk:NAME/PART:COUNT with a name among {', '.join(PROJECTS)} and a "
            f"part among {', '.join(PARTS)}"
        )
    part: Part = said["part"] or "train"
    seed, count = int(said["seed"] or SEED), int(said["count"] or COUNT)
    name = said["name"]
    return ((f"{name}-{part}-{i}", fields) for i, fields in enumerate(PROJECTS[name](seed, part, count)))


def route(seed: int, part: Part, count: int) -> Iterator[Fields]:
    for i in range(count):
        rng = Random(f"route/{seed}/{part}/{i}")
        found = ticket(rng, part, ("resolution",))
        while found.kinds["resolution"] not in TEAMS:
            found = ticket(rng, part, ("resolution",))
        yield {"ticket": found.text, "team": TEAMS[found.kinds["resolution"]]}


def note(seed: int, part: Part, count: int) -> Iterator[Fields]:
    return noted("note", Note(("city", "resolution", "product"), " - "), seed, part, count)


def arrival(seed: int, part: Part, count: int) -> Iterator[Fields]:
    return noted("arrival", Note(("came", "product"), " - "), seed, part, count)


def slip(seed: int, part: Part, count: int) -> Iterator[Fields]:
    return noted("slip", Note(("order", "customer"), " / "), seed, part, count)


def brief(seed: int, part: Part, count: int) -> Iterator[Fields]:
    return noted("brief", Note(("resolution", "product", "city"), " - "), seed, part, count, whole=False)


def noted(name: str, form: Note, seed: int, part: Part, count: int, whole: bool = True) -> Iterator[Fields]:
    """Tickets that say the facts of one form of note, or not the whole of them, with that note."""
    for i in range(count):
        rng = Random(f"{name}/{seed}/{part}/{i}")
        found = ticket(rng, part, form.facts if whole else made_to_say(rng, form.facts))
        facts = [found.facts[fact] for fact in form.facts if fact in found.facts]
        yield {"ticket": found.text, "note": form.answer(found), "facts": facts}


def record(seed: int, part: Part, count: int) -> Iterator[Fields]:
    for case in cases(seed, part, count=count):
        said = [case.facts[fact] for fact in ("customer", "order", "product", "colour", "city") if fact in case.stated]
        yield {"dialogue": case.text, "record": " | ".join(said), "facts": said}


def summary(seed: int, part: Part, count: int) -> Iterator[Fields]:
    for case in cases(seed, part, count=count):
        yield {"dialogue": case.text, "summary": case.summary, "facts": stated(case)}


def stated(case: Case) -> list[str]:
    """The entities that a dialogue states, as a summary is to name them."""
    return [
        case.facts[fact] for fact in ("customer", "city", "product", "colour", "order", "day") if fact in case.stated
    ]


PROJECTS: dict[str, Callable[[int, Part, int], Iterator[Fields]]] = {
    "route": route,
    "note": note,
    "arrival": arrival,
    "slip": slip,
    "brief": brief,
    "record": record,
    "summary": summary,
    "reply": reply,
    "manner": manner,
    "preferences": preferences,
}
