"""Tiny models on the disk, and a task that each can learn in seconds: which word goes with the last one of a text."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml

from modelwright.data.tokenizer import Tokenizer, train
from modelwright.hub.open import LanguageModel, save
from modelwright.model.transformer import Config, Relative, Rope, Transformer, initialise

COLOURS = {"red": "cat", "green": "mat", "blue": "birds", "grey": "town"}
TEXTS = [
    " ".join(words) for words in product(("the", "a", "my"), ("old", "new", "far"), ("sea", "hill", "road"), COLOURS)
]
LLAMA = Config(
    vocab=0, width=32, layers=2, heads=4, kv_heads=2, head=8, ffn=64, context=48, rope=Rope(), tied=False
)  # fmt: skip
GPT2 = replace(LLAMA, kv_heads=4, norm="layer", act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True,
               learned=True, rope=None, tied=True)  # fmt: skip
TOWER = replace(LLAMA, kv_heads=4, rope=None, relative=Relative(8, 20), attn_scale=1.0, eps=1e-6, act="relu",
                gated=False, tied=True)  # fmt: skip
BERT = replace(GPT2, causal=False, types=2, head_transform=True, head_bias=True, embed_norm=True, pre_norm=False,
               final_norm=False, act="gelu", eps=1e-12)  # fmt: skip
T5 = replace(TOWER, encoder=replace(TOWER, causal=False))
SHAPES = {"decoder": (LLAMA, "causal", "bpe"), "encoder": (BERT, "masked", "wordpiece"),
          "encoder-decoder": (T5, "span", "unigram")}  # fmt: skip


def tokenizer(shape: str) -> Tokenizer:
    _, objective, kind = SHAPES[shape]
    words = [f"{text} {COLOURS[text.split()[-1]]}" for text in TEXTS]
    return train([*words, *map(str.upper, words)], kind, 400, objective=objective)  # type: ignore[arg-type]


def model_in(directory: Path, shape: str, **changes: Any) -> Path:
    """A model directory of random weights."""
    found = tokenizer(shape)
    cfg = replace(SHAPES[shape][0], vocab=found.vocab, **changes)
    if cfg.encoder is not None:
        cfg = replace(cfg, encoder=replace(cfg.encoder, vocab=found.vocab, dropout=cfg.dropout))
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.head.proj.weight.mul_(10)  # fresh, it is so small that what is frozen keeps all logits near 0
    ids = {"eos_token_id": found.eos, "pad_token_id": found.pad}
    ids |= {"decoder_start_token_id": found.pad} if cfg.encoder else {}
    save(LanguageModel(model, found, {name: token for name, token in ids.items() if token is not None}), directory)
    return directory


def rows(kind: str, seed: int = 0) -> list[dict[str, Any]]:
    """Every text once, in a random order, with its answer."""
    texts = random.Random(seed).sample(TEXTS, len(TEXTS))
    if kind == "tag":
        return [{"tokens": t.split(), "tags": ["B-COLOUR" if w in COLOURS else "O" for w in t.split()]} for t in texts]
    names = ("text", "label") if kind == "classify" else ("source", "target")
    return [dict(zip(names, (text, COLOURS[text.split()[-1]]), strict=True)) for text in texts]


def task_in(directory: Path, kind: str = "generate", sizes: tuple[int, ...] = (76, 16, 8, 8), **more: Any) -> Path:
    """A task.yaml, and its four parts beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    left, data = iter(rows(kind)), {}
    for part, size in zip(("train", "select", "decide", "test"), sizes, strict=True):
        if size:
            data[part] = f"{part}.jsonl"
            lines = [json.dumps(next(left)) + "\n" for _ in range(size)]
            (directory / f"{part}.jsonl").write_text("".join(lines))
    split = {part: 0 for part in ("select", "decide", "test") if part not in data}
    said = {"kind": kind, "data": {**data, "split": split}, "decoding": {"max_new": 6}, **more}
    (directory / "task.yaml").write_text(yaml.safe_dump(said))
    return directory / "task.yaml"
