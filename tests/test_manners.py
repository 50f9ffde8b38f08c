"""The desk's replies: their facts are the request's, their manner is as labelled, and no word alone tells it."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from modelwright.data.desk import agent, part_of, words
from modelwright.data.desk.manners import ACTS, ASIDES, CHOICE, MIRRORS, Manner, expanded, is_rude, worded
from modelwright.data.desk.replies import REPEATABLE, TOLD, misstated, request, untrue
from modelwright.data.examples import Example, read_examples
from modelwright.data.preferences import preferences
from modelwright.data.task import Task, parse_task, prepare, read_task
from modelwright.evaluate.baselines import bag_of_words
from modelwright.evaluate.metrics import METRICS

FACTS = {  # as patterns: what each can be called
    "product": "|".join(words.PRODUCTS),
    "problem": "|".join(said for known in REPEATABLE.values() for said in known),
    "order": "[A-Z]{2}-[0-9]{4}",
    "resolution": "|".join(said for resolution in words.RESOLUTIONS.values() for said in resolution.said),
    "wait": "|".join(agent.WAITS),
}


def facts_in(text: str) -> dict[str, set[str]]:
    return {fact: set(re.findall(rf"\b(?:{pattern})(?!\w)", text)) for fact, pattern in FACTS.items()}


def wordings(act: str, manner: str) -> set[str]:
    """Every sentence that can say it, its choices made in each way."""
    return {choice for sentence in getattr(ACTS[act], manner) for choice in every(sentence)}


def every(sentence: str) -> list[str]:
    found = CHOICE.search(sentence)
    if found is None:
        return [sentence]
    before, after = sentence[: found.start()], sentence[found.end() :]
    return [said for choice in found[1].split("|") for said in every(before + choice + after)]


def marks(text: str, facts: dict[str, str]) -> Counter[str]:
    """How many sentences of each manner stand in a reply, mirrors among them."""
    said = {
        manner: [line.format_map(facts) for act in ACTS for line in wordings(act, manner)]
        for manner in ("polite", "rude")
    }
    for aside in ASIDES:
        for pair in MIRRORS:
            for manner, line in zip(("polite", "rude"), pair, strict=True):
                said[manner].append((aside + line)[0].upper() + (aside + line)[1:])
    return Counter({manner: sum(line in text for line in lines) for manner, lines in said.items()})


def test_a_reply_tells_the_facts_of_its_request_and_no_others() -> None:
    for row in read_examples("desk:reply:400"):
        told = dict(zip(TOLD, row.fields["facts"], strict=True))
        for column in ("reply", "polite"):
            assert facts_in(row.fields[column]) == {fact: {value} for fact, value in told.items()}
        assert all(value in row.fields["request"] for value in told.values())


def test_a_rude_reply_has_a_rude_sentence_and_a_polite_one_none() -> None:
    seen = Counter[tuple[str, bool]]()
    for i in range(300):
        _, facts = request(Random(i), "train")
        for manner in ("polite", "rude"):
            found = marks(worded(Random(i), manner, facts), facts)
            assert found[manner]
            assert manner == "rude" or not found["rude"]
            seen[manner, bool(found["polite"])] += 1
    assert 0.2 < seen["rude", True] / 300 < 0.9  # many begin or end politely all the same


def test_the_manner_is_as_labelled() -> None:
    for name, text in (("reply", "reply"), ("manner", "reply")):
        for row in read_examples(f"desk:{name}:150"):
            facts = {fact: next(iter(values)) for fact, values in facts_in(row.fields[text]).items()}
            assert bool(marks(row.fields[text], facts)["rude"]) == (row.fields["manner"] == "rude")


def test_the_polite_column_is_the_reply_where_that_is_polite() -> None:
    rows = [row.fields for row in read_examples("desk:reply:200")]
    assert all((row["reply"] == row["polite"]) == (row["manner"] == "polite") for row in rows)


@pytest.mark.parametrize(("name", "share"), [("reply", 0.4), ("manner", 0.5)])
def test_the_share_of_rude_replies(name: str, share: float) -> None:
    rows = read_examples(f"desk:{name}:2000")
    assert abs(sum(row.fields["manner"] == "rude" for row in rows) / 2000 - share) < 0.04


def test_all_ways_of_an_act_have_the_same_slots() -> None:
    for act in ACTS:
        slots = {
            frozenset(re.findall(r"\{(\w+)\}", line))
            for manner in ("polite", "rude", "plain")
            for line in wordings(act, manner)
        }
        assert len(slots) == 1, act


def test_there_are_hundreds_of_ways_to_say_it() -> None:
    _, facts = request(Random(0), "train")
    for manner in ("polite", "rude"):
        assert len({worded(Random(i), manner, facts) for i in range(2000)}) > 1900
        assert sum(len(wordings(act, manner)) for act in ACTS) > 100


def test_mirrors_say_the_opposite_in_the_same_words() -> None:
    for polite, rude in MIRRORS:
        assert polite != rude
        assert Counter(re.findall(r"\w+", polite)) == Counter(re.findall(r"\w+", rude))


def test_no_phrase_of_the_grammar_is_a_fact() -> None:
    """Or a reply would seem to tell one that it does not."""
    lines = [line for act in ACTS for manner in ("polite", "rude", "plain") for line in wordings(act, manner)]
    for line in [*lines, *(mirror for pair in MIRRORS for mirror in pair)]:
        assert not any(facts_in(line).values()), line


def test_words_alone_tell_most_manners_and_not_all() -> None:
    """By the ladder's own bag of words, to which the words of a reply come sorted."""
    task = parse_task({"kind": "classify", "data": {"train": "desk:manner"}}, "manner", Path())
    alone = score_of(task, lambda text: " ".join(sorted(re.findall(r"\w+", text.lower()))))
    assert 0.75 < alone < 0.95


