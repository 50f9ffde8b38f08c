"""The climb, on simulated ladders: when it stops, what it may cost, how often it errs; and it never repeats itself."""

from __future__ import annotations

import itertools
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelwright.evaluate.statistics import Interval
from modelwright.project.cache import Cache
from modelwright.project.ladder import (
    BASE,
    RUNGS,
    Candidate,
    Climb,
    Cost,
    Demand,
    Entry,
    Limits,
    Measurement,
    Place,
    Plan,
    climb,
)
from modelwright.project.ledger import COMPARED, allot, allowance, earlier
from modelwright.recipes.preflight import Unfit
from modelwright.recipes.watch import size
from simulated import Simulated, bound, rule


class Killed(BaseException):
    """A kill -9, as far as a test can go."""


def states(climb: Climb) -> dict[str, str]:
    return {entry.rung: entry.state for entry in climb.entries}


# -- the stop rule


@pytest.mark.parametrize("stop", range(len(RUNGS)))
def test_it_stops_at_the_first_rung_that_meets_the_target(stop: int) -> None:
    names = list(RUNGS)
    steps = Simulated({name: 0.99 if at >= stop else 0.3 for at, name in enumerate(names)})
    found = climb(rule(), steps, bound)
    assert found.choice
    assert found.choice.rung == names[stop]
    assert list(states(found).values()) == ["done"] * (stop + 1) + ["spared"] * (len(names) - stop - 1)
    assert sum(not word.startswith("open") for word in steps.asked) == stop + 1
    assert all(entry.planned for entry in found.entries if entry.state == "spared")


def test_a_score_above_the_target_is_not_enough() -> None:
    """About 0.85 of 200 lies above 0.8, its lower bound does not."""
    found = climb(rule(ladder=("zero-shot",)), Simulated({"zero-shot": 0.85}, seed=1), bound)
    assert found.chosen is None
    assert found.closest
    assert found.closest.score
    assert found.closest.score.value > 0.8 > (found.closest.lower or 0)


def test_all_measures_all_and_names_the_choice_that_stopping_would_have_made() -> None:
    steps = Simulated({"few-shot": 0.95, "lora": 0.99, "full": 1.0})
    stopped, whole = climb(rule(), Simulated(steps.truth), bound), climb(rule(everything=True), steps, bound)
    assert stopped.choice == whole.choice
    assert set(states(whole).values()) == {"done"}
    assert [entry.rung for entry in whole.entries if entry.met] == ["few-shot", "lora", "full"]


def test_where_no_rung_meets_the_target_the_closest_is_the_highest_bound() -> None:
    found = climb(rule(), Simulated({"lora": 0.6, "full": 0.5}), bound)
    assert found.choice is None
    assert found.closest
    assert found.closest.rung == "lora"
    assert set(states(found).values()) == {"done"}


def test_a_baseline_that_will_do_needs_no_model() -> None:
    steps = Simulated({"trivial": 1.0})
    found = climb(rule(candidates=(BASE,)), steps, bound)
    assert found.choice
    assert found.choice.rung == "trivial"
    assert steps.asked == ["trivial majority"]
    assert states(found)[BASE] == "spared"


def test_the_smallest_candidate_comes_first_on_every_rung() -> None:
    steps = Simulated({}, sizes={"large": 10**9, "small": 10**6})
    found = climb(rule(candidates=("large", "small"), ladder=("zero-shot", "lora")), steps, bound)
    assert [f"{entry.rung} {entry.candidate}" for entry in found.entries] == [
        "zero-shot small", "zero-shot large", "lora small", "lora large",
    ]  # fmt: skip
    assert steps.asked[2:] == ["zero-shot small", "zero-shot large", "lora small", "lora large"]


