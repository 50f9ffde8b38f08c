"""Beam search: equal to another library's and to looking at every text; what ends a text; rows by themselves."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from modelwright.data import tokenizer as tokenizers
from modelwright.hub.open import LanguageModel
from modelwright.infer.beam import Hypothesis, beam_search, likeliest, parts
from modelwright.infer.complete import complete, generate, stream, written
from modelwright.infer.engine import Engine, Request
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling, settings
from modelwright.infer.text import Encoded
from modelwright.model import checkpoint
from modelwright.model.transformer import Config, Rope, Transformer, initialise

KINDS = ["gpt2", "llama-grouped-tied", "t5", "t5-v1.1"]
START = 0  # what T5's decoder begins with


def both(name: str, directory: Path) -> tuple[Any, Transformer]:
    theirs = tiny.make(name)
    with torch.no_grad():  # even enough that texts end anywhere
        theirs.get_output_embeddings().weight.mul_(0.7)
    theirs.save_pretrained(directory)
    return theirs, checkpoint.load(directory).eval()


def ragged(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, tiny.VOCAB) for _ in range(length)] for length in lengths]


def encoded(model: Transformer, prompts: list[list[int]]) -> Encoded:
    return Encoded([[START]] * len(prompts), prompts) if model.encoder else Encoded(prompts, None)


def found(model: Transformer, prompts: list[list[int]], ends: list[int], **asked: Any) -> list[list[Hypothesis]]:
    sampling = Sampling(temperature=0, **asked)
    return [best for _, best in sorted(beam_search(model, encoded(model, prompts), sampling, ends))]


def peers(theirs: Any, prompts: list[list[int]], ends: list[int], **asked: Any) -> list[list[tuple[list[int], float]]]:
    """Tokens and score of the best texts of each prompt, by transformers."""
    longest, n = max(map(len, prompts)), asked["n"]
    seq2seq = theirs.config.is_encoder_decoder
    gaps = [[0] * (longest - len(prompt)) for prompt in prompts]
    ids = torch.tensor([prompt + gap if seq2seq else gap + prompt for prompt, gap in zip(prompts, gaps, strict=True)])
    mask = torch.tensor([[1] * len(prompt) + gap if seq2seq else gap + [1] * len(prompt)
                         for prompt, gap in zip(prompts, gaps, strict=True)])  # fmt: skip
    out = theirs.generate(
        ids, attention_mask=mask, num_beams=asked["beams"], length_penalty=asked["length_penalty"], do_sample=False,
        num_return_sequences=n, max_new_tokens=asked["max_new"], eos_token_id=ends or None, pad_token_id=-1,
        return_dict_in_generate=True, output_scores=True, early_stopping=False,
    )  # fmt: skip
    start = 1 if seq2seq else longest
    rows = [[token for token in row[start:].tolist() if token != -1] for row in out.sequences]
    pairs = list(zip(rows, out.sequences_scores.tolist(), strict=True))
    return [pairs[at : at + n] for at in range(0, len(pairs), n)]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("name", KINDS)
def test_equal_to_transformers(name: str, penalty: float, tmp_path: Path) -> None:
    theirs, ours = both(name, tmp_path)
    prompts, lengths = ragged(5, 12, 1, 7, 12, 30), set()
    for ends in ([7], [7, 11, 40], list(range(20, 28)), list(range(9, 61))):
        asked = {"max_new": 14, "beams": 4, "n": 3, "length_penalty": penalty}
        expected = peers(theirs, prompts, ends, **asked)
        for model in (ours, prepare(ours)):
            rows = found(model, prompts, ends, **asked)
            assert [[list(one.tokens) for one in row] for row in rows] == [[ids for ids, _ in row] for row in expected]
            scores = torch.tensor([[one.score for one in row] for row in rows])
            torch.testing.assert_close(scores, torch.tensor([[s for _, s in row] for row in expected]), atol=1e-4, rtol=0)
        lengths |= {len(ids) for row in expected for ids, _ in row}
    print(name, penalty, lengths)
    assert len(lengths) > (3 if penalty < 1 else 1), lengths  # ends there were, of one search early, of another late
