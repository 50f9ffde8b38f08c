"""The embedded support desk: what it promises of its dialogues, checked against their text alone."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import combinations as pairs
from itertools import islice, pairwise
from random import Random
from string import Formatter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.desk import (
    ENTITIES,
    FACTS,
    OPTIONAL,
    PARTS,
    SHAPES,
    Case,
    Part,
    agent,
    cases,
    combinations,
    customer,
    documents,
    part_of,
    words,
)
from modelwright.data.desk.cases import QUESTIONS
from modelwright.data.desk.facts import mistaken
from modelwright.data.desk.summary import summarise

VALUES: dict[str, tuple[str, ...]] = {  # what each fact can be called in a dialogue
    "city": tuple(words.CITIES),
    "product": tuple(words.PRODUCTS),
    "colour": tuple(words.COLOURS),
    "day": (*words.WEEKDAYS, *words.DATES),
}
WHOLE_WORD = {
    **{
        fact: re.compile(r"\b(?:" + "|".join(sorted(values, key=len, reverse=True)) + r")\b")
        for fact, values in VALUES.items()
    },
    "customer": re.compile(rf"\b(?:{'|'.join(words.WOMEN + words.MEN)}) (?:{'|'.join(words.LAST_NAMES)})\b"),
    "order": re.compile(r"\b[A-Z]{2}-[0-9]{4}\b"),
}


def test_parts_share_no_combination() -> None:
    """The three parts split all that can be: disjoint by construction, and nothing is lost."""
    allowed = {
        (product, problem, resolution)
        for product, row in words.PRODUCTS.items()
        for problem, kinds_and_more in words.PROBLEMS.items()
        for resolution in kinds_and_more.remedies
        if row.kind in kinds_and_more.kinds
    }
    of_part = {part: set(combinations(part)) for part in PARTS}
    assert all(not of_part[one] & of_part[other] for one, other in pairs(PARTS, 2))
    assert set().union(*of_part.values()) == allowed
    assert all(part_of(*combination) == part for part in PARTS for combination in of_part[part])
    assert all(0.08 < len(of_part[part]) / len(allowed) < 0.12 for part in ("valid", "test"))
    for place, table in enumerate((words.PRODUCTS, words.PROBLEMS, words.RESOLUTIONS)):
        assert {combination[place] for combination in of_part["train"]} == set(table)


def combination_in(text: str) -> tuple[str, str, str]:
    """The product, problem and resolution of a dialogue, read from its text alone."""
    (product,) = set(WHOLE_WORD["product"].findall(text))
    (problem,) = {key for key, row in words.PROBLEMS.items() if any(phrase in text for phrase in row.said)}
    (resolution,) = {key for key, row in words.RESOLUTIONS.items() if any(phrase in text for phrase in row.said)}
    return product, problem, resolution


@pytest.mark.parametrize("part", PARTS)
def test_text_alone_tells_its_part(part: Part) -> None:
    """So a text can stand in one part only, whatever the seeds: its combination is a function of it."""
    for seed in (0, 1, -7):
        for case in cases(seed, part, count=150):
            found = combination_in(case.text)
            assert found == (case.facts["product"], case.facts["problem"], case.facts["resolution"])
            assert part_of(*found) == part


def sentences_of(module: object) -> list[str]:
    """Every sentence in a module's tables."""

    def strings(value: object) -> list[str]:
        if isinstance(value, str):
            return [value]
        if isinstance(value, dict):
            return [text for item in value.values() for text in strings(item)]
        return [text for item in value for text in strings(item)] if isinstance(value, tuple) else []

    return [text for name, value in vars(module).items() if name.isupper() for text in strings(value)]


def test_sentences_hold_no_value_and_no_phrase() -> None:
    """What the text tells comes out of slots only: the sentences themselves name no fact."""
    phrases = [phrase for row in (*words.PROBLEMS.values(), *words.RESOLUTIONS.values()) for phrase in row.said]
    sentences = sentences_of(customer) + sentences_of(agent)
    assert len(sentences) > 400
    names = re.compile(rf"\b(?:{'|'.join(words.WOMEN + words.MEN + words.LAST_NAMES)})\b")
    for sentence in sentences:
        assert not any(pattern.search(sentence) for pattern in WHOLE_WORD.values()), sentence
        assert not names.search(sentence), sentence
        assert not any(phrase in sentence for phrase in phrases), sentence