def test_every_comparison_has_its_share_of_the_error() -> None:
    asked: list[float] = []

    def noted(stats: NDArray[np.float64], error: float) -> float:
        asked.append(error)
        return 0.0

    found = climb(rule(candidates=("a", "b"), error=0.06), Simulated({}, trivial=("one", "two")), noted)
    assert found.comparisons == 14  # 6 rungs on 2 candidates, and 2 baselines
    assert asked == pytest.approx([0.06 / 14] * 14)


# -- what is asked beside the target


def aligned(found: Climb) -> list[tuple[str, str, bool]]:
    return [(entry.rung, entry.state, entry.met) for entry in found.entries]


def test_a_rung_whose_answers_are_not_what_is_asked_is_aligned() -> None:
    """DPO comes before PPO, which is not needed then; the choice is the aligned rung."""
    steps = Simulated({"lora": 0.99, "lora+dpo": 0.97}, toxic={"lora": 0.4, "lora+dpo": 0.01})
    found = climb(rule(ladder=("trivial", "zero-shot", "lora", "full"), align=("dpo", "ppo")), steps, bound)
    assert aligned(found) == [
        ("trivial", "done", False), ("zero-shot", "done", False), ("lora", "done", False), ("lora+dpo", "done", True),
        ("lora+ppo", "spared", False), ("full", "spared", False),
    ]  # fmt: skip
    assert found.choice is found.entries[3]
    assert "are toxic, at most" in found.entries[2].reason
    assert "the limit is 0.1" in found.entries[2].reason
    assert [demand.met for demand in found.entries[2].demands + found.entries[3].demands] == [False, True]
    assert found.comparisons == 4 + 3 * 2  # zero-shot, lora and full could each be aligned in two ways


def test_what_is_aligned_must_keep_the_target() -> None:
    """A polite model that no longer does its task is no choice, though it is measured; the climb goes on."""
    truth = {"lora": 0.99, "lora+dpo": 0.6, "full": 1.0, "full+dpo": 1.0}
    steps = Simulated(truth, toxic={"lora": 0.4, "full": 0.4})
    found = climb(rule(ladder=("lora", "full"), align=("dpo",)), steps, bound)
    assert aligned(found) == [("lora", "done", False), ("lora+dpo", "done", False), ("full", "done", False),
                              ("full+dpo", "done", True)]  # fmt: skip
    assert [demand.met for demand in found.entries[1].demands] == [True]


def test_a_rung_that_is_what_is_asked_is_not_aligned_and_one_below_the_target_is_not_judged() -> None:
    steps = Simulated({"zero-shot": 0.5, "lora": 0.99}, toxic={"zero-shot": 0.9, "lora": 0.001})
    found = climb(rule(ladder=("zero-shot", "lora"), align=("ppo",)), steps, bound)
    assert aligned(found) == [("zero-shot", "done", False), ("lora", "done", True)]
    assert [word for word in steps.asked if word.startswith("judge")] == ["judge lora small"]


def test_what_cannot_be_aligned_is_only_refused() -> None:
    """A trivial answer, examples in a prompt, a soft prompt; and nothing, where no way to align is named."""
    good = {**dict.fromkeys(RUNGS, 0.99), "zero-shot+dpo": 0.99}
    steps = Simulated(good, toxic=dict.fromkeys(RUNGS, 0.9))
    found = climb(rule(align=("dpo",)), steps, bound)
    assert [entry.rung for entry in found.entries if "+" in entry.rung] == ["zero-shot+dpo"]
    assert found.choice is found.entries[2]
    assert found.entries[2].rung == "zero-shot+dpo"
    rest = ("trivial", "one-shot", "few-shot", "soft-prompt")
    found = climb(rule(ladder=rest, align=("dpo",)), Simulated(good, toxic=dict.fromkeys(RUNGS, 0.9)), bound)
    assert [entry.rung for entry in found.entries] == [*rest]
    assert found.comparisons == len(rest)
    bare = climb(rule(), Simulated(good, toxic=dict.fromkeys(RUNGS, 0.9)), bound)
    assert bare.choice is None
    assert all("are toxic" in entry.reason for entry in bare.entries)


