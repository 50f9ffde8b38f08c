"""Tokens -> Batch: rows of a fixed length for the four objectives.

All of it is pure functions of numpy arrays and, where chance has a part, of a seeded generator. Documents
that share a row are told apart by `segment` and each has positions from 0, so that nothing attends from one
to another.

B batch, T query length, S source length, P pairs, N tokens, V vocabulary, K masked spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelwright.data.tokenizer import Objective as Objective
from modelwright.data.tokenizer import Tokenizer

Ints = NDArray[np.int64]
RATE = 0.15  # of the tokens are masked: Devlin et al. (2018), section 3.1; Raffel et al. (2019), 3.1.4
MEAN_SPAN = 3.0  # tokens: Raffel et al. (2019), section 3.3.4; Lewis et al. (2019), section 2.2
COVERED = 0.3  # of the tokens are hidden from BART: Lewis et al. (2019), section 5.1
SHORTEST = 16  # tokens: a document is not cut to fill a smaller rest of a row


@dataclass(frozen=True)
class Source:
    """What the encoder of an encoder-decoder reads."""

    tokens: Tensor  # (B, S) int64
    pos: Tensor  # (B, S) int64, restarts at each document
    segment: Tensor  # (B, S) int64: documents count from 1, padding is 0


@dataclass(frozen=True)
class Pairs:
    """Which documents of a row are compared: answers to a prompt, each of which may stand in many pairs."""

    segments: Tensor  # (B, P, 2) int64: the one that was chosen, and the other; 0 and 0 where a row has no more pairs
    weight: Tensor  # (B, P) float32: what a pair counts; 0 where there is none


@dataclass(frozen=True)
class Batch:
    """What a model learns from in one step."""

    tokens: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64: what each position is to predict (already shifted for causal models)
    weight: Tensor  # (B, T) float32; 0 where no loss is due
    pos: Tensor  # (B, T) int64, restarts at each document
    segment: Tensor  # (B, T) int64: documents count from 1, padding is 0
    source: Source | None = None
    pairs: Pairs | None = None


class Row(NamedTuple):
    """One row of a batch, not yet padded: each array has the row's own length."""

    tokens: Ints
    targets: Ints
    weight: NDArray[np.float32]
    pos: Ints
    segment: Ints
    source: tuple[Ints, Ints, Ints] | None = None  # tokens, pos, segment
    pairs: tuple[Ints, NDArray[np.float32]] | None = None  # (P, 2) segments, (P,) weights: what `Pairs` is made of


