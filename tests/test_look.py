"""The weights of attention, against another library's on tiny random weights; and the model afterwards.

Letters: B batch, T query length, S source length, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from modelwright.adapt.lora import LoRA, add_lora
from modelwright.model import checkpoint
from modelwright.model.look import look, looking
from modelwright.model.transformer import Attention, Config, Transformer


@dataclass
class Source:
    tokens: Tensor
    pos: Tensor | None = None
    segment: Tensor | None = None


def both(name: str, directory: Path) -> tuple[Any, Transformer]:
    theirs = tiny.make(name)
    theirs.save_pretrained(directory)
    theirs.set_attn_implementation("eager")
    return theirs, checkpoint.load(directory)


def same(got: Sequence[Tensor], want: Sequence[Tensor]) -> None:
    assert len(got) == len(want) > 0
    for layer, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(layer, wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]), atol=1e-5, rtol=0)


ALONE = ["gpt2", "gpt2-unscaled-scores", "llama-grouped-tied", "llama-one-key-head-biases", "bert"]


@pytest.mark.parametrize("length", [7, 40, 150])  # less than a head is wide; some; more than a block of queries
@pytest.mark.parametrize("name", ALONE)
@torch.no_grad()
def test_weights_are_those_of_transformers(name: str, length: int, tmp_path: Path) -> None:
    theirs, ours = both(name, tmp_path)
    x = tiny.tokens(2, length if ours.cfg.rope else min(length, ours.cfg.context))
    found = look(ours, x)
    same(found.own, theirs(x, output_attentions=True).attentions)
    assert found.own[0].shape == (2, ours.cfg.heads, x.size(1), x.size(1))
    assert not found.encoder
    assert not found.cross
    assert found.own[1].std() > 0.3 / length  # even weights would hide mistakes


@pytest.mark.parametrize("name", ["t5", "t5-v1.1", "t5-uneven"])
@torch.no_grad()
def test_an_encoder_decoder_has_three_kinds(name: str, tmp_path: Path) -> None:
    theirs, ours = both(name, tmp_path)
    source, x = tiny.tokens(2, 50, seed=1), tiny.tokens(2, 9)
    found = look(ours, x, Source(source))
    said = theirs(input_ids=source, decoder_input_ids=x, output_attentions=True)
    same(found.encoder, said.encoder_attentions)
    same(found.own, said.decoder_attentions)
    same(found.cross, said.cross_attentions)


@torch.no_grad()
def test_looking_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    _, ours = both("llama-grouped-tied", tmp_path)
    x = tiny.tokens(2, 40)
    before = ours(x)
    with looking(ours) as seen:
        assert torch.equal(ours(x), before)
    assert len(seen.own) == ours.cfg.layers
    assert torch.equal(ours(x), before)
    assert len(seen.own) == ours.cfg.layers
    assert not [m for m in ours.modules() if "heads" in vars(m) and isinstance(m, Attention)]


def test_an_error_within_leaves_nothing_either() -> None:
    model = Transformer(Config(vocab=9, width=8, layers=2, heads=2, kv_heads=1, head=4, ffn=8, context=8))
    with pytest.raises(IndexError), looking(model):
        model(torch.tensor([[9]]))
    assert not [m for m in model.modules() if isinstance(m, Attention) and "heads" in vars(m)]


@torch.no_grad()
def test_an_adapter_is_looked_at_with_its_base(tmp_path: Path) -> None:
    _, ours = both("gpt2", tmp_path)
    x = tiny.tokens(1, 12)
    plain = look(ours, x).own
    add_lora(ours, LoRA(rank=2), torch.Generator().manual_seed(0))
    for name, p in ours.named_parameters():
        if name.endswith(".B"):
            p.fill_(0.5)
    adapted = look(ours, x).own
    assert (adapted[0] - plain[0]).abs().max() > 0.01
