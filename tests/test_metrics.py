"""Metrics against the libraries they come from, those libraries' own test values, plain versions, and by hand."""

import math
import random

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from modelwright.data.examples import Example
from modelwright.data.kind import Data, Task
from modelwright.evaluate import overlap
from modelwright.evaluate.entities import entities, entity_counts
from modelwright.evaluate.metrics import METRICS, default_metric, fits, score, wanted
from modelwright.evaluate.sentences import lines, sentences

WORDS = ["the", "cat", "cats", "sat", "sitting", "on", "a", "mat", "dog's", "it", "is", "12.5", "No.", "not", "Über"]
KINDS = ("summarise", "translate", "answer", "generate", "classify", "tag")


def texts(n: int, seed: int, longest: int = 14) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, longest))) + draw.choice(["", ".", "!"]) for _ in range(n)]


def task(labels=(), kind="generate") -> Task:
    return Task("t", kind, Data("x"), {}, (), "", labels=tuple(labels))


def stats_of(name: str, predictions, references, labels=(), kind="generate"):
    asked = task(labels, kind)
    return np.stack([METRICS[name].stats(p, r, asked) for p, r in zip(predictions, references, strict=True)])


def one(name: str, prediction, reference, labels=(), kind="generate") -> float:
    return score(METRICS[name], stats_of(name, [prediction], [reference], labels, kind))


# -- ROUGE ------------------------------------------------------------------------------------------------


def test_rouge_by_hand():
    assert one("rouge1", "testing", "testing one two") == pytest.approx(1 / 2)  # P 1, R 1/3
    assert one("rouge2", "testing one", "testing one two") == pytest.approx(2 / 3)
    assert one("rougeL", "testing two", "testing one two") == pytest.approx(4 / 5)
    assert one("rouge1", "the cat sits", "the cats sit") == 1.0  # stemmed; words of up to three letters are not
    assert one("rougeLsum", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5") == pytest.approx(
        0.8 * 0.4 / 0.6
    )  # Lin 2004
    assert one("rougeL", "", "some words") == one("rouge1", "Ü", "Ü") == 0.0


def test_rouge_of_the_paper():
    """Lin 2004, section 3.1: "police killed the gunman", with words in other orders (stemmed, killed is kill)."""
    reference = "police killed the gunman"
    assert (
        one("rougeL", "the gunman kill police", reference)
        == one("rougeL", "the gunman police killed", reference)
        == 1 / 2
    )
    assert one("rouge2", "the gunman kill police", reference) == pytest.approx(1 / 3)
    assert one("rouge2", "the gunman police killed", reference) == pytest.approx(2 / 3)


def test_rouge_equals_rouge_score():
    predictions, references = texts(30, 1), texts(30, 2)
    for name in ("rouge1", "rouge2", "rougeL"):
        scorer = RougeScorer([name], use_stemmer=True)
        theirs = [scorer.score(r, p)[name].fmeasure for p, r in zip(predictions, references, strict=True)]
        stats = stats_of(name, predictions, references)
        assert stats[:, 0].tolist() == theirs
        assert score(METRICS[name], stats) == pytest.approx(np.mean(theirs))
    scorer = RougeScorer(["rougeLsum"], use_stemmer=True)
    assert (
        one("rougeLsum", "it sat\non mats", "on a mat\nit sat")
        == scorer.score("on a mat\nit sat", "it sat\non mats")["rougeLsum"].fmeasure
    )


def test_rouge_sum_finds_sentences_in_another_order():
    prediction, reference = "Second sentence. First Sentence.", "First sentence. Second Sentence."
    assert one("rougeLsum", prediction, reference) == pytest.approx(1.0)
    assert one("rougeLsum", prediction.replace(". ", ".\n"), reference) == pytest.approx(1.0)
    assert one("rougeL", prediction, reference) == pytest.approx(0.5)


def test_sentences():
    assert sentences('One. Two? "Three!" Four e.g. five 3.5. 6') == [
        "One.",
        "Two?",
        '"Three!"',
        "Four e.g. five 3.5.",
        "6",
    ]
    assert sentences("one. two? three e.g. four") == ["one.", "two?", "three e.g.", "four"]  # small letters throughout
    assert sentences("你好。再见！") == ["你好。", "再见！"]
    assert sentences(" \n ") == lines("") == []
    assert lines("A: Hi. You?\n\n B: Yes.") == ["A: Hi. You?", "B: Yes."]
    assert lines("Hi. You?\n") == ["Hi.", "You?"]


