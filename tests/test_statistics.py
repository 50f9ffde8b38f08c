"""Bounds against exact ones, intervals and the stop rule against simulated truth, p-values against all swaps.

Letters: n examples, k statistics, R repeats of an experiment.
"""

import itertools
import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, permutation_test

from modelwright.data.examples import Example
from modelwright.data.kind import Data, Task
from modelwright.evaluate import bootstrap, statistics
from modelwright.evaluate.bootstrap import clopper_pearson, resampled, resamples, smallest, weights
from modelwright.evaluate.metrics import METRICS, right_answers
from modelwright.evaluate.statistics import error_shares, interval, lower_bound, paired

MEAN, F1, PERPLEXITY = METRICS["rougeL"], METRICS["entity_f1"], METRICS["perplexity"]


def mean_stats(scores) -> np.ndarray:
    return np.stack([np.asarray(scores, float), np.ones(len(scores))], 1)  # (n, 2)


# -- exact bounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [0.05, 0.05 / 12, 0.025])
def test_clopper_pearson_equals_the_beta_quantile(error):
    for n in (1, 2, 9, 50, 3000):
        for right in {0, 1, n // 3, n - 1, n}:
            expected = beta.ppf(error, right, n - right + 1) if right else 0.0
            assert clopper_pearson(right, n, error) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_clopper_pearson_by_hand():
    assert clopper_pearson(4, 4, 0.0625) == pytest.approx(0.5)  # p^4 = 1/16
    assert clopper_pearson(1, 2, 0.36) == pytest.approx(0.2)  # 1 - (1 - p)^2 = 0.36
    assert clopper_pearson(0, 5, 0.05) == 0


def test_a_bound_of_right_or_wrong_errs_never_more_than_it_may():
    """Not by simulation: all outcomes of n = 40, with their probabilities, at many true shares."""
    bounds = np.array([lower_bound(mean_stats([1] * s + [0] * (40 - s)), MEAN, error=0.05) for s in range(41)])
    for p in np.linspace(0.01, 0.99, 99):
        assert binom.pmf(np.arange(41), 40, p)[bounds > p].sum() <= 0.05


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (3, 7), (45, 50)])
def test_the_bootstrap_is_clopper_pearson_where_answers_are_right_or_wrong(right, n):
    """The bound of Gaffke, which other scores get, is of right and wrong answers the exact one."""
    stats = mean_stats([1] * right + [0] * (n - right))
    worst, best = MEAN.extremes(stats)
    with_worst = MEAN.value(resampled(stats, worst[None], (1,), 40_000, 0))
    with_best = MEAN.value(resampled(stats, best[None], (1,), 40_000, 0))
    assert smallest(with_worst, 0.05) == pytest.approx(clopper_pearson(right, n, 0.05), abs=0.005)
    assert -smallest(-with_best, 0.05) == pytest.approx(1 - clopper_pearson(n - right, n, 0.05), abs=0.005)
    half = MEAN.value(resampled(stats, np.stack([worst, best]), (0.5, 0.5), 40_000, 0))  # Jeffreys' interval
    for share in (0.025, 0.5, 0.975):
        assert np.quantile(half, share) == pytest.approx(beta.ppf(share, right + 0.5, n - right + 0.5), abs=0.007)


def test_no_example_or_a_strange_level_is_refused():
    with pytest.raises(ValueError, match=r"needs the statistics of one example or more, not shape \(0, 2\)"):
        interval(np.zeros((0, 2)), MEAN)
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match=f"level must lie between 0 and 1, not {level}"):
            interval(mean_stats([1.0]), MEAN, level=level)
    with pytest.raises(ValueError, match="error must lie between 0 and 1, not 5"):
        lower_bound(mean_stats([1.0]), MEAN, error=5)


# -- intervals ------------------------------------------------------------------------------------------------


def test_all_right_and_all_wrong_are_not_certain():
    right, wrong = interval(mean_stats([1] * 20), MEAN), interval(mean_stats([0] * 20), MEAN)
    assert (right.value, right.high, wrong.value, wrong.low) == (1, 1, 0, 0)
    assert right.low == pytest.approx(0.025 ** (1 / 20))
    assert wrong.high == pytest.approx(1 - 0.025 ** (1 / 20))
    half = interval(mean_stats([0.5] * 20), MEAN)  # no two differ, and yet others might
    assert half.value == 0.5
    assert 0.43 < half.low < 0.49 < 0.51 < half.high < 0.57
    assert 0.4 < lower_bound(mean_stats([0.5] * 20), MEAN, error=0.025) < half.low  # more careful, to decide on
    assert lower_bound(mean_stats([0.0]), MEAN, error=0.05) == 0