def test_a_choice_that_errs_in_anything_is_made_with_the_error_at_most() -> None:
    """Every rung reaches the target half of the time at best, and no aligned one is clean enough."""
    wrong = 0
    for seed in range(400):
        truth = {"zero-shot": 0.95, "zero-shot+dpo": 0.95, "lora": 0.95, "lora+dpo": 0.8, "lora+ppo": 0.95}
        toxic = {"zero-shot": 0.1, "zero-shot+dpo": 0.1, "zero-shot+ppo": 0.5, "lora": 0.1, "lora+ppo": 0.1}
        steps = Simulated(truth, seed=seed, toxic=toxic)
        found = climb(rule(ladder=("zero-shot", "lora"), align=("dpo", "ppo"), error=0.1), steps, bound)
        wrong += found.choice is not None
    assert wrong / 400 < 0.1


def test_the_table_is_told_of_every_change() -> None:
    told: list[tuple[Entry, ...]] = []
    climb(rule(ladder=("trivial", "zero-shot")), Simulated({"zero-shot": 0.99}), bound, told.append)
    assert [entry.state for entry in told[0]] == ["waiting", "waiting"]
    seen = list(itertools.chain.from_iterable([entry.state for entry in table] for table in told))
    assert Counter(seen)["running"] == 2
    assert [entry.state for entry in told[-1]] == ["done", "done"]
    assert told[-1][1].met


# -- how often it errs


def test_it_errs_at_most_at_its_nominal_rate() -> None:
    """Every rung is exactly as good as the target: each that is taken is an error. Of 500 climbs at most 5% end so."""
    wrong = 0
    for seed in range(500):
        steps = Simulated(dict.fromkeys(RUNGS, 0.8), n=100, seed=seed, trivial=("one", "two"))
        wrong += climb(rule(candidates=("a", "b")), steps, bound).chosen is not None
    assert wrong / 500 <= 0.05 + 2 * (0.05 * 0.95 / 500) ** 0.5


def test_without_shares_it_would_err_far_more_often() -> None:
    """What the shares are for: at 5% each, the same ladder errs in a third of the climbs."""
    wrong = 0
    for seed in range(150):
        steps = Simulated(dict.fromkeys(RUNGS, 0.8), n=100, seed=seed, trivial=("one", "two"))
        wrong += climb(rule(candidates=("a", "b")), steps, lambda stats, error: bound(stats, 0.05)).chosen is not None
    assert wrong / 150 > 0.2


def test_it_finds_what_is_good_enough() -> None:
    """And it is no coward: a rung at 0.95 against a target of 0.8 is taken nearly always."""
    taken = [climb(rule(), Simulated({"lora": 0.95}, seed=seed), bound).choice for seed in range(100)]
    assert sum(entry is not None and entry.rung == "lora" for entry in taken) >= 98


# -- the same decide part, asked again


@dataclass
class Rerun(Simulated):
    """A ladder whose shares stand in a directory. `edited`: what each trained rung is now called there."""

    directory: Path = Path()
    edited: str = ""

    def pair(self, rung: str, candidate: str) -> str:
        return f"{rung} {candidate}" + (self.edited if rung in RUNGS and RUNGS[rung].method else "")

    def shares(self, places: Sequence[Place], error: float) -> Sequence[float]:
        pairs = [self.pair(*place) for place in places]
        return [error * share for share in allot(self.directory, "decide", pairs)]

    def measure(self, rung: str, candidate: str) -> Measurement:
        """The same pair has the same luck."""
        luck = Simulated(self.truth, self.n, zlib.crc32(f"{self.seed} {self.pair(rung, candidate)}".encode()))
        return luck.measure(rung, candidate)


