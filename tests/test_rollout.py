"""Learning from one's own answers: what is drawn, what it is held against, what is learned, and where it may stop.

Letters: B answers, T tokens of a row.
"""

from __future__ import annotations

import itertools
import os
import runpy
import signal
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import toy
from modelwright.adapt.lora import LoRA, add_lora, reference_of
from modelwright.data.examples import Example
from modelwright.data.pack import Batch
from modelwright.infer.engine import Engine, Request
from modelwright.infer.sample import Sampling
from modelwright.losses.language import read
from modelwright.losses.policy import grpo
from modelwright.model.heads import Critic, policy_of
from modelwright.model.transformer import Transformer
from modelwright.recipes.run import Run
from modelwright.train import optim
from modelwright.train.interrupt import Interrupted
from modelwright.train.loop import fit
from modelwright.train.policy import GRPO, PPO, Trainer
from modelwright.train.rollout import (
    Actor,
    Answer,
    Experience,
    Reader,
    Rollouts,
    batch_of,
    checked,
    minibatches,
    repetition,
    write,
)  # fmt: skip
from oracles import plain_grpo, plain_ppo

SHAPES = ("decoder", "encoder-decoder")
METHODS = {"ppo": PPO(beta=0.1), "grpo": GRPO(group=4, beta=0.1)}


def adapted(shape: str, kind: str, **changes: Any) -> Transformer:
    """A policy of which all learns, a fresh LoRA, or a LoRA that has learned already."""
    model = toy.model(shape, louder=30, **changes)
    if kind != "full":
        add_lora(model, LoRA(rank=2, targets=("q", "v", "up")), torch.Generator().manual_seed(1))
    if kind == "tuned":
        for name, p in model.named_parameters():
            if name.endswith(".B"):
                nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(2))
    return model


def actor_of(model: Transformer, method: PPO | GRPO, shape: str = "decoder", **changes: Any) -> Actor:
    made = Critic(model) if isinstance(method, PPO) else model
    return Actor(made, toy.prompter(shape), method, reference_of(policy_of(made)), **changes)


def length(answers: Sequence[Answer]) -> list[float]:
    return [len(answer.ids) + 0.1 * answer.ids[0] for answer in answers]


def experience_of(actor: Actor, prompts: int = 4, count: int = 4, seed: int = 0) -> tuple[list[Answer], Experience]:
    answers = actor.write(toy.prompts(prompts), seed=seed, count=count)
    return answers, actor.experience(answers, length(answers))


# -- what is drawn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_end_or_are_cut_off_and_never_hold_padding(shape: str) -> None:
    prompter, model = toy.prompter(shape), toy.model(shape)
    answers = write(model, prompter, toy.prompts(40), seed=0, count=4)
    pad, end = prompter.tokenizer.pad, prompter.end
    assert [answer.example.id for answer in answers[:5]] == ["prompt 0"] * 4 + ["prompt 1"]
    for answer in answers:
        assert answer.ended == (answer.ids[-1] == end)
        assert pad not in answer.ids
        assert end not in answer.ids[:-1]
        assert len(answer.ids) == 8 or answer.ended
        assert answer.text == prompter.tokenizer.decode(answer.ids).strip()
    assert 0.2 < sum(answer.ended for answer in answers) / len(answers) < 0.8
    empty = [answer for answer in answers if answer.ids == (end,)]
    assert empty, "some end at once"
    assert empty[0].text == ""
    assert batch_of(empty, prompter).weight.sum() == len(empty)


def test_what_is_drawn_has_the_models_probabilities() -> None:
    """Temperature 1 and nothing else: of 4,000 first tokens each comes as often as the softmax says, less the padding's
    share; by a chi-squared statistic that so many draws exceed once in a thousand times."""
    model, prompter = toy.model(louder=8), toy.prompter()
    example = toy.prompts(1)
    answers = write(model, prompter, example, seed=5, count=4000, max_new=1, texts=200)
    with torch.no_grad():
        logits = model(torch.tensor([prompter.prompt(example[0]).tokens]))[0, -1]
    logits[prompter.tokenizer.pad] = -torch.inf
    wanted = logits.softmax(-1) * 4000
    counts = torch.bincount(torch.tensor([answer.ids[0] for answer in answers]), minlength=16)
    some = wanted > 5
    assert some.sum() > 6
    assert ((counts - wanted).square() / wanted)[some].sum() < 39.3  # 16 degrees of freedom


