"""Who says what, and when: a dialogue as turns of sentences whose slots are still open."""

from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Literal, NamedTuple

from modelwright.data.desk import agent, customer
from modelwright.data.desk.agent import Act
from modelwright.data.desk.facts import OPTIONAL, chance, pick, shuffled

Manner = Literal["at once", "later", "misheard"]
MANNERS: tuple[Manner, ...] = ("at once", "later", "misheard")  # when the customer corrects it


class Slip(NamedTuple):
    """A fact that is first said, or heard, wrongly."""

    fact: str
    manner: Manner


class Plan(NamedTuple):
    told: list[str]  # facts that the customer brings up
    asked: list[str]  # facts that the agent asks for
    refused: list[str]  # facts that the agent asks for in vain; the rest nobody mentions
    slip: Slip | None


class Line(NamedTuple):
    """One turn as sentences; for the agent also the same turn without manners (empty for the customer)."""

    speaker: str
    said: list[str]
    rude: list[str]


class Exchange(NamedTuple):
    question: Act
    answer: list[str]
    reply: Act  # opens the agent's next turn


def draw_plan(rng: Random) -> Plan:
    """What becomes of each fact that may be left unsaid."""
    plan = Plan([], [], [], None)
    for fact in shuffled(rng, OPTIONAL):
        fate = rng.random()
        if fate < 0.40:
            plan.told.append(fact)
        elif fate < 0.75:
            plan.asked.append(fact)
        elif fate < 0.85:
            plan.refused.append(fact)
    said = plan.told + plan.asked
    return plan._replace(slip=Slip(pick(rng, said), pick(rng, MANNERS))) if said and chance(rng, 0.3) else plan


def write_script(rng: Random, plan: Plan, mood: str) -> list[Line]:
    """Opening, questions and answers, perhaps a delay, settlement; customer and agent take turns."""
    script = _opening(rng, plan, mood)
    reply = pick(rng, agent.SYMPATHIES)
    for exchange in _inquiry(rng, plan) + _delay(rng, plan, mood):
        script += [_agent(rng, reply, exchange.question), _customer(rng, exchange.answer, mood)]
        reply = exchange.reply
    script += _settlement(rng, plan, reply, mood)
    if plan.slip:
        _let_slip(rng, script, plan.slip)
    return script


def _agent(rng: Random, *acts: Act) -> Line:
    return Line("Agent", [pick(rng, act.polite) for act in acts], [pick(rng, act.rude) for act in acts])


def _customer(rng: Random, said: list[str], mood: str) -> Line:
    remark = pick(rng, customer.REMARKS[mood])
    return Line("Customer", [*said, remark] if chance(rng, 0.2) and remark not in said else said, [])


def _opening(rng: Random, plan: Plan, mood: str) -> list[Line]:
    """The customer says what is wrong, at once or when invited to."""
    greeting = [pick(rng, customer.GREETINGS)] if chance(rng, 0.75) else []
    greeting += _tell(rng, [fact for fact in plan.told if fact in ("customer", "city")], customer.TELLS)
    complaint = _complaint(rng, [fact for fact in plan.told if fact in ("colour", "order", "day")], mood)
    if greeting and chance(rng, 0.2):
        invitation = _agent(rng, agent.INVITATIONS)
        return [Line("Customer", greeting, []), invitation, Line("Customer", complaint, [])]
    welcome = [_agent(rng, pick(rng, agent.WELCOMES))] if chance(rng, 0.4) else []
    return [*welcome, Line("Customer", greeting + complaint, [])]


def _complaint(rng: Random, told: list[str], mood: str) -> list[str]:
    """The problem with the product, what else is told about it, and how the customer feels."""
    item = "{product}"
    if "colour" in told and chance(rng, 0.7):
        item, told = "{colour} {product}", [fact for fact in told if fact != "colour"]
    complaint = [pick(rng, customer.COMPLAINTS).replace("{item}", item), *_tell(rng, told, customer.TELLS)]
    feeling = pick(rng, customer.OPENERS[mood])
    return [feeling, *complaint] if chance(rng, 0.5) else [*complaint, feeling]


