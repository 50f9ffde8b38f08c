"""Krippendorff's alpha: his published example, cases worked by hand, and rankings."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from modelwright.evaluate.agreement import Scale, agreement, alpha, by_item, coincidences

N = math.nan
# Krippendorff 2011, section C: four observers, twelve units, five values, data missing.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
)


@pytest.mark.parametrize(("scale", "said"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_published_example(scale: Scale, said: float) -> None:
    assert alpha(PUBLISHED, scale) == pytest.approx(said, abs=5e-4)


def test_the_published_coincidences() -> None:
    """As printed in the same section: of 40 values that can be paired."""
    found = coincidences(PUBLISHED, np.arange(1.0, 6.0))
    thirds = [[7, 4 / 3, 1 / 3, 1 / 3, 0], [4 / 3, 10, 4 / 3, 1 / 3, 0], [1 / 3, 4 / 3, 8, 1 / 3, 0],
              [1 / 3, 1 / 3, 1 / 3, 4, 0], [0, 0, 0, 0, 3]]  # fmt: skip
    np.testing.assert_allclose(found, thirds)
    assert found.sum() == pytest.approx(40)


def test_two_observers_of_two_values_by_hand() -> None:
    """Krippendorff 2011, section A: ten units, o_01 = 4, n_0 = 14, n_1 = 6: 1 - 19 * 4 / (14 * 6)."""
    labels = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], float)
    for scale in ("nominal", "ordinal", "interval"):
        assert alpha(labels, scale) == pytest.approx(1 - 19 * 4 / (14 * 6))  # 0.095


@pytest.mark.parametrize("labels", [[[1, 1, 1], [1, 1, 1]], [[1, N, 2], [N, 3, N]]])
def test_where_alpha_says_nothing(labels: list[list[float]]) -> None:
    assert math.isnan(alpha(np.array(labels, float), "ordinal"))


# -- rankings -------------------------------------------------------------------------------------


def test_equal_rankings_agree_fully_and_the_interval_is_not_of_width_0() -> None:
    found = agreement({str(at): {"a": (1, 2, 3), "b": (1, 2, 3)} for at in range(20)})
    assert (found.alpha, found.alike, found.high) == (1.0, 1.0, 1.0)
    assert found.low is not None
    assert 0.7 < found.low < 1
    assert (found.labellers, found.prompts, found.pairs) == (2, 20, 60)


def test_two_opposite_choices_of_one_pair_by_hand() -> None:
    """Both directions: four values, two of each. Observed 4; by chance 2 * (2 * 2) * 4 / (4 * 3) = 8/3; 1 - 3/2."""
    found = agreement({"p": {"a": (1, 2), "b": (2, 1)}})
    assert found.alpha == pytest.approx(-0.5)
    assert found.alike == 0


def test_a_choice_against_a_tie_is_a_quarter_of_a_contradiction() -> None:
    """Ten pairs, one of them odd. Interval values in both directions: 40 labels.

    Tie: observed 4 * 1 / 40; the labels are 19, 2 and 19: chance (2 * 19 * 19 * 4 + 4 * 19 * 2) / (40 * 39).
    Contradiction: observed 4 * 4 / 40; 20 and 20: chance 2 * 20 * 20 * 4 / (40 * 39).
    """
    same = {str(at): {"a": (1, 2), "b": (1, 2)} for at in range(9)}
    tied = agreement(same | {"x": {"a": (1, 2), "b": (1, 1)}}).alpha
    turned = agreement(same | {"x": {"a": (1, 2), "b": (2, 1)}}).alpha
    assert tied == pytest.approx(1 - (4 / 40) / ((8 * 361 + 8 * 19) / (40 * 39)))
    assert turned == pytest.approx(1 - (16 / 40) / (8 * 400 / (40 * 39)))


def test_how_the_completions_are_numbered_changes_nothing() -> None:
    ranks = {"a": (1, 2, 2, 4), "b": (2, 1, 3, 4), "c": (1, 1, 3, 2)}
    found = {
        agreement({"p": {who: tuple(said[at] for at in order) for who, said in ranks.items()}}).alpha
        for order in permutations(range(4))
    }
    first = next(iter(found))
    assert all(one == pytest.approx(first) for one in found)


def test_rankings_by_chance_have_an_alpha_of_about_0() -> None:
    random = np.random.default_rng(0)
    drawn = {str(at): {who: tuple(random.permutation(4) + 1) for who in "abc"} for at in range(400)}
    found = agreement(drawn)
    assert found.alpha == pytest.approx(0, abs=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high


def test_the_interval_is_of_prompts_and_narrows_with_their_number() -> None:
    random = np.random.default_rng(1)

    def wide(prompts: int) -> float:
        drawn = {str(at): {who: tuple(random.permutation(3) + 1) for who in "ab"} for at in range(prompts)}
        found = agreement(drawn)
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert wide(25) > 1.5 * wide(100) > 2.25 * wide(400)


def test_a_prompt_of_one_labeller_counts_for_nothing_but_a_labeller() -> None:
    both = {"p": {"a": (1, 2), "b": (1, 2)}}
    assert agreement(both | {"q": {"c": (2, 1)}}).alpha == agreement(both).alpha
    assert agreement({"q": {"c": (2, 1)}}) == agreement(by_item([("q", "c", (2, 1))]))
    assert agreement({"q": {"c": (2, 1)}}).alpha is None
    assert agreement({"q": {"c": (2, 1)}}).labellers == 1


def test_ties_alone_say_nothing() -> None:
    found = agreement({"p": {"a": (1, 1), "b": (1, 1)}})
    assert found.alpha is None
    assert found.alike == 1


def test_rankings_of_unlike_length_are_told() -> None:
    with pytest.raises(ValueError, match="of p are of different numbers"):
        agreement({"p": {"a": (1, 2), "b": (1, 2, 3)}})