def test_answers_differ_within_a_group_and_do_not_depend_on_neighbours() -> None:
    model, prompter, prompts = toy.model(), toy.prompter(), toy.prompts(6)
    several = write(model, prompter, prompts, seed=3, count=4)
    assert all(len({answer.ids for answer in several[at : at + 4]}) > 1 for at in range(0, 24, 4))
    alone = write(model, prompter, prompts[3:4], seed=3, count=4)
    assert [answer.ids for answer in alone] == [answer.ids for answer in several[12:16]]
    other = write(model, prompter, prompts, seed=4, count=4)
    assert [answer.ids for answer in other] != [answer.ids for answer in several]
    twice = write(model, prompter, [prompts[0], prompts[0]], seed=3)
    assert twice[0].ids != twice[1].ids


def test_a_stop_string_ends_an_answer_and_is_no_part_of_its_text() -> None:
    prompter = toy.prompter(stop=("c",))
    answers = write(toy.model(), prompter, toy.prompts(40), seed=0)
    stopped = [answer for answer in answers if answer.ended and answer.ids[-1] != prompter.end]
    assert stopped
    assert all("c" not in answer.text for answer in answers)
    assert all(prompter.tokenizer.decode(answer.ids[-1:]) == "c" for answer in stopped)


def test_more_tokens_than_the_prompts_leave_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_new is 9, and the task's prompts leave room for 1 to 8"):
        write(toy.model(), toy.prompter(), toy.prompts(1), seed=0, max_new=9)
    assert len(write(toy.model(), toy.prompter(), toy.prompts(8), seed=0, max_new=2)[0].ids) <= 2


# -- what it is held against -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["full", "lora", "tuned"])
@pytest.mark.parametrize("shape", SHAPES)
def test_at_first_kl_is_exactly_0_and_every_ratio_1(shape: str, kind: str, method: str) -> None:
    """With dropout in the model, which nowhere may be on."""
    model = adapted(shape, kind, dropout=0.1).train()
    actor = actor_of(model, METHODS[method], shape)
    _, experience = experience_of(actor)
    assert experience.reference is not None
    assert torch.equal(experience.old, experience.reference)
    assert experience.told["kl"] == experience.told["kl3"] == 0.0
    ratios = []
    for some in minibatches(experience, epochs=1, rows=5, seed=0):
        _, metrics = actor.method.loss(actor.model, some)  # type: ignore[attr-defined]
        ratios += [metrics["ratio"], metrics["ratio_max"]]
        assert metrics["approxkl"] < 1e-10
    assert max(abs(ratio - 1) for ratio in ratios) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_in_half_precision_ratios_are_1_within_its_rounding(method: str) -> None:
    """Old log-probabilities are read in the precision that learns, whatever the engine wrote in."""
    actor = actor_of(toy.model(louder=8), METHODS[method], precision="bf16")
    answers, experience = experience_of(actor)
    assert experience.told["kl"] == 0.0
    exact = Reader()(actor.model, batch_of(answers, actor.prompter))[0]
    assert experience.old is not None
    assert (experience.old - exact).abs().max() > 1e-4, "it was rounded"
    for some in minibatches(experience, epochs=1, rows=5, seed=0):
        with torch.autocast("cpu", torch.bfloat16):
            _, metrics = actor.method.loss(actor.model, some)  # type: ignore[attr-defined]
        assert abs(metrics["ratio"] - 1) < 1e-2
        assert metrics["ratio_max"] < 1.1