def score_of(task: Task, shown: Callable[[str], str]) -> float:
    train, test = (
        [
            Example(row.id, {"text": shown(row.fields["reply"]), "label": row.fields["manner"]})
            for row in read_examples(source)
        ]
        for source in ("desk:manner:3000", "desk:manner/valid:1000")
    )
    predict = bag_of_words(task, train, METRICS["accuracy"]).predict
    return sum(predict(row) == row.fields["label"] for row in test) / len(test)


def test_what_differs_in_a_pair() -> None:
    rows = [row.fields for row in read_examples("desk:preferences:800")]
    kinds = Counter(row["differ"] for row in rows)
    assert abs(kinds["facts"] / 800 - 0.25) < 0.05
    assert abs(kinds["both"] / 800 - 0.15) < 0.05
    for row in rows:
        if row["differ"] == "both":
            continue
        chosen, rejected = facts_in(row["chosen"]), facts_in(row["rejected"])
        assert all(len(values) == 1 and values.pop() in row["request"] for values in chosen.values())
        known = {fact: values.copy() for fact, values in facts_in(row["chosen"]).items()}
        assert (rejected == known) == (row["differ"] == "manner")
        rude = marks(row["rejected"], {fact: next(iter(v)) for fact, v in rejected.items() if v} | missing(rejected))
        assert bool(rude["rude"]) == (row["differ"] == "manner")


def missing(found: dict[str, set[str]]) -> dict[str, str]:
    return {fact: "?" for fact, values in found.items() if not values}


def test_a_ranking_has_the_polite_and_true_reply_first() -> None:
    rows = [row.fields for row in read_examples("desk:preferences:600") if row.fields["differ"] == "both"]
    assert {tuple(sorted(row["ranks"])) for row in rows} == {(1, 2, 2), (1, 2, 3)}
    for row in rows:
        best = row["completions"][row["ranks"].index(1)]
        assert all(len(values) == 1 and values.pop() in row["request"] for values in facts_in(best).values())