# -- BLEU and chrF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 60])
@pytest.mark.parametrize("longest", [2, 14])
def test_bleu_and_chrf_of_a_sum_equal_sacrebleu(n, longest):
    for seed in range(6):
        predictions, references = texts(n, seed, longest), texts(n, seed + 100, longest)
        if seed % 2:
            predictions = [f"{r} {p}" for p, r in zip(predictions, references, strict=True)]
        theirs = sacrebleu.corpus_bleu(predictions, [references]).score
        assert score(METRICS["bleu"], stats_of("bleu", predictions, references)) == pytest.approx(
            theirs, rel=1e-12, abs=1e-12
        )
        theirs = sacrebleu.corpus_chrf(predictions, [references]).score
        assert score(METRICS["chrf"], stats_of("chrf", predictions, references)) == pytest.approx(theirs, rel=1e-12)


def test_bleu_by_hand():
    # 6 words against 6: 5 of 6, 3 of 5, 1 of 4, 0 of 3 -> half of one: (5/6 3/5 1/4 1/6)^(1/4)
    stats = overlap.bleu_stats("the cat sat on the mat", "the cat is on the mat")
    assert stats.tolist() == [6, 6, 5, 3, 1, 0, 6, 5, 4, 3]
    assert overlap.bleu(stats) == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)
    short = overlap.bleu_stats("the cat is on", "the cat is on the mat")
    assert overlap.bleu(short) == pytest.approx(100 * math.exp(1 - 6 / 4))  # nothing but the penalty
    assert overlap.bleu(overlap.bleu_stats("the cat", "the cat")) == 0  # too short for a 4-gram
    assert overlap.bleu(overlap.bleu_stats("one two three four", "a b c d")) == 0  # nothing found: not smoothed
    assert overlap.bleu(overlap.bleu_stats("", "the cat")) == overlap.bleu(overlap.bleu_stats("a", "")) == 0


def test_values_of_sacrebleus_own_tests():
    stats = overlap.bleu_stats("am I am a character sequence", "I am a symbol string sequence a a")
    assert stats.tolist() == [6, 8, 4, 2, 1, 0, 6, 5, 4, 3]
    assert overlap.bleu(np.array([11.0, 11, 9, 7, 5, 3, 10, 8, 6, 4])) == pytest.approx(83.75922397, abs=1e-8)
    assert one("bleu", "this is a test", "this is a test") == pytest.approx(100)
    for predictions, references, expected in (
        (["a"], ["a"], 100), (["a b c"], ["abc"], 100), (["a", "b"], ["a", "c"], 50),
        (["aa"], ["ab"], 25), ([""], ["c"], 0),
    ):  # fmt: skip
        assert score(METRICS["chrf"], stats_of("chrf", predictions, references)) == pytest.approx(expected)


def test_chrf_by_hand():
    # abc against abd: 2/3, 1/2, 0/1 of the n-grams, forwards and backwards, so P = R = F = 7/18
    assert one("chrf", "abc", "a b d") == pytest.approx(100 * 7 / 18)
    # ab against abc: P (1 + 1) / 2, R (2/3 + 1/2) / 2, the 3-gram of the reference alone not counted
    assert one("chrf", "ab", "abc") == pytest.approx(100 * 5 * 7 / 12 / (4 + 7 / 12))
    assert one("chrf", "", "a") == one("chrf", "a", "") == 0


@pytest.mark.parametrize("name", sorted(METRICS))
def test_values_are_of_stacked_sums(name):
    """value of (3, 2, k) is value of each (k,): a bootstrap takes them all at once."""
    metric, draw = METRICS[name], np.random.default_rng(0)
    k = {"bleu": 10, "chrf": 18, "macro_f1": 9, "entity_f1": 3}.get(name, 2)
    sums = draw.integers(0, 4, (3, 2, k)).astype(float)
    each = np.array([[float(metric.value(s)) for s in row] for row in sums])
    assert metric.value(sums).shape == (3, 2)
    np.testing.assert_array_equal(metric.value(sums), each)


# -- answers, required words ------------------------------------------------------------------------------------


def test_squad():
    assert overlap.as_answer("  The  U.S.A., an Apple\nand a-b") == "usa apple and ab"

    def answer(name: str, prediction: str, reference: str) -> float:
        return one(name, prediction, reference, kind="answer")

    assert answer("exact_match", "The Eiffel Tower!", "eiffel tower") == 1
    assert answer("exact_match", "Eiffel", "eiffel tower") == 0
    assert answer("token_f1", "the Eiffel tower of of", "Eiffel Tower") == pytest.approx(2 * 2 / (4 + 2))
    assert [answer("token_f1", said, "Rome") for said in ("Paris", "", "the")] == [0, 0, 0]
    assert answer("token_f1", "the", "") == 1


