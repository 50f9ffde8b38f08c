"""Tokens near a word, or a sum of words: `modelwright inspect --nearest`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from modelwright.infer.nearest import nearest, terms
from modelwright.infer.text import LanguageModel, shown


def tell(lm: LanguageModel, expression: str, top: int) -> dict[str, Any]:
    """The words as the tokenizer has them, and the `top` nearest tokens."""
    words = terms(lm.tokenizer, expression)
    return {
        "expression": expression,
        "words": [as_told(lm, word.word, word.sign, word.tokens) for word in words],
        "neighbours": [
            {"token": token, "text": shown(lm.tokenizer, token), "cosine": cosine}
            for token, cosine in nearest(lm, words, top)
        ],
    }


def as_told(lm: LanguageModel, word: str, sign: int, tokens: list[int]) -> dict[str, Any]:
    return {"word": word, "sign": sign, "tokens": [shown(lm.tokenizer, token) for token in tokens]}


def show(screen: Console, told: dict[str, Any]) -> None:
    screen.print(Text(f"nearest to {told['expression']}, by cosine in the embedding"))
    for word in told["words"]:
        tokens = " ".join(word["tokens"])
        several = f"{len(word['tokens'])} tokens, {tokens}: their mean"
        screen.print(Text(f"{word['word']} is " + (several if len(word["tokens"]) > 1 else f"the token {tokens}")))
    for row in told["neighbours"]:
        screen.print(Text(f"  {row['cosine']:6.3f}  {row['text']}"))
