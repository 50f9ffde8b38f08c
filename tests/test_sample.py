"""Sampling rules against transformers' processors, the draw against the distribution, settings against their limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers.generation import logits_process as theirs

from modelwright.infer import sample
from modelwright.infer.sample import Sampling, apply_rules, generators, history, pick, settings

B, V = 6, 900  # more than the 256 likeliest that top_p looks at first


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(B, V, generator=torch.Generator().manual_seed(seed))


def assert_same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(ours.isinf(), expected.isinf())
    finite = expected.isfinite()
    torch.testing.assert_close(ours[finite], expected[finite], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])  # nearly even, as models are, nearly certain
@pytest.mark.parametrize("value", [0.05, 0.3, 0.9, 0.999])
def test_top_p_and_min_p_equal_transformers(value, scale):
    x = logits(0, scale)
    assert_same(sample.top_p(x, value), theirs.TopPLogitsWarper(value)(None, x))
    assert_same(sample.min_p(x, value), theirs.MinPLogitsWarper(value)(None, x))


@pytest.mark.parametrize("k", [1, 2, 50, V, 2 * V])
def test_top_k_equals_transformers(k):
    x = logits(1).round()  # with ties
    assert_same(sample.top_k(x, k), theirs.TopKLogitsWarper(k)(None, x))


@pytest.mark.parametrize("value", [0.2, 1.0, 1.7])
def test_temperature_and_repetition_penalty_equal_transformers(value):
    x = logits(2)
    prompts = torch.randint(0, V, (B, 40), generator=torch.Generator().manual_seed(3))
    past = history(prompts.tolist(), V, Sampling(repetition_penalty=1.1), x.device)
    assert_same(sample.temperature(x, value), theirs.TemperatureLogitsWarper(value)(None, x))
    assert_same(
        sample.repetition_penalty(x, past.seen, value), theirs.RepetitionPenaltyLogitsProcessor(value)(prompts, x)
    )


def test_all_rules_together_run_in_transformers_order():
    x = logits(4)
    prompts = torch.randint(0, V, (B, 40), generator=torch.Generator().manual_seed(5))
    asked = Sampling(temperature=0.7, top_k=300, top_p=0.8, min_p=0.02, repetition_penalty=1.3)
    chain = theirs.LogitsProcessorList(
        [
            theirs.RepetitionPenaltyLogitsProcessor(1.3),
            theirs.TemperatureLogitsWarper(0.7),
            theirs.TopKLogitsWarper(300),
            theirs.TopPLogitsWarper(0.8),
            theirs.MinPLogitsWarper(0.02),
        ]
    )
    ours = apply_rules(x, asked, history(prompts.tolist(), V, asked, x.device))
    assert_same(ours, chain(prompts, x))


def test_top_p_by_hand():
    x = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = [sample.top_p(x, p).isfinite()[0].tolist() for p in (0.4, 0.6, 0.9, 1.0)]
    assert kept == [[True, False, False, False], [True, True, False, False], [True, True, True, False], [True] * 4]


def test_count_penalty_by_hand():
    past = history([[0, 0, 1]], 4, Sampling(presence_penalty=1.0), torch.device("cpu"))
    for token in (2, 2, 3):
        past.add(torch.tensor([token]))
    x = sample.count_penalty(torch.zeros(1, 4), past.counts, frequency=0.5, presence=0.25)
    assert x.tolist() == [[0.0, 0.0, -1.25, -0.75]]  # the prompt does not count
    assert past.seen.tolist() == [[True, True, True, True]]


def test_greedy_is_the_likeliest_and_ignores_the_filters():
    x = logits(6).bfloat16()
    asked = Sampling(temperature=0, top_k=1, top_p=0.1)
    assert torch.equal(pick(apply_rules(x, asked), None), x.float().argmax(-1))


def test_draws_follow_the_distribution():
    rows, draws = torch.log(torch.tensor([[0.4, 0.3, 0.0, 0.2, 0.07, 0.03], [0.0, 0.01, 0.0, 0.24, 0.25, 0.5]])), 40_000
    drawn = pick(rows.repeat_interleave(draws, 0), torch.Generator().manual_seed(0)).view(2, draws)
    for row, found in zip(rows.exp(), drawn, strict=True):
        counts, possible = torch.bincount(found, minlength=6), row > 0
        assert counts[~possible].sum() == 0
        assert chisquare(counts[possible], row[possible].double() / row.double().sum() * draws).pvalue > 0.01


def test_draws_with_rules_follow_the_rules():
    x = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]])
    asked, draws = Sampling(temperature=0.5, top_k=3), 40_000
    drawn = pick(apply_rules(x, asked).repeat(draws, 1), torch.Generator().manual_seed(1))
    expected = torch.tensor([math.exp(4.0), math.exp(2.0), math.exp(1.0)])
    counts = torch.bincount(drawn, minlength=5)
    assert counts[3:].sum() == 0
    assert chisquare(counts[:3], expected.double() / expected.double().sum() * draws).pvalue > 0.01


@given(st.integers(0, 2**63 - 1))
def test_a_draw_never_leaves_what_is_allowed(seed):
    x = torch.full((1, 50), float("-inf"))
    x[0, [7, 31]] = torch.tensor([0.0, -30.0])
    assert pick(x, torch.Generator().manual_seed(seed)).item() in (7, 31)


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 1), (1 - 2**-53, 3)])
def test_the_ends_of_the_interval_stay_within_what_is_allowed(uniform, expected, monkeypatch):
    never = float("-inf")
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.tensor(uniform, dtype=torch.float64))
    assert pick(torch.tensor([[never, 0.0, 0.1, 0.3, never]]), [torch.Generator()]).item() == expected


def test_a_rows_generator_knows_nothing_of_its_neighbours():
    x = logits(7)
    draw = lambda rows, prompts: pick(x[rows], generators(prompts, 1, seed=5)).tolist()  # noqa: E731
    assert draw([0, 1, 2], [[1], [2], [3]])[1] == draw([1], [[2]])[0]
    assert draw([1, 0], [[2], [1]]) == draw([0, 1], [[1], [2]])[::-1]


def test_generators_differ_by_sample_prompt_and_seed():
    first = lambda gs: [torch.rand((), generator=g).item() for g in gs]  # noqa: E731
    found = first(generators([[1, 2], [12], [1, 2]], 2, seed=0))
    assert len(set(found)) == 6
    assert found[:2] + found[4:] == first(generators([[1, 2]], 4, seed=0))  # the same prompt again: the next samples
    assert not set(found) & set(first(generators([[1, 2]], 2, seed=1)))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"max_new": 0}, "max_new"),
        ({"max_new": 1.5}, "max_new"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"stop": ("",)}, "stop"),
        ({"n": 0}, "n must"),
        ({"n": 2, "temperature": 0}, "n is 2"),
        ({"seed": -1}, "seed"),
        ({"topk": 5}, "perhaps top_k"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, field):
    with pytest.raises(ValueError, match=field):
        settings({}, **wrong)


def test_settings_are_the_models_own_where_nothing_is_asked():
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 7, "eos_token_id": 3}
    assert settings(own) == Sampling(max_new=7, temperature=0.6, top_p=0.9)
    assert settings(own, temperature=0, max_new=None) == Sampling(max_new=7, temperature=0, top_p=0.9)
    assert settings({"temperature": 0.6}).greedy  # transformers too samples only when told to
    assert settings({}, top_k=5) == Sampling(temperature=1.0, top_k=5)
    assert settings({}, n=3).temperature == 1.0
    assert settings({}, seed=0) == Sampling(temperature=1.0, seed=0)
    assert settings({"temperature": 0.6}, seed=1).temperature == 0.6
    assert settings({}, seed=1, temperature=0).greedy
    assert settings({}, seed=None).greedy
    assert settings({}, stop="end").stop == ("end",)
