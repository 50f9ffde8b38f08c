"""How well preferences are foretold: numbers by hand."""

from __future__ import annotations

import math

import pytest

from modelwright.evaluate.preferences import Margin, foretold


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_by_hand() -> None:
    """A ranking of one pair, told right; and one of two, of which one is wrong and the other a tie, half right."""
    found = foretold([Margin(1.0, "a", 1.0), Margin(-2.0, "b", 0.5), Margin(0.0, "b", 0.5)])
    assert found.accuracy.value == pytest.approx((1 + 0.25) / 2)
    assert found.accuracy.n == 2
    assert found.margin == pytest.approx(0.0)
    losses = [-math.log(sigmoid(1)), -math.log(sigmoid(-2)), math.log(2)]
    assert found.log_loss == pytest.approx((losses[0] + losses[1] / 2 + losses[2] / 2) / 2)
    assert found.pairs == 3


def test_a_ranking_of_many_pairs_is_no_more_to_calibration_than_a_pair() -> None:
    """Each pair a bin of its own: the gaps, by what the pairs count."""
    found = foretold([Margin(1.0, "a", 1.0), Margin(-2.0, "b", 0.5), Margin(3.0, "b", 0.5)])
    gaps = [1 - sigmoid(1), sigmoid(2), 1 - sigmoid(3)]
    assert found.calibration == pytest.approx((gaps[0] + gaps[1] / 2 + gaps[2] / 2) / 2)


def test_within_a_bin_claims_and_truth_are_weighed_alike() -> None:
    """Twenty pairs of one margin, two to a bin: what is right weighs three quarters of each, so the claim is met."""
    claim = math.log(3)  # sigmoid: 3/4
    pairs = [Margin(sign * claim, str(at), weight) for at in range(10) for sign, weight in ((1, 0.75), (-1, 0.25))]
    assert foretold(pairs).calibration == pytest.approx(0, abs=1e-12)


def test_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="one example or more"):
        foretold([])