def _tell(rng: Random, facts: list[str], table: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence per fact, or one for two that go together."""
    said: list[str] = []
    for pair, sentences in customer.TELLS_OF_TWO.items():
        if pair[0] in facts and pair[1] in facts and chance(rng, 0.6):
            said.append(pick(rng, sentences))
            facts = [fact for fact in facts if fact not in pair]
    return said + [pick(rng, table[fact]) for fact in facts]


def _inquiry(rng: Random, plan: Plan) -> list[Exchange]:
    """The agent asks for what has not been told, one or two facts at a time."""
    groups = [[fact] for fact in plan.refused]
    rest = plan.asked
    while rest:
        size = 2 if chance(rng, 0.4) else 1
        groups.append(rest[:size])
        rest = rest[size:]
    return [_exchange(rng, group, plan) for group in shuffled(rng, groups)]


def _exchange(rng: Random, facts: list[str], plan: Plan) -> Exchange:
    if len(facts) == 1 and chance(rng, 0.4):
        question = agent.QUESTIONS[facts[0]]
    else:
        question = _request(" and ".join([pick(rng, agent.WANTED[fact]) for fact in facts]))
    hesitation = [pick(rng, customer.HESITATIONS)] if chance(rng, 0.4) else []
    if facts[0] in plan.refused:
        return Exchange(question, [*hesitation, pick(rng, customer.REFUSALS[facts[0]])], agent.SHRUGS)
    answer = _tell(rng, facts, customer.SHORT_ANSWERS if chance(rng, 0.6) else customer.TELLS)
    reply = agent.ECHOES[pick(rng, facts)] if chance(rng, 0.4) else agent.THANKS
    return Exchange(question, hesitation + answer, reply)


@cache
def _request(wanted: str) -> Act:
    polite, rude = agent.REQUESTS
    return Act(
        tuple(sentence.replace("{wanted}", wanted) for sentence in polite),
        tuple(sentence.replace("{wanted}", wanted) for sentence in rude),
    )


def _delay(rng: Random, plan: Plan, mood: str) -> list[Exchange]:
    """After the questions a mistake is put right, or the customer waits and chats, or nothing happens."""
    manner = plan.slip.manner if plan.slip else None
    if manner == "misheard":
        return [Exchange(agent.CHECKS, [pick(rng, customer.DENIALS)], agent.THANKS)]
    if manner == "later":
        return [Exchange(agent.HOLDS, [pick(rng, customer.AMENDS)], agent.BACK)]
    if chance(rng, 0.3):
        chat = customer.REMARKS[mood] if mood == "angry" else customer.SMALL_TALK
        return [Exchange(agent.HOLDS, [pick(rng, chat)], agent.BACK)]
    return []


def _settlement(rng: Random, plan: Plan, reply: Act, mood: str) -> list[Line]:
    """The offer, the customer's reaction, perhaps how long it takes, perhaps goodbye."""
    said = {"product", *plan.told, *plan.asked}
    offer = [reply, _knowing(rng, agent.OFFERS, said)]
    if said & {"order", "colour", "day"} and chance(rng, 0.35):
        offer.insert(1, _knowing(rng, agent.SUMMING_UP, said))
    reaction, farewell = [pick(rng, customer.REACTIONS[mood])], [_knowing(rng, agent.FAREWELLS, said)]
    ending = rng.random()
    if ending < 0.3:
        return [_agent(rng, *offer), Line("Customer", reaction, [])]
    if ending < 0.6:
        reaction.append(pick(rng, customer.DELAY_QUESTIONS))
        farewell.insert(0, agent.DELAYS)
    elif ending < 0.8:
        offer.append(agent.DELAYS)
    script = [_agent(rng, *offer), Line("Customer", reaction, []), _agent(rng, *farewell)]
    return [*script, Line("Customer", [pick(rng, customer.GOODBYES)], [])] if chance(rng, 0.4) else script


def _knowing(rng: Random, acts: Mapping[tuple[str, ...], Act], said: set[str]) -> Act:
    """One of the acts that need no fact but those said."""
    return pick(rng, [act for needed, act in acts.items() if said.issuperset(needed)])


def _let_slip(rng: Random, script: list[Line], slip: Slip) -> None:
    """Put the mistake where the fact is first said; or, if it is found out later, everywhere until then."""
    slot = "{" + slip.fact + "}"
    if slip.manner == "at once":
        first = next(line for line in script if slot in " ".join(line.said))
        _replace(first.said, slot, pick(rng, customer.SLIPS))
    elif slip.manner == "later":
        amended = next(n for n, line in enumerate(script) if "{right}" in " ".join(line.said))
        for line in script[:amended]:
            _replace(line.said, slot, "{wrong}")
            _replace(line.rude, slot, "{wrong}")
    for line in script:
        _replace(line.said, "{right}", slot)


def _replace(sentences: list[str], old: str, new: str) -> None:
    sentences[:] = [sentence.replace(old, new) for sentence in sentences]
