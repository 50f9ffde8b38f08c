"""The ladder: what the rungs are, and how it is climbed.

    1. the trivial answers, which need no model
    2. the candidates: those that were named are opened, and a base is pretrained where one is asked for
    3. from the cheapest rung on, each candidate, the smallest first: plan, run, measure on `decide`
    4. stop at the first whose lower bound meets the target within the limits

Every comparison of a bound with the target may err. How many there can be is known before the first, and each has
its share of the whole error, so that a ladder ends on a rung that is not good enough with probability `error` at most.

`climb` decides, and does nothing else: what costs time it asks of `Steps`. So it is the same for models and for the
simulated scores that it is proved on.

Letters: n examples, k statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from modelwright.evaluate.statistics import Interval, error_shares
from modelwright.recipes.watch import duration, thousands

Method = Literal["prompt", "lora", "full"]
State = Literal["waiting", "running", "done", "skipped", "spared"]
BASE = "base"  # the candidate that the project pretrains itself, and the row that this has in the table


class Rung(NamedTuple):
    """One way to make a model do a task."""

    line: str  # what is done, for the person who reads the report
    shots: Literal["none", "one", "few"] = "none"  # worked examples in each prompt
    method: Method | None = None  # how the model is trained, if it is
    model: bool = True  # whether it needs one


RUNGS: Mapping[str, Rung] = {
    "trivial": Rung("an answer that needs no model", model=False),
    "zero-shot": Rung("the model as it is, asked"),
    "one-shot": Rung("asked, with one worked example", shots="one"),
    "few-shot": Rung("asked, with a few worked examples", shots="few"),
    "soft-prompt": Rung("a few trained tokens before each prompt; the model stays as it is", method="prompt"),
    "lora": Rung("small trained matrices beside the model's own", method="lora"),
    "full": Rung("all weights trained", method="full"),
}  # from the cheapest to the dearest


class Cost(NamedTuple):
    seconds: float
    memory: int  # bytes, at the worst moment


@dataclass(frozen=True)
class Candidate:
    """A model that the rungs are tried on."""

    name: str
    parameters: int
    shape: Literal["decoder", "encoder", "encoder-decoder"]
    digest: str  # of its weights and its tokenizer
    cost: Cost | None = None  # of pretraining it, where the project did
    cached: bool = False


@dataclass(frozen=True)
class Measurement:
    """What came of one rung on one candidate, training included."""

    stats: NDArray[np.float64]  # (n, k), of the examples of `decide`
    score: Interval
    cost: Cost
    latency: float | None = None  # seconds for one answer, asked alone; None for what no model answers
    cached: bool = False


class Steps(Protocol):
    """What costs time. Each step may be asked for again at once: what is done is not done again."""

    def baselines(self) -> Sequence[str]:
        """The trivial answers that suit the task."""
        ...

    def plan(self, rung: str, candidate: str) -> Cost | None:
        """What a step is going to take; None where nothing is known of it yet."""
        ...

    def open(self, candidate: str) -> Candidate:
        """A candidate that was named; or `BASE`, pretrained."""
        ...

    def unfit(self, rung: str, candidate: Candidate) -> str:
        """Why a rung cannot be tried on a candidate, or nothing."""
        ...

    def measure(self, rung: str, candidate: str) -> Measurement:
        """Train where the rung trains, and measure on `decide`."""
        ...


@dataclass(frozen=True)
class Limits:
    """What a solution may cost; None where nothing was said."""

    time: float | None = None  # seconds, of the whole climb
    memory: int | None = None  # bytes
    parameters: int | None = None
    latency: float | None = None  # seconds for one answer


@dataclass(frozen=True)
class Rule:
    """When to stop."""

    ladder: tuple[str, ...]  # names of RUNGS, in their order
    candidates: tuple[str, ...]
    target: float
    error: float = 0.05  # probability that a rung is taken which does not meet the target
    limits: Limits = Limits()
    everything: bool = False  # go on after the choice is made

    def comparisons(self, baselines: int) -> int:
        """How often a bound may be held against the target: fixed before the first is measured."""
        rungs = sum(RUNGS[name].model for name in self.ladder)
        return max(1, rungs * len(self.candidates) + (baselines if "trivial" in self.ladder else 0))


@dataclass(frozen=True)
class Entry:
    """A row of the table: a rung on a candidate, or the pretraining of the base."""

    rung: str
    candidate: str
    state: State = "waiting"
    cached: bool = False
    reason: str = ""  # why it was skipped, or why it does not count
    planned: Cost | None = None
    actual: Cost | None = None
    score: Interval | None = None
    lower: float | None = None  # what the true score is not below, but with this comparison's share of the error
    latency: float | None = None
    met: bool = False  # the target, within the limits


@dataclass(frozen=True)
class Climb:
    """What came of it."""

    entries: tuple[Entry, ...]
    chosen: int | None  # the place of the first entry that met the target
    target: float
    error: float
    comparisons: int
    candidates: Mapping[str, Candidate] = field(default_factory=dict)

    @property
    def choice(self) -> Entry | None:
        return None if self.chosen is None else self.entries[self.chosen]

    @property
    def closest(self) -> Entry | None:
        """The measured rung whose lower bound is the highest."""
        return max((e for e in self.entries if e.lower is not None), key=lambda e: e.lower or 0.0, default=None)

    @property
    def seconds(self) -> float:
        return sum(entry.actual.seconds for entry in self.entries if entry.actual)


Bound = Callable[[NDArray[np.float64], float], float]  # statistics (n, k), error -> lower bound
Tell = Callable[[tuple[Entry, ...]], None]


def climb(rule: Rule, steps: Steps, bound: Bound, tell: Tell = lambda entries: None) -> Climb:
    """Climb until the target is met (or to the top); `tell` hears of every change of the table."""
    return _Climber(rule, steps, bound, tell).climb()


class _Climber:
    """The table while it is filled."""

    def __init__(self, rule: Rule, steps: Steps, bound: Bound, tell: Tell):
        self.rule, self.steps, self.bound, self.tell = rule, steps, bound, tell
        self.baselines = tuple(steps.baselines()) if "trivial" in rule.ladder else ()
        self.share = error_shares(rule.comparisons(len(self.baselines)), rule.error)[0]  # all are equal
        self.candidates: dict[str, Candidate] = {}
        self.entries = [Entry(rung, name) for rung, name in self.order(rule.candidates)]
        self.chosen: int | None = None

    def order(self, candidates: Sequence[str]) -> Iterator[tuple[str, str]]:
        yield from (("trivial", name) for name in self.baselines)
        models = [name for name in self.rule.ladder if RUNGS[name].model]
        if BASE in candidates and models:
            yield BASE, BASE
        yield from ((rung, name) for rung in models for name in candidates)

    def climb(self) -> Climb:
        self.tell(tuple(self.entries))
        at = 0
        while at < len(self.entries):
            if self.chosen is not None and not self.rule.everything:
                self.put(at, state="spared", planned=self.foreseen(at))
            elif self.entries[at].rung == BASE:
                self.pretrain(at)
            elif RUNGS[self.entries[at].rung].model and not self.opened():
                self.open()
                continue  # the smallest candidate now comes first: look at this place again
            else:
                self.attempt(at)
            at += 1
        count = self.rule.comparisons(len(self.baselines))
        return Climb(tuple(self.entries), self.chosen, self.rule.target, self.rule.error, count, self.candidates)

    # -- candidates

    def opened(self) -> bool:
        return all(name in self.candidates for name in self.rule.candidates if not self.lost(name))

    def lost(self, name: str) -> bool:
        """Whether the base was not pretrained."""
        return name == BASE and any(entry.rung == BASE and entry.state == "skipped" for entry in self.entries)

    def open(self) -> None:
        for name in self.rule.candidates:
            if not self.lost(name) and name not in self.candidates:
                self.candidates[name] = self.steps.open(name)
        sizes = {
            name: self.candidates[name].parameters if name in self.candidates else 0 for name in self.rule.candidates
        }
        ordered = list(self.order(sorted(self.rule.candidates, key=lambda name: sizes[name])))
        done = {(entry.rung, entry.candidate): entry for entry in self.entries}
        self.entries = [done[place] for place in ordered]
        self.tell(tuple(self.entries))

    def pretrain(self, at: int) -> None:
        planned = self.plan(at)
        if why := self.too_dear(planned):
            self.put(at, state="skipped", reason=why, planned=planned)
            return
        self.put(at, state="running", planned=planned)
        found = self.candidates[BASE] = self.steps.open(BASE)
        self.put(at, state="done", cached=found.cached, actual=found.cost)

    # -- rungs

    def attempt(self, at: int) -> None:
        """Plan a rung; run it where it may be run; and see whether it meets the target."""
        entry = self.entries[at]
        planned = self.plan(at)
        if why := self.unfit(entry) or self.too_dear(planned):
            self.put(at, state="skipped", reason=why, planned=planned)
            return
        self.put(at, state="running", planned=planned)
        found = self.steps.measure(entry.rung, entry.candidate)
        lower = self.bound(found.stats, self.share)
        self.entries[at] = entry = replace(
            self.entries[at], state="done", cached=found.cached, actual=found.cost, score=found.score, lower=lower,
            latency=found.latency,
        )  # fmt: skip
        over = self.over(entry)
        met = lower >= self.rule.target and not over
        self.put(at, met=met, reason=over)
        if met and self.chosen is None:
            self.chosen = at

    def unfit(self, entry: Entry) -> str:
        if not RUNGS[entry.rung].model:
            return ""
        if entry.candidate not in self.candidates:
            return "its base was not pretrained"
        candidate, most = self.candidates[entry.candidate], self.rule.limits.parameters
        if most is not None and candidate.parameters > most:
            return f"{thousands(candidate.parameters)} parameters, over the limit of {thousands(most)}"
        return self.steps.unfit(entry.rung, candidate)

    def too_dear(self, planned: Cost | None) -> str:
        """Why a step is not begun: it would not keep to the limits."""
        limits = self.rule.limits
        if planned is None:
            return ""
        if limits.memory is not None and planned.memory > limits.memory:
            return f"planned {size(planned.memory)} of memory, over the limit of {size(limits.memory)}"
        if limits.time is not None and planned.seconds > limits.time - self.spent():
            left = max(0.0, limits.time - self.spent())
            of = f"{duration(left)} of the limit of {duration(limits.time)}"
            return f"planned {duration(planned.seconds)}, and {of} are left"
        return ""

    def over(self, entry: Entry) -> str:
        """Which limit a rung that was measured turned out not to keep."""
        limits = self.rule.limits
        if limits.memory is not None and entry.actual and entry.actual.memory > limits.memory:
            return f"took {size(entry.actual.memory)} of memory, over the limit of {size(limits.memory)}"
        if limits.latency is not None and entry.latency is not None and entry.latency > limits.latency:
            return f"one answer takes {entry.latency * 1000:.0f} ms, over the limit of {limits.latency * 1000:.0f} ms"
        if limits.time is not None and self.spent() > limits.time:
            return f"the climb has taken {duration(self.spent())}, over the limit of {duration(limits.time)}"
        return ""

    def spent(self) -> float:
        return sum(entry.actual.seconds for entry in self.entries if entry.actual)

    def plan(self, at: int) -> Cost | None:
        return self.steps.plan(self.entries[at].rung, self.entries[at].candidate)

    def foreseen(self, at: int) -> Cost | None:
        """The plan of what is not going to be run: what its preflight finds wrong stops nothing any more."""
        try:
            return self.plan(at)
        except ValueError:
            return None

    def put(self, at: int, **changes: Any) -> None:
        self.entries[at] = replace(self.entries[at], **changes)
        self.tell(tuple(self.entries))


def moment(seconds: float) -> str:
    """A time in words, short ones to two digits: 0.2449 -> '0.24 s', 75 -> '1 min 15 s'."""
    return f"{seconds:.2g} s" if seconds < 9.95 else duration(seconds)


def size(number: float) -> str:
    """Bytes in a word: 1536000000 -> '1.54 GB'."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"
