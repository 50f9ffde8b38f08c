"""The learning curve: numbers by hand, what it must not claim, and how often its band holds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from modelwright.evaluate.metrics import METRICS
from modelwright.project.curve import FAR, Point, fit_curve, line, needed, power, predicted

MEAN = METRICS["mentions"].value


def stats(right: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([right, np.ones_like(right)], -1)  # (m, 2)


def drawn(scores: dict[int, float], m: int, seed: int = 0) -> list[Point]:
    """At each size m examples, right with this probability; one that is right stays right at a better size."""
    luck = np.random.default_rng(seed).random(m)
    return [Point(n, stats((luck < score).astype(np.float64))) for n, score in scores.items()]


def test_a_line_by_hand() -> None:
    rise, height = line(np.array([1.0, 2.0, 3.0]), np.array([[2.0, 4.0, 6.0], [1.0, 1.0, 1.0]]))
    assert rise.tolist() == pytest.approx([2, 0])
    assert height.tolist() == pytest.approx([0, 1])


def test_a_power_law_is_found_again() -> None:
    sizes = np.array([100.0, 200.0, 400.0])
    scores = 1 - 2 * sizes**-0.5  # 0.8, 0.859, 0.9
    b, c = power(sizes, scores[None], 1.0)
    assert np.exp(b[0]) == pytest.approx(2)
    assert c[0] == pytest.approx(0.5)
    assert needed(sizes, scores[None], 0.95, 1.0)[0] == pytest.approx(1600)  # 1 - 2 / 40
    assert predicted(sizes, scores[None], np.array([1600.0]), 1.0)[0, 0] == pytest.approx(0.95)


def test_a_logarithm_is_found_again() -> None:
    sizes = np.array([100.0, 200.0, 400.0])
    scores = np.array([[0.5, 0.6, 0.7]])  # 0.1 a doubling
    assert needed(sizes, scores, 0.8, 1.0)[1] == pytest.approx(800)
    assert predicted(sizes, scores, np.array([800.0]), 1.0)[1, 0] == pytest.approx(0.8)


def test_more_data_that_would_meet_the_target() -> None:
    curve = fit_curve(drawn({125: 0.6, 250: 0.7, 500: 0.78}, 4000), MEAN, 0.85)
    assert curve.low
    assert curve.needed
    assert curve.high
    assert 500 < curve.low <= curve.needed <= curve.high < 10_000
    assert curve.said.startswith(f"about {curve.needed:,} training examples would meet the target, ")
    assert [n for n, _ in curve.points] == [125, 250, 500]
    assert all(reach.low <= reach.value <= reach.high for reach in curve.band)
    assert curve.band[-1].n == 2000


def test_the_margin_of_a_lower_bound_asks_for_more() -> None:
    points = drawn({125: 0.6, 250: 0.7, 500: 0.78}, 4000)
    asking, plain = fit_curve(points, MEAN, 0.85, margin=0.03), fit_curve(points, MEAN, 0.85)
    assert (asking.needed or 0) > (plain.needed or 0)
    assert plain.asks == ""
    assert asking.asks == (
        "The lower bound on 4,000 measured examples lies 0.03 below the score, so that meeting the target takes a "
        "score of 0.88; measured on more, it would take less."
    )


def test_a_flat_curve_says_that_it_cannot_tell() -> None:
    curve = fit_curve(drawn({125: 0.6, 250: 0.6, 500: 0.6}, 200), MEAN, 0.85)
    assert (curve.needed, curve.low, curve.high) == (None, None, None)
    assert curve.said.startswith("more data cannot be told to help: from 125 to 500 training examples")


def test_a_slow_curve_says_that_the_target_is_too_far() -> None:
    curve = fit_curve(drawn({125: 0.20, 250: 0.21, 500: 0.22}, 20_000), MEAN, 0.95)
    assert (curve.needed, curve.high) == (None, None)
    assert curve.said.startswith(f"the target lies further than this curve can tell: at {FAR:.0f} times the 500")


def test_a_bound_that_nothing_reaches() -> None:
    curve = fit_curve(drawn({125: 0.6, 250: 0.7}, 30), MEAN, 0.95, margin=0.2)
    assert curve.needed is None
    assert curve.said.startswith(
        "how many would do cannot be told: did the bound lie as far below the score as it does now, that would "
        "have to be 1.15, where 1 is the highest"
    )


def test_no_curve_without_two_sizes_of_the_same_examples() -> None:
    points = drawn({125: 0.6, 250: 0.7}, 30)
    with pytest.raises(ValueError, match="two sizes"):
        fit_curve([points[0], points[0]], MEAN, 0.9)
    with pytest.raises(ValueError, match="same examples at every size"):
        fit_curve([points[0], Point(250, points[1].stats[:-1])], MEAN, 0.9)


def test_the_same_seed_is_the_same_curve() -> None:
    points = drawn({125: 0.6, 250: 0.7}, 100)
    assert fit_curve(points, MEAN, 0.8, seed=3) == fit_curve(points, MEAN, 0.8, seed=3)


@pytest.mark.parametrize("law", ["power", "log"])
def test_the_band_holds_the_truth_where_one_of_the_forms_is_true(law: str) -> None:
    """Of 60 simulated projects, the score at twice the data lies in the band in nine tenths or more."""
    sizes = (100, 200, 400, 800)
    score = {n: 1 - 3 * n**-0.5 if law == "power" else 0.1 + 0.1 * np.log(n) for n in (*sizes, 1600)}
    held = 0
    for seed in range(60):
        curve = fit_curve(drawn({n: score[n] for n in sizes}, 300, seed), MEAN, 0.99, seed=seed)
        at = min(curve.band, key=lambda reach: abs(reach.n - 1600))
        held += at.low <= score[1600] <= at.high
    assert held >= 54
