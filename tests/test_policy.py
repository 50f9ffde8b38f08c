"""PPO's and GRPO's parts: published numbers, numbers by hand, and identities."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, tensor

from captured import model_of, opened
from modelwright.data.pack import Batch, collate
from modelwright.data.prompt import Prompt, answered
from modelwright.data.supervised import Widths
from modelwright.losses.language import read
from modelwright.losses.policy import (
    Controller,
    answer_weights,
    clipped_surrogate,
    clipped_value,
    gae,
    group_advantages,
    grpo,
    kl,
    token_rewards,
    whiten,
)  # fmt: skip

# -- the price of leaving the reference --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "wanted"), [("k1", 0.5), ("k2", 0.125), ("k3", 0.1065307)])
def test_estimates_of_kl(kind: str, wanted: float) -> None:
    assert kl(tensor([-1.0]), tensor([-1.5]), kind).item() == pytest.approx(wanted)  # type: ignore[arg-type]
    assert kl(tensor([-1.0]), tensor([-1.0]), kind).item() == 0.0  # type: ignore[arg-type]


def test_k1_and_k3_are_right_on_average_and_k2_is_not_quite() -> None:
    p, q = tensor([0.8, 0.1, 0.1]), tensor([0.2, 0.4, 0.4])
    exact = (p * (p / q).log()).sum().item()
    means = {kind: (p * kl(p.log(), q.log(), kind)).sum().item() for kind in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(exact)
    assert means["k3"] == pytest.approx(exact)
    assert means["k2"] != pytest.approx(exact, rel=0.05)
    assert (kl(p.log(), q.log(), "k3") >= 0).all()
    assert (kl(p.log(), q.log(), "k1") < 0).any()


def test_the_coefficient_follows_its_target() -> None:
    adaptive, fixed = Controller(0.15, target=6.0), Controller(0.15)
    adaptive.update(12.0, 512)
    fixed.update(12.0, 512)
    assert adaptive.value == pytest.approx(0.151536)
    assert fixed.value == 0.15
    adaptive.update(6.0, 512)
    assert adaptive.value == pytest.approx(0.151536)
    adaptive.update(0.0, 512)
    assert adaptive.value == pytest.approx(0.151536 * (1 - 0.2 * 512 / 10_000))


# -- what an answer was worth ------------------------------------------------------------------------------------


def test_the_score_stands_at_the_last_token() -> None:
    mask = tensor([[1.0, 1, 0], [1, 1, 1], [0, 0, 0]])
    found = token_rewards(tensor([5.0, 7.0, 9.0]), torch.full((3, 3), 0.5), mask)
    assert found.tolist() == [[-0.5, 4.5, 0], [-0.5, -0.5, 6.5], [0, 0, 0]]


def test_a_prompt_may_stand_before_an_answer() -> None:
    mask = tensor([[0.0, 0, 1, 1, 0], [0, 1, 0, 0, 0]])
    found = token_rewards(tensor([5.0, 7.0]), torch.full((2, 5), 0.5), mask)
    assert found.tolist() == [[0, 0, -0.5, 4.5, 0], [0, 6.5, 0, 0, 0]]
    values = tensor([[9.0, 9, 0.1, 0.2, 9], [9, 0.3, 9, 9, 9]])
    rewards = tensor([[0.0, 0, 0, 1, 0], [0, 1, 0, 0, 0]])
    advantages = gae(rewards, values, mask)
    assert advantages[0].tolist() == pytest.approx([0, 0, 0.2 - 0.1 + 0.95 * 0.8, 0.8, 0])
    assert advantages[1].tolist() == pytest.approx([0, 0.7, 0, 0, 0])


def test_advantages_by_hand() -> None:
    rewards, values = tensor([[0.0, 0, 1]]), tensor([[0.1, 0.2, 0.3]])
    found = gae(rewards, values, torch.ones(1, 3))
    assert found[0].tolist() == pytest.approx([0.82675, 0.765, 0.7])
    assert (found + values)[0].tolist() == pytest.approx([0.92675, 0.965, 1.0])


def test_nothing_behind_the_end_counts() -> None:
    rewards, values = tensor([[0.0, 0, 1, 77]]), tensor([[0.1, 0.2, 0.3, 99]])
    mask = tensor([[1.0, 1, 1, 0]])
    assert gae(rewards, values, mask)[0].tolist() == pytest.approx([0.82675, 0.765, 0.7, 0])


def test_with_lambda_1_an_advantage_is_all_that_follows_less_what_was_expected() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    mask, gamma = torch.ones(2, 5, dtype=torch.float64), 0.9
    powers = gamma ** torch.arange(5, dtype=torch.float64)
    follows = torch.stack([(rewards[:, t:] * powers[: 5 - t]).sum(1) for t in range(5)], 1)
    torch.testing.assert_close(gae(rewards, values, mask, gamma, 1.0), follows - values)


ROWS = [[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]]


@pytest.mark.parametrize(
    ("unbiased", "first", "last"),
    [
        (False, [0.0508, 0.4381, 0.8254], [2.3746, 2.7619, 3.1492]),
        (True, [0.1394, 0.5046, 0.8697], [2.3303, 2.6954, 3.0606]),
    ],
)
def test_whitening_keeps_the_mean_or_not(unbiased: bool, first: list[float], last: list[float]) -> None:
    x, mask = tensor(ROWS), torch.ones(3, 3)
    kept = whiten(x, mask, center=False, unbiased=unbiased)
    assert kept[0].tolist() == pytest.approx(first, abs=5e-5)
    assert kept[2].tolist() == pytest.approx(last, abs=5e-5)
    torch.testing.assert_close(whiten(x, mask, unbiased=unbiased), kept - x.mean())


def test_whitening_knows_nothing_of_padding() -> None:
    x, mask = tensor([[1.0, 2, 3, 1e9]]), tensor([[1.0, 1, 1, 0]])
    assert whiten(x, mask)[0].tolist() == pytest.approx([-1, 0, 1, 0])


def test_advantages_within_a_group() -> None:
    found = group_advantages(tensor([1.0, 0, 0, 1, 3, 3, 3, 3]), 4)
    assert found.tolist() == pytest.approx([0.8658754, -0.8658754, -0.8658754, 0.8658754, 0, 0, 0, 0])
    assert group_advantages(tensor([1.0, 0, 0, 1]), 4, scaled=False).tolist() == [0.5, -0.5, -0.5, 0.5]


# -- what is descended -------------------------------------------------------------------------------------------


def test_the_surrogate_stops_where_it_would_go_too_far() -> None:
    """The four cases of Schulman et al. 2017, figure 1, and one within the bounds."""
    ratios, advantages = tensor([1.5, 0.5, 1.5, 0.5, 1.1]), tensor([1.0, -1.0, -1.0, 1.0, 2.0])
    logps = ratios.log().requires_grad_()
    loss = clipped_surrogate(logps, torch.zeros(5), advantages)
    assert loss.tolist() == pytest.approx([-1.2, 0.8, 1.5, -0.5, -2.2])
    loss.sum().backward()
    assert logps.grad is not None
    assert (logps.grad == 0).tolist() == [True, True, False, False, False]
    assert clipped_surrogate(ratios.log(), torch.zeros(5), advantages, above=0.4)[0].item() == pytest.approx(-1.4)


def test_at_first_the_surrogate_s_slope_is_that_of_the_policy_gradient() -> None:
    logps = tensor([-0.3, -2.0], requires_grad=True)
    clipped_surrogate(logps, logps.detach(), tensor([2.0, -1.0])).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [-2.0, 1.0]


def test_a_value_that_has_moved_far_is_not_let_off() -> None:
    """Old value 0, return 1: at 0.1 the error is plain; 0.9, which went too far, costs all the same."""
    found = clipped_value(tensor([0.1, 0.9, -0.9]), torch.zeros(3), torch.ones(3))
    assert found.tolist() == pytest.approx([0.81 / 2, 0.64 / 2, 3.61 / 2])


def test_a_group_s_loss_is_0_per_answer_and_weighs_lengths_per_token() -> None:
    """By hand: advantages of +1 and -1 of answers of 1 and 3 tokens."""
    mask = tensor([[1.0, 0, 0], [1, 1, 1]])
    advantages = tensor([1.0, -1.0])[:, None]
    loss = clipped_surrogate(torch.zeros(2, 3), torch.zeros(2, 3), advantages)
    per_answer, per_token = (answer_weights(mask, per) for per in ("answer", "token"))  # type: ignore[arg-type]
    assert (loss * per_answer).sum().item() == pytest.approx(0, abs=1e-6)
    assert per_answer.sum().item() == pytest.approx(2)
    assert ((loss * per_token).sum() / per_token.sum()).item() == pytest.approx((-1 + 3) / 4)
    assert answer_weights(torch.zeros(1, 2), "answer").tolist() == [[0, 0]]
    assert math.isfinite(per_answer.sum().item())


# -- against another library -------------------------------------------------------------------------------------


@dataclass
class Captured:
    """A step of TRL's GRPOTrainer (make_trl_grpo.py): twelve answers in two micro-batches, in our rows."""

    batch: Batch
    old: Tensor
    reference: Tensor
    theirs: Tensor  # (B, T) log p now
    advantages: Tensor
    values: None = None
    returns: None = None
    told: dict[str, float] = field(default_factory=dict)