def test_phrases_of_different_values_never_overlap() -> None:
    for table in (words.PROBLEMS, words.RESOLUTIONS):
        rows = [(key, phrase) for key, row in table.items() for phrase in row.said]
        for (one, phrase), (other, longer) in ((a, b) for a in rows for b in rows if a[0] != b[0]):
            assert phrase not in longer, (one, other)
    everything = [value for values in VALUES.values() for value in values if not value[-1].isdigit()]
    everything += [*words.WOMEN, *words.MEN, *words.LAST_NAMES, *agent.NAMES]
    assert len(everything) == len(set(everything))
    for product, other in pairs(words.PRODUCTS, 2):
        assert not re.search(rf"\b{product}\b", other)
        assert not re.search(rf"\b{other}\b", product)


def test_more_than_a_billion_dialogues() -> None:
    """Counted from the tables: each choice counted here stands in the text, so each gives another text."""
    facts = len(words.WOMEN + words.MEN) * len(words.LAST_NAMES) * len(words.CITIES) * len(words.COLOURS)
    facts *= len(words.ORDER_LETTERS) ** 2 * len(words.ORDER_NUMBERS)
    facts *= len(words.WEEKDAYS) + len(words.DATES)
    said = min(len(row.said) for row in words.PROBLEMS.values())
    said *= min(len(row.said) for row in words.RESOLUTIONS.values())
    phrasings = said * len(customer.COMPLAINTS) * min(map(len, customer.OPENERS.values()))
    phrasings *= min(map(len, customer.REACTIONS.values()))
    for part in PARTS:
        assert facts * phrasings * len(combinations(part)) > 1e18
    least = said * len(customer.COMPLAINTS) * 4 * 8 * 8  # nothing but the problem told: moods, opener, reaction
    assert least * len(combinations("test")) > 1e6


@pytest.mark.slow
def test_no_duplicates_among_twenty_thousand() -> None:
    """n^2 / 2N pairs of n should meet; N is over 1e18, or 1e6 for the one in 1000 that tells least."""
    texts = [case.text for case in cases(3, "train", count=20_000)]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {case.text for case in cases(4, "train", count=1_000)}


def check(case: Case, part: Part) -> None:
    """All that a case promises."""
    text = case.text
    assert set(case.facts) == set(FACTS)
    assert text.split("\n") == [f"{turn.speaker}: {turn.text}" for turn in case.turns]
    assert "{" not in "".join([text, case.summary, case.french, *(rude for _, rude in case.replies)])
    speakers = [turn.speaker for turn in case.turns]
    assert all(one != other for one, other in pairwise(speakers))
    assert part_of(case.facts["product"], case.facts["problem"], case.facts["resolution"]) == part
    check_spans(case)
    check_questions(case)
    check_summary(case)
    check_replies(case)
    check_mood(case)


def check_spans(case: Case) -> None:
    """Spans are exactly where the facts' values stand, and a fact is stated if its value stands somewhere."""
    text = case.text
    for start, end, type_ in case.spans:
        assert text[start:end] == case.facts[type_]
    assert list(case.spans) == sorted(case.spans)
    for fact in ENTITIES:
        found = {match.span() for match in WHOLE_WORD[fact].finditer(text) if match.group() == case.facts[fact]}
        assert found == {span[:2] for span in case.spans if span.type == fact}
        assert (fact in case.stated) == bool(found) == bool(WHOLE_WORD[fact].search(text))
    assert case.stated >= {"product", "problem", "resolution"}
    assert "mood" not in case.stated


def check_questions(case: Case) -> None:
    fact_of = {question: fact for fact, questions in QUESTIONS.items() for question in questions}
    assert [fact_of[question] for question, _ in case.questions] == list(QUESTIONS)
    for question, answer in case.questions:
        fact = fact_of[question]
        assert (answer is None) == (fact not in case.stated)
        assert answer is None or answer in case.text
        if fact in ENTITIES:
            assert answer in (None, case.facts[fact])
        else:
            table = words.PROBLEMS if fact == "problem" else words.RESOLUTIONS
            assert answer in table[case.facts[fact]].said