def test_the_nearest_of_several_right_answers_counts():
    asked = task(kind="answer")
    example = Example("e", {"answer": "the city of Rome", "target": "x", "accepted": ["the city of Rome", "Rome"]})

    def given(name: str, prediction: str) -> list[float]:
        return METRICS[name].stats(prediction, wanted(METRICS[name], asked, example), asked).tolist()

    assert given("exact_match", "in Rome") == [0, 1]
    assert given("exact_match", "rome.") == [1, 1]
    assert given("token_f1", "in Rome") == pytest.approx([2 / 3, 1])
    assert given("token_f1", "city of Rome") == pytest.approx([1, 1])
    assert given("rougeL", "in Rome") == pytest.approx([2 / 3, 1])
    assert wanted(METRICS["bleu"], asked, example) == "the city of Rome"
    assert wanted(METRICS["token_f1"], task(kind="generate"), example) == "x"


@pytest.mark.parametrize("kind", ["generate", "summarise", "translate"])
def test_the_form_of_a_text_that_is_no_answer_counts(kind):
    reference = "Lyon - a voucher - kettle"
    assert one("exact_match", " Lyon -  a voucher\n- kettle ", reference, kind=kind) == 1
    for wrong in ("Lyon / a voucher / kettle", "Lyon - voucher - kettle", "lyon - a voucher - kettle"):
        assert one("exact_match", wrong, reference, kind=kind) == 0
        assert one("exact_match", wrong, reference, kind="answer") == 1
    assert one("exact_match", "314", "3.14", kind=kind) == 0
    assert one("token_f1", "The red cat.", "the red cat", kind=kind) == 1 / 3


@pytest.mark.parametrize(
    ("text", "words", "stands"),
    [
        ("Within 5 days.", "5 days", True),
        ("Within 15 days.", "5 days", False),
        ("It costs 1,500 euros", "500", False),
        ("It costs 1,500 euros", "1,500", True),
        ("It is 3.", "3", True),
        ("It is 3.5", "3", False),
        ("a party in  the\nGREAT Hall", "great hall", True),
        ("a party", "art", False),
        ("art, part, art", "art", True),
        ("Straße 4", "STRASSE", True),
        ("我住在北京市", "北京", True),
        ("item #77-b", "#77-B", True),
        ("anything", "", True),
        ("", "x", False),
        ("aab", "ab", False),
    ],
)
def test_required_strings(text, words, stands):
    assert overlap.mentions(text, [words]).tolist() == [stands, 1]


def test_mentions_is_a_share_of_all_required():
    stats = stats_of("mentions", ["a red kettle", "x", ""], [["kettle", "red", "blue"], ["x"], []])
    assert stats.tolist() == [[2, 3], [1, 1], [0, 0]]
    assert score(METRICS["mentions"], stats) == 3 / 4


# -- labels and tags -----------------------------------------------------------------------------------------------


def test_accuracy():
    assert stats_of("accuracy", [" yes", "no", "yes"], ["yes", "yes", "maybe"]).tolist() == [[1, 1], [0, 1], [0, 1]]
    stats = stats_of("accuracy", [["O", "B-X", "O"], ["O"]], [["O", "O", "O"], ["O"]])
    assert score(METRICS["accuracy"], stats) == 3 / 4
    with pytest.raises(ValueError, match="2 tags were predicted for 1 words"):
        one("accuracy", ["O", "O"], ["O"])


@given(st.lists(st.tuples(st.sampled_from("abcx"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_macro_f1_equals_sklearn(pairs):
    predictions, references = zip(*pairs, strict=True)
    ours = score(METRICS["macro_f1"], stats_of("macro_f1", predictions, references, "abc"))
    theirs = f1_score(references, predictions, labels=list("abc"), average="macro", zero_division=0)
    assert ours == pytest.approx(theirs)


def test_macro_f1_by_hand():
    # a: P 1/2, R 1 -> 2/3; b: P 1, R 1/2 -> 2/3; c: never there -> 0
    stats = stats_of("macro_f1", ["a", "a", "b"], ["a", "b", "b"], "abc")
    assert score(METRICS["macro_f1"], stats) == pytest.approx(4 / 9)
    with pytest.raises(ValueError, match=r"'d' is none of the task's labels \(a, b\)"):
        one("macro_f1", "a", "d", ["a", "b"])


def test_macro_f1_of_the_worst_and_the_best_example():
    """Found by trying all there are."""
    draw, metric, labels = random.Random(3), METRICS["macro_f1"], "abcd"
    for often in [
        0,
        40,
    ] * 10:  # in half of the cases one label is common and always right, so that a miss hurts it little
        predictions, references = draw.choices("abcdx", k=9), draw.choices("abcd", k=9)
        stats = stats_of("macro_f1", ["a"] * often + predictions, ["a"] * often + references, labels)
        worst, best = metric.extremes(stats)
        one_more = [metric.stats(p, r, task(labels)) for p in labels for r in labels]
        values = [score(metric, np.vstack([stats, more])) for more in one_more]
        assert score(metric, np.vstack([stats, worst])) == pytest.approx(min(values))
        assert score(metric, np.vstack([stats, best])) == pytest.approx(max(values))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", []),
        ("B-LOC I-LOC O B-PER", [(0, 2, "LOC"), (3, 4, "PER")]),
        ("B-LOC B-LOC I-LOC", [(0, 1, "LOC"), (1, 3, "LOC")]),
        ("I-LOC I-LOC O", [(0, 2, "LOC")]),  # begins with I
        ("O I-PER", [(1, 2, "PER")]),
        ("B-LOC I-PER I-PER", [(0, 1, "LOC"), (1, 3, "PER")]),  # goes on as another type
        ("I-LOC B-LOC", [(0, 1, "LOC"), (1, 2, "LOC")]),
        ("B-creative-work I-creative-work", [(0, 2, "creative-work")]),
    ],
)
def test_entities_of_ill_formed_tags_too(tags, found):
    assert entities(tags.split()) == found


def plain_entities(tags):
    """conlleval's two questions at every place: does a chunk end before this tag, does one begin at it?"""
    found, start = [], None
    for i in range(len(tags) + 1):
        before = tags[i - 1] if i else "O"
        here = tags[i] if i < len(tags) else "O"
        other = before[2:] != here[2:]
        if before != "O" and (here == "O" or here[0] == "B" or other):
            found.append((start, i, before[2:]))
        if here != "O" and (here[0] == "B" or before == "O" or other):
            start = i
    return found


TAG = st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])