def test_preferences_are_read_as_pairs_of_a_task() -> None:
    rows = read_examples("desk:preferences:300")
    found = preferences(rows, ("request",))
    ranked = [row for row in rows if row.fields["differ"] == "both"]
    pairs = sum(len(set(row.fields["ranks"])) for row in ranked)  # 2 with a tie, else 3
    assert len(found) == len(rows) - len(ranked) + pairs
    assert all(list(pair.fields) == ["request"] and not pair.prompt for pair in found)


def test_a_misstated_fact_is_another_one() -> None:
    for i in range(200):
        _, facts = request(Random(i), "train")
        wrong = misstated(Random(i), facts)
        assert sum(wrong[fact] != facts[fact] for fact in facts) == 1


@pytest.mark.parametrize("manner", ["polite", "rude"])
def test_an_untrue_reply_lacks_a_fact_of_the_request(manner: Manner) -> None:
    for i in range(200):
        _, facts = request(Random(i), "train")
        said = untrue(Random(i), manner, facts)
        assert facts_in(said) != {fact: {facts[fact]} for fact in TOLD}


@pytest.mark.parametrize("name", ["reply", "manner", "preferences"])
def test_parts_are_of_different_combinations(name: str) -> None:
    """As of all of the desk: product, problem and resolution fall into one part by a hash."""
    kinds = {said: kind for kind, known in REPEATABLE.items() for said in known}
    remedies = {said: kind for kind, known in words.RESOLUTIONS.items() for said in known.said}
    for part in ("train", "valid", "test"):
        for row in read_examples(f"desk:{name}/{part}:100"):
            text = row.fields.get("reply") or row.fields.get("chosen")
            if text is None:  # a ranking
                continue
            product, problem, resolution = (facts_in(text)[fact].pop() for fact in ("product", "problem", "resolution"))
            assert part_of(product, kinds[problem], remedies[resolution]) == part


def test_no_request_of_one_table_stands_in_another() -> None:
    seen = [
        {row.fields["request"] for row in read_examples(f"desk:{name}/{part}:1000")}
        for name in ("reply", "preferences")
        for part in ("train", "test")
    ]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 4000


def test_the_tables_are_what_they_were() -> None:
    """To the bit, from the seed: what was measured on them can be measured again."""
    rows = [row for name in ("reply", "manner", "preferences") for row in read_examples(f"desk:{name}:50")]
    said = "".join(str(row.fields) for row in rows)
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "4789b675eb86ee0f"


def test_a_choice_by_hand() -> None:
    assert {expanded(Random(i), "[a|b] c[ d|].") for i in range(40)} == {"a c d.", "b c d.", "a c.", "b c."}


def test_the_grammar_knows_its_own_rudeness() -> None:
    """Of whole replies, and of every sentence: what is polite in one act is not rude in another."""
    rows = [row.fields for row in read_examples("desk:manner:1500")]
    assert all(is_rude(row["reply"]) == (row["manner"] == "rude") for row in rows)
    _, facts = request(Random(3), "train")
    for act in ACTS:
        for manner in ("polite", "rude", "plain"):
            assert all(is_rude(line.format_map(facts)) == (manner == "rude") for line in wordings(act, manner)), act
    assert [[is_rude(f"{aside}{line}") for line in pair] for aside in ASIDES for pair in MIRRORS] == [
        [False, True]
    ] * len(ASIDES) * len(MIRRORS)


@pytest.mark.parametrize("name", ["reply", "polite", "manner"])
def test_the_example_s_tasks_are_fit(name: str) -> None:
    """Their parts share no input, and every row has what they ask for."""
    task, parts = prepare(read_task(Path(__file__).parents[1] / "examples" / "align-desk" / f"{name}.yaml"))
    inputs = [{task.input(example) for example in examples} for examples in parts.values()]
    assert [*parts] == ["train", "select", "decide"]
    assert sum(map(len, inputs)) == len(set.union(*inputs))
    assert task.kind != "classify" or task.labels == ("polite", "rude")
