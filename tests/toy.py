"""A toy to learn by reward: sixteen tokens, a word each, and a reward whose best value is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, models, pre_tokenizers

from modelwright.data.examples import Example
from modelwright.data.kind import Data, Decoding, Task
from modelwright.data.prompt import Prompter
from modelwright.data.tokenizer import Tokenizer
from modelwright.model.transformer import Config, Relative, Rope, Transformer, initialise
from modelwright.train.rollout import Answer

WORDS = "abcdefghijklm"
SPECIAL = ("<pad>", "<end>", "<unk>")
DECODER = Config(vocab=16, width=32, layers=1, heads=4, kv_heads=2, head=8, ffn=64, context=32, rope=Rope(), tied=False)
TOWER = Config(
    vocab=16, width=32, layers=1, heads=4, kv_heads=4, head=8, ffn=64, context=32, relative=Relative(8, 20),
    attn_scale=1.0, act="relu", gated=False, tied=False,
)  # fmt: skip


def tokenizer() -> Tokenizer:
    words = {token: at for at, token in enumerate((*SPECIAL, *WORDS))}
    inner = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return Tokenizer(inner, {"pad": "<pad>", "eos": "<end>", "unk": "<unk>"})


def prompter(shape: str = "decoder", max_new: int = 8, stop: tuple[str, ...] = ()) -> Prompter:
    task = Task(
        "toy", "generate", Data("none"), {}, ("{{ source }}",), " {{ target }}", decoding=Decoding(max_new, stop=stop)
    )
    return Prompter(task, tokenizer(), shape, 32)  # type: ignore[arg-type]


def model(shape: str = "decoder", seed: int = 0, louder: float = 1.0, **changes: Any) -> Transformer:
    """Random weights; `louder`: how much the head is multiplied, for logits that are not nearly even."""
    cfg = replace(DECODER if shape == "decoder" else TOWER, **changes)
    if shape == "encoder-decoder":
        cfg = replace(cfg, encoder=replace(cfg, causal=False))
    made = initialise(Transformer(cfg), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made.head.proj.weight.mul_(louder)
    return made


def prompts(count: int = 16, length: int = 3, seed: int = 0) -> list[Example]:
    drawn = torch.randint(len(WORDS), (count, length), generator=torch.Generator().manual_seed(seed)).tolist()
    return [Example(f"prompt {at}", {"source": " ".join(WORDS[i] for i in row)}) for at, row in enumerate(drawn)]


def share_of_a(answers: Sequence[Answer]) -> list[float]:
    """The share of `a` among `max_new` places: 1 at best, so an answer is to be all `a` and to go on to its limit."""
    return [answer.text.split().count("a") / 8 for answer in answers]