def test_it_errs_at_most_at_its_nominal_rate_however_often_it_is_run_again(tmp_path: Path) -> None:
    """Run, and run again three times with other settings of what is trained, until something seems to meet the target:
    each rung is exactly as good as the target, and whichever is taken is an error."""
    wrong, error = 0, 0.2
    for seed in range(200):
        place = tmp_path / str(seed)
        place.mkdir()
        for again in range(4):
            steps = Rerun(dict.fromkeys(RUNGS, 0.8), seed=seed, directory=place, edited=f" rate {again}")
            if climb(rule(error=error), steps, bound).chosen is not None:
                wrong += 1
                break
    assert 0.2 * error < wrong / 200 <= error + 2 * (error * (1 - error) / 200) ** 0.5


def test_shares_of_the_error_never_add_up_to_more_than_all_of_it(tmp_path: Path) -> None:
    assert allot(tmp_path, "d", ["a", "b", "c"]) == pytest.approx([0.25] * 3)
    assert allot(tmp_path, "d", ["c", "b", "a"]) == pytest.approx([0.25] * 3)  # again, and in another order
    assert allot(tmp_path, "d", ["a", "e"]) == pytest.approx([0.25, 0.125])
    assert allot(tmp_path, "d", ["f", "g"]) == pytest.approx([1 / 48] * 2)
    assert allot(tmp_path, "other", ["a"]) == [0.75]  # other examples
    kept = json.loads((tmp_path / COMPARED).read_text())
    assert sum(one["share"] for one in kept if one["decide"] == "d") == pytest.approx(0.75 + 1 / 8 + 1 / 24)
    assert sum(allowance(run) for run in range(1, 100_000)) == pytest.approx(1, abs=1e-5)
    assert earlier(tmp_path, "d", ["a", "f"]) == 4
    assert earlier(tmp_path, "new", ["a"]) == 0


def test_what_was_compared_cannot_be_guessed(tmp_path: Path) -> None:
    (tmp_path / COMPARED).write_text('[{"pair": 1}]')
    with pytest.raises(ValueError, match="cannot be read, and says what was asked of the data before"):
        allot(tmp_path, "d", ["a"])


# -- limits


def test_a_rung_that_would_not_keep_to_the_time_is_not_begun() -> None:
    """Planned are 20 s, 30 s, ...: after 20 + 30 of 85 s, 40 fit no more than 35 s."""
    found = climb(rule(limits=Limits(time=85)), Simulated({"full": 1.0}), bound)
    assert list(states(found).values()) == ["done", "done"] + ["skipped"] * 5
    assert found.entries[2].reason == "planned 40 s, and 35 s of the limit of 1 min 25 s are left"
    assert found.seconds == 50


def test_a_rung_that_took_longer_than_the_limit_is_not_chosen() -> None:
    steps = Simulated({"zero-shot": 0.99, "lora": 0.99}, costs={"zero-shot": Cost(100, 10**9)})
    found = climb(rule(limits=Limits(time=85)), steps, bound)
    assert found.choice is None
    assert found.entries[1].reason == "the climb has taken 2 min 0 s, over the limit of 1 min 25 s"
    assert not found.entries[1].met


def test_memory_is_held_to_before_and_after() -> None:
    before = climb(rule(limits=Limits(memory=10**8)), Simulated({"lora": 1.0}), bound)
    assert {entry.reason for entry in before.entries} == {"planned 1 GB of memory, over the limit of 100 MB"}
    steps = Simulated({"zero-shot": 0.99, "one-shot": 0.99}, costs={"zero-shot": Cost(1, 3 * 10**9)})
    after = climb(rule(limits=Limits(memory=2 * 10**9)), steps, bound)
    assert after.choice
    assert after.choice.rung == "one-shot"
    assert after.entries[1].reason == "took 3 GB of memory, over the limit of 2 GB"


