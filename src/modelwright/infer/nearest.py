"""Which tokens stand near a word in a model's embedding, and near a sum of words such as "king - man + woman".

C width, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modelwright.data.tokenizer import Tokenizer
from modelwright.infer.text import LanguageModel


class Term(NamedTuple):
    """A word of a sum: +1 or -1, and the tokens that it is made of."""

    word: str
    sign: int
    tokens: list[int]


class Near(NamedTuple):
    token: int
    cosine: float


def terms(tokenizer: Tokenizer, expression: str) -> list[Term]:
    """The words of a sum; only a plus or minus between spaces is one. Raises ValueError naming a word not to be had."""
    words = [word.strip() for word in re.split(r"\s[+-]\s", expression)]
    signs = [1, *(1 if sign == "+" else -1 for sign in re.findall(r"\s([+-])\s", expression))]
    if not all(words):
        raise ValueError(f"{expression!r} lacks a word: name one, or a sum such as 'king - man + woman'")
    return [Term(word, sign, spelled(tokenizer, word)) for word, sign in zip(words, signs, strict=True)]


def spelled(tokenizer: Tokenizer, word: str) -> list[int]:
    """The tokens of a word as it stands within a text, after a space, or at its beginning: whichever takes fewer."""
    found = min((tokenizer.encode(" " + word), tokenizer.encode(word)), key=len)
    if not found or tokenizer.unk in found:
        raise ValueError(f"the tokenizer has no tokens for {word!r}: try another word")
    return found


@torch.inference_mode()
def nearest(lm: LanguageModel, expression: Sequence[Term], top: int) -> list[Near]:
    """The `top` tokens whose vectors have the highest cosine with the sum's, the words' own tokens left out.

    Each word counts as a vector of length 1 (Mikolov et al. 2013, "Linguistic regularities", section 4), and one of
    several tokens as the mean of theirs. Raises ValueError for a sum that comes to nothing, and for `top` below 1.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    rows = lm.model.embed.tokens.weight[: lm.tokenizer.vocab].float()  # (V, C)
    point = torch.stack([term.sign * direction(rows, term.tokens) for term in expression]).sum(0)  # (C)
    if point.norm() < 1e-6:
        raise ValueError("these words add up to nothing, and nothing is near that: leave one of them out")
    cosines = F.normalize(rows, dim=-1) @ F.normalize(point, dim=0)  # (V)
    cosines[[token for term in expression for token in term.tokens]] = -2.0
    best = cosines.topk(min(top, len(cosines)))
    return [Near(i, c) for i, c in zip(best.indices.tolist(), best.values.tolist(), strict=True) if c >= -1.5]


def direction(rows: Tensor, tokens: list[int]) -> Tensor:
    """The mean of some rows of (V, C), as a vector of length 1, (C)."""
    return F.normalize(rows[tokens].mean(0), dim=0)