def check_summary(case: Case) -> None:
    """Every stated fact is in it, no unstated one, and the mood; the French says the same."""
    facts, summary, french = case.facts, case.summary, case.french
    for fact in ENTITIES:
        found = WHOLE_WORD[fact].findall(summary)
        assert found == ([facts[fact]] if fact in case.stated else [])
    assert any(english in summary for english, _ in words.PROBLEMS[facts["problem"]].told)
    assert any(english in summary for english, _ in words.RESOLUTIONS[facts["resolution"]].told)
    assert any(french_ in french for _, french_ in words.RESOLUTIONS[facts["resolution"]].told)
    assert facts["mood"] in summary
    assert any(humeur in french for humeur in words.MOODS[facts["mood"]])
    assert (words.CITIES[facts["city"]] in french) == ("city" in case.stated)
    assert (facts["customer"] in french) == ("customer" in case.stated)
    assert (facts["order"] in french) == ("order" in case.stated)
    day = words.WEEKDAYS.get(facts["day"]) or words.DATES[facts["day"]]
    assert bool(re.search(rf"\b{day}\b", french)) == ("day" in case.stated)
    assert words.PRODUCTS[facts["product"]].french in french
    check_french(french, words.PRODUCTS[facts["product"]].feminine)


def check_french(french: str, feminine: bool) -> None:
    """No article or preposition before a vowel, and participles agree with the product."""
    assert not re.search(r"\b([Ll]e|[Ll]a|[Dd]e|[Qq]ue) [aeiouéêàAEIOUÉ]", french), french
    assert not re.search(r"\b[ld]'[^aeiouéêAEIOUÉ]", french), french
    for participle in re.findall(r"\b(?:command|endommag|ray|cass|factur|pay|tach|déchir)ée?\b", french):
        assert participle.endswith("ée") == feminine, french
    pronouns = re.findall(r"(?:: |\. )(il|elle|Il|Elle)\b", french)
    assert all(pronoun.lower() == ("elle" if feminine else "il") for pronoun in pronouns), french
    assert "  " not in french


def check_replies(case: Case) -> None:
    """Polite is what was said; rude differs and speaks of the same things."""
    assert [polite for polite, _ in case.replies] == [turn.text for turn in case.turns if turn.speaker == "Agent"]
    phrases = (*words.RESOLUTIONS[case.facts["resolution"]].said, *agent.SHOPS, *agent.NAMES, *agent.WAITS)
    for polite, rude in case.replies:
        assert polite != rude
        for pattern in WHOLE_WORD.values():
            assert Counter(pattern.findall(polite)) == Counter(pattern.findall(rude))
        assert [phrase in polite for phrase in phrases] == [phrase in rude for phrase in phrases]


def check_mood(case: Case) -> None:
    """The opening and the reaction show it, and no other mood is shown."""
    said = "\n".join(turn.text for turn in case.turns if turn.speaker == "Customer")
    for table in (customer.OPENERS, customer.REACTIONS, customer.REMARKS):
        shown = {mood for mood, sentences in table.items() if any(sentence in said for sentence in sentences)}
        assert shown == {case.mood} or (table is customer.REMARKS and not shown)
    assert case.mood == case.facts["mood"]


@pytest.mark.parametrize("part", PARTS)
def test_cases_keep_their_promises(part: Part) -> None:
    found = list(cases(11, part, count=400))
    for case in found:
        check(case, part)
    assert len({case.id for case in found}) == 400


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(), part=st.sampled_from(PARTS), i=st.integers(0, 10**15))
def test_any_case_of_any_seed_keeps_them(seed: int, part: Part, i: int) -> None:
    case = next(cases(seed, part, start=i))
    check(case, part)
    assert case.id == f"desk-{seed}-{part}-{i}"


def test_moods_share_no_sentence() -> None:
    for table in (customer.OPENERS, customer.REMARKS, customer.REACTIONS):
        assert set(table) == set(words.MOODS)
    everything = [
        sentence
        for table in (customer.OPENERS, customer.REMARKS, customer.REACTIONS)
        for sentences in table.values()
        for sentence in sentences
    ]
    assert len(everything) == len(set(everything)) >= 100


def slots(sentence: str) -> set[str]:
    return {slot for _, slot, _, _ in Formatter().parse(sentence) if slot}


def acts_of(value: object) -> list[agent.Act]:
    if isinstance(value, agent.Act):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [act for item in inside for act in acts_of(item)]


