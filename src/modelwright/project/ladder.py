"""The ladder: what the rungs are, and how it is climbed.

    1. the trivial answers, which need no model
    2. the candidates: those that were named are opened, and then a base is pretrained where one is asked for
    3. from the cheapest rung on, each candidate, the smallest first: plan, run, measure on `decide`
    4. stop at the first whose lower bound meets the target within the limits, and whose answers are what else is asked:
       few enough toxic, enough preferred; where they are not, the rung is aligned, and the aligned model is measured

Every comparison may err: of a bound with the target, and of what else is asked, all of which has to be met, so that it
errs together as seldom as one of them (an intersection-union test, Berger 1982). Which there can be is known before
the first, and each has its share of the whole error, so that a ladder ends on a rung that is not good enough with
probability `error` at most.

A rung that cannot be is skipped, with the reason, and the climb goes on. The time of a climb is what its steps took,
and what it took to plan them.

`climb` decides, and does nothing else: what costs time it asks of `Steps`. So it is the same for models and for the
simulated scores that it is proved on.

Letters: n examples, k statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from modelwright.evaluate.statistics import Interval
from modelwright.recipes.preflight import Unfit
from modelwright.recipes.watch import duration, size, thousands

Method = Literal["prompt", "lora", "full"]
Alignment = Literal["dpo", "grpo", "ppo"]
DemandName = Literal["toxicity", "preference"]
State = Literal["waiting", "running", "done", "skipped", "spared"]
BASE = "base"  # the candidate that the project pretrains itself, and the row that this has in the table
Place = tuple[str, str]  # rung, candidate


class Rung(NamedTuple):
    """One way to make a model do a task."""

    line: str  # what is done, for the person who reads the report
    shots: Literal["none", "one", "few"] = "none"  # worked examples in each prompt
    method: Method | None = None  # how the model is tuned, if it is
    model: bool = True  # whether it needs one
    below: str = ""  # the rung that it aligns
    by: Alignment | None = None  # how, if it does

    @property
    def trains(self) -> bool:
        return self.method is not None or self.by is not None

    @property
    def alignable(self) -> bool:
        """Examples in a prompt, and the vectors of a soft prompt, are no weights that a policy could begin from."""
        return self.model and self.shots == "none" and self.method != "prompt"


RUNGS: Mapping[str, Rung] = {
    "trivial": Rung("an answer that needs no model", model=False),
    "zero-shot": Rung("the model as it is, asked"),
    "one-shot": Rung("asked, with one worked example", shots="one"),
    "few-shot": Rung("asked, with a few worked examples", shots="few"),
    "soft-prompt": Rung("a few trained tokens before each prompt; the model stays as it is", method="prompt"),
    "lora": Rung("small trained matrices beside the model's own", method="lora"),
    "full": Rung("all weights trained", method="full"),
}  # from the cheapest to the dearest
ALIGNMENTS: Mapping[Alignment, str] = {
    "dpo": "aligned with preferences, by DPO",
    "grpo": "aligned with a reward, by GRPO",
    "ppo": "aligned with a reward, by PPO",
}  # likewise: pairs are there, and answers have to be written


def rung_of(name: str) -> Rung:
    """Of RUNGS; or one of them aligned afterwards, `lora+dpo`."""
    below, _, by = name.partition("+")
    found = RUNGS[below]
    for known, line in ALIGNMENTS.items():
        if known == by:
            return found._replace(line=f"{below}, {line}", below=below, by=known)
    return found


class Cost(NamedTuple):
    seconds: float
    memory: int  # bytes, at the worst moment


class Plan(NamedTuple):
    """What a step is going to take, and the seconds that it took to find that out."""

    cost: Cost
    seconds: float = 0.0


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
    notes: tuple[str, ...] = ()  # what a reader of the score should know: shots left out, inputs cut


class Demand(NamedTuple):
    """What is asked of the answers beside the metric, and what came of it."""

    name: DemandName
    score: Interval
    bound: float  # what the true share is not worse than, but with the comparison's share of the error
    wanted: float  # the limit, or the target

    @property
    def met(self) -> bool:
        return self.bound <= self.wanted if self.name == "toxicity" else self.bound >= self.wanted

    @property
    def said(self) -> str:
        if self.name == "toxicity":
            return f"{self.score.value:.3f} are toxic, at most {self.bound:.3f} of all; the limit is {self.wanted:g}"
        return (
            f"{self.score.value:.3f} are preferred to the reference, at least {self.bound:.3f} of all; the target is "
            f"{self.wanted:g}"
        )


class Steps(Protocol):
    """What costs time. Each step may be asked for again at once: what is done is not done again."""

    def baselines(self) -> Sequence[str]:
        """The trivial answers that suit the task."""
        ...

    def shares(self, places: Sequence[Place], error: float) -> Sequence[float]:
        """What each comparison with the target may err, so that all that were ever made err with `error` at most."""
        ...

    def plan(self, rung: str, candidate: str) -> Plan | None:
        """What a step is going to take; None where nothing is known of it yet. Raises Unfit for what cannot be."""
        ...

    def foreseen(self, rung: str, candidate: str) -> Cost | None:
        """The same of a step that is not going to be made: nothing is tried for it."""
        ...

    def open(self, candidate: str) -> Candidate:
        """A candidate that was named; or `BASE`, pretrained. Raises OSError or ValueError for one that is none."""
        ...

    def unfit(self, rung: str, candidate: Candidate) -> str:
        """Why a rung cannot be tried on a candidate, or nothing."""
        ...

    def measure(self, rung: str, candidate: str) -> Measurement:
        """Train where the rung trains, and measure on `decide`. Raises Unfit for what cannot be."""
        ...

    def demanded(self, rung: str, candidate: str, error: float) -> Sequence[Demand]:
        """What is asked of the answers beside the metric, of those that were measured."""
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
    align: tuple[Alignment, ...] = ()  # ways to align a rung whose answers are not what is asked, one after the other


@dataclass(frozen=True)
class Entry:
    """A row of the table: a rung on a candidate, or the pretraining of the base."""

    rung: str
    candidate: str
    state: State = "waiting"
    cached: bool = False
    reason: str = ""  # why it was skipped, or why it does not count
    notes: tuple[str, ...] = ()  # what a reader of the score should know
    planned: Cost | None = None
    planning: float = 0.0  # seconds that the plan took
    actual: Cost | None = None
    score: Interval | None = None
    lower: float | None = None  # what the true score is not below, but with this comparison's share of the error
    latency: float | None = None
    demands: tuple[Demand, ...] = ()
    met: bool = False  # the target, within the limits, and what else is asked


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
        return nearest(self.entries)

    @property
    def seconds(self) -> float:
        return spent(self.entries)


def spent(entries: Sequence[Entry]) -> float:
    """Seconds of all that was done, planning included."""
    return sum(entry.planning + (entry.actual.seconds if entry.actual else 0.0) for entry in entries)


def nearest(entries: Iterable[Entry]) -> Entry | None:
    """The measured one whose lower bound is the highest; of those whose bounds are the same, whose score is."""
    measured = [(entry.lower, entry.score.value, entry) for entry in entries if entry.score and entry.lower is not None]
    return max(measured, key=lambda found: found[:2], default=(0.0, 0.0, None))[2]


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
        self.wanting: set[Place] = set()  # what is aligned
        self.entries = [Entry(rung, name) for rung, name in self.order(rule.candidates)]
        compared = [place for place in self.order(rule.candidates, aligned=True) if place[0] != BASE]
        self.shares = dict(zip(compared, steps.shares(compared, rule.error), strict=True))
        self.candidates: dict[str, Candidate] = {}
        self.lost: dict[str, str] = {}  # candidates that there are not, and why
        self.chosen: int | None = None

    def order(self, candidates: Sequence[str], aligned: bool = False) -> Iterator[Place]:
        """The places of the table; with all that could be aligned, or those that are."""
        yield from (("trivial", name) for name in self.baselines)
        models = [name for name in self.rule.ladder if RUNGS[name].model]
        if BASE in candidates and models:
            yield BASE, BASE
        for place in ((rung, name) for rung in models for name in candidates):
            yield place
            if place in self.wanting or (aligned and RUNGS[place[0]].alignable):
                yield from ((f"{place[0]}+{by}", place[1]) for by in self.rule.align)

    def climb(self) -> Climb:
        self.tell(tuple(self.entries))
        for at in count():
            if at == len(self.entries):  # which grow, where a rung is aligned
                break
            if self.chosen is not None and not self.rule.everything and self.entries[at].state == "waiting":
                self.put(at, state="spared", planned=self.steps.foreseen(*self.place(at)))
                continue
            if self.place(at)[0] != "trivial":
                self.open()  # the smallest candidate now comes first at this place
            if self.entries[at].state == "skipped":
                continue  # told when its candidate was not opened
            if why := self.unfit(self.entries[at]):
                self.put(at, state="skipped", reason=why)
            else:
                self.attempt(at)
        error, target = self.rule.error, self.rule.target
        return Climb(tuple(self.entries), self.chosen, target, error, len(self.shares), self.candidates)

    def place(self, at: int) -> Place:
        return self.entries[at].rung, self.entries[at].candidate

    # -- candidates

    def open(self) -> None:
        """The candidates that were named, before any time goes into a base; each that is none is told at once."""
        gone = {}
        for name in self.rule.candidates:
            if name == BASE or name in self.candidates or name in self.lost:
                continue
            try:
                self.candidates[name] = self.steps.open(name)
            except (OSError, ValueError) as error:
                self.lost[name] = "it could not be opened"
                gone[name] = f"{self.lost[name]}: {error}"
        self.sort()
        for name, why in gone.items():
            first = next(at for at, row in enumerate(self.entries) if row.candidate == name and row.rung != "trivial")
            self.put(first, state="skipped", reason=why)

    def sort(self) -> None:
        """The smallest candidate first, on every rung. A base goes first until its size is known."""
        sizes = {name: found.parameters for name, found in self.candidates.items()}
        names = sorted(self.rule.candidates, key=lambda name: sizes.get(name, 0))
        known = {(entry.rung, entry.candidate): entry for entry in self.entries}
        if (sorted_ := [known.get(place, Entry(*place)) for place in self.order(names)]) != self.entries:
            self.entries = sorted_
            self.tell(tuple(self.entries))

    def pretrain(self, at: int) -> None:
        found = self.candidates[BASE] = self.steps.open(BASE)
        self.put(at, state="done", cached=found.cached, actual=found.cost)
        self.sort()

    # -- rungs

    def attempt(self, at: int) -> None:
        """Plan a step, and make it where it may be made."""
        if why := self.used_up():
            self.skip(at, why)
            return
        try:
            plan = self.steps.plan(*self.place(at))
            if plan is not None:
                self.put(at, planned=plan.cost, planning=plan.seconds)
            if why := self.too_dear(plan):
                self.skip(at, why)
                return
            self.put(at, state="running")
            self.pretrain(at) if self.place(at)[0] == BASE else self.measure(at)
        except Unfit as error:
            self.skip(at, str(error))

    def skip(self, at: int, why: str) -> None:
        self.put(at, state="skipped", reason=why)
        if self.place(at)[0] == BASE:
            self.lost[BASE] = "its base was not pretrained"

    def measure(self, at: int) -> None:
        """Run a rung, and see whether it meets the target."""
        found = self.steps.measure(*self.place(at))
        lower = self.bound(found.stats, self.shares[self.place(at)])
        self.entries[at] = entry = replace(
            self.entries[at], state="done", cached=found.cached, actual=found.cost, score=found.score, lower=lower,
            latency=found.latency, notes=found.notes,
        )  # fmt: skip
        over, place = self.over(entry), self.place(at)
        good = lower >= self.rule.target and not over
        asked = good or rung_of(place[0]).by is not None  # of what was aligned, whatever became of its score
        demands = tuple(self.steps.demanded(*place, self.shares[place])) if asked else ()
        unmet = "; ".join(f"of its answers {demand.said}" for demand in demands if not demand.met)
        self.put(at, met=good and not unmet, reason=over or unmet, demands=demands)
        if good and unmet:
            self.align(place)
        elif good and self.chosen is None:
            self.chosen = at

    def align(self, place: Place) -> None:
        """Rows below one whose answers are good but for what is asked beside; these are not aligned again."""
        if rung_of(place[0]).alignable and rung_of(place[0]).by is None and self.rule.align:
            self.wanting.add(place)
            self.sort()

    def unfit(self, entry: Entry) -> str:
        if entry.rung == BASE or not rung_of(entry.rung).model:
            return ""
        if why := self.lost.get(entry.candidate):
            return why
        candidate, most = self.candidates[entry.candidate], self.rule.limits.parameters
        if most is not None and candidate.parameters > most:
            return f"{thousands(candidate.parameters)} parameters, over the limit of {thousands(most)}"
        return self.steps.unfit(entry.rung, candidate)

    # -- limits

    def used_up(self) -> str:
        """Why nothing more is begun, not even a plan."""
        limit, now = self.rule.limits.time, spent(self.entries)
        return f"the limit of {duration(limit)} is used up" if limit is not None and now >= limit else ""

    def too_dear(self, plan: Plan | None) -> str:
        """Why a step is not begun: it would not keep to the limits."""
        limits = self.rule.limits
        if plan is None:
            return ""
        if limits.memory is not None and plan.cost.memory > limits.memory:
            return f"planned {size(plan.cost.memory)} of memory, over the limit of {size(limits.memory)}"
        if limits.time is not None and plan.cost.seconds > (left := limits.time - spent(self.entries)):
            of = f"{duration(max(0.0, left))} of the limit of {duration(limits.time)}"
            return f"planned {duration(plan.cost.seconds)}, and {of} are left"
        return ""

    def over(self, entry: Entry) -> str:
        """Which limit a rung that was measured turned out not to keep."""
        limits, now = self.rule.limits, spent(self.entries)
        if limits.memory is not None and entry.actual and entry.actual.memory > limits.memory:
            return f"took {size(entry.actual.memory)} of memory, over the limit of {size(limits.memory)}"
        if limits.latency is not None and entry.latency is not None and entry.latency > limits.latency:
            return f"one answer takes {entry.latency * 1000:.0f} ms, over the limit of {limits.latency * 1000:.0f} ms"
        if limits.time is not None and now > limits.time:
            return f"the climb has taken {duration(now)}, over the limit of {duration(limits.time)}"
        return ""

    def put(self, at: int, **changes: Any) -> None:
        self.entries[at] = replace(self.entries[at], **changes)
        self.tell(tuple(self.entries))