def captured(tensors: dict[str, Tensor]) -> Captured:
    rows, columns = [], {"old": [], "ref": [], "now": [], "advantages": []}
    for part in ("0", "1"):
        for at, said in enumerate(tensors[f"{part}.completion_mask"].bool()):
            prompt = tensors[f"{part}.prompt_ids"][at][tensors[f"{part}.prompt_mask"][at].bool()].tolist()
            rows.append(
                answered(Prompt(tuple(prompt), None, ""), tensors[f"{part}.completion_ids"][at][said].tolist(), 64)
            )
            columns["old"].append(tensors[f"{part}.old_per_token_logps"][at][said])
            columns["ref"].append(tensors[f"{part}.ref_per_token_logps"][at][said])
            columns["now"].append(tensors[f"{part}.logps"][at][said])
            columns["advantages"].append(tensors[f"{part}.advantages"][at].expand(int(said.sum())))
    batch = collate(rows, Widths(max(len(row.tokens) for row in rows), 0, 0))

    def placed(parts: list[Tensor]) -> Tensor:
        return torch.zeros(batch.weight.shape).masked_scatter(batch.weight > 0, torch.cat(parts))

    return Captured(batch, *(placed(columns[name]) for name in ("old", "ref", "now", "advantages")))


@pytest.mark.parametrize(("kind", "per"), [("grpo", "answer"), ("dapo", "token")])
def test_grpo_is_what_trl_says(kind: str, per: str, tmp_path: Path) -> None:
    said, tensors = opened("trl_grpo")
    model, theirs = (model_of(name, said["config"], tensors, tmp_path) for name in ("weight", f"gradient.{kind}"))
    experience = captured(tensors)
    logps = read(model, experience.batch)
    torch.testing.assert_close(logps, experience.theirs, atol=1e-5, rtol=0)
    terms, metrics = grpo(model, experience, beta=float(said["beta"]), per=per)  # type: ignore[arg-type]
    total, weight, _ = terms["policy"]
    loss = total / weight
    assert metrics["clipfrac"] > 0.2, "a step that shows something"
    assert loss.item() == pytest.approx(sum(tensors[f"{part}.loss.{kind}"].item() for part in "01"), abs=1e-6)
    loss.backward()
    assert model.embed.tokens.weight.grad is not None
    model.embed.tokens.weight.grad[0] = 0  # theirs learns nothing of its padding token, even where it was drawn
    one = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    other = torch.cat([p.detach().flatten() for p in theirs.parameters()])
    assert torch.cosine_similarity(one, other, dim=0) > 0.99999
    assert ((one - other).abs().max() / other.abs().max()).item() < 1e-4