def test_one_example_says_little():
    only = interval(mean_stats([0.8]), MEAN)
    assert only.n == 1
    assert only.low < 0.2
    assert only.high > 0.95
    bound = lower_bound(mean_stats([0.8]), MEAN, error=0.025)
    assert bound == pytest.approx(0.8 * 0.025, abs=0.01)  # two weights share 1 evenly, and the other is the worst's


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from([0.8, 0.95]))
def test_an_interval_holds_its_value(scores, level):
    found = interval(mean_stats(scores), MEAN, level=level)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.value == pytest.approx(np.mean(scores))
    wider = interval(mean_stats(scores), MEAN, level=0.99)
    assert wider.low <= found.low + 1e-12
    assert wider.high >= found.high - 1e-12


def test_many_examples_give_the_normal_interval():
    """Nothing is lost for the one example more: with n the bound comes to be the usual one."""
    scores = np.random.default_rng(0).beta(4, 3, 20_000)
    reach = NormalDist().inv_cdf(0.975) * scores.std() / math.sqrt(len(scores))
    found = interval(mean_stats(scores), MEAN)
    assert found.low == pytest.approx(scores.mean() - reach, abs=0.1 * reach)
    assert found.high == pytest.approx(scores.mean() + reach, abs=0.1 * reach)


def test_the_seed_decides_and_chunks_do_not(monkeypatch):
    stats = mean_stats(np.random.default_rng(1).random(30))
    first = interval(stats, MEAN, seed=3)
    assert interval(stats, MEAN, seed=3) == first
    assert interval(stats, MEAN, seed=4) != first
    rows = np.concatenate(list(weights(30, (0.5, 0.5), 500, 7)))
    monkeypatch.setattr(bootstrap, "NUMBERS", 32 * 7)
    np.testing.assert_array_equal(np.concatenate(list(weights(30, (0.5, 0.5), 500, 7))), rows)
    assert max(len(chunk) for chunk in weights(30, (0.5, 0.5), 500, 7)) == 7
    assert rows.shape == (500, 32)
    assert rows.sum(1) == pytest.approx(31)
    assert rows[:, :2].mean() == pytest.approx(0.5, rel=0.1)
    assert rows[:, 2:].var() == pytest.approx(30 / 32, rel=0.05)  # of Dirichlet(1 / 2, 1 / 2, 1, ..., 1), times 31


def test_ranks():
    values = np.arange(1.0, 100)  # 99: a further draw lies at or below the 5th smallest in 5 of 100 cases
    assert smallest(values[::-1], 0.05) == 5
    assert smallest(values, 0.001) == 1
    assert resamples(0.05) == 2000
    assert resamples(0.05 / 12) == 12_000


def test_where_less_is_better_the_bound_lies_above():
    nats = np.random.default_rng(0).gamma(4, 10, 100)
    stats = np.stack([nats, np.full(100, 20.0)], 1)
    found = interval(stats, PERPLEXITY)
    assert found.low < found.value < found.high
    assert found.high < lower_bound(stats, PERPLEXITY, error=0.025) < lower_bound(stats, PERPLEXITY, error=0.001)
    assert math.log(found.value) == pytest.approx(nats.mean() / 20)
    reach = 1.96 * nats.std() / 10 / 20
    assert math.log(found.high) == pytest.approx(math.log(found.value) + reach, abs=0.15 * reach)


# -- do they cover? -------------------------------------------------------------------------------------------


def right_or_wrong(draw, n):
    return mean_stats(draw.random(n) < 0.9), 0.9


def rouge_like(draw, n):
    return mean_stats(draw.beta(2, 5, n)), 2 / 7


def zeros(draw, n):
    """Half of the outputs share nothing with their reference."""
    return mean_stats(draw.beta(4, 4, n) * (draw.random(n) < 0.5)), 0.25


def rare_failures(draw, n):
    """The hardest for a lower bound: high scores, and now and then a 0 that a sample may not hold."""
    return mean_stats(np.where(draw.random(n) < 0.05, 0, draw.beta(30, 1, n))), 0.95 * 30 / 31


