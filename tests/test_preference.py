"""Losses over pairs: numbers by hand, what is known before the first step, and what another library says."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, tensor

from captured import model_of, opened
from modelwright.data.pack import Row, collate
from modelwright.data.prompt import Prompt, answered
from modelwright.data.supervised import Widths, join
from modelwright.losses.preference import KINDS, Kind, answer_logps, bradley_terry, direct_preference, dpo


def test_a_reward_model_that_cannot_tell_has_ln_2() -> None:
    assert bradley_terry(tensor([3.0, -1.0]), tensor([3.0, -1.0])).tolist() == pytest.approx([math.log(2)] * 2)
    assert bradley_terry(tensor([2.0]), tensor([0.0])).item() == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize(
    ("kind", "delta", "beta", "wanted"),
    [
        ("sigmoid", 0.0, 0.1, 0.6931472), ("sigmoid", 2.0, 0.1, 0.5981389),
        ("ipo", 0.0, 0.1, 25.0), ("ipo", 5.0, 0.1, 0.0), ("ipo", 7.0, 0.1, 4.0),
        ("hinge", 0.0, 0.1, 1.0), ("hinge", 4.0, 0.1, 0.6), ("hinge", 11.0, 0.1, 0.0),
    ],
)  # fmt: skip
def test_by_hand(kind: Kind, delta: float, beta: float, wanted: float) -> None:
    """However the margin comes about: by the policy's pair or by the reference's."""
    zero = tensor([0.0])
    for said in ((tensor([delta]), zero, zero, zero), (zero, zero, zero, tensor([delta]))):
        assert dpo(*said, beta, kind).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_what_was_chosen_is_pushed_up_and_the_other_down(kind: Kind) -> None:
    """By beta / 2 each under the sigmoid (Rafailov et al. 2023, section 4)."""
    pair = [tensor([-3.0, -9.0], requires_grad=True), tensor([-4.0, -1.0], requires_grad=True)]
    dpo(*pair, *(logp.detach() for logp in pair), beta=0.1, kind=kind).sum().backward()
    up, down = (grad_of(logp) for logp in pair)
    assert (up < 0).all()
    assert torch.equal(up, -down)
    if kind == "sigmoid":
        assert up.tolist() == pytest.approx([-0.05, -0.05])


def grad_of(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


# -- against another library ---------------------------------------------------------------------------------------


def their_answers(tensors: dict[str, Tensor]) -> list[Row]:
    """Prompts and answers of TRL's batch (make_trl_dpo.py) as our rows: all that were chosen, then all the others."""
    columns = [tensors[name] for name in ("input_ids", "attention_mask", "completion_mask")]
    rows = []
    for ids, read, learned in zip(*columns, strict=True):
        prompt = ids[(read > 0) & (learned == 0)].tolist()
        rows.append(answered(Prompt(tuple(prompt), None, ""), ids[learned > 0].tolist(), 64))
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_dpo_is_what_trl_says(kind: Kind, tmp_path: Path) -> None:
    """The same models and pairs, all three losses; for `ipo` TRL divides an answer's log-ratio by its tokens, too.

    Two pairs share a row, as they do here in training, and none there.
    """
    said, tensors = opened("trl_dpo")
    policy, reference, theirs = (
        model_of(name, said["config"], tensors, tmp_path) for name in ("policy", "reference", f"gradient.{kind}")
    )
    rows = their_answers(tensors)
    one = np.array([[1, 2]]), np.ones(1, np.float32)
    pairs = [join(pair)._replace(pairs=one) for pair in zip(rows[:6], rows[6:], strict=True)]
    packed = [join(pairs[at : at + 2]) for at in range(0, 6, 2)]
    batch = collate(packed, Widths(max(len(row.tokens) for row in packed), 0, 0))
    logps = answer_logps(policy, batch).flatten(0, 1).T.flatten()
    torch.testing.assert_close(logps, tensors["logps.policy"], atol=1e-5, rtol=0)
    terms, metrics = direct_preference(lambda: nullcontext(reference), float(said["beta"]), kind)(policy, batch)
    total, weight, _ = terms["loss"]
    (total / weight).backward()
    assert (total / weight).item() == pytest.approx(tensors[f"loss.{kind}"].item(), rel=1e-6)
    assert 0 < metrics["accuracy"] < 1, "pairs on both sides"
    one = torch.cat([grad_of(p).flatten() for p in policy.parameters()])
    other = torch.cat([p.detach().flatten() for p in theirs.parameters()])
    assert torch.cosine_similarity(one, other, dim=0) > 0.99999
    assert ((one - other).abs().max() / other.abs().max()).item() < 1e-4
