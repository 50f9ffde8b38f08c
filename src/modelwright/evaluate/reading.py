"""What a model is given to read when it is measured: batches of like lengths, and texts cut into the model's context.

Letters: B batch, T length, N tokens of a text, P tokens of a soft prompt.
"""

import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelwright.data.pack import Batch, Row, Source, packing
from modelwright.data.tokenizer import Objective, Tokenizer
from modelwright.infer.text import encode
from modelwright.model.transformer import Config


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places, the shortest rows first, in batches that hold `budget` tokens with their padding, or a single row."""
    some: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        if some and lengths[at] * (len(some) + 1) > budget:
            yield some
            some = []
        some.append(at)
    if some:
        yield some


def pad_right(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> Tensor:
    """(B, T) of rows of ids; padding is `fill`."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], device=device)


def marks(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """The segments (B, T) of rows of these lengths: 1, and 0 where there is only padding. None where there is none."""
    if min(lengths) == max(lengths):
        return None
    return (torch.arange(max(lengths), device=device)[None] < torch.tensor(lengths, device=device)[:, None]).long()


# -- texts as rows that a model predicts ------------------------------------------------------------------------


def text_rows(
    text: str, tokenizer: Tokenizer, cfg: Config, seed: int = 0, soft: Sequence[int] = (), spare: int = 0
) -> list[Row]:
    """The rows by which a model's loss on a text is measured, those of its pretraining: weight 1 where a token is
    predicted.

    A decoder predicts every token once (`strips`). An encoder and an encoder-decoder fill gaps, the same ones for the
    same text and seed whatever the model's weights are. A soft prompt stands before each row, or before its source.
    Beside it `spare` tokens of the context are left free.
    """
    if not text:
        return []
    if cfg.shape == "decoder":
        begin = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
        return strips(tokenizer.encode(text), begin, cfg.context - spare, soft)
    return gaps(text, tokenizer, cfg, seed, soft, spare)


def strips(
    tokens: Sequence[int], begin: int | None, context: int, soft: Sequence[int] = (), *, apart: bool = False
) -> list[Row]:
    """A text as rows of at most `context` tokens, in which each token of the text is to be predicted once.

    As lm-evaluation-harness's `loglikelihood_rolling` has it: the first row begins with `begin` (BOS, or else EOS),
    which predicts the first token; a later row begins with a token already predicted; and the last is filled up with as
    many of these as there is room for, unless rows are to stand `apart`. Without a `begin` the first
    token is only read.
    """
    text = np.array([*([] if begin is None else [begin]), *tokens], np.int64)  # text[i] predicts text[i + 1]
    room, last = context - len(soft), len(text) - 1
    rows = []
    for start in range(0, last, room):
        end = min(start + room, last)
        first = start if apart else max(0, end - room)
        weight = (np.arange(first, end) >= start).astype(np.float32)
        there = np.arange(end - first)
        row = Row(text[first:end], text[first + 1 : end + 1], weight, there, np.ones_like(there))
        rows.append(_softened(row, soft))
    return rows


def gaps(
    text: str, tokenizer: Tokenizer, cfg: Config, seed: int, soft: Sequence[int] = (), spare: int = 0
) -> list[Row]:
    """A text with masked tokens for an encoder, with spans to fill in for an encoder-decoder; or, where its tokenizer
    has a mask and no sentinels, with spans hidden and all of it to be written again.
    """
    filled: Objective = "denoise" if tokenizer.mask is not None and not tokenizer.sentinels else "span"
    objective: Objective = "masked" if cfg.shape == "encoder" else filled
    how = packing(objective, tokenizer, (cfg.encoder or cfg).context - len(soft) - spare)
    window = np.array(encode(tokenizer, text, ()) if objective == "masked" else tokenizer.encode(text), np.int64)
    first = np.arange(len(window)) == 0
    cuts = [*how.starts([np.flatnonzero(first)], len(window)), len(window)]
    rng = np.random.default_rng([seed, zlib.crc32(text.encode())])
    rows = [how.row(window[i:j], first[i:j], rng) for i, j in pairwise(cuts)]
    return [_softened(row, soft) for row in rows]


def _softened(row: Row, soft: Sequence[int]) -> Row:
    """The row of one text with a soft prompt before what the model reads first."""
    if not len(soft):
        return row
    if row.source is not None:
        source = np.concatenate([soft, row.source[0]])
        return row._replace(source=(source, np.arange(len(source)), np.ones_like(source)))
    tokens, targets = (np.concatenate([np.array(soft, np.int64), ids]) for ids in (row.tokens, row.targets))
    weight = np.concatenate([np.zeros(len(soft), np.float32), row.weight])
    return Row(tokens, targets, weight, np.arange(len(tokens)), np.ones_like(tokens))


def reach(row: Row) -> int:
    """How many columns a row needs: its own tokens, or its source's where these are more."""
    return max(len(row.tokens), len(row.source[0]) if row.source else 0)


def stacked(rows: Sequence[Row], device: torch.device) -> Batch:
    """Rows as a batch, padded to the longest."""

    def stack(arrays: Sequence[NDArray[Any]]) -> Tensor:
        longest = max(map(len, arrays))
        return torch.from_numpy(np.stack([np.pad(a, (0, longest - len(a))) for a in arrays])).to(device)

    *own, sources, _ = zip(*rows, strict=True)
    source = Source(*map(stack, zip(*sources, strict=True))) if sources[0] is not None else None
    tokens, targets, weight, pos, segment = map(stack, own)
    return Batch(tokens, targets, weight, pos, segment, source)