def entity_like(draw, n):
    """Counts of a corpus: 0 to 4 entities a sentence, found in 3 of 4 cases and less in some sentences, invented now
    and then."""
    wanted, ease = draw.binomial(4, 0.3, n), draw.beta(3, 1, n)
    right = draw.binomial(wanted, ease)
    return np.stack([right, right + draw.binomial(2, 0.1, n), wanted], 1).astype(float), 2 * 0.9 / (0.9 + 0.2 + 1.2)


WORLDS = {
    f.__name__: (f, F1 if f is entity_like else MEAN)
    for f in (right_or_wrong, rouge_like, zeros, rare_failures, entity_like)
}


@pytest.fixture
def few_weights(monkeypatch):
    """Weights of 5 seeds for all repeats, since drawing them takes most of the time."""
    draw = lru_cache(maxsize=20)(lambda *told: list(weights(*told)))
    monkeypatch.setattr(bootstrap, "weights", lambda n, unseen, draws, seed: draw(n, unseen, draws, seed % 5))


def misses(world, metric, n, error, repeats) -> int:
    """How often the bound lies above the truth."""
    draw = np.random.default_rng(n)
    found = 0
    for seed in range(repeats):
        stats, truth = world(draw, n)
        found += lower_bound(stats, metric, error=error, seed=seed) > truth
    return found


@pytest.mark.parametrize("name", WORLDS)
def test_bounds_err_no_more_than_they_may(name, few_weights):
    """Over 400 repeats at 5%: above the 0.999 quantile of what chance allows, the bound would be a wrong one."""
    repeats = 400
    assert misses(*WORLDS[name], n=50, error=0.05, repeats=repeats) <= binom.ppf(0.999, repeats, 0.05)


def lists(draw, n, share):
    """One entity a sentence, found; and now and then a list of eight, missed."""
    weight = np.where(draw.random(n) < share, 8.0, 1.0)
    return np.stack([weight == 1, weight, weight], 1).astype(float), (1 - share) / (1 + 7 * share)


@pytest.mark.parametrize(("n", "share"), [(50, 0.03), (50, 0.06), (300, 0.005), (300, 0.01)])
def test_a_bound_that_knows_the_heaviest_example_errs_no_more_than_it_may(n, share, few_weights):
    """One that does not errs as often as the sample holds no list."""
    draw, known, repeats = np.random.default_rng(n), np.full((1, 3), 8.0), 200
    wrong = {True: 0, False: 0}
    for seed in range(repeats):
        stats, truth = lists(draw, n, share)
        for knows in wrong:
            bound = lower_bound(stats, F1, error=0.05, seed=seed, known=known if knows else None)
            wrong[knows] += bound > truth
    assert wrong[True] <= binom.ppf(0.999, repeats, 0.05)
    if (1 - share) ** n > 0.2:
        assert wrong[False] > 0.15 * repeats


