"""What rings, when, and what it says; and that a healthy run is left alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from modelwright.train.alarms import Limits, alarms, best_of


def healthy(steps: int = 30, seed: int = 0, **changes: Any) -> list[dict[str, float]]:
    """A run that learns: score and KL rise, entropy falls by a half, lengths and ends waver. changes: name -> f(n)."""
    chance = random.Random(seed)
    rows = []
    for n in range(steps):
        row = {
            "step": 4.0 * n, "score": 0.1 * n + chance.gauss(0, 0.05), "reward": 0.08 * n, "constant": 0.0,
            "kl": 0.2 * n + chance.gauss(0, 0.02), "kl_error": 0.02, "ratio": 1 + chance.gauss(0, 1e-6),
            "ratio_max": 1.00001, "entropy": 2.0 - n / steps, "length": 20 + chance.gauss(0, 2),
            "ended": 0.7 + chance.gauss(0, 0.05),
        }  # fmt: skip
        if n % 3 == 0:
            row |= {"gold": 0.05 * n + chance.gauss(0, 0.1), "gold_error": 0.1}
        rows.append(row | {name: change(n) for name, change in changes.items() if change(n) is not None})
    return rows


def names(history: list[dict[str, float]], **limits: float) -> list[str]:
    return [alarm.name for alarm in alarms(history, Limits(**limits))]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_rings_nothing_at_any_time(seed: int) -> None:
    history = healthy(seed=seed)
    assert [names(history[:n]) for n in range(31)] == [[]] * 31


def test_kl_below_0_rings_at_once_but_not_within_its_noise() -> None:
    history = healthy(kl=lambda n: -0.5 if n == 10 else None)
    assert names(history[:10]) == []
    (alarm,) = alarms(history[:11])
    assert alarm.name == "kl"
    assert alarm.since == 40
    assert alarm.stop
    assert alarm.said.startswith("KL to the reference is -0.5, and no KL is below 0")
    assert alarm.said.endswith("since step 40")
    assert names(healthy(kl=lambda n: -0.07)[:11]) == []
    assert names(healthy(kl=lambda n: -0.009, kl_error=lambda n: 0.0)[:11]) == []
    assert names(healthy(kl=lambda n: -0.011, kl_error=lambda n: 0.0)[:11]) == ["kl"]


@pytest.mark.parametrize(("key", "value"), [("ratio", 1.05), ("ratio", 0.9), ("ratio_max", 3.0)])
def test_a_ratio_far_from_1_before_the_first_step(key: str, value: float) -> None:
    history = healthy(**{key: lambda n: value if n >= 7 else None})
    (alarm,) = alarms(history[:9])
    assert (alarm.name, alarm.since, alarm.stop) == ("ratio", 28, True)
    assert f"{value:.3g}" in alarm.said
    assert names(healthy(ratio=lambda n: 1.015)) == [], "as bf16 may have it"


def test_entropy_must_stay_gone_to_ring() -> None:
    history = healthy(entropy=lambda n: 0.1 if n >= 20 else 2.0)
    assert names(history[:22]) == []
    (alarm,) = alarms(history[:23])
    assert (alarm.name, alarm.since) == ("entropy", 80)
    assert "0.1 nats a token, 2 at first" in alarm.said
    back = healthy(entropy=lambda n: 0.1 if n in (20, 21, 23, 24) else 2.0)
    assert [names(back[:n]) for n in range(20, 26)] == [[]] * 6
    assert names(history[:23], entropy=0.0) == []


def test_answers_that_no_longer_end_and_those_that_never_did() -> None:
    (alarm,) = alarms(healthy(ended=lambda n: 0.05 if n >= 12 else 0.7))
    assert (alarm.name, alarm.since, alarm.stop) == ("ends", 48, True)
    assert alarm.said.startswith("5% of the answers end by themselves, 70% did at first")
    (alarm,) = alarms(healthy(ended=lambda n: 0.0))
    assert (alarm.name, alarm.since, alarm.stop) == ("ends", 0, False)


def test_answers_that_grow() -> None:
    (alarm,) = alarms(healthy(length=lambda n: 20.0 + 5 * max(0, n - 5)))
    assert (alarm.name, alarm.since) == ("length", 4 * 14)
    assert "answers have 140 tokens, 20 at first" in alarm.said


def test_gold_that_falls_while_the_proxy_rises() -> None:
    """It is best at n = 12, step 48, and falls by 0.15 a measurement: beyond 2 standard errors of a difference from
    the second on, and three of these are needed."""
    gold = {n: 0.6 - 0.05 * abs(n - 12) for n in range(0, 30, 3)}
    history = healthy(score=lambda n: 0.1 * n, gold=lambda n: gold.get(n), gold_error=lambda n: 0.1)
    rung = [n for n in range(31) if names(history[:n]) == ["gold"]]
    assert rung == list(range(25, 31))  # measured at 18, 21 and 24
    alarm = alarms(history)[0]
    assert (alarm.since, alarm.best, alarm.stop) == (72, 48, True)
    assert "the gold reward fell from 0.6 to -0.15 while the reward that is learned rose from 1.2 to 2.7" in alarm.said
    level = healthy(score=lambda n: 1.0, gold=lambda n: gold.get(n), gold_error=lambda n: 0.1)
    assert names(level) == [], "both fall: that is no hack"
    assert names(healthy(score=lambda n: 0.1 * n, gold=lambda n: gold.get(n), gold_error=lambda n: 0.5)) == []


def test_a_constant_reward_is_told_at_once_and_stops_when_it_lasts() -> None:
    history = healthy(constant=lambda n: 1.0, score=lambda n: 0.0)
    assert [(alarm.name, alarm.stop) for alarm in alarms(history[:1])] == [("constant", False)]
    assert [(alarm.name, alarm.stop) for alarm in alarms(history[:3])] == [("constant", True)]
    assert (
        "the reward gave 0 to every answer: nothing can be learned from it, since step 0" in alarms(history[:3])[0].said
    )
    assert names(healthy(constant=lambda n: float(n < 2))[:3]) == []


def test_the_best_step() -> None:
    history = healthy()
    without = [{key: value for key, value in row.items() if not key.startswith("gold")} for row in history]
    assert best_of(without) == 4 * 29
    measured = [*without[:5], {**without[5], "gold": 3.0}, {**without[6], "gold": 2.0}, *without[7:]]
    assert best_of(measured) == 20
    assert alarms([]) == []
