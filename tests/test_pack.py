"""Rows for the four objectives: hand-made examples, measured rates, and what must be got back exactly."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data import pack

CLS, SEP, MASK, PAD = 1, 2, 3, 0
MASKING = pack.Masking(CLS, SEP, MASK, 1000, (PAD, CLS, SEP, MASK, 999))
INFILLING = pack.Infilling(before=0, after=2, mask=4)
SENTINELS = pack.Sentinels(np.arange(2000, 1900, -1), eos=1, start=0)  # T5 numbers them downwards too


class Ids:
    """Only what packing asks of a tokenizer: [CLS] a [SEP] if `wraps`."""

    vocab, bos, eos, pad, unk, mask = 50, 1, 2, 0, 4, 3
    sentinels = tuple(range(49, 9, -1))
    wraps = True

    def encode(self, text, *, special=False):
        return [CLS, 7, SEP] if special and self.wraps else [7]


def flags(text):
    return np.array([letter == "1" for letter in text])


def documents_of(tokens, segment):
    return [tokens[segment == number].tolist() for number in range(1, int(segment.max()) + 1)]


# --- causal ---------------------------------------------------------------------------------------


def test_causal_by_hand():
    # documents [5 6 2] [7 2] [8 9 ...: 2 is end-of-text
    row = pack.causal(np.array([5, 6, 2, 7, 2, 8, 9]), flags("1001010"))
    assert row.tokens.tolist() == [5, 6, 2, 7, 2, 8]
    assert row.targets.tolist() == [6, 2, 7, 2, 8, 9]
    assert row.weight.tolist() == [1, 1, 0, 1, 0, 1]  # end-of-text is learned, what follows it is not
    assert row.pos.tolist() == [0, 1, 2, 0, 1, 0]
    assert row.segment.tolist() == [1, 1, 1, 2, 2, 3]


def test_a_row_that_begins_within_a_document_counts_from_nought():
    row = pack.causal(np.array([6, 2, 7, 2]), flags("0010"))
    assert row.pos.tolist() == [0, 1, 0]
    assert row.segment.tolist() == [1, 1, 2]


# --- masked ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "wrapped", "segment"),
    [
        ([1, 7, 8, 2, 1, 9, 2], [1, 7, 8, 2, 1, 9, 2], [1, 1, 1, 1, 2, 2, 2]),
        ([8, 2, 1, 9, 10], [1, 8, 2, 1, 9, 10, 2], [1, 1, 1, 2, 2, 2, 2]),
        ([8, 9], [1, 8, 9, 2], [1, 1, 1, 1]),
        ([2, 1], [1, 2, 1, 2], [1, 1, 2, 2]),
    ],
)
def test_masked_rows_are_wrapped(window, wrapped, segment):
    row = pack.masked(np.array(window), MASKING, np.random.default_rng(0))
    assert row.targets.tolist() == wrapped
    assert row.segment.tolist() == segment
    assert [row.pos[row.segment == s].tolist() for s in set(segment)] == [
        list(range(segment.count(s))) for s in set(segment)
    ]


def test_masking_rates_over_1e5_tokens():
    rng = np.random.default_rng(1)
    window = rng.integers(4, 999, 100_000)
    window[::100], window[99::100] = CLS, SEP
    row = pack.masked(window, MASKING, rng)
    chosen = row.weight > 0
    plain = ~np.isin(row.targets, MASKING.special)
    assert not chosen[~plain].any()
    assert chosen.sum() == round(0.15 * plain.sum())
    masked, kept = row.tokens == MASK, row.tokens == row.targets
    n = chosen.sum()
    bound = 4 * np.sqrt(0.8 * 0.2 / n)  # four standard deviations, 0.013
    assert abs((masked & chosen).sum() / n - 0.8) < bound
    assert abs((kept & chosen).sum() / n - 0.1) < bound
    assert abs((~kept & ~masked).sum() / n - 0.1) < bound
    assert kept[~chosen].all()
    put = row.tokens[~kept & ~masked]
    assert not np.isin(put, MASKING.special).any()
    assert put.min() < 50  # drawn from all the vocabulary
    assert put.max() > 950
    # evenly over the row: the chosen of the first half are half of all
    assert abs(chosen[: len(chosen) // 2].sum() / n - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_ordinary_ids_are_even_over_all_that_are_not_special():
    drawn = pack.ordinary(20_000, 10, (0, 3, 4, 9), np.random.default_rng(0))
    ids, counts = np.unique(drawn, return_counts=True)
    assert ids.tolist() == [1, 2, 5, 6, 7, 8]
    assert ((counts - 20_000 / 6) ** 2 / (20_000 / 6)).sum() < 20.5  # chi-square, 5 degrees, p = 0.001


def test_a_row_without_words_asks_for_nothing():
    row = pack.masked(np.array([2, 1]), MASKING, np.random.default_rng(0))
    assert row.weight.sum() == 0


def test_a_short_row_has_one_word_masked():
    row = pack.masked(np.array([1, 7, 8, 2]), MASKING, np.random.default_rng(0))
    assert row.weight.sum() == 1


# --- span corruption ------------------------------------------------------------------------------


def test_corruption_by_hand():
    # T5's figure 2: Thank you <for inviting> me to your party <last> week .
    tokens = np.arange(10, 20)
    source, target = pack.corrupt(tokens, flags("0011000010"), SENTINELS)
    assert source.tolist() == [10, 11, 2000, 14, 15, 16, 17, 1999, 19, 1]
    assert target.tolist() == [2000, 12, 13, 1999, 18, 1]
    assert pack.rebuild(source, target, SENTINELS).tolist() == tokens.tolist()


@pytest.mark.parametrize(("source", "tokens", "target"), [(512, 568, 114), (1024, 1137, 229), (114, 126, 26)])
def test_lengths_are_those_of_t5(source, tokens, target):
    # 568 and 114 are those of T5's own function for inputs of 512
    assert pack.fitting(source) == (tokens, target)


@pytest.mark.parametrize("source", [3, 4, 10, 77, 512])
def test_the_longest_document_fills_the_source_exactly(source):
    length, target = pack.fitting(source)
    mask = pack.noise_mask(length, np.random.default_rng(0))
    made = pack.corrupt(np.arange(length), mask, SENTINELS)
    assert [len(part) for part in made] == [source, target]
    assert pack.sizes(length + 1)[0] == source + 1


def test_span_rates_over_1e5_tokens():
    rng = np.random.default_rng(2)
    masks = [pack.noise_mask(568, rng) for _ in range(177)]
    assert sum(mask.sum() for mask in masks) / (177 * 568) == pytest.approx(0.15, abs=0.001)
    edges = [np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))) for mask in masks]
    lengths = np.concatenate([np.diff(edge)[::2] for edge in edges])
    assert len(lengths) == 177 * 28
    assert lengths.mean() == pytest.approx(3, abs=0.05)
    # one of C(84, 27) ways to cut 85 into 28: P(length 1) = 27 / 84
    assert (lengths == 1).mean() == pytest.approx(27 / 84, abs=4 * np.sqrt(0.22 / len(lengths)))
    assert not any(mask[0] for mask in masks)
    # every place after the first is as likely to be masked as any other, but for the ends
    rates = np.mean(masks, axis=0)[20:-20]
    assert abs(rates[:264].mean() - rates[264:].mean()) < 0.01


def test_sentinels_come_in_order():
    tokens = np.arange(3000, 3568)
    for seed in range(20):
        source, target = pack.corrupt(tokens, pack.noise_mask(568, np.random.default_rng(seed)), SENTINELS)
        for part in (source, target):
            assert part[part <= 2000][:-1].tolist() == list(range(2000, 1972, -1))
        assert (target[0], target[-1], source[-1]) == (2000, 1, 1)


@given(st.lists(st.integers(2001, 5000), min_size=1, max_size=400), st.integers(0, 2**32 - 1))
def test_targets_rebuild_the_source(tokens, seed):
    mask = pack.noise_mask(len(tokens), np.random.default_rng(seed))
    source, target = pack.corrupt(np.array(tokens), mask, SENTINELS)
    assert (len(source), len(target)) == pack.sizes(len(tokens))
    assert pack.rebuild(source, target, SENTINELS).tolist() == tokens


def test_span_rows_by_document():
    tokens, first = np.arange(3000, 3060), np.zeros(60, bool)
    first[[0, 20, 21]] = True
    row = pack.span(tokens, first, SENTINELS, np.random.default_rng(0))
    source, pos, segment = row.source
    pairs = zip(documents_of(source, segment), documents_of(row.targets, row.segment), strict=True)
    pieces = [pack.rebuild(np.array(s), np.array(t), SENTINELS).tolist() for s, t in pairs]
    assert pieces == [list(range(3000, 3020)), [3020], list(range(3021, 3060))]
    for number, (given_, asked) in enumerate(
        zip(documents_of(row.tokens, row.segment), documents_of(row.targets, row.segment), strict=True),
        start=1,
    ):
        assert given_ == [0, *asked[:-1]]  # shifted by one behind the start
        assert row.pos[row.segment == number].tolist() == list(range(len(asked)))
        assert pos[segment == number].tolist() == list(range((segment == number).sum()))
    assert (row.weight == 1).all()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.sampled_from([3, 8, 40, 128]))
def test_filled_rows_fit_and_leave_nothing_out(lengths, source):
    ends = np.cumsum(lengths)
    starts, total = np.concatenate([[0], ends[:-1]]), int(ends[-1])
    longest, target = pack.fitting(source)
    rows = pack.packing("span", Ids(), source).starts([starts[:3], starts[3:]], total)
    assert rows[0] == 0
    assert (np.diff(rows) > 0).all()
    for start, stop in zip(rows, [*rows[1:], total], strict=True):
        cuts = [start, *starts[(starts > start) & (starts < stop)], stop]
        sums = np.sum([pack.sizes(int(length)) for length in np.diff(cuts)], axis=0)
        assert sums[0] <= source
        assert sums[1] <= target
    if len(lengths) == 1:
        assert np.diff(rows).tolist() == [longest] * (len(rows) - 1)


# --- denoising ------------------------------------------------------------------------------------


def hidden_by(seed, length):
    return pack.hidden_spans(length, np.random.default_rng(seed))


def test_infilling_by_hand():
    # Thank you <for inviting> me <> to your <party last> week
    tokens = np.arange(10, 20)
    source = pack.infill(tokens, np.array([2, 3, 5]), np.array([2, 0, 2]), 4)
    assert source.tolist() == [10, 11, 4, 14, 4, 15, 16, 4, 19]
    # at either end, and of one token alone
    assert pack.infill(tokens[:3], np.array([0, 1]), np.array([1, 0]), 4).tolist() == [4, 11, 4, 12]
    assert pack.infill(tokens[:1], np.array([0]), np.array([1]), 4).tolist() == [4]


def test_infilling_rates_over_1e5_tokens():
    found = [hidden_by(seed, 1000) for seed in range(100)]
    lengths = np.concatenate([lengths for _, lengths in found])
    assert all(lengths.sum() == 300 for _, lengths in found)
    spread = np.sqrt(3 / len(lengths))
    assert lengths.mean() == pytest.approx(3, abs=4 * spread)
    assert lengths.var() == pytest.approx(3, abs=0.2)
    shares = np.bincount(lengths, minlength=8)[:8] / len(lengths)
    poisson = np.exp(-3) * np.array([1, 3, 9 / 2, 9 / 2, 27 / 8, 81 / 40, 81 / 80, 243 / 560])
    assert np.abs(shares - poisson).max() < 4 * np.sqrt(0.22 * 0.78 / len(lengths))
    assert shares[0] > 0.03  # spans of no token are among them
    places = np.concatenate([places for places, _ in found])
    assert places.max() > 690  # of 0 to 700: a span may end a text
    assert places.min() < 10
    assert places.mean() == pytest.approx(350, abs=4 * 202 / np.sqrt(len(places)))
    # neither the last, which is cut short, nor any other length has a place of its own
    assert np.mean([lengths[-1] for _, lengths in found]) == pytest.approx(3, abs=4 * np.sqrt(3 / 100))


@given(st.integers(0, 400), st.integers(0, 2**32 - 1))
def test_a_source_is_its_text_with_spans_hidden(length, seed):
    """The target can be read along the source: what stays is there in order, each mask is one span, none touch."""
    places, lengths = hidden_by(seed, length)
    tokens = np.arange(100, 100 + length)
    source = pack.infill(tokens, places, lengths, 4).tolist()
    assert lengths.sum() == round(0.3 * length)
    assert len(source) <= length
    assert source.count(4) == len(lengths) == len(set(places.tolist()))
    at, spans = 100, []
    for token, after in pairwise([*source, 100 + length]):
        assert (token, after) != (4, 4)
        if token == 4:
            spans.append(after - at)
            at = after
        else:
            assert token == at
            at += 1
    assert at == 100 + length
    assert spans == lengths.tolist()


def test_the_source_of_a_denoising_row_is_drawn_from_the_row_s_generator():
    tokens, first = np.arange(3000, 3060), np.zeros(60, bool)
    one, again, other = (pack.denoise(tokens, first, INFILLING, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.source[0].tolist() == again.source[0].tolist() != other.source[0].tolist()


def test_denoising_rows_by_document():
    tokens, first = np.arange(3000, 3060), np.zeros(60, bool)
    first[[20, 21]] = True  # the row begins within a document
    row = pack.denoise(tokens, first, INFILLING, np.random.default_rng(0))
    source, pos, segment = row.source
    parts = zip(*(documents_of(ids, row.segment) for ids in (row.tokens, row.targets)), strict=True)
    read = documents_of(source, segment)
    for number, (given_, asked) in enumerate(parts, start=1):
        assert (asked[0], asked[-1]) == (0, 2)
        assert given_ == [2, *asked[:-1]]  # </s> <s> ..., and the last of it foretells </s>
        assert row.pos[row.segment == number].tolist() == list(range(len(asked)))
        assert pos[segment == number].tolist() == list(range(len(read[number - 1])))
        assert (read[number - 1][0], read[number - 1][-1]) == (0, 2)
        kept = [token for token in read[number - 1][1:-1] if token != 4]
        assert kept == [token for token in asked if token in kept]
        assert len(kept) == len(asked) - 2 - round(0.3 * (len(asked) - 2))
    assert [len(part) - 2 for part in documents_of(row.targets, row.segment)] == [20, 1, 39]
    assert row.targets[row.targets >= 3000].tolist() == tokens.tolist()  # each once
    assert (row.weight == 1).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=20), st.sampled_from([3, 8, 40, 128]), st.integers(0, 99))
def test_denoising_rows_fit_and_predict_every_token_once(lengths, length, seed):
    how, ends = pack.packing("denoise", Ids(), length), np.cumsum(lengths)
    total, tokens = int(ends[-1]), np.arange(100, 100 + ends[-1])
    first = np.isin(tokens - 100, [0, *ends[:-1]])
    cuts = [*how.starts([np.flatnonzero(first)], total), total]
    rows = [how.row(tokens[i:j], first[i:j], np.random.default_rng(seed)) for i, j in pairwise(cuts)]
    batch = pack.collate(rows, how)  # raises where a row is longer than it may be
    assert batch.tokens.shape == batch.source.tokens.shape == (len(rows), length)
    asked = batch.targets[batch.weight > 0]
    assert asked[asked >= 100].tolist() == tokens.tolist()
    for row in rows:
        assert row.segment.max() == row.source[2].max()


def test_marked_tokens_are_read_as_what_they_are():
    row = pack.denoise(~np.arange(100, 110), np.zeros(10, bool), INFILLING, np.random.default_rng(0))
    assert row.targets.tolist() == [0, *range(100, 110), 2]


# --- together -------------------------------------------------------------------------------------


def test_rows_of_whole_documents_by_hand() -> None:
    """Lengths 3 4 2 9 5 in rows of 7: the third would be cut, so a row begins with it; the fourth has no row whole."""
    starts = [np.array([0, 3, 7, 9, 18])]
    assert pack.uncut(starts, 23, 7).tolist() == [0, 7, 14, 18]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(3, 20))
def test_no_document_that_fits_is_cut(lengths: list[int], length: int) -> None:
    ends = np.cumsum(lengths)
    rows = pack.uncut([np.concatenate([[0], ends[:-1]])], int(ends[-1]), length)
    edges = [*rows.tolist(), int(ends[-1])]
    assert all(0 < after - before <= length for before, after in pairwise(edges))
    for size, end in zip(lengths, ends.tolist(), strict=True):
        assert size > length or not any(end - size < edge < end for edge in edges)


def test_batches_are_padded_with_weight_and_segment_nought():
    packing = pack.packing("causal", Ids(), 4)
    rows = [packing.row(np.array(w), np.zeros(len(w), bool), None) for w in ([5, 6, 7, 8, 9], [5, 6])]
    batch = pack.collate(rows, packing)
    assert batch.tokens.tolist() == [[5, 6, 7, 8], [5, 0, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, 8, 9], [6, 0, 0, 0]]
    assert batch.weight.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch.segment.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch.pos.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert (batch.tokens.dtype, batch.weight.dtype, batch.source) == (torch.int64, torch.float32, None)


@pytest.mark.parametrize("objective", ["causal", "masked", "span", "denoise"])
def test_an_empty_row_is_all_padding(objective):
    packing = pack.packing(objective, Ids(), 16)
    empty = packing.row(np.empty(0, np.int64), np.empty(0, bool), np.random.default_rng(0))
    batch = pack.collate([empty], packing)
    assert batch.weight.sum() == batch.segment.sum() == 0
    assert batch.tokens.shape == (1, packing.length)
    assert (batch.source is not None) == (objective in ("span", "denoise"))


def test_frames():
    plain = Ids()
    plain.wraps = False
    assert pack.frame("causal", Ids()) == ([CLS], [2])
    assert pack.frame("causal", plain) == ([], [2])
    assert pack.frame("masked", Ids()) == ([CLS], [SEP])
    assert pack.frame("span", Ids()) == pack.frame("denoise", Ids()) == ([], [])
    with pytest.raises(ValueError, match=r"sets \[CLS\]"):
        pack.frame("masked", plain)


@pytest.mark.parametrize(
    ("objective", "lacking", "length", "words"),
    [
        ("causal", {"eos": None}, 8, "end-of-text"),
        ("masked", {"mask": None}, 8, "mask token"),
        ("span", {"sentinels": (9, 8)}, 512, "needs 28 sentinels"),
        ("span", {"pad": None}, 8, "padding"),
        ("denoise", {"mask": None}, 8, "needs a mask token"),
        ("denoise", {"wraps": False}, 8, "sets <s> before a text"),
        ("causal", {}, 2, "at least 3"),
    ],
)
def test_what_a_tokenizer_lacks_is_named(objective, lacking, length, words):
    tokenizer = Ids()
    vars(tokenizer).update(lacking)
    with pytest.raises(ValueError, match=words):
        both(objective, tokenizer, length)


def both(objective, tokenizer, length):
    return pack.frame(objective, tokenizer), pack.packing(objective, tokenizer, length)


@pytest.mark.parametrize("source", [32, 100, 256, 512])
def test_every_row_that_is_filled_fits(source: int) -> None:
    """As `span` will see it: what stands of one document in a row is one piece."""
    rng = np.random.default_rng(source)
    lengths = np.maximum(1, rng.lognormal(4.5, 1.2, 20_000).astype(np.int64))
    lengths[:4] = [2, 271, 6, 271]
    bounds = np.cumsum(lengths)
    starts, tokens = np.append(0, bounds[:-1]), int(bounds[-1])
    rows = np.append(pack.packing("span", Ids(), source).starts([starts], tokens), tokens)
    target = pack.fitting(source)[1]
    for begin, end in pairwise(rows.tolist()):
        cuts = starts[np.searchsorted(starts, begin, "right") : np.searchsorted(starts, end)]
        pieces = np.diff(np.concatenate([[begin], cuts, [end]]))
        made = np.array([pack.sizes(int(piece)) for piece in pieces]).sum(0)
        assert made[0] <= source, (begin, pieces)
        assert made[1] <= target, (begin, pieces)
