"""A support desk's cases: the dialogue, and what can be asked of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import count as count_from
from random import Random
from string import Formatter
from typing import NamedTuple

from modelwright.data.desk import agent, words
from modelwright.data.desk.facts import ENTITIES, PARTS, Part, draw, mistaken, pick, shuffled
from modelwright.data.desk.script import Line, Plan, draw_plan, write_script
from modelwright.data.desk.summary import summarise
from modelwright.data.documents import Document

QUESTIONS: dict[str, tuple[str, ...]] = {
    "customer": ("What is the customer's name?", "Who is the customer?", "Who contacts the support desk?"),
    "city": (
        "Where does the customer live?",
        "Which city is the customer in?",
        "What is the customer's city?",
    ),
    "product": ("Which product is it about?", "What did the customer buy?", "What is the product?"),
    "colour": ("What colour is the product?", "Which colour did the customer choose?", "What is the colour?"),
    "order": ("What is the order number?", "Which order is it about?", "Under which number was it ordered?"),
    "day": (
        "When was the order placed?",
        "On which day was the product ordered?",
        "When did the customer buy it?",
    ),
    "problem": (
        "What is wrong with the product?",
        "What is the problem?",
        "What does the customer complain about?",
    ),
    "resolution": (
        "What does the agent offer?",
        "How is the problem resolved?",
        "What does the customer get?",
    ),
}
UNANSWERED = "The dialogue does not say."


class Turn(NamedTuple):
    speaker: str  # "Customer" or "Agent"
    text: str


class Span(NamedTuple):
    start: int  # characters into the dialogue's text
    end: int
    type: str  # one of ENTITIES


class Question(NamedTuple):
    question: str
    answer: str | None  # as it stands in the text; None: the dialogue does not say


@dataclass(frozen=True)
class Case:
    """One dialogue and what is known about it.

    `facts` has a value for every name in `FACTS`, said or not; `stated` names those that the dialogue says.
    The mood is never in `stated`: it shows in how the customer speaks. `replies` are the agent's turns in
    order, each as `(polite, rude)`; the polite one is in the dialogue.
    """

    id: str
    facts: Mapping[str, str]
    turns: tuple[Turn, ...]
    summary: str
    french: str
    spans: tuple[Span, ...]
    mood: str
    questions: tuple[Question, ...]
    replies: tuple[tuple[str, str], ...]
    stated: frozenset[str]

    @property
    def text(self) -> str:
        """The dialogue, one turn a line: `Customer: ...`, `Agent: ...`."""
        return "\n".join([f"{speaker}: {text}" for speaker, text in self.turns])


def cases(seed: int, part: Part = "train", *, start: int = 0, count: int | None = None) -> Iterator[Case]:
    """Cases `start`, `start + 1`, ... of a part: `count` of them, or without end."""
    return (_case(seed, part, i) for i in _numbers(part, start, count))


def documents(seed: int, part: Part = "train", *, start: int = 0, count: int | None = None) -> Iterator[Document]:
    """The same cases as plain text to pretrain on: the dialogue, then one thing that can be asked of it.

    `meta["shape"]` names what follows the dialogue (a key of `SHAPES`).
    """
    return (document(seed, part, i) for i in _numbers(part, start, count))


def _numbers(part: Part, start: int, count: int | None) -> Iterator[int]:
    if part not in PARTS:
        raise ValueError(f"the desk has no part {part!r}; it has train, valid and test")
    if start < 0 or (count is not None and count < 0):
        raise ValueError(f"start and count must not be negative, not {start} and {count}")
    return count_from(start) if count is None else iter(range(start, start + count))


def _case(seed: int, part: Part, i: int) -> Case:
    rng = Random(f"{seed}/{part}/{i}")
    facts = draw(rng, part)
    plan = draw_plan(rng)
    script = write_script(rng, plan, facts["mood"])
    values = _values(rng, plan, facts)
    turns, spans = _spoken(script, values)
    stated = frozenset(["problem", "resolution", *[span.type for span in spans]])
    summary, french = summarise(rng, facts, stated)
    return Case(
        id=f"desk-{seed}-{part}-{i}",
        facts=facts,
        turns=turns,
        summary=summary,
        french=french,
        spans=spans,
        mood=facts["mood"],
        questions=_questions(rng, values, stated),
        replies=_replies(script, turns, values),
        stated=stated,
    )


def _values(rng: Random, plan: Plan, facts: Mapping[str, str]) -> dict[str, str]:
    """What fills the slots of this case's sentences: its facts, and its own choice of phrases."""
    values = {
        **facts,
        "problem": pick(rng, words.PROBLEMS[facts["problem"]].said),
        "resolution": pick(rng, words.RESOLUTIONS[facts["resolution"]].said),
        "agent": pick(rng, agent.NAMES),
        "shop": pick(rng, agent.SHOPS),
        "wait": pick(rng, agent.WAITS),
    }
    if plan.slip:
        values["wrong"] = mistaken(rng, plan.slip.fact, facts[plan.slip.fact])
    return values