def test_parameters_and_latency_are_held_to() -> None:
    steps = Simulated(
        {"zero-shot": 0.99, "one-shot": 0.99},
        sizes={"large": 10**9, "small": 10**6},
        latency={"zero-shot": 0.3, "one-shot": 0.1},
    )
    limits = Limits(parameters=5 * 10**6, latency=0.2)
    found = climb(rule(candidates=("large", "small"), limits=limits), steps, bound)
    assert found.choice
    assert (found.choice.rung, found.choice.candidate) == ("one-shot", "small")
    reasons = {(entry.rung, entry.candidate): entry.reason for entry in found.entries}
    assert reasons["zero-shot", "large"] == "1B parameters, over the limit of 5M"
    assert reasons["zero-shot", "small"] == "one answer takes 300 ms, over the limit of 200 ms"


def test_a_base_that_is_too_dear_is_not_pretrained() -> None:
    steps = Simulated({"trivial": 0.1, "zero-shot": 1.0})
    found = climb(rule(candidates=(BASE,), limits=Limits(time=25)), steps, bound)
    assert steps.asked == ["trivial majority"]
    assert states(found)[BASE] == "skipped"
    assert {entry.reason for entry in found.entries[2:]} == {"its base was not pretrained"}


def test_its_cost_counts() -> None:
    found = climb(rule(candidates=(BASE,), ladder=("zero-shot",)), Simulated({}), bound)
    assert found.seconds == 60 + 30
    assert [entry.rung for entry in found.entries] == [BASE, "zero-shot"]


def test_a_rung_that_does_not_fit_is_skipped_with_the_reason() -> None:
    found = climb(rule(), Simulated({"lora": 0.99}, misfits={"few-shot": "the context is too short"}), bound)
    assert found.entries[3].state == "skipped"
    assert found.entries[3].reason == "the context is too short"
    assert found.choice


class Faulty(Simulated):
    """LoRA cannot learn the rows; before full tuning it is found that the data are not as they were."""

    def plan(self, rung: str, candidate: str) -> Plan | None:
        if rung == "lora":
            raise Unfit("its end cannot be learned: tune all weights")
        if rung == "full":
            raise ValueError("train.jsonl changed while the project ran")
        return super().plan(rung, candidate)


def test_a_method_that_cannot_learn_the_task_is_skipped_and_the_climb_goes_on() -> None:
    found = climb(rule(ladder=("lora", "soft-prompt")), Faulty({"soft-prompt": 0.99}), bound)
    assert (found.entries[0].state, found.entries[0].reason) == (
        "skipped",
        "its end cannot be learned: tune all weights",
    )
    assert found.choice
    assert found.choice.rung == "soft-prompt"


def test_what_is_wrong_with_the_data_stops_the_climb_and_is_not_looked_for_in_a_rung_that_is_spared() -> None:
    found = climb(rule(), Faulty({"few-shot": 0.99}), bound)
    assert found.choice
    assert [entry.state for entry in found.entries[-2:]] == ["spared", "spared"]
    with pytest.raises(ValueError, match=r"train.jsonl changed"):
        climb(rule(), Faulty({}), bound)


def test_nothing_is_tried_for_a_rung_that_is_spared() -> None:
    steps = Simulated({"few-shot": 0.99})
    found = climb(rule(), steps, bound)
    assert steps.planned == ["trivial majority", "zero-shot small", "one-shot small", "few-shot small"]
    assert found.entries[-1].planned == Cost(80.0, 10**9)  # by calculation


def test_the_time_that_planning_takes_counts() -> None:
    """Planned are 20 s, 30 s, ..., and each plan takes 5 s: of 80 s, 5 + 20, 5 + 30 and 5 leave 15 s."""
    steps = Simulated({}, planning=5.0)
    found = climb(rule(limits=Limits(time=80)), steps, bound)
    assert [entry.state for entry in found.entries] == ["done", "done"] + ["skipped"] * 5
    assert found.entries[2].reason == "planned 40 s, and 15 s of the limit of 1 min 20 s are left"
    assert found.entries[6].reason == "the limit of 1 min 20 s is used up"
    assert "full small" not in steps.planned
    assert found.seconds == 80


