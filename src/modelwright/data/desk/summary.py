"""The summary of a case, in English and in French, sentence by sentence the same."""

from collections.abc import Mapping, Set
from random import Random

from modelwright.data.desk import words
from modelwright.data.desk.facts import chance, pick

# Each row is an English sentence and its French. The French slots: {le}{objet} is the product with article
# and colour, {il} its pronoun, {e} the ending that agrees with it; {qui} is the customer, {Qui} and
# {de_qui} with the comma that the verb after them asks for, {client} the customer without a name.

REPORTS: tuple[tuple[str, str], ...] = (
    (
        "{Who} reports that the {item}{bought}{ref} {problem}.",
        "{Qui} signale que {le}{objet}{achat}{numero} {panne}.",
    ),
    (
        "{Who} says that the {item}{bought}{ref} {problem}.",
        "{Qui} dit que {le}{objet}{achat}{numero} {panne}.",
    ),
    (
        "{Who} explains that the {item}{bought}{ref} {problem}.",
        "{Qui} explique que {le}{objet}{achat}{numero} {panne}.",
    ),
    ("The {item}{bought}{ref} of {who} {problem}.", "{Le}{objet}{achat}{numero} {de_qui} {panne}."),
    ("The {item}{bought}{ref} {problem}, says {who}.", "{Le}{objet}{achat}{numero} {panne}, dit {qui}."),
    (
        "{Who} has a problem with the {item}{bought}{ref}: it {problem}.",
        "{Qui} a un problème avec {le}{objet}{achat}{numero} : {il} {panne}.",
    ),
)

BOUGHT = (" ordered on {day}", " commandé{e} {jour}")
BOUGHT_APART = (
    ("It was ordered on {day}.", "{Il} a été commandé{e} {jour}."),
    ("The order was placed on {day}.", "La commande a été passée {jour}."),
)
REF = (" (order {order})", " (commande {order})")
REF_APART = (
    ("The order number is {order}.", "Le numéro de commande est {order}."),
    ("The order is {order}.", "La commande est {order}."),
)

FEELINGS: tuple[tuple[str, str], ...] = (
    ("The customer is {mood}.", "{Client} est {humeur}."),
    ("The customer sounds {mood}.", "{Client} semble {humeur}."),
    ("The customer seems to be {mood}.", "{Client} paraît {humeur}."),
)
SOLUTIONS: tuple[tuple[str, str], ...] = (
    ("The agent offers {remedy}.", "L'agent propose {remede}."),
    ("The customer is offered {remedy}.", "{Client} se voit proposer {remede}."),
    ("In the end, the customer gets {remedy}.", "Finalement, {client} obtient {remede}."),
    ("The agent proposes {remedy} as a solution.", "L'agent propose {remede} comme solution."),
)


def summarise(rng: Random, facts: Mapping[str, str], stated: Set[str]) -> tuple[str, str]:
    """All that is stated and the mood, in English and in French."""
    slots = _about_product(facts, stated) | _about_customer(facts, stated)
    sentences = [pick(rng, REPORTS), *_about_order(rng, slots, stated)]
    ending = [pick(rng, FEELINGS), pick(rng, SOLUTIONS)]
    sentences += ending if chance(rng, 0.6) else ending[::-1]
    slots["problem"], panne = pick(rng, words.PROBLEMS[facts["problem"]].told)
    slots["panne"] = panne.replace("{e}", slots["e"])
    slots["remedy"], slots["remede"] = pick(rng, words.RESOLUTIONS[facts["resolution"]].told)
    english, french = zip(*sentences, strict=True)
    return " ".join(english).format_map(slots), " ".join(french).format_map(slots)


def _about_product(facts: Mapping[str, str], stated: Set[str]) -> dict[str, str]:
    _, noun, feminine = words.PRODUCTS[facts["product"]]
    article = "l'" if _elides(noun) else "la " if feminine else "le "
    item, objet = facts["product"], noun
    if "colour" in stated:
        item = f"{facts['colour']} {item}"
        objet = f"{noun} {words.COLOURS[facts['colour']][feminine]}"
    return {
        "item": item,
        "le": article,
        "Le": article.capitalize(),
        "objet": objet,
        "il": "elle" if feminine else "il",
        "Il": "Elle" if feminine else "Il",
        "e": "e" if feminine else "",
    }


def _about_customer(facts: Mapping[str, str], stated: Set[str]) -> dict[str, str]:
    name, city = facts["customer"], facts["city"]
    ville = words.CITIES[city]
    who, qui, comma, feminine = "a customer", "un client", "", False
    if "customer" in stated:
        who, qui, feminine = name, name, name.split()[0] in words.WOMEN
    if "city" in stated:
        who, comma = f"{who} from {city}", "," if "customer" in stated else ""
        qui = f"{qui}{comma} {_de(ville)}"
    client = "la cliente" if feminine else "le client"
    return {
        "who": who,
        "Who": who[0].upper() + who[1:],
        "qui": qui,
        "Qui": qui[0].upper() + qui[1:] + comma,
        "de_qui": _de(qui) + comma,
        "client": client,
        "Client": client.capitalize(),
        "mood": facts["mood"],
        "humeur": words.MOODS[facts["mood"]][feminine],
        "day": facts["day"],
        "jour": words.WEEKDAYS.get(facts["day"]) or words.DATES[facts["day"]],
        "order": facts["order"],
    }


def _about_order(rng: Random, slots: dict[str, str], stated: Set[str]) -> list[tuple[str, str]]:
    """Day and number of the order: as asides, which go into `slots`, or as sentences, returned."""
    apart = []
    for fact, english, french, aside, rows in (
        ("day", "bought", "achat", BOUGHT, BOUGHT_APART),
        ("order", "ref", "numero", REF, REF_APART),
    ):
        slots[english] = slots[french] = ""
        if fact in stated and chance(rng, 0.6):
            slots[english], slots[french] = aside[0].format_map(slots), aside[1].format_map(slots)
        elif fact in stated:
            apart.append(pick(rng, rows))
    return apart


def _de(name: str) -> str:
    return f"d'{name}" if _elides(name) else f"de {name}"


def _elides(word: str) -> bool:
    """Whether le, la and de lose their vowel before it (no product or city here begins with a mute h)."""
    return word[0] in "AEIOUÉaeiouéê"
