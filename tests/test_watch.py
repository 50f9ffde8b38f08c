"""What a person is told: durations."""

import pytest

from modelwright.recipes.watch import duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (479.7, "8 min 0 s"), (3599.6, "1 h 0 min"),
     (7190, "2 h 0 min"), (5400, "1 h 30 min")],
)  # fmt: skip
def test_durations_are_rounded_before_they_are_parted(seconds: float, said: str) -> None:
    assert duration(seconds) == said
