"""The loss on an answer's start and end: numbers by hand, packed and alone, and what never counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modelwright.data.pack import Batch
from modelwright.losses.extract import extract, spans


def logp(scores: list[float], at: int) -> float:
    return scores[at] - math.log(sum(math.exp(score) for score in scores))


def test_two_examples_of_a_row_by_hand() -> None:
    """Segment 1: a question token and a text of three; segment 2: a text of two; then padding."""
    start, end = [9.0, 1.0, 2.0, 0.5, -1.0, 1.5, 7.0], [8.0, 0.0, 1.0, 3.0, 0.25, -2.0, 7.0]
    targets = torch.tensor([[0, 0, 1, 2, 0, 3, 0]])
    weight, segment = torch.tensor([[0.0, 1, 1, 1, 1, 1, 0]]), torch.tensor([[1, 1, 1, 1, 2, 2, 0]])
    lost, count = spans(torch.tensor([[*zip(start, end, strict=True)]]), targets, weight, segment)
    want = logp(start[1:4], 1) + logp(end[1:4], 2) + logp(start[4:6], 1) + logp(end[4:6], 1)
    assert (lost.item(), count) == (pytest.approx(-want / 2, abs=1e-5), 2)


def rows(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 9, 2, generator=generator)
    targets = torch.tensor([[0, 0, 3, 0, 0, 0, 1, 2, 0], [0, 1, 0, 0, 2, 0, 0, 0, 0]])
    weight = torch.tensor([[0.0, 1, 1, 1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 0, 0, 0]])
    segment = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 0, 0, 0]])
    return logits, targets, weight, segment


def test_packed_is_the_sum_of_each_alone() -> None:
    logits, targets, weight, segment = rows(0)
    whole, count = spans(logits, targets, weight, segment)
    alone = [
        spans(logits[b, places][None], targets[b, places][None], weight[b, places][None], segment[b, places][None])
        for b, places in ((0, slice(0, 4)), (0, slice(4, 9)), (1, slice(0, 6)))
    ]
    assert count == sum(n for _, n in alone) == 3
    assert whole.item() == pytest.approx(sum(lost.item() for lost, _ in alone), abs=1e-5)


def test_only_places_of_the_text_learn_and_each_end_is_pulled_up() -> None:
    logits, targets, weight, segment = rows(1)
    spans(logits.requires_grad_(), targets, weight, segment)[0].backward()
    assert logits.grad is not None
    assert not logits.grad[weight == 0].any()
    assert logits.grad.isfinite().all()
    pulled = torch.stack([targets & 1, targets & 2], -1) > 0
    assert torch.equal(logits.grad < 0, pulled)
    torch.testing.assert_close(
        logits.grad.sum((0, 1)), torch.zeros(2), atol=1e-6, rtol=0
    )  # softmax minus what is right


def test_a_row_without_a_text_does_not_count() -> None:
    logits, targets, weight, segment = rows(2)
    first = spans(logits[:1], targets[:1], weight[:1], segment[:1])
    weight[1] = 0
    both = spans(logits, targets * (weight > 0), weight, segment)
    assert (both[0].item(), both[1]) == (pytest.approx(first[0].item(), abs=1e-6), 2)


def test_the_model_is_told_positions_segments_and_types() -> None:
    logits, targets, weight, segment = rows(3)
    seen = {}

    class Model(torch.nn.Module):
        def forward(self, tokens: Tensor, **told: Tensor) -> Tensor:
            seen.update(told, tokens=tokens)
            return logits

    batch = Batch(targets + 4, targets, weight, segment + 7, segment, types=segment + 9)
    terms, _ = extract(Model(), batch)
    assert terms["loss"] == (spans(logits, targets, weight, segment)[0], 3, 1.0)
    assert torch.equal(seen["tokens"], batch.tokens)
    assert seen["pos"] is batch.pos
    assert seen["segment"] is batch.segment
    assert seen["types"] is batch.types