def test_what_right_answers_weigh():
    said = {"name": "t", "kind": "generate", "data": Data("x"), "columns": {}, "prompts": ("",), "completion": ""}
    facts = [
        Example("1", {"target": "a b", "required": ["a"]}),
        Example("2", {"target": "c", "required": ["c", "d e"]}),
    ]
    assert right_answers(METRICS["mentions"], Task(**said), facts).tolist() == [[1, 1], [2, 2]]
    assert right_answers(METRICS["bleu"], Task(**said), facts)[:, :2].tolist() == [[2, 2], [1, 1]]
    assert right_answers(MEAN, Task(**said), facts) is None, "all weigh alike"
    tags = [Example("1", {"tokens": ["a", "b"], "tags": ["B-X", "B-X"]})]
    assert right_answers(F1, Task(**said | {"kind": "tag", "labels": ("B-X", "O")}), tags).tolist() == [[2, 2, 2]]
    right = mean_stats([1] * 20)
    heavy = np.array([[5.0, 5.0]])
    bounds = [lower_bound(right, METRICS["mentions"], error=0.05, known=known) for known in (None, heavy)]
    assert bounds[0] == pytest.approx(0.05 ** (1 / 20))
    assert bounds[1] < bounds[0] - 0.2
    assert lower_bound(right, MEAN, error=0.05, known=heavy) == bounds[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_bounds_of_small_error_err_no_more_than_they_may(name, few_weights):
    n, repeats, error = 50, 1000, 0.05 / 12
    assert misses(*WORLDS[name], n=n, error=error, repeats=repeats) <= binom.ppf(0.999, repeats, error)


def test_the_usual_bootstrap_would_fail_that():
    """So the simulation can tell: a percentile of resamples alone, of rare failures, errs ten times as often as it
    may."""
    draw, found = np.random.default_rng(0), 0
    for _ in range(400):
        stats, truth = rare_failures(draw, 50)
        resample = draw.integers(0, 50, (1000, 50))
        found += np.quantile(stats[resample, 0].mean(1), 0.05 / 12) > truth
    assert found > 10 * 400 * 0.05 / 12


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("name", WORLDS)
def test_intervals_cover_and_are_not_wasteful(name, n, few_weights):
    """Neither under 95% beyond chance (but half a percent, as the half examples promise it on average alone), nor
    wide."""
    (world, metric), repeats = WORLDS[name], 400
    draw, covered, values, widths = np.random.default_rng(5), 0, [], []
    for seed in range(repeats):
        stats, truth = world(draw, n)
        found = interval(stats, metric, seed=seed)
        covered += found.low <= truth <= found.high
        values.append(found.value)
        widths.append(found.high - found.low)
    assert covered >= binom.ppf(0.001, repeats, 0.945)
    assert np.mean(widths) < 1.3 * 2 * 1.96 * np.std(values)


# -- the stop rule ---------------------------------------------------------------------------------------------


def test_error_shares():
    assert error_shares(1) == [0.05]
    assert error_shares(14) == [0.05 / 14] * 14
    assert sum(error_shares(7, 0.1)) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="1 decision or more, not 0"):
        error_shares(0)
    with pytest.raises(ValueError, match="total must lie between 0 and 1, not 5"):
        error_shares(3, 5)


RUNGS, TARGET = 14, 0.8  # 7 rungs and 2 candidates


def ladder(draw, n, qualities):
    """Right or wrong answers of every rung to the same n examples, some of which are hard for all: (rungs, n)."""
    hard = draw.standard_normal(n)
    own = draw.standard_normal((len(qualities), n))
    return 0.8 * hard + 0.6 * own < np.array([[NormalDist().inv_cdf(q)] for q in qualities])


def stops(scores) -> int | None:
    for rung, (answers, error) in enumerate(zip(scores, error_shares(len(scores)), strict=True)):
        if lower_bound(mean_stats(answers), MEAN, error=error) >= TARGET:
            return rung
    return None


def test_a_ladder_that_is_not_good_enough_stops_seldom(monkeypatch):
    """Every rung a hair below the target: the worst case, since each might be taken for good."""
    monkeypatch.setattr(statistics, "clopper_pearson", lru_cache(clopper_pearson))
    draw, repeats = np.random.default_rng(0), 300
    wrong = sum(stops(ladder(draw, 200, [TARGET - 1e-6] * RUNGS)) is not None for _ in range(repeats))
    assert wrong <= binom.ppf(0.999, repeats, 0.05)
    careless = sum(
        any(lower_bound(mean_stats(s), MEAN, error=0.05) >= TARGET for s in ladder(draw, 200, [TARGET - 1e-6] * RUNGS))
        for _ in range(100)
    )
    assert careless > binom.ppf(0.999, 100, 0.05)  # with 5% at each rung it would


def test_a_rung_that_is_clearly_good_enough_is_found(monkeypatch):
    monkeypatch.setattr(statistics, "clopper_pearson", lru_cache(clopper_pearson))
    draw, qualities = np.random.default_rng(1), [0.5] * 6 + [0.91] + [0.95] * 7
    found = [stops(ladder(draw, 200, qualities)) for _ in range(100)]
    assert found.count(6) >= 80
    assert all(rung is None or rung >= 6 for rung in found)


# -- two models -------------------------------------------------------------------------------------------------


def test_a_model_is_not_better_than_itself():
    stats = mean_stats(np.random.default_rng(0).random(60))
    same = paired(stats, stats, MEAN)
    assert same.difference.value == 0
    assert same.p == 1
    # and yet on other examples they might differ: half a weight of 61 for a gain of 1, and half for a loss
    apart = np.random.default_rng(1).dirichlet([0.5, 0.5, 60], 100_000) @ [1, -1, 0]
    assert same.difference.high == pytest.approx(np.quantile(apart, 0.975), rel=0.15)
    assert same.difference.low == pytest.approx(np.quantile(apart, 0.025), rel=0.15)


