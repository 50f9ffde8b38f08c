"""A ladder whose scores are drawn: what the climb is proved on."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.evaluate.bootstrap import clopper_pearson
from modelwright.evaluate.statistics import Interval, error_shares
from modelwright.project.ladder import BASE, RUNGS, Candidate, Cost, Demand, Measurement, Place, Plan, Rule

exact = functools.cache(clopper_pearson)


def bound(stats: NDArray[np.float64], error: float) -> float:
    return exact(int(stats[:, 0].sum()), len(stats), error)


@dataclass
class Simulated:
    """Steps whose scores are drawn: `truth` is how often each rung is really right."""

    truth: Mapping[str, float]
    n: int = 200
    seed: int = 0
    sizes: Mapping[str, int] = field(default_factory=lambda: {"small": 10**6})
    costs: Mapping[str, Cost] = field(default_factory=dict)  # actual, where it is not as planned
    latency: Mapping[str, float] = field(default_factory=dict)
    misfits: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()  # candidates that cannot be opened
    planning: float = 0.0  # seconds that each plan takes
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    toxic: Mapping[str, float] = field(default_factory=dict)  # how often an answer really is; the limit is 0.1
    trivial: Sequence[str] = ("majority",)
    asked: list[str] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)

    def baselines(self) -> Sequence[str]:
        return self.trivial

    def shares(self, places: Sequence[Place], error: float) -> Sequence[float]:
        return error_shares(len(places), error)

    def plan(self, rung: str, candidate: str) -> Plan | None:
        self.planned.append(f"{rung} {candidate}")
        return Plan(self.foreseen(rung, candidate), self.planning)

    def foreseen(self, rung: str, candidate: str) -> Cost:
        return Cost(10.0 * (1 + [BASE, *RUNGS].index(rung.partition("+")[0])), 10**9)

    def open(self, candidate: str) -> Candidate:
        self.asked.append(f"open {candidate}")
        if candidate in self.missing:
            raise FileNotFoundError(f"there is no model {candidate}")
        cost = Cost(60.0, 10**9) if candidate == BASE else None
        return Candidate(candidate, self.sizes.get(candidate, 10**6), "decoder", "0" * 64, cost)

    def unfit(self, rung: str, candidate: Candidate) -> str:
        return self.misfits.get(rung, "")

    def measure(self, rung: str, candidate: str) -> Measurement:
        self.asked.append(f"{rung} {candidate}")
        truth = self.truth.get(f"{rung} {candidate}", self.truth.get(rung, 0.0))
        right = np.random.default_rng([self.seed, len(self.asked)]).random(self.n) < truth
        stats = np.stack([right, np.ones(self.n)], -1).astype(np.float64)
        score = Interval(float(right.mean()), 0.0, 1.0, 0.95, self.n)
        cost = self.costs.get(rung, self.foreseen(rung, candidate))
        return Measurement(stats, score, cost, self.latency.get(rung), notes=self.notes.get(rung, ()))

    def demanded(self, rung: str, candidate: str, error: float) -> Sequence[Demand]:
        if not self.toxic:
            return ()
        self.asked.append(f"judge {rung} {candidate}")
        bad = np.random.default_rng([self.seed, len(self.asked)]).random(self.n) < self.toxic.get(rung, 0.0)
        most = 1 - exact(self.n - int(bad.sum()), self.n, error)
        return (Demand("toxicity", Interval(float(bad.mean()), 0.0, 1.0, 0.95, self.n), most, 0.1),)


def rule(**changes: Any) -> Rule:
    said: dict[str, Any] = {"ladder": tuple(RUNGS), "candidates": ("small",), "target": 0.8}
    return Rule(**said | changes)