@pytest.mark.parametrize("kind", ["full", "lora", "tuned"])
def test_the_reference_stays_where_the_policy_began(kind: str) -> None:
    model = adapted("decoder", kind)
    batch = batch_of(write(model, toy.prompter(), toy.prompts(4), seed=0), toy.prompter())
    reference, before = reference_of(model), Reader()(model, batch)[0]
    optimizer = optim.make(model, lr=0.05)
    for _ in range(3):
        (-read(model, batch) * batch.weight).sum().backward()
        optimizer.step()
    assert (Reader()(model, batch)[0] - before).abs().max() > 0.1
    with reference() as silent:
        assert torch.equal(Reader()(silent, batch)[0], before)


def test_a_frozen_copy_shares_what_does_not_learn() -> None:
    model = adapted("decoder", "tuned")
    with reference_of(model)() as copied:
        pass
    ours, theirs = dict(model.named_parameters()), dict(copied.named_parameters())
    assert {name for name in ours if ours[name] is not theirs[name]} == {n for n in ours if ours[n].requires_grad}
    assert not any(p.requires_grad for p in theirs.values())


@pytest.mark.parametrize("kind", ["full", "tuned"])
@pytest.mark.parametrize("shape", SHAPES)
def test_old_log_probabilities_are_those_of_the_engine(shape: str, kind: str) -> None:
    model, prompter = adapted(shape, kind), toy.prompter(shape)
    answers = write(model, prompter, toy.prompts(8), seed=1)
    batch = batch_of(answers, prompter)
    old = Reader(rows=3)(model, batch)[0]
    engine = Engine(model)
    for row, answer in enumerate(answers):
        said = [*answer.prompt.tokens, *answer.ids]
        stream = engine.submit(Request(said, Sampling(1, 0.0), answer.prompt.source, scored=len(answer.prompt.tokens)))
        list(stream)
        ours = old[row][batch.weight[row] > 0]
        assert ours.tolist() == pytest.approx([score.logp for score in stream.scores], abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_neighbours_and_padding_change_nothing(shape: str) -> None:
    model, prompter = Critic(toy.model(shape, louder=30)), toy.prompter(shape)
    nn.init.normal_(model.value.weight, generator=torch.Generator().manual_seed(0))
    answers = write(model.policy, prompter, [*toy.prompts(6), *toy.prompts(6, length=9)], seed=1)
    batch = batch_of(answers, prompter)
    logps, values = Reader(rows=5)(model, batch)
    assert (values[batch.weight == 0] == 0).all(), "nothing is expected but of an answer"
    for row, answer in enumerate(answers):
        alone = batch_of([answer], prompter)
        found = Reader()(model, alone)
        here = alone.weight[0] > 0
        for one, all_of_them in zip(found, (logps, values), strict=True):
            torch.testing.assert_close(one[0][here], all_of_them[row, : len(here)][here], atol=1e-5, rtol=0)
            assert one.abs().sum() > 0


# -- what it is worth --------------------------------------------------------------------------------------------


def test_the_score_stands_on_the_last_token_and_nothing_behind_it() -> None:
    """Without a critic's opinion and without a KL, returns are the score at the end, and lam^k of it before."""
    actor = actor_of(toy.model(), PPO(beta=0.0, lam=0.5))
    answers, experience = experience_of(actor)
    assert experience.returns is not None
    for row, answer in enumerate(answers):
        here = experience.batch.weight[row].nonzero()[:, 0]
        assert here.tolist() == list(
            range(len(answer.prompt.tokens) - 1, len(answer.prompt.tokens) - 1 + len(answer.ids))
        )
        assert experience.batch.targets[row][here].tolist() == list(answer.ids)
        wanted = [length([answer])[0] * 0.5 ** (len(here) - 1 - at) for at in range(len(here))]
        assert experience.returns[row][here].tolist() == pytest.approx(wanted)
        behind = experience.batch.weight[row] == 0
        for each in (experience.returns, experience.advantages, experience.old, experience.values):
            assert each is not None
            assert (each[row][behind] == 0).all()


def test_advantages_are_white_over_the_whole_experience_and_returns_are_not() -> None:
    _, experience = experience_of(actor_of(toy.model(), PPO()))
    assert experience.returns is not None
    inside = experience.advantages[experience.batch.weight > 0]
    assert inside.mean().abs() < 1e-5
    assert inside.std() == pytest.approx(1, abs=1e-3)
    assert experience.returns[experience.batch.weight > 0].mean() > 1


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_whitened_rewards_keep_their_mean(scale: float) -> None:
    """With gamma 0 and a critic that expects nothing, a token's return is its reward."""
    actor = actor_of(toy.model(), PPO(beta=0.0, gamma=0.0, whiten_rewards=True))
    answers = actor.write(toy.prompts(4), seed=0, count=4)
    scores = [scale * score for score in length(answers)]
    made = actor.experience(answers, scores)
    assert made.returns is not None
    rewards = made.returns[made.batch.weight > 0]
    assert rewards.std().item() == pytest.approx(1, abs=1e-4)
    assert rewards.mean().item() == pytest.approx(sum(scores) / len(rewards), rel=1e-4)


def test_what_is_taken_for_no_end_and_where_scores_are_cut() -> None:
    model = toy.model()
    plain = actor_of(model, GRPO(group=4))
    answers = plain.write(toy.prompts(8), seed=0, count=4)
    scores = [10.0 if answer.ended else 2.0 for answer in answers]
    assert {answer.ended for answer in answers} == {True, False}
    made = actor_of(model, GRPO(group=4, unfinished=3.0, bound=5.0, scaled=False)).experience(answers, scores)
    worth = torch.tensor([5.0 if answer.ended else -1.0 for answer in answers]).view(-1, 4)
    wanted = (worth - worth.mean(1, keepdim=True)).flatten()
    assert made.advantages.amax(1).tolist() == pytest.approx(wanted.clamp(min=0).tolist())
    assert made.told["score"] == pytest.approx(sum(scores) / len(scores))
    assert made.told["reward"] == pytest.approx(worth.mean().item())
    masked = actor_of(model, GRPO(group=4, mask_unfinished=True)).experience(answers, scores)
    assert ((masked.batch.weight.sum(1) > 0) == masked.ended).all()


def test_a_group_of_equal_scores_teaches_nothing_and_is_counted() -> None:
    actor = actor_of(toy.model(), GRPO(group=4))
    answers = actor.write(toy.prompts(4), seed=0, count=4)
    made = actor.experience(answers, [1.0] * 8 + [0, 0, 0, 1, 1, 0, 0, 0])
    assert (made.advantages[:8] == 0).all()
    assert (made.advantages[8:].abs().sum(1) > 0).all()
    assert made.told["equal_groups"] == 0.5
    assert made.told["constant"] == 0.0
    assert actor.experience(answers, [1.0] * 16).told["constant"] == 1.0
    with pytest.raises(ValueError, match="15 answers are no whole groups of 4"):
        actor.experience(answers[:15], [1.0] * 15)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused_with_its_prompt(value: float) -> None:
    answers = write(toy.model(), toy.prompter(), toy.prompts(3), seed=0)
    with pytest.raises(ValueError, match=rf"the reward of the answer .* to prompt 1 is {value}: it is to be a finite"):
        checked(answers, [1.0, value, 1.0])
    with pytest.raises(ValueError, match="the reward gave 2 scores for 3 answers, the first to prompt 0"):
        checked(answers, [1.0, 1.0])


def test_a_penalty_needs_a_reference_and_watching_is_left_out_without() -> None:
    for method in METHODS.values():
        with pytest.raises(ValueError, match="no reference: give reference_of"):
            Actor(toy.model(), toy.prompter(), method, None)
    _, experience = experience_of(Actor(toy.model(), toy.prompter(), GRPO(group=4), None))
    assert experience.reference is None
    assert "kl" not in experience.told
    assert grpo(toy.model(), experience)[0]["policy"][0].isfinite()


def test_numbers_that_are_told() -> None:
    assert repetition([1, 2, 3, 1, 2, 3, 1]) == pytest.approx(1 - 3 / 5)
    assert repetition([1, 2]) == 0.0
    answers, experience = experience_of(actor_of(toy.model(), PPO(beta=0.3)))
    told, mask = experience.told, experience.batch.weight
    assert told["length"] == pytest.approx(sum(len(answer.ids) for answer in answers) / 16)
    assert told["ended"] == sum(answer.ended for answer in answers) / 16
    assert told["entropy"] == pytest.approx(-(experience.old * mask).sum().item() / mask.sum().item())
    assert told["beta"] == 0.3
    assert told["explained"] == pytest.approx(0, abs=1e-6), "a critic that knows nothing"


def test_the_coefficient_moves_once_for_each_experience() -> None:
    actor = actor_of(toy.model(), PPO(beta=0.5, target=1.0, horizon=100))
    experience_of(actor)
    assert actor.controller.value == pytest.approx(0.5 * (1 - 0.2 * 16 / 100))  # KL was 0
    _, second = experience_of(actor)
    assert second.told["beta"] == pytest.approx(0.5 * 0.968)


# -- what is learned ---------------------------------------------------------------------------------------------


def apart(tensor: Tensor, batch: Batch) -> list[Tensor]:
    return [line[weight > 0] for line, weight in zip(tensor, batch.weight, strict=True)]


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients_are_those_of_the_papers_formulas(shape: str, kind: str, method: str) -> None:
    """After the policy, the critic and the reference have gone apart, so that some tokens are clipped and some not."""
    model = adapted(shape, kind)
    how = replace(METHODS[method], **({"per": "answer"} if method == "grpo" else {"value_clip": 0.05}))
    actor = actor_of(model, how, shape)
    noise = torch.Generator().manual_seed(7)
    for scale in (0.05, 0.08):  # away from the reference; then away from the policy that writes
        answers, experience = experience_of(actor)
        with torch.no_grad():
            for p in actor.model.parameters():
                if p.requires_grad:
                    p.add_(scale * torch.randn(p.shape, generator=noise))
    said = read(actor.model, experience.batch)
    logps, values = said if isinstance(said, tuple) else (said, None)
    batch, scores = experience.batch, length(answers)
    assert experience.reference is not None
    rows = [apart(x.detach(), batch) for x in (experience.old, experience.reference)]
    if isinstance(how, PPO):
        assert values is not None
        assert experience.values is not None
        plain = plain_ppo(
            apart(logps, batch), apart(values, batch), rows[0], apart(experience.values, batch), rows[1], scores,
            beta=0.1, clip=0.2, value_clip=0.05, coefficient=0.1,
        )  # fmt: skip
    else:
        plain = plain_grpo(apart(logps, batch), *rows, scores, group=4, beta=0.1, clip=0.2)
    terms, metrics = how.loss(actor.model, experience)
    ours = torch.stack([part * total / weight for total, weight, part in terms.values()]).sum()
    assert 0.02 < metrics["clipfrac"] < 0.98
    assert experience.told["kl3"] > 0.001
    assert ours.item() == pytest.approx(plain.item(), abs=1e-5)
    wanted, found = gradient(actor.model, plain), gradient(actor.model, ours)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.99999
    for name, weight in how.weigh(experience).items():
        assert float(weight) == pytest.approx(float(terms[name][1]))


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_what_is_learned_from_once_need_not_be_read_before(beta: float) -> None:
    """The same loss, gradient and numbers, and a forward less."""
    model = adapted("decoder", "tuned")
    actor = actor_of(model, GRPO(group=4, beta=beta))
    answers = actor.write(toy.prompts(4), seed=0, count=4)
    scores, found = length(answers), []
    with torch.no_grad():  # away from the reference, which is a copy
        next(p for name, p in model.named_parameters() if name.endswith(".B")).add_(0.05)
    for once in (False, True):
        experience = actor.experience(answers, scores, once=once)
        assert (experience.old is None) == once
        (only,) = minibatches(experience, epochs=1, rows=16, seed=0)
        terms, metrics = GRPO(group=4, beta=beta).loss(model, only)
        total, weight, _ = terms["policy"]
        found.append((total / weight, gradient(model, total / weight), metrics))
    (loss, slope, metrics), (again, other, told) = found
    assert loss.item() == pytest.approx(again.item(), abs=1e-5)
    torch.testing.assert_close(slope, other, atol=1e-5, rtol=1e-4)
    assert told == pytest.approx(metrics, abs=1e-4)
    assert told["kl3"] > 1e-3


def test_grpo_at_first_has_a_loss_of_0_and_a_gradient() -> None:
    model = toy.model()
    _, experience = experience_of(actor_of(model, GRPO(group=4)))
    terms, _ = grpo(model, experience, per="answer")
    total, weight, _ = terms["policy"]
    assert weight.item() == pytest.approx(16)
    assert (total / weight).item() == pytest.approx(0, abs=1e-6)
    assert gradient(model, total).norm() > 0.1
    total, weight, _ = grpo(model, experience, per="token")[0]["policy"]
    lengths, advantages = experience.batch.weight.sum(1), experience.advantages.sum(1) / experience.batch.weight.sum(1)
    assert (total / weight).item() == pytest.approx(-((advantages * lengths).sum() / lengths.sum()).item(), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_batch_and_its_parts_make_the_same_step(method: str) -> None:
    grown = []
    for accumulate in (1, 4):
        actor = actor_of(toy.model(louder=30), METHODS[method])
        _, experience = experience_of(actor)
        optimizer = torch.optim.SGD(actor.model.parameters(), lr=1.0)
        some = minibatches(experience, epochs=1, rows=16 // accumulate, seed=0)
        how: Any = actor.method
        fit(actor.model, some, how.loss, optimizer, steps=1, accumulate=accumulate, clip=1e9, weigh=how.weigh)
        grown.append(torch.cat([p.detach().flatten() for p in actor.model.parameters()]))
    torch.testing.assert_close(grown[0], grown[1], atol=1e-5, rtol=0)
    assert (
        grown[0]
        - torch.cat([p.detach().flatten() for p in actor_of(toy.model(louder=30), METHODS[method]).model.parameters()])
    ).abs().max() > 1e-2


# -- a toy whose best reward is known ----------------------------------------------------------------------------


TOYS = {
    "ppo": (PPO(beta=0.001), 64, 5e-3, 22),
    "grpo": (GRPO(group=8), 8, 1e-2, 22),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", TOYS)
def test_a_toy_is_learned_to_95_percent_of_its_best(method: str, seed: int) -> None:
    how, prompts, rate, times = TOYS[method]
    trainer = Trainer(
        toy.model(seed=seed),
        toy.prompter(),
        how,
        rate=rate,
        seed=seed,
        minibatch=64,
        epochs=2 if method == "ppo" else 1,
    )
    examples = toy.prompts(prompts)
    first = None
    for _ in range(times):
        answers = trainer.write(examples)
        numbers = trainer.step(answers, toy.share_of_a(answers))
        first = numbers["score"] if first is None else first
    assert first is not None
    assert first < 0.15
    asked = toy.prompts(64, seed=1)
    scores = toy.share_of_a(trainer.actor.write(asked, seed=99))
    assert sum(scores) / len(scores) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("method", TOYS)
def test_an_encoder_decoder_learns_the_same_toy(method: str, kind: str) -> None:
    """By a LoRA nearly as well: a head that is frozen leaves every other word some probability."""
    how, prompts, rate, times = TOYS[method]
    model, epochs = toy.model("encoder-decoder", louder=1 if kind == "full" else 15), 2 if method == "ppo" else 1
    if kind == "lora":
        add_lora(model, LoRA(rank=4, targets=("q", "v", "up", "down")), torch.Generator().manual_seed(1))
        rate *= 4
    trainer = Trainer(model, toy.prompter("encoder-decoder"), how, rate=rate, minibatch=64, epochs=epochs)
    examples, scores = toy.prompts(prompts), []
    for _ in range(times):
        answers = trainer.write(examples)
        scores.append(trainer.step(answers, toy.share_of_a(answers))["score"])
    assert scores[0] < 0.15
    assert scores[-1] >= (0.95 if kind == "full" else 0.85)


# -- the loader, stopped and resumed -----------------------------------------------------------------------------


def rollouts(model: Transformer, seed: int = 0, **changes: Any) -> Rollouts:
    settings: dict[str, Any] = {"prompts": 4, "count": 2, "minibatch": 4, "epochs": 2, "accumulate": 2, "seed": seed}
    actor = actor_of(model, PPO(target=0.5, horizon=50))
    return Rollouts(actor, toy.prompts(10), length, **settings | changes)


def test_minibatches_hold_every_answer_once_an_epoch() -> None:
    loader = rollouts(toy.model(louder=30))
    assert loader.steps == 4
    resting, scores = [], []
    for some in islice(loader, 16):
        resting.append(loader.resting)
        scores.append(some.scores.tolist())
        assert some.told["minibatch"] == (len(scores) - 1) % 8
    assert resting == ([False] * 7 + [True]) * 2
    assert loader.state_dict()["row"] == 8
    for first in (0, 8):
        one, two = (sorted(itertools.chain(*scores[first + at : first + at + 4])) for at in (0, 4))
        assert one == two
    assert scores[:4] != scores[4:8], "in another order"


def test_prompts_come_once_an_epoch_in_an_order_of_its_own() -> None:
    asked: list[str] = []

    def reward(answers: Sequence[Answer]) -> list[float]:
        asked.extend(answer.example.id for answer in answers)
        return length(answers)

    loader = Rollouts(actor_of(toy.model(), PPO()), toy.prompts(10), reward, prompts=5, count=1, minibatch=5, seed=0)
    list(islice(loader, 4))
    assert sorted(asked[:10]) == sorted(asked[10:]) == sorted(example.id for example in toy.prompts(10))
    assert asked[:10] != asked[10:]


def test_a_prompt_that_comes_again_is_answered_anew() -> None:
    model, written = toy.model(), list[tuple[int, ...]]()

    def reward(answers: Sequence[Answer]) -> list[float]:
        written.extend(answer.ids for answer in answers)
        return length(answers)

    loader = Rollouts(actor_of(model, GRPO(group=4)), toy.prompts(1), reward, prompts=1, count=4, minibatch=4, seed=0)
    list(islice(loader, 3))
    assert len(set(written)) == 12
    again = Rollouts(loader.actor, toy.prompts(1), reward, prompts=1, count=4, minibatch=4, seed=1)
    list(islice(again, 1))
    assert len(set(written)) == 16, "another seed, other answers"


@pytest.mark.parametrize("changes", [{"minibatch": 3}, {"accumulate": 3}, {"epochs": 0}])
def test_steps_that_do_not_divide_an_experience_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="4 prompts with 2 answers each make no equal steps"):
        rollouts(toy.model(), **changes)
    with pytest.raises(ValueError, match="there is no prompt"):
        Rollouts(actor_of(toy.model(), PPO()), [], length, prompts=1, count=1, minibatch=1, seed=0)


class Watch:
    def __init__(self, stop_at: int | None):
        self.stop_at, self.told = stop_at, list[tuple[float, ...]]()

    def tick(self) -> None: ...
    def rest(self) -> None: ...
    def step(self, done: int, metrics: dict[str, Any]) -> None:
        self.told.append((metrics["loss"], metrics["grad_norm"], metrics["beta"], metrics["score"], metrics["ratio"]))
        if done == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def go(directory: Path, kind: str, stop_at: int | None = None) -> tuple[Run, list[tuple[float, ...]]]:
    """Three experiences of four steps; a signal, if any, comes behind step `stop_at`."""
    loader = rollouts(adapted("decoder", kind, dropout=0.1))
    run = Run(directory, loader.actor.model, optim.make(loader.actor.model, lr=3e-3), loader, whole=kind == "full")
    run.restore()
    watch, how = Watch(stop_at), loader.actor.method
    assert isinstance(how, PPO)
    settings: dict[str, Any] = {
        "steps": 12, "accumulate": 2, "clip": 1.0, "precision": "fp32", "schedule": optim.cosine(12, 1), "test": dict,
        "test_every": 100, "save_every": 3, "watch": watch, "weigh": how.weigh,
    }  # fmt: skip
    if stop_at is None:
        run.fit(how.loss, **settings)
    else:
        with pytest.raises(Interrupted, match="SIGTERM"):
            run.fit(how.loss, **settings)
    return run, watch.told


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_ppo_stopped_in_the_middle_and_resumed_is_uninterrupted_to_the_bit(kind: str, tmp_path: Path) -> None:
    """The signal comes in the midst of the second experience, and is obeyed at its end."""
    _, expected = go(tmp_path / "whole", kind)
    stopped, told = go(tmp_path / "parts", kind, stop_at=6)
    assert stopped.done == len(told) == 8
    torch.manual_seed(99)  # nothing is drawn from the global state
    resumed, rest = go(tmp_path / "parts", kind)
    assert resumed.start == 8
    assert told + rest == expected
    assert len({beta for _, _, beta, _, _ in expected}) == 3, "the coefficient moved"
    for name in ("model", "optimizer"):
        ours, theirs = (
            load_file(tmp_path / part / f"checkpoints/step-12/{name}.safetensors") for part in ("parts", "whole")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_checkpoints_wait_for_the_end_of_an_experience(tmp_path: Path) -> None:
    """They are due at steps 3, 6, 9 and 12, and experiences end at 4, 8 and 12."""
    saved: list[int] = []

    class Noting(Run):
        def save(self, step: int, *rest: Any) -> None:
            saved.append(step)
            assert self.loader.resting  # type: ignore[attr-defined]

    loader = rollouts(toy.model())
    run = Noting(tmp_path, loader.actor.model, optim.make(loader.actor.model, lr=1e-3), loader)
    how: Any = loader.actor.method
    run.fit(
        how.loss, steps=12, accumulate=2, clip=1.0, precision="fp32", schedule=lambda step: 1.0, test=dict,
        test_every=100, save_every=3, watch=Watch(None), weigh=how.weigh,
    )  # fmt: skip
    assert saved == [0, 4, 8, 12]


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="the prompts are not those of the saved run"):
        rollouts(toy.model()).load_state_dict({"epoch": 0, "row": 10, "coefficient": 0.1})


# -- the lab -----------------------------------------------------------------------------------------------------


def test_the_loop_of_a_lab_is_what_the_loader_does() -> None:
    """Same prompts, same seeds: the same experience, to the bit."""
    loader = rollouts(toy.model(louder=30))
    ours = loader.experience(0)
    trainer = Trainer(toy.model(louder=30), toy.prompter(), PPO(target=0.5, horizon=50))
    examples: list[Example] = [loader.examples[loader._row(at)] for at in range(4)]
    answers = trainer.actor.write(examples, seed=loader.key(0), count=2)
    theirs = trainer.actor.experience(answers, length(answers))
    assert torch.equal(ours.advantages, theirs.advantages)
    assert torch.equal(ours.old, theirs.old)
    assert ours.told == theirs.told
    assert policy_of(trainer.model) is not policy_of(loader.actor.model)


@pytest.mark.slow
def test_the_lab_of_the_examples_learns() -> None:
    lab = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "ppo_lab.py"))
    scores = lab["main"](steps=18, seed=3)
    assert scores[0] < 0.15
    assert scores[-1] >= 0.95