@given(st.lists(st.tuples(TAG, TAG), min_size=1, max_size=20))
def test_entities_equal_a_plain_version(pairs):
    predicted, reference = (list(tags) for tags in zip(*pairs, strict=True))
    ours, theirs = plain_entities(predicted), plain_entities(reference)
    assert entities(predicted) == ours
    assert entity_counts(predicted, reference).tolist() == [len(set(ours) & set(theirs)), len(ours), len(theirs)]


def test_entity_f1():
    """The README of seqeval, its first example: one of two entities found exactly, 0.50."""
    wanted = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert score(METRICS["entity_f1"], stats_of("entity_f1", predicted, wanted)) == 0.5
    assert one("entity_f1", ["B-X", "O", "B-Y"], ["B-X", "O", "O"]) == pytest.approx(2 / 3)
    assert one("entity_f1", ["O"], ["O"]) == 0
    for tag in ("NOUN", "B", "O-X", "S-PER"):
        with pytest.raises(ValueError, match=r"is no tag of an entity .* take the metric accuracy"):
            one("entity_f1", ["O"], [tag])
    with pytest.raises(ValueError, match="1 tags were predicted for 2 words"):
        one("entity_f1", ["O"], ["O", "O"])


# -- plain text, and the table ---------------------------------------------------------------------------------


def test_perplexity_and_bits():
    assert score(
        METRICS["perplexity"], stats_of("perplexity", [math.log(2) * 3, math.log(8)], [3, 1])
    ) == pytest.approx(2 ** (6 / 4))
    assert score(METRICS["bits_per_byte"], stats_of("bits_per_byte", [math.log(2) * 3, 0], [3, 3])) == pytest.approx(
        0.5
    )


def test_every_statistic_is_float64_of_one_length():
    for name, metric in METRICS.items():
        prediction, reference = {
            "macro_f1": ("a", "a"), "entity_f1": (["O"], ["B-X"]), "mentions": ("a", ["a"]),
            "perplexity": (1.0, 2), "bits_per_byte": (1.0, 2), "toxicity": (0.0, 1), "preference": (0.0, 1),
        }.get(name, ("a", "a b"))  # fmt: skip
        stats = metric.stats(prediction, reference, task("ab"))
        assert stats.dtype == np.float64
        assert stats.ndim == 1
        assert metric.name == name
        if metric.extremes:  # the worst there is scores 0, the best all there is
            worst, best = (float(metric.value(10 * s)) for s in metric.extremes(stats[None]))
            full = {"bleu": 0.0, "chrf": 100.0, "macro_f1": 0.5}.get(
                name, 1.0
            )  # two words have no 4-gram, one label of two
            assert (worst, best) == pytest.approx((0, full) if metric.higher else (full, 0))


def test_which_metric_fits():
    for kind in KINDS:
        metric = default_metric(kind)
        assert fits(metric.name, kind) is metric
    assert default_metric("tag").name == "entity_f1"
    with pytest.raises(
        ValueError, match="'rougeL' does not fit a task of kind classify: these fit kind classify: accuracy, macro_f1"
    ):
        fits("rougeL", "classify")
    with pytest.raises(ValueError, match="'rogue' is not known: these fit kind tag: accuracy, entity_f1"):
        fits("rogue", "tag")