def test_all_ways_of_an_act_have_the_same_slots() -> None:
    acts = acts_of({name: value for name, value in vars(agent).items() if name.isupper()})
    assert len(acts) > 25
    for polite, rude in acts:
        assert len({frozenset(slots(sentence)) for sentence in polite + rude}) == 1
        assert len(set(polite) | set(rude)) == len(polite) + len(rude)
        assert len(polite) > 1 < len(rude)


@pytest.mark.parametrize("table", [agent.SUMMING_UP, agent.OFFERS, agent.FAREWELLS])
def test_acts_need_the_facts_they_are_filed_under(table: dict[tuple[str, ...], agent.Act]) -> None:
    for needed, act in table.items():
        assert slots(act.polite[0]) - {"product", "resolution"} == set(needed) - {"product"}


def test_moods_facts_and_corrections_vary() -> None:
    sample = list(cases(5, "train", count=600))
    moods = Counter(case.mood for case in sample)
    assert set(moods) == set(words.MOODS)
    assert min(moods.values()) > 100
    for fact in OPTIONAL:
        share = sum(fact in case.stated for case in sample) / len(sample)
        assert 0.68 < share < 0.82, fact  # 0.75, four standard deviations
    unanswered = sum(answer is None for case in sample for _, answer in case.questions)
    assert 0.12 < unanswered / (len(sample) * len(QUESTIONS)) < 0.20  # 5 x 0.25 / 8 = 0.156
    corrected = sum(
        len({match.group() for match in WHOLE_WORD[fact].finditer(case.text)}) == 2
        for case in sample
        for fact in OPTIONAL
    )
    assert 0.22 < corrected / len(sample) < 0.38
    assert len({len(case.turns) for case in sample}) > 8


def test_a_correction_ends_with_the_right_value() -> None:
    """Where two values of a fact stand in a dialogue, the last one is the fact."""
    corrected = 0
    for case in cases(6, "train", count=600):
        for fact in OPTIONAL:
            found = [match.group() for match in WHOLE_WORD[fact].finditer(case.text)]
            if len(set(found)) == 2:
                corrected += 1
                assert found[-1] == case.facts[fact]
    assert corrected > 100


def test_a_mistake_is_near_but_never_right() -> None:
    rng = Random(0)
    for _ in range(200):
        assert mistaken(rng, "order", "AB-1234")[:5] == "AB-12"
        assert mistaken(rng, "order", "AB-1234") != "AB-1234"
        assert mistaken(rng, "customer", "Anna Keller").split()[0] == "Anna"
        assert mistaken(rng, "colour", "red") in set(words.COLOURS) - {"red"}


@pytest.mark.parametrize(
    ("product", "colour", "expected"),
    [
        ("kettle", "black", "la bouilloire noire commandée"),
        ("laptop", "white", "l'ordinateur portable blanc commandé"),
        ("shelf", "green", "l'étagère verte commandée"),
        ("alarm clock", "purple", "le réveil violet commandé"),
        ("scarf", "purple", "l'écharpe violette commandée"),
        ("smart watch", "silver", "la montre connectée argentée commandée"),
        ("sofa", "brown", "le canapé marron commandé"),
        ("dress", "blue", "la robe bleue commandée"),
        ("vacuum cleaner", "grey", "l'aspirateur gris commandé"),
        ("office chair", "grey", "la chaise de bureau grise commandée"),
    ],
)
def test_french_product_and_colour_agree(product: str, colour: str, expected: str) -> None:
    facts = dict(next(cases(0)).facts) | {
        "product": product,
        "colour": colour,
        "problem": "late",
        "day": "May 1",
    }
    found = [summarise(Random(n), facts, {"product", "colour", "day"}) for n in range(20)]
    assert any(f"{expected} le 1er mai" in french.lower() for _, french in found)
    arrived = "arrivée" if expected.endswith("ée") else "arrivé"
    assert any(re.search(rf"\b{arrived}\b", french) for _, french in found)


