"""A question and the text that holds its answer: side by side as ids, in overlapping windows where the text is long;
and back, from scores of the text's tokens to an answer that is cut out of it.

Devlin et al. 2019, section 4.2, and its code: `[CLS] question [SEP] text [SEP]`, as the tokenizer itself sets a pair.

Letters: T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.data.examples import Example
from modelwright.data.pack import Row, around
from modelwright.data.supervised import join
from modelwright.data.tokenizer import Tokenizer

STEP = 128  # tokens from one window to the next, at most, as in BERT's code
QUESTION = 64  # tokens of a question, at most, likewise
START, END = 1, 2  # what a place is, as bits of its target: `losses/extract.py`

Scores = NDArray[np.float32]
Span = tuple[int, int]  # the first and the last token of an answer, counted from the text's first


@dataclass(frozen=True)
class Window:
    """A question, and a piece of the text behind it."""

    tokens: tuple[int, ...]
    types: tuple[int, ...]  # of each token, which of the two texts it is of
    first: tuple[int, ...]  # places of the text's tokens
    begin: int  # which of the text's tokens is the first here
    offsets: tuple[tuple[int, int], ...]  # of each of these, where in the whole text it begins and ends, in characters

    def holds(self, span: Span) -> bool:
        return self.begin <= span[0] and span[1] < self.begin + len(self.offsets)

    def row(self, span: Span | None, types: int) -> Row:
        """Weight 1 at the text's tokens, the targets where the answer starts and ends; without one, no weight at all.

        types: as in `Frame`.
        """
        ids, targets, weight = np.array(self.tokens), np.zeros(len(self.tokens), int), np.zeros(len(self.tokens))
        if span is not None:
            weight[list(self.first)] = 1
            targets[self.first[span[0] - self.begin]] |= START
            targets[self.first[span[1] - self.begin]] |= END
        told = np.array(self.types) if types > 1 else None
        return Row(ids, targets, weight.astype(np.float32), np.arange(len(ids)), np.ones_like(ids), types=told)


class Frame:
    """What a tokenizer sets before, between and behind two texts; what of them fits a context."""

    def __init__(self, tokenizer: Tokenizer, context: int, soft: Sequence[int] = (), types: int = 0) -> None:
        """types: how many token types the model tells apart.

        Raises ValueError where a context has no room, or where nothing would stand between the two texts.
        """
        self.inner, self.types = tokenizer.inner, types
        pair = self.inner.encode("a", "b", add_special_tokens=True)
        of, kinds, ids = pair.sequence_ids, pair.type_ids, list(zip(pair.ids, pair.type_ids, strict=True))
        (one, last), (two, end) = ((of.index(text), len(of) - of[::-1].index(text)) for text in (0, 1))
        before, self.between, self.after = ids[:one], ids[last:two], ids[end:]
        self.kinds = kinds[one], kinds[two]
        if not self.between:
            before, self.between, self.after = self._apart(tokenizer)
        self.before = [*((token, 0) for token in soft), *before]
        self.room = context - len(self.before) - len(self.between) - len(self.after)
        if self.room < 2:
            raise ValueError(f"a context of {context} tokens has no room for a question and a text")

    def _apart(self, tokenizer: Tokenizer) -> Iterator[list[tuple[int, int]]]:
        """Of a tokenizer that knows one text only: what it sets before a text, and twice what it sets behind it."""
        before, after = around(tokenizer)
        between = after or [token for token in (tokenizer.sep, tokenizer.eos) if token is not None][:1]
        if not between:
            raise ValueError("this model's tokenizer has no token to stand between a question and a text")
        parts = (before, self.kinds[0]), (between, self.kinds[0]), (after, self.kinds[1])
        return ([(token, kind) for token in ids] for ids, kind in parts)

    def windows(self, question: str, text: str) -> tuple[list[Window], int]:
        """The question beside each window of the text; and how many tokens of a long question were left out."""
        asked = self.inner.encode(question, add_special_tokens=False).ids
        kept = asked[: min(QUESTION, self.room // 2)]
        read = self.inner.encode(text, add_special_tokens=False)
        room = self.room - len(kept)
        step = min(STEP, max(1, room // 2))
        starts = range(0, max(len(read.ids) - room, 0) + step, step)
        before = [*self.before, *((token, self.kinds[0]) for token in kept), *self.between]
        found = [self._window(before, read.ids[at : at + room], read.offsets[at : at + room], at) for at in starts]
        return found, len(asked) - len(kept)

    def _window(
        self, before: list[tuple[int, int]], ids: list[int], offsets: list[tuple[int, int]], begin: int
    ) -> Window:
        tokens, types = zip(*before, *((token, self.kinds[1]) for token in ids), *self.after, strict=True)
        places = range(len(before), len(before) + len(ids))
        return Window(tokens, types, tuple(places), begin, tuple(offsets))

    def span(self, text: str, place: tuple[int, int]) -> Span | None:
        """Characters -> the first and the last token that hold one of them; None of characters that no token has."""
        offsets = self.inner.encode(text, add_special_tokens=False).offsets
        held = [at for at, (start, end) in enumerate(offsets) if end > place[0] and start < place[1]]
        return (held[0], held[-1]) if held else None

    def row(self, windows: Sequence[Window], text: str, place: tuple[int, int] | None) -> Row:
        """The windows that hold the answer, side by side; without weight where there is no answer, or none holds it."""
        span = None if place is None else self.span(text, place)
        holding = [window for window in windows if span and window.holds(span)]
        return join([window.row(span, self.types) for window in holding] or [windows[0].row(None, self.types)])


def place_of(example: Example) -> tuple[int, int] | None:
    """Where in its context the answer stands, in characters: at `answer_start` where the file says it, else where it
    stands first. None where it does not stand there.

    Raises ValueError for an `answer_start` that is no number.
    """
    answer, text = str(example.fields["answer"]), str(example.fields["context"])
    said: Any = example.fields.get("answer_start")
    said = said[0] if isinstance(said, list) and said else said
    try:
        start = text.find(answer) if said is None else int(said)
        if said is not None and start != float(said):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{example.id} has the answer_start {said!r}, and it is to be a whole number") from None
    stands = bool(answer.strip()) and start >= 0 and text.startswith(answer, start)
    return (start, start + len(answer)) if stands else None


# -- and back ---------------------------------------------------------------------------------------------


def best_span(scores: Scores, longest: int) -> tuple[int, int, float]:
    """scores (T, 2) of starting and of ending at each token -> the first and the last token of the span of at most
    `longest` tokens with the highest sum, and that sum (Devlin et al. 2019, section 4.2)."""
    count = np.arange(len(scores))
    apart = count[None] - count[:, None]  # (T, T): end minus start
    sums = np.where((apart >= 0) & (apart < longest), scores[:, None, 0] + scores[None, :, 1], -np.inf)
    start, end = divmod(int(sums.argmax()), len(scores))
    return start, end, float(sums[start, end])


def cut_out(text: str, windows: Sequence[Window], scores: Scores, longest: int) -> str:
    """The answer of the window whose best span scores highest, the first of several; "" of a text without a token.

    scores: (tokens, 2), those of one window behind those of another.
    """
    parts = np.split(scores, np.cumsum([len(window.offsets) for window in windows])[:-1])
    pairs = [(window, best_span(part, longest)) for window, part in zip(windows, parts, strict=True) if len(part)]
    if not pairs:
        return ""
    window, (start, end, _) = max(pairs, key=lambda pair: pair[1][2])
    return text[window.offsets[start][0] : window.offsets[end][1]].strip()
