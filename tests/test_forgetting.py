"""Forgetting: the loss on general text before and after, as numbers that can be worked out."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from modelwright.evaluate.forgetting import forgetting
from modelwright.evaluate.scorer import ModelScorer
from modelwright.model.heads import relabel
from modelwright.model.transformer import Config, Labels
from test_scorer import BERT, LLAMA, T5, build, said


def test_nothing_changed_is_nothing_forgotten() -> None:
    lm = build(LLAMA)
    found = forgetting(ModelScorer(lm), ModelScorer(lm), said(6, 10))
    assert found.difference.value == 0
    assert found.difference.low <= 0 <= found.difference.high
    assert found.p == 1.0
    assert found.before == found.after


def test_the_loss_by_hand() -> None:
    """A model whose head says nothing gives every token 1 / V: log V nats."""
    lm, blank = build(LLAMA), build(LLAMA)
    blank.model = copy.deepcopy(blank.model)
    with torch.no_grad():
        blank.model.head.proj.weight.zero_()
    texts = said(8, 10)
    found = forgetting(ModelScorer(blank), ModelScorer(lm), texts)
    assert found.before.value == pytest.approx(math.log(420), rel=1e-6)
    tokens = sum(len(lm.tokenizer.encode(text)) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    assert found.bits.before.value == pytest.approx(math.log2(420) * tokens / size, rel=1e-6)
    assert found.difference.value == pytest.approx(found.after.value - found.before.value)
    assert found.bits.difference.value == pytest.approx(found.bits.after.value - found.bits.before.value)
    assert found.difference.low <= found.difference.value <= found.difference.high


@pytest.mark.parametrize("cfg", [LLAMA, BERT, T5], ids=["llama", "bert", "t5"])
def test_another_model_has_forgotten(cfg: Config) -> None:
    """Training on the texts and then looking at the untrained model shows a growth that chance does not explain."""
    lm = build(cfg)
    worse = build(cfg)
    worse.model = copy.deepcopy(lm.model)
    with torch.no_grad():
        worse.model.head.proj.bias.normal_(0, 3) if worse.model.head.proj.bias is not None else None
        worse.model.head.proj.weight.mul_(3)
    found = forgetting(ModelScorer(lm), ModelScorer(worse), said(14, 10))
    assert found.difference.low > 0
    assert found.p < 0.01


def test_a_text_without_a_token_does_not_count() -> None:
    lm = build(LLAMA)
    one = forgetting(ModelScorer(lm), ModelScorer(lm), ["the cat sat", ""])
    assert one.before.n == 1
    with pytest.raises(ValueError, match="there is no text to measure forgetting on"):
        forgetting(ModelScorer(lm), ModelScorer(lm), [""])


def test_a_model_of_labels_has_no_loss_on_text() -> None:
    lm = build(BERT)
    lm.model = relabel(lm.model, Labels(("a", "b")), torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="answers with labels and predicts no text"):
        forgetting(ModelScorer(build(BERT)), ModelScorer(lm), ["the cat"])