def number(first: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """(pos, segment), both (N,), from which tokens are the first of a document; a row's first token always
    counts.

    [1 0 0 1 0] gives positions [0 1 2 0 1] and segments [1 1 1 2 2].
    """
    first = first.copy()
    first[:1] = True
    index = np.arange(len(first))
    return index - np.maximum.accumulate(np.where(first, index, 0)), np.cumsum(first)


# --- causal ---------------------------------------------------------------------------------------


def causal(tokens: Ints, first: NDArray[np.bool_]) -> Row:
    """A window of T + 1 tokens -> a row of T, each to predict the next.

    The end-of-text token is learned; the first token of the next document is not, since nothing foretells it, nor is
    one that is only to be read (its id comes as the complement).
    """
    pos, segment = number(first[:-1])
    learned = ~first[1:] & (tokens[1:] >= 0)
    ids = plain(tokens)
    return Row(ids[:-1], ids[1:], learned.astype(np.float32), pos, segment)


def plain(tokens: Ints) -> Ints:
    """Ids without the mark of those that are only to be read: their complement, below 0."""
    return np.where(tokens < 0, ~tokens, tokens)


# --- masked ---------------------------------------------------------------------------------------


class Masking(NamedTuple):
    """The ids that masking needs."""

    cls: int
    sep: int
    mask: int
    vocab: int
    special: tuple[int, ...]  # never masked and never put in a token's place; in rising order


def masked(window: Ints, ids: Masking, rng: np.random.Generator) -> Row:
    """A window of T - 2 tokens, documents already as [CLS] ... [SEP] -> a row of at most T for a model that
    reads both ways.

    A document that the window cuts gets the [CLS] or [SEP] it lost. Of the other tokens 15% are chosen: of
    these 80% become [MASK], 10% another token at random, 10% stay; only the chosen carry weight (Devlin et
    al. 2018, section 3.1 and A.1).
    """
    targets = wrap(window, ids.cls, ids.sep)
    chosen = choose(~np.isin(targets, ids.special), rng)
    tokens, fate = targets.copy(), rng.random(len(chosen))
    replaced = chosen[fate >= 0.9]
    tokens[chosen[fate < 0.8]] = ids.mask
    tokens[replaced] = ordinary(len(replaced), ids.vocab, ids.special, rng)
    weight = np.zeros(len(targets), np.float32)
    weight[chosen] = 1
    return Row(tokens, targets, weight, *number(targets == ids.cls))


def wrap(window: Ints, cls: int, sep: int) -> Ints:
    """The window with [CLS] before and [SEP] behind it, where it does not begin and end so already."""
    if not len(window):
        return window
    before = [] if window[0] == cls else [cls]
    after = [] if window[-1] == sep else [sep]
    return np.concatenate([np.array(before, np.int64), window, np.array(after, np.int64)])


def choose(maskable: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    """Places of 15% of the maskable tokens, at least one where there are any."""
    places = np.flatnonzero(maskable)
    count = max(round(RATE * len(places)), min(len(places), 1))
    return rng.choice(places, count, replace=False) if count else places


def ordinary(count: int, vocab: int, special: Sequence[int], rng: np.random.Generator) -> Ints:
    """`count` ids drawn evenly from the vocabulary without `special` (in rising order)."""
    ids = rng.integers(0, vocab - len(special), count)
    for skipped in special:
        ids += ids >= skipped
    return ids


# --- span corruption ------------------------------------------------------------------------------


def counts(length: int) -> tuple[int, int]:
    """(masked tokens, masked spans K) of a document of `length` tokens, as T5's `random_spans_noise_mask` has
    them.
    """
    if length < 2:
        return 0, 0  # with its only token masked, nothing would be left to tell what it was
    noise = min(max(round(length * RATE), 1), length - 1)
    return noise, max(round(noise / MEAN_SPAN), 1)


def sizes(length: int) -> tuple[int, int]:
    """(source, target) lengths that a document of `length` tokens comes to, each with its closing end-of-text
    token.
    """
    noise, spans = counts(length)
    return length - noise + spans + 1, noise + spans + 1


def fitting(source: int) -> tuple[int, int]:
    """(tokens, target): the longest document whose source takes exactly `source` tokens, and its target's
    length.

    T5's `compute_input_and_target_lengths` (Raffel et al. 2019).
    """
    if source < 3:
        raise ValueError(f"a row for span corruption needs at least 3 tokens, not {source}")
    length = source
    while sizes(length + 1)[0] <= source:
        length += 1
    while sizes(length)[0] > source:
        length -= 1
    return length, sizes(length)[1]


def noise_mask(length: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of `length` tokens are masked: K spans of 3 on average, each after at least one token that is
    kept.
    """
    noise, spans = counts(length)
    if not spans:
        return np.zeros(length, np.bool_)
    kept, hidden = partition(length - noise, spans, rng), partition(noise, spans, rng)  # (K,) each
    return np.repeat(np.tile([False, True], spans), np.stack([kept, hidden], axis=1).reshape(-1))


def partition(total: int, parts: int, rng: np.random.Generator) -> Ints:
    """`parts` whole numbers of at least 1 that sum to `total`, every way as likely as any other."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


class Sentinels(NamedTuple):
    """The ids that span corruption needs."""

    spans: Ints  # <extra_id_0>, <extra_id_1> ... in that order
    eos: int
    start: int  # what the decoder is given first


def corrupt(tokens: Ints, mask: NDArray[np.bool_], ids: Sentinels) -> tuple[Ints, Ints]:
    """(source, target): in the source a sentinel stands for each masked span; the target is each sentinel and
    its span.

    "Thank you for inviting me to your party", masking "for inviting" and "your", gives
    "Thank you <0> me to <1> party </s>" and "<0> for inviting <1> your </s>".
    """
    starts = mask & ~np.concatenate([[False], mask[:-1]])
    sentinels = ids.spans[: starts.sum()]
    source = tokens.copy()
    source[starts] = sentinels
    target = np.insert(tokens[mask], np.flatnonzero(starts[mask]), sentinels)
    return np.append(source[~mask | starts], ids.eos), np.append(target, ids.eos)


def rebuild(source: Ints, target: Ints, ids: Sentinels) -> Ints:
    """The tokens that `corrupt` made source and target from: each sentinel's span back in its place."""
    words, answer = source[:-1], target[:-1]  # without end-of-text
    hidden = np.split(answer, np.flatnonzero(np.isin(answer, ids.spans)))[1:]
    spans = {int(part[0]): part[1:] for part in hidden}
    pieces = [spans.get(int(word), words[at : at + 1]) for at, word in enumerate(words)]
    return np.concatenate([words[:0], *pieces])


def span(tokens: Ints, first: NDArray[np.bool_], ids: Sentinels, rng: np.random.Generator) -> Row:
    """Documents, or pieces of them -> one row: each is corrupted alone, its target sees its source only."""
    return paired(tokens, first, ids.start, lambda piece: corrupt(piece, noise_mask(len(piece), rng), ids))


def paired(tokens: Ints, first: NDArray[np.bool_], start: int, make: Callable[[Ints], tuple[Ints, Ints]]) -> Row:
    """One row of an encoder-decoder: `make` gives (source, target) of each document, and the decoder reads its target
    behind `start`.
    """
    if not len(tokens):
        empty = tokens.astype(np.int64)
        return Row(empty, empty, empty.astype(np.float32), empty, empty, (empty, empty, empty))
    pairs = [make(piece) for piece in np.split(plain(tokens), np.flatnonzero(first[1:]) + 1)]
    source, source_first = _joined([source for source, _ in pairs])
    targets, target_first = _joined([target for _, target in pairs])
    shifted = np.where(target_first, start, np.roll(targets, 1))
    weight = np.ones(len(targets), np.float32)
    return Row(shifted, targets, weight, *number(target_first), (source, *number(source_first)))


def _joined(pieces: Sequence[Ints]) -> tuple[Ints, NDArray[np.bool_]]:
    first = np.zeros(sum(map(len, pieces)), np.bool_)
    first[np.cumsum([0, *map(len, pieces[:-1])])] = True
    return np.concatenate(pieces), first


# --- denoising ------------------------------------------------------------------------------------


class Infilling(NamedTuple):
    """The ids that text infilling needs."""

    before: int  # <s>, which begins a text
    after: int  # </s>, which ends it, and which the decoder is given first
    mask: int


def denoise(tokens: Ints, first: NDArray[np.bool_], ids: Infilling, rng: np.random.Generator) -> Row:
    """Documents, or pieces of them -> one row: the encoder reads each with spans of it hidden, the decoder writes all
    of it again (Lewis et al. 2019).

    Of the paper's noises this is text infilling, which did well on all its tasks (section 4.3). BART-large's was that
    and shuffled sentences, of which tokens alone do not tell.
    """

    def framed(piece: Ints) -> Ints:
        return np.concatenate([[ids.before], piece, [ids.after]])

    def make(piece: Ints) -> tuple[Ints, Ints]:
        return framed(infill(piece, *hidden_spans(len(piece), rng), ids.mask)), framed(piece)

    return paired(tokens, first, ids.after, make)


def infill(tokens: Ints, places: Ints, lengths: Ints, mask: int) -> Ints:
    """The tokens with one `mask` in place of each hidden span; a span of no token puts one between two others.

    "Thank you for inviting me to your party", hiding "for inviting" before the third token that stays, "me", and
    nothing before the fourth, gives "Thank you <mask> me <mask> to your party".
    """
    starts = places + np.cumsum(lengths) - lengths
    edges = np.bincount(starts, minlength=len(tokens) + 1) - np.bincount(starts + lengths, minlength=len(tokens) + 1)
    return np.insert(tokens[np.cumsum(edges)[:-1] == 0], places, mask)


def hidden_spans(length: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """(places, lengths), each (K,): before which of the tokens that stay a span is hidden, and how many tokens it has.

    Lengths are drawn from Poisson(3) until 30% of the tokens are hidden; the last is what is left of these, or lacks to
    them: of M hidden tokens there are at most M spans, so a source is never longer than its text. No two spans touch.
    """
    hidden = round(COVERED * length)
    if not hidden:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    lengths = rng.poisson(MEAN_SPAN, hidden)
    total = np.cumsum(lengths)
    last = min(int(np.searchsorted(total, hidden)), hidden - 1)
    lengths[last] += hidden - total[last]
    places = rng.choice(length - hidden + 1, last + 1, replace=False)
    return np.sort(places), rng.permutation(lengths[: last + 1])


# --- filling rows ---------------------------------------------------------------------------------


def fill(starts: Iterable[Ints], tokens: int, costs: Ints, rooms: tuple[int, int]) -> Ints:
    """Where each row begins, so that its documents fit a source and a target of `rooms` tokens.

    `starts` are where documents start among `tokens`; costs[n] is what a document of n tokens takes of source and
    target, up to the longest that fits. Rows are filled in order; a document is cut where a row is full, if enough of
    it fits. One pass over the documents, memory in the number of rows.
    """
    longest = len(costs) - 1
    reach = [  # room left -> longest piece that fits, in the source and in the target
        np.searchsorted(costs[:, side], np.arange(room + 1), "right") - 1 for side, room in enumerate(rooms)
    ]
    rows, room, at = [0], rooms, 0
    for end in _ends(starts, tokens):
        while at < end:
            piece = min(int(reach[0][room[0]]), int(reach[1][room[1]]), end - at)
            if piece < min(end - at, SHORTEST, longest):
                rows.append(at)
                room = rooms
                continue
            room = (room[0] - int(costs[piece, 0]), room[1] - int(costs[piece, 1]))
            at += piece
            if at < end:  # the rest would be one piece with this again, and longer by rounding than the two apart
                rows.append(at)
                room = rooms
    return np.array(rows, np.int64)


def uncut(starts: Iterable[Ints], tokens: int, length: int) -> Ints:
    """Where each row begins, so that no document is cut that fits one: the rest of a row is padding instead.

    What is cut off is read without what it depends on, and is learned the worse (Ding et al. 2024).
    """
    rows, at = [0], 0
    for end in _ends(starts, tokens):
        if end - rows[-1] > length and end - at <= length:
            rows.append(at)
        while end - rows[-1] > length:
            rows.append(rows[-1] + length)
        at = end
    return np.array(rows, np.int64)


def _ends(starts: Iterable[Ints], tokens: int) -> Iterable[int]:
    for some in starts:
        yield from some[some > 0].tolist()
    yield tokens


# --- an objective with its ids and lengths --------------------------------------------------------


@dataclass(frozen=True)
class Packing:
    """How a stream of tokens is cut into windows, and a window made a row: row r is made of the tokens from
    starts[r] to starts[r + 1], and `overlap` more."""

    length: int  # T
    source: int  # S, or 0
    pad: int
    overlap: int
    starts: Callable[[Iterable[Ints], int], Sequence[int] | Ints]  # (where documents start, tokens) -> starts
    row: Callable[[Ints, NDArray[np.bool_], np.random.Generator], Row]  # window, first of a document -> row


def packing(objective: Objective, tokenizer: Tokenizer, length: int, *, whole: bool = False) -> Packing:
    """Rows of `length` tokens (of the source, for an encoder-decoder) for an objective; `whole`: no document that fits
    a row is cut, in causal rows.

    Raises ValueError where the tokenizer lacks an id that the objective needs, or the rows are too short.
    """
    if length < 3:
        raise ValueError(f"a row needs at least 3 tokens, not {length}")
    pad = tokenizer.pad or 0
    if objective == "causal":

        def predict(window: Ints, first: NDArray[np.bool_], rng: np.random.Generator) -> Row:
            return causal(window, first)

        def cut(starts: Iterable[Ints], tokens: int) -> Sequence[int] | Ints:
            return uncut(starts, tokens - 1, length) if whole else range(0, tokens - 1, length)

        return Packing(length, 0, pad, 1, cut, predict)
    if objective == "masked":
        ids = masking(tokenizer)

        def mask(window: Ints, first: NDArray[np.bool_], rng: np.random.Generator) -> Row:
            return masked(plain(window), ids, rng)

        return Packing(length, 0, pad, 0, lambda _, tokens: range(0, tokens, length - 2), mask)
    if objective == "denoise":
        return _denoising(infilling(tokenizer), length, pad)
    return _spans(sentinels(tokenizer, length), length, pad)


def _spans(ids: Sentinels, length: int, pad: int) -> Packing:
    longest, target = fitting(length)
    costs = np.array([sizes(n) for n in range(longest + 1)])
    return Packing(
        target, length, pad, 0,
        lambda starts, tokens: fill(starts, tokens, costs, (length, target)),
        lambda window, first, rng: span(window, first, ids, rng),
    )  # fmt: skip


def _denoising(ids: Infilling, length: int, pad: int) -> Packing:
    """A text is as long as its target: both, and the source at most, have a token before and one behind it."""
    costs = np.arange(length - 1).repeat(2).reshape(-1, 2) + 2
    return Packing(
        length, length, pad, 0,
        lambda starts, tokens: fill(starts, tokens, costs, (length, length)),
        lambda window, first, rng: denoise(window, first, ids, rng),
    )  # fmt: skip


def masking(tokenizer: Tokenizer) -> Masking:
    """The ids that masking needs, or ValueError naming what the tokenizer lacks."""
    (cls,), (sep,) = frame("masked", tokenizer)
    if tokenizer.mask is None:
        raise ValueError("the masked objective needs a mask token, and the tokenizer lacks one: train one for it")
    named = (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unk, tokenizer.mask)
    special = tuple(sorted({cls, sep, *tokenizer.sentinels, *(token for token in named if token is not None)}))
    return Masking(cls, sep, tokenizer.mask, tokenizer.vocab, special)


def sentinels(tokenizer: Tokenizer, length: int) -> Sentinels:
    """The ids that span corruption of sources of `length` tokens needs, or ValueError naming what the
    tokenizer lacks.
    """
    needed = counts(fitting(length)[0])[1]
    if len(tokenizer.sentinels) < needed:
        needs = f"span corruption of {length} tokens needs {needed} sentinels (<extra_id_0> ...)"
        raise ValueError(f"{needs}, and the tokenizer has {len(tokenizer.sentinels)}")
    if tokenizer.eos is None or tokenizer.pad is None:
        raise ValueError("span corruption needs an end-of-text and a padding token: the tokenizer lacks one")
    return Sentinels(np.array(tokenizer.sentinels, np.int64), tokenizer.eos, tokenizer.pad)


def infilling(tokenizer: Tokenizer) -> Infilling:
    """The ids that denoising needs, or ValueError naming what the tokenizer lacks."""
    before, after = around(tokenizer)
    if (len(before), len(after)) != (1, 1):
        raise ValueError("denoising needs a tokenizer that sets <s> before a text and </s> behind it: train one for it")
    if tokenizer.mask is None:
        raise ValueError("denoising needs a mask token, and the tokenizer lacks one: train one for it")
    return Infilling(before[0], after[0], tokenizer.mask)


def frame(objective: Objective, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that stand before and after each document in token shards.

    Causal: the token that the tokenizer itself sets before a text, if it does, and end-of-text. Masked: [CLS]
    and [SEP]. Span corruption and denoising: none, since every piece of a document gets its own in its row.
    """
    if objective in ("span", "denoise"):
        return [], []
    before, after = around(tokenizer)
    if objective == "masked" and (len(before), len(after)) != (1, 1):
        raise ValueError("the masked objective needs a tokenizer that sets [CLS] before a text, [SEP] behind it")
    if objective == "causal" and tokenizer.eos is None:
        raise ValueError("the causal objective needs an end-of-text token, which this tokenizer lacks")
    return before, after if objective == "masked" else [cast(int, tokenizer.eos)]


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer itself sets before and behind every text."""
    plain, full = tokenizer.encode("a"), tokenizer.encode("a", special=True)
    at = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return full[:at], full[at + len(plain) :]


# --- padding --------------------------------------------------------------------------------------


class Lengths(Protocol):
    """What a batch is padded to, and with what."""

    @property
    def length(self) -> int: ...  # T
    @property
    def source(self) -> int: ...  # S, or 0
    @property
    def pad(self) -> int: ...


def collate(rows: Sequence[Row], packing: Lengths) -> Batch:
    """Rows -> one batch (B, T), padded on the right to the packing's lengths."""

    def stack(arrays: Sequence[NDArray[Any]], width: int, fill: int = 0) -> Tensor:
        out = np.full((len(arrays), width, *arrays[0].shape[1:]), fill, arrays[0].dtype)
        for line, array in zip(out, arrays, strict=True):
            line[: len(array)] = array
        return torch.from_numpy(out)

    T, S, pad = packing.length, packing.source, packing.pad
    tokens, targets, weight, pos, segment, sources, compared = zip(*rows, strict=True)
    source = pairs = None
    if S:
        inputs, places, parts = zip(*sources, strict=True)
        source = Source(stack(inputs, S, pad), stack(places, S), stack(parts, S))
    if compared[0] is not None:
        segments, counted = zip(*compared, strict=True)
        most = max(map(len, counted))
        pairs = Pairs(stack(segments, most), stack(counted, most))
    words, marks = (stack(tokens, T, pad), stack(targets, T, pad)), (stack(pos, T), stack(segment, T))
    return Batch(*words, stack(weight, T), *marks, source, pairs)