@pytest.mark.parametrize(
    ("name", "city", "stated", "subject", "mood"),
    [
        (
            "Anna Keller",
            "London",
            {"customer", "city"},
            "Anna Keller, de Londres, dit",
            "La cliente est inquiète.",
        ),
        ("Peter Rossi", "Oslo", {"customer", "city"}, "Peter Rossi, d'Oslo, dit", "Le client est inquiet."),
        ("Anna Keller", "Athens", {"city"}, "Un client d'Athènes dit", "Le client est inquiet."),
        ("Olga Sato", "Athens", {"customer"}, "Olga Sato dit", "La cliente est inquiète."),
        ("Olga Sato", "Athens", set(), "Un client dit", "Le client est inquiet."),
    ],
)
def test_french_customer_agrees(name: str, city: str, stated: set[str], subject: str, mood: str) -> None:
    facts = dict(next(cases(0)).facts) | {"customer": name, "city": city, "mood": "worried"}
    found = [summarise(Random(n), facts, stated)[1] for n in range(60)]
    assert any(french.startswith(subject) for french in found)
    assert any(mood in french for french in found)


def test_feminine_colours_follow_the_rule() -> None:
    irregular = {"blanc": "blanche", "violet": "violette"}
    invariable = {"orange", "marron", "turquoise"}  # names of things, and what ends in e already
    for masculine, feminine in words.COLOURS.values():
        regular = masculine if masculine in invariable or masculine.endswith("e") else masculine + "e"
        assert feminine == irregular.get(masculine, regular)


def test_any_slice_stands_alone() -> None:
    """Random access: a case depends on (seed, part, number), not on what was made before it."""
    together = list(cases(9, "valid", count=40))
    assert [next(cases(9, "valid", start=n)) for n in (39, 0, 17)] == [together[n] for n in (39, 0, 17)]
    assert list(cases(9, "valid", start=30, count=10)) == together[30:]
    assert list(islice(cases(9, "valid"), 40)) == together
    assert list(cases(9, count=0)) == []
    assert next(cases(9, "valid")).text != next(cases(10, "valid")).text
    assert [case.id for case in together[:2]] == ["desk-9-valid-0", "desk-9-valid-1"]


def test_same_in_every_process() -> None:
    program = """
import hashlib
from modelwright.data.desk import cases, documents
whole = [(case.text, case.summary, case.french, case.spans, case.questions, case.replies, sorted(case.stated))
         for case in cases(1, count=50)]
whole += [document.text for document in documents(1, "test", count=50)]
print(hashlib.sha256(repr(whole).encode()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_documents_are_the_cases_and_what_is_asked_of_them() -> None:
    made = list(documents(2, "valid", start=5, count=300))
    assert {document.meta["shape"] for document in made} == set(SHAPES)
    for document, case in zip(made, cases(2, "valid", start=5, count=300), strict=True):
        assert document.id == case.id
        assert document.text.startswith(case.text)
        rest = document.text.removeprefix(case.text)
        shape = document.meta["shape"]
        if shape == "dialogue":
            assert rest == ""
        elif shape == "summary":
            assert rest == f"\nSummary: {case.summary}"
        elif shape == "french":
            assert rest == f"\nSummary: {case.summary}\nFrench: {case.french}"
        elif shape == "questions":
            known = dict(case.questions)
            asked = re.findall(r"\nQuestion: (.*)\nAnswer: (.*)", rest)
            assert len(asked) == 2
            assert all(answer == (known[question] or "The dialogue does not say.") for question, answer in asked)
        elif shape == "mood":
            assert rest == f"\nMood: {case.mood}"
        elif shape == "facts":
            told = dict(item.split(" = ") for item in rest.removeprefix("\nFacts: ").split(", "))
            assert told == {fact: case.facts[fact] for fact in case.stated}
        else:
            assert rest in [f"\nRude: {rude}\nPolite: {polite}" for polite, rude in case.replies]


@pytest.mark.parametrize("make", [cases, documents])
def test_wrong_arguments_are_refused_at_once(make: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="no part 'dev'; it has train, valid and test"):
        make(0, "dev")
    with pytest.raises(ValueError, match="must not be negative, not -1 and None"):
        make(0, start=-1)
    with pytest.raises(ValueError, match="must not be negative, not 0 and -2"):
        make(0, count=-2)


def test_text_is_ascii_and_french_accents() -> None:
    for case in cases(8, count=200):
        assert case.text.isascii()
        assert case.summary.isascii()
        assert not set(case.french) - set(map(chr, range(32, 127))) - set("àâçéèêëîïôùûÉ")