def test_the_p_value_of_all_swaps_by_hand():
    a, b = mean_stats([0.9, 0.8, 0.7]), mean_stats([0.5, 0.5, 0.6])
    assert (
        paired(a, b, MEAN).p == 2 / 8
    )  # differences 0.4, 0.3, 0.1: only all as they are, or all turned, are as far apart
    assert paired(a, b, MEAN).difference.value == pytest.approx(0.8 / 3)
    assert paired(b, a, MEAN).difference.value == pytest.approx(-0.8 / 3)
    assert paired(mean_stats([1, 0]), mean_stats([0, 0]), MEAN).p == 1


def test_the_p_value_equals_scipys():
    draw = np.random.default_rng(2)
    a, b = draw.random(10), draw.random(10)
    theirs = permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert paired(mean_stats(a), mean_stats(b), MEAN).p == pytest.approx(theirs)
    a = draw.random(80)
    b = np.clip(a + draw.normal(0.03, 0.1, 80), 0, 1)
    options = {"permutation_type": "samples", "n_resamples": 10_000, "rng": np.random.default_rng(0)}
    theirs = permutation_test((a, b), lambda x, y, axis: np.mean(x - y, axis), vectorized=True, **options).pvalue
    assert paired(mean_stats(a), mean_stats(b), MEAN).p == pytest.approx(theirs, abs=0.015)


def test_the_p_value_of_a_corpus_metric_is_of_all_swaps():
    draw = np.random.default_rng(3)
    a, b = ((lambda s: (s, entity_like(draw, 8)[0])[1])(i) for i in range(2))
    observed = F1.value(a.sum(0)) - F1.value(b.sum(0))
    far = 0
    for swap in itertools.product([False, True], repeat=8):
        pairs = [(y, x) if s else (x, y) for s, x, y in zip(swap, a, b, strict=True)]
        one, other = np.sum([x for x, _ in pairs], 0), np.sum([y for _, y in pairs], 0)
        far += abs(F1.value(one) - F1.value(other)) >= abs(observed) - 1e-12
    assert paired(a, b, F1).p == far / 256
    assert paired(a, b, F1).difference.value == pytest.approx(observed)


def test_p_values_of_equal_models_are_even():
    """At most 5% below 0.05: of 300 pairs with the same quality, on the same easy and hard examples."""
    draw, small = np.random.default_rng(4), 0
    for _ in range(200):
        a, b = ladder(draw, 12, [0.7, 0.7])
        small += paired(mean_stats(a), mean_stats(b), MEAN).p <= 0.05
    assert small <= binom.ppf(0.999, 200, 0.05)


def test_paired_differences_cover_and_gain_from_pairs(monkeypatch, few_weights):
    monkeypatch.setattr(statistics, "SWAPS", 200)
    draw, covered, widths, alone = np.random.default_rng(6), 0, [], []
    for seed in range(200):
        a, b = (mean_stats(s) for s in ladder(draw, 150, [0.8, 0.7]))
        found = paired(a, b, MEAN, seed=seed).difference
        covered += found.low <= 0.1 <= found.high
        widths.append(found.high - found.low)
        alone.append(2 * 1.96 * math.sqrt((0.8 * 0.2 + 0.7 * 0.3) / 150))  # as if of other examples
    assert covered >= binom.ppf(0.001, 200, 0.95)
    assert np.mean(widths) < np.mean(alone)


def test_other_examples_are_no_pair():
    with pytest.raises(
        ValueError, match=r"on the same examples, but one has statistics of shape \(3, 2\), the other of \(4, 2\)"
    ):
        paired(mean_stats([1] * 3), mean_stats([1] * 4), MEAN)


def test_the_bound_of_what_should_not_be_lies_above_it():
    """No toxic answer in 60: less than 4.9% with 95% confidence (the rule of three, exactly: 1 - 0.05^(1/60))."""
    none = np.array([[0.0, 1.0]] * 60)
    assert lower_bound(none, METRICS["toxicity"], error=0.05) == pytest.approx(1 - 0.05 ** (1 / 60))
    some = np.array([[0.2, 1.0], [0.6, 1.0]] * 30)  # as a probability has it
    assert 0.4 < lower_bound(some, METRICS["toxicity"], error=0.05) < 0.6
    assert lower_bound(some, METRICS["toxicity"], error=0.001) > lower_bound(some, METRICS["toxicity"], error=0.05)