def _spoken(script: list[Line], values: Mapping[str, str]) -> tuple[tuple[Turn, ...], tuple[Span, ...]]:
    """The script's turns with their slots filled, and where in the dialogue's text the entities stand."""
    turns: list[Turn] = []
    spans: list[Span] = []
    start = 0
    for speaker, said, _ in script:
        start += len(f"{speaker}: ")
        text = _filled(said, values, start, spans)
        turns.append(Turn(speaker, text))
        start += len(text) + 1  # the line's end
    return tuple(turns), tuple(spans)


def _filled(sentences: list[str], values: Mapping[str, str], start: int, spans: list[Span]) -> str:
    """A turn's text, which begins at character `start`; its entities are added to `spans`."""
    pieces: list[str] = []
    for sentence in sentences:
        for literal, slot in _parsed(sentence):
            pieces.append(literal)
            start += len(literal)
            if slot:
                value = values[slot]
                if slot in ENTITIES:
                    spans.append(Span(start, start + len(value), slot))
                pieces.append(value)
                start += len(value)
    return "".join(pieces)[:-1]


@cache
def _parsed(sentence: str) -> tuple[tuple[str, str | None], ...]:
    """A sentence and the space after it as literal texts, each with the slot that follows it."""
    return tuple((literal, slot) for literal, slot, _, _ in Formatter().parse(f"{sentence} "))


def _questions(rng: Random, values: Mapping[str, str], stated: Set[str]) -> tuple[Question, ...]:
    asked = [(fact, pick(rng, questions)) for fact, questions in QUESTIONS.items()]
    return tuple([Question(question, values[fact] if fact in stated else None) for fact, question in asked])


def _replies(script: list[Line], turns: tuple[Turn, ...], values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    replies = [(turn.text, line.rude) for turn, line in zip(turns, script, strict=True) if line.rude]
    return tuple([(polite, " ".join(rude).format_map(values)) for polite, rude in replies])


# A case as one text


def document(seed: int, part: Part, i: int, shapes: Sequence[str] | None = None) -> Document:
    """Case `i` as one text in one of the `shapes`, by default any of `SHAPES`."""
    case = _case(seed, part, i)
    rng = Random(f"{case.id}/shape")
    shape = pick(rng, tuple(SHAPES) if shapes is None else shapes)
    return Document("\n".join([case.text, *SHAPES[shape](rng, case)]), case.id, {"shape": shape})


def _dialogue_alone(rng: Random, case: Case) -> list[str]:
    return []


def _with_summary(rng: Random, case: Case) -> list[str]:
    return [f"Summary: {case.summary}"]


def _with_french(rng: Random, case: Case) -> list[str]:
    return [f"Summary: {case.summary}", f"French: {case.french}"]


def _with_questions(rng: Random, case: Case) -> list[str]:
    asked = shuffled(rng, case.questions)[:2]
    return [f"Question: {question}\nAnswer: {answer or UNANSWERED}" for question, answer in asked]


def _with_mood(rng: Random, case: Case) -> list[str]:
    return [f"Mood: {case.mood}"]


def _with_facts(rng: Random, case: Case) -> list[str]:
    said = [f"{fact} = {value}" for fact, value in case.facts.items() if fact in case.stated]
    return [f"Facts: {', '.join(said)}"]


def _with_manners(rng: Random, case: Case) -> list[str]:
    polite, rude = pick(rng, case.replies)
    return [f"Rude: {rude}", f"Polite: {polite}"]


SHAPES: dict[str, Callable[[Random, Case], list[str]]] = {
    "dialogue": _dialogue_alone,
    "summary": _with_summary,
    "french": _with_french,
    "questions": _with_questions,
    "mood": _with_mood,
    "facts": _with_facts,
    "manners": _with_manners,
}
