"""Losses over pairs: numbers by hand, and what is known before the first step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, tensor

from modelwright.losses.preference import KINDS, Kind, bradley_terry, dpo


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
