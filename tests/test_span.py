"""Questions beside texts: offsets, windows, the spans that are learned and those that are cut out again."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from modelwright.data.examples import Example
from modelwright.data.span import END, START, Frame, Window, best_span, cut_out, place_of
from modelwright.data.tokenizer import Tokenizer, train

TEXT = "Émile  Zola, né à Paris,\twrote «Nana» in 1880 — and “Germinal”  later. " + "He walked by the old river. " * 6
QUESTION = "Who wrote Nana?"


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def words(request: pytest.FixtureRequest) -> Tokenizer:
    """WordPiece puts accents and capitals away, byte-level BPE makes several tokens of one character."""
    return train([TEXT, QUESTION, TEXT.upper()], request.param, 330, objective="masked")


def bits(row: np.ndarray) -> tuple[list[int], list[int]]:
    return np.flatnonzero(row & START).tolist(), np.flatnonzero(row & END).tolist()


def test_a_question_and_a_text_stand_as_the_tokenizer_sets_a_pair(words: Tokenizer) -> None:
    (window,), cut = Frame(words, 400, types=2).windows(QUESTION, TEXT)
    pair = words.inner.encode(QUESTION, TEXT)
    assert (list(window.tokens), list(window.types), cut) == (pair.ids, pair.type_ids, 0)
    assert window.tokens[0] == words.cls
    assert window.tokens[-1] == words.sep
    assert set(window.types) == {0, 1}
    text = [at for at, number in enumerate(pair.sequence_ids) if number == 1]
    assert list(window.first) == text
    assert list(window.offsets) == [pair.offsets[at] for at in text]


@pytest.mark.parametrize("answer", ["Émile  Zola", "né à Paris", "1880", "“Germinal”", "Nana", "Émile", "later"])
def test_an_answer_is_cut_out_of_the_text_to_the_letter(words: Tokenizer, answer: str) -> None:
    frame = Frame(words, 400, types=2)
    windows, _ = frame.windows(QUESTION, TEXT)
    start = TEXT.index(answer)
    row = frame.row(windows, TEXT, (start, start + len(answer)))
    (first,), (last,) = bits(row.targets)
    assert set(row.tokens[row.weight > 0]) == {windows[0].tokens[at] for at in windows[0].first}
    scores = np.zeros((len(windows[0].offsets), 2), np.float32)
    scores[first - windows[0].first[0], 0] = scores[last - windows[0].first[0], 1] = 5
    assert cut_out(TEXT, windows, scores, 100) == answer
    assert np.array_equal(row.types, windows[0].types)


def test_a_tokenizer_that_knows_one_text_only() -> None:
    words = train([TEXT, QUESTION], "wordpiece", 330, objective="masked")
    cls, sep = ("[CLS]", words.cls), ("[SEP]", words.sep)
    alone = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[cls, sep])
    words.inner.post_processor = alone
    (window,), _ = Frame(words, 400).windows("a b", "b a")
    assert list(window.tokens) == [words.cls, *words.encode("a b"), words.sep, *words.encode("b a"), words.sep]
    words.inner.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    (window,), _ = Frame(words, 400).windows("a b", "b a")
    assert list(window.tokens) == [*words.encode("a b"), words.sep, *words.encode("b a")]
    words.sep = None
    with pytest.raises(ValueError, match="no token to stand between a question and a text"):
        Frame(words, 400)


def test_windows_overlap_and_hold_every_token(words: Tokenizer) -> None:
    frame = Frame(words, 40)
    windows, _ = frame.windows("who?", TEXT)
    ids = words.encode(TEXT)
    room = len(windows[0].offsets)
    assert len(windows) > 2
    assert all(len(window.tokens) <= 40 for window in windows)
    assert [window.begin for window in windows] == [at * (room // 2) for at in range(len(windows))]
    for window in windows:
        assert [window.tokens[at] for at in window.first] == ids[window.begin : window.begin + len(window.offsets)]
    assert windows[-1].begin + len(windows[-1].offsets) == len(ids)
    assert windows[-2].begin + room < len(ids)  # none of them is for nothing


def test_windows_step_by_128_at_most() -> None:
    words = train(["a b c"], "wordpiece", 60, objective="masked")
    windows, _ = Frame(words, 512).windows("a", "b " * 1000)
    assert [window.begin for window in windows[:3]] == [0, 128, 256]


def test_all_windows_that_hold_the_answer_are_learned_side_by_side(words: Tokenizer) -> None:
    frame = Frame(words, 40, types=2)
    windows, _ = frame.windows("who?", TEXT)
    start = TEXT.index("1880")
    span = frame.span(TEXT, (start, start + 4))
    assert span is not None
    held = [window for window in windows if window.begin <= span[0] and span[1] < window.begin + len(window.offsets)]
    assert 0 < len(held) < len(windows)
    row = frame.row(windows, TEXT, (start, start + 4))
    assert row.tokens.tolist() == [token for window in held for token in window.tokens]
    assert row.segment.tolist() == [at for at, window in enumerate(held, 1) for _ in window.tokens]
    starts, ends = bits(row.targets)
    assert (len(starts), len(ends)) == (len(held), len(held))
    for at, (first, last) in enumerate(zip(starts, ends, strict=True), 1):
        assert row.segment[first] == row.segment[last] == at
        assert words.decode(row.tokens[first : last + 1]).strip() == "1880"


def test_a_long_question_leaves_half_of_the_room(words: Tokenizer) -> None:
    frame = Frame(words, 43)
    windows, cut = frame.windows(QUESTION * 20, TEXT)
    asked = len(words.encode(QUESTION * 20))
    assert cut == asked - 20  # 43, less [CLS] and two [SEP], by two
    assert len(windows[0].offsets) == 20
    assert Frame(words, 400).windows(QUESTION * 20, TEXT)[1] == asked - 64
    with pytest.raises(ValueError, match="a context of 4 tokens has no room for a question and a text"):
        Frame(words, 4)


def test_soft_tokens_stand_before_all_windows(words: Tokenizer) -> None:
    windows, _ = Frame(words, 40, soft=[400, 401]).windows("who?", TEXT)
    assert all(window.tokens[:3] == (400, 401, words.cls) and len(window.tokens) <= 40 for window in windows)


def test_the_best_window_wins(words: Tokenizer) -> None:
    windows, _ = Frame(words, 40).windows("who?", TEXT)
    scores = np.zeros((sum(len(window.offsets) for window in windows), 2), np.float32)
    second = len(windows[0].offsets)
    scores[[1, 2], [0, 1]] = 3
    scores[[second + 4, second + 6], [0, 1]] = 3.1
    begin, end = windows[1].offsets[4][0], windows[1].offsets[6][1]
    assert cut_out(TEXT, windows, scores, 10) == TEXT[begin:end].strip()
    assert cut_out("", [Window((1, 2), (0, 0), (), 0, ())], np.zeros((0, 2), np.float32), 10) == ""


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_against_all_of_them(longest: int) -> None:
    rng = np.random.default_rng(longest)
    for size in (1, 2, 7, 12):
        scores = rng.normal(size=(size, 2)).astype(np.float32)
        allowed = [(s, e) for s, e in product(range(size), repeat=2) if s <= e < s + longest]
        best = max(allowed, key=lambda span: scores[span[0], 0] + scores[span[1], 1])
        assert best_span(scores, longest)[:2] == best
        assert best_span(scores, longest)[2] == pytest.approx(scores[best[0], 0] + scores[best[1], 1])


def asked(answer: str, **more: object) -> Example:
    return Example("t:1", {"context": "to be or not to be", "question": "what?", "answer": answer, **more})


def test_where_an_answer_stands() -> None:
    assert place_of(asked("be")) == (3, 5)
    assert place_of(asked("be", answer_start=16)) == (16, 18)
    assert place_of(asked("be", answer_start=[16, 3])) == (16, 18)
    assert place_of(asked("be", answer_start="16")) == (16, 18)
    assert [place_of(asked(answer)) for answer in ("Be", "been", "", " ")] == [None] * 4
    assert place_of(asked("be", answer_start=4)) is None
    assert place_of(asked("be", answer_start=-2)) is None
    with pytest.raises(ValueError, match="t:1 has the answer_start 'x', and it is to be a whole number"):
        place_of(asked("be", answer_start="x"))
    with pytest.raises(ValueError, match=r"t:1 has the answer_start 16\.5, and it is to be a whole number"):
        place_of(asked("be", answer_start=16.5))