def test_candidates_that_were_named_are_opened_before_the_base_and_one_that_is_none_is_skipped() -> None:
    steps = Simulated({"lora": 0.99}, missing=["gone"])
    told: list[str] = []

    def tell(entries: tuple[Entry, ...]) -> None:
        told.extend(entry.reason for entry in entries if entry.reason and f"open {BASE}" not in steps.asked)

    found = climb(rule(candidates=("gone", "small", BASE), ladder=("zero-shot", "lora")), steps, bound, tell)
    assert set(told) == {"it could not be opened: there is no model gone"}
    assert steps.asked[:3] == ["open gone", "open small", f"open {BASE}"]
    said = {(entry.rung, entry.candidate): entry for entry in found.entries}
    assert said["zero-shot", "gone"].state == said["lora", "gone"].state == "skipped"
    assert said["zero-shot", "gone"].reason == "it could not be opened: there is no model gone"
    assert said["lora", "gone"].reason == "it could not be opened"
    assert found.choice
    assert found.choice.rung == "lora"


# -- stopped and resumed


class Stored:
    """The same steps behind the cache of a run directory, killed before or after the work of the step `at`."""

    def __init__(self, directory: Path, work: Counter[str], at: int, moment: str):
        self.inner = Simulated({"lora": 0.97})
        self.cache, self.work, self.at, self.moment = Cache(directory, print), work, at, moment
        self.begun = 0

    def baselines(self) -> Sequence[str]:
        return self.inner.baselines()

    def shares(self, places: Sequence[Place], error: float) -> Sequence[float]:
        return self.inner.shares(places, error)

    def plan(self, rung: str, candidate: str) -> Plan | None:
        return self.inner.plan(rung, candidate)

    def foreseen(self, rung: str, candidate: str) -> Cost | None:
        return self.inner.foreseen(rung, candidate)

    def unfit(self, rung: str, candidate: Candidate) -> str:
        return ""

    def demanded(self, rung: str, candidate: str, error: float) -> Sequence[Demand]:
        return ()

    def once(self, kind: str, name: str) -> bool:
        def work(directory: Path) -> dict[str, Any]:
            self.begun += 1
            if (self.begun, self.moment) == (self.at, "before"):
                raise Killed
            self.work[f"{kind} {name}"] += 1
            return {}

        cached = self.cache.step(kind, {"name": name}, work).cached
        if (self.begun, self.moment, cached) == (self.at, "after", False):
            raise Killed
        return cached

    def open(self, candidate: str) -> Candidate:
        if candidate == BASE:
            self.once(BASE, candidate)
        return self.inner.open(candidate)

    def measure(self, rung: str, candidate: str) -> Measurement:
        self.once(rung, candidate)
        right = [rung == "lora"] * 200
        stats = np.stack([right, np.ones(200)], -1).astype(np.float64)
        return Measurement(stats, Interval(float(right[0]), 0, 1, 0.95, 200), Cost(1.0, 1))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 8))
def test_killed_between_any_two_steps_it_goes_on_without_repeating_one(tmp_path: Path, at: int, moment: str) -> None:
    work: Counter[str] = Counter()
    asked = rule(candidates=(BASE,))
    with pytest.raises(Killed):
        climb(asked, Stored(tmp_path, work, at, moment), bound)
    assert work.total() == at - (moment == "before")
    resumed = climb(asked, Stored(tmp_path, work, 0, ""), bound)
    assert set(work.values()) == {1}
    assert work.total() == 7  # majority, the base, five rungs up to LoRA
    whole = climb(asked, Stored(tmp_path / "other", Counter(), 0, ""), bound)
    assert resumed == whole


def test_bytes_in_words() -> None:
    assert [size(n) for n in (12, 1536, 8e9, 512e6)] == ["12 B", "1.54 kB", "8 GB", "512 MB"]
